"""Tools, bodies, instruments, robots and ghosts made by rule: (rng, seconds) -> wave."""

from __future__ import annotations

import numpy as np
from scipy import signal

from acgd.training.data.recordings import RATE
from acgd.training.data.synthesis.nature import drip
from acgd.training.data.synthesis.signals import CHIME
from acgd.training.data.waves import (
    Rng,
    band,
    clock,
    decay,
    drift,
    noise,
    partials,
    place,
    poisson,
    resonate,
    samples,
    saw,
    swell,
    times,
    tone,
    unit,
)


def knock(rng: Rng, low: float, high: float, half: float, hard: float) -> np.ndarray:
    """One hit on a body with modes between two frequencies; `hard` is its click's share."""
    n = samples(half * 10)
    ratios = np.sort(rng.uniform(low, high, 5)) / low
    body = partials(n, low, ratios, half * rng.uniform(0.4, 1, 5), rng)
    return body + hard * noise(rng, n, 800) * decay(n, 0.004, 5e-4)


def clock_ticking(rng: Rng, s: float) -> np.ndarray:
    """Tick, tock: two short clicks in turn at a steady pace."""
    pace = rng.choice([0.2, 0.25, 0.33, 0.5, 1.0]) * rng.uniform(0.95, 1.05)
    low = rng.uniform(800, 3000)
    pair = [knock(rng, low * k, 6000, rng.uniform(0.002, 0.01), 0.6) for k in (1.0, 0.8)]
    at = times(rng, s, pace, 0)
    return place(samples(s), [(t, pair[i % 2]) for i, t in enumerate(at)])


def typing(rng: Rng, s: float) -> np.ndarray:
    """Key clicks in bursts, each a press and a softer release."""
    events, at = [], rng.uniform(0, 0.2)
    low = rng.uniform(500, 1800)
    while at < s:
        key = knock(rng, low * rng.uniform(0.8, 1.25), 5000, rng.uniform(0.003, 0.009), 0.8)
        events += [(at, key * rng.uniform(0.5, 1)), (at + 0.06, key * rng.uniform(0.1, 0.4))]
        at += rng.choice([0.09, 0.13, 0.18, 0.5]) * rng.uniform(0.8, 1.3)
    return place(samples(s), events)


def camera(rng: Rng, s: float) -> np.ndarray:
    """Shutter: a click, a whirr of the mirror or the film, a second click."""
    events = []
    for at in times(rng, s, rng.uniform(0.5, 2.5), 0.2):
        click = knock(rng, rng.uniform(900, 2500), 7000, 0.004, 1.0)
        gap = rng.uniform(0.04, 0.18)
        m = samples(gap + rng.choice([0.0, 0.4]))
        whirr = noise(rng, m, 1500, 6000) * 0.15 * swell(m, 0.1, 0.2)
        events += [(at, click), (at, whirr), (at + gap, click * rng.uniform(0.4, 1))]
    return place(samples(s), events)


def cash_register(rng: Rng, s: float) -> np.ndarray:
    """Ka-ching: clacks, a bell, and coins falling."""
    n, at = samples(s), rng.uniform(0.1, 0.5)
    clacks = [(at - d, knock(rng, 400, 3000, 0.008, 1.0)) for d in (0.1, 0.0) if at > d]
    bell_ = partials(samples(1.5), rng.uniform(1800, 3200), CHIME[0], [0.3, 0.2, 0.1, 0.05], rng)
    coins = []
    for t in poisson(rng, rng.uniform(0.3, s - 1), rng.uniform(5, 25)):
        ping = partials(samples(0.3), rng.uniform(3000, 6500), [1, 1.4], [0.03, 0.02], rng)
        coins.append((at + 0.2 + t, ping * rng.uniform(0.1, 0.7)))
    return place(n, [*clacks, (at + 0.05, bell_ * rng.choice([0, 1, 1])), *coins])


def strokes(low: float, high: float, half: float, step: tuple[float, float], hard: float):
    """A tool's blows at a workman's pace."""

    def work(rng: Rng, s: float) -> np.ndarray:
        blow = knock(rng, low * rng.uniform(0.7, 1.4), high, half * rng.uniform(0.5, 1.8), hard)
        at = times(rng, s, rng.uniform(*step), 0.15)
        return place(samples(s), [(t, blow * rng.uniform(0.5, 1)) for t in at])

    return work


def kettle(rng: Rng, s: float) -> np.ndarray:
    """Water seething, and a whistle that rises and steadies."""
    n = samples(s)
    u = np.linspace(0, 1, n)
    path = rng.uniform(1500, 3000) * (1 - rng.uniform(0.1, 0.4) * np.exp(-u * rng.uniform(3, 9)))
    whistle = tone(path * (1 + 0.004 * drift(rng, n, 9)), n, [1, 0.3, 0.1])
    steam = noise(rng, n, 1500, 9000)
    return whistle * np.clip(u * rng.uniform(1.5, 6), 0, 1) + steam * rng.uniform(0.05, 0.3)


