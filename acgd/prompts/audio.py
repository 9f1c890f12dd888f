"""A sound as the prompt: the main job."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from acgd.errors import UserError, say_once
from acgd.media import audio
from acgd.types import Encoder, Target


class AudioPrompt:
    """The part [offset, offset + duration) of one sound file, in seconds.

    `path` is a file or "demo:NAME"; lists, folders and globs become one run for each sound
    (`audio.find`) before a source is built. The weight scales the guidance towards the sound, a
    negative one steers away from it. pick: "start" hears that part; "loudest" the part of
    `duration` seconds that is loudest, "all" the whole recording, part by part, as their mean.
    """

    def __init__(
        self,
        path: str | Path,
        offset: float = 0.0,
        duration: float = 10.0,
        weight: float = 1.0,
        pick: str = "start",
        template: str | None = None,
    ):
        self.template = template  # as TextPrompt's
        files = audio.find(path)
        if len(files) > 1:
            raise UserError(f"prompt.path={path}: one sound at a time here, not {len(files)}")
        self.path, self.offset, self.duration, self.pick = files[0], offset, duration, pick
        try:
            self.weight = float(weight)
        except (TypeError, ValueError):
            self.weight = math.nan
        if not math.isfinite(self.weight) or self.weight == 0:
            raise UserError(f"prompt.weight={weight}: must be a number other than 0")

    def check(self) -> None:
        """Raise the UserError of a sound that cannot be used, before any model is loaded, and say
        which part of a longer one is heard."""
        if self.pick != "start":
            self.offset = audio.loudest(self.path, self.duration)
        if self.pick != "all":
            audio.check(self.path, self.offset, self.duration)

    def wave(self, sample_rate: int) -> np.ndarray:
        """(T,) float32 in [-1, 1] at `sample_rate` Hz."""
        return audio.load(self.path, sample_rate, self.offset, self.duration)

    def __call__(self, encoder: Encoder) -> list[Target]:
        import torch
        import torch.nn.functional as F

        label = Path(self.path.removeprefix("demo:")).stem
        embeds = [encoder.audio(torch.from_numpy(wave)[None])[0] for wave in self.waves(encoder)]
        embed = embeds[0] if len(embeds) == 1 else F.normalize(sum(embeds[1:], embeds[0]), dim=0)
        return [Target(embed, self.weight, "audio", label)]

    def waves(self, encoder: Encoder) -> Iterator[np.ndarray]:
        """The parts that are heard; of a whole recording those that are no silence."""
        if self.pick != "all":
            yield self.wave(encoder.sample_rate)
            return
        seconds, peak = 0.0, 0.0
        for part in audio.pieces(self.path, encoder.sample_rate, self.duration):
            seconds, loud = seconds + len(part) / encoder.sample_rate, float(np.abs(part).max())
            peak = max(peak, loud)
            if loud > audio.SILENCE and len(part) >= audio.SHORTEST * encoder.sample_rate:
                yield part
        if peak <= audio.SILENCE:
            raise UserError(f"{self.path}: silent")
        say_once(f"{self.path}: heard whole, {seconds:.4g} s in parts of {self.duration:g} s")
