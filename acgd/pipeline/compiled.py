"""The network and the picture tower through torch.compile: compile=true, or auto.

Compiling takes a minute, for each size of batch, and is kept between commands. On a CPU it saves
one to ten per cent of a step of the embedded models, so that thousands of pictures pay for it, and
nothing of what convolutions take: `auto` leaves it to GPUs, where its gain is not yet measured.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acgd.errors import say_once

ENOUGH = 250  # steps of a run from which on `auto` compiles on a GPU
BACKEND = "inductor"
CACHE = "TORCHINDUCTOR_CACHE_DIR"
COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")


def wanted(how: bool | str, device: str, steps: int) -> bool:
    """Whether compile=`how` compiles for runs of so many steps."""
    return how is True or (how == "auto" and device.startswith("cuda") and steps >= ENOUGH)


def set_compiled(module: nn.Module, on: bool) -> None:
    """Let a module run compiled, or as it is. Its weights, their keys and its class stay.

    Sizes are static: a batch of another size is compiled anew. What a compiler cannot do is said
    in a line and runs as it is.
    """
    if on == ("forward" in module.__dict__):
        return
    if not on:
        del module.__dict__["forward"]
        return
    os.environ.setdefault(CACHE, str(Path.home() / ".cache" / "acgd" / "compiled"))
    plain, failed = module.forward, False
    fast = torch.compile(plain, dynamic=False, backend=BACKEND)

    def forward(*given: Any, **named: Any) -> Any:
        nonlocal failed
        if not failed:
            try:
                return fast(*given, **named)
            except Exception as error:
                if not of_compiler(error):
                    raise
                failed = True
                say_once(f"compile: torch.compile failed, so it is done without: {why(error)}")
        return plain(*given, **named)

    module.__dict__["forward"] = forward


def why(error: Exception) -> str:
    """The first line that says anything: torch's own begin with whose error it passes on."""
    lines = [line.strip() for line in str(error).splitlines() if not line.endswith("raised:")]
    return next(filter(None, lines), type(error).__name__)


def of_compiler(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, comes from the compiler and not from the model."""
    while error is not None:
        if type(error).__module__.startswith(COMPILERS):
            return True
        error = error.__cause__
    return False
