"""Pictures, texts and sounds through an AudioCLIP model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.encoders.clip import CLIPEncoder
from acgd.errors import UserError
from acgd.models.audioclip import AudioCLIP


class AudioCLIPEncoder(CLIPEncoder):
    """CLIPEncoder that hears. Its sample_rate (Hz) is part of the architecture.

    input_range="int16" (default) hands the audio head samples of the size that it was trained
    on; "unit" leaves them in [-1, 1], as the notebook did.
    window: seconds; the sound is also heard in windows of this length that overlap by about half,
    and their mean direction counts as much as that of the whole. speeds: factors at which the whole
    is also heard, pitch and pace together. None, the default, hears it once, as it is. The
    embedded ears learned from stretches of 1.5 to 3.5 seconds at speeds of 0.8 to 1.2.
    `scale_at` and `scale_ia` are the factors of audio-text and image-audio similarities.
    """

    model_class = AudioCLIP
    model: AudioCLIP

    def __init__(
        self,
        checkpoint: str,
        window: float | None = None,
        speeds: Sequence[float] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(checkpoint, **arguments)
        if window is not None and not window >= 0.1:
            raise UserError(f"encoder.window={window}: seconds, 0.1 or more; null for none")
        self.speeds = list(speeds or [])
        if not all(0.25 <= speed <= 4 for speed in self.speeds):
            raise UserError(f"encoder.speeds={self.speeds}: factors from 0.25 to 4")
        self.sample_rate = self.model.sample_rate
        self.window = window and int(window * self.sample_rate)
        self.hears, self.scale_at = True, float(self.model.scale("at"))
        self.scale_ia = float(self.model.scale("ai"))

    @torch.no_grad()
    def audio(self, waves: Tensor) -> Tensor:
        """(N, T) float32 in [-1, 1] at sample_rate -> (N, D), unit norm, float32."""
        if waves.ndim != 2:
            raise ValueError(f"waves are {tuple(waves.shape)}, not (N, T)")
        self.park(self.device)
        waves = waves.to(self.device).float()
        heard = [self.hear(waves)]
        if self.window and waves.shape[1] > self.window:
            parts = torch.stack([self.hear(part) for part in windows(waves, self.window)])
            heard.append(F.normalize(parts.mean(0), dim=-1))
        heard += [self.hear(at_speed(waves, speed)) for speed in self.speeds]
        return F.normalize(sum(heard[1:], heard[0]), dim=-1) if len(heard) > 1 else heard[0]

    def hear(self, waves: Tensor) -> Tensor:
        """(N, T) -> (N, D), unit norm: the sound as it is, once."""
        return F.normalize(self.model.encode_audio(waves), dim=-1)


def at_speed(waves: Tensor, speed: float) -> Tensor:
    """(N, T) -> (N, T / speed), pitch and pace changed together."""
    size = max(1, round(waves.shape[1] / speed))
    return F.interpolate(waves[:, None], size=size, mode="linear")[:, 0]


def windows(waves: Tensor, width: int) -> list[Tensor]:
    """(N, T) -> windows (N, width), from the first sample to the last, evenly spaced."""
    length, last = waves.shape[1], waves.shape[1] - width
    count = max(2, round(2 * length / width) - 1)
    starts = [i * last // (count - 1) for i in range(count)]
    return [waves[:, start : start + width] for start in starts]
