"""A sound as the prompt: the main job."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from acgd.errors import UserError
from acgd.media import audio
from acgd.types import Encoder, Target

if TYPE_CHECKING:
    import numpy as np


class AudioPrompt:
    """The part [offset, offset + duration) of one sound file, in seconds.

    `path` is a file or "demo:NAME"; lists, folders and globs become one run for each sound
    (`audio.find`) before a source is built. The weight scales the guidance towards the sound, a
    negative one steers away from it.
    """

    def __init__(
        self,
        path: str | Path,
        offset: float = 0.0,
        duration: float = 10.0,
        weight: float = 1.0,
    ):
        files = audio.find(path)
        if len(files) > 1:
            raise UserError(f"prompt.path={path}: one sound at a time here, not {len(files)}")
        self.path, self.offset, self.duration = files[0], offset, duration
        try:
            self.weight = float(weight)
        except (TypeError, ValueError):
            self.weight = math.nan
        if not math.isfinite(self.weight) or self.weight == 0:
            raise UserError(f"prompt.weight={weight}: must be a number other than 0")

    def check(self) -> None:
        """Raise the UserError of a sound that cannot be used, before any model is loaded."""
        audio.check(self.path, self.offset, self.duration)

    def wave(self, sample_rate: int) -> np.ndarray | None:
        """(T,) float32 in [-1, 1] at `sample_rate` Hz."""
        return audio.load(self.path, sample_rate, self.offset, self.duration)

    def __call__(self, encoder: Encoder) -> list[Target]:
        import torch

        wave = torch.from_numpy(self.wave(encoder.sample_rate))
        label = Path(self.path.removeprefix("demo:")).stem
        return [Target(encoder.audio(wave[None])[0], self.weight, "audio", label)]
