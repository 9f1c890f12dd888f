"""ESResNeXt with a learnable complex frequency B-spline front end: AudioCLIP's audio head.

Guzhov et al., "ESResNe(X)t-fbsp: Learning Robust Time-Frequency Transformation of Audio",
arXiv:2104.11587. A wave becomes frames, frames become decibels of FBSP filter outputs, a third
of the bins each makes one of three input channels, and a ResNeXt with attention beside every
stage does the rest. Key names are the published ones.

B is the batch, T the samples, F the frames, n the filter's taps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INT16_MIN, INT16_SPAN = -32768.0, 65535.0
COLUMNS = 2  # of the feature map in a chunk of `parts`; of the tiny ears a column was 0.46 s


def to_unit_range(wave: Tensor, input_range: str = "int16") -> Tensor:
    """What the head computes on, from a float32 wave in [-1, 1].

    The published head maps int16-range samples to [-1, 1] itself, in float32 and in this order
    of operations; merged factors round differently and give other audio. input_range="int16"
    scales the wave to that range first; "unit" does not, as the notebook did: 90 dB too quiet.
    """
    if input_range == "int16":
        wave = wave * -INT16_MIN
    return (wave - INT16_MIN) * 2.0 / INT16_SPAN + -1.0


class LinearFBSP(nn.Module):
    """Frequency B-spline wavelets as a linear layer: (..., n) real -> (..., bins, 2) re/im.

    Filter of one bin at t = pi * linspace(-1, 1, n) + 1e-8, float32:
        w = sqrt(fb) * p(sinc(fb t / (m + 1e-8)), m) * exp(-i fc t) / sqrt(n)
    with sinc(y) = sin(y) / y and p the principal complex power. fc is in bins. Phases reach
    thousands of radians, so t and fc * t are formed exactly so and in float32.

    m must stay >= 0: who trains these vectors clamps m after each step. Frozen, or without
    gradients, the filters are computed once and kept.
    """

    def __init__(self, bins: int, normalized: bool = True) -> None:
        super().__init__()
        self.normalized = normalized
        self.m = nn.Parameter(torch.zeros(bins))
        self.fb = nn.Parameter(torch.ones(bins))
        self.fc = nn.Parameter(torch.arange(bins, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(0))  # never added, but a key of the published file
        self._cache: tuple[tuple, Tensor] | None = None

    def filters(self, taps: int) -> Tensor:
        """(bins, taps, 2), differentiable in m, fb and fc."""
        t = torch.pi * torch.linspace(-1.0, 1.0, taps, device=self.fc.device) + 1e-8
        m, fb, fc = (p.float()[:, None] for p in (self.m, self.fb, self.fc))
        y = fb * t / (m + 1e-8)
        is_zero = y == 0
        sinc = torch.where(is_zero, 1.0, torch.sin(y) / torch.where(is_zero, 1.0, y))
        size, angle = sinc.abs() ** m, torch.where(sinc < 0, torch.pi, 0.0) * m
        size = torch.sqrt(fb) * size / (math.sqrt(taps) if self.normalized else 1.0)
        phase = fc * t
        window_re, window_im = size * torch.cos(angle), size * torch.sin(angle)
        wave_re, wave_im = torch.cos(phase), -torch.sin(phase)
        re = window_re * wave_re - window_im * wave_im
        im = window_re * wave_im + window_im * wave_re
        return torch.stack([re, im], -1)

    def cached_filters(self, taps: int) -> Tensor:
        """The same, computed again only when a gradient or changed parameters ask for it."""
        parameters = (self.m, self.fb, self.fc)
        if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
            return self.filters(taps)
        state = (taps, self.normalized, *((p.data_ptr(), p._version, p.device) for p in parameters))
        if self._cache is None or self._cache[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._cache = (state, self.filters(taps))
        return self._cache[1]

    def forward(self, x: Tensor, taps: int | None = None) -> Tensor:
        """Apply the filters; with `taps` > x's last size, x sits amid zeros (half in front)."""
        length = x.shape[-1]
        taps = taps or length
        front = (taps - length) // 2
        w = self.cached_filters(taps)[:, front : front + length]  # what meets zeros is left out
        out = x @ w.transpose(0, 1).flatten(1)  # (..., bins * 2)
        return out.unflatten(-1, (-1, 2))


