"""How much faster is it than what a user would write instead?

    python benchmarks/speed.py [--quick]

The same trials (train, retrain without a sample, ascend, judge) from the same samples and initial
weights, by gaunlearn and by the peers in ``peers``: interleaved in one process, on the same
threads, or on the same GPU, if PyTorch finds one as JAX does: what it computes on is told first.
Each peer's epsilon, delta and tau are held against the rows of gaunlearn's Parquet.

First table: the step-size sweep, in which trials share trainings, with as many trials as `make run`
has: its mixture without fresh samples, which is what peers do, then with fresh samples, then the
shipped sweep, half of which are isotropic data with many kinks. Peers are put together from their
measured parts: as a script that trains each network once, and as one that trains for every trial.
gaunlearn retrains twice for each forgotten sample, from other initial weights, to tell how far two
retrainings are apart; no peer does. Second table: triples a second where no two trials share
anything, every network trained for as many steps as the slowest trained network of the first 8
seeds took to epsilon_1 <= 1e-3; "reached" is the share of trained and retrained networks that are
there (and, of gaunlearn's limits, at epsilon_1 <= 1e-6, which takes descent some 2 x 10^6 steps).
Weight space is timed on fewer steps where all would take too long, and multiplied; the check is
then against a sweep of as many steps. Batched peers have batches of the size that suits them best.
gaunlearn is measured as a whole command, files and figure and all.

It stops if a peer's numbers are not gaunlearn's to 1e-6.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
import torch
from common import begin, durations, table, tell
from peers import plain_jax, torch_batched, torch_compiled, torch_loop
from peers.explicit import Explicit, explicit
from peers.torch_loop import DEVICE
from peers.trials import NetworkPeer, Samples, Triples

import gaunlearn
from gaunlearn.sweep.plan import families_of
from gaunlearn.sweep.spec import load_spec

PEERS: dict[str, NetworkPeer] = {
    "PyTorch, one by one": torch_loop,
    "PyTorch, batched": torch_batched,
    "PyTorch, batched, compiled": torch_compiled,
    "JAX, batched": plain_jax,
}
SPEC = """
[sweep]
seeds = {seeds}
[data]
kind = "gaussian_mixture"
m = {m}
d = {d}
alpha = 0.1
n_test = 0
[model]
kind = "two_layer_relu"
n = {n}
[train]
max_steps = {steps}
[forget]
index = {forget}
[unlearn]
step_fraction = {fractions}
[evaluate]
kinks = "ignored"
"""
STEP_SIZE = 1.0  # the specification's default
SHAPES = ((10, 1000, 100), (30, 1000, 100), (50, 10_000, 400), (10, 100_000, 100))
# Bytes of a batch's weights, and how many of it are held against gaunlearn's rows.
ROOM, CHECKED = 1 << 30, 8
# How far a peer's numbers may be from gaunlearn's, relative to 1 + their size.
SAME = 1e-6


class Timed(NamedTuple):
    """Seconds of a peer: a step of one network's training, and judging one trial."""

    step: float
    judge: float
    triples: Triples

    def trial(self, steps: int) -> float:
        """A trial that shares nothing: two trainings."""
        return 2 * steps * self.step + self.judge


def sweep_of(folder: Path, overrides=(), **numbers):
    """A sweep, and the file that it is in."""
    path = folder / "spec.toml"
    path.write_text(SPEC.format(**{"forget": 0, "fractions": 1.0} | numbers))
    return load_spec(path, overrides)


def rows_of(folder: Path, name: str, overrides=(), **numbers) -> pd.DataFrame:
    """What gaunlearn says of a sweep: rows by seed, forgotten sample and step fraction."""
    sweep_of(folder, **numbers)
    run = gaunlearn.run(folder / "spec.toml", folder / name, overrides=overrides, fresh=True)
    return run.to_pandas().sort_values(["seed", "forget_index", "step_fraction"])


def steps_needed(folder: Path, **shape) -> int:
    """Steps after which the trained networks of the first 8 seeds have epsilon_1 <= 1e-3."""
    overrides = ["train.target_epsilon=1e-3"]
    rows = rows_of(folder, "needed", overrides, seeds=8, steps=100_000, **shape)
    return int(rows["steps"].max())


def samples_of(given: Explicit, count: int, forget: int) -> Samples:
    return Samples(given.x[:count], given.y[:count], np.full(count, forget))


