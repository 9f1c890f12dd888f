"""Sentences about sounds, made by a small grammar from sound_sentences.csv.

A line of the table is a concept: the words that name it (no concept shares one, and no other
concept's sentences use one), whether its sounds come one by one so that they can be counted, its
subjects ({} is the adjective's place), verbs, adjectives, and the kind of place where it is heard.
"""

from __future__ import annotations

import csv
import random
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TABLE = Path(__file__).with_name("sound_sentences.csv")
PLACES = {
    "far": ["in the distance", "nearby", "far away", "outside"],
    "farm": ["on a farm", "in a field", "in the distance", "nearby"],
    "wild": ["in the forest", "at night", "in the distance", "nearby"],
    "pond": ["by a pond", "in the reeds", "nearby", "in the distance"],
    "out": ["outside", "all around", "in the distance", "at night"],
    "street": ["in the street", "at a crossing", "nearby", "in the distance"],
    "sky": ["above the city", "in the distance", "nearby", "far away"],
    "sea": ["in the harbour", "in the distance", "off the coast"],
    "home": ["in a room", "at home", "nearby", "in the next room"],
    "work": ["in a workshop", "in the yard", "nearby", "in the distance"],
    "fire": ["in a fireplace", "at a camp", "in the dark", "nearby"],
    "stage": ["in a hall", "on a stage", "in a room", "in the distance"],
}
TIMES = {1: ["once"], 2: ["twice"], 3: ["three times"]}
OFTEN = ["again and again", "several times"]


@dataclass(frozen=True)
class Grammar:
    """A line of the table."""

    names: list[str]
    counted: bool
    subjects: list[str]
    verbs: list[str]
    adjectives: list[str]
    places: list[str]


def grammars() -> dict[str, Grammar]:
    """Each concept's grammar."""
    with open(TABLE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    split = lambda row, key: row[key].split("|")  # noqa: E731
    return {
        row["concept"]: Grammar(
            *(split(row, "names"), row["counted"] == "1", split(row, "subjects")),
            *(split(row, "verbs"), split(row, "adjectives"), PLACES[row["places"]]),
        )
        for row in rows
    }


def sentence(grammar: Grammar, bursts: int, draw: random.Random) -> str:
    """A sentence about one sound with so many bursts: lower case, no full stop."""
    adjective = draw.choice(grammar.adjectives) if draw.random() < 0.4 else ""
    words = [draw.choice(grammar.subjects).format(adjective), draw.choice(grammar.verbs)]
    if grammar.counted and bursts and draw.random() < 0.6:
        words.append(draw.choice(TIMES.get(bursts, OFTEN)))
    if draw.random() < 0.5:
        words.append(draw.choice(grammar.places))
    text = " ".join(" ".join(words).split())
    text = re.sub(r"\ba(?= [aeiou])", "an", text)
    return text if named_in(text, grammar) else sentence(grammar, bursts, draw)


def named_in(text: str, grammar: Grammar) -> bool:
    """Whether a sentence says a word that names the concept."""
    return bool(set(text.split()) & set(grammar.names))


def concepts_named(text: str, known: dict[str, Grammar]) -> list[str]:
    """The concepts that a sentence names."""
    return [concept for concept, grammar in known.items() if named_in(text, grammar)]


def count_bursts(wave: np.ndarray, sample_rate: int, frame: float = 0.02) -> int:
    """How many times (T,) grows loud: to half of its greatest level after 0.2 s below a quarter."""
    size = max(1, int(frame * sample_rate))
    level = np.sqrt((wave[: len(wave) // size * size].reshape(-1, size) ** 2).mean(1))
    loud, quiet_for, count = level.max(initial=0.0), np.inf, 0
    for value in level:
        if value > 0.5 * loud:
            count += quiet_for >= 0.2
            quiet_for = 0.0
        elif value > 0.25 * loud:
            quiet_for = 0.0
        else:
            quiet_for += frame
    return count
