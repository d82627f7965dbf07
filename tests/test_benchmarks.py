"""What benchmarks compare with is right, and what a GPU is to be asked can be asked.

Their times are none of a test's business.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import write

import gaunlearn
from gaunlearn.sweep.plan import families_of
from gaunlearn.sweep.spec import load_spec

_MODULES = {"accelerator", "common", "counting", "peers", "roofline"}
SPEC = """
[sweep]
seeds = 2
[data]
kind = "isotropic"
m = 4
d = 20
n_test = 0
[model]
kind = "two_layer_relu"
n = 8
[train]
max_steps = 60
step_size = 0.3
[forget]
index = 1
[unlearn]
step_fraction = [0.0, 1.0]
[evaluate]
kinks = "ignored"
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:  # "common" may be others' name, too
        if name.split(".")[0] in _MODULES:
            del sys.modules[name]


def test_a_peer_gives_the_numbers_of_a_sweep(tmp_path):
    from peers import plain_jax
    from peers.explicit import explicit
    from peers.trials import Samples

    path = write(tmp_path, SPEC)
    rows = gaunlearn.run(path, tmp_path / "run").to_pandas()
    rows = rows.sort_values(["seed", "step_fraction"])
    sweep = load_spec(path)
    given = explicit(sweep, list(families_of(sweep)))
    ends = [
        plain_jax.train(
            Samples(given.x, given.y, np.full(2, forget)), given.weights[:, start], given.u, 60, 0.3
        )
        for start, forget in ((0, -1), (1, 1))
    ]
    triples = plain_jax.judge(Samples(given.x, given.y, np.full(2, 1)), *ends, given.u, (0.0, 1.0))
    for name, found in zip(("epsilon", "delta", "tau_retrain"), triples, strict=False):
        np.testing.assert_allclose(found.ravel(), rows[name], rtol=1e-9, atol=1e-12)
    assert rows["epsilon"].min() > 1e-3


def test_the_fused_kernel_is_compared_in_all_forms():
    from accelerator import compare_kernels

    rows = list(compare_kernels(((4, 16),), trials=2, repeats=1, interpret=True))
    assert len({tuple(row) for row in rows}) == 1
    assert [row["steps by"] for row in rows if row["type"] == "float64"] == [
        "XLA",
        "fused kernel, one array, 1 warps",
        "fused kernel, columns, 2 warps",
    ]
    for row in rows:
        assert float(row["largest error of W"]) <= {"float64": 1e-12, "float32": 1e-3}[row["type"]]


def test_operations_of_products_are_counted_as_often_as_loops_go_round():
    from counting import counted

    def function(a, count):
        _, x = jax.lax.while_loop(
            lambda state: state[0] > 0, lambda state: (state[0] - 1, state[1] @ a), (count, a)
        )
        x, _ = jax.lax.scan(lambda x, _: (x @ a, x.sum()), x, None, 3)
        return jax.lax.cond(count > 4, lambda x: x @ x, lambda x: x, x)

    a = np.eye(4)
    for count, products in ((5, 5 + 3 + 1), (2, 2 + 3)):
        program = jax.make_jaxpr(function)(a, count)
        (found,), operations = counted(program, (a, count))
        assert operations == products * 2 * 4**3
        np.testing.assert_array_equal(found, a)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ([2e-6, 1e-6, 3e-6], "2 µs (1 to 3)"),
        ([0.0282, 0.0281, 0.0283], "28.2 ms (28.1 to 28.3)"),
        ([8.17], "8.17 s (8.17 to 8.17)"),
        ([917.0, 900.0, 978.0], "15.3 min (15 to 16.3)"),
        ([7200.0, 3600.0, 1e4], "2 h (1 to 2.78)"),
    ],
)
def test_times_are_told_in_units_that_suit_them(seconds, told):
    from common import durations

    assert durations(seconds) == told
