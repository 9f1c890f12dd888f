"""The handful of types that flow from wav to picture.

B is the number of samples in the batch, N any number of pictures, sounds or texts, D the
encoder's embedding size. Pixels are in [-1, 1] while sampling and in [0, 1] everywhere else.
torch is imported for type checking only, so that the command line answers before it loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Target:
    """One thing the picture is steered towards (weight > 0) or away from (weight < 0)."""

    embed: Tensor  # (D,), unit norm, float32
    weight: float
    kind: str  # "audio", "text", "image", or "heard": labels that a sound brings to mind
    label: str
    described: bool = False  # a describer's words for a sound


class Encoder(Protocol):
    """A joint embedding; every method returns (N, D), unit norm, float32."""

    image_size: int  # side of the pictures that `image` takes; 0 where it does not see
    sample_rate: int  # Hz
    dim: int  # D
    hears: bool  # False: `audio` raises UserError
    sees: bool  # False: `image` raises UserError
    scale_it: float  # factor of image-text similarities before a softmax; 0 where it does not see
    scale_at: float  # of audio-text similarities; 0 where it does not hear

    def image(self, pixels: Tensor) -> Tensor: ...  # (N, 3, S, S) in [0, 1]

    def text(self, texts: list[str]) -> Tensor: ...

    def audio(self, waves: Tensor) -> Tensor: ...  # (N, T) in [-1, 1] at sample_rate

    def park(self) -> None: ...  # only the picture tower stays on the device


class PromptSource(Protocol):
    """What a picture is made of: a sound, words, a picture."""

    def check(self) -> None: ...  # UserError where it cannot be used; before any model is loaded

    def wave(self, sample_rate: int) -> np.ndarray | None: ...  # its sound (T,), None without one

    def __call__(self, encoder: Encoder) -> list[Target]: ...


class Describer(Protocol):
    """A sound in words."""

    share: float  # of the targets' weight that its words get

    def __call__(self, wave: np.ndarray, sample_rate: int) -> list[str]: ...  # wave (T,)

    def rank(self, wave: np.ndarray, sample_rate: int) -> dict[str, list[tuple[str, float]]]:
        """How sure it is, list by list, where it chooses among labels; {} where it does not."""
        ...


class Captioner(Protocol):
    """Pictures in words."""

    def __call__(self, images: Tensor) -> list[str]: ...  # (B, 3, H, W) in [0, 1]


class Logger(Protocol):
    """A mirror of finished runs' folders; nothing that it meets may lose or stop a run."""

    def begin(self) -> None: ...

    def tell(self, folders: Sequence[Path]) -> None: ...  # these are finished

    def mirror(
        self, folders: Sequence[Path]
    ) -> None: ...  # the last ones: returns when all is sent


class Member(NamedTuple):
    """An encoder, its share of the guidance (they sum to 1), and its part of the embedding."""

    encoder: Encoder
    weight: float
    part: slice


def sees(encoder: Encoder) -> bool:
    """Whether it takes pictures, as all do that do not say otherwise."""
    return getattr(encoder, "sees", True)


def members(encoder: Encoder) -> list[Member]:
    """An ensemble's members, or the encoder as the only one."""
    return getattr(encoder, "members", None) or [Member(encoder, 1.0, slice(None))]
