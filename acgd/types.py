"""The handful of types that flow from wav to picture.

B is the number of samples in the batch, N any number of pictures, sounds or texts, D the
encoder's embedding size. Pixels are in [-1, 1] while sampling and in [0, 1] everywhere else.
torch is imported for type checking only, so that the command line answers before it loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from acgd.noise import Noise


@dataclass(frozen=True)
class Target:
    """One thing the picture is steered towards (weight > 0) or away from (weight < 0)."""

    embed: Tensor  # (D,), unit norm, float32
    weight: float
    kind: str  # "audio", "text", "image", or "heard": labels that a sound brings to mind
    label: str


class Prediction(NamedTuple):
    """What a denoiser says about x_t; each (B, 3, H, W)."""

    x0: Tensor
    eps: Tensor
    log_var: Tensor


@dataclass
class Step:
    """One step of a sampler, as it is yielded."""

    index: int  # 0 for the first step taken
    total: int  # steps that this run takes
    t: Tensor  # (B,) int64, index in the respaced process
    x: Tensor  # (B, 3, H, W), the sample after the step
    x0: Tensor  # (B, 3, H, W), the model's prediction before guidance
    losses: dict[str, Tensor] = field(default_factory=dict)  # each (B,)
    history: tuple[Tensor, ...] = ()  # what the next step needs beside x; each (B, 3, H, W)


class Denoiser(Protocol):
    def __call__(self, x: Tensor, t: Tensor) -> Prediction: ...


class Guide(Protocol):
    """What steers a sampler: dL/dx, dL/dx0 (each (B, 3, H, W)) and the losses, each (B,)."""

    through_unet: bool  # whether dL/dx0 goes back to x through the network

    def active(self, t: Tensor) -> bool: ...  # whether step t (B,) is guided at all

    def __call__(
        self, x: Tensor, x0: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]: ...

    def limit(self, grad: Tensor) -> Tensor: ...  # the last word on the whole gradient


class Sampler(Protocol):
    steps: str

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        *,
        noise: Noise,
        guide: Guide | None,
        start: int = 0,
        history: Sequence[Tensor] = (),  # of the step before `start`, if it was taken before
    ) -> Iterator[Step]: ...


class Schedule(Protocol):
    """Progress u in [0, 1] (0 at the first step) to a multiplier in [0, 1]."""

    def __call__(self, u: float) -> float: ...


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
