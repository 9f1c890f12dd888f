"""Train the embedded diffusion model: guided diffusion's UNet on pictures, with the encoder's
embedding as an optional condition.

    python -m acgd.training.diffusion --data data --out runs/diffusion [--cond runs/cond.npz]

The network predicts x0 of a cosine process (IDDPM eq. 17). The loss is the squared error of x0
weighted by min(SNR + 1, 5): v-prediction's weight (Salimans & Ho 2022), capped as by Hang et al.
(2023, "min-SNR"). A third of the samples sees no condition, so that the model also stands
unconditional. State is saved every few minutes and training goes on from it exactly, to the bit on
one machine. Killing the process loses what came after the last save, nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acgd.checkpoints.load import load_state
from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import Diffusion
from acgd.diffusion.samplers.ddim import DDIM
from acgd.models.unet import UNet
from acgd.training.state import save

ARCHITECTURE = {
    "image_size": 64,
    "patch_size": 4,  # the network works on 16 x 16 maps
    "num_channels": 64,
    "num_res_blocks": 1,
    "channel_mult": "1,1,2,4",
    "attention_resolutions": "8,4",
    "num_head_channels": 32,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "cond_dim": 128,
}
FILL_IN = {  # how readily a group's pictures fill in beside those of the concepts
    "Animals & Nature": 1.0,
    "Objects": 1.0,
    "Travel & Places": 1.0,
    "Activities": 1.0,
    "Food & Drink": 0.5,
    "Smileys & Emotion": 0.3,
    "People & Body": 0.1,
}
DROP = 1 / 3  # share of samples without a condition
JITTER = 0.15  # length of the random step added to a unit-norm condition


class Pictures:
    """Draws pictures: `share` of them of a concept, the rest from related groups."""

    def __init__(self, folder: Path, share: float):
        data = np.load(folder / "pictures.npz", allow_pickle=False)
        self.pixels = torch.from_numpy(data["pixels"])  # (N, 64, 64, 3) uint8
        concept, group = data["concept"], data["group"]
        named = concept != ""
        # concepts with many pictures weigh more, but not in proportion
        names, counts = np.unique(concept[named], return_counts=True)
        size = dict(zip(names.tolist(), counts.tolist(), strict=True))
        weight = np.array([size[c] ** -0.5 if c else 0.0 for c in concept.tolist()])
        fill = np.array([FILL_IN.get(g, 0.0) for g in group.tolist()]) * ~named
        self.weight = torch.from_numpy(
            share * weight / weight.sum() + (1 - share) * fill / fill.sum()
        )

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Indices (n,) and pixels (n, 3, 64, 64) in [-1, 1], half of them mirrored."""
        index = torch.multinomial(self.weight, n, replacement=True, generator=rng)
        x = self.pixels[index].permute(0, 3, 1, 2).float() / 127.5 - 1
        mirror = torch.rand(n, generator=rng) < 0.5
        x[mirror] = x[mirror].flip(-1)
        return index, x


