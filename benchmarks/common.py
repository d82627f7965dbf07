"""What the benchmarks share: problems by the batch, interleaved timing, tables and where they came
from. What is printed is also kept: results/bench/NAME.md to read, NAME.json to compute with.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gaunlearn.data.distributions import draw, initial_weights, law_of
from gaunlearn.data.numbers import split
from gaunlearn.data.reduction import reduce_problem
from gaunlearn.losses import LOSSES
from gaunlearn.models import RELU, output_weights
from gaunlearn.sweep.host import host_cores
from gaunlearn.sweep.machine import keep_compiled
from gaunlearn.sweep.provenance import commit_of_code
from gaunlearn.training import TrainingConfig

MIXTURE = {"alpha": 0.1, "noise_scale": 1.0, "label_noise": 0.0, "positive": 0.5}
INIT_SCALE = 0.03
WORTH_THREADS_S = 0.003
# How long a turn of interleaved calls lasts; and a first call, which may have compiled, that is too
# long to be made again for nothing.
TURN_S, LONG_S = 0.03, 5.0
# Isotropic data need the smaller step: from 1.0, many neurons die on some samples early on.
STEP_SIZE = {"isotropic": 0.3, "gaussian_mixture": 1.0}


def keys_of(seed, count):
    """The words of so many keys."""
    return np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed), count)))


def problems(kind, keys, m, d, n):
    """A reduced problem for each key, stacked, with one initialisation; d may be one for each."""
    data_keys, init_keys, beyond_keys = split(keys, 3)
    law = (kind, 0)
    parameters = {"d": d} | (MIXTURE if kind == "gaussian_mixture" else {})
    room = (m, 0, m + law_of(*law)[1], 0)
    given = draw(data_keys, beyond_keys, law, room, m, False, parameters)
    weights = initial_weights(init_keys[:, None], n, given, n, d, INIT_SCALE)
    u = np.broadcast_to(output_weights(RELU, n), (len(keys), n))
    return jax.tree.map(jnp.asarray, reduce_problem(given, weights, u))


@cache
def _threads():
    return ThreadPoolExecutor(host_cores(), "part")


def programs_at_once():
    """How many programs the engine runs side by side on this machine's first device."""
    return host_cores() if jax.default_backend() == "cpu" else 1


def on_every_core(call):
    """A function that makes the call as often at once as the engine runs programs: on every core
    of a CPU, once on another device.
    """

    def one(_):
        with jax.enable_x64(True):
            jax.block_until_ready(call())

    return lambda: list(_threads().map(one, range(programs_at_once())))


def side_by_side(call, *batch):
    """A function that calls ``call`` of a batch (arrays with one leading axis) in as many parts as
    there are cores, side by side, as the engine does on a CPU; whole, if that takes no longer than
    threads are worth.
    """
    batch = tuple(map(np.asarray, batch))

    def part(number, of):
        mine = tuple(jnp.asarray(np.array_split(leaf, of)[number]) for leaf in batch)

        def one():
            with jax.enable_x64(True):
                return np.asarray(call(*mine))

        return one

    whole, count = part(0, 1), min(host_cores(), len(batch[0]))
    if count == 1 or median_seconds(whole, 3) < WORTH_THREADS_S:
        return whole
    parts = [part(number, count) for number in range(count)]
    return lambda: np.concatenate(list(_threads().map(lambda one: one(), parts)))


def descent(kind, steps, **others):
    """Loss-normalised descent on the logistic loss."""
    return TrainingConfig(LOSSES["logistic"], "normalized_gd", STEP_SIZE[kind], steps, **others)


def timed(calls, repeats=5):
    """Seconds of each call, all of them, after a warm-up; interleaved: a, b, c, a, b, c, ... The
    turn of a short call is some calls, of which the mean counts: the first one finds its data in no
    cache and its threads asleep.
    """

    def turn(call, count):
        began = time.perf_counter()
        for _ in range(count):
            jax.block_until_ready(call())
        return (time.perf_counter() - began) / count

    def calls_of_a_turn(call):
        compiling = turn(call, 1)
        return 1 if compiling > LONG_S else max(1, round(TURN_S / turn(call, 1)))

    counts = {name: calls_of_a_turn(call) for name, call in calls.items()}
    taken = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(turn(call, counts[name]))
    return taken


def seconds(calls, repeats=5):
    """Median seconds of each call, as ``timed``."""
    return {name: statistics.median(each) for name, each in timed(calls, repeats).items()}


