"""Clips of sounds, cut and disturbed anew each time, for training what listens."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE_RATE = 22050  # Hz, of sounds.npy
REAL = 0.6  # share of recordings where a concept has both recordings and synthesised clips


class Sounds:
    """The data set's sounds: `waves` int16 end to end, a line of sounds.csv for each clip."""

    def __init__(self, folder: Path, concepts: list[str]):
        self.waves = np.load(folder / "sounds.npy", mmap_mode="r")
        with open(folder / "sounds.csv", encoding="utf-8", newline="") as f:
            rows = [row for row in csv.DictReader(f) if row["concept"] in concepts]
        self.rows = rows
        self.label = torch.tensor([concepts.index(row["concept"]) for row in rows])
        self.train = torch.tensor([row["split"] == "train" for row in rows])
        self.real = torch.tensor([row["kind"] == "real" for row in rows])
        self.weight = self._weights()

    def _weights(self) -> Tensor:
        """What is there in more variety is drawn more often: (clips,), in all 1.

        A group counts with the root of its size, a concept with the sum of its groups; in it
        recordings have `REAL` and synthesised clips the rest. Drawing concepts alike would hear a
        lone clip of a duck as often as nineteen dogs, and learn it by heart.
        """
        weight = torch.zeros(len(self.rows))
        groups = [row["group"] for row in self.rows]
        for concept in self.label.unique():
            parts = [self.train & (self.label == concept) & self.real]
            parts.append(self.train & (self.label == concept) & ~self.real)
            shares, variety = [REAL, 1 - REAL], 0.0
            for part, share in zip(parts, shares, strict=True):
                index = part.nonzero()[:, 0].tolist()
                size: dict[str, int] = {}
                for i in index:
                    size[groups[i]] = size.get(groups[i], 0) + 1
                for i in index:  # a group's say grows with the root of its size
                    weight[i] = size[groups[i]] ** -0.5
                variety += sum(count**0.5 for count in size.values())
                if index:
                    weight[part] *= share / weight[part].sum()
            own = self.label == concept
            if weight[own].any():
                weight[own] *= variety / weight[own].sum()
        return weight / weight.sum()

    def clip(self, i: int) -> Tensor:
        """Clip i whole, (T,) float32 in [-1, 1]."""
        row = self.rows[i]
        start, length = int(row["start"]), int(row["length"])
        return torch.from_numpy(self.waves[start : start + length].astype(np.float32) / 32768)

    def held_out(self) -> list[tuple[int, str]]:
        """The clips that are never trained on, each with the group it is reported in."""
        groups = {"esc-10": "ESC-10, fold 3", "csound": "instruments, other font"}
        held = (~self.train).nonzero()[:, 0].tolist()
        return [(i, groups.get(self.rows[i]["source"], "other recordings")) for i in held]


def window(wave: Tensor, length: int, rng: torch.Generator) -> Tensor:
    """`length` samples of a clip at a random speed; a short clip is repeated or set in silence."""
    u = torch.rand(5, generator=rng).tolist()
    speed = 2 ** (u[0] * 0.6 - 0.3)  # pitch and pace together, up to 4 semitones either way
    need = int(length * speed) + 1
    if len(wave) >= need:
        start = int(u[1] * (len(wave) - need))
        wave = wave[start : start + need]
    elif u[2] < 0.5:  # repeated, with a pause
        pause = torch.zeros(int(u[3] * 0.5 * SAMPLE_RATE))
        unit = torch.cat([wave, pause])
        wave = unit.repeat(need // len(unit) + 2)[int(u[1] * len(unit)) :][:need]
    else:
        before = int(u[1] * (need - len(wave)))
        wave = F.pad(wave, (before, need - len(wave) - before))
    return F.interpolate(wave[None, None], size=length, mode="linear")[0, 0]


def disturb(wave: Tensor, rng: torch.Generator) -> Tensor:
    """(n, T) in [-1, 1] -> other level, timbre, room and background; still in [-1, 1]."""
    n, length = wave.shape

    def u(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=rng)

    spectrum = torch.fft.rfft(wave)
    # a smooth random equaliser: +-8 dB at eight points of a warped frequency axis
    points = F.interpolate(u(-8, 8, 1, 8), size=256, mode="linear", align_corners=True)[:, 0]
    place = (torch.linspace(0, 1, spectrum.shape[1]) ** 0.5 * 255).long()
    active = (torch.rand(n, 1, generator=rng) < 0.6).float()
    spectrum = spectrum * 10 ** (active * points[:, place] / 20)
    # a room: exponentially decaying noise
    t = torch.arange(length) / SAMPLE_RATE
    decay = torch.exp(-t / u(0.02, 0.3, 1)) * torch.randn(n, length, generator=rng) * 0.03
    decay *= u(-1.0, 1.0, 1).clamp(min=0)
    decay[:, 0] = 1.0
    wave = torch.fft.irfft(spectrum * torch.fft.rfft(decay), length)
    wave = wave / wave.abs().amax(1, keepdim=True).clamp(min=1e-4)
    # background: coloured noise, and now and then another clip of the batch, softly
    colour = torch.fft.rfft(torch.randn(n, length, generator=rng))
    slope = torch.linspace(1e-3, 1, colour.shape[1])[None] ** (-u(0, 1, 1))
    noise = torch.fft.irfft(colour * slope, length)
    noise = noise / noise.abs().amax(1, keepdim=True)
    wave = wave + noise * 10 ** (u(-100, -20, 1) / 20)
    other = wave[torch.randperm(n, generator=rng)]
    wave = wave + other * 10 ** (u(-30, -14, 1) / 20) * (torch.rand(n, 1, generator=rng) < 0.3)
    gain = 10 ** (u(-20, 0, 1) / 20)
    return wave / wave.abs().amax(1, keepdim=True).clamp(min=1e-4) * gain


def resampled(wave: Tensor, rate: int) -> Tensor:
    """(n, T) at SAMPLE_RATE to (n, T') at `rate` Hz."""
    if rate == SAMPLE_RATE:
        return wave
    return torch.from_numpy(soxr.resample(wave.T.numpy(), SAMPLE_RATE, rate, "HQ").T.copy())