class Conditions:
    """Draws a condition for a picture among its own embedding, its texts' and its sounds'.

    The file holds `embed` (M, D) unit norm and, for each kind, which rows fit a picture:
    `image`, `text`, `audio`, each (N, K) int with -1 where there is none.
    """

    KINDS = (("text", 0.45), ("audio", 0.3), ("image", 0.25))

    def __init__(self, path: Path):
        data = np.load(path, allow_pickle=False)
        self.embed = torch.from_numpy(data["embed"]).float()
        self.rows = {kind: torch.from_numpy(data[kind]).long() for kind, _ in self.KINDS}

    def draw(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """Conditions (n, D), unit norm, for pictures `index` (n,)."""
        kind = torch.multinomial(
            torch.tensor([p for _, p in self.KINDS]), len(index), True, generator=rng
        )
        pick = torch.rand(len(index), generator=rng)
        chosen = self._row(self.rows["image"][index], pick)  # every picture has this one
        for i, (name, _) in enumerate(self.KINDS):
            row = self._row(self.rows[name][index], pick)
            chosen = torch.where((kind == i) & (row >= 0), row, chosen)
        cond = self.embed[chosen]
        step = torch.randn(cond.shape, generator=rng) * (JITTER / cond.shape[1] ** 0.5)
        return torch.nn.functional.normalize(cond + step, dim=-1)

    @staticmethod
    def _row(table: Tensor, pick: Tensor) -> Tensor:
        """One of each line's entries that are not -1 (they come first); -1 where none is."""
        count = (table >= 0).sum(dim=1)
        return table.gather(1, (pick * count).long()[:, None])[:, 0]


def loss(unet: UNet, abar: Tensor, x0: Tensor, cond: Tensor | None, rng: torch.Generator) -> Tensor:
    """Weighted squared error of the x0-prediction, averaged; abar (T,) is the whole process."""
    n = len(x0)
    # stratified over the batch: the same expectation as independent draws, less variance
    u = (torch.arange(n) + torch.rand(n, generator=rng)) / n
    t = (u * len(abar)).long()
    a = abar[t][:, None, None, None]
    noise = torch.randn(x0.shape, generator=rng)
    x = a.sqrt() * x0 + (1 - a).sqrt() * noise
    x = x.to(memory_format=torch.channels_last)
    keep = torch.rand(n, generator=rng) >= DROP
    out = unet(x, t.float(), cond=cond, cond_mask=None if cond is None else keep)
    weight = (1 / (1 - a)).clamp(max=5.0)  # SNR + 1 = 1 / (1 - abar)
    return (weight * (out - x0).square()).mean()


@torch.no_grad()
def preview(unet: UNet, cond: Tensor | None, path: Path, n: int = 24) -> None:
    """A picture of n samples without condition and, if there is one, n with."""
    from PIL import Image

    unet.eval()
    rows = []
    for c, cfg in ((None, 0.0), (cond, 2.0)):
        if c is None and cfg:
            continue
        diffusion = Diffusion("cosine", 1000, "30", learn_sigma=False)
        noise = Noise(list(range(n)))
        denoiser = Denoiser(
            unet, diffusion, predicts="x0", cond=None if c is None else c[:n], cfg_scale=cfg
        )
        x = noise.like(torch.empty(n, 3, unet.image_size, unet.image_size))
        for step in DDIM("30")(denoiser, x, noise=noise, guide=None):
            x = step.x
        rows.append(x)
    x = ((torch.cat(rows).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    x = x.reshape(-1, n // 2, *x.shape[1:]).transpose(0, 2, 1, 3, 4)
    Image.fromarray(x.reshape(x.shape[0] * x.shape[1], -1, 3)).save(path)
    unet.train()


class Training:
    """The network, its average and its optimiser, step by step; exact when taken up again."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.step, self.running = args, 0, None
        args.out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(args.seed)
        self.rng = torch.Generator().manual_seed(args.seed)
        self.unet = UNet(**ARCHITECTURE).to(memory_format=torch.channels_last)
        torch.nn.init.zeros_(self.unet.cond_emb.weight)
        self.ema = UNet(**ARCHITECTURE).to(memory_format=torch.channels_last)
        self.ema.requires_grad_(False).load_state_dict(self.unet.state_dict())
        self.opt = torch.optim.AdamW(
            self.unet.parameters(), args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.abar = torch.from_numpy(Diffusion("cosine", learn_sigma=False).alphas_cumprod).float()
        self.pictures, self.conditions = Pictures(args.data, args.share), None
        if (args.out / "state.pt").exists():
            self.load()
        elif args.init:
            tensors = {k: v.float() for k, v in load_state(args.init).items()}
            self.unet.load_state_dict(tensors)
            self.ema.load_state_dict(tensors)
        self.first, self.start = self.step, time.time()

    def parts(self) -> dict[str, torch.nn.Module | torch.optim.Optimizer]:
        return {"unet": self.unet, "ema": self.ema, "opt": self.opt}

    def load(self) -> None:
        state = torch.load(self.args.out / "state.pt", weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.rng.set_state(state["rng"])
        self.step, self.running = state["step"], state["loss"]

    def save(self) -> None:
        """State, a line of the log and a preview."""
        state = {name: part.state_dict() for name, part in self.parts().items()}
        state |= {"step": self.step, "rng": self.rng.get_state(), "loss": self.running}
        save(self.args.out / "state.pt", state)
        images = self.step * self.args.batch
        pace = (self.step - self.first) * self.args.batch / (time.time() - self.start)
        line = {"step": self.step, "images": images, "loss": round(self.running, 5)}
        with open(self.args.out / "log.jsonl", "a") as f:
            f.write(json.dumps({**line, "per_s": round(pace, 1)}) + "\n")

    def lr(self) -> float:
        """Warm-up over 300 steps; to nothing over the last `cooldown` of `steps`."""
        left = (self.args.steps - self.step) / max(1, self.args.cooldown)
        return self.args.lr * min(1.0, (self.step + 1) / 300, left)

    def advance(self) -> None:
        if self.conditions is None and self.args.cond and self.args.cond.exists():
            self.conditions = Conditions(self.args.cond)
            print(f"step {self.step}: conditions from {self.args.cond}", flush=True)
        index, x0 = self.pictures.draw(self.args.batch, self.rng)
        cond = self.conditions.draw(index, self.rng) if self.conditions else None
        for group in self.opt.param_groups:
            group["lr"] = self.lr()
        value = loss(self.unet, self.abar, x0, cond, self.rng)
        self.opt.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.opt.step()
        self.step += 1
        if self.step % 4 == 0:  # every fourth step at the fourth power: the same, for less
            decay = min(0.999, self.step / (self.step + 100)) ** 4
            torch._foreach_lerp_(
                list(self.ema.parameters()), list(self.unet.parameters()), 1 - decay
            )
        last = self.running if self.running is not None else value.item()
        self.running = 0.99 * last + 0.01 * value.item()

    def preview(self) -> None:
        cond = None
        if self.conditions:
            rng = torch.Generator().manual_seed(0)
            index, _ = self.pictures.draw(24, rng)
            cond = self.conditions.draw(index, rng)
        preview(self.ema, cond, self.args.out / "preview.png")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("runs/diffusion"))
    parser.add_argument("--cond", type=Path, help="conditions, taken up once the file is there")
    parser.add_argument("--init", type=Path, help="weights to start from where no state is")
    parser.add_argument("--steps", type=int, default=10**6, help="in all, those before included")
    parser.add_argument("--cooldown", type=int, default=0, help="last steps, of falling rate")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--share", type=float, default=0.7, help="of pictures of the concepts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=4, help="minutes between saves")
    training = Training(parser.parse_args(argv))
    saved = time.time()
    while training.step < training.args.steps:
        training.advance()
        if time.time() - saved > 60 * training.args.every:
            saved = time.time()
            training.save()
            training.preview()
    training.save()
    training.preview()


if __name__ == "__main__":
    main()
