"""In which order the numbers of maps (B, C, H, W) and of convolutions' weights lie in memory."""

from __future__ import annotations

import torch


def layout(device: str | torch.device) -> torch.memory_format:
    """The order that networks are faster in on this device.

    Channels last on a CPU: 1.2 to 1.5 times as fast. Elsewhere as they come, which nobody has
    measured yet: cuDNN's half precision convolutions are made for channels last, but torch's group
    norms on a GPU copy such maps there and back (scripts/gpu_check.sh times both).
    """
    return torch.channels_last if torch.device(device).type == "cpu" else torch.contiguous_format
