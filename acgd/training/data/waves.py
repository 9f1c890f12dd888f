"""Small pieces that procedural sounds are made of; n samples at RATE, float64, about [-1, 1].

`rng` is a numpy Generator; frequencies in Hz, times in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import signal

from acgd.training.data.recordings import RATE

Rng = np.random.Generator


def samples(seconds: float) -> int:
    """How many samples so many seconds are, at least one."""
    return max(1, int(seconds * RATE))


def clock(n: int) -> np.ndarray:
    """(n,) time of each sample in seconds."""
    return np.arange(n) / RATE


def noise(rng: Rng, n: int, low: float = 0, high: float = RATE / 2, order: int = 2) -> np.ndarray:
    """White noise between two frequencies, scaled to unit deviation."""
    return unit(band(rng.standard_normal(n), low, high, order))


def pink(rng: Rng, n: int, slope: float = 1.0) -> np.ndarray:
    """Noise whose power falls as 1 / frequency^slope, scaled to unit deviation."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    spectrum *= np.maximum(np.fft.rfftfreq(n, 1 / RATE), 20.0) ** (-slope / 2)
    return unit(np.fft.irfft(spectrum, n))


def band(wave: np.ndarray, low: float, high: float, order: int = 2) -> np.ndarray:
    """The part of a wave between two frequencies (Butterworth)."""
    if low > 0:
        wave = signal.sosfilt(signal.butter(order, low, "high", fs=RATE, output="sos"), wave)
    if high < 0.49 * RATE:
        wave = signal.sosfilt(signal.butter(order, high, "low", fs=RATE, output="sos"), wave)
    return wave


def unit(wave: np.ndarray) -> np.ndarray:
    """Scaled to unit deviation."""
    return wave / (wave.std() + 1e-9)


def tone(frequency: np.ndarray | float, n: int, harmonics: Iterable[float] = (1.0,)) -> np.ndarray:
    """Harmonics of a frequency that may glide: sum of a_k sin(2 pi k f t), those below Nyquist."""
    frequency = np.broadcast_to(np.asarray(frequency, float), n)
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    wave = np.zeros(n)
    for k, amplitude in enumerate(harmonics, 1):
        wave += amplitude * np.sin(k * phase) * (k * frequency < 0.48 * RATE)
    return wave


def saw(frequency: np.ndarray | float, n: int, tilt: float = 1.0) -> np.ndarray:
    """A buzzing tone: 30 harmonics falling as 1 / k^tilt."""
    return tone(frequency, n, [k**-tilt for k in range(1, 31)])


def decay(n: int, half: float, attack: float = 0.002) -> np.ndarray:
    """Envelope: a rise of `attack` seconds, then halving every `half` seconds."""
    t = clock(n)
    return np.minimum(t / attack, 1) * 0.5 ** (t / half)


def swell(n: int, rise: float = 0.2, fall: float = 0.2) -> np.ndarray:
    """Envelope that fades in and out over these shares of the length."""
    u = np.linspace(0, 1, n)
    return np.clip(np.minimum(u / max(rise, 1e-3), (1 - u) / max(fall, 1e-3)), 0, 1)


def drift(rng: Rng, n: int, rate: float) -> np.ndarray:
    """A slow random curve between 0 and 1 with about `rate` turns a second."""
    points = rng.random(max(4, int(n / RATE * rate) + 4))
    at = np.linspace(1, len(points) - 2, n)
    return np.interp(at, np.arange(len(points)), points)


def partials(
    n: int, frequency: float, ratios: Iterable[float], halves: Iterable[float], rng: Rng
) -> np.ndarray:
    """A struck body: one decaying sine per ratio, each with its own half-life and random level."""
    wave = np.zeros(n)
    for ratio, half in zip(ratios, halves, strict=True):
        if frequency * ratio < 0.45 * RATE:
            detuned = frequency * ratio * rng.uniform(0.998, 1.002)
            wave += rng.uniform(0.3, 1) * decay(n, half) * tone(detuned, n)
    return wave


def place(n: int, events: Iterable[tuple[float, np.ndarray]]) -> np.ndarray:
    """Short waves added into n samples at their times; what reaches past the end is cut."""
    wave = np.zeros(n)
    for time, piece in events:
        start = int(time * RATE)
        if 0 <= start < n:
            piece = piece[: n - start]
            wave[start : start + len(piece)] += piece
    return wave


def times(rng: Rng, seconds: float, step: float, jitter: float = 0.1) -> np.ndarray:
    """Times of regular events `step` apart, each shifted by a share of the step."""
    count = max(1, int(seconds / step))
    return (np.arange(count) + rng.uniform(0, jitter, count)) * step


def poisson(rng: Rng, seconds: float, rate: float) -> np.ndarray:
    """Random times, `rate` a second on average, at least one."""
    return np.sort(rng.uniform(0, seconds, max(1, rng.poisson(seconds * rate))))


def resonate(wave: np.ndarray, centres: Iterable[float], q: float = 6.0) -> np.ndarray:
    """The wave through a bank of resonances (formants, bodies), summed."""
    out = np.zeros(len(wave))
    for centre in centres:
        b, a = signal.iirpeak(min(centre, 0.45 * RATE), q, fs=RATE)
        out += signal.lfilter(b, a, wave)
    return out


def room(rng: Rng, wave: np.ndarray, half: float = 0.15, wet: float = 0.3) -> np.ndarray:
    """The wave with a short diffuse echo: convolved with decaying noise."""
    tail = rng.standard_normal(samples(4 * half)) * decay(samples(4 * half), half)
    echo = signal.fftconvolve(wave, tail)[: len(wave)]
    return wave + wet * echo * (np.abs(wave).max() / (np.abs(echo).max() + 1e-9))
