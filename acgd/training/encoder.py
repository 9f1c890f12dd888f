"""Train an embedded encoder's picture and text towers (CLIP's contrastive loss) on open emoji.

    python -m acgd.training.encoder encoder --data data --out runs/encoder
    python -m acgd.training.encoder encoder --unet runs/diffusion/state.pt --lock-text --adversarial
    python -m acgd.training.encoder judge   --data data --out runs/judge

Batches hold pictures, a text for each, and a text for each concept; a picture's right answers are
all texts with its label. With --unet the pictures are what the encoder sees while it guides: the
diffusion model's x0-predictions at every noise level. With --adversarial half of them are moved a
little to where the loss grows (Goodfellow et al. 2015), which makes input gradients mean something
(Ganz & Elad 2022 on perceptually aligned gradients). State is saved every few minutes and training
goes on from it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.checkpoints.load import load_state
from acgd.diffusion.process import Diffusion
from acgd.media.preprocess import normalise
from acgd.models.audioclip import AudioCLIP
from acgd.models.unet import UNet
from acgd.training.data.pairs import Pairs, views
from acgd.training.diffusion import ARCHITECTURE as UNET
from acgd.training.state import save

SHARED = {
    "embed_dim": 128,
    "sample_rate": 22050,
    "n_fft": 512,
    "hop_length": 320,
    "win_length": 512,
    "audio_layers": [1, 1, 1, 1],
    "audio_groups": 4,
    "audio_width_per_group": 16,
    "audio_floor_db": -80.0,
    "transformer_heads": 2,
    "transformer_layers": 2,
}
RESNET = {"image_resolution": 32, "vision_layers": [1, 1, 1, 1], "vision_width": 32}
VIT = {
    "image_resolution": 48,
    "vision_layers": 3,
    "vision_width": 128,
    "vision_patch_size": 8,
    "vision_heads": 4,
}
ARCHITECTURES = {
    "encoder": {**SHARED, **RESNET, "transformer_width": 64, "audio_width": 24},
    "judge": {**SHARED, **VIT, "transformer_width": 48, "audio_width": 16},
}
STRENGTH = {"encoder": 1.0, "judge": 1.2}  # of the augmentation
SEED = {"encoder": 0, "judge": 1}
RADIUS = 0.03  # of adversarial steps, at most, in [0, 1] units


class Denoised:
    """x0-predictions of pictures at random noise levels, as the encoder meets them in guidance."""

    def __init__(self, state: Path):
        self.unet = UNet(**UNET).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.path, self.stamp = state, 0.0
        self.abar = torch.from_numpy(Diffusion("cosine", learn_sigma=False).alphas_cumprod).float()

    def refresh(self) -> None:
        """Take the newest weights, since the diffusion model may still be in training."""
        if self.path.stat().st_mtime > self.stamp:
            self.stamp = self.path.stat().st_mtime
            self.unet.load_state_dict(torch.load(self.path, weights_only=True)["ema"])

    @torch.no_grad()
    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """(n, 3, S, S) in [0, 1] -> the same at one noise level each, seen through the UNet."""
        u = torch.rand(len(x), generator=rng)
        t = (u * 950).long()
        a = self.abar[t][:, None, None, None]
        x_t = a.sqrt() * (2 * x - 1) + (1 - a).sqrt() * torch.randn(x.shape, generator=rng)
        return ((self.unet(x_t, t.float()) + 1) / 2).clamp(0, 1)


def encode(model: AudioCLIP, x: Tensor) -> Tensor:
    """(n, 3, S, S) in [0, 1], at any size above the model's -> (n, D), unit norm."""
    x = F.adaptive_avg_pool2d(x, model.image_resolution)
    return F.normalize(model.encode_image(normalise(x)), dim=-1)


def contrast(a: Tensor, b: Tensor, same: Tensor, scale: Tensor) -> Tensor:
    """Cross entropy of a's rows against b's, each row's right answers sharing its mass.

    a (n, D), b (m, D) unit norm; same (n, m) bool, at least one True in each row.
    """
    target = same.float() / same.sum(1, keepdim=True)
    return -(target * F.log_softmax(scale * a @ b.T, dim=1)).sum(1).mean()


def adversarial(model: AudioCLIP, x: Tensor, text: Tensor, same: Tensor, radius: Tensor) -> Tensor:
    """x moved by one signed gradient step of `radius` (n,), in [0, 1] units, up the loss."""
    x = x.detach().requires_grad_()
    image = encode(model, x)
    loss = contrast(image, text.detach(), same, model.logit_scale.detach().exp())
    (grad,) = torch.autograd.grad(loss, x)
    return (x + radius[:, None, None, None] * grad.sign()).detach().clamp(0, 1)


@torch.no_grad()
def concept_embeddings(model: AudioCLIP, pairs: Pairs) -> Tensor:
    """The text embedding of each concept's name, (C, D)."""
    return F.normalize(model.encode_text(pairs.tokenize(pairs.concepts)), dim=-1)


@torch.no_grad()
def measure(model: AudioCLIP, pairs: Pairs, denoised: Denoised | None) -> dict[str, float]:
    """Share of held-out pictures of concepts whose name ranks first (and among five)."""
    model.eval()
    index = (pairs.holdout & pairs.named).nonzero()[:, 0]
    texts = concept_embeddings(model, pairs)
    out = {}
    for name, transform in (("clean", None), ("denoised", denoised)):
        if name == "denoised" and transform is None:
            continue
        x = pairs.images(index)
        x = transform(x, torch.Generator().manual_seed(0)) if transform else x
        similarity = encode(model, x) @ texts.T
        rank = (similarity > similarity.gather(1, pairs.label[index][:, None])).sum(1)
        out[f"{name}@1"] = round((rank < 1).float().mean().item(), 3)
        out[f"{name}@5"] = round((rank < 5).float().mean().item(), 3)
    model.train()
    return out


