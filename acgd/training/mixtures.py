"""Mixtures of one to three sounds, disturbed, as log-mel patches with their teacher's embedding.

    python -m acgd.training.mixtures --data data --teacher yamnet.tflite --out runs/mixtures

Chunks of CHUNK patches are written one by one, each from its own seed, so that the command goes on
where it stopped: mel (n, 96, 64), teacher (n, 1024), and for up to three parts a patch's clip
(rows of sounds.csv, -1 for none) and its share of the sound, 0 where a part is not to be heard or
so far off its pitch that it may be something else.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from acgd.models.log_mel_cnn import FRAMES, HOP, SAMPLE_RATE, LogMel
from acgd.training.data.pairs import concept_prompts
from acgd.training.data.recordings import RATE
from acgd.training.teacher import Teacher

LENGTH = 2 * FRAMES * HOP + 480  # samples of a mixture: two patches
CHUNK, BATCH = 8192, 64  # patches of a file, mixtures made at once
PARTS = (0.55, 0.33, 0.12)  # shares of mixtures of one, two and three sounds
UNLABELLED = 0.3  # share of sounds without a concept, where there are any
REAL = 0.65  # share of recordings where a concept has synthesised clips too
VARIETY = 0.6  # a concept counts with this power of how much of it there is
KNOWN = 0.45  # octaves: a clip further from its own speed has no concept any more


class Clips:
    """The training clips of sounds.npy at 16 kHz, and how often each is drawn."""

    def __init__(self, folder: Path, concepts: list[str]):
        with open(folder / "sounds.csv", encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f))
        self.waves, self.start = at_16_khz(folder, rows)
        train = np.array([row["split"] == "train" for row in rows])
        self.label = np.array([concepts.index(c) if (c := r["concept"]) else -1 for r in rows])
        self.real = np.array([row["kind"] == "real" for row in rows])
        self.group = np.array([row["group"] for row in rows])
        self.labelled = self.weights(train & (self.label >= 0))
        length = np.diff(self.start)
        other = np.sqrt(np.minimum(length, 10 * SAMPLE_RATE)) * (train & (self.label < 0))
        self.unlabelled = np.cumsum(other) / max(other.sum(), 1e-9)
        self.share = UNLABELLED if other.any() else 0.0

    def weights(self, train: np.ndarray) -> np.ndarray:
        """Cumulative: groups count with the root of their size, recordings more than the rest."""
        weight = np.zeros(len(train))
        for concept in np.unique(self.label[train]):
            own, variety = train & (self.label == concept), 0.0
            for part, share in ((own & self.real, REAL), (own & ~self.real, 1 - REAL)):
                if not part.any():
                    continue
                _, place, size = np.unique(
                    self.group[part], return_inverse=True, return_counts=True
                )
                each = size[place] ** -0.5
                weight[part] = share * each / each.sum()
                variety += (size**0.5).sum()
            weight[own] *= variety**VARIETY / weight[own].sum()
        return np.cumsum(weight) / weight.sum()

    def draw(self, rng: np.random.Generator) -> tuple[int, np.ndarray, bool]:
        """A clip's row, (LENGTH,) of it at a random speed, and whether it is still its concept."""
        table = self.unlabelled if rng.random() < self.share else self.labelled
        row = int(np.searchsorted(table, rng.random(), side="right"))
        octaves = rng.normal(0, 0.25) if rng.random() < 0.8 else rng.uniform(-1, 1)
        wave = self.waves[self.start[row] : self.start[row + 1]].astype(np.float32)
        wave = stretch(wave, 2**octaves, rng)
        return row, wave / max(np.abs(wave).max(), 30.0), abs(octaves) < KNOWN


