"""Nouns, their senses and what kind of thing each is, read from WordNet's own files.

WordNet (Fellbaum 1998; Princeton's licence) is Debian's package wordnet-base: index.noun says
which senses a word has, the most usual first, data.noun what they mean and what is above them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from acgd.errors import UserError

FOLDER = Path("/usr/share/wordnet")
ABOVE = ("@", "@i")  # pointers to what a thing is a kind, or an instance, of


@dataclass(frozen=True)
class Sense:
    words: tuple[str, ...]
    above: tuple[str, ...]  # keys of senses
    meaning: str


def lines(path: Path) -> list[str]:
    """A file's lines behind its licence. UserError where there is none."""
    try:
        text = path.read_text(encoding="latin-1")
    except OSError:
        raise UserError(f"{path} is missing: install wordnet-base, or say --wordnet") from None
    return [line for line in text.split("\n") if line and not line.startswith("  ")]


def senses(folder: Path = FOLDER) -> dict[str, Sense]:
    """Every sense by its key."""
    found = {}
    for line in lines(folder / "data.noun"):
        head, _, meaning = line.partition(" | ")
        fields = head.split(" ")
        count = int(fields[3], 16)
        words = tuple(w.replace("_", " ") for w in fields[4 : 4 + 2 * count : 2])
        links = fields[5 + 2 * count :]
        above = tuple(links[i + 1] for i in range(0, len(links) - 3, 4) if links[i] in ABOVE)
        found[fields[0]] = Sense(words, above, meaning.split('; "')[0].strip())
    return found


def words(folder: Path = FOLDER) -> dict[str, list[str]]:
    """Every noun in small letters: the keys of its senses, the most usual first."""
    found = {}
    for line in lines(folder / "index.noun"):
        fields = line.split()
        found[fields[0].replace("_", " ")] = fields[-int(fields[2]) :]
    return found


def kinds_of(key: str, known: dict[str, Sense]) -> dict[str, int]:
    """What a sense is a kind of, itself included: the keys and how many steps each is above."""
    found, last, steps = {key: 0}, [key], 0
    while last:
        steps += 1
        last = [up for one in last for up in known[one].above if up not in found]
        found |= dict.fromkeys(last, steps)
    return found
