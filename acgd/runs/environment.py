"""What a run was made with, beside its config: environment.json in its folder.

python, system, packages    versions
git         of the repository that acgd runs from: "COMMIT" or "COMMIT-dirty", else null
device, device_name, instructions, precision, threads    what decides a picture's last bits
files       the hash of each file that the config names, by its key: weights, sound, pictures
command     the process's arguments, and `folder`, where it was given
batch       the folders of the runs that were sampled together, seen from outputs/NAME

"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from acgd import __version__
from acgd.paths import HERE, IN_REPOSITORY
from acgd.runs.run import existing_file, fingerprint

PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "safetensors",
    "hydra-core",
    "omegaconf",
    "librosa",
    "soundfile",
    "soxr",
    "transformers",
    "tokenizers",
)


_command: list[str] | None = None


@contextmanager
def command(words: list[str]) -> Iterator[None]:
    """What is made inside was asked for with these words, not on the process's command line."""
    global _command
    _command = words
    try:
        yield
    finally:
        _command = None


def describe(cfg: dict, device: str, precision: str) -> dict[str, Any]:
    """The record of one run; what is the process's is asked once."""
    return {
        **of_process(),
        "device": device,
        **of_device(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "files": dict(files(cfg)),
        "command": _command or sys.argv,
        "folder": os.getcwd(),
    }


@cache
def of_process() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {"acgd": __version__, **{name: version(name) for name in PACKAGES}},
        "git": commit(HERE.parent) if IN_REPOSITORY else None,
    }


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit(folder: Path) -> str | None:
    """The commit that a repository stands at, "-dirty" behind it if files differ from it."""
    ask = ["git", "--no-optional-locks", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            [*ask, "--abbrev=40", "--exclude=*"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


@cache
def of_device(device: str) -> dict[str, str | None]:
    """Its name, and what it computes with: instructions of a CPU, CUDA's version of a GPU."""
    if device.startswith("cuda"):
        name, with_what = torch.cuda.get_device_name(device), f"CUDA {torch.version.cuda}"
    else:
        name, with_what = processor(), torch.backends.cpu.get_cpu_capability()
    return {"device_name": name, "instructions": with_what}


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def files(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, hash) of every file that a config names, keys as on the command line."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name not in ("_target_", "text", "outputs"):
                yield from files(value, f"{key}.{name}" if key else name)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from files(value, f"{key}.{i}")
    elif isinstance(node, str) and (path := existing_file(node)):
        yield key, fingerprint(path)
