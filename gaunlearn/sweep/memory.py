"""How much memory the machine has free."""

from pathlib import Path

__all__ = ["host_memory"]

_UNKNOWN_MEMORY = 4e9


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
