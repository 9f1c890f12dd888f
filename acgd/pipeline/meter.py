"""What a piece of work takes: seconds and the peak of memory."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import torch


class Meter:
    """Counts from when it is made.

    On a GPU the memory is what torch allocated there at most, elsewhere the process's largest
    resident size: since the meter was made on Linux, unknown on other systems.
    """

    def __init__(self, device: str):
        self.began, self.device = time.perf_counter(), str(device)
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with suppress(OSError):  # the high-water mark starts anew
                Path("/proc/self/clear_refs").write_text("5")

    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def megabytes(self) -> float | None:
        """The peak so far, in MB (10^6 bytes)."""
        if self.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
        return None

    def batch(self, pictures: int) -> dict[str, float | int | None]:
        """Both, of a whole batch, with the number of its pictures: for status.json."""
        peak = self.megabytes()
        return {
            "pictures": pictures,
            "seconds": round(self.seconds(), 3),
            "peak_mb": None if peak is None else round(peak, 1),
        }
