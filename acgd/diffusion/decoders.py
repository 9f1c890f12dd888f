"""Quick ways from latents to pixels, for guidance and previews that need no fine detail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.checkpoints import hub

PICTURES = 24  # drawn to fit the linear map


class Latents(Protocol):
    """The model whose latents these are."""

    image_size: int
    device: torch.device

    def encode(self, pixels: Tensor) -> Tensor: ...


class Linear:
    """Each latent pixel's colour as a linear function of its channels.

    It is fitted to smooth random pictures that the model's autoencoder encodes, in float64 by least
    squares, so it needs no table of any model's colours.
    """

    def __init__(self, model: Latents):
        pictures = colours(PICTURES, min(model.image_size, 128))
        latents = torch.cat([model.encode(one[None].to(model.device)) for one in pictures])
        small = F.interpolate(pictures, size=latents.shape[-2:], mode="area").double()
        rows = latents.movedim(1, -1).flatten(0, -2).double().cpu()
        rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
        found = torch.linalg.lstsq(rows, small.movedim(1, -1).flatten(0, -2)).solution.float()
        found = found.to(model.device)
        self.weight, self.bias, self.size = found[:-1].T, found[-1], model.image_size

    def __call__(self, x: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pixels (B, 3, S, S), nominally in [-1, 1]."""
        weight, bias = self.weight.to(x)[..., None, None], self.bias.to(x)
        small = F.conv2d(x, weight, bias)
        return F.interpolate(small, size=self.size, mode="bilinear", align_corners=False)


def colours(count: int, size: int) -> Tensor:
    """Smooth random pictures (count, 3, size, size) in [-1, 1], always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 2.4 - 1.2
    return F.interpolate(coarse, size=size, mode="bilinear", align_corners=True).clamp(-1, 1)


def tiny(checkpoint: str, device: str | torch.device) -> Callable[[Tensor], Tensor]:
    """An AutoencoderTiny of diffusers, such as TAESD, from a folder: latents to pixels."""
    with hub.told(checkpoint, "AutoencoderTiny", "a folder of its own"):
        from diffusers import AutoencoderTiny

        model = AutoencoderTiny.from_pretrained(checkpoint, local_files_only=True)
    model.to(device).eval().requires_grad_(False)
    return lambda x: model.decode(x.to(model.dtype)).sample.float()
