"""The state of a sample in mid-run, so that an interrupted run goes on where it stood.

Exact for samplers that look at x alone (DDIM, DDPM, any of order 1). Multistep samplers also
remember earlier predictions: their runs start anew.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from acgd.loggers.disk import write

NAME = "snapshot.pt"


@dataclass
class Snapshot:
    steps: int  # taken so far
    x: Tensor  # (3, H, W) after them, on the CPU
    noise: Tensor  # (generators, bytes) uint8, the sample's own generators
    losses: list[dict[str, float]]  # one a step


def save(folder: Path, snapshot: Snapshot) -> None:
    buffer = io.BytesIO()
    torch.save(asdict(snapshot), buffer)
    write(folder / NAME, buffer.getvalue())


def load(folder: Path) -> Snapshot | None:
    """The folder's snapshot, None where there is none that can be read."""
    try:
        return Snapshot(**torch.load(folder / NAME, weights_only=True))
    except (OSError, RuntimeError, TypeError, EOFError, ValueError, KeyError):
        return None


def remove(folder: Path) -> None:
    (folder / NAME).unlink(missing_ok=True)


def resumable(sampler: object) -> bool:
    """Whether nothing but x carries over from one step to the next."""
    return getattr(sampler, "order", 1) == 1
