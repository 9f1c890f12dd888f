"""Bangs, engines and vehicles made by rule; every function is (rng, seconds) -> wave."""

from __future__ import annotations

import numpy as np
from scipy import signal

from acgd.training.data.recordings import RATE
from acgd.training.data.waves import (
    Rng,
    band,
    clock,
    decay,
    drift,
    noise,
    pink,
    place,
    poisson,
    room,
    samples,
    saw,
    swell,
    times,
    tone,
    unit,
)


def bang(rng: Rng, low: float, high: float, half: float) -> np.ndarray:
    """A burst: noise with a sharp start over a falling thump."""
    n = samples(half * 8)
    thump = tone(rng.uniform(40, 110) * 0.5 ** (clock(n) / 0.2), n) * decay(n, half * 1.2)
    burst = band(pink(rng, n, rng.uniform(0.4, 1.2)), low, high)
    return unit(burst) * decay(n, half, 0.001) + rng.uniform(0.3, 1.5) * thump


def explosion(rng: Rng, s: float) -> np.ndarray:
    """A blast and the debris after it."""
    n = samples(s)
    blast = bang(rng, 25, rng.uniform(1500, 6000), rng.uniform(0.12, 0.5))
    rubble = [
        (t + 0.2, noise(rng, 400, 500) * decay(400, 0.004) * rng.exponential(0.15))
        for t in poisson(rng, s * 0.6, rng.uniform(0, 40))
    ]
    return place(n, [(rng.uniform(0, 0.2), np.tanh(2 * blast)), *rubble])


def fireworks(rng: Rng, s: float) -> np.ndarray:
    """Whistles going up, reports, and crackling stars."""
    n, events = samples(s), []
    for at in poisson(rng, s * 0.7, rng.uniform(0.5, 2.5)):
        if rng.random() < 0.5:
            m = samples(rng.uniform(0.3, 0.9))
            path = np.linspace(rng.uniform(700, 1500), rng.uniform(1800, 3500), m)
            whistle = (tone(path, m) + 0.3 * noise(rng, m, 1000, 5000)) * swell(m, 0.3, 0.1)
            events.append((at, 0.15 * whistle))
            at += m / RATE
        events.append((at, bang(rng, 50, rng.uniform(2000, 7000), rng.uniform(0.04, 0.15))))
        for t in poisson(rng, rng.uniform(0.3, 1.2), rng.uniform(0, 60)):
            spark = noise(rng, 300, 1500) * decay(300, 0.002, 3e-4)
            events.append((at + 0.1 + t, spark * rng.uniform(0.1, 0.5)))
    return place(n, events)


def gunshot(rng: Rng, s: float) -> np.ndarray:
    """One or several sharp reports with an echo."""
    step = rng.choice([0.1, 0.4, 1.0, 5.0])
    at = times(rng, min(s, step * rng.integers(1, 8)), step, 0.1)
    shot = bang(rng, 80, rng.uniform(4000, 10000), rng.uniform(0.015, 0.06))
    return room(rng, place(samples(s), [(t, np.tanh(3 * shot)) for t in at]), 0.2, 0.2)


def motor(rng: Rng, n: int, firing: np.ndarray, rough: float, bright: float) -> np.ndarray:
    """Combustion: a pulse per firing (Hz, may glide), uneven by `rough`, through a pipe."""
    phase = np.cumsum(firing) / RATE
    strokes = np.flatnonzero(np.diff(np.floor(phase)) > 0)
    pulses = np.zeros(n)
    pulses[strokes] = 1 + rough * rng.standard_normal(len(strokes))
    half = rng.uniform(0.002, 0.006)
    kick = noise(rng, samples(0.03), 40, bright) * decay(samples(0.03), half, 5e-4)
    kick += 2 * decay(samples(0.03), half * 2)
    wave = signal.fftconvolve(pulses, kick)[:n]
    return band(unit(wave), 25, bright) + 0.1 * noise(rng, n, 100, bright)


def engine(low: float, high: float, rough: float = 0.25, bright: float = 3000):
    """An engine whose firing rate idles, revs or falls between two frequencies."""

    def run(rng: Rng, s: float) -> np.ndarray:
        n = samples(s)
        points = np.exp(rng.uniform(np.log(low), np.log(high), 4))
        firing = np.interp(np.linspace(0, 3, n), range(4), np.sort(points)[:: rng.choice([-1, 1])])
        if rng.random() < 0.4:
            firing = np.full(n, points[0])
        wave = motor(rng, n, firing * (0.98 + 0.04 * drift(rng, n, 6)), rough, bright)
        passing = swell(n, rng.uniform(0.05, 0.5), rng.uniform(0.05, 0.5))
        return wave * (passing if rng.random() < 0.5 else 0.5 + 0.5 * firing / firing.max())

    return run


