"""Peak memory of a piece of work."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch


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
        self.before = status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else status("VmHWM")
        self.megabytes = (peak - self.before) / 1e6


def status(key: str, file: str = "/proc/self/status") -> int:
    """Bytes under a key of what Linux says of a process or of the machine."""
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(key + ":"))
    return 1024 * int(line.split()[1])
