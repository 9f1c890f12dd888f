"""Weights beside their published file as FILE.safetensors, which start faster on the second run.

A .pt file of the format before torch 1.6 cannot be mapped, and a TorchScript archive or a large
pickle is first unpickled; a .safetensors file is mapped as it is.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def twin_of(path: Path) -> Path:
    return path.with_name(path.name + ".safetensors")


def find(path: Path) -> Path | None:
    """The file itself if it is .safetensors, or its twin, if that is newer and of this file."""
    if path.suffix == ".safetensors":
        return path
    twin = twin_of(path)
    if not twin.is_file() or twin.stat().st_mtime_ns < path.stat().st_mtime_ns:
        return None
    with safe_open(twin, framework="pt") as file:
        same = (file.metadata() or {}).get("bytes") == str(path.stat().st_size)
    return twin if same else None


def read(path: Path) -> dict[str, Tensor]:
    """A .safetensors file; of tensors that were one when it was written, one is in it."""
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        tied = json.loads((file.metadata() or {}).get("tied", "{}"))
    return state | {key: state[first] for key, first in tied.items()}


def write(state: dict[str, Tensor], path: Path) -> Path:
    """The twin of `path` with these tensors in their dtypes; it appears when it is whole."""
    twin = twin_of(path)
    first: dict[tuple, str] = {}
    kept, tied = {}, {}
    for key, tensor in state.items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        owner = first.setdefault(place, key) if tensor.numel() else key
        if owner == key:
            kept[key] = tensor.contiguous()
        else:
            tied[key] = owner
    metadata = {"bytes": str(path.stat().st_size), "tied": json.dumps(tied)}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{twin.name}-") as folder:
        save_file(kept, Path(folder) / twin.name, metadata)
        os.replace(Path(folder) / twin.name, twin)
    return twin
