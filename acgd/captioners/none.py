"""Pictures without words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class NoCaptioner:
    def __call__(self, images: Tensor) -> list[str]:
        """One empty caption for each of (B, 3, H, W)."""
        return [""] * len(images)
