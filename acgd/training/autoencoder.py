"""Train the embedded autoencoder on the emoji.

    python -m acgd.training.autoencoder --data data --out runs/ae128 --size 128 --steps 20000
    python -m acgd.training.autoencoder --data data --out runs/ae256 --size 256 \\
        --from runs/ae128/state.pt

The loss is L1 + L2 + a perceptual distance, of pictures decoded from latents with noise on half of
them, so that the decoder forgives what a diffusion model leaves. Training sees crops; latents are
local, so a crop's are those of the whole but for its rim. With --from, the encoder is kept as it
is: latents that a diffusion model has learned stay what they are, and only the decoder learns to
draw larger.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from acgd.models.autoencoder import Autoencoder
from acgd.training import loop
from acgd.training.perceptual import PerceptualDistance

ARCHITECTURES = {
    128: {"image_size": 128},
    256: {
        "image_size": 256,
        "decoder_widths": (160, 96, 40, 32),
        "decoder_depths": (2, 2, 1, 1),
    },
}
FASTER = {"memory_format": torch.channels_last}


class Crops:
    """Crops (n, 3, c, c) in [-1, 1] of training pictures at `size`, mirrored half of the time."""

    def __init__(self, data: Path, size: int):
        found = np.load(data / "pictures_256.npz")
        self.pixels, self.size = torch.from_numpy(found["pixels"]), size
        shown = found["concept"] != ""
        weight = np.where(shown, 5.0, 1.0)
        weight[(found["group"] == "People & Body") & ~shown] = 0.2  # the same hands in six colours
        weight[found["holdout"]] = 0.0
        self.weight, self.holdout = torch.from_numpy(weight), found["holdout"]

    def whole(self, index: Tensor) -> Tensor:
        x = self.pixels[index].permute(0, 3, 1, 2).float() / 127.5 - 1
        return F.avg_pool2d(x, 256 // self.size) if self.size < 256 else x

    def draw(self, n: int, side: int, rng: torch.Generator) -> Tensor:
        index = torch.multinomial(self.weight, n, replacement=True, generator=rng)
        step = 256 // self.size
        places = torch.randint(0, (self.size - side) // 8 + 1, (n, 2), generator=rng) * 8 * step
        side *= step
        rows = zip(index.tolist(), places.tolist(), strict=True)
        x = torch.stack([self.pixels[i, y : y + side, x : x + side] for i, (y, x) in rows])
        x = x.permute(0, 3, 1, 2).float() / 127.5 - 1
        x = F.avg_pool2d(x, step) if step > 1 else x
        mirrored = torch.rand(n, 1, 1, 1, generator=rng) < 0.5
        return torch.where(mirrored, x.flip(-1), x).contiguous(**FASTER)


class Training:
    def __init__(self, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        self.args, self.rng = args, torch.Generator().manual_seed(args.seed)
        self.model = Autoencoder(**ARCHITECTURES[args.size]).to(**FASTER)
        self.trained = list(self.model.parameters())
        if args.start:
            grown_from(self.model, args.start)
            self.trained = list(self.model.decoder.parameters())
        self.modules = {"model": self.model}
        self.distance = PerceptualDistance().to(**FASTER)
        self.optimizer = torch.optim.AdamW(
            self.trained, args.lr, (0.9, 0.99), weight_decay=1e-4, fused=True
        )
        self.pictures = Crops(args.data, args.size)

    def advance(self) -> dict[str, float]:
        x = self.pictures.draw(self.args.batch, self.args.crop, self.rng)
        self.model.encoder.train(not self.args.start)
        with torch.set_grad_enabled(not self.args.start), loop.mixed_precision():
            z = self.model.encode(x).float()
        n = len(z)
        amount = 0.6 * torch.rand(n, 1, 1, 1, generator=self.rng)
        amount = amount * (torch.rand(n, 1, 1, 1, generator=self.rng) < 0.5)
        z = z + amount * torch.randn(z.shape, generator=self.rng)
        with loop.mixed_precision():
            y = self.model.decode(z.contiguous(**FASTER)).float()
        l1, l2, apart = (y - x).abs().mean(), (y - x).square().mean(), self.distance(y, x)
        loss = l1 + l2 + self.args.perceptual * apart
        loop.descend(loss, self.optimizer, self.trained)
        return {"l1": l1.item(), "l2": l2.item(), "perceptual": apart.item()}

    @torch.no_grad()
    def preview(self, folder: Path) -> None:
        """Held-out pictures, their reconstructions, and those from noisy latents at the bottom."""
        self.model.eval()
        index = torch.from_numpy(np.flatnonzero(self.pictures.holdout))
        x = self.pictures.whole(index[:: max(1, len(index) // 48)])
        z = self.model.encode(x)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
        y, noisy = (
            self.model.decode(z).clamp(-1, 1),
            self.model.decode(z + 0.3 * noise).clamp(-1, 1),
        )
        ratio = [10 * torch.log10(4 / (r - x).square().mean((1, 2, 3))) for r in (y, noisy)]
        print(
            "held out: PSNR", *(f"{r.mean():.2f}" for r in ratio), "dB (plain, noisy)", flush=True
        )
        rows = torch.cat([torch.cat(list(r[:12]), 2) for r in (x, y, noisy)], 1)
        rows = ((rows + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(rows).save(folder / "preview.png")
        self.model.train()


def grown_from(model: Autoencoder, path: Path) -> None:
    """Take over all that a smaller autoencoder's state has in the same shape."""
    state = torch.load(path, weights_only=True)["modules"]["model"]
    own = model.state_dict()
    own |= {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(own)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    loop.options(parser, lr=2e-3, batch=32)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--size", type=int, default=256, choices=ARCHITECTURES)
    parser.add_argument("--crop", type=int, default=64, help="side of the crops, a multiple of 16")
    parser.add_argument("--perceptual", type=float, default=0.2, help="weight of that distance")
    parser.add_argument("--from", type=Path, dest="start", help="state of a smaller one's training")
    args = parser.parse_args(argv)
    loop.run(Training(args), args)


if __name__ == "__main__":
    main()
