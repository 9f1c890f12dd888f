"""Finds recordings that are one and the same under different names.

Two clips match when the peak of their normalised cross-correlation is high: 1 is the same waveform
up to a shift and a gain. Sounds are compared at 5.5 kHz over their first five seconds, which keeps
a search of 100,000 pairs to some minutes.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import soxr

from acgd.training.data.recordings import RATE

LOW_RATE = 5512
SECONDS = 5
MATCH = 0.75  # between 0.6 and 0.7 short drum strokes of different origins meet by chance
SIZE = 1 << 16  # FFT length: two clips of SECONDS end to end


def prepare(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(spectrum (SIZE/2 + 1,) complex64, running energy (T + 1,)) of one clip, low-passed."""
    low = soxr.resample(wave, RATE, LOW_RATE)[: SECONDS * LOW_RATE].astype(np.float64)
    low -= low.mean()
    spectrum = scipy.fft.rfft(low.astype(np.float32), SIZE)
    return spectrum, np.concatenate([[0.0], np.cumsum(low**2)])


def similarity(a: tuple, b: tuple) -> float:
    """Best |cross-correlation| of two prepared clips over shifts that overlap by half."""
    (sa, ea), (sb, eb) = a, b
    na, nb = len(ea) - 1, len(eb) - 1
    lags = scipy.fft.irfft(sa * np.conj(sb), SIZE)
    least = max(min(na, nb) // 2, 1)
    shifts = np.arange(least - nb, na - least + 1)  # sample of a under b's first
    first, last = np.maximum(shifts, 0), np.minimum(shifts + nb, na)
    energy = (ea[last] - ea[first]) * (eb[last - shifts] - eb[first - shifts])
    # a shift where one of the two is all but silent says nothing
    quiet = 0.05 * ea[-1] * eb[-1]
    return float((np.abs(lags[shifts]) / np.sqrt(np.maximum(energy, quiet) + 1e-12)).max())


def matches(waves: list[np.ndarray]) -> list[tuple[int, int, float]]:
    """(i, j, similarity) of the pairs above MATCH."""
    ready = [prepare(wave) for wave in waves]
    found = []
    for i in range(len(ready)):
        for j in range(i):
            value = similarity(ready[i], ready[j])
            if value > MATCH:
                found.append((j, i, round(value, 3)))
    return found
