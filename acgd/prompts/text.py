"""Text prompts: words with weights, "a dog in the snow:1.5", negative weights to steer away."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from acgd.errors import UserError, fraction
from acgd.types import Encoder, Target

if TYPE_CHECKING:
    import numpy as np

HEAVIEST = 1e6
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class TextPrompt:
    """One text, or several with weights that are divided by the absolute value of their sum.

    So a lone "rain:-1" keeps its sign and pushes away, and "dog:3" alone equals "dog". With
    `notebook_parsing` prompts are cut as the notebook cuts them, at any last colon. template: how
    a network that is told in words is told (acgd.diffusion.phrases.phrase).
    """

    def __init__(
        self,
        text: str | Sequence[str],
        notebook_parsing: bool = False,
        template: str | None = None,
    ):
        self.template = template
        several = isinstance(text, Sequence) and not isinstance(text, str)
        parse = parse_as_notebook if notebook_parsing else parse_weight
        self.texts, weights = [], []
        for one in text if several else [text]:
            words, weight = parse("" if one is None else str(one))
            if not words.strip():
                raise UserError(f"prompt.text={one!r} has no words; write prompt.text='a dog'")
            self.texts.append(words)
            weights.append(weight)
        if not self.texts:
            raise UserError("prompt.text is an empty list; write prompt.text='a dog'")
        self.weights = normalised(weights, self.texts)

    def check(self) -> None:
        """Nothing that building has not checked."""

    def wave(self, sample_rate: int) -> np.ndarray | None:
        """There is no sound to be described."""
        return None

    def __call__(self, encoder: Encoder) -> list[Target]:
        return targets(encoder, self.texts, self.weights)


def targets(encoder: Encoder, texts: list[str], weights: Sequence[float]) -> list[Target]:
    """Texts, encoded together, as targets with these weights."""
    embeds = encoder.text(texts)  # (N, D)
    return [
        Target(embed, weight, "text", text)
        for embed, weight, text in zip(embeds, weights, texts, strict=True)
    ]


def join(
    prompts: list[Target], words: list[str], encoder: Encoder, share: float | Sequence[float]
) -> list[Target]:
    """A describer's words beside the prompts, as equal text targets that sum to `share`.

    A sequence of shares is that of each word. The prompts are scaled by 1 - their sum, in [0, 1],
    so that the whole weighs what it did; targets left without weight are dropped. Without words
    the prompts stay as they are.
    """
    if not words:
        return prompts
    if not isinstance(share, Sequence):
        share = [fraction(share, "describer.share") / len(words)] * len(words)
    rest = 1 - min(math.fsum(share), 1.0)
    new = [replace(one, described=True) for one in targets(encoder, words, share)]
    old = [replace(target, weight=target.weight * rest) for target in prompts]
    return [target for target in old + new if target.weight]


def parse_weight(prompt: str) -> tuple[str, float]:
    """ "words:1.5" to ("words", 1.5); a text without a weight has 1.

    The number must be finite, stand directly behind the last colon, and the colon must not stand
    directly behind a digit: "time 12:30", "ratio: 3" and "word:word" are plain text, as is a
    URL's scheme. A text that ends with a digit takes its weight after a space: "time 12:30 :2".
    """
    words, colon, number = prompt.rpartition(":")
    weighted = colon and not words[-1:].isdigit() and NUMBER.fullmatch(number)
    if not weighted or not math.isfinite(float(number)):
        return prompt.strip(), 1.0
    return words.strip(), float(number)


def parse_as_notebook(prompt: str) -> tuple[str, float]:
    """Cut at the last colon, whatever it means; what follows has to be a number.

    Only the colon of http:// and https:// is spared, so "time 12:30" weighs 30.
    """
    words, colon, number = prompt.rpartition(":")
    if not colon or (words in ("http", "https") and number.startswith("//")):
        return prompt, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UserError(
            f"prompt.text={prompt!r}: with prompt.notebook_parsing what follows the last colon "
            "must be a number"
        )
    return words, weight


def normalised(weights: Sequence[float], labels: Sequence[str]) -> list[float]:
    """Weights divided by the absolute value of their sum, which must not be zero."""
    if max(map(abs, weights)) > HEAVIEST:
        at = max(range(len(weights)), key=lambda i: abs(weights[i]))
        raise UserError(f"{labels[at]!r} weighs {weights[at]:g}: must be {HEAVIEST:g} at most")
    total = abs(math.fsum(weights))
    if total <= 1e-3 * max(map(abs, weights)):
        raise UserError(
            f"the weights of {', '.join(map(repr, labels))} sum to zero: change one of them"
        )
    return [weight / total for weight in weights]