class Peer:
    """One peer on the first ``count`` problems, each of which forgets sample 0."""

    def __init__(
        self, module: NetworkPeer, given: Explicit, count: int, steps: int, fractions
    ) -> None:
        self.module, self.given, self.count = module, given, count
        self.steps, self.fractions = steps, fractions

    def train(self, forget: int, start: int):
        samples = samples_of(self.given, self.count, forget)
        first = self.given.weights[: self.count, start]
        return self.module.train(samples, first, self.given.u, self.steps, STEP_SIZE)

    def measure(self) -> Timed:
        """One training and retraining of each, and their judgement."""
        began = time.perf_counter()
        w, v = self.train(-1, 0), self.train(0, 1)
        trained = time.perf_counter()
        samples = samples_of(self.given, self.count, 0)
        triples = self.module.judge(samples, w, v, self.given.u, self.fractions)
        ended = time.perf_counter()
        return Timed(
            (trained - began) / (2 * self.steps * self.count),
            (ended - trained) / (self.count * len(self.fractions)),
            triples,
        )


def width_of(shape: dict[str, int]) -> int:
    """How many networks a batched peer trains side by side at most: copies of their weights fit."""
    return max(1, min(32, ROOM // (4 * 8 * shape["n"] * shape["d"])))


def seconds_of_step(peer: Peer) -> float:
    """A step of a peer's whole batch, roughly."""
    peer.train(-1, 0)
    began = time.perf_counter()
    peer.train(-1, 0)
    return (time.perf_counter() - began) / peer.steps


def peers_of(given: Explicit, shape, steps: int, fractions, patience: float) -> dict[str, Peer]:
    """Peers with as many steps as they can take in so many seconds, in each of two trainings; in
    batches of the size that suits them best: large ones need not fit a processor's caches.
    """
    found = {}
    for name, module in PEERS.items():
        most = 1 if module is torch_loop else width_of(shape)
        taken = {
            count: seconds_of_step(Peer(module, given, count, 2, fractions))
            for count in sorted({most, max(1, most // 4), 1})
        }
        count = min(taken, key=lambda count: taken[count] / count)
        affordable = int(patience / taken[count]) // 10 * 10
        found[name] = Peer(module, given, count, max(10, min(steps, affordable)), fractions)
    return found


def error_of(triples: Triples, rows: pd.DataFrame) -> str:
    """The largest error of each of a peer's numbers, relative to 1 + their size.

    Raises:
        SystemExit: they are not the same numbers.
    """
    worst = []
    columns = ("epsilon", "delta", "tau_retrain", "epsilon_train")
    for name, every in zip(columns, triples, strict=True):
        found = every[:CHECKED].reshape(len(every[:CHECKED]), -1)
        wanted = rows[name].to_numpy().reshape(rows["seed"].nunique(), -1)[: len(found)]
        worst.append(np.max(np.abs(found - wanted) / (1 + np.abs(wanted))))
    if not max(worst) <= SAME:
        raise SystemExit(f"errors of {', '.join(columns)}: {worst}")
    return ", ".join(f"{error:.0e}" for error in worst)


def reached(rows: pd.DataFrame, level: float) -> str:
    """The share of trained and retrained networks with so small a residual."""
    residuals = rows[["epsilon_train", "epsilon_retrain"]].to_numpy()
    return f"{(residuals <= level).mean():.0%} <= {level:.0e}"


def interleaved(ways: Mapping[str, Callable[[], object]], peers: dict[str, Peer], repeats: int):
    """Seconds of gaunlearn's ways, and what the peers measured; all in turn, after a warm-up."""
    for whole in ways.values():
        whole()
    for peer in peers.values():
        peer.measure()
    own: dict[str, list[float]] = {name: [] for name in ways}
    timed: dict[str, list[Timed]] = {name: [] for name in peers}
    for _ in range(repeats):
        for name, whole in ways.items():
            began = time.perf_counter()
            whole()
            own[name].append(time.perf_counter() - began)
        for name, peer in peers.items():
            timed[name].append(peer.measure())
    return own, timed


def compare_shapes(shapes, repeats: int, patience: float):
    """Rows: triples of trials that share nothing."""
    for m, d, n in shapes:
        shape = {"m": m, "d": d, "n": n}
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            steps = steps_needed(folder, **shape)
            seeds = 4 * width_of(shape) if d <= 1000 else 8
            count = min(seeds, width_of(shape))
            sweep = sweep_of(folder, seeds=count, steps=steps, **shape)
            given = explicit(sweep, list(families_of(sweep)))
            peers = peers_of(given, shape, steps, (1.0,), patience)
            numbers = shape | {"seeds": seeds, "steps": steps}
            limit = ("train.end='limit'",)
            ways = {
                "gaunlearn, descent": partial(rows_of, folder, "run", **numbers),
                "gaunlearn, limit": partial(rows_of, folder, "run", limit, **numbers),
            }
            own, timed = interleaved(ways, peers, repeats)
            reference = np.median(own["gaunlearn, descent"]) / seeds
            for (name, whole), level in zip(ways.items(), (1e-3, 1e-6), strict=True):
                yield {
                    "m, d, n": f"{m}, {d}, {n}",
                    "what": name,
                    "steps": steps,
                    "reached": reached(whole(), level),
                    "a triple": durations([each / seeds for each in own[name]]),
                    "gaunlearn is faster by": "",
                    "measured on": f"{seeds} trials",
                    "error of epsilon, delta, tau, epsilon_1": "",
                }
            for name, measured in timed.items():
                peer = peers[name]
                checked = rows_of(
                    folder, "check", seeds=min(count, CHECKED), steps=peer.steps, **shape
                )
                each = [timing.trial(steps) for timing in measured]
                yield {
                    "m, d, n": f"{m}, {d}, {n}",
                    "what": name,
                    "steps": steps,
                    "reached": "as descent",
                    "a triple": durations(each),
                    "gaunlearn is faster by": f"{np.median(each) / reference:.0f}",
                    "measured on": f"{peer.count} trials, {peer.steps} steps",
                    "error of epsilon, delta, tau, epsilon_1": error_of(
                        measured[0].triples, checked
                    ),
                }


def place_of_peers() -> str:
    """What PyTorch computes on, to be told with its times."""
    return f"PyTorch computes on: {DEVICE}, {torch.get_num_threads()} threads"


SWEEP = {"m": 10, "d": 1000, "n": 100}
SWEEP_STEPS, FRACTIONS = 5000, tuple(np.linspace(0, 2, 41).tolist())
ALL_SAMPLES, FRESH_SAMPLES = list(range(10)), 1000
SHIPPED = Path(__file__).parent.parent / "sweeps" / "step_size.toml"


def compare_sweep(seeds: int, repeats: int, patience: float) -> None:
    """The mixture of the step-size sweep: a training, 10 retrainings, and 410 trials a seed."""
    per_seed = len(ALL_SAMPLES) * len(FRACTIONS)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        numbers = SWEEP | {"steps": SWEEP_STEPS, "fractions": list(FRACTIONS)}
        sweep = sweep_of(folder, seeds=width_of(SWEEP), **numbers)
        given = explicit(sweep, list(families_of(sweep)))
        peers = peers_of(given, SWEEP, SWEEP_STEPS, FRACTIONS, patience)
        trials = seeds * per_seed
        every = numbers | {"seeds": seeds, "forget": ALL_SAMPLES}
        handled, fresh = "evaluate.kinks='handled'", f"data.n_test={FRESH_SAMPLES}"
        shipped = [f"sweep.seeds={seeds // 2}"]
        ways = {
            "gaunlearn": partial(rows_of, folder, "run", (handled,), **every),
            "gaunlearn, kinks ignored": partial(rows_of, folder, "run", **every),
            f"gaunlearn, {FRESH_SAMPLES} fresh samples": partial(
                rows_of, folder, "run", (handled, fresh), **every
            ),
            "gaunlearn, as shipped: half isotropic, 200 fresh samples": partial(
                gaunlearn.run, SHIPPED, folder / "run", overrides=shipped, fresh=True
            ),
        }
        own, timed = interleaved(ways, peers, repeats)
        reference = np.median(own["gaunlearn"]) / trials
        rows = [
            {
                "what": name,
                "a triple": durations([each / trials for each in taken]),
                "gaunlearn is faster by": "",
                "measured on": f"{trials} trials",
                "error of epsilon, delta, tau, epsilon_1": "",
            }
            for name, taken in own.items()
        ]
        trainings = (1 + len(ALL_SAMPLES)) * SWEEP_STEPS / per_seed
        for name, measured in timed.items():
            peer = peers[name]
            short = numbers | {"steps": peer.steps}
            checked = rows_of(folder, "check", seeds=min(peer.count, CHECKED), **short)
            for how, steps in (("shared", trainings), ("every trial trains", 2 * SWEEP_STEPS)):
                each = [steps * timing.step + timing.judge for timing in measured]
                rows.append(
                    {
                        "what": f"{name}, {how}",
                        "a triple": durations(each),
                        "gaunlearn is faster by": f"{np.median(each) / reference:.1f}",
                        "measured on": f"{peer.count} networks, {peer.steps} steps",
                        "error of epsilon, delta, tau, epsilon_1": error_of(
                            measured[0].triples, checked
                        ),
                    }
                )
    table("The step-size sweep, mixture: 410 trials of one training and 10 retrainings", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one shape, fewer seeds and steps, once"
    )
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin("speed", args.quick)
    tell(place_of_peers())
    repeats, patience = (1, 2.0) if args.quick else (3, 5.0)
    compare_sweep(2 if args.quick else 16, repeats, patience)
    shapes = SHAPES[:1] if args.quick else SHAPES
    table(
        "Triples that share nothing, networks trained to about epsilon_1 <= 1e-3",
        compare_shapes(shapes, repeats, patience),
    )
