"""Instruments and effects played on soundfonts: notes, chords, scales, arpeggios, little tunes.

Everything is drawn from a numpy Generator, so a concept's clips are the same each time. A preset is
(bank, program, lowest key, highest key); keys are MIDI numbers (60 = middle C).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from acgd.training.data.recordings import RATE

INSTRUMENTS = {
    "guitar": [(0, n, 40, 76 if n < 28 else 72) for n in (24, 25, 26, 27, 29, 30)],
    "piano": [(0, 0, 28, 96), (0, 1, 28, 96), (0, 3, 40, 88)],
    "violin": [(0, 40, 55, 91), (0, 41, 48, 79), (0, 42, 36, 69), (0, 110, 55, 88)],
    "trumpet": [(0, 56, 54, 82), (0, 56, 54, 82), (0, 59, 54, 80)],
    "saxophone": [(0, 64, 56, 82), (0, 65, 49, 80), (0, 66, 44, 75), (0, 67, 37, 68)],
    "flute": [(0, 73, 60, 93), (0, 73, 60, 93), (0, 72, 74, 100), (0, 74, 62, 91), (0, 75, 60, 88)],
    "accordion": [(0, 21, 48, 86), (0, 21, 48, 86), (0, 23, 48, 86)],
    "banjo": [(0, 105, 48, 81)],
    "postal horn": [(0, 60, 41, 74)],
    "singing": [(0, 52, 45, 77), (0, 53, 45, 77)],
    "hand bell": [(0, 112, 60, 96), (0, 9, 72, 96), (0, 14, 72, 90)],
    "church bell": [(0, 14, 36, 66)],
    "door bell": [(0, 14, 64, 84), (0, 11, 60, 84)],
}
CHORDAL = {"guitar", "piano", "accordion", "singing", "banjo"}
# keys of the General MIDI drum kit
KITS = {
    "drum": [35, 36, 38, 40, 41, 43, 45, 47, 48, 50, 42, 46, 49],
    "long drum": [60, 61, 62, 63, 64],
    "maracas": [70, 82, 69],
}
GS_EFFECTS = {
    "dog": [(1, 123)],
    "horse": [(2, 123)],
    "songbird": [(3, 123)],
    "rain": [(1, 122)],
    "thunder": [(2, 122)],
    "wind": [(3, 122)],
    "stream": [(4, 122)],
    "bubbles": [(5, 122)],
    "telephone": [(1, 124)],
    "door": [(2, 124), (3, 124)],
    "wind chime": [(5, 124)],
    "car engine": [(1, 125), (3, 125)],
    "siren": [(5, 125)],
    "train": [(6, 125)],
    "airplane": [(7, 125)],
    "rocket": [(8, 125)],
    "laughing": [(1, 126)],
    "screaming": [(2, 126)],
    "heartbeat": [(4, 126)],
    "footsteps": [(5, 126)],
    "gunshot": [(1, 127)],
    "explosion": [(3, 127)],
}
GM_EFFECTS = {
    "sea waves": [(0, 122)],
    "songbird": [(0, 123)],
    "telephone": [(0, 124)],
    "helicopter": [(0, 125)],
    "clapping": [(0, 126)],
    "gunshot": [(0, 127)],
}
SCALES = ([0, 2, 4, 5, 7, 9, 11], [0, 2, 3, 5, 7, 8, 10], [0, 2, 4, 7, 9], [0, 3, 5, 7, 10])
CHORDS = ([0, 4, 7], [0, 3, 7], [0, 4, 7, 11], [0, 4, 7, 10], [0, 7, 12], [0, 5, 9])

Note = tuple[float, float, int, int]  # start s, length s, key, velocity


class Font:
    """A soundfont that renders lists of notes; mono, RATE."""

    def __init__(self, path: Path):
        import tinysoundfont

        self.synth = tinysoundfont.Synth(gain=-6, samplerate=RATE)
        self.id = self.synth.sfload(str(path))

    def play(self, bank: int, program: int, notes: list[Note], seconds: float) -> np.ndarray:
        """(T,) float32: the notes played on one preset, cut at `seconds`."""
        self.synth.sounds_off()
        self._generate(RATE // 4)  # what the last clip left fades out unheard
        self.synth.program_select(0, self.id, bank, program, bank == 128)
        events = [(start, True, key, vel) for start, _, key, vel in notes]
        events += [(start + length, False, key, 0) for start, length, key, _ in notes]
        wave, done = [], 0
        for time, on, key, velocity in sorted(events):
            upto = min(int(time * RATE), int(seconds * RATE))
            wave.append(self._generate(upto - done))
            done = upto
            if on:
                self.synth.noteon(0, key, velocity)
            else:
                self.synth.noteoff(0, key)
        wave.append(self._generate(int(seconds * RATE) - done))
        return np.concatenate(wave)

    def _generate(self, samples: int) -> np.ndarray:
        if samples <= 0:
            return np.zeros(0, np.float32)
        both = np.frombuffer(self.synth.generate(samples), dtype=np.float32)
        return both.reshape(-1, 2).mean(1)


def phrase(rng: np.random.Generator, low: int, high: int, chordal: bool) -> list[Note]:
    """Three to five seconds of a random note, scale, arpeggio, tune or chords within a range."""
    kinds = ["note", "notes", "scale", "arpeggio", "tune", "tune"] + ["chords", "chords"] * chordal
    kind = kinds[rng.integers(len(kinds))]
    beat = rng.uniform(0.14, 0.55)
    root = int(rng.integers(low, max(low + 1, high - 11)))
    ladder = np.array([root + 12 * o + s for o in range(3) for s in SCALES[rng.integers(4)]])
    ladder = ladder[ladder <= high]
    count = int(np.clip(rng.uniform(3, 4.5) / beat, 3, 20))
    if kind == "note":
        return [(0.0, rng.uniform(0.8, 3.5), int(rng.integers(low, high + 1)), _velocity(rng))]
    if kind == "notes":
        key, beat = int(rng.integers(low, high + 1)), rng.uniform(0.3, 1.2)
        times = np.arange(int(3.5 / beat)) * beat
        return [(t, beat * 0.9, key, _velocity(rng)) for t in times]
    if kind == "chords":
        beat = rng.uniform(0.4, 1.4)
        return [
            note for t in np.arange(int(4 / beat)) * beat for note in _chord(rng, t, beat, ladder)
        ]
    if kind == "tune":
        steps = np.cumsum(rng.integers(-2, 3, count)) + len(ladder) // 2
    elif kind == "arpeggio":
        steps = np.arange(count) * 2 * rng.choice([-1, 1])
    else:
        steps = np.arange(count) * rng.choice([-1, 1])
    lengths = beat * (rng.choice([1, 1, 1, 2, 0.5], count) if kind == "tune" else np.ones(count))
    starts = np.cumsum(lengths) - lengths
    keys = ladder[steps % len(ladder)]
    held = rng.uniform(0.6, 1.05)
    return [
        (t, n * held, int(key), _velocity(rng))
        for t, n, key in zip(starts, lengths, keys, strict=True)
    ]


def beat(rng: np.random.Generator, keys: list[int]) -> list[Note]:
    """Three to five seconds of percussion: single hits, a roll, or a repeated random pattern."""
    kind = rng.choice(["hits", "roll", "pattern", "pattern"])
    if kind == "roll":
        step, key = rng.uniform(0.035, 0.09), int(rng.choice(keys[: max(3, len(keys) - 3)]))
        count = int(rng.uniform(1, 3) / step)
        swell = np.linspace(rng.uniform(40, 100), rng.uniform(60, 120), count)
        return [(i * step, step, key, int(swell[i])) for i in range(count)]
    if kind == "hits":
        count, step = int(rng.integers(1, 6)), rng.uniform(0.3, 0.9)
        key = int(rng.choice(keys))
        return [(i * step, 0.3, key, _velocity(rng)) for i in range(count)]
    step, length = rng.uniform(0.1, 0.22), int(rng.choice([6, 8, 8, 16]))
    bar = [
        (i, int(rng.choice(keys))) for i in range(length) for _ in range(2) if rng.random() < 0.45
    ]
    bars = int(np.ceil(4 / (step * length)))
    return [
        ((b * length + i) * step, 0.2, key, _velocity(rng)) for b in range(bars) for i, key in bar
    ]


def tolls(rng: np.random.Generator, low: int, high: int) -> list[Note]:
    """A bell: one toll, slow tolls of one key, or two keys in turn."""
    keys = rng.integers(low, high + 1, int(rng.choice([1, 1, 2, 3])))
    step = rng.uniform(0.5, 2.5)
    times = np.arange(max(1, int(4 / step))) * step
    return [(t, 3.0, int(keys[i % len(keys)]), _velocity(rng)) for i, t in enumerate(times)]


def ding_dong(rng: np.random.Generator, low: int, high: int) -> list[Note]:
    """A door bell: a key, then one a third or more below, perhaps once more."""
    top, drop, gap = int(rng.integers(low + 5, high + 1)), int(rng.choice([3, 4, 4, 5])), 0.7
    gap *= rng.uniform(0.6, 1.4)
    pair = [(0.0, 2.0, top, _velocity(rng)), (gap, 2.5, top - drop, _velocity(rng))]
    again = rng.uniform(1.4, 2.2) if rng.random() < 0.4 else None
    return pair + ([(t + again, n, k, v) for t, n, k, v in pair] if again else [])


def instrument(font: Font, concept: str, rng: np.random.Generator) -> np.ndarray:
    """(T,) float32, three to five seconds of the concept's instrument."""
    seconds = rng.uniform(3, 5)
    if concept in KITS:
        kit = int(rng.choice([0, 8, 16, 32, 40])) if concept == "drum" else 0
        if concept == "long drum" and rng.random() < 0.35:
            drum = int(rng.choice([116, 117]))
            hits = [(t, n, int(rng.integers(45, 65)), v) for t, n, _, v in beat(rng, [50])]
            return font.play(0, drum, hits, seconds)
        return font.play(128, kit, beat(rng, KITS[concept]), seconds)
    presets = INSTRUMENTS[concept]
    bank, program, low, high = presets[rng.integers(len(presets))]
    if concept == "door bell":
        notes = ding_dong(rng, low, high)
    elif concept in ("church bell", "hand bell"):
        notes = tolls(rng, low, high)
    else:
        notes = phrase(rng, low, high, concept in CHORDAL)
    return font.play(bank, program, notes, seconds)


def effect(font: Font, preset: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(T,) float32: a General MIDI or GS sound effect at a random pitch, once or repeated."""
    key, seconds = int(rng.integers(50, 71)), rng.uniform(2.5, 5)
    step = rng.uniform(0.35, 2.0)
    times = np.arange(0, seconds, step) if rng.random() < 0.6 else [0.0]
    notes = [(float(t), step if len(times) > 1 else seconds, key, _velocity(rng)) for t in times]
    return font.play(*preset, notes, seconds)


def _chord(rng: np.random.Generator, time: float, length: float, ladder: np.ndarray) -> list[Note]:
    root = int(ladder[rng.integers(max(1, len(ladder) // 2))])
    strum = rng.choice([0.0, 0.015, 0.04])
    tones = CHORDS[rng.integers(len(CHORDS))]
    return [
        (time + i * strum, length * 0.95, root + tone, _velocity(rng))
        for i, tone in enumerate(tones)
    ]


def _velocity(rng: np.random.Generator) -> int:
    return int(rng.integers(55, 125))
