"""A training's state on disk: whole or not at all, also when power fails."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def save(path: Path, state: object) -> None:
    """torch.save under a temporary name beside `path`, synced, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
