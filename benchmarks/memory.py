"""Resident memory of this process alone: `getrusage` of a started one begins at the peak of the one that started it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def resident(peak: bool) -> float:
    """GiB now, or at most so far. Where there is no /proc both are `getrusage`'s peak."""
    if not STATUS.is_file():
        unit = 2**30 if sys.platform == "darwin" else 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    name = "VmHWM:" if peak else "VmRSS:"
    (line,) = (line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(name))
    return int(line.split()[1]) / 2**20