def load_model(path: Path) -> dict[str, Tensor]:
    """A whole model's tensors from a training's state.pt or from embedded weights."""
    if path.suffix == ".safetensors":
        return {key: value.float() for key, value in load_state(path).items()}
    return torch.load(path, weights_only=True)["model"]


def load_towers(model: AudioCLIP, path: Path) -> None:
    """The picture and text towers of another training; the audio head stays as it is."""
    towers = {k: v for k, v in load_model(path).items() if not k.startswith("audio.")}
    model.load_state_dict({**model.state_dict(), **towers})


class Training:
    """The picture tower and, unless locked, the text tower, step by step."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.step, self.running = args, 0, None
        args.out.mkdir(parents=True, exist_ok=True)
        self.strength = STRENGTH[args.role]
        torch.manual_seed(SEED[args.role])
        self.rng = torch.Generator().manual_seed(SEED[args.role])
        self.model = AudioCLIP(**ARCHITECTURES[args.role])
        self.model.visual.to(memory_format=torch.channels_last)
        self.state_file = args.out / "state.pt"
        if self.state_file.exists():
            load_towers(self.model, self.state_file)
            state = torch.load(self.state_file, weights_only=True)
            self.rng.set_state(state["rng"])
            self.step = state["step"]
        elif args.init:
            load_towers(self.model, args.init)
        self.trained = list(self.choose())
        self.opt = torch.optim.AdamW(
            self.trained, args.lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True
        )
        self.pairs = Pairs(args.data, self.model.context_length, args.share)
        self.denoised = Denoised(args.unet) if args.unet else None
        self.first, self.start = self.step, time.time()

    def choose(self) -> Iterator[torch.nn.Parameter]:
        """What learns: never the audio head, and only the picture tower where text is locked."""
        for name, p in self.model.named_parameters():
            locked = self.args.lock_text and not name.startswith("visual")
            p.requires_grad_(not locked and not name.startswith("audio"))
            if p.requires_grad:
                yield p

    def pictures(self, index: Tensor) -> Tensor:
        """Views of pictures; with a UNet three quarters of them as predicted at some noise."""
        x = self.pairs.images(index)
        if not self.denoised:
            return views(x, self.rng, self.strength)
        part = len(x) * 3 // 4
        seen = views(self.denoised(x[:part], self.rng), self.rng, 0.5 * self.strength)
        return torch.cat([seen, views(x[part:], self.rng, self.strength)])

    def advance(self, left: float) -> None:
        """One step; `left` is the share of the time that is left, from 1 to 0."""
        if self.denoised and (self.step - self.first) % 50 == 0:
            self.denoised.refresh()
        pairs, index = self.pairs, self.pairs.draw(self.args.batch, self.rng)
        concepts = range(len(pairs.concepts))
        texts = [pairs.text_of(i, self.rng) for i in index.tolist()]
        texts += [pairs.concept_text(c, self.rng) for c in concepts]
        label = pairs.label[index]
        same = label[:, None] == torch.cat([label, torch.tensor(concepts)])[None]
        x = self.pictures(index)
        with torch.set_grad_enabled(not self.args.lock_text):
            text = F.normalize(self.model.encode_text(pairs.tokenize(texts)), dim=-1)
        if self.args.adversarial and self.step % 2:
            radius = torch.rand(len(x), generator=self.rng) * RADIUS
            x = adversarial(self.model, x, text, same, radius)
        image, scale = encode(self.model, x), self.model.logit_scale.exp().clamp(max=50.0)
        loss = contrast(image, text, same, scale)
        if not self.args.lock_text:
            n = len(index)
            loss = (loss + contrast(text[:n], image, same[:, :n].T, scale)) / 2
        self.update(loss, left)

    def update(self, loss: Tensor, left: float) -> None:
        for group in self.opt.param_groups:  # warm up, then down to nothing at the end
            group["lr"] = self.args.lr * min(1.0, (self.step - self.first + 1) / 100) * left**0.5
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.opt.step()
        self.step += 1
        last = self.running if self.running is not None else loss.item()
        self.running = 0.98 * last + 0.02 * loss.item()

    def save(self) -> None:
        """State, and a line on how far it is."""
        tensors = {"model": self.model.state_dict(), "rng": self.rng.get_state()}
        save(self.state_file, {**tensors, "step": self.step})
        pace = (self.step - self.first) * self.args.batch / (time.time() - self.start)
        line = {"step": self.step, "loss": round(self.running, 4), "per_s": round(pace, 1)}
        print(json.dumps({**line, **measure(self.model, self.pairs, self.denoised)}), flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("role", choices=list(ARCHITECTURES))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--unet", type=Path, help="the diffusion training's state.pt")
    parser.add_argument("--init", type=Path, help="weights to start from where no state is")
    parser.add_argument("--lock-text", action="store_true", help="keep the text tower as it is")
    parser.add_argument("--adversarial", action="store_true")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--share", type=float, default=0.6, help="of pictures of the concepts")
    args = parser.parse_args(argv)
    training = Training(args)
    saved, end = time.time(), time.time() + 60 * args.minutes
    while time.time() < end:
        training.advance(left=max(0.0, (end - time.time()) / (60 * args.minutes)))
        if time.time() - saved > 120:
            training.save()
            saved = time.time()
    training.save()


if __name__ == "__main__":
    main()
