"""Shapes of guidance over a run: progress u in [0, 1] (0 at pure noise) to a multiplier in [0, 1].

`start` and `end` are fractions of progress. A multiplier of 0 skips guidance, and its cost,
altogether.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from acgd.errors import UserError


@dataclass(frozen=True)
class _Span:
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        if not 0 <= self.start <= self.end <= 1:
            raise UserError(
                f"guidance.schedule: start={self.start}, end={self.end} must be fractions of the "
                "run with start <= end"
            )

    def position(self, u: float) -> float:
        """Where u is between start (0) and end (1), clamped."""
        if self.end == self.start:
            return float(u > self.start)
        return min(max((u - self.start) / (self.end - self.start), 0.0), 1.0)


@dataclass(frozen=True)
class Constant(_Span):
    """1 from start to end, 0 outside."""

    def __call__(self, u: float) -> float:
        return float(self.start <= u <= self.end)


@dataclass(frozen=True)
class Linear(_Span):
    """`first` up to start, a straight line to `last` at end, `last` from there on."""

    first: float = 1.0
    last: float = 0.0

    def __call__(self, u: float) -> float:
        return self.first + (self.last - self.first) * self.position(u)


@dataclass(frozen=True)
class Cosine(_Span):
    """As Linear, with half a cosine wave in place of the straight line."""

    first: float = 1.0
    last: float = 0.0

    def __call__(self, u: float) -> float:
        fade = (1 - math.cos(math.pi * self.position(u))) / 2
        return self.first + (self.last - self.first) * fade


@dataclass(frozen=True)
class Window(_Span):
    """0 outside start to end; inside it rises to 1 and falls again over `ramp` of its length."""

    ramp: float = 0.25

    def __call__(self, u: float) -> float:
        if not self.start <= u <= self.end:
            return 0.0
        edge = min(u - self.start, self.end - u)
        width = self.ramp * (self.end - self.start)
        return 1.0 if edge >= width else edge / width
