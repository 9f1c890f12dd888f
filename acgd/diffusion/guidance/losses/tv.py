"""Roughness."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from acgd.diffusion.guidance.loss import Loss


class TotalVariation(Loss):
    """Mean squared step to the right and downwards, the edge repeated."""

    def __call__(self, x: Tensor) -> Tensor:
        # padded with steps of 0: a GPU adds up a replicated edge's gradient in any order
        right = F.pad(x[..., 1:] - x[..., :-1], (0, 1))
        down = F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
        return (right**2 + down**2).mean(dim=(1, 2, 3))
