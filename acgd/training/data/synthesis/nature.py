"""Animals, weather and water made by rule; every function is (rng, seconds) -> wave."""

from __future__ import annotations

import numpy as np

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
    resonate,
    room,
    samples,
    saw,
    swell,
    times,
    tone,
    unit,
)


def owl(rng: Rng, s: float) -> np.ndarray:
    """Breathy low sines with a small downward bend, in groups such as hoo, hu-hu-hooo."""
    pitch, events = rng.uniform(280, 620), []
    at = rng.uniform(0, 0.3)
    while at < s - 0.2:
        n = samples(rng.choice([0.15, 0.2, 0.5, 0.8]) * rng.uniform(0.7, 1.3))
        bend = pitch * (1 + 0.06 * np.sin(np.linspace(0, np.pi, n)))
        call = tone(bend, n, [1, 0.15, 0.08]) + 0.05 * noise(rng, n, 200, 1500)
        events.append((at, call * swell(n, 0.25, 0.4)))
        at += n / RATE + rng.choice([0.08, 0.15, 0.8])
    return place(samples(s), events)


def songbird(rng: Rng, s: float) -> np.ndarray:
    """Runs of chirps: sines sweeping between 2 and 8 kHz, the same figure a few times over."""
    events, at = [], rng.uniform(0, 0.3)
    while at < s - 0.1:
        low, high = rng.uniform(1800, 4000), rng.uniform(2500, 7500)
        length, gap = rng.uniform(0.03, 0.18), rng.uniform(0.02, 0.12)
        for _ in range(rng.integers(1, 9)):
            n = samples(length)
            u = np.linspace(0, 1, n)
            trill = rng.choice([0, 0, 0.08]) * np.sin(2 * np.pi * rng.uniform(25, 60) * u * length)
            path = low + (high - low) * rng.choice([u, u**2, np.sin(np.pi * u)]) + 3000 * trill
            events.append((at, tone(path, n, [1, 0.1]) * swell(n, 0.2, 0.3)))
            at += length + gap
        at += rng.uniform(0.1, 0.8)
    return place(samples(s), events)


def frog(rng: Rng, s: float) -> np.ndarray:
    """Croaks: a train of damped pulses through two resonances, repeated."""
    pitch, rate = rng.uniform(350, 1500), rng.uniform(20, 70)
    events = []
    for at in times(rng, s, rng.uniform(0.35, 1.1), 0.3):
        n = samples(rng.uniform(0.15, 0.45))
        pulses = np.zeros(n)
        pulses[:: max(1, int(RATE / rate))] = 1
        croak = resonate(pulses, [pitch, pitch * rng.uniform(1.7, 2.4)], 12)
        events.append((at, unit(croak) * swell(n, 0.3, 0.3)))
    return place(samples(s), events)


def cricket(rng: Rng, s: float) -> np.ndarray:
    """A high tone cut into fast pulses, the pulses grouped into chirps."""
    n, pitch, pulse = samples(s), rng.uniform(3000, 6500), rng.uniform(25, 70)
    t = clock(n)
    wings = np.clip(np.sin(2 * np.pi * pulse * t), 0, 1) ** rng.uniform(0.5, 2)
    period, duty = rng.uniform(0.3, 1.0), rng.choice([0.3, 0.5, 1.0])
    chirps = ((t / period) % 1 < duty).astype(float)
    return tone(pitch * rng.uniform(0.995, 1.005), n, [1, 0.1]) * wings * chirps


def wolf(rng: Rng, s: float) -> np.ndarray:
    """A howl: harmonics gliding up, held with a slow vibrato, sinking."""
    n = samples(s)
    u, top = np.linspace(0, 1, n), rng.uniform(380, 800)
    shape = np.interp(
        u, [0, rng.uniform(0.08, 0.2), 0.7, 1], [0.55, 1, 0.95, rng.uniform(0.5, 0.8)]
    )
    vibrato = 1 + rng.uniform(0, 0.015) * np.sin(2 * np.pi * rng.uniform(3, 6) * clock(n))
    voice = tone(top * shape * vibrato, n, [1, 0.5, 0.25, 0.12, 0.05])
    return (voice + 0.03 * noise(rng, n, 300, 3000)) * swell(n, 0.1, 0.3)


def insect(low: float, high: float):
    """A buzzing wing between two frequencies that wanders in pitch and loudness."""

    def fly(rng: Rng, s: float) -> np.ndarray:
        n, pitch = samples(s), rng.uniform(low, high)
        wander = pitch * (0.9 + 0.2 * drift(rng, n, rng.uniform(1, 5)))
        flutter = 1 + 0.03 * np.sin(2 * np.pi * rng.uniform(8, 30) * clock(n))
        wave = saw(wander * flutter, n, rng.uniform(0.6, 1.3))
        return wave * (0.15 + drift(rng, n, rng.uniform(0.5, 2)))

    return fly


def snake(rng: Rng, s: float) -> np.ndarray:
    """Hisses, sometimes with a rattle."""
    n = samples(s)
    events = []
    for at in times(rng, s, rng.uniform(0.8, 2.0), 0.3):
        m = samples(rng.uniform(0.5, 1.6))
        events.append((at, noise(rng, m, rng.uniform(2000, 4500)) * swell(m, 0.2, 0.5)))
    wave = place(n, events)
    if rng.random() < 0.35:
        shake = np.clip(np.sin(2 * np.pi * rng.uniform(18, 45) * clock(n)), 0, 1) ** 4
        wave += noise(rng, n, 3000, 9000) * shake * drift(rng, n, 1)
    return wave


