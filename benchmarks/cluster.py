"""What a run on a cluster costs its driver: time and memory a receipt, with stub workers.

Everything of the driver is real, planning, Ray, receipts, manifest; the workers answer at once. So
what is printed is the driver's own limit: how many blocks a second it can have computed by others,
and how much memory it holds for what is done. Also what resuming holds for each stored training.

    python benchmarks/cluster.py            100 000 receipts, some ten minutes
    python benchmarks/cluster.py --quick    3 000
"""

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from common import begin, table, tell

from gaunlearn.sweep import cluster, plan, remote
from gaunlearn.sweep.parts import Claim, Completed
from gaunlearn.sweep.resume import Finished
from gaunlearn.sweep.runner import run_sweep
from gaunlearn.sweep.spec import load_spec
from gaunlearn.sweep.tally import counts_of
from gaunlearn.sweep.worker import Receipt

SPEC = """
[sweep]
seeds = 1000
[data]
kind = "isotropic"
m = 10
d = 1000
[model]
kind = "two_layer_relu"
n = 100
[train]
max_steps = 1000
step_size = {{ start = 0.001, stop = 0.3, count = {values}, scale = "log" }}
[unlearn]
step_fraction = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 2.0]
"""
# Of 100 trials whose epsilon spreads over two decades: a receipt is about as large as it gets.
EPSILONS = counts_of(10 ** np.random.default_rng(0).uniform(-3, -1, 100))


class Stub(cluster.RemoteWorker):
    """A worker that believes that it has done it."""

    def prepare(self, job, token, code):
        return remote.Ability("stub", os.getpid(), 1.0, 4e9, {"stub": True})

    def work(self, block):
        return [Receipt(block.key, Completed(1, 10, block.trials), 1.0, 1.0, EPSILONS)]


def memory():
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def receipts(values):
    """Rows of a table: after how many receipts, seconds and processor seconds each, memory."""
    rows = []

    def progress(where):
        nonlocal last
        done = where.done // 100
        if where.stage == "stored" and done >= marks[len(rows)]:
            now = done, time.perf_counter(), time.process_time()
            rows.append([a - b for a, b in zip(now, last, strict=True)] + [done, memory()])
            last = now

    marks = [*np.linspace(0, 1000 * values, 6).astype(int)[1:], np.inf]
    cluster.RemoteWorker = Stub
    plan.BLOCK_S = 1e-9  # a block is one training
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.toml"
        path.write_text(SPEC.format(values=values))
        last = 0, time.perf_counter(), time.process_time()
        recruit = partial(cluster.on_cluster, "local", remote.Demand(cpus=1.0))
        run_sweep(load_spec(path), Path(folder) / "run", progress=progress, recruit=recruit)
    return [
        {
            "receipts": at,
            "ms each": f"{1e3 * wall / count:.2f}",
            "of the driver's processor": f"{1e3 * cpu / count:.2f}",
            "MiB in all": f"{in_all / 2**20:.0f}",
        }
        for count, wall, cpu, at, in_all in rows
    ]


def resumption(trainings=1_000_000):
    """Bytes for each stored training: what is known of it, and the claim that it was read from."""
    pairs = ((tuple(range(10)), tuple(i / 10 for i in range(10))),)
    before, finished = memory(), Finished()
    for branch in range(trainings // 1000):
        finished.add([Claim(f"{branch:032x}", seed, pairs) for seed in range(1000)])
    known = memory()
    claims = [[Claim(f"{b:032x}", s, pairs) for s in range(1000)] for b in range(trainings // 1000)]
    return (known - before) / trainings, (memory() - known) / sum(map(len, claims))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 000 receipts")
    args = parser.parse_args()
    values = 3 if args.quick else 100
    # First: what a run has let go of would be used again, and count as nothing.
    known, claim = resumption()
    rows = receipts(values)
    begin("cluster", args.quick)
    table("Receipts of stub workers", rows)
    tell(f"resuming: {known:.0f} bytes a training, and {claim:.0f} while parts are being read")
