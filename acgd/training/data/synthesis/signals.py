"""Horns, sirens, bells, alarms and beeps made by rule: (rng, seconds) -> wave."""

from __future__ import annotations

import numpy as np

from acgd.training.data.recordings import RATE
from acgd.training.data.waves import (
    Rng,
    band,
    clock,
    decay,
    noise,
    partials,
    place,
    poisson,
    samples,
    saw,
    swell,
    times,
    tone,
    unit,
)

CHURCH = ([0.5, 1.0, 1.2, 1.5, 2.0, 2.6, 3.0, 4.1], [1.6, 1.2, 0.9, 0.6, 0.7, 0.35, 0.3, 0.15])
CHIME = ([1.0, 2.76, 5.4, 8.93], [1.0, 0.5, 0.25, 0.1])


def horn(low: float, high: float, ratios: tuple[float, ...], longest: float):
    """Blasts of a horn: harmonics on one or a few notes sounding together."""

    def blow(rng: Rng, s: float) -> np.ndarray:
        root, events, at = rng.uniform(low, high), [], rng.uniform(0, 0.2)
        while at < s - 0.2:
            m = samples(rng.uniform(0.3, 1) * longest)
            wave = sum(saw(root * r, m, rng.uniform(0.9, 1.5)) for r in ratios)
            wave = band(wave, 40, rng.uniform(2500, 6000)) + 0.05 * noise(rng, m, 200, 3000)
            events.append((at, wave * swell(m, 0.04, 0.08)))
            at += m / RATE + rng.uniform(0.1, 0.8) * longest
        return place(samples(s), events)

    return blow


def siren(rng: Rng, s: float) -> np.ndarray:
    """Two tones in turn, a slow wail, or a fast yelp."""
    n, kind = samples(s), rng.choice(["two", "wail", "yelp"])
    low = rng.uniform(380, 700)
    high = low * rng.uniform(1.25, 2.2)
    period = {"two": 1.2, "wail": 3.5, "yelp": 0.35}[kind] * rng.uniform(0.7, 1.4)
    cycle = (clock(n) / period + rng.random()) % 1
    if kind == "two":
        path = np.where(cycle < 0.5, low, low * rng.uniform(1.2, 1.4))
    else:
        path = low + (high - low) * (0.5 - 0.5 * np.cos(2 * np.pi * cycle))
    return band(saw(path, n, rng.uniform(0.8, 1.6)), 200, rng.uniform(2500, 6000))


def bell(ratios: list[float], halves: list[float], low: float, high: float, step: float):
    """A bell struck about every `step` seconds."""

    def ring(rng: Rng, s: float) -> np.ndarray:
        pitch, scale = rng.uniform(low, high), rng.uniform(0.5, 1.6)
        events = []
        for at in times(rng, s, step * rng.uniform(0.5, 1.6), 0.2):
            n = samples(min(s - at, 3.0))
            stroke = partials(n, pitch, ratios, [h * scale for h in halves], rng)
            events.append((at, stroke + 0.2 * noise(rng, n, 1000) * decay(n, 0.004)))
        return place(samples(s), events)

    return ring


def bicycle_bell(rng: Rng, s: float) -> np.ndarray:
    """Trring-trring: a small bell struck twenty times a second in bursts."""
    pitch, rate, events, at = rng.uniform(1600, 3200), rng.uniform(14, 26), [], 0.0
    while at < s - 0.2:
        for i in range(rng.integers(4, 13)):
            n = samples(0.8)
            stroke = partials(n, pitch, CHIME[0], [0.15, 0.1, 0.05, 0.03], rng)
            events.append((at + i / rate, stroke * rng.uniform(0.6, 1)))
        at += rng.uniform(0.5, 1.4)
    return place(samples(s), events)


