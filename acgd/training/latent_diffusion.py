"""Train the embedded diffusion model: guided diffusion's UNet on the latents of emoji.

    python -m acgd.training.latent_diffusion --latents runs/latents --out runs/diffusion \\
        --steps 20000 --cooldown 8000

v-prediction of a cosine process (Salimans & Ho 2022; IDDPM eq. 17). Conditions: the encoder's
embedding of a text or of the picture, or a mixture of several labels' such as a sound brings to
mind, and the drawing style as the network's class. Some samples see no condition, some no style
(the last class), so that both may be left open.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from acgd.checkpoints.load import load_state
from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import Diffusion
from acgd.diffusion.samplers.ddim import DDIM
from acgd.models import low_rank
from acgd.models.autoencoder import Autoencoder
from acgd.models.unet import UNet
from acgd.training import loop
from acgd.training.autoencoder import ARCHITECTURES, FASTER
from acgd.training.data.pairs import NAMES
from acgd.training.data.pictures import code, read_concepts

STYLES = ("noto", "twemoji", "fluent3d", "fluentflat", "notov1", "emojione", "fxemoji")
ANY = len(STYLES)  # the class of pictures whose style is left open
ARCHITECTURE: dict[str, Any] = {
    "image_size": 16,
    "in_channels": 8,
    "num_channels": 96,
    "num_res_blocks": 1,
    "channel_mult": "1,2,2.6667",
    "attention_resolutions": "8,4",
    "num_head_channels": 32,
    "use_scale_shift_norm": True,
    "class_cond": True,
    "num_classes": len(STYLES) + 1,
    "cond_dim": 128,
}
FILL_IN = {  # how readily a group's pictures fill in beside those of the concepts
    "Animals & Nature": 1.0,
    "Objects": 1.0,
    "Travel & Places": 1.0,
    "Activities": 1.0,
    "Food & Drink": 1.0,
    "Smileys & Emotion": 0.3,
    "People & Body": 0.1,
}
NO_CONDITION, NO_STYLE = 0.15, 0.1  # shares of the samples
KINDS = {"text": 0.6, "mixed": 0.2, "image": 0.2}  # what conditions are made of
JITTER = 0.15  # length of the random step added to a unit-norm condition
STANDS_FOR = {"heartbeat": "❤️", "siren": "🚨"}  # where a concept's first emoji is not its clearest


class Latents:
    """Draws latents with their conditions; `share` of them the concepts' own pictures, `names` of
    them those of what else the model is to draw, as `listed` in a file."""

    def __init__(
        self, folder: Path, styles: list[str], share: float, names: float, listed: Path = NAMES
    ):
        data = np.load(folder / "latents.npz")
        self.z = torch.from_numpy(data["latents"])  # (N, 2, C, s, s)
        self.embed, self.text = torch.from_numpy(data["embed"]).float(), data["text"]
        self.labels = torch.from_numpy(data["labels"]).float()
        self.text = torch.from_numpy(self.text).long()
        self.texts = (self.text >= 0).sum(1)
        self.style = torch.tensor([STYLES.index(s) for s in data["style"].tolist()])
        concepts = [row["concept"] for row in read_concepts()]
        number = {concept: i for i, concept in enumerate(concepts)}
        self.concept = torch.tensor([number.get(c, -1) for c in data["concept"].tolist()])
        first = {r["concept"]: code(STANDS_FOR.get(r["concept"], r["emoji"].split()[0]))
                 for r in read_concepts()}  # fmt: skip
        rows = list(zip(data["concept"].tolist(), data["emoji"].tolist(), strict=True))
        clear = np.array([first.get(concept) == emoji for concept, emoji in rows])
        used = np.isin(data["style"], styles)
        known = [name for name in listed.read_text(encoding="utf-8").split("\n") if name]
        named = np.isin(data["name"], known) & used & ~clear
        fill = np.array([FILL_IN.get(group, 0.0) for group in data["group"].tolist()])
        fill = fill * used * ~clear * ~named
        parts = {"concepts": (clear & used, share), "names": (named, names),
                 "others": (fill, 1 - share - names)}  # fmt: skip
        self.weight = torch.from_numpy(sum(p * w / w.sum() for w, p in parts.values()))
        print(", ".join(f"{(w > 0).sum()} pictures of {name}" for name, (w, _) in parts.items()))

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (n, C, s, s), conditions (n, D) unit norm, styles (n,)."""
        index = torch.multinomial(self.weight, n, replacement=True, generator=rng)
        # as they are drawn: with mirror images there would be twice as much to learn by heart
        z = self.z[index, 0].float()
        return z, self.condition(index, rng), self.style[index]

    def condition(self, index: Tensor, rng: torch.Generator) -> Tensor:
        n = len(index)
        pick = (torch.rand(n, generator=rng) * self.texts[index]).long()
        text, image = self.embed[self.text[index, pick]], self.embed[index]
        other = self.labels[torch.randint(len(self.labels), (n, 2), generator=rng)]
        shares = 0.5 * torch.rand(n, 2, 1, generator=rng) ** 2
        mixed = text + (shares * other).sum(1)
        kind = torch.multinomial(torch.tensor(list(KINDS.values())), n, True, generator=rng)
        cond = torch.stack([text, mixed, image])[kind, torch.arange(n)]
        step = torch.randn(cond.shape, generator=rng) * (JITTER / cond.shape[1] ** 0.5)
        return F.normalize(cond + step, dim=-1)


