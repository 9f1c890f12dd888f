"""Colours out of range, in the prediction itself."""

from __future__ import annotations

from torch import Tensor

from acgd.diffusion.guidance.loss import Loss


class OutOfRange(Loss):
    """Mean squared excess beyond [-1, 1]."""

    sees_x0 = True

    def __call__(self, x: Tensor) -> Tensor:
        return (x - x.clamp(-1, 1)).square().mean(dim=(1, 2, 3))