def bus(rng: Rng, s: float) -> np.ndarray:
    """A heavy engine pulling away, with a hiss of air brakes or doors."""
    wave = engine(18, 55, 0.2, 1500)(rng, s)
    m = samples(rng.uniform(0.3, 0.8))
    hiss = noise(rng, m, 1500, 9000) * decay(m, 0.12)
    return wave + place(len(wave), [(rng.uniform(0, s * 0.6), hiss * rng.uniform(0.3, 1.2))])


def chainsaw(rng: Rng, s: float) -> np.ndarray:
    """A rasping two-stroke that idles and is gunned."""
    n = samples(s)
    rev = np.clip(drift(rng, n, rng.uniform(0.6, 2)) * 2.5 - 0.6, 0, 1)
    firing = rng.uniform(35, 60) + rev * rng.uniform(60, 140)
    wave = motor(rng, n, firing, 0.35, rng.uniform(5000, 9000)) + 0.5 * saw(firing, n, 0.8)
    return np.tanh(1.5 * wave) * (0.35 + 0.65 * rev)


def helicopter(rng: Rng, s: float) -> np.ndarray:
    """Rotor thumps chopping noise, over a turbine whine."""
    n, rate = samples(s), rng.uniform(9, 24)
    t = clock(n)
    chop = np.clip(np.sin(2 * np.pi * rate * t), 0, 1) ** rng.uniform(1.5, 6)
    air = band(pink(rng, n, 1.0), 30, rng.uniform(700, 4000))
    whine = tone(rng.uniform(900, 3000), n, [1, 0.3]) * rng.uniform(0, 0.06)
    return unit(air) * (0.15 + chop) + whine + 0.2 * noise(rng, n, 300, 6000) * rng.uniform(0.1, 1)


def airplane(rng: Rng, s: float) -> np.ndarray:
    """A jet's roar with whine, or a propeller's drone, passing over with a falling pitch."""
    n = samples(s)
    u = np.linspace(-1, 1, n)
    doppler = 1 - rng.uniform(0, 0.2) * np.tanh(u * rng.uniform(1, 4))
    near = 1 / (1 + (u / rng.uniform(0.3, 1.5)) ** 2)
    if rng.random() < 0.5:
        wave = saw(rng.uniform(70, 130) * doppler, n, 0.9) + 0.3 * pink(rng, n, 1.0)
    else:
        whine = tone(rng.uniform(1500, 4000) * doppler, n, [1, 0.4]) * rng.uniform(0.02, 0.3)
        wave = band(pink(rng, n, rng.uniform(0.5, 1.2)), 40, rng.uniform(3000, 9000)) + whine
    return wave * near


def rocket(rng: Rng, s: float) -> np.ndarray:
    """A launch: a crackling low roar that builds and recedes."""
    n = samples(s)
    roar = band(pink(rng, n, 1.2), 20, rng.uniform(1500, 5000))
    crackle = 1 + rng.uniform(0.3, 1.5) * np.clip(noise(rng, n, 0, 60), 0, 4)
    return np.tanh(unit(roar * crackle)) * swell(n, rng.uniform(0.05, 0.4), rng.uniform(0.2, 0.7))


def train(rng: Rng, s: float) -> np.ndarray:
    """Steam puffs or wheels over joints, sometimes with a chord of a whistle."""
    n, rate = samples(s), rng.uniform(2, 7)
    pulse = np.clip(np.sin(2 * np.pi * rate * clock(n)), 0, 1) ** 2
    puffs = noise(rng, n, rng.uniform(150, 600), rng.uniform(2500, 7000)) * (0.1 + pulse)
    clack = noise(rng, 900, 300, 3000) * decay(900, 0.01)
    joints = [(t + d, clack) for t in times(rng, s, 2 / rate, 0.05) for d in (0, 0.12)]
    wave = puffs * rng.uniform(0.2, 1) + place(n, joints) * rng.uniform(0, 1.2)
    if rng.random() < 0.5:
        m = samples(rng.uniform(0.5, 1.8))
        root = rng.uniform(280, 520)
        horn = sum(tone(root * r, m, [1, 0.5, 0.3]) for r in (1, 1.25, 1.5, 1.68))
        horn = unit(horn + 0.3 * noise(rng, m, 500, 5000)) * swell(m, 0.05, 0.15)
        wave += place(n, [(rng.uniform(0, s / 2), horn)])
    return wave
