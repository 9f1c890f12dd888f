"""From a sound file to samples, with everything that can be wrong with the file said in one line.

Sample rates are in Hz, offsets and durations in seconds. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from acgd.errors import UserError, say_once
from acgd.media import decode
from acgd.media.find import DEMO, SUFFIXES, find, resolve

__all__ = ["DEMO", "SUFFIXES", "check", "find", "load", "resample", "resolve"]

SHORTEST = 0.05  # seconds; one analysis frame of the audio head lasts 0.0375 s at 44.1 kHz
SILENCE = 1e-4  # peak; -80 dB, three steps of 16-bit samples
PIECE = 60.0  # seconds read at a time where all of a recording is
LOST = 0.1  # seconds; some headers count the encoder's padding
CANCELLED = 0.1  # of the power that unrelated channels would leave when they are averaged
LOUDEST = 2.0**32  # no recorder's full scale is higher, integers in float files included
OUTLIER = 1e4  # times what 99.9 % of the samples stay under


def load(
    path: str | Path, sample_rate: int, offset: float = 0.0, duration: float = 10.0
) -> np.ndarray:
    """The window [offset, offset + duration) of a sound: (T,) float32, mono, in [-1, 1].

    Channels are averaged (`mono`), then resampled to `sample_rate` Hz; a file that ends before the
    window does gives a shorter T. Samples beyond full scale (float files, decoders' overshoot) are
    scaled down, not clipped. Raises UserError where there is nothing to be heard.
    """
    wave, rate, _ = read_window(path, offset, duration)
    wave = resample(wave, rate, sample_rate)
    wave = wave[: round(float(duration) * sample_rate)]
    return np.ascontiguousarray(wave / max(1.0, float(np.abs(wave).max())), dtype=np.float32)


def pieces(path: str | Path, rate: int, length: float = PIECE) -> Iterator[np.ndarray]:
    """The whole recording in mono at `rate` Hz, (T,) float32 of `length` seconds, the last shorter;
    of half an hour, too, no more than a piece is in memory."""
    place, offset = resolve(path), 0.0
    while True:
        window = decode.read(place, offset, length)
        if len(window.samples):
            wave, _ = mono(window.samples)
            yield resample(wave, window.rate, rate).astype(np.float32).clip(-1, 1)
        if len(window.samples) < (length - LOST) * window.rate:
            return
        offset += length
        if window.length is not None and offset >= window.length - SHORTEST:
            return


def loudest(path: str | Path, duration: float) -> float:
    """Where the loudest stretch of `duration` seconds begins, to the second."""
    rate, powers = 8000, list[float]()
    for piece in pieces(path, rate):
        powers += [
            float(np.square(part).sum()) for part in np.split(piece, range(rate, len(piece), rate))
        ]
    width = max(1, round(duration))
    sums = np.convolve(powers, np.ones(width), "valid") if len(powers) > width else np.zeros(1)
    return float(sums.argmax())


def resample(wave: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """(T,) samples at `rate` Hz as float32 samples at `sample_rate` Hz; equal rates: untouched."""
    if rate == sample_rate:
        return wave
    import soxr

    return soxr.resample(wave, rate, sample_rate, quality="HQ")


def check(path: str | Path, offset: float = 0.0, duration: float = 10.0) -> None:
    """Raise the UserError that `load` would raise, and say what else there is to know."""
    _, _, notes = read_window(path, offset, duration)
    for note in notes:
        say_once(note)


def read_window(
    path: str | Path, offset: float, duration: float
) -> tuple[np.ndarray, int, list[str]]:
    """The window at the file's own rate, mono float32 (T,), that rate in Hz, and notes."""
    offset = seconds(offset, "offset")
    duration = seconds(duration, "duration")
    if duration < SHORTEST:
        raise UserError(f"prompt.duration is {duration:g} s: at least {SHORTEST:g} s are needed")
    path = resolve(path)
    window = decode.read(path, offset, duration)
    refuse_cut(window, path, offset, duration)
    refuse_nonsense(window.samples, window.rate, path, offset)
    wave, cancels = mono(window.samples)
    refuse_silence(wave, window.rate, path, offset)
    notes = list(window.notes)
    if cancels is not None:
        notes.append(f"{path}: its channels cancel each other; channel {cancels + 1} is heard")
    heard = offset + len(wave) / window.rate
    if window.length is not None and (offset or heard < window.length - LOST):
        notes.append(f"{path}: heard {offset:g} to {heard:.4g} s of {window.length:.4g} s")
    return wave, window.rate, notes


def mono(samples: np.ndarray) -> tuple[np.ndarray, int | None]:
    """(T, channels) as their mean (T,), and None; or, where they cancel, the loudest and which.

    Unrelated channels leave an n-th of their mean power; those that cancel leave less than a tenth
    of that.
    """
    mixed = samples.mean(axis=1, dtype=np.float32)
    powers = np.square(samples, dtype=np.float64).mean(axis=0)  # (channels,)
    if np.square(mixed, dtype=np.float64).mean() >= CANCELLED * powers.sum() / len(powers) ** 2:
        return mixed, None
    loudest = int(powers.argmax())
    return np.ascontiguousarray(samples[:, loudest]), loudest


def refuse_cut(window: decode.Window, path: Path, offset: float, duration: float) -> None:
    """UserError where the file ends before the window begins, or lacks what its header promises."""
    promised = window.promised
    if promised and offset >= promised:
        raise UserError(f"{path}: lasts {promised:.2f} s, prompt.offset={offset:g} is past its end")
    if window.end < min(offset + duration, promised) - LOST or (
        window.why and not len(window.samples)
    ):
        there = window.why or f"{window.end:.2f} s can be read"
        raise UserError(
            f"{path}: truncated: its header promises {promised:.2f} s, {there}; "
            "mend the file or ask for a part that is there"
        )


def refuse_nonsense(samples: np.ndarray, rate: int, path: Path, offset: float) -> None:
    """UserError for none, too few, infinite or absurd samples (T, channels)."""
    length = len(samples) / rate
    if len(samples) == 0:
        raise UserError(f"{path}: holds no samples")
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: holds samples that are not numbers (NaN or infinite)")
    if length < SHORTEST:
        raise UserError(
            f"{path}: too short: {len(samples)} samples ({length:.4f} s) from {offset:g} s on, "
            f"at least {SHORTEST:g} s are needed"
        )
    levels = np.abs(samples).max(axis=1)  # (T,)
    peak = float(levels.max())
    if peak <= 1:
        return
    usual = float(
        np.partition(levels, int(0.999 * (len(levels) - 1)))[int(0.999 * (len(levels) - 1))]
    )
    if peak > LOUDEST or peak > OUTLIER * usual:
        where = offset + int(levels.argmax()) / rate
        raise UserError(
            f"{path}: holds a sample of {peak:.3g} at {where:.3f} s, where 1 is full scale: mend "
            "the file, or choose another part with prompt.offset and prompt.duration"
        )


def refuse_silence(wave: np.ndarray, rate: int, path: Path, offset: float) -> None:
    if np.abs(wave).max() < SILENCE:
        raise UserError(
            f"{path}: silent from {offset:g} to {offset + len(wave) / rate:g} s; "
            "choose another part with prompt.offset and prompt.duration"
        )


def seconds(value: float, name: str) -> float:
    """A finite, non-negative number of seconds; UserError names the config key otherwise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise UserError(f"prompt.{name}={value}: must be a number of seconds, not below 0")
    return number
