"""Peak memory of a piece of work."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch


def linux_bytes(key: str) -> int:
    """Bytes under a key of what Linux says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key + ":")).split()[1])


class PeakMemory:
    """Most memory in use within the block, above what was in use before: of the process on Linux, of the GPU there."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.megabytes = device, float("nan")

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return self
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self.before = linux_bytes("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else linux_bytes("VmHWM")
        self.megabytes = (peak - self.before) / 1e6
