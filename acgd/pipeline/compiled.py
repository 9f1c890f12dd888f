"""The network and the picture tower through torch.compile: compile=true, or auto.

Compiling takes a minute, for each size of batch, and is kept between commands. On a CPU it never
pays: for the embedded models it takes 60 s of the processor, and a step takes as long as before
(1.03 times for one picture, 0.98 for eight), since frozen layers with prepared weights are as fast.
`auto` leaves it to GPUs. What it saves there is not measured; scripts/gpu_check.sh does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acgd.errors import say_once

ENOUGH = 1000  # steps of a run from which on `auto` compiles on a GPU: half a minute at 30 ms
BACKEND = "inductor"
CACHE = "TORCHINDUCTOR_CACHE_DIR"
COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")


def wanted(how: bool | str, device: str, steps: int) -> bool:
    """Whether compile=`how` compiles for runs of so many steps."""
    return how is True or (how == "auto" and device.startswith("cuda") and steps >= ENOUGH)


def set_compiled(module: nn.Module, on: bool, graphs: bool = False) -> None:
    """Let a module, which returns a tensor, run compiled, or as it is. Its weights, their keys and
    its class stay.

    Sizes are static: a batch of another size is compiled anew. `graphs`: on a GPU as CUDA graphs,
    for small models, whose calls take longer than their kernels. What a compiler cannot do is said
    in a line and runs as it is.
    """
    if on == ("forward" in module.__dict__):
        return
    if not on:
        del module.__dict__["forward"]
        return
    os.environ.setdefault(CACHE, str(Path.home() / ".cache" / "acgd" / "compiled"))
    mode = "reduce-overhead" if graphs else None
    plain, fast, failed = module.forward, None, False

    def forward(*given: Any, **named: Any) -> Any:
        nonlocal fast, failed
        if not failed:
            try:
                fast = fast or torch.compile(plain, dynamic=False, backend=BACKEND, mode=mode)
                out = fast(*given, **named)
                return out.clone() if graphs else out  # a graph's next run writes over its last
            except Exception as error:
                if fast is not None and not of_compiler(error):
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
