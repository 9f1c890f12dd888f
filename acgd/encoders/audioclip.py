"""Pictures, texts and sounds through an AudioCLIP model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.encoders.clip import CLIPEncoder
from acgd.models.audioclip import AudioCLIP


class AudioCLIPEncoder(CLIPEncoder):
    """CLIPEncoder that hears. Its sample_rate (Hz) is part of the architecture.

    input_range="int16" (default) hands the audio head samples of the size that it was trained
    on; "unit" leaves them in [-1, 1], as the notebook did.
    `scale_at` and `scale_ia` are the factors of audio-text and image-audio similarities.
    """

    model_class = AudioCLIP

    def __init__(self, checkpoint: str, **arguments: object) -> None:
        super().__init__(checkpoint, **arguments)
        self.sample_rate = self.model.sample_rate
        self.scale_at = float(self.model.scale("at"))
        self.scale_ia = float(self.model.scale("ai"))

    @torch.no_grad()
    def audio(self, waves: Tensor) -> Tensor:
        """(N, T) float32 in [-1, 1] at sample_rate -> (N, D), unit norm, float32."""
        if waves.ndim != 2:
            raise ValueError(f"waves are {tuple(waves.shape)}, not (N, T)")
        self.park(self.device)
        return F.normalize(self.model.encode_audio(waves.to(self.device).float()), dim=-1)
