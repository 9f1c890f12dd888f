"""CLIP's byte-pair encoding.

Byte-level BPE after Radford et al. (GPT-2), with lower-cased text and a word-end mark. The
vocabulary file bpe_simple_vocab_16e6.txt.gz is OpenAI's (MIT), taken from open_clip_torch (MIT).
"""

from __future__ import annotations

import gzip
import html
import logging
import re
from collections.abc import Sequence
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import torch

from acgd.errors import UserError

VOCABULARY = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
MERGES = 49152 - 256 - 2  # the file has more lines; CLIP's vocabulary ends here
START, END = "<|startoftext|>", "<|endoftext|>"
# control tokens, contractions, runs of letters, single digits, runs of anything else
FIRST = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|"
WORDS = FIRST + r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
# Printable ASCII without "&" has nothing to be mended, and Python's own expressions know its
# letters. The modules that know all of Unicode take longer to import than a label list to encode.
PLAIN = re.compile(r"[ -%'-~]*")
PLAIN_WORDS = re.compile(FIRST + r"[a-z]+|[0-9]|[^\sa-z0-9]+")


def byte_characters() -> dict[int, str]:
    """A printable character for each byte; the printable ones of latin-1 stand for themselves."""
    itself = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    itself += range(ord("®"), ord("ÿ") + 1)
    others = [b for b in range(256) if b not in set(itself)]
    return {b: chr(b) for b in itself} | {b: chr(256 + i) for i, b in enumerate(others)}


def clean(text: str) -> str:
    """Mend mis-decoded Unicode, undo HTML escapes (twice), fold white space, lower the case."""
    if not PLAIN.fullmatch(text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@cache
def unicode_words() -> Any:
    """WORDS, compiled by the package that knows what Unicode calls letters and numbers."""
    import regex

    return regex.compile(WORDS, regex.IGNORECASE)


def split_words(text: str) -> list[str]:
    """The words of a text that `clean` has seen."""
    return (PLAIN_WORDS if PLAIN.fullmatch(text) else unicode_words()).findall(text)


class Tokenizer:
    """Text to token ids and back; `Tokenizer()(["a cat"])` gives (1, 77) int64."""

    def __init__(self, context_length: int = 77) -> None:
        self.context_length = context_length
        text = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8")
        merges = text.split("\n", MERGES + 1)[1:-1]  # "a b</w>": pairs, the best first
        self.bytes = byte_characters()
        symbols = list(self.bytes.values())
        symbols += [s + "</w>" for s in symbols]
        symbols += [*"\n".join(merges).replace(" ", "").split("\n"), START, END]
        self.ids = dict(zip(symbols, count(), strict=False))
        self.symbols = symbols
        self.ranks = dict(zip(merges, count(), strict=False))
        self.pieces = {START: (START,), END: (END,)}  # memo of merged words

    @property
    def start(self) -> int:
        return self.ids[START]

    @property
    def end(self) -> int:
        return self.ids[END]

    def merge(self, word: str) -> tuple[str, ...]:
        """A word in byte characters -> the vocabulary's pieces, best-ranked pairs first."""
        if word in self.pieces:
            return self.pieces[word]
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            best = min(pairwise(parts), key=self.rank)
            if " ".join(best) not in self.ranks:
                break
            parts = merge_pair(parts, best)
        self.pieces[word] = tuple(parts)
        return self.pieces[word]

    def rank(self, pair: tuple[str, str]) -> int:
        """A pair's place among the merges, behind all of them for one that is none."""
        return self.ranks.get(" ".join(pair), len(self.ranks))

    def encode(self, text: str) -> list[int]:
        """Token ids without start and end."""
        words = split_words(clean(text))
        spelled = ("".join(self.bytes[b] for b in word.encode("utf-8")) for word in words)
        return [self.ids[piece] for word in spelled for piece in self.merge(word)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, each word followed by a space."""
        back = {character: b for b, character in self.bytes.items()}
        text = "".join(self.symbols[i] for i in ids).replace("</w>", " ")
        raw = b"".join(bytes([back[c]]) if c in back else c.encode() for c in text)
        return raw.decode("utf-8", errors="replace")

    def __call__(self, texts: str | Sequence[str], truncate: bool = True) -> torch.Tensor:
        """(N, context_length) int64: start, text, end, zeros.

        A longer text loses its end, with a warning, but keeps the end token; with
        truncate=False, as the notebook had it, it is a UserError.
        """
        texts = [texts] if isinstance(texts, str) else texts
        out = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        for row, text in zip(out, texts, strict=True):
            ids = [self.start, *self.encode(text), self.end]
            if len(ids) > self.context_length:
                if not truncate:
                    raise UserError(
                        f"the text {text[:40]!r}... has {len(ids)} tokens, more than the encoder's"
                        f" {self.context_length}: shorten it, or let it be truncated"
                    )
                warn_of_cut(text, len(ids), self.context_length)
                ids = [*ids[: self.context_length - 1], self.end]
            row[: len(ids)] = torch.tensor(ids)
        return out


def merge_pair(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every occurrence of the pair, from the left."""
    out, i = [], 0
    while i < len(parts):
        if tuple(parts[i : i + 2]) == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out


@cache
def warn_of_cut(text: str, tokens: int, most: int) -> None:
    """Say once for each text that its end is not read."""
    logging.getLogger(__name__).warning(
        "acgd: the text %r... has %d tokens, the first %d are read", text[:40], tokens, most
    )


@cache
def tokenizer(context_length: int = 77) -> Tokenizer:
    """One tokenizer per length; reading the vocabulary takes its time."""
    return Tokenizer(context_length)