def rain(rng: Rng, s: float) -> np.ndarray:
    """Steady hiss of distant drops and, nearer, many small clicks."""
    n = samples(s)
    wave = pink(rng, n, rng.uniform(0, 0.8)) * 0.3
    wave = band(wave, rng.uniform(200, 900), rng.uniform(6000, 10500))
    splash, events = noise(rng, n, rng.uniform(600, 3000)), []
    for at in poisson(rng, s, rng.uniform(20, 250)):
        m, first = samples(rng.uniform(0.002, 0.012)), rng.integers(n // 2)
        drop = splash[first : first + m] * decay(m, 0.002, 0.0005)
        events.append((at, drop * rng.uniform(0.05, 1)))
    return wave * (0.8 + 0.4 * drift(rng, n, 1)) + place(n, events) * rng.uniform(0.1, 0.8)


def thunder(rng: Rng, s: float) -> np.ndarray:
    """A crack, then rolling low noise."""
    n = samples(s)
    rumble = band(pink(rng, n, 1.6), 20, rng.uniform(120, 400))
    start = rng.uniform(0, 0.15)
    envelope = np.interp(clock(n), [0, start * s + 0.01, s], [0, 1, 0.02]) ** 1.5
    roll = unit(rumble) * envelope * (0.3 + drift(rng, n, rng.uniform(2, 6)))
    m = samples(rng.uniform(0.2, 0.9))
    crack = noise(rng, m, 100, rng.uniform(1500, 6000)) * decay(m, rng.uniform(0.04, 0.15))
    return roll + place(n, [(start * s, crack * rng.uniform(0, 1.2))])


def wind(rng: Rng, s: float) -> np.ndarray:
    """Pink noise under slowly moving resonances; gusts."""
    n = samples(s)
    base = pink(rng, n, rng.uniform(0.8, 1.6))
    gusts = 0.2 + drift(rng, n, rng.uniform(0.4, 1.5)) ** 1.5
    howl = np.zeros(n)
    for _ in range(rng.integers(1, 4)):  # a narrow band whose centre follows the gusts
        path = rng.uniform(250, 700) * (0.7 + gusts)
        jitter = band(rng.standard_normal(n), 0, rng.uniform(20, 80))
        howl += tone(path, n) * unit(jitter) * 0.3
    return (band(base, 60, rng.uniform(1200, 5000)) + rng.uniform(0, 1) * howl) * gusts


def sea(rng: Rng, s: float) -> np.ndarray:
    """Waves: noise that swells, breaks brighter and draws back; a low roar under it."""
    n = samples(s)
    wave = 0.25 * band(pink(rng, n, 1.2), 40, 900)
    period = rng.uniform(2.0, 5.0)
    t = clock(n)
    rise = ((t / period + rng.random()) % 1) ** rng.uniform(1.5, 3)
    foam = noise(rng, n, rng.uniform(300, 1200), rng.uniform(4000, 10000), 1)
    return wave + foam * rise * 0.5 + pink(rng, n, 0.6) * np.roll(rise, samples(0.3)) * 0.4


def fire(rng: Rng, s: float) -> np.ndarray:
    """Soft roar and irregular crackles of many sizes."""
    n = samples(s)
    wave = band(pink(rng, n, 1.3), 30, rng.uniform(300, 1200)) * rng.uniform(0.02, 0.15)
    events = []
    for at in poisson(rng, s, rng.uniform(6, 45)):
        m = samples(rng.uniform(0.003, 0.03))
        crack = noise(rng, m, rng.uniform(300, 2500)) * decay(m, rng.uniform(0.001, 0.006), 3e-4)
        events.append((at, crack * rng.exponential(0.35)))
    return wave * (0.6 + drift(rng, n, 3)) + place(n, events)


def drip(rng: Rng, size: float) -> np.ndarray:
    """One bubble of a drop: a sine that rises while it dies, after a tick."""
    n = samples(rng.uniform(0.04, 0.18))
    path = size * (1 + rng.uniform(0.1, 0.8) * clock(n) / 0.05)
    return tone(path, n) * decay(n, rng.uniform(0.008, 0.03), 0.001)


def drops(rng: Rng, s: float) -> np.ndarray:
    """Single drops falling into water at intervals."""
    size, step = rng.uniform(500, 2200), rng.uniform(0.25, 1.3)
    events = [(at, drip(rng, size * rng.uniform(0.8, 1.25))) for at in times(rng, s, step, 0.5)]
    return room(rng, place(samples(s), events), rng.uniform(0.03, 0.25), rng.uniform(0, 0.5))


def bubbles(rng: Rng, s: float) -> np.ndarray:
    """Many rising bubbles of different sizes."""
    low = rng.uniform(200, 500)
    at = poisson(rng, s, rng.uniform(8, 40))
    events = [(t, drip(rng, low * 2 ** rng.uniform(0, 2.2)) * rng.uniform(0.2, 1)) for t in at]
    return place(samples(s), events)


def stream(rng: Rng, s: float) -> np.ndarray:
    """Running water: a dense mass of bubbles over hiss."""
    n = samples(s)
    at = poisson(rng, s, rng.uniform(80, 220))
    events = [(t, drip(rng, rng.uniform(400, 2500)) * rng.exponential(0.4)) for t in at]
    hiss = noise(rng, n, rng.uniform(300, 1000), rng.uniform(5000, 10000), 1)
    return place(n, events) + hiss * rng.uniform(0.03, 0.3) * (0.7 + 0.6 * drift(rng, n, 4))
