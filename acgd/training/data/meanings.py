"""Which drawn thing an everyday noun is nearest to: "kitty" is a cat, "lorry" a truck.

Two things say so: WordNet, where a noun is a kind of a drawn thing or a drawn thing a kind of it,
and a sentence encoder, which knows what is like what. The drawn things are the concepts and
data/names.txt; senses.csv says what WordNet and the encoder call those whose names are no nouns.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.training.data import wordnet
from acgd.training.data.pairs import NAMES, concept_prompts

SENSES = Path(__file__).parent / "senses.csv"
KIND, PARENT = 0.6, 0.25  # what it is worth to be a kind of a drawn thing, or above one
FARTHER, RARER = 0.85, 0.75  # ... for each step between, and for each more usual sense
USUAL = 3  # senses of a noun that count


@dataclass
class Drawn:
    """A drawn thing: its name, WordNet's senses of it, and texts that mean it."""

    name: str
    senses: list[str]
    texts: list[str]


def drawn(nouns: dict[str, list[str]]) -> list[Drawn]:
    """All drawn things. KeyError or IndexError where senses.csv names a sense that is not there."""
    prompts = concept_prompts()
    names = [*prompts, *(n for n in NAMES.read_text(encoding="utf-8").split("\n") if n)]
    with open(SENSES, encoding="utf-8", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    found = []
    for name in names:
        row = rows.get(name, {"senses": "", "also": ""})
        named = re.findall(r"([^#]+)#(\d+)", row["senses"])
        keys = [nouns[word.strip().lower()][int(number) - 1] for word, number in named]
        texts = [name, *filter(None, row["also"].split("|")), *prompts.get(name, [])]
        found.append(Drawn(name, keys or nouns.get(name.lower(), [])[:1], texts))
    return found


class SentenceEncoder:
    """all-MiniLM-L6-v2 (Apache-2.0; to learn from only) from a folder in transformers' format."""

    def __init__(self, folder: Path):
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.model = AutoModel.from_pretrained(str(folder), local_files_only=True).eval()

    def vocabulary(self) -> set[str]:
        """The words, mostly usual ones, that it has a token for."""
        return set(self.tokenizer.get_vocab())

    @torch.no_grad()
    def __call__(self, texts: list[str], size: int = 256) -> Tensor:
        """(N, 384), unit norm: the mean over each text's tokens."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little is padded so
        out = torch.empty(len(texts), self.model.config.hidden_size)
        for i in range(0, len(texts), size):
            part = order[i : i + size]
            given = self.tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=48,
                return_tensors="pt",
            )  # fmt: skip
            hidden = self.model(**given).last_hidden_state
            mask = given["attention_mask"][..., None]
            out[part] = F.normalize((hidden * mask).sum(1), dim=-1)
        return out


class Kinds:
    """What WordNet says of a noun and each drawn thing."""

    def __init__(self, things: list[Drawn], folder: Path):
        self.nouns, self.known = wordnet.words(folder), wordnet.senses(folder)
        self.count = len(things)
        self.own: dict[str, list[int]] = {}  # a sense: the things that it means
        self.above: dict[str, list[tuple[int, int]]] = {}  # a sense: things below it, how far
        for i, thing in enumerate(things):
            for key in thing.senses:
                self.own.setdefault(key, []).append(i)
                for up, steps in wordnet.kinds_of(key, self.known).items():
                    self.above.setdefault(up, []).append((i, steps))

    def __call__(self, noun: str) -> Tensor:
        """(things,): more where the noun is a near kind of a thing, less where it is above it."""
        score = torch.zeros(self.count)
        for rank, key in enumerate(self.nouns[noun][:USUAL]):
            usual = RARER**rank
            below = [(i, KIND * FARTHER**steps)
                     for up, steps in wordnet.kinds_of(key, self.known).items()
                     for i in self.own.get(up, [])]  # fmt: skip
            above = [(i, PARENT * FARTHER**steps) for i, steps in self.above.get(key, [])]
            for i, worth in below + above:
                score[i] = max(float(score[i]), usual * worth)
        return score

    def meanings(self, noun: str) -> list[str]:
        """A noun with each of its usual senses in words."""
        return [f"{noun}: {self.known[key].meaning}" for key in self.nouns[noun][:2]]

    def common(self, known_words: set[str]) -> list[str]:
        """Nouns of at most three words, all of them known, but no proper names: those of several
        words only where they are kinds of a drawn thing."""
        found = []
        for noun, keys in self.nouns.items():
            parts = noun.split(" ")
            if len(parts) > 3 or not known_words.issuperset(parts):
                continue
            if noun not in self.known[keys[0]].words:  # in capitals there
                continue
            if len(parts) == 1 or self.own.keys() & wordnet.kinds_of(keys[0], self.known).keys():
                found.append(noun)
        return found


def nearest(
    nouns: list[str], things: list[Drawn], kinds: Kinds, encode: SentenceEncoder
) -> tuple[Tensor, Tensor]:
    """For each noun the number of the drawn thing that it is nearest to, and how near, (N,)."""
    texts, thing = texts_of(things)
    known = encode(texts)
    explained = [(n, text) for n, noun in enumerate(nouns) for text in kinds.meanings(noun)]
    row = torch.tensor([n for n, _ in explained])
    said = most(encode(nouns) @ known.T, thing, len(things))
    meant = most(encode([text for _, text in explained]) @ known.T, thing, len(things))
    best = torch.full_like(said, -1.0)
    best = best.scatter_reduce(0, row[:, None].expand_as(meant), meant, "amax")
    score = (said + best) / 2 + torch.stack([kinds(noun) for noun in nouns])
    near, place = score.max(1)
    return place, near


def likest(words: list[str], things: list[Drawn], encode: SentenceEncoder) -> tuple[Tensor, Tensor]:
    """The same for words that WordNet does not have, by the sentence encoder alone."""
    texts, thing = texts_of(things)
    near, place = most(encode(words) @ encode(texts).T, thing, len(things)).max(1)
    return place, near


def texts_of(things: list[Drawn]) -> tuple[list[str], Tensor]:
    """All that the things are called, and each text's thing."""
    texts = [text for thing in things for text in thing.texts]
    return texts, torch.tensor([i for i, one in enumerate(things) for _ in one.texts])


def most(likeness: Tensor, thing: Tensor, count: int) -> Tensor:
    """The largest of each thing's columns: (N, texts) to (N, count)."""
    return torch.stack([likeness[:, thing == i].amax(1) for i in range(count)], 1)
