"""Pictures in sentences, made from what is known of them: name, keywords, group and colours.

    a drawing of the face of a brown dog.
    a red saxophone, a musical instrument.

picture_words.csv has a phrase for each concept, further ones for some of its pictures' names
("@" is where a colour goes), and the words that name this concept and no other.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path

import numpy as np

WORDS = Path(__file__).with_name("picture_words.csv")
TEMPLATES = ("a drawing of {}.",) * 4 + ("{}.", "a picture of {}.")
KINDS = {"instrument": "a musical instrument"}  # a keyword of the picture -> what is added
COLOURLESS = {"Flags", "People & Body", "Smileys & Emotion", "Symbols"}  # their colour says little
HUES = {  # upper end of each in degrees
    14: "red",
    42: "orange",
    68: "yellow",
    165: "green",
    255: "blue",
    300: "purple",
    345: "pink",
    361: "red",
}
COLOURS = (*dict.fromkeys(HUES.values()), "brown", "black", "grey", "white")
CLEAR = 0.5  # share of the picture's own pixels that a colour must have to be named
SOUNDS_LIKE_YOU = ("uni", "use", "uku", "ufo", "euro", "one")  # vowels that take "a"
UNCOUNTED = ("money", "rice", "bread", "butter", "bacon", "tea", "coffee", "milk", "honey", "wind")


@cache
def table() -> dict[str, tuple[frozenset[str], dict[str, str]]]:
    """Concept -> the words that name it, and its phrases by picture name ("" for the others)."""
    found = {}
    with open(WORDS, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            parts = [part.rpartition("=") for part in row["phrases"].split("|")]
            phrases = {name: phrase for name, _, phrase in parts}
            found[row["concept"]] = (frozenset(row["words"].split()), phrases)
    return found


def names(caption: str) -> set[str]:
    """The concepts that a caption names, by whole words that belong to one concept alone."""
    words = set(re.findall(r"[a-z]+", caption.lower()))
    return {concept for concept, (own, _) in table().items() if own & words}


def sentences(concept: str, name: str, keywords: str, group: str, colour: str | None) -> list[str]:
    """What can be said of a picture, as often as it should be said."""
    if concept:
        phrases = table()[concept][1]
        text = phrases.get(name, phrases[""])
    else:
        text = phrase(name, group)
    if (group in COLOURLESS and not concept) or set(name.split()) & set(COLOURS):
        colour = None
    text = articles(text.replace("@", f"{colour} " if colour else ""))
    kind = next((said for word, said in KINDS.items() if word in keywords.split(",")), None)
    more = [f"{text}, {kind}"] if kind and concept else []
    return [template.format(said) for said in [text, *more] for template in TEMPLATES]


def phrase(name: str, group: str) -> str:
    """A picture's Unicode name as part of a sentence, "@" before what has a colour."""
    name = re.sub(r"\([^)]*\)|[.“”]", "", name).replace("’", "'").strip()
    if group == "Flags":
        return f"the flag of {name.removeprefix('flag ')}" if name.startswith("flag ") else name
    if group == "Symbols":
        return f"the symbol {name}"
    last = name.split()[-1] if name else ""
    plural = last.endswith("s") and not last.endswith("ss")
    if plural or last in UNCOUNTED or "," in name:
        return f"@{name}"
    return f"a @{name}"


def articles(text: str) -> str:
    """a or an, as the next word sounds."""

    def fit(match: re.Match) -> str:
        word = match[2].lower()
        vowel = word[0] in "aeiou" and not word.startswith(SOUNDS_LIKE_YOU)
        return ("an " if vowel else "a ") + match[2]

    return re.sub(r"\b(an?) ([A-Za-z][\w'-]*)", fit, text)


def colour(pixels: np.ndarray) -> str | None:
    """The colour of most of what is not the white page, of (S, S, 3) uint8; None if none is."""
    x = pixels.reshape(-1, 3).astype(np.float32) / 255
    high, low = x.max(1), x.min(1)
    x, high, low = (part[low < 0.92] for part in (x, high, low))
    if len(x) < 0.02 * pixels[..., 0].size:
        return None
    spread = high - low
    hue = np.select(
        [high == x[:, 0], high == x[:, 1]],
        [(x[:, 1] - x[:, 2]) % (6 * spread + 1e-9), 2 * spread + x[:, 2] - x[:, 0]],
        4 * spread + x[:, 0] - x[:, 1],
    )
    hue = 60 * hue / (spread + 1e-9)
    names = np.array(list(HUES.values()))[np.searchsorted(list(HUES), hue).clip(max=7)]
    warm = (names == "orange") | (names == "red")
    names = np.where(warm & (hue < 28) & (high > 0.8) & (spread < 0.45), "pink", names)
    names = np.where((names == "orange") & (high < 0.75), "brown", names)
    names = np.where((names == "red") & (high < 0.6) & (spread < 0.45), "brown", names)
    names = np.where(spread < 0.13, np.where(high < 0.3, "black", "grey"), names)
    names = np.where(high < 0.2, "black", names)
    found, counts = np.unique(names, return_counts=True)
    best = counts.argmax()
    return str(found[best]) if counts[best] >= CLEAR * len(x) else None