def bottle(rng: Rng, s: float) -> np.ndarray:
    """A cork's pop, then fizz and pouring."""
    n, at = samples(s), rng.uniform(0.05, 0.6)
    m = samples(0.15)
    pop = tone(rng.uniform(250, 700) * (1 + 4 * clock(m)), m) * decay(m, 0.015)
    pop += 0.6 * noise(rng, m, 500) * decay(m, 0.005, 5e-4)
    fizz = noise(rng, n, 3000) * np.clip(clock(n) - at, 0, None) ** 0.3 * 0.08 * rng.random()
    glug = [(at + 0.5 + t, 0.3 * drip(rng, 500)) for t in times(rng, s, 0.16, 0.5)]
    return place(n, [(at, pop * 2), *(glug if rng.random() < 0.4 else [])]) + fizz * swell(n, 0.1)


def clapping(rng: Rng, s: float) -> np.ndarray:
    """One person clapping, or an audience of them."""
    n = samples(s)
    wave = np.zeros(n)
    for _ in range(rng.choice([1, 1, 4, 30, 60])):
        m, step = samples(0.06), rng.uniform(0.2, 0.45)
        clap = noise(rng, m, rng.uniform(500, 1200), rng.uniform(2500, 7000)) * decay(
            m, 0.008, 1e-3
        )
        at = rng.uniform(0, step) + times(rng, s, step, 0.15)
        wave += place(n, [(t, clap * rng.uniform(0.5, 1)) for t in at]) * rng.uniform(0.3, 1)
    return wave


def footsteps(rng: Rng, s: float) -> np.ndarray:
    """Steps: a heel's thud and a sole's scrape on hard floor, gravel or snow."""
    n, step, grit = samples(s), rng.uniform(0.35, 0.8), rng.uniform(0.1, 1)
    events = []
    for at in times(rng, s, step, 0.06):
        thud = knock(rng, rng.uniform(70, 200), 900, 0.015, 0.3)
        m = samples(rng.uniform(0.05, 0.2))
        scrape = noise(rng, m, 700, 7000) * swell(m, 0.2, 0.6) * rng.random(m) ** (3 * grit)
        events += [(at, thud), (at + 0.04, scrape * grit * 0.5)]
    return place(n, events)


def heartbeat(rng: Rng, s: float) -> np.ndarray:
    """Lub-dub: two dull thumps per beat."""
    pace, events = rng.uniform(0.5, 1.2), []
    pitch = rng.uniform(40, 90)
    for at in times(rng, s, pace, 0.03):
        for d, k in ((0.0, 1.0), (pace * rng.uniform(0.28, 0.34), 1.3)):
            n = samples(0.25)
            thump = tone(pitch * k * 0.6 ** (clock(n) / 0.15), n, [1, 0.3]) * decay(n, 0.035, 0.01)
            events.append((at + d, thump / k))
    return place(samples(s), events)


def pluck(rng: Rng, frequency: float, seconds: float, bright: float) -> np.ndarray:
    """A plucked string (Karplus and Strong, 1983): noise in a delay loop with a low-pass."""
    period = max(2, int(RATE / frequency))
    n = samples(seconds)
    burst = np.zeros(n)
    burst[:period] = band(rng.uniform(-1, 1, period), 0, bright, 1)
    loop = np.zeros(period + 2)
    loop[0], loop[period], loop[period + 1] = 1, -0.4975, -0.4975
    return signal.lfilter([1.0], loop, burst)


def plucked(low: float, high: float, bright: float):
    """Tunes and strums on a plucked string instrument."""

    def play(rng: Rng, s: float) -> np.ndarray:
        root, events, at = rng.uniform(low, high), [], 0.0
        while at < s - 0.1:
            tones = rng.choice([0, 2, 4, 7, 9, 12, 16], rng.choice([1, 1, 1, 4]), replace=False)
            for i, tone_ in enumerate(np.sort(tones)):
                note = pluck(rng, root * 2 ** (tone_ / 12), 2.0, bright * rng.uniform(0.6, 1.5))
                events.append((at + 0.02 * i, note))
            at += rng.choice([0.15, 0.3, 0.3, 0.6])
        return place(samples(s), events)

    return play


def maracas(rng: Rng, s: float) -> np.ndarray:
    """Seeds in a gourd: short bursts of grains in an even rhythm."""
    step, low = rng.uniform(0.1, 0.3), rng.uniform(2500, 5000)
    events = []
    for i, at in enumerate(times(rng, s, step, 0.04)):
        m = samples(rng.uniform(0.04, 0.12))
        shake = noise(rng, m, low, 10500) * swell(m, 0.35, 0.6) * rng.random(m) ** 2
        events.append((at, shake * (1 if i % 2 else rng.uniform(0.4, 0.9))))
    return place(samples(s), events)