class Attention2d(nn.Module):
    """A gate in [0, 1] of a stage's output size, made from the stage's input."""

    def __init__(self, inplanes: int, planes: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv_depth = nn.Conv2d(inplanes, inplanes, kernel, padding=padding, groups=inplanes)
        self.conv_point = nn.Conv2d(inplanes, planes, 1)
        self.bn = nn.BatchNorm2d(planes)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = F.adaptive_max_pool2d(x, size)
        return torch.sigmoid(self.bn(self.conv_point(self.conv_depth(x))))


class Bottleneck(nn.Module):
    """ResNeXt block: 1x1, grouped and strided 3x3, 1x1."""

    expansion = 4

    def __init__(
        self, inplanes: int, planes: int, stride: int, groups: int, width_per_group: int
    ) -> None:
        super().__init__()
        out, width = planes * self.expansion, int(planes * width_per_group / 64) * groups
        if width == 0:
            raise ValueError("audio_width * audio_width_per_group must be at least 64")
        self.conv1 = nn.Conv2d(inplanes, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or inplanes != out:
            skip = nn.Conv2d(inplanes, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(skip, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + skip)


class ESResNeXt(nn.Module):
    """(B, T) float32 wave in [-1, 1] -> (B, num_classes).

    The defaults are AudioCLIP's, for 44100 Hz; the head itself knows no sample rate. `width` is
    the stem's width (64 in every published file), for small heads; `width_per_group` is counted
    as in ResNeXt, at a width of 64. `floor_db`: the quietest a bin may be; None as published, where
    digital silence is 180 dB down and a recording's pauses then shout.
    """

    window: Tensor

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        groups: int = 32,
        width_per_group: int = 4,
        n_fft: int = 2048,
        hop_length: int = 561,
        win_length: int = 1654,
        window: str = "blackmanharris",
        num_classes: int = 1024,
        apply_attention: bool = True,
        normalized: bool = True,
        onesided: bool = True,
        width: int = 64,
        input_range: str = "int16",
        floor_db: float | None = None,
    ) -> None:
        super().__init__()
        if input_range not in ("int16", "unit"):
            raise ValueError(f"input_range must be 'int16' or 'unit', not {input_range!r}")
        if win_length > n_fft:
            raise ValueError(f"win_length {win_length} is longer than n_fft {n_fft}")
        self.n_fft, self.hop_length, self.win_length = n_fft, hop_length, win_length
        self.input_range, self.apply_attention = input_range, apply_attention
        self.floor_db = floor_db
        self.register_buffer("window", periodic_window(window, win_length))
        self.fbsp = LinearFBSP(n_fft // 2 + 1 if onesided else n_fft, normalized)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inplanes = width
        for i, blocks in enumerate(layers):
            planes, stride, before = width * 2**i, 1 if i == 0 else 2, inplanes
            stage = [Bottleneck(inplanes, planes, stride, groups, width_per_group)]
            inplanes = planes * Bottleneck.expansion
            for _ in range(1, blocks):
                stage.append(Bottleneck(inplanes, planes, 1, groups, width_per_group))
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
            if apply_attention:
                kernel = (3, 1) if i % 2 == 0 else (1, 5)  # along frequency, along time
                self.add_module(f"att{i + 1}", Attention2d(before, inplanes, kernel))
        if apply_attention:
            self.att5 = Attention2d(inplanes, inplanes, (3, 5))
        self.fc = nn.Linear(inplanes, num_classes)
        self.init_parameters()

    def init_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for block in self.modules():
            if isinstance(block, Bottleneck):
                nn.init.zeros_(block.bn3.weight)

    def frames(self, x: Tensor) -> Tensor:
        """(B, T) -> (B, F, win_length): the wave zero-padded to complete the last frame.

        The smaller half of the padding goes in front; a short wave makes one frame.
        """
        missing = self.win_length - x.shape[-1]
        if missing <= 0:
            missing = missing % self.hop_length
        front = missing // 2
        return F.pad(x, (front, missing - front)).unfold(-1, self.win_length, self.hop_length)

    def spectrogram(self, x: Tensor) -> Tensor:
        """(B, T), already in the head's own range -> (B, bins, F, 2) complex FBSP outputs."""
        return self.fbsp(self.frames(x) * self.window, self.n_fft).transpose(1, 2)

    def picture(self, wave: Tensor) -> Tensor:
        """(B, T) in [-1, 1] -> (B, 3, bins // 3, F) decibels, low band first. Always float32."""
        with torch.autocast(wave.device.type, enabled=False):
            x = self.spectrogram(to_unit_range(wave.float(), self.input_range))
            power = x.square().sum(-1)  # (B, bins, F)
            db = 10.0 * torch.log10(torch.where(power > 0, power, 1e-18))
            if self.floor_db is not None:
                db = db.clamp(min=self.floor_db)
        rows = db.shape[1] // 3
        return db[:, : 3 * rows].unflatten(1, (3, rows))

    def gated(self, x: Tensor, stage: int) -> Tensor:
        """A stage and the attention beside it."""
        out = getattr(self, f"layer{stage}")(x)
        if not self.apply_attention:
            return out
        return out * getattr(self, f"att{stage}")(x, out.shape[-2:])

    def features(self, picture: Tensor) -> Tensor:
        """(B, 3, H, F) decibels -> (B, C, h, f), what the pool sees."""
        x = F.relu(self.bn1(self.conv1(picture)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in (1, 2, 3, 4):
            x = self.gated(x, stage)
        return x

    def reduce(self, features: Tensor) -> Tensor:
        """(B, C, h, f) -> (B, C): the mean, gated by attention on the maximum."""
        x = F.adaptive_avg_pool2d(features, 1)
        if self.apply_attention:
            x = x * self.att5(features, (1, 1))
        return x.flatten(1)

    def parts(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) -> embeddings of its chunks (B, C, D) and of the whole (B, D), not unit norm.

        A chunk is COLUMNS columns of the feature map; what is left over joins the last one.
        """
        maps = self.features(self.picture(wave))  # (B, channels, h, columns)
        count = max(1, maps.shape[-1] // COLUMNS)
        edges = [i * COLUMNS for i in range(count)] + [maps.shape[-1]]
        directions = [self.fc(self.reduce(maps[..., a:b])) for a, b in pairwise(edges)]
        return torch.stack(directions, 1), self.fc(self.reduce(maps))

    @property
    def dim(self) -> int:
        """D, the numbers that a sound becomes."""
        return self.fc.out_features

    def forward(self, wave: Tensor) -> Tensor:
        return self.fc(self.reduce(self.features(self.picture(wave))))


def periodic_window(name: str, length: int) -> Tensor:
    """A periodic window, (length,) float32: the 4-term Blackman-Harris or one that torch names."""
    windows = torch.signal.windows
    if name == "blackmanharris":
        a = [0.35875, 0.48829, 0.14128, 0.01168]
        return windows.general_cosine(length, a=a, sym=False, dtype=torch.float64).float()
    return getattr(windows, name)(length, sym=False, dtype=torch.float64).float()
