"""What this machine has for the process: free memory and cores."""

import math
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["host_cores", "host_memory"]

_UNKNOWN_MEMORY = 4e9
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def host_cores() -> int:
    """Cores that the process may keep busy: those it is bound to, or what its control group allows.
    Workers of a cluster are told by NPROC, as XLA is.
    """
    shown = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if shown else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no control groups, or no limit ("max")
        share, period = _QUOTA.read_text().split()
        cores = min(cores, math.ceil(int(share) / int(period)))
    told = os.environ.get("NPROC", "")
    return max(1, min(cores, int(told)) if told.isdecimal() else cores)


def host_memory() -> float:
    """Free bytes of this machine, or of the control group that confines the process."""
    free = _UNKNOWN_MEMORY
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = float(line.split()[1]) * 1024
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            used = float(Path("/sys/fs/cgroup/memory.current").read_text())
            free = min(free, float(limit) - used)
    except (OSError, ValueError):
        pass
    return free
