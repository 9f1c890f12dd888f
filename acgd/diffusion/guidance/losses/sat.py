"""Saturation."""

from __future__ import annotations

from torch import Tensor

from acgd.diffusion.guidance.loss import Loss


class Saturation(Loss):
    """Mean absolute excess beyond [-1, 1]: pulls harder than `OutOfRange` on small excesses."""

    def __call__(self, x: Tensor) -> Tensor:
        return (x - x.clamp(-1, 1)).abs().mean(dim=(1, 2, 3))
