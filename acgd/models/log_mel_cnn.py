"""A small convolutional network over log-mel patches: the embedded encoders' ears.

The front end is YAMNet's (Hershey et al., arXiv:1609.09430): 25 ms windows every 10 ms at 16 kHz,
64 mel bands from 125 to 7,500 Hz, log(mel + 0.001), patches of 96 frames. The body is a residual
network of full 3x3 convolutions (He et al., arXiv:1512.03385), which a processor computes faster
than depthwise ones of the same quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE_RATE = 16000  # Hz
WINDOW, HOP, FFT = 400, 160, 512  # samples
BANDS, LOWEST, HIGHEST = 64, 125.0, 7500.0  # Hz
FRAMES = 96  # of a patch
AT_ONCE = 64  # patches, so that a long sound takes no more memory than half a minute
LEAST = WINDOW + (FRAMES - 1) * HOP  # samples of one patch


class LogMel(nn.Module):
    """(B, T) in [-1, 1] at 16 kHz -> (B, frames, 64): log(mel + 0.001) of magnitudes."""

    window: Tensor
    bands: Tensor

    def __init__(self) -> None:
        super().__init__()
        window = torch.hann_window(WINDOW, periodic=True)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bands", mel_bands(), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        with torch.autocast(wave.device.type, enabled=False):
            frames = wave.float().unfold(-1, WINDOW, HOP) * self.window
            magnitude = torch.fft.rfft(frames, FFT).abs()
            return torch.log(magnitude @ self.bands + 0.001)


def mel_bands() -> Tensor:
    """(257, 64): triangles of equal width in mel = 1127 ln(1 + f / 700), each of height one."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hertz / 700.0)

    low, high = mel(torch.tensor([LOWEST, HIGHEST], dtype=torch.float64))
    edges = torch.linspace(low, high, BANDS + 2, dtype=torch.float64)
    bins = mel(torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64))[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    bands = torch.minimum(rise, fall).clamp(min=0)
    bands[0] = 0  # no band hears a constant
    return bands.float()


def projection(inputs: int, between: int, outputs: int, drop: float = 0.0) -> nn.Sequential:
    """(N, inputs) -> (N, outputs) in two layers, whatever the scale of what comes in."""
    first, last = nn.Linear(inputs, between), nn.Linear(between, outputs)
    return nn.Sequential(nn.LayerNorm(inputs), first, nn.GELU(), nn.Dropout(drop), last)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the first halves the map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn_skip = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        short = self.bn_skip(self.skip(F.avg_pool2d(x, 2, ceil_mode=True)))
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + short)


class LogMelCNN(nn.Module):
    """Waves to directions: each patch has one, a sound the mean of its patches' directions.

    A patch of 0.96 s is taken every `hop` frames of 10 ms; patches whose power lies more than
    `gate_db` below the loudest one's have no say. widths: channels of the stem and of the blocks;
    hidden: numbers between body and projection (`listen`), which training makes a teacher's.
    input_range="unit" makes every sound 90 dB quieter, which is what AudioCLIP's head hears of
    samples that nobody scaled to int16's range, as the notebook did not.
    """

    def __init__(
        self,
        num_classes: int = 128,
        widths: Sequence[int] = (24, 48, 96, 192, 384),
        hidden: int = 1024,
        between: int = 256,
        hop: int = 48,
        gate_db: float = 30.0,
        input_range: str = "int16",
    ) -> None:
        super().__init__()
        self.hop, self.gate_db, self.input_range = hop, gate_db, input_range
        self.dim = num_classes  # D, the numbers that a sound becomes
        self.log_mel = LogMel()
        self.norm = nn.BatchNorm2d(1)
        stem = [nn.Conv2d(1, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
        blocks = [Block(a, b) for a, b in pairwise(widths)]
        self.body = nn.Sequential(*stem, *blocks)
        self.hidden = nn.Linear(widths[-1], hidden)
        self.project = projection(hidden, between, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, wave: Tensor) -> Tensor:
        """(B, T) in [-1, 1] at 16 kHz -> (B, D): mean direction of the patches that are loud."""
        return self.parts(wave)[1]

    def parts(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) -> directions of the patches (B, P, D) and the whole sound's (B, D)."""
        patches = self.patches(wave)
        chunks = self.directions(patches)
        say = self.loud(patches).to(chunks)[..., None]
        return chunks, (chunks * say).sum(1) / say.sum(1)

    def patches(self, wave: Tensor) -> Tensor:
        """(B, T) -> (B, P, 96, 64) log-mel frames; a short wave is padded with silence."""
        if self.input_range == "unit":
            wave = wave / 32768.0
        wave = F.pad(wave, (0, max(0, LEAST - wave.shape[-1])))
        return self.log_mel(wave).unfold(1, FRAMES, self.hop).transpose(2, 3)

    def directions(self, patches: Tensor) -> Tensor:
        """(B, P, 96, 64) -> (B, P, D), unit norm."""
        flat = patches.flatten(0, 1).split(AT_ONCE)
        heard = torch.cat([self.project(self.listen(part)) for part in flat])
        return F.normalize(heard, dim=-1).unflatten(0, patches.shape[:2])

    def listen(self, patches: Tensor) -> Tensor:
        """(N, 96, 64) -> (N, hidden), none below zero."""
        x = self.norm(patches[:, None]).contiguous(memory_format=torch.channels_last)
        return F.relu(self.hidden(self.body(x).mean((2, 3))))

    def loud(self, patches: Tensor) -> Tensor:
        """(B, P, 96, 64) -> (B, P) bool: at most gate_db below the loudest of the sound."""
        power = (patches.exp() - 0.001).clamp(min=0).square().mean((2, 3))
        least = power.amax(1, keepdim=True) * 10 ** (-self.gate_db / 10)
        return power >= least