def door_bell(rng: Rng, s: float) -> np.ndarray:
    """Ding-dong on two chime bars, or an electric buzz or trill."""
    n = samples(s)
    if rng.random() < 0.3:
        m = samples(rng.uniform(0.4, 1.5))
        strikes = times(rng, m / RATE, 1 / rng.uniform(18, 30))
        stroke = partials(samples(0.4), rng.uniform(900, 2400), CHIME[0], [0.08] * 4, rng)
        return place(n, [(0.1 + t, stroke) for t in strikes])
    high, events, at = rng.uniform(550, 1000), [], 0.05
    for _ in range(rng.integers(1, 3)):
        for ratio in (1.0, 1 / rng.choice([1.25, 1.26, 1.33])):
            m = samples(2.0)
            stroke = partials(m, high * ratio, CHIME[0], [0.4, 0.15, 0.08, 0.04], rng)
            events.append((at, stroke))
            at += rng.uniform(0.45, 0.9)
    return place(n, events)


def wind_chime(rng: Rng, s: float) -> np.ndarray:
    """A handful of tubes of fixed pitches, hit now and then."""
    tubes, events = rng.uniform(900, 3800, rng.integers(4, 9)), []
    for at in poisson(rng, s, rng.uniform(2, 9)):
        m = samples(2.5)
        hit = partials(m, rng.choice(tubes), CHIME[0], [0.8, 0.3, 0.15, 0.08], rng)
        events.append((at, hit * rng.uniform(0.1, 1)))
    return place(samples(s), events)


def telephone(rng: Rng, s: float) -> np.ndarray:
    """A ringing pair of gongs, or an electronic warble, on and off."""
    n, events, at = samples(s), [], rng.uniform(0, 0.3)
    old, pitch, rate = rng.random() < 0.5, rng.uniform(700, 1800), rng.uniform(15, 28)
    gap = rng.choice([0.25, 1.5])
    while at < s - 0.2:
        m = samples(rng.uniform(0.5, 1.6))
        if old:
            strike = partials(samples(0.5), pitch, CHIME[0], [0.12, 0.08, 0.05, 0.03], rng)
            blows = times(rng, m / RATE, 1 / rate, 0.02)
            events += [(at + t, strike) for t in blows]
        else:
            turn = (clock(m) * rate) % 1 < 0.5
            path = np.where(turn, pitch, pitch * 1.25)
            events.append((at, tone(path, m, [1, 0.3, 0.2]) * swell(m, 0.01, 0.01)))
        at += m / RATE + gap
    return place(n, events)


def alarm_clock(rng: Rng, s: float) -> np.ndarray:
    """Beeps in groups, or a clattering mechanical bell."""
    if rng.random() < 0.3:
        strike = partials(samples(0.4), rng.uniform(1800, 3500), CHIME[0], [0.06] * 4, rng)
        return place(samples(s), [(t, strike) for t in times(rng, s, 1 / rng.uniform(14, 25), 0.1)])
    pitch, length = rng.uniform(700, 3500), rng.uniform(0.05, 0.3)
    many, pause = rng.integers(1, 6), rng.uniform(0.2, 0.8)
    m = samples(length)
    beep = tone(pitch, m, rng.choice([[1.0, 0, 0.33, 0, 0.2], [1.0, 0, 0, 0, 0]]))
    beep *= swell(m, 0.03, 0.03)
    cycle = many * length * 1.8 + pause
    return place(
        samples(s),
        [(t + i * length * 1.8, beep) for t in times(rng, s, cycle, 0) for i in range(many)],
    )


def radio(rng: Rng, s: float) -> np.ndarray:
    """Morse code in a receiver's hiss."""
    n, dot, pitch = samples(s), rng.uniform(0.04, 0.12), rng.uniform(450, 1100)
    events, at = [], rng.uniform(0, 0.2)
    while at < s - dot:
        for _ in range(rng.integers(1, 5)):
            m = samples(dot * rng.choice([1, 3]))
            events.append((at, tone(pitch, m) * swell(m, 0.05, 0.05)))
            at += m / RATE + dot
        at += dot * rng.choice([2, 2, 6])
    hiss = band(rng.standard_normal(n), 300, 3000)
    return place(n, events) + unit(hiss) * rng.uniform(0, 0.25)