class Training:
    def __init__(self, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        self.args, self.rng = args, torch.Generator().manual_seed(args.seed)
        self.process = Diffusion("cosine")
        self.unet = UNet(**ARCHITECTURE).to(**FASTER)
        if args.init:
            self.unet.load_state_dict({k: v.float() for k, v in load_state(args.init).items()})
        rank = args.rank
        self.trained = low_rank.adapt(self.unet, rank) if rank else list(self.unet.parameters())
        self.ema = copy.deepcopy(self.unet).requires_grad_(False)
        self.modules = {"unet": self.unet, "ema": self.ema}
        self.optimizer = torch.optim.AdamW(
            self.trained, args.lr, (0.9, 0.99), weight_decay=0.01, fused=True
        )
        shares = args.share, args.names
        self.latents = Latents(args.latents, args.styles.split(","), *shares, args.only)

    def advance(self) -> dict[str, float]:
        n, rng = self.args.batch, self.rng
        x0, cond, style = self.latents.draw(n, rng)
        u = (torch.arange(n) + torch.rand(n, generator=rng)) / n  # stratified
        t = (u**self.args.tilt * 1000).long().clamp(max=999)
        noise = torch.randn(x0.shape, generator=rng)
        a, s = (self.process.pick(f"sqrt_{name}alphas_cumprod", t) for name in ("", "one_minus_"))
        style = torch.where(torch.rand(n, generator=rng) < NO_STYLE, ANY, style)
        mask = torch.rand(n, generator=rng) >= NO_CONDITION
        x = (a * x0 + s * noise).contiguous(**FASTER)
        with loop.mixed_precision():
            v = self.unet(x, t.float(), y=style, cond=cond, cond_mask=mask).float()
        loss = (v - (a * noise - s * x0)).square().mean()
        norm = loop.descend(loss, self.optimizer, self.trained)
        loop.average(self.ema, self.unet, self.step, self.args.ema)
        return {"loss": loss.item(), "gradient": norm.item()}

    @torch.no_grad()
    def preview(self, folder: Path) -> None:
        """Twelve concepts in two styles."""
        autoencoder = read_autoencoder(self.args.latents / "autoencoder.pt")
        rows = []
        for style in (0, 2):
            cond = self.latents.labels[::7]
            x = draw(self.ema, autoencoder, F.normalize(cond, dim=-1), style)
            rows.append(torch.cat(list(x), 2))
        grid = ((torch.cat(rows, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(grid).save(folder / f"preview_{self.step:06d}.png")


def read_autoencoder(path: Path) -> Autoencoder:
    """The autoencoder that training.latents settled."""
    state = torch.load(path, weights_only=True)
    model = Autoencoder(**ARCHITECTURES[state["size"]]).eval().requires_grad_(False)
    model.load_state_dict(state["modules"]["model"])
    return model.to(**FASTER)


@torch.no_grad()
def draw(
    unet: UNet,
    autoencoder: Autoencoder,
    cond: Tensor,
    style: int,
    steps: int = 20,
    scale: float = 2.0,
) -> Tensor:
    """Pictures (n, 3, S, S) in [-1, 1] by DDIM, seeds 0 to n - 1."""
    n, process = len(cond), Diffusion("cosine", respacing=str(steps), learn_sigma=False)
    denoiser = Denoiser(unet, process, "v", cond, scale, y=torch.full((n,), style))
    noise = Noise(range(n))
    size, channels = ARCHITECTURE["image_size"], ARCHITECTURE["in_channels"]
    x = noise.like(torch.empty(n, channels, size, size))
    for step in DDIM(str(steps))(denoiser, x, noise=noise):
        x = step.x
    return autoencoder.decode(x).clamp(-1, 1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    loop.options(parser, lr=1.5e-3, batch=32)
    parser.add_argument("--latents", type=Path, required=True, help="folder of training.latents")
    parser.add_argument("--styles", default="noto,twemoji,fluent3d,fluentflat")
    parser.add_argument("--share", type=float, default=0.5, help="of the concepts' own pictures")
    parser.add_argument("--names", type=float, default=0.44, help="share of --only's")
    parser.add_argument("--only", type=Path, default=NAMES, help="names of what else is drawn")
    parser.add_argument("--tilt", type=float, default=0.75, help="below 1: more of the noisy end")
    parser.add_argument("--rank", type=int, default=0, help="train an adapter of this rank alone")
    parser.add_argument("--init", type=Path, help="weights to start from where no state is")
    parser.add_argument("--ema", type=float, default=0.998)
    args = parser.parse_args(argv)
    loop.run(Training(args), args)


if __name__ == "__main__":
    main()
