"""Speech by espeak-ng, which must be installed: voices, speeds and pitches are drawn at random."""

from __future__ import annotations

import io
import shutil
import subprocess

import numpy as np

from acgd.errors import UserError
from acgd.training.data.recordings import RATE, decode

VOICES = ("en-us", "en-gb", "en-gb-scotland", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "ru")
VARIANTS = ("", "+m1", "+m3", "+m5", "+m7", "+f1", "+f2", "+f3", "+f4", "+f5", "+croak", "+whisper")
PEOPLE = ("my sister", "the old man", "nobody", "our teacher", "the captain", "a young girl", "he")
DEEDS = ("went to", "talked about", "dreamed of", "opened", "waited for", "never forgot", "painted")
THINGS = (
    "the market",
    "a quiet house",
    "the weather",
    "seven letters",
    "the morning news",
    "it all",
)
ENDS = (
    "yesterday.",
    "in the rain!",
    "after dinner.",
    "didn't they?",
    "once more.",
    "all day long.",
)


def sentence(rng: np.random.Generator) -> str:
    """A few English words in a plausible order; other voices read them with their own sounds."""
    words = [rng.choice(part) for part in (PEOPLE, DEEDS, THINGS, ENDS)]
    return " ".join(words)


def speak(rng: np.random.Generator) -> np.ndarray:
    """(T,) float32 mono at RATE, at most five seconds of speech."""
    command = shutil.which("espeak-ng")
    if command is None:
        raise UserError("espeak-ng is not installed: apt-get install espeak-ng")
    voice = str(rng.choice(VOICES)) + str(rng.choice(VARIANTS))
    speed, pitch = str(int(rng.integers(120, 210))), str(int(rng.integers(20, 80)))
    call = [command, "-v", voice, "-s", speed, "-p", pitch, "--stdout", sentence(rng)]
    done = subprocess.run(call, capture_output=True, check=True)
    # the WAVE header of a stream announces no length; libsndfile reads to the end all the same
    return decode(io.BytesIO(done.stdout))[: 5 * RATE]
