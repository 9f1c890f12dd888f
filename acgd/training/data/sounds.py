"""Sounds to train on: recordings, soundfonts, speech and recipes in one array and one table.

sounds.npy holds every clip end to end (int16, mono, RATE Hz, each clip's peak at 0.9); sounds.csv
has a row per clip: start and length in samples, concept, source, file, group, split (train or
heldout), kind (real, soundfont, speech, recipe or unlabelled), licence, credit, and the peak it
had before. Unlabelled sounds have no concept; a teacher says what they are (acgd/training/ears.py).
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from zlib import crc32

import numpy as np

from acgd.errors import UserError
from acgd.training.data import duplicates, sampled, soundfonts, sources, speech, synthesis
from acgd.training.data.recordings import Library, clips, read_split

COLUMNS = (
    *("start", "length", "concept", "source", "file", "group", "split", "kind"),
    *("licence", "credit", "peak"),
)
PER_INSTRUMENT = {"fluid-gm": 110, "musescore": 70, "csound": 40}
PER_SAMPLED = 70
PER_EFFECT = {"fluid-gs": 24, "fluid-gm": 16, "musescore": 8}
SPEECH = 160
PER_RECIPE = 60
PER_RECIPE_ESC10 = 40  # where ESC-10 has real clips, made-up ones matter less
ESC10 = {
    *("dog", "rain", "sea waves", "baby crying", "clock ticking"),
    *("sneeze", "helicopter", "chainsaw", "rooster", "fire crackling"),
}
PEAK = 0.9
UNLABELLED = {
    "0ad": "Wildfire Games",
    "freeorion": "The FreeOrion project",
    "minetest": "the Minetest developers and contributors",
}
PER_LANGUAGE = 60  # voices of 0 A.D. that count in each language

Clip = tuple[dict[str, str], np.ndarray]  # its row so far, and (T,) float32


def build(out: Path, cache: Path, esc10: Path | None, seed: int = 0) -> list[dict]:
    """Write `out`/sounds.npy and sounds.csv; returns the rows. Without `esc10` they lack its clips.

    Raises UserError where one waveform stands on both sides of the split.
    """
    real = list(recordings(cache, esc10))
    check_split(real)
    real += unlabelled(cache)
    tasks = [(_instruments(row), row, cache, seed) for row in read_split() if is_played(row)]
    tasks += [(_recipe_clips, concept, seed) for concept in synthesis.RECIPES]
    tasks += [(_speech_clips, seed)]
    made: list[Clip] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(_call, tasks):
            made += done
    return write(out, real + made)


def is_played(row: dict[str, str]) -> bool:
    """Whether a row of split.csv is instruments to be played: a soundfont or recorded notes."""
    return row["concept"] == "instruments"


def recordings(cache: Path, esc10: Path | None) -> Iterator[Clip]:
    """Every clip of every recording of split.csv."""
    library = Library(cache, esc10)
    for row in read_split():
        if is_played(row) or (row["source"] == "esc-10" and esc10 is None):
            continue
        for clip in clips(library.read(row["source"], row["file"])):
            yield row | {"kind": "real"}, clip


def unlabelled(cache: Path) -> Iterator[Clip]:
    """The sounds of UNLABELLED's packages that split.csv does not list."""
    library, voices = Library(cache), Counter()
    known = {(row["source"], row["file"]) for row in read_split()}
    for source, credit in UNLABELLED.items():
        row = {"concept": "", "source": source, "group": source, "split": "train"}
        row |= {"kind": "unlabelled", "licence": "CC BY-SA 3.0", "credit": credit}
        for file in library.files(source):
            if "/voice/" in file:
                language = file.split("/")[2]
                voices[language] += 1
                if voices[language] > PER_LANGUAGE:
                    continue
            if (source, file) not in known:
                for clip in clips(library.read(source, file)):
                    yield row | {"file": file}, clip


def check_split(real: list[Clip]) -> None:
    """Compare the held-out recordings of each concept with its training ones, as waveforms."""
    for concept in sorted({row["concept"] for row, _ in real}):
        mine = [clip for clip in real if clip[0]["concept"] == concept]
        for i, j, value in duplicates.matches([wave for _, wave in mine]):
            a, b = mine[i][0], mine[j][0]
            if a["split"] != b["split"]:
                names = f"{a['source']}/{a['file']} and {b['source']}/{b['file']}"
                raise UserError(
                    f"{names} are one recording ({value}) on both sides of the split: "
                    "give them one group in split.csv"
                )