def at_16_khz(folder: Path, rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """The clips end to end at SAMPLE_RATE, int16, kept beside sounds.npy, and where each starts."""
    length = [int(int(row["length"]) * SAMPLE_RATE / RATE) for row in rows]
    start = np.concatenate([[0], np.cumsum(length)])
    path, whole = folder / "sounds_16k.npy", np.load(folder / "sounds.npy", mmap_mode="r")
    if not path.exists():
        partial = path.with_suffix(".partial.npy")
        found = np.lib.format.open_memmap(partial, "w+", np.int16, (int(start[-1]),))
        for row, first, size in zip(rows, start, length, strict=False):
            wave = whole[int(row["start"]) :][: int(row["length"])].astype(np.float32)
            wave = soxr.resample(wave, RATE, SAMPLE_RATE, "HQ")[:size].clip(-32767, 32767)
            found[first : first + len(wave)] = wave.astype(np.int16)
        found.flush()
        os.replace(partial, path)
    found = np.load(path, mmap_mode="r")
    if len(found) != start[-1]:
        raise SystemExit(f"{path} belongs to other sounds: remove it")
    return found, start


def stretch(wave: np.ndarray, speed: float, rng: np.random.Generator) -> np.ndarray:
    """(LENGTH,) of a wave, pitch and pace by `speed`; a short one repeated or set in silence."""
    need = int(LENGTH * speed) + 2
    if len(wave) > need:
        first = int(rng.integers(len(wave) - need))
        wave = wave[first : first + need]
    elif rng.random() < 0.5:
        pause = np.zeros(int(rng.random() * SAMPLE_RATE / 2), np.float32)
        unit = np.concatenate([wave, pause])
        wave = np.resize(np.roll(unit, -int(rng.integers(len(unit)))), need)
    else:
        first = int(rng.integers(need - len(wave) + 1))
        wave = np.pad(wave, (first, need - len(wave) - first))
    at = np.arange(LENGTH) * speed
    return np.interp(at, np.arange(need), wave).astype(np.float32)


def colour(x: Tensor, rng: torch.Generator) -> Tensor:
    """(n, LENGTH) through random equalisers, cuts and rooms; peaks at one."""

    def u(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(x), *shape, generator=rng)

    def octaves(least: float) -> Tensor:
        return 2 ** (1.2 * (torch.randn(len(x), 1, generator=rng) - least).clamp(min=0))

    spectrum = torch.fft.rfft(x)
    bins = spectrum.shape[1]
    # +-9 dB at eight points of a warped axis, for half of the sounds
    curve = F.interpolate(u(-9, 9, 1, 8), size=256, mode="linear", align_corners=True)[:, 0]
    place = (torch.linspace(0, 1, bins).sqrt() * 255).long()
    gain = 10 ** ((u(0, 1, 1) < 0.5) * curve / 20)[:, place]
    hertz = torch.linspace(0, SAMPLE_RATE / 2, bins)[None]
    low, high = u(20, 60, 1) * octaves(0), SAMPLE_RATE / 2 / octaves(0.6)
    gain = gain / (1 + (low / (hertz + 1)) ** 4).sqrt() / (1 + (hertz / high) ** 8).sqrt()
    spectrum = spectrum * gain
    wet = (u(0, 1, 1) < 0.4)[:, 0]
    if wet.any():  # a room: decaying noise after the sound itself
        time = torch.arange(LENGTH) / SAMPLE_RATE
        size, level = u(0.02, 0.35, 1)[wet], u(0.005, 0.05, 1)[wet]
        room = torch.randn(len(size), LENGTH, generator=rng) * torch.exp(-time / size) * level
        room[:, 0] = 1
        spectrum[wet] = spectrum[wet] * torch.fft.rfft(room)
    x = torch.fft.irfft(spectrum, LENGTH)
    return x / x.abs().amax(1, keepdim=True).clamp(min=1e-3)


def noise(n: int, rng: torch.Generator) -> Tensor:
    """(n, LENGTH) of noise between white and brown, unit deviation."""
    spectrum = torch.fft.rfft(torch.randn(n, LENGTH, generator=rng))
    axis = torch.linspace(1e-3, 1, spectrum.shape[1])[None]
    found = torch.fft.irfft(spectrum * axis ** -torch.rand(n, 1, generator=rng), LENGTH)
    return found / found.square().mean(1, keepdim=True).sqrt()


def mixtures(clips: Clips, n: int, draw: np.random.Generator, rng: torch.Generator) -> tuple:
    """n mixtures: waves (n, LENGTH), rows (n, 3), and shares (n, 2, 3) of their two halves."""
    count = draw.choice([1, 2, 3], n, p=PARTS)
    rows, known = -np.ones((n, 3), np.int64), np.zeros((n, 3), bool)
    waves, which, level = [], [], []
    for i in range(n):
        for j in range(count[i]):
            rows[i, j], wave, near = clips.draw(draw)
            known[i, j] = near and clips.label[rows[i, j]] >= 0
            waves.append(wave)
            which.append((i, j))
            level.append(1.0 if j == 0 else 10 ** (draw.uniform(-20, 0) / 20))
    parts = torch.zeros(n, 3, LENGTH)
    loud = colour(torch.from_numpy(np.stack(waves)), rng) * torch.tensor(level)[:, None]
    parts[tuple(torch.tensor(which).T)] = loud
    power = parts.unflatten(-1, (2, -1)).square().mean(-1).transpose(1, 2)  # (n, 2, 3)
    total = power.sum(2, keepdim=True)
    share = power.sqrt() / power.sqrt().sum(2, keepdim=True).clamp(min=1e-6)
    share = share * torch.from_numpy(known)[:, None] * (total > 0.01 * total.amax(1, keepdim=True))
    mixed = parts.sum(1)
    noisy = torch.rand(n, generator=rng) < 0.35
    k = int(noisy.sum())
    decibels = torch.rand(k, 1, generator=rng) * 53 - 50
    rms = mixed[noisy].square().mean(1, keepdim=True).sqrt()
    mixed[noisy] += noise(k, rng) * rms * 10 ** (decibels / 20)
    quieter = 10 ** (-torch.rand(n, 1, generator=rng).square() * 30 / 20)
    return mixed / mixed.abs().amax(1, keepdim=True).clamp(min=1e-4) * quieter, rows, share


@torch.no_grad()
def chunk(clips: Clips, teacher: Teacher, seed: list[int]) -> dict[str, Tensor]:
    """CHUNK patches and what is known of them."""
    draw, rng, hear = np.random.default_rng(seed), torch.Generator(), LogMel()
    rng.manual_seed(int(draw.integers(2**62)))
    found = {"mel": [], "teacher": [], "rows": [], "share": []}
    for _ in range(CHUNK // (2 * BATCH)):
        waves, rows, share = mixtures(clips, BATCH, draw, rng)
        mel = hear(waves)[:, : 2 * FRAMES].reshape(2 * BATCH, FRAMES, -1)
        found["mel"].append(mel.half())
        found["teacher"].append(teacher(mel).half())
        found["rows"].append(torch.from_numpy(rows).int().repeat_interleave(2, 0))
        found["share"].append(share.flatten(0, 1).half())
    return {name: torch.cat(parts) for name, parts in found.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--teacher", type=Path, required=True, help="YAMNet's .tflite")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patches", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=0, help="the judge's ears hear others")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    clips, teacher = Clips(args.data, list(concept_prompts())), Teacher.read(args.teacher)
    for i in range(-(-args.patches // CHUNK)):
        path, begun = args.out / f"{args.seed}_{i:04d}.safetensors", time.time()
        if path.exists():
            continue
        made = chunk(clips, teacher, [args.seed, i])
        save_file(made, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
        labelled = float((made["share"].sum(1) > 0.5).float().mean())
        pace = (time.time() - begun) / CHUNK * 1e3
        print(f"{path.name}: {labelled:.0%} labelled, {pace:.2f} ms a patch", flush=True)


if __name__ == "__main__":
    main()
