"""Instruments played on recordings of single notes, as a sampler plays them.

The recordings are those of the tonejs-instrument packages, one MP3 file a note ("As3.mp3" is the
A sharp of the third octave). A note that was not recorded is its nearest neighbour, resampled.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from acgd.training.data import sources
from acgd.training.data.recordings import RATE, decode
from acgd.training.data.soundfonts import CHORDAL, Note, phrase

INSTRUMENTS = {
    "guitar": ["guitar-acoustic", "guitar-nylon", "guitar-electric"],
    "piano": ["piano"],
    "violin": ["violin", "violin", "cello"],
    "trumpet": ["trumpet"],
    "saxophone": ["saxophone"],
    "flute": ["flute"],
    "accordion": ["harmonium"],
    "postal horn": ["french-horn"],
}
PITCHES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
RELEASE = 0.12  # seconds in which a note fades after its end
REACH = 3  # semitones that a recording is transposed at its range's ends


def midi(name: str) -> int:
    """The MIDI number of a note's name: "A4" is 69, "As4" 70."""
    sharp = name[1:2] == "s"
    return 12 * (int(name[1 + sharp :]) + 1) + PITCHES[name[0]] + sharp


class Sampled:
    """An instrument's recorded notes; mono, RATE."""

    def __init__(self, name: str, cache: Path):
        files = sources.members(sources.npm(name, cache))
        self.notes = {
            midi(Path(path).stem): decode(io.BytesIO(data))
            for path, data in files.items()
            if re.fullmatch(r"[A-G]s?\d\.mp3", path)
        }
        self.low, self.high = min(self.notes) - REACH, max(self.notes) + REACH

    def play(self, notes: list[Note], seconds: float) -> np.ndarray:
        """(T,) float32: the notes mixed, cut at `seconds`."""
        wave = np.zeros(int(seconds * RATE), np.float32)
        for start, length, key, velocity in notes:
            first = int(start * RATE)
            heard = self.note(key, length)[: max(0, len(wave) - first)]
            wave[first : first + len(heard)] += heard * (velocity / 127) ** 1.5
        return wave

    def note(self, key: int, length: float) -> np.ndarray:
        """One note held for `length` seconds, fading after it."""
        nearest = min(self.notes, key=lambda recorded: abs(recorded - key))
        wave = self.notes[nearest]
        at = np.arange(int((length + RELEASE) * RATE)) * 2 ** ((key - nearest) / 12)
        heard = np.interp(at, np.arange(len(wave)), wave, right=0.0).astype(np.float32)
        fade = int(RELEASE * RATE)
        heard[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        return heard


def instrument(found: dict[str, Sampled], concept: str, rng: np.random.Generator) -> np.ndarray:
    """(T,) float32, three to five seconds of the concept's instrument; `found` by package."""
    names = INSTRUMENTS[concept]
    played = found[names[rng.integers(len(names))]]
    notes = phrase(rng, played.low, played.high, concept in CHORDAL)
    return played.play(notes, rng.uniform(3, 5))
