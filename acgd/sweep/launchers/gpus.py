"""This machine's GPUs, one for each of the processes that jobs run in.

A process claims its GPU by a lock on a file in the sweep's folder, which the system takes back
when the process ends, however it does. The claim is CUDA_VISIBLE_DEVICES, so that `device=cuda` is
the process's own GPU.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA's, AMD's, WSL's
VISIBLE = "CUDA_VISIBLE_DEVICES"
HELD: list[FileLock] = []  # this process's claim, until it ends


def visible() -> list[str]:
    """Names, as CUDA_VISIBLE_DEVICES has them, of the GPUs that this command may use."""
    if sys.platform.startswith("linux") and not any(map(os.path.exists, DRIVERS)):
        return []  # without the second that it takes to import torch
    import torch

    there = torch.cuda.device_count()
    named = os.environ.get(VISIBLE)
    return named.split(",")[:there] if named else [str(i) for i in range(there)]


def wanted(device: object) -> bool:
    """Whether jobs of this `device=` take whatever GPU they are given."""
    return str(device) in ("auto", "cuda")


def claim(gpus: list[str], folder: Path) -> str | None:
    """Give this process the GPU that fewest processes of the sweep have, for as long as it lives.

    None where there are no GPUs. A process that has one keeps it.
    """
    if not gpus:
        return None
    if not HELD:
        HELD.append(first_free(gpus, folder))
        os.environ[VISIBLE] = Path(HELD[0].lock_file).name.partition("-")[2]
    return os.environ[VISIBLE]


def first_free(gpus: list[str], folder: Path) -> FileLock:
    """A lock on FOLDER/ROUND-GPU: all GPUs are taken once before one is taken twice."""
    folder.mkdir(parents=True, exist_ok=True)
    for turn in count():
        for gpu in gpus:
            lock = FileLock(folder / f"{turn}-{gpu}", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            return lock
    raise AssertionError("there is always another turn")
