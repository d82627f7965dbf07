"""What the machine has: free memory, speed, versions; and JAX's cache of compiled programs."""

import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from gaunlearn.sweep.host import host_cores, host_memory
from gaunlearn.sweep.identity import digest
from gaunlearn.sweep.lanes import programs_on_device
from gaunlearn.sweep.traced import forget_programs

__all__ = [
    "batch_memory",
    "batch_pairs",
    "drop_programs_if_crowded",
    "free_memory",
    "keep_compiled",
    "out_of_memory",
    "rare_collections",
    "speed",
]

# Of an accelerator, in units of two cores: how much larger its blocks are.
_ACCELERATOR_SPEED = 64.0
# Arrays of (neuron, sample) pairs that a stage holds at a time, in float64 words.
_ARRAYS = 40
# Working set of a batch on a CPU in pairs: about 4 MB of float64 an array, to stay in the cache.
_CPU_PAIRS = 500_000


def free_memory() -> float:
    """Bytes that are free on each device; host memory is shared by all CPU devices."""
    devices = jax.local_devices()
    stats = devices[0].memory_stats() if devices[0].platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return host_memory() / len(devices)


def speed() -> float:
    """Of all local devices together, in units of two cores. Blocks are so much larger."""
    devices = jax.local_devices()
    on_cpu = devices[0].platform == "cpu"
    return host_cores() / 2 if on_cpu else _ACCELERATOR_SPEED * len(devices)


def batch_pairs() -> int:
    """(neuron, sample) pairs that a batch works on."""
    fitting = int(0.4 * free_memory() / (8 * _ARRAYS * programs_on_device()))
    return min(fitting, _CPU_PAIRS) if jax.local_devices()[0].platform == "cpu" else fitting


def batch_memory() -> float:
    """Bytes that the batches of a device work in."""
    return 8.0 * _ARRAYS * batch_pairs() * programs_on_device()


def out_of_memory(error: Exception) -> bool:
    """Whether an exception says that a device, or the host, has no memory left."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def _memory_maps() -> tuple[int, int]:
    """How many this process has, and how many it may have; where nothing tells, 0 and 0."""
    try:
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
        return Path("/proc/self/maps").read_bytes().count(b"\n"), allowed
    except (OSError, ValueError):
        return 0, 0


def drop_programs_if_crowded() -> None:
    """Let go of compiled programs when the process has half the memory maps that Linux allows it.

    XLA's CPU compiler takes some thousands for the stages of one shape, and a process that runs
    out of them dies.
    """
    held, allowed = _memory_maps()
    if held > allowed // 2:
        forget_programs()
        jax.clear_caches()
        # Programs lie in cycles, which are looked for rarely (``rare_collections``).
        gc.collect()


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let Python's garbage collector look less often. Tracing a program makes millions of small
    objects that stay: to look through them over and over again is a quarter of the time to a
    sweep's first trial.
    """
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _processor() -> str:
    """What the processor can do, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    told = ("model name", "flags", "Features")
    return "".join(sorted({line for line in lines if line.startswith(told)}))


def keep_compiled() -> Path | None:
    """Let JAX keep compiled programs between processes, in a directory of this JAX version's and
    this machine's: a program of another processor could kill the process.

    GAUNLEARN_CACHE names another directory, or is "off". Nothing relies on it: JAX compiles what
    it does not find or cannot read.
    """
    where = os.environ.get("GAUNLEARN_CACHE")
    if where == "off" or jax.config.values["jax_compilation_cache_dir"]:
        return None
    base = Path(where) if where else Path.home() / ".cache" / "gaunlearn"
    device = jax.local_devices()[0]
    kind = digest([device.platform, device.device_kind, platform.machine(), _processor()])[:12]
    directory = base / f"jax-{jax.__version__}-{kind}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_raise_persistent_cache_errors", False)
    return directory
