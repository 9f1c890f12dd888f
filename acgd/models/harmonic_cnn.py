"""HarmonicCNN: a tagger of music whose first layer stacks harmonics as channels.

Won et al., "Data-Driven Harmonic Filters for Audio Representation Learning", ICASSP 2020. Key
names are those of the published files (trained on MagnaTagATune). B is the batch, T the samples,
F the frames.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE_RATE = 16000  # Hz
CHUNK = 80000  # samples that it was trained on, 5 s
ALPHA, BETA = 0.1079, 24.7  # a filter's bandwidth in Hz is (ALPHA f + BETA) / Q, equation 2
LOW, HIGH = 24, 88  # MIDI notes: the lowest centre is C1, the highest lies below E6
FLOOR = 1e-10  # of a power before it turns into decibels


class PowerSpectrogram(nn.Module):
    """(B, T) -> (B, n_fft // 2 + 1, F): periodic Hann window, centred frames, mirrored edges."""

    window: Tensor

    def __init__(self, n_fft: int = 512) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, wave: Tensor) -> Tensor:
        bins = torch.stft(
            wave,
            self.n_fft,
            hop_length=self.n_fft // 2,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        return bins.real.square() + bins.imag.square()


def decibels(power: Tensor) -> Tensor:
    return 10.0 * power.clamp(min=FLOOR).log10()


class HarmonicSTFT(nn.Module):
    """(B, T) -> (B, n_harmonic, levels, F) decibels; channel h holds the (h+1)-th harmonics.

    Band b of channel h is a triangle in frequency around (h + 1) times the b-th centre of
    channel 0; the centres are 1 / semitone_scale semitones apart.
    """

    f0: Tensor
    bins: Tensor

    def __init__(self, sample_rate: int, n_fft: int, n_harmonic: int, semitone_scale: int) -> None:
        super().__init__()
        self.n_harmonic = n_harmonic
        self.bw_Q = nn.Parameter(torch.ones(1))
        self.spec = PowerSpectrogram(n_fft)
        notes = np.arange(LOW, HIGH, 1 / semitone_scale)
        centres = 440.0 * 2 ** ((notes - 69) / 12)  # (levels,) Hz
        f0 = np.outer(np.arange(1, n_harmonic + 1), centres).ravel()
        self.register_buffer("f0", torch.tensor(f0, dtype=torch.float32), persistent=False)
        bins = torch.linspace(0, sample_rate // 2, n_fft // 2 + 1)
        self.register_buffer("bins", bins, persistent=False)

    def filters(self) -> Tensor:
        """(bins, n_harmonic * levels) triangles of height 1, as wide as the bandwidth."""
        width = (ALPHA * self.f0 + BETA) / self.bw_Q
        away = 2 * (self.bins[:, None] - self.f0) / width
        return (1 - away.abs()).clamp(min=0)

    def forward(self, wave: Tensor) -> Tensor:
        bands = self.filters().T @ self.spec(wave)  # (B, n_harmonic * levels, F)
        return decibels(bands).unflatten(1, (self.n_harmonic, -1))


class Conv(nn.Module):
    """3x3 convolution, batch norm, ReLU, maximum pooling."""

    def __init__(self, inputs: int, outputs: int, pool: int | tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.bn = nn.BatchNorm2d(outputs)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.bn(self.conv(x))), self.pool)


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity, maximum pooling."""

    def __init__(self, channels: int, pool: int | tuple[int, int]) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn_1 = nn.BatchNorm2d(channels)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn_2 = nn.BatchNorm2d(channels)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn_1(self.conv_1(x)))
        return F.max_pool2d(F.relu(x + self.bn_2(self.conv_2(out))), self.pool)


class HarmonicCNN(nn.Module):
    """(B, T) float32 wave in [-1, 1] at sample_rate -> tags (B, n_class), in [0, 1].

    `features` is what captioning takes; the tagger's head (dense1, bn, dense2) is in the files.
    """

    sample_rate, chunk = SAMPLE_RATE, CHUNK

    def __init__(
        self,
        n_channels: int = 128,
        sample_rate: int = SAMPLE_RATE,
        n_fft: int = 512,
        n_harmonic: int = 6,
        semitone_scale: int = 2,
        n_class: int = 50,
    ) -> None:
        super().__init__()
        c = n_channels
        self.dim = 2 * c
        self.hstft = HarmonicSTFT(sample_rate, n_fft, n_harmonic, semitone_scale)
        self.hstft_bn = nn.BatchNorm2d(n_harmonic)
        self.layer1 = Conv(n_harmonic, c, 2)
        self.layer2 = Residual(c, 2)
        self.layer3 = Residual(c, 2)
        self.layer4 = Residual(c, 2)
        self.layer5 = Conv(c, 2 * c, 2)
        self.layer6 = Residual(2 * c, (2, 3))
        self.layer7 = Residual(2 * c, (2, 3))
        self.dense1 = nn.Linear(2 * c, 2 * c)
        self.bn = nn.BatchNorm1d(2 * c)
        self.dense2 = nn.Linear(2 * c, n_class)

    def features(self, wave: Tensor) -> Tensor:
        """(B, T) of about `chunk` samples -> (B, 2 n_channels), the maximum over time."""
        x = self.hstft_bn(self.hstft(wave))  # (B, 6, 128, F)
        for i in range(1, 8):
            x = getattr(self, f"layer{i}")(x)
        return x.amax((2, 3))

    def forward(self, wave: Tensor) -> Tensor:
        x = F.relu(self.bn(self.dense1(self.features(wave))))
        return torch.sigmoid(self.dense2(F.dropout(x, 0.5, self.training)))
