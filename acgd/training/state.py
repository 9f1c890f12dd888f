"""A training's state on disk: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def save(path: Path, state: object) -> None:
    """torch.save under a temporary name beside `path`, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)
