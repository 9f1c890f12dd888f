"""What the embedded models have pictures of, and whether a text is about any of it.

They know the concepts of weights/concepts.csv, each by several names, and what else somebody who
saw only the pictures has recognised, weights/names.txt. Of a text without any of these words they
draw what is nearest to it.
"""

from __future__ import annotations

import csv
import re
from functools import cache

from acgd.paths import CONCEPTS, NAMES
from acgd.types import Encoder

MEANT = 0.9  # likeness from which on a text means a thing and nothing else


@cache
def things() -> dict[str, list[str]]:
    """What they have pictures of: each thing's name, and all its names."""
    with open(CONCEPTS, encoding="utf-8", newline="") as file:
        found = {row["concept"]: row["prompts"].split("|") for row in csv.DictReader(file)}
    return found | {name: [name] for name in NAMES.read_text(encoding="utf-8").split("\n")[:-1]}


@cache
def known() -> tuple[str, ...]:
    """Every name of every thing."""
    return tuple(dict.fromkeys(name for names in things().values() for name in names))


@cache
def pattern() -> re.Pattern[str]:
    """Any of the names as whole words, one or several of a thing."""
    names = "|".join(sorted((re.escape(name.lower()) for name in known()), key=len, reverse=True))
    return re.compile(rf"\b(?:{names})(?:s|es)?\b")


def is_known(text: str) -> bool:
    return pattern().search(text.lower()) is not None


def nearest(text: str, encoder: Encoder, most: int = 3) -> list[str]:
    """The things that the encoder finds most like a text: one alone where it means just that."""
    names = list(things())
    likeness, places = (encoder.text(names) @ encoder.text([text])[0]).topk(most)
    return [names[i] for i in places[: 1 if likeness[0] > MEANT else most].tolist()]


def taken_for(texts: list[str], encoder: Encoder) -> dict[str, str]:
    """Of these texts those that name nothing known and mean one thing all the same: that thing."""
    strange = [text for text in dict.fromkeys(texts) if not is_known(text)]
    near = {text: nearest(text, encoder) for text in strange}
    return {text: names[0] for text, names in near.items() if len(names) == 1}


def drawn_as(text: str, near: list[str]) -> str:
    """What to say of a text that names nothing of `known`; near: what `nearest` says."""
    short = text if len(text) <= 80 else f"{text[:77]}..."
    if len(near) == 1:
        return f'"{short}" is taken for: {near[0]}'
    return f'"{short}" is not among what the embedded models draw; nearest: {", ".join(near)}'
