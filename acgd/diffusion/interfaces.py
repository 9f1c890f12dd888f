"""What denoisers, samplers, guides and schedules are to one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from acgd.diffusion.noise import Noise


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
    t: Tensor  # (B,) int64 on the CPU, index in the respaced process
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
