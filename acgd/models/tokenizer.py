"""CLIP's byte-pair encoding.

Byte-level BPE after Radford et al. (GPT-2), with lower-cased text and a word-end mark. The
vocabulary file bpe_simple_vocab_16e6.txt.gz is OpenAI's (MIT), taken from open_clip_torch (MIT).
"""

from __future__ import annotations

import gzip
import html
import logging
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch

from acgd.errors import UserError

VOCABULARY = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
MERGES = 49152 - 256 - 2  # the file has more lines; CLIP's vocabulary ends here
START, END = "<|startoftext|>", "<|endoftext|>"
# control tokens, contractions, runs of letters, single digits, runs of anything else
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def byte_characters() -> dict[int, str]:
    """A printable character for each byte; the printable ones of latin-1 stand for themselves."""
    itself = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    itself += range(ord("®"), ord("ÿ") + 1)
    others = [b for b in range(256) if b not in set(itself)]
    return {b: chr(b) for b in itself} | {b: chr(256 + i) for i, b in enumerate(others)}


def clean(text: str) -> str:
    """Mend mis-decoded Unicode, undo HTML escapes (twice), fold white space, lower the case."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class Tokenizer:
    """Text to token ids and back; `Tokenizer()(["a cat"])` gives (1, 77) int64."""

    def __init__(self, context_length: int = 77) -> None:
        import regex

        self.context_length = context_length
        lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").split("\n")
        merges = [tuple(line.split()) for line in lines[1 : MERGES + 1]]
        self.bytes = byte_characters()
        symbols = list(self.bytes.values())
        symbols += [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + [START, END]
        self.ids = {symbol: i for i, symbol in enumerate(symbols)}
        self.symbols = symbols
        self.ranks = {merge: i for i, merge in enumerate(merges)}
        self.words = regex.compile(WORDS, regex.IGNORECASE)
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
            best = min(pairwise(parts), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            parts = merge_pair(parts, best)
        self.pieces[word] = tuple(parts)
        return self.pieces[word]

    def encode(self, text: str) -> list[int]:
        """Token ids without start and end."""
        words = self.words.findall(clean(text))
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
    """One tokenizer per length; reading the vocabulary takes a quarter of a second."""
    return Tokenizer(context_length)
