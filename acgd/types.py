"""The handful of types that flow from wav to picture.

B is the number of samples in the batch, N any number of pictures, sounds or texts, D the
encoder's embedding size. Pixels are in [-1, 1] while sampling and in [0, 1] everywhere else.
torch is imported for type checking only, so that the command line answers before it loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Target:
    """One thing the picture is steered towards (weight > 0) or away from (weight < 0)."""

    embed: Tensor  # (D,), unit norm, float32
    weight: float
    kind: str  # "audio", "text", "image", or "heard": labels that a sound brings to mind
    label: str


class Encoder(Protocol):
    """A joint embedding; every method returns (N, D), unit norm, float32."""

    image_size: int
    sample_rate: int
    dim: int

    def image(self, pixels: Tensor) -> Tensor: ...  # (N, 3, S, S) in [0, 1]

    def text(self, texts: list[str]) -> Tensor: ...

    def audio(self, waves: Tensor) -> Tensor: ...  # (N, T) in [-1, 1] at sample_rate Hz


class PromptSource(Protocol):
    def __call__(self, encoder: Encoder) -> list[Target]: ...


class Describer(Protocol):
    """A sound in words."""

    def __call__(self, wave: Tensor, sample_rate: int) -> list[str]: ...  # wave (T,)


class Captioner(Protocol):
    """Pictures in words."""

    def __call__(self, images: Tensor) -> list[str]: ...  # (B, 3, H, W) in [0, 1]


class Member(NamedTuple):
    """An encoder, its share of the guidance (they sum to 1), and its part of the embedding."""

    encoder: Encoder
    weight: float
    part: slice


def members(encoder: Encoder) -> list[Member]:
    """An ensemble's members, or the encoder as the only one."""
    return getattr(encoder, "members", None) or [Member(encoder, 1.0, slice(None))]
