"""AudioCLIP: CLIP with a third tower for sound, key names as published.

Guzhov et al., "AudioCLIP: Extending CLIP to Image, Text and Audio", arXiv:2106.13043.
The picture tower may be a ModifiedResNet (the published one) or a ViT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acgd.models.clip import CLIP
from acgd.models.esresnext import ESResNeXt
from acgd.models.log_mel_cnn import LogMelCNN


@dataclass
class Joint:
    """What one forward pass says; features are unit norm, a missing tower's are None."""

    audio: Tensor | None  # (B, D)
    image: Tensor | None
    text: Tensor | None
    audio_image: Tensor | None  # (B, B) scaled similarities, audio by image
    audio_text: Tensor | None
    image_text: Tensor | None
    loss: Tensor | None  # scalar; None when fewer than two towers were asked


class AudioCLIP(CLIP):
    """CLIP's arguments and keys, an audio head under `audio.`, and two more logit scales.

    sample_rate (Hz) is a fact about the weights, which the network itself does not use.
    audio_width is the head's stem width (64 in the published file). audio_channels makes the head
    a LogMelCNN of those widths in place of the published ESResNeXt.
    """

    def __init__(
        self,
        embed_dim: int = 1024,
        image_resolution: int = 224,
        vision_layers: Sequence[int] | int = (3, 4, 6, 3),
        vision_width: int = 64,
        vision_patch_size: int | None = None,
        context_length: int = 77,
        vocab_size: int = 49408,
        transformer_width: int = 512,
        transformer_heads: int | None = None,
        transformer_layers: int = 12,
        vision_heads: int | None = None,
        n_fft: int = 2048,
        hop_length: int = 561,
        win_length: int = 1654,
        window: str = "blackmanharris",
        normalized: bool = True,
        onesided: bool = True,
        apply_attention: bool = True,
        audio_layers: Sequence[int] = (3, 4, 6, 3),
        audio_groups: int = 32,
        audio_width_per_group: int = 4,
        audio_width: int = 64,
        sample_rate: int = 44100,
        input_range: str = "int16",
        audio_floor_db: float | None = None,
        audio_channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            embed_dim=embed_dim,
            image_resolution=image_resolution,
            vision_layers=vision_layers,
            vision_width=vision_width,
            vision_patch_size=vision_patch_size,
            context_length=context_length,
            vocab_size=vocab_size,
            transformer_width=transformer_width,
            transformer_heads=transformer_heads,
            transformer_layers=transformer_layers,
            vision_heads=vision_heads,
        )
        self.sample_rate = sample_rate
        if audio_channels is not None:
            self.audio: LogMelCNN | ESResNeXt = LogMelCNN(
                embed_dim, audio_channels, input_range=input_range
            )
        else:
            self.audio = ESResNeXt(
                layers=audio_layers,
                groups=audio_groups,
                width_per_group=audio_width_per_group,
                n_fft=n_fft,
                hop_length=hop_length,
                win_length=win_length,
                window=window,
                normalized=normalized,
                onesided=onesided,
                apply_attention=apply_attention,
                num_classes=embed_dim,
                width=audio_width,
                input_range=input_range,
                floor_db=audio_floor_db,
            )
        self.logit_scale_ai = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.logit_scale_at = nn.Parameter(torch.tensor(1 / 0.07).log())

    def encode_audio(self, waves: Tensor) -> Tensor:
        """(B, T) float32 in [-1, 1] at sample_rate -> (B, D), not unit norm."""
        return self.audio(waves)

    def scale(self, pair: str = "at") -> Tensor:
        """The factor of a pair's similarities: pair is "at", "ai" or "it"; in [1, 100]."""
        logs = {"at": self.logit_scale_at, "ai": self.logit_scale_ai, "it": self.logit_scale}
        return logs[pair].exp().clamp(1.0, 100.0)

    def filter_loss(self) -> Tensor:
        """How far the FBSP filters' norms are from one, squared, averaged over the bins.

        0 where the head has no such filters.
        """
        if not isinstance(self.audio, ESResNeXt):
            return self.logit_scale_at.new_zeros(())
        norms = self.audio.fbsp.cached_filters(self.audio.n_fft).flatten(1).norm(dim=1)
        return (norms - 1.0).square().mean()

    def forward(  # type: ignore[override] # any of three, where CLIP takes its two
        self,
        audio: Tensor | None = None,
        image: Tensor | None = None,
        text: Tensor | None = None,
    ) -> Joint:
        """Any of waves (B, T), normalised images (B, 3, S, S) and tokens (B, L), paired by row.

        The loss is the mean of the pairs' symmetric cross entropies, and the filters' own loss
        where there is audio.
        """
        a = None if audio is None else F.normalize(self.encode_audio(audio), dim=-1)
        i = None if image is None else F.normalize(self.encode_image(image), dim=-1).float()
        t = None if text is None else F.normalize(self.encode_text(text), dim=-1).float()
        pairs = {"ai": (a, i), "at": (a, t), "it": (i, t)}
        logits = {
            name: None if u is None or v is None else self.scale(name) * u @ v.T
            for name, (u, v) in pairs.items()
        }
        losses = [symmetric_cross_entropy(x) for x in logits.values() if x is not None]
        loss = torch.stack(losses).mean() if losses else None
        if loss is not None and a is not None:
            loss = loss + self.filter_loss()
        return Joint(a, i, t, logits["ai"], logits["at"], logits["it"], loss)


def symmetric_cross_entropy(logits: Tensor) -> Tensor:
    """Mean of both directions' cross entropies of (B, B) logits whose diagonal is the truth."""
    rows = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2


def query_strings(labels: Sequence[str], spelled: bool = False) -> list[str]:
    """The texts that labels are encoded as.

    The published query takes lists of words and joins each with ', '. The notebook passed plain
    strings, which are sequences of letters, so 'red' was asked for as 'r, e, d': spelled=True.
    """
    return [", ".join(label) for label in labels] if spelled else list(labels)
