"""Where and in which precision a job computes."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
from contextlib import suppress
from functools import cache

import torch

from acgd.errors import UserError
from acgd.models.frozen import capability

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
BF16_SINCE = 8  # compute capability: Ampere
TRIES = 5  # of which the quickest counts


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
    number = str(device).partition(":")[2]
    if kind == "cuda" and number and int(number) >= (count := torch.cuda.device_count()):
        last = f" to cuda:{count - 1}" if count > 1 else ""
        raise UserError(f"device={device}: there is only cuda:0{last} here")
    return str(device)


def pick_precision(precision: str, device: str, large: bool = False) -> str:
    """The dtype's name. "auto" is bf16 on a GPU, and for large models where a CPU is
    faster with it.

    GPUs older than Ampere have no bf16: there it is fp16 for large models, fp32 for small ones.
    Half the memory traffic at a gradient cosine of 0.9999. Small models are bound by calls, not by
    traffic, and bf16 is slower there.
    """
    if precision != "auto":
        return PRECISIONS[precision]
    if device.startswith("cuda"):
        if torch.cuda.get_device_capability(device)[0] >= BF16_SINCE:
            return PRECISIONS["bf16"]
        return PRECISIONS["fp16" if large else "fp32"]
    return PRECISIONS["bf16" if device == "cpu" and large and computes_bf16() else "fp32"]


def repeat_exactly(precision: str) -> None:
    """Let torch give the same bytes twice on a GPU, and compute float32 in float32.

    These are settings of the process: the next job sets them anew. TF32, which keeps ten of
    float32's 23 bits, is torch's own choice for convolutions; it stays where the run is in half
    precision anyway. An operation that has no repeatable way is told of by a warning.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # all of it is written anyway; mypy does not see the attribute
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def computes_bf16() -> bool:
    """Whether this CPU has bf16 arithmetic that PyTorch uses, and is faster with it.

    AVX512 alone has none. Of processors that have it some take twice float32's time, such as
    those that are made for AMX where a virtual machine hides that: so it is tried.
    """
    has = capability() not in ("DEFAULT", "AVX2") and torch.cpu._is_avx512_bf16_supported()
    return has and bf16_pays()


@cache
def bf16_pays() -> bool:
    """Whether a convolution takes less than 0.8 of its time in float32; a twentieth of a second.

    In between there is nothing: it is about half or about double.
    """
    seconds = {dtype: math.inf for dtype in (torch.float32, torch.bfloat16)}
    for _ in range(TRIES):
        for dtype in seconds:
            x = torch.ones(1, 128, 32, 32, dtype=dtype).contiguous(
                memory_format=torch.channels_last
            )
            weight = torch.ones(128, 128, 3, 3, dtype=dtype)
            began = time.perf_counter()
            torch.nn.functional.conv2d(x, weight, padding=1)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - began)
    return seconds[torch.bfloat16] < 0.8 * seconds[torch.float32]
