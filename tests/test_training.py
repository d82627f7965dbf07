"""Descent against a plain loop, known limit directions, and its ways to stop."""

import jax.numpy as jnp
import numpy as np
import pytest
from cases import output_weights
from oracles import hard_margin, plain_descent

from gaunlearn.certificate import one_minus_cosine
from gaunlearn.losses import LOSSES
from gaunlearn.models import MODELS
from gaunlearn.training import OPTIMIZERS, Descent, TrainingConfig, margins

LINEAR, RELU = MODELS["linear"], MODELS["two_layer_relu"]


def config(**changes):
    base = {
        "loss": LOSSES["logistic"],
        "optimizer": "normalized_gd",
        "step_size": 1.0,
        "max_steps": 1000,
    }
    return TrainingConfig(**{**base, **changes})


def problem(m, d, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, d)) / np.sqrt(d)
    return rng, x, np.where(np.arange(m) % 2 == 0, 1.0, -1.0)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("d", [8, 2])
def test_equals_a_plain_loop(optimizer, loss, linear, d):
    """Whether a step is taken on the samples' coefficients or, for m > 2 d, on the weights."""
    rng, x, y = problem(5, d)
    u = np.ones(1) if linear else output_weights(6)
    W = 0.1 * rng.normal(size=(len(u), d))
    keep = np.array([True, True, False, True, True])
    settings = config(optimizer=optimizer, loss=LOSSES[loss], step_size=0.3, max_steps=60)
    got = Descent(LINEAR if linear else RELU, settings, W, u, x, y, keep).run()
    want = plain_descent(
        W, None if linear else u, x, y, keep, 0.3, 60, loss, optimizer == "normalized_gd"
    )
    np.testing.assert_allclose(got.weights, want, rtol=1e-9, atol=1e-12)
    assert int(got.steps) == 60


def test_linear_model_on_orthogonal_data_reaches_the_closed_form():
    """Orthogonal x_i of any length: the max-margin direction is sum_i y_i x_i / ||x_i||^2 (SHN)."""
    rng, _, y = problem(4, 6)
    x = np.linalg.qr(rng.normal(size=(6, 4)))[0].T * np.array([[0.5], [1.0], [1.5], [2.0]])
    settings = config(max_steps=40_000, step_size=0.3)
    got = Descent(LINEAR, settings, np.zeros((1, 6)), np.ones(1), x, y, np.ones(4, bool)).run()
    want = (y / np.sum(x**2, 1)) @ x
    assert float(one_minus_cosine(got.weights, want[None])) <= 1e-7


def test_relu_network_on_orthogonal_data_reaches_the_closed_form():
    """From small initial weights on orthonormal data the active same-sign neurons share each
    sample: row j is u_j sum_i y_i lambda_i x_i over its active samples, lambda_i = n / (number
    of neurons active on i), and opposite-sign pairs have left.
    """
    rng = np.random.default_rng(1)
    x, y, u = np.eye(3), np.array([1.0, -1.0, 1.0]), output_weights(8)
    W = 1e-3 * rng.normal(size=(8, 3))
    got = Descent(RELU, config(max_steps=50_000), W, u, x, y, np.ones(3, bool)).run()
    serves = (W > 0) & (u[:, None] * y > 0)
    assert serves.any(0).all()
    want = u[:, None] * serves * y * 8 / serves.sum(0)
    assert float(one_minus_cosine(got.weights, want)) <= 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_linear_model_reaches_the_hard_margin_direction(seed):
    _, x, y = problem(8, 60, seed)
    settings = config(max_steps=100_000)
    got = Descent(LINEAR, settings, np.zeros((1, 60)), np.ones(1), x, y, np.ones(8, bool)).run()
    w, _ = hard_margin(x, y)
    assert float(one_minus_cosine(got.weights, w[None])) <= 1e-6


def test_goes_on_when_the_loss_underflows():
    """log L = -2000 is far below the smallest float64; the margin still grows by each step."""
    _, x, y = problem(4, 20)
    keep = np.ones(4, bool)
    settings = config(max_steps=10**6, target_log_loss=-2000.0)
    got = Descent(LINEAR, settings, np.zeros((1, 20)), np.ones(1), x, y, keep).run()
    assert np.exp(-2000.0) == 0
    assert -2100 < float(got.log_loss) <= -2000
    assert float(margins(LINEAR, got.weights, np.ones(1), x, y).min()) > 1990
    assert int(got.steps) < 10**6


def test_stops_at_the_first_of_its_targets():
    _, x, y = problem(4, 20)
    keep = np.ones(4, bool)
    start = np.zeros((1, 20))

    def steps(**changes):
        settings = config(check_every=7, **changes)
        result = Descent(
            LINEAR,
            settings,
            start,
            np.ones(1),
            x,
            y,
            keep,
            epsilon_of=lambda w: 1 / (1 + jnp.abs(w).max()),
        ).run()
        return int(result.steps)

    assert steps(max_steps=50) == 50
    by_loss = steps(target_log_loss=-5.0)
    assert by_loss % 7 == 0
    assert by_loss < 1000
    early = config(max_steps=by_loss - 7)
    assert Descent(LINEAR, early, start, np.ones(1), x, y, keep).run().log_loss > -5.0
    assert steps(max_steps=by_loss - 1, target_log_loss=-5.0) == by_loss - 1
    by_epsilon = steps(target_log_loss=-5.0, target_epsilon=0.5)
    assert 0 < by_epsilon < by_loss
    assert steps(target_log_loss=1e9) == 0


def test_target_epsilon_needs_a_way_to_measure_it():
    _, x, y = problem(4, 20)
    with pytest.raises(ValueError, match="epsilon_of"):
        Descent(
            LINEAR,
            config(target_epsilon=0.1),
            jnp.zeros((1, 20)),
            jnp.ones(1),
            x,
            y,
            np.ones(4, bool),
        ).run()


def test_settled_says_whether_signs_still_change():
    """Same-sign pairs change between 128 and 512 steps and not after 2000. Opposite-sign pairs,
    which change all the time, do not count. Looked at in rounds or once, it is the same.
    """
    rng, x, y = problem(5, 60)
    u, keep = output_weights(20), np.ones(5, bool)
    W = 0.1 * rng.normal(size=(20, 60))

    def run(steps, **others):
        return Descent(
            RELU, config(max_steps=steps, step_size=0.3, **others), W, u, x, y, keep
        ).run()

    def active(trained):
        return (trained.weights @ x.T > 0) & (y * u[:, None] > 0)

    for steps, want in ((256, False), (512, False), (4000, True)):
        got, half = run(steps), run(steps // 2)
        assert bool(got.settled) is want
        assert np.all(active(got) == active(half)) == want
    early = run(4000, until_settled=True, check_every=50)
    assert bool(early.settled)
    assert int(early.steps) < 4000
    assert np.min(margins(RELU, early.weights, u, x, y)) > 0
    np.testing.assert_array_equal(active(early), active(run(int(early.steps) // 2)))
