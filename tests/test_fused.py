"""The fused kernel against the plain descent, interpreted; and what it takes to be chosen.

That it is faster can be seen on a GPU only: benchmarks/accelerator.py.
"""

import functools

import jax
import jax.export
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import SPEC, write

import gaunlearn
from gaunlearn import fused
from gaunlearn.compiler import Work
from gaunlearn.fused import Fused, fused_steps
from gaunlearn.losses import LOSSES
from gaunlearn.models import LINEAR, RELU, leaky_relu
from gaunlearn.sweep import execute, kernels, traced
from gaunlearn.training import Descent, TrainingConfig

KERNELS = (Fused(by_columns=False, warps=2), Fused(by_columns=True, warps=1))


def interpreted(monkeypatch):
    monkeypatch.setattr(fused, "fused_steps", functools.partial(fused_steps, interpret=True))


def config(optimizer="normalized_gd", loss="logistic", max_steps=7, check_every=5):
    return TrainingConfig(
        loss=LOSSES[loss],
        optimizer=optimizer,
        step_size=0.2 if optimizer == "normalized_gd" else 0.01,
        max_steps=max_steps,
        check_every=check_every,
    )


def descend(chosen, model, settings_, w, u, x, y, keep):
    """Where two rounds end: the second is shorter than the first."""
    steps = None
    if chosen is not None:
        plain = settings_.loss, settings_.optimizer == "normalized_gd"
        steps = functools.partial(fused_steps, chosen, model, *plain, interpret=True)

    @jax.jit
    @jax.vmap
    def ends(w, x, y, keep):
        descent = Descent(model, settings_, w, u, x, y, keep, many_steps=steps)
        return descent.one_round(descent.one_round(descent.begin()))

    return ends(w, x, y, keep)


@pytest.mark.parametrize("how", KERNELS, ids=["array", "columns"])
@pytest.mark.parametrize("model", [RELU, leaky_relu(0.1), LINEAR], ids=["relu", "leaky", "linear"])
@pytest.mark.parametrize("optimizer", ["gd", "normalized_gd"])
@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_many_steps_at_once_are_those_one_by_one(how, model, optimizer, loss):
    """To rounding; three trials side by side, with samples that are not kept and neurons that do
    not exist.
    """
    rng = np.random.default_rng(3)
    n, m, r = (1 if model.is_linear else 11), 6, 8
    x, w = rng.normal(size=(3, m, r)), 0.3 * rng.normal(size=(3, n, r))
    u = np.ones(1) if model.is_linear else np.append(rng.choice([-0.4, 0.4], n - 1), 0.0)
    y = np.where(rng.random((3, m)) < 0.5, 1.0, -1.0)
    keep = np.arange(m) != np.arange(3)[:, None]
    given_ = config(optimizer, loss), w, u, x, y, keep
    plain, got = (descend(each, model, *given_) for each in (None, how))
    np.testing.assert_allclose(got.parameters, plain.parameters, rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(got.steps, [7, 7, 7])
    np.testing.assert_array_equal(got.steps, plain.steps)
    assert np.abs(plain.parameters).max() > 1e-3


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(-3.0, 3.0), st.sampled_from(KERNELS))
def test_nothing_overflows_where_margins_are_large(seed, power, how):
    """Slopes underflow in exp(-q) from q = 745 on; normalised descent goes on."""
    rng = np.random.default_rng(seed)
    n, m = 4, 3
    x = rng.normal(size=(1, m, 5))
    w = 10.0**power * 100 * rng.normal(size=(1, n, 5))
    u, y = np.asarray([0.5, -0.5, 0.5, -0.5]), np.asarray([[1.0, -1.0, 1.0]])
    given_ = RELU, config(), w, u, x, y, np.ones((1, m), bool)
    plain, got = descend(None, *given_), descend(how, *given_)
    np.testing.assert_allclose(got.parameters, plain.parameters, rtol=1e-9, atol=1e-12)


