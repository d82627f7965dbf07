"""What does float32 cost, and does iterative refinement help?

    python benchmarks/precision.py [--seeds 4]

First table: the same trials in float64 and in float32, from the same data and initial weights;
errors are absolute, median and largest over trials whose values exist in both. Second table: the
limit solver alone in float32, with the face's linear system solved once (no refinement), twice (as
shipped) and three times; its solution is certified in float64.
"""

import argparse
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from common import begin, descent, keys_of, problems, table

import gaunlearn
import gaunlearn.limit as limit_solver
from gaunlearn.ladder import certify
from gaunlearn.models import RELU
from gaunlearn.training import Descent

MIXTURE = 'kind = "gaussian_mixture"\nalpha = 0.1\nn_test = 0'
ISOTROPIC = 'kind = "isotropic"\nn_test = 0'
TWO_LAYER = 'kind = "two_layer_relu"\nn = 100'
REGIMES = {
    "mixture, m 10, d 1e3": (f"{MIXTURE}\nm = 10\nd = 1000", TWO_LAYER, 1.0),
    "mixture, m 40, d 1e5": (f"{MIXTURE}\nm = 40\nd = 100_000", TWO_LAYER, 1.0),
    "isotropic, m 10, d 1e3": (f"{ISOTROPIC}\nm = 10\nd = 1000", TWO_LAYER, 0.3),
    "isotropic, m 40, d 100": (f"{ISOTROPIC}\nm = 40\nd = 100", TWO_LAYER, 0.3),
    "digits, m 40": ('kind = "digits"\nm = 40', f"{TWO_LAYER}\ninit_scale = 0.3", 1.0),
    "linear, m 10, d 100": (f"{ISOTROPIC}\nm = 10\nd = 100", 'kind = "linear"', 0.3),
}
TO_THE_LIMIT = {"mixture, m 10, d 1e3", "isotropic, m 10, d 1e3"}
SPEC = """
[sweep]
seeds = {seeds}
[data]
{data}
[model]
{model}
[train]
max_steps = 3000
step_size = {step_size}
end = "{end}"
[forget]
index = [0, 1]
[unlearn]
step_fraction = [0.0, 0.5, 1.0]
[compute]
dtype = ["float64", "float32"]
"""
TRIPLES = ("", "_limit", "_retrain")
IDENTITY = ["seed", "forget_index", "step_fraction"]


def compare_trials(seeds):
    rows = []
    for name, (data, model, step_size) in REGIMES.items():
        for end in ("descent", "limit") if name in TO_THE_LIMIT else ("descent",):
            text = SPEC.format(seeds=seeds, data=data, model=model, step_size=step_size, end=end)
            with tempfile.TemporaryDirectory() as place:
                path = Path(place) / "spec.toml"
                path.write_text(text)
                frame = gaunlearn.run(path, out=Path(place) / "run").to_pandas()
            wide, narrow = (frame[frame["dtype"] == dtype] for dtype in ("float64", "float32"))
            both = wide.merge(narrow, on=IDENTITY, suffixes=("_64", "_32"))
            for triple in TRIPLES:
                row = {"regime": name, "end": end, "triple": triple.lstrip("_") or "snapped"}
                for quantity in ("epsilon", "delta", "tau"):
                    exact, rough = (both[f"{quantity}{triple}_{bits}"] for bits in (64, 32))
                    error = (rough - exact).abs().dropna()
                    row[f"{quantity}: median value"] = f"{exact.median():.1e}"
                    row[f"{quantity}: error (median, max)"] = (
                        f"{error.median():.0e}, {error.max():.0e}"
                    )
                known = [both[f"epsilon{triple}_{bits}"].notna() for bits in (64, 32)]
                row["known in 64, 32"] = f"{known[0].sum()}, {known[1].sum()} of {len(both)}"
                rows.append(row)
            jax.clear_caches()
    table("Float32 against float64, per certificate of the unlearned network", rows)


@partial(jax.jit, static_argnames="kind")
def solve_narrow(kind, batch):
    keep = jnp.ones(batch.y.shape[1], bool)

    def one(given):
        u, x, y = given.u, given.x, given.y
        start = given.initial_weights[0]
        weights = Descent(RELU, descent(kind, 1000), start, u, x, y, keep).run().weights
        narrow = [jnp.asarray(a, jnp.float32) for a in (weights, u, x, y)]
        limit = limit_solver.find_limit(RELU, *narrow, keep)
        wide = (a.astype(jnp.float64) for a in (limit.weights, *narrow[1:]))
        checked = certify(RELU, *wide, keep, jnp.asarray([1e-4]), jnp.asarray(1.0))
        return limit.status, limit.iterations, checked.epsilon, checked.delta

    return jax.lax.map(one, batch, batch_size=8)


def compare_refinement(lanes):
    shipped, rows = limit_solver._SOLVES, []
    for kind in ("isotropic", "gaussian_mixture"):
        for m, d, n in ((10, 1000, 100), (40, 100, 100)):
            batch = problems(kind, keys_of(m, lanes), m, float(d), n)
            for solves in (1, 2, 3):
                # What was traced with another number would be taken again.
                jax.clear_caches()
                limit_solver._SOLVES = solves
                found = jax.device_get(solve_narrow(kind, batch))
                status, iterations, epsilon, delta = found
                named = Counter(limit_solver.STATUSES[s] for s in status)
                rows.append(
                    {
                        "data": kind,
                        "m, d, n": f"{m}, {d}, {n}",
                        "solves": solves,
                        "status": ", ".join(f"{k} {v}" for k, v in named.most_common()),
                        "iterations": f"{np.median(iterations):.0f}",
                        "epsilon (median, max)": (
                            f"{np.nanmedian(epsilon):.1e}, {np.nanmax(epsilon):.1e}"
                        ),
                        "delta (median, max)": (
                            f"{np.nanmedian(delta):.1e}, {np.nanmax(delta):.1e}"
                        ),
                    }
                )
    limit_solver._SOLVES = shipped
    table("Limit solver in float32, certified in float64", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin("precision")
    compare_trials(args.seeds)
    compare_refinement(64)
