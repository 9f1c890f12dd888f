"""A sound for the page: a small copy to be played, and a picture of it.

The copy is what the encoder heard, the window of prompt.offset and prompt.duration in mono, at most
ten seconds of it, as MP3, which every browser plays. The picture shows the waveform above the
spectrogram (a logarithmic axis from 60 Hz to 16 kHz), with numpy alone.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from acgd.atomic_files import write
from acgd.errors import UserError
from acgd.report.thumbnails import fresh, place

RATE = 32000  # Hz
LONGEST = 10.0  # seconds
WIDTH, WAVE, SPECTRUM = 320, 32, 64  # pixels of the picture and of its two parts
WINDOW = 1024  # samples of a spectrum
LOWEST = 60.0  # Hz
RANGE = 70.0  # dB below the loudest
# quiet to loud
RAMP = [(12, 16, 28), (38, 38, 92), (110, 52, 130), (203, 82, 96), (246, 160, 74), (255, 240, 190)]
LINE = (150, 190, 235)

made: dict[tuple, Path] = {}  # the first copy of each sound that this process made


def sound(path: str, offset: float, duration: float, target: Path, others: list[Path]) -> bool:
    """Write target.mp3 and target.webp; whether they are there now.

    others are copies made before, without their suffixes, that will do: a hundred runs of one
    sound then share one file. Without them a sound that is gone or torn has no copy.
    """
    from acgd.media import audio

    key = (path, offset, duration)
    others = [*others, made[key]] if key in made else others
    try:
        source = audio.resolve(path)
        done = all(fresh(with_suffix(target, end), source) for end in (".mp3", ".webp"))
        if not done and not copy(others, target, source):
            wave = audio.load(path, RATE, offset, min(duration, LONGEST))
            target.parent.mkdir(parents=True, exist_ok=True)
            write(with_suffix(target, ".mp3"), mp3(wave))
            write(with_suffix(target, ".webp"), drawn(wave))
    except (UserError, OSError, RuntimeError):  # soundfile's own errors are RuntimeErrors
        return copy(others, target, None)
    made.setdefault(key, target)
    return True


def copy(others: list[Path], target: Path, source: Path | None) -> bool:
    """Place the first copy that is whole, and not older than its source, at the target."""
    for other in others:
        pairs = [(with_suffix(other, end), with_suffix(target, end)) for end in (".mp3", ".webp")]
        if all(fresh(a, source) for a, _ in pairs):
            for a, b in pairs:
                place(a, b)
            return True
    return False


def with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def mp3(wave: np.ndarray) -> bytes:
    """(T,) float32 at RATE as an MP3 file."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format="MP3")
    return buffer.getvalue()


def drawn(wave: np.ndarray) -> bytes:
    """(T,) float32 at RATE as a WebP picture, (WAVE + SPECTRUM, WIDTH) pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.concatenate([waveform(wave), spectrogram(wave)])
    Image.fromarray(pixels).save(buffer, "WEBP", quality=80, method=2)
    return buffer.getvalue()


def waveform(wave: np.ndarray) -> np.ndarray:
    """(WAVE, WIDTH, 3) uint8: from the lowest to the highest sample of each column."""
    wave = np.pad(wave, (0, max(0, WIDTH - len(wave))))
    parts = np.array_split(wave / max(1e-6, float(np.abs(wave).max())), WIDTH)
    low, high = (np.array([f(part) for part in parts]) for f in (np.min, np.max))
    y = 1 - 2 * (np.arange(WAVE)[:, None] + 0.5) / WAVE  # 1 at the top to -1
    half = 1 / WAVE  # at least one pixel is drawn
    inside = (y <= high + half) & (y >= low - half)
    return np.where(inside[..., None], np.array(LINE, np.uint8), np.array(RAMP[0], np.uint8))


def spectrogram(wave: np.ndarray) -> np.ndarray:
    """(SPECTRUM, WIDTH, 3) uint8: dB below the loudest, low tones at the bottom."""
    wave = np.pad(wave, (WINDOW // 2, WINDOW // 2 + max(0, WINDOW - len(wave))))
    starts = np.linspace(0, len(wave) - WINDOW, WIDTH).astype(int)
    frames = wave[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames)) ** 2  # (WIDTH, WINDOW / 2 + 1)
    edges = np.geomspace(LOWEST, RATE / 2, SPECTRUM + 1) * WINDOW / RATE  # in bins
    total = np.concatenate([np.zeros((WIDTH, 1)), np.cumsum(power, axis=1)], axis=1)
    bins = np.arange(total.shape[1])
    bands = np.array([np.interp(edges, bins, row) for row in total])
    mean = np.diff(bands, axis=1) / np.diff(edges)  # of the power in each band
    level = 10 * np.log10(np.maximum(mean, 1e-12) / max(1e-12, float(mean.max())))
    value = np.clip(1 + level / RANGE, 0, 1).T[::-1]
    at = np.linspace(0, 1, len(RAMP))
    colours = np.array(RAMP, float).T
    return np.stack([np.interp(value, at, c) for c in colours], axis=-1).astype(np.uint8)
