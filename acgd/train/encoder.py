"""Train an embedded encoder's picture and text towers (CLIP's contrastive loss) on open emoji.

    python -m acgd.train.encoder encoder --data data --out runs/encoder
    python -m acgd.train.encoder encoder --unet runs/diffusion/state.pt --lock-text --adversarial
    python -m acgd.train.encoder judge   --data data --out runs/judge

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
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.diffusion import Diffusion
from acgd.encoders.preprocess import normalise
from acgd.models.audioclip import AudioCLIP
from acgd.models.unet import UNet
from acgd.train.diffusion import ARCHITECTURE as UNET
from acgd.train.pairs import Pairs, views

SHARED = {
    "embed_dim": 128,
    "sample_rate": 22050,
    "n_fft": 512,
    "hop_length": 320,
    "win_length": 512,
    "audio_layers": [1, 1, 1, 1],
    "audio_groups": 4,
    "audio_width_per_group": 16,
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


def save(path: Path, state: dict) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("role", choices=list(ARCHITECTURES))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--unet", type=Path, help="the diffusion training's state.pt")
    parser.add_argument("--lock-text", action="store_true", help="keep the text tower as it is")
    parser.add_argument("--adversarial", action="store_true")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    seed, strength = SEED[args.role], STRENGTH[args.role]
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    model = AudioCLIP(**ARCHITECTURES[args.role])
    state_file = args.out / "state.pt"
    step = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        own = model.state_dict()  # the audio head is trained elsewhere
        towers = {k: v for k, v in state["model"].items() if not k.startswith("audio.")}
        model.load_state_dict({**own, **towers})
        rng.set_state(state["rng"])
        step = state["step"]
    text_tower = [p for n, p in model.named_parameters() if not n.startswith(("visual", "audio"))]
    if args.lock_text:
        for p in text_tower:
            p.requires_grad_(False)
    for p in model.audio.parameters():
        p.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(trained, args.lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    pairs = Pairs(args.data, model.context_length)
    denoised = Denoised(args.unet) if args.unet else None
    start, first, running = time.time(), step, None
    saved = start
    model.train()
    while True:
        if denoised and (step - first) % 50 == 0:
            denoised.refresh()
        index = pairs.draw(args.batch, rng)
        texts = [pairs.text_of(i, rng) for i in index.tolist()]
        texts += [pairs.concept_text(c, rng) for c in range(len(pairs.concepts))]
        text_label = torch.cat([pairs.label[index], torch.arange(len(pairs.concepts))])
        x = pairs.images(index)
        if denoised:  # three quarters as predicted at some noise level, the rest as they are
            part = len(x) * 3 // 4
            x = torch.cat(
                [
                    views(denoised(x[:part], rng), rng, 0.5 * strength),
                    views(x[part:], rng, strength),
                ]
            )
        else:
            x = views(x, rng, strength)
        with torch.set_grad_enabled(not args.lock_text):
            text = F.normalize(model.encode_text(pairs.tokenize(texts)), dim=-1)
        same = pairs.label[index][:, None] == text_label[None]
        if args.adversarial and step % 2:
            radius = torch.rand(len(x), generator=rng) * 0.03
            x = adversarial(model, x, text, same, radius)
        image = encode(model, x)
        scale = model.logit_scale.exp().clamp(max=50.0)
        loss = contrast(image, text, same, scale)
        if not args.lock_text:
            n = len(index)
            loss = (loss + contrast(text[:n], image, same[:, :n].T, scale)) / 2
        left = 1 - (time.time() - start) / (60 * args.minutes)
        for group in opt.param_groups:  # warm up, then down to nothing at the end
            group["lr"] = args.lr * min(1.0, (step - first + 1) / 100) * max(left, 0.0) ** 0.5
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        opt.step()
        step += 1
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        done = left <= 0
        if done or time.time() - saved > 90:
            saved = time.time()
            save(state_file, {"model": model.state_dict(), "rng": rng.get_state(), "step": step})
            line = {"step": step, "images": step * args.batch, "loss": round(running, 4),
                    "per_s": round((step - first) * args.batch / (saved - start), 1),
                    **measure(model, pairs, denoised)}  # fmt: skip
            print(json.dumps(line), flush=True)
        if done:
            return


if __name__ == "__main__":
    main()
