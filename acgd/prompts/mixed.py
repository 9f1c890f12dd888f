"""A sound and words together, balanced by one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from acgd.errors import fraction
from acgd.prompts.audio import AudioPrompt
from acgd.prompts.text import TextPrompt
from acgd.types import Encoder, Target

if TYPE_CHECKING:
    import numpy as np


class MixedPrompt:
    """The notebook's loss proportion: texts weigh `text_share` in all, the sound the rest.

    text_share is in [0, 1]; at 0 or 1 the other kind is left out. The texts keep their weights'
    proportions and signs (negative ones in all sum to -text_share).
    """

    def __init__(
        self,
        path: str | Path,
        text: str | Sequence[str],
        text_share: float = 0.5,
        offset: float = 0.0,
        duration: float = 10.0,
        notebook_parsing: bool = False,
        pick: str = "start",
        template: str | None = None,
    ):
        self.template = template  # as TextPrompt's
        self.text_share = fraction(text_share, "prompt.text_share")
        self.audio = AudioPrompt(path, offset, duration, pick=pick)
        self.text = TextPrompt(text, notebook_parsing)

    def check(self) -> None:
        """Raise the UserError of a sound that cannot be used, before any model is loaded."""
        self.audio.check()

    def wave(self, sample_rate: int) -> np.ndarray | None:
        """(T,) float32 in [-1, 1] at `sample_rate` Hz."""
        return self.audio.wave(sample_rate)

    def __call__(self, encoder: Encoder) -> list[Target]:
        shares = {"audio": 1 - self.text_share, "text": self.text_share}
        both = [
            source for name, source in (("audio", self.audio), ("text", self.text)) if shares[name]
        ]
        targets = [target for source in both for target in source(encoder)]
        return [replace(target, weight=target.weight * shares[target.kind]) for target in targets]
