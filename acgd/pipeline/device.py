"""Where and in which precision a job computes."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

import torch

from acgd.errors import UserError
from acgd.models.frozen import capability

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one instead of handing it back.

    Fetching the pages anew each step costs a third of the time at full size. Elsewhere than on
    Linux with glibc nothing is done; a value of the user's own, in the environment, stays.
    """
    if not sys.platform.startswith("linux") or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def pick_device(device: str) -> str:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((name for name, is_there in there.items() if is_there), "cpu")
    kind = str(device).split(":")[0]
    if kind not in ("cpu", *there):
        raise UserError(f"device={device}: choose auto, cpu, cuda or mps")
    if not there.get(kind, True):
        raise UserError(f"device={device}: there is none here; device=auto takes what there is")
    return str(device)


def pick_precision(precision: str, device: str, large: bool = False) -> str:
    """The dtype's name; "auto" is bf16 on a GPU, and for large models where a CPU computes in it.

    Half the memory traffic at a gradient cosine of 0.9999. Small models are bound by calls, not by
    traffic, and bf16 is slower there.
    """
    if precision == "auto":
        half = device.startswith("cuda") or (device == "cpu" and large and computes_bf16())
        precision = "bf16" if half else "fp32"
    return PRECISIONS[precision]


def computes_bf16() -> bool:
    """Whether this CPU has bf16 arithmetic and PyTorch uses it; AVX512 alone has none."""
    return capability() not in ("DEFAULT", "AVX2") and torch.cpu._is_avx512_bf16_supported()