def write(out: Path, made: list[Clip]) -> list[dict]:
    """Level the clips and write the array and the table; each appears whole or not at all."""
    total = sum(len(wave) for _, wave in made)
    partial = out / "sounds.partial.npy"
    array = np.lib.format.open_memmap(partial, "w+", np.int16, (total,))
    rows, start = [], 0
    for row, wave in made:
        peak = float(np.abs(wave).max())
        array[start : start + len(wave)] = np.round(wave * (PEAK * 32767 / peak)).astype(np.int16)
        rows.append(row | {"start": start, "length": len(wave), "peak": f"{peak:.4f}"})
        start += len(wave)
    array.flush()
    os.replace(partial, out / "sounds.npy")
    table = out / "sounds.partial.csv"
    with open(table, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(table, out / "sounds.csv")
    return rows


def _call(task: tuple) -> list[Clip]:
    return task[0](*task[1:])


def _instruments(row: dict[str, str]) -> Callable[..., list[Clip]]:
    return _sampled_clips if row["source"] == "tonejs" else _font_clips


def _sampled_clips(row: dict[str, str], cache: Path, seed: int) -> list[Clip]:
    """Instruments of which single notes were recorded."""
    names = {name for own in sampled.INSTRUMENTS.values() for name in own}
    found = {name: sampled.Sampled(name, cache) for name in sorted(names)}
    made = []
    for concept in sampled.INSTRUMENTS:
        for i in range(PER_SAMPLED):
            wave = sampled.instrument(found, concept, _rng(seed, row["source"], concept, i))
            made += _clip(row | {"concept": concept, "kind": "soundfont"}, wave)
    return made


def _font_clips(row: dict[str, str], cache: Path, seed: int) -> list[Clip]:
    """All instruments and effects that one soundfont plays."""
    name = row["source"]
    font = soundfonts.Font(sources.folder(name, cache) / row["file"])
    made = []
    for concept in (*soundfonts.INSTRUMENTS, *soundfonts.KITS):
        for i in range(PER_INSTRUMENT.get(name, 0)):
            wave = soundfonts.instrument(font, concept, _rng(seed, name, concept, i))
            made += _clip(row | {"concept": concept, "kind": "soundfont"}, wave)
    table = soundfonts.GS_EFFECTS if name == "fluid-gs" else soundfonts.GM_EFFECTS
    for concept, presets in table.items():
        for preset in presets:
            for i in range(PER_EFFECT.get(name, 0)):
                rng = _rng(seed, name, f"{concept}{preset}", i)
                wave = soundfonts.effect(font, preset, rng)
                made += _clip(row | {"concept": concept, "kind": "soundfont"}, wave)
    return made


def _recipe_clips(concept: str, seed: int) -> list[Clip]:
    row = _made_row(concept, "recipe")
    count = PER_RECIPE_ESC10 if concept in ESC10 else PER_RECIPE
    waves = [synthesis.make(concept, _rng(seed, "recipe", concept, i)) for i in range(count)]
    return [clip for wave in waves for clip in _clip(row, wave)]


def _speech_clips(seed: int) -> list[Clip]:
    row = _made_row("speech", "speech") | {"source": "espeak-ng"}
    waves = [speech.speak(_rng(seed, "espeak-ng", "speech", i)) for i in range(SPEECH)]
    return [clip for wave in waves for clip in _clip(row, wave)]


def _made_row(concept: str, kind: str) -> dict[str, str]:
    made = {"source": kind, "file": "", "group": kind, "split": "train", "kind": kind}
    return made | {"concept": concept, "licence": "MIT", "credit": "made by rule"}


def _clip(row: dict[str, str], wave: np.ndarray) -> list[Clip]:
    """The clip without silent ends; none where it stayed silent."""
    return [(row, clip) for clip in clips(wave)[:1]]


def _rng(seed: int, *name: str | int) -> np.random.Generator:
    return np.random.default_rng([seed, crc32("/".join(map(str, name)).encode())])
