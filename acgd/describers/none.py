"""No words about the sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acgd.types import Encoder

if TYPE_CHECKING:
    import numpy as np


class NoWords:
    """The describer that is used unless one is asked for."""

    def __init__(self, encoder: Encoder | None = None, share: float = 0.0):
        self.share = share

    def rank(self, wave: np.ndarray, sample_rate: int) -> dict[str, list[tuple[str, float]]]:
        return {}

    def __call__(self, wave: np.ndarray, sample_rate: int) -> list[str]:
        return []
