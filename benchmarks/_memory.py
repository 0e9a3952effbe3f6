"""How much memory this process holds, and held at most."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

MIB = 2**20


def start_of_peak() -> float:
    """Return the memory that is resident now, and let the peak begin here where that is possible.

    Else a peak would hold what the preparations took: a data URI is made of two larger ones.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_mib("VmRSS")


def peak_mib(which: str = "VmHWM") -> float:
    """Return the most memory that was resident (VmHWM), or what is now (VmRSS)."""
    # Not `ru_maxrss` where this can be had: it starts with what the parent had when it forked.
    status = Path("/proc/self/status")
    if status.exists():
        found = next(line for line in status.read_text().splitlines() if line.startswith(which))
        return int(found.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
