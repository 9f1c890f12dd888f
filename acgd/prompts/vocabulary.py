"""What the embedded models have pictures of, and whether a text is about any of it.

They know the concepts of weights/concepts.csv, each by several names. Of a text without any of
these words they draw whatever is nearest to them.
"""

from __future__ import annotations

import csv
import re
from functools import cache

from acgd.paths import CONCEPTS
from acgd.types import Encoder


@cache
def known() -> tuple[str, ...]:
    """Every name of every concept."""
    with open(CONCEPTS, encoding="utf-8", newline="") as file:
        names = [name for row in csv.DictReader(file) for name in row["prompts"].split("|")]
    return tuple(dict.fromkeys(names))


@cache
def pattern() -> re.Pattern[str]:
    """Any of the names as whole words, one or several of a thing."""
    names = "|".join(sorted((re.escape(name.lower()) for name in known()), key=len, reverse=True))
    return re.compile(rf"\b(?:{names})(?:s|es)?\b")


def is_known(text: str) -> bool:
    return pattern().search(text.lower()) is not None


def nearest(text: str, encoder: Encoder, most: int = 3) -> list[str]:
    """The names that the encoder finds most like a text."""
    names = list(known())
    likeness = encoder.text(names) @ encoder.text([text])[0]
    return [names[i] for i in likeness.topk(most).indices.tolist()]