def median_seconds(call, repeats):
    """Of one call."""
    return seconds({"": call}, repeats)[""]


def spread(values, digits=3):
    """Median, least and largest."""
    middle, least, most = (f"{v:.{digits}g}" for v in (np.median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


# Seconds of each unit, and from which number of it on the next one is easier to read.
UNITS = (("µs", 1e-6, 1e3), ("ms", 1e-3, 1e3), ("s", 1.0, 120.0), ("min", 60.0, 120.0))


def durations(seconds):
    """Median, least and largest, all in the unit that suits the median."""
    middle = np.median(seconds)
    suited = (unit for unit in UNITS if middle < unit[1] * unit[2])
    name, size, _ = next(suited, ("h", 3600.0, np.inf))
    middle, least, most = (f"{v / size:.3g}" for v in (middle, min(seconds), max(seconds)))
    return f"{middle} {name} ({least} to {most})"


def matmul_side():
    """Rows and columns of a matrix that is large for this device."""
    return 1024 if jax.default_backend() == "cpu" else 8192


def matmul_ceiling(dtype):
    """GFLOP/s of large matrix products: what arithmetic can reach here. The larger of two: a single
    product, which XLA divides among the cores as it will, and one on every core at once.
    """
    size = matmul_side()
    a = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)), dtype)
    product = jax.jit(lambda a, b: a @ b)
    calls = {1: lambda: product(a, a)}
    calls.setdefault(programs_at_once(), on_every_core(calls[1]))
    taken = seconds(calls, 9)
    return max(2 * size**3 * count / taken[count] / 1e9 for count in calls)


RESULTS = Path(__file__).parent.parent / "results" / "bench"
# Of which the version is told, where they take part.
LIBRARIES = ("jaxlib", "numpy", "scipy", "torch", "sklearn", "cvxpy", "quadprog", "qpax", "ray")
DISTRIBUTIONS = {"sklearn": "scikit-learn"}


# What the benchmark that runs has said so far, and the name to keep it under.
_kept: dict[str, Any] = {"name": "", "tables": []}


def begin(name: str, is_quick: bool = False) -> None:
    """Say where the figures come from, and keep all tables under a name from here on; those of a
    quick run apart from a full one's. Compiling is in none of them, unless it is what is measured:
    its results are kept between benchmarks too.
    """
    keep_compiled()
    versions = {"jax": jax.__version__, "Python": platform.python_version()}
    for library in LIBRARIES:
        if library in sys.modules:
            try:
                versions[library] = version(DISTRIBUTIONS.get(library, library))
            except PackageNotFoundError:
                versions[library] = "unknown"
    device = jax.local_devices()[0]
    cores = len(os.sched_getaffinity(0))
    source = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit_of_code() or "unknown",
        "versions": versions,
        "device": f"{len(jax.local_devices())} x {device.device_kind}",
        "processor": processor(),
        "threads": cores,
        "x64": jax.config.jax_enable_x64,
    }
    _kept.update(name=f"{name}-quick" if is_quick else name, provenance=source, tables=[])
    told = ", ".join(f"{library} {number}" for library, number in versions.items())
    tell(f"{source['date']}, commit {source['commit']}, {source['command']}")
    tell(f"{told}; {source['device']}, {source['processor']}, {cores} threads, x64 {source['x64']}")


def processor() -> str:
    """The model of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def tell(line: str) -> None:
    """Print a paragraph, and keep it."""
    print(line + "\n", flush=True)
    _kept["tables"].append({"text": line})
    _write()


def table(title: str, rows: Iterable[dict[str, Any]]) -> None:
    """A Markdown table of dictionaries that have the same keys. Rows are printed and kept as they
    come: an interrupted benchmark keeps what it had.
    """
    kept: dict[str, Any] = {"title": title, "rows": [], "text": ""}
    for row in rows:
        lines = [f"| {' | '.join(map(str, row.values()))} |"]
        if not kept["rows"]:
            _kept["tables"].append(kept)
            lines = [title, "", f"| {' | '.join(row)} |", "|" + "---|" * len(row), *lines]
        print("\n".join(lines), flush=True)
        kept["rows"].append(row)
        kept["text"] = "\n".join([kept["text"], *lines]).lstrip()
        _write()
    print(flush=True)


def _write() -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(each["text"] for each in _kept["tables"])
    (RESULTS / f"{_kept['name']}.md").write_text(text + "\n")
    (RESULTS / f"{_kept['name']}.json").write_text(json.dumps(_kept, indent=1, default=str))
