"""Distance from the init image."""

from __future__ import annotations

from torch import Tensor

from acgd.diffusion.guidance.loss import Loss


class InitDistance(Loss):
    """Mean squared difference from an init image (the notebook has LPIPS here).

    init_image (B, 3, H, W) or (1, 3, H, W) in [-1, 1]; without one there is nothing to minimise.
    """

    def __init__(self, init_image: Tensor | None = None):
        self.init_image = init_image
        self.active = init_image is not None

    def __call__(self, x: Tensor) -> Tensor:
        assert self.init_image is not None  # `active` says so
        return (x - self.init_image.to(x)).square().mean(dim=(1, 2, 3))
