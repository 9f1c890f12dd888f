"""A sound in the words of several describers at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acgd.errors import UserError, fraction
from acgd.types import Describer

if TYPE_CHECKING:
    import numpy as np


class Several:
    """What its members say, one behind the other.

    members: by name, each with a `share`, what its words weigh among all targets; together at
    most 1. share: a number in place of theirs, divided equally among the members.
    """

    def __init__(self, members: dict[str, Describer], share: float | None = None):
        if not members:
            raise UserError("describer.members: name at least one describer")
        self.members = list(members.values())
        shares = [member.share for member in self.members]
        if share is not None:
            shares = [fraction(share, "describer.share") / len(shares)] * len(shares)
        self.shares, self.share = shares, sum(shares)
        if self.share > 1 + 1e-6:
            parts = " + ".join(
                f"{name} {part:g}" for name, part in zip(members, shares, strict=True)
            )
            raise UserError(f"the describers' shares are more than 1 together: {parts}")

    def told(self, wave: np.ndarray, sample_rate: int) -> tuple[list[str], list[float]]:
        """The words for a sound (T,) in [-1, 1], each once, and what each weighs."""
        weights: dict[str, float] = {}
        for member, share in zip(self.members, self.shares, strict=True):
            words = member(wave, sample_rate)
            for word in words:
                weights[word] = weights.get(word, 0.0) + share / len(words)
        return list(weights), list(weights.values())

    def __call__(self, wave: np.ndarray, sample_rate: int) -> list[str]:
        return self.told(wave, sample_rate)[0]

    def rank(self, wave: np.ndarray, sample_rate: int) -> dict[str, list[tuple[str, float]]]:
        """How sure those are that choose among labels, list by list."""
        ranked = [member.rank(wave, sample_rate) for member in self.members]
        return {name: pairs for one in ranked for name, pairs in one.items()}


def told(
    describer: Describer, wave: np.ndarray, sample_rate: int
) -> tuple[list[str], float | list[float]]:
    """A describer's words and their share: of all together, or of each where several speak."""
    if isinstance(describer, Several):
        return describer.told(wave, sample_rate)
    return describer(wave, sample_rate), describer.share
