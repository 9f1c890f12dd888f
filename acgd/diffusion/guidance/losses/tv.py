"""Roughness."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from acgd.diffusion.guidance.loss import Loss


class TotalVariation(Loss):
    """Mean squared step to the right and downwards, the edge repeated."""

    def __call__(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1), "replicate")
        right = x[..., :-1, 1:] - x[..., :-1, :-1]
        down = x[..., 1:, :-1] - x[..., :-1, :-1]
        return (right**2 + down**2).mean(dim=(1, 2, 3))
