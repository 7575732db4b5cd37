"""Peak memory of a stage."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Context manager; ``peak`` is the most memory in use inside it, in bytes.

    On a GPU: allocated tensors. On Linux: resident memory of the process (the kernel's mark, put back at the start);
    elsewhere the highest resident memory since the process began.
    """

    peak: int = 0

    def __enter__(self) -> "PeakMemory":
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        elif CLEAR.exists():
            with suppress(OSError):  # a container may forbid it: then the mark is that of the whole process
                CLEAR.write_text("5")
        return self

    def __exit__(self, *exception) -> None:
        self.peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _resident_peak()


def _resident_peak() -> int:
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
