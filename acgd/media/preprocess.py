"""CLIP's preparation of pictures: the middle square, resized, normalised."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def pixels(image: Image.Image, size: int) -> Tensor:
    """A picture's middle square at CLIP's input size: (3, size, size) float32 in [0, 1].

    Bicubic resize of the shorter side, centre crop, and only then RGB: grey pictures and those
    with alpha are resampled as they are.
    """
    width, height = image.size
    short = min(width, height)
    new = (int(size * width / short), int(size * height / short))
    if new != image.size:
        image = image.resize(new, Image.Resampling.BICUBIC)
    left, top = round((new[0] - size) / 2), round((new[1] - size) / 2)
    image = image.crop((left, top, left + size, top + size)).convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def resized(images: Tensor, size: int) -> Tensor:
    """(N, C, H, W) in [0, 1] -> (N, C, size, size), bicubic, cut to [0, 1]; as it is where it fits.

    Neither shape nor middle is kept: crop what is no square.
    """
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


def normalise(images: Tensor) -> Tensor:
    """(N, 3, S, S) in [0, 1] -> minus CLIP's mean, over its deviation, by channel."""
    mean, std = statistics(images.dtype, images.device)
    return (images - mean) / std


@cache
def statistics(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """CLIP's mean and deviation, each (3, 1, 1); copied to a device once."""
    mean, std = (torch.tensor(values, dtype=dtype, device=device) for values in (MEAN, STD))
    return mean.view(3, 1, 1), std.view(3, 1, 1)
