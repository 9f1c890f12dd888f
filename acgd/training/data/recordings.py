"""The real recordings: which files, where they lie, and their samples.

split.csv beside this file lists every recording and soundfont: concept, source, file, group (the
origin; clips of one origin never stand on both sides), split (train or heldout), licence, credit.
"""

from __future__ import annotations

import csv
import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

from acgd.training.data import archives, sources

RATE = 22050  # Hz
LONGEST = 10.0  # seconds of a clip
SHORTEST = 0.15
PIECES = 4  # a longer recording gives up to so many clips, all of its own group
SPLIT = Path(__file__).with_name("split.csv")
ACCEPTED = {
    *("CC0", "MIT", "public domain", "CC BY 3.0", "CC BY 4.0"),
    *("CC BY-SA 3.0", "CC BY-SA 4.0", "Free Art"),
}


def read_split(path: Path = SPLIT) -> list[dict[str, str]]:
    """The rows of the split file."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Library:
    """Opens the files that split.csv names; archives are read once."""

    def __init__(self, cache: Path, esc10: Path | None = None):
        self.cache, self.esc10 = cache, esc10
        self._cat: list[tuple[str, bytes]] = []
        self._rcc: dict[str, dict[str, bytes]] = {}
        self._zip: zipfile.ZipFile | None = None

    def read(self, source: str, file: str) -> np.ndarray:
        """(T,) float32 in [-1, 1] at RATE: the whole file, mixed to mono."""
        if source == "esc-10":
            return decode(str(self.esc10 / file))
        folder = sources.folder(source, self.cache)
        if source == "0ad":
            return decode(io.BytesIO(self.zipped(folder).read(file)))
        if source == "opensfx":
            if not self._cat:
                self._cat = archives.read_cat((folder / "opensfx.cat").read_bytes())
            return decode(io.BytesIO(self._cat[int(file)][1]))
        if source == "gcompris":  # ACTIVITY/resource/... lies in ACTIVITY.rcc
            name = file.split("/")[0]
            if name not in self._rcc:
                data = (folder / f"{name}.rcc").read_bytes()
                self._rcc[name] = archives.read_rcc(data)
            return decode(io.BytesIO(self._rcc[name][f"gcompris/src/activities/{file}"]))
        return decode(str(folder / file))

    def zipped(self, folder: Path) -> zipfile.ZipFile:
        """0 A.D.'s archive, opened once."""
        if self._zip is None:
            self._zip = zipfile.ZipFile(folder / "public.zip")
        return self._zip

    def files(self, source: str) -> list[str]:
        """Every sound of a source, as `read` takes them."""
        folder = sources.folder(source, self.cache)
        if source == "0ad":
            found = [name for name in self.zipped(folder).namelist() if name.startswith("audio/")]
        else:
            found = [str(path.relative_to(folder)) for path in folder.rglob("*")]
        return sorted(name for name in found if name.lower().endswith((".ogg", ".wav")))


def decode(file: str | io.BytesIO) -> np.ndarray:
    """(T,) float32 mono at RATE from any file that libsndfile reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    wave = samples.mean(1)
    return wave if rate == RATE else soxr.resample(wave, rate, RATE, "HQ").astype(np.float32)


def clips(wave: np.ndarray) -> list[np.ndarray]:
    """The recording without silence at its ends, cut into at most PIECES clips of LONGEST.

    Nothing comes back for a recording that is silent, broken or shorter than SHORTEST.
    """
    if not np.isfinite(wave).all() or not len(wave) or np.abs(wave).max() < 1e-3:
        return []
    loud = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max())
    wave = wave[max(0, loud[0] - RATE // 50) : loud[-1] + RATE // 20]
    size = int(LONGEST * RATE)
    cut = [wave[i : i + size] for i in range(0, len(wave), size)][:PIECES]
    # the last piece of a long recording is kept only when it holds a second and some sound
    cut = cut[:1] + [c for c in cut[1:] if len(c) >= RATE and np.abs(c).max() > 0.02]
    return [c for c in cut if len(c) >= SHORTEST * RATE]
