"""What guidance minimises. Each loss is one number per sample, (B,): never averaged over a batch.

Pictures are (B, 3, H, W), nominally in [-1, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def spherical_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared great-circle distance between directions, 2 arcsin(|a - b| / 2)^2 for unit vectors.

    Broadcasts over all but the last dimension, which it removes; 0 for the same direction, pi^2 / 2
    for opposite ones. Written with atan2(|a - b|, |a + b|), the same angle, whose gradient is
    finite (zero) at both ends, where that of arcsin is not.
    """
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    angle = torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))
    return 2 * angle**2


def tv(x: Tensor) -> Tensor:
    """Total variation: mean squared step to the right and downwards, the edge repeated."""
    x = F.pad(x, (0, 1, 0, 1), "replicate")
    right = x[..., :-1, 1:] - x[..., :-1, :-1]
    down = x[..., 1:, :-1] - x[..., :-1, :-1]
    return (right**2 + down**2).mean(dim=(1, 2, 3))


def out_of_range(x: Tensor) -> Tensor:
    """Mean squared excess beyond [-1, 1]."""
    return (x - x.clamp(-1, 1)).square().mean(dim=(1, 2, 3))


def saturation(x: Tensor) -> Tensor:
    """Mean absolute excess beyond [-1, 1]: pulls harder than `out_of_range` on small excesses."""
    return (x - x.clamp(-1, 1)).abs().mean(dim=(1, 2, 3))


def init_distance(x: Tensor, init: Tensor) -> Tensor:
    """Mean squared difference from an init image (the notebook has LPIPS here)."""
    return (x - init).square().mean(dim=(1, 2, 3))