def chosen(monkeypatch, dtype="float64", **changes):
    monkeypatch.setattr(kernels.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(kernels, "_TRIED_TRIALS", 2)
    monkeypatch.setattr(kernels, "_TRIED_STEPS", 20)
    for name, value in changes.items():
        monkeypatch.setattr(fused if name == "fused_steps" else kernels, name, value)
    kernels._tried.cache_clear()
    return kernels.choose(RELU, LOSSES["logistic"], "normalized_gd", 16, 4, dtype, 10**9)


@pytest.mark.parametrize("how", KERNELS, ids=["array", "columns"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_it_can_be_compiled_for_a_gpu_and_kept(how, dtype, loss):
    """As far as that goes without one: every operation has a form in Triton, and the program one in
    a file.
    """
    trials, n, m = 3, 100, 10

    def shape(*dims, kind=dtype):
        return jax.ShapeDtypeStruct((trials, *dims), kind)

    steps = fused.steps_by(how, RELU, LOSSES[loss], "normalized_gd")
    export = jax.export.export(
        jax.jit(jax.vmap(steps)), platforms=("cuda",), disabled_checks=[traced._KERNELS]
    )
    exported = export(
        shape(n, m),
        shape(m, m),
        shape(n, m),
        shape(n),
        shape(m),
        shape(m, kind=bool),
        shape(),
        shape(kind="int64"),
    )
    kept = jax.export.deserialize(exported.serialize())
    assert "__gpu$xla.gpu.triton" in kept.mlir_module()


def clock(plain, kernel):
    """One on which tries of the plain way, then those of the kernel, take so long."""
    taken = [plain] * kernels._TRIES + [kernel] * kernels._TRIES
    marks = np.cumsum([0.0, *(each for one in taken for each in (one, 0.0))])
    return type("Clock", (), {"perf_counter": staticmethod(iter(marks.tolist()).__next__)})


def test_it_is_chosen_where_it_is_right_and_faster(monkeypatch):
    interpreted(monkeypatch)
    assert chosen(monkeypatch, time=clock(2.0, 1.0)) == Fused(by_columns=False, warps=2)
    assert chosen(monkeypatch, time=clock(1.0, 2.0)) is None
    found = chosen(monkeypatch, "float32", time=clock(2.0, 1.0))
    assert found == Fused(by_columns=True, warps=1)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_it_is_not_chosen_where_it_is_wrong_or_fails(monkeypatch, dtype):
    def wrong(how, *arguments):
        return 1.001 * fused_steps(how, *arguments, interpret=True)

    def failing(*_):
        raise NotImplementedError("no such operation")

    for steps in (wrong, failing):
        assert chosen(monkeypatch, dtype, time=clock(2.0, 1.0), fused_steps=steps) is None


def test_what_a_block_cannot_hold_is_not_tried():
    for dtype in ("float64", "float32"):
        assert kernels._candidate(128, 16, dtype) is not None
        assert kernels._candidate(100_000, 10, dtype) is None
        assert kernels._candidate(400, 50, dtype) is None
    assert kernels._candidate(1, 10, "float64") is None
    assert not kernels._candidate(100, 30, "float32").by_columns


def test_it_is_not_tried_where_there_is_little_to_do_or_no_gpu(monkeypatch):
    def never(*_):
        raise AssertionError("tried")

    monkeypatch.setattr(kernels, "_tried", never)
    monkeypatch.setattr(kernels, "WORK", Work())
    few = RELU, LOSSES["logistic"], "normalized_gd", 16, 4, "float64"
    assert kernels.choose(*few, 10**9) is None  # this is no GPU
    monkeypatch.setattr(kernels.jax, "default_backend", lambda: "gpu")
    for _ in range(3):  # blocks, one after the other
        assert kernels.choose(*few, 10**8) is None
    with pytest.raises(AssertionError, match="tried"):
        kernels.choose(*few, 10**8)
    monkeypatch.setattr(kernels, "WORK", Work())
    with pytest.raises(AssertionError, match="tried"):  # the first of many blocks
        kernels.choose(*few, 10**8, later=3e8)


@pytest.mark.parametrize("how", KERNELS, ids=["array", "columns"])
def test_a_sweep_with_it_has_the_same_rows_and_tells(tmp_path, monkeypatch, undisturbed, how):
    taken = []

    def counted(*arguments):
        taken.append(arguments[0])
        return fused_steps(*arguments, interpret=True)

    monkeypatch.setattr(fused, "fused_steps", counted)
    monkeypatch.setattr(execute, "choose", lambda *_: how)
    run = gaunlearn.run(write(tmp_path, SPEC), tmp_path / "run")
    assert set(taken) == {how}
    rows, plain = run.to_pandas(), undisturbed.to_pandas()
    numbers = plain.select_dtypes("number").columns
    np.testing.assert_allclose(rows[numbers], plain[numbers], rtol=1e-9, atol=1e-10)
    assert [each["training_steps"] for each in run.provenances()] == [how.told]
    assert run.manifest["provenance"]["training_steps"] == how.told
    assert {each["training_steps"] for each in undisturbed.provenances()} == {"XLA"}


def test_an_optimizer_that_it_does_not_have_is_refused():
    with pytest.raises(KeyError, match="adam"):
        fused.steps_by(KERNELS[0], RELU, LOSSES["logistic"], "adam")
