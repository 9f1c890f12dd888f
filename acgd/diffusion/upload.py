"""Numbers on their way from the CPU to where a sample is computed."""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 2**16  # bytes that CUDA takes along with the call itself


def upload(values: Tensor, device: torch.device) -> Tensor:
    """`values` on the device. A GPU is not waited for: they join the work that is queued there.

    A plain copy would wait until all of that is done. What is not small has to be pinned for it,
    in memory that torch keeps for the next copies. Apple's devices are given plain copies: theirs
    may otherwise be read when the memory is another's.
    """
    cuda = device.type.startswith("cuda")
    if cuda and values.nbytes > SMALL:
        values = values.pin_memory()
    return values.to(device, non_blocking=cuda)
