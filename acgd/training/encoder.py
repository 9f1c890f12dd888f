"""Train an embedded encoder's picture and text towers (CLIP's contrastive loss) on open emoji.

    python -m acgd.training.encoder encoder --data data --out runs/encoder --steps 20000
    python -m acgd.training.encoder encoder --init runs/encoder/state.pt --out runs/encoder_2 \\
        --diffusion runs/diffusion/state.pt --latents runs/latents --lock-text --adversarial
    python -m acgd.training.encoder judge --data data --out runs/judge --steps 20000

Batches hold pictures, a text for each, and a text for each concept; a picture's right answers are
all texts with its label. With --diffusion most pictures are what the encoder sees while it
guides: the diffusion model's x0-predictions at every noise level. With --adversarial half of them
are moved a little to where the loss grows (Goodfellow et al. 2015), which makes input gradients
mean something (Ganz & Elad 2022 on perceptually aligned gradients).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.checkpoints.load import load_state
from acgd.diffusion.process import Diffusion
from acgd.media.preprocess import normalise
from acgd.models.audioclip import AudioCLIP
from acgd.models.unet import UNet
from acgd.training import loop
from acgd.training.autoencoder import FASTER
from acgd.training.data.pairs import Pairs, views
from acgd.training.latent_diffusion import ANY, read_autoencoder
from acgd.training.latent_diffusion import ARCHITECTURE as UNET

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
SEEN = 0.75  # share of pictures that are predictions, with a diffusion model
RADIUS = 0.03  # of adversarial steps, at most, in [0, 1] units


class Denoised:
    """x0-predictions of training pictures at random noise levels, decoded to pixels: what the
    encoder meets in guidance. folder: of training.latents, whose rows are the pictures'."""

    def __init__(self, state: Path, folder: Path):
        self.unet = UNet(**UNET).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.unet.load_state_dict(torch.load(state, weights_only=True)["modules"]["ema"])
        self.autoencoder = read_autoencoder(folder / "autoencoder.pt")
        self.z = torch.from_numpy(np.load(folder / "latents.npz")["latents"][:, 0])  # (N, C, s, s)
        self.process = Diffusion("cosine", learn_sigma=False)

    @torch.no_grad()
    def __call__(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """(n, 3, S, S) in [0, 1]: the pictures at one noise level each, seen through the UNet."""
        z, n = self.z[index].float(), len(index)
        t = (torch.rand(n, generator=rng) * 950).long()
        a, s = (self.process.pick(f"sqrt_{name}alphas_cumprod", t) for name in ("", "one_minus_"))
        x = (a * z + s * torch.randn(z.shape, generator=rng)).contiguous(**FASTER)
        with loop.mixed_precision():
            v = self.unet(x, t.float(), y=torch.full((n,), ANY)).float()
            pixels = self.autoencoder.decode((a * x - s * v).contiguous(**FASTER)).float()
        return ((pixels + 1) / 2).clamp(0, 1)


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
    texts, out = concept_embeddings(model, pairs), {}
    views = {"clean": pairs.images(index)}
    if denoised:
        views["denoised"] = denoised(index, torch.Generator().manual_seed(0))
    for name, x in views.items():
        similarity = encode(model, x) @ texts.T
        rank = (similarity > similarity.gather(1, pairs.label[index][:, None])).sum(1)
        out[f"{name}@1"] = round((rank < 1).float().mean().item(), 3)
        out[f"{name}@5"] = round((rank < 5).float().mean().item(), 3)
    model.train()
    return out


def load_towers(model: AudioCLIP, path: Path) -> None:
    """The picture and text towers of a training's state.pt or of embedded weights; the audio head
    stays as it is."""
    if path.suffix == ".safetensors":
        found = {key: value.float() for key, value in load_state(path).items()}
    else:
        found = torch.load(path, weights_only=True)["modules"]["model"]
    towers = {k: v for k, v in found.items() if not k.startswith("audio.")}
    model.load_state_dict({**model.state_dict(), **towers})


class Training:
    """The picture tower and, unless locked, the text tower, step by step."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.strength = args, STRENGTH[args.role]
        seed = args.seed + SEED[args.role]
        torch.manual_seed(seed)
        self.rng = torch.Generator().manual_seed(seed)
        self.model = AudioCLIP(**ARCHITECTURES[args.role])
        self.model.visual.to(**FASTER)
        if args.init:
            load_towers(self.model, args.init)
        self.modules = {"model": self.model}
        self.trained = list(self.choose())
        self.optimizer = torch.optim.AdamW(
            self.trained, args.lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True
        )
        self.pairs = Pairs(args.data, self.model.context_length, args.share)
        self.denoised = Denoised(args.diffusion, args.latents) if args.diffusion else None
        self.progress = measure(self.model, self.pairs, self.denoised)

    def choose(self) -> Iterator[torch.nn.Parameter]:
        """What learns: never the audio head, and only the picture tower where text is locked."""
        for name, p in self.model.named_parameters():
            locked = self.args.lock_text and not name.startswith("visual")
            p.requires_grad_(not locked and not name.startswith("audio"))
            if p.requires_grad:
                yield p

    def pictures(self, index: Tensor) -> Tensor:
        """Views of pictures; with a diffusion model most of them as predicted at some noise."""
        part = int(len(index) * SEEN) if self.denoised else 0
        clean = views(self.pairs.images(index[part:]), self.rng, self.strength)
        if not part:
            return clean
        seen = F.adaptive_avg_pool2d(self.denoised(index[:part], self.rng), clean.shape[-1])
        return torch.cat([views(seen, self.rng, 0.5 * self.strength), clean])

    def advance(self) -> dict[str, float]:
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
        loop.descend(loss, self.optimizer, self.trained)
        return {"loss": loss.item()}

    def preview(self, folder: Path) -> None:
        """What share of held-out pictures is recognised, for the log."""
        self.progress |= measure(self.model, self.pairs, self.denoised)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    loop.options(parser, lr=1e-3, batch=96)
    parser.add_argument("role", choices=list(ARCHITECTURES))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--diffusion", type=Path, help="state.pt of training.latent_diffusion")
    parser.add_argument("--latents", type=Path, help="the folder that it learned from")
    parser.add_argument("--init", type=Path, help="weights to start from where no state is")
    parser.add_argument("--lock-text", action="store_true", help="keep the text tower as it is")
    parser.add_argument("--adversarial", action="store_true")
    parser.add_argument("--share", type=float, default=0.6, help="of pictures of the concepts")
    args = parser.parse_args(argv)
    if args.diffusion and not args.latents:
        parser.error("--diffusion needs --latents, the folder that it learned from")
    loop.run(Training(args), args)


if __name__ == "__main__":
    main()