def robot(rng: Rng, s: float) -> np.ndarray:
    """Beeps and sweeps in quick order, or a monotone buzz shaped by vowels."""
    n, events, at = samples(s), [], 0.0
    voice, pitch = rng.random() < 0.5, rng.uniform(80, 180)
    while at < s - 0.05:
        m = samples(rng.uniform(0.05, 0.3))
        if voice:
            vowel = [rng.uniform(300, 800), rng.uniform(900, 2300), rng.uniform(2300, 3000)]
            piece = unit(resonate(saw(pitch, m, 0.4), vowel, 8)) * swell(m, 0.1, 0.1)
        else:
            path = np.geomspace(*rng.uniform(300, 3000, 2), m)
            shape = rng.choice([[1.0, 0, 0], [1.0, 0, 0.33]])
            piece = tone(path, m, shape) * swell(m, 0.05, 0.05)
        events.append((at, piece))
        at += m / RATE + rng.choice([0.0, 0.02, 0.15])
    return place(n, events)


def game_console(rng: Rng, s: float) -> np.ndarray:
    """Jumps, coins, lasers, blasts and square-wave tunes."""
    n, events, at = samples(s), [], 0.0
    while at < s - 0.05:
        kind = rng.choice(["jump", "coin", "laser", "blast", "tune", "tune"])
        m = samples(rng.uniform(0.12, 0.4))
        u = np.linspace(0, 1, m)
        if kind == "blast":
            held = np.repeat(rng.standard_normal(m // 12 + 1), 12)[:m]
            piece = held * (1 - u)
        elif kind == "tune":
            steps = rng.choice([0, 3, 4, 5, 7, 10, 12], 6)
            path = rng.uniform(220, 700) * 2 ** (np.repeat(steps, m // 6 + 1)[:m] / 12)
            piece = np.sign(tone(path, m))
        else:
            low, high = rng.uniform(150, 600), rng.uniform(700, 2500)
            path = {
                "jump": low + (high - low) * u,
                "coin": np.where(u < 0.25, high, high * 1.335),
                "laser": high * (low / high) ** u,
            }[kind]
            piece = np.sign(tone(path, m)) * (1 - u)
        events.append((at, 0.5 * piece))
        at += m / RATE + rng.choice([0.0, 0.05, 0.3])
    return place(n, events)


def flying_saucer(rng: Rng, s: float) -> np.ndarray:
    """A theremin's wobble: a gliding sine with deep vibrato, and a hum."""
    n = samples(s)
    path = rng.uniform(250, 900) * 2 ** (1.5 * drift(rng, n, rng.uniform(0.5, 2)) - 0.5)
    wobble = rng.uniform(0.02, 0.25) * np.sin(2 * np.pi * rng.uniform(3, 14) * clock(n))
    wave = tone(path * (1 + wobble), n, [1, rng.uniform(0, 0.5), rng.uniform(0, 0.2)])
    return wave + tone(rng.uniform(50, 120), n, [1, 0.5]) * rng.uniform(0, 0.4)


def ghost(rng: Rng, s: float) -> np.ndarray:
    """Whooo: a hollow moan through two moving vowels, with breath."""
    n = samples(s)
    path = rng.uniform(150, 420) * 2 ** (0.8 * np.sin(np.pi * np.linspace(0, 1, n)) - 0.3)
    path = path * (1 + 0.02 * np.sin(2 * np.pi * rng.uniform(4, 7) * clock(n)))
    breath = noise(rng, n, 200, 2500) * rng.uniform(0.05, 0.4)
    moan = resonate(saw(path, n, 1.4) + breath, [rng.uniform(300, 450), rng.uniform(600, 900)], 4)
    return moan * swell(n, 0.3, 0.4)


def cough(rng: Rng, s: float) -> np.ndarray:
    """One to four coughs: a burst of breath through a throat, then a voiced tail."""
    n, events, at = samples(min(s, 2.5)), [], 0.05
    throat = [rng.uniform(500, 900), rng.uniform(1100, 1800), rng.uniform(2300, 3200)]
    for _ in range(rng.integers(1, 5)):
        m = samples(rng.uniform(0.18, 0.4))
        voice = saw(np.linspace(rng.uniform(130, 300), rng.uniform(90, 180), m), m, 1.0)
        burst = resonate(noise(rng, m) + rng.uniform(0.1, 0.8) * voice, throat, 3)
        events.append((at, unit(burst) * decay(m, 0.05, 0.005)))
        at += m / RATE + rng.uniform(0.05, 0.3)
    return place(n, events)
