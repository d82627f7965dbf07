"""The frontier of certificates: closed forms, and the definition applied to what it returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import network_at_kinks, output_weights, separated_network
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import plain_descent

import gaunlearn
from gaunlearn import reference
from gaunlearn.certificate import certify_at, one_minus_cosine
from gaunlearn.frontier import path_to, point_on, position_within
from gaunlearn.models import RELU

# Two orthogonal samples, W = (1, a): q = (1, a) and lambda = (1, a) give epsilon 0 and delta
# a (a - 1); the limit is (1, 1).
A = 1.5
BY_HAND = [[1.0, 0.0], [0.0, 1.0]], [1, 1]


def test_trading_epsilon_against_delta_by_hand():
    """lambda_2 (a - 1) <= delta leaves epsilon = a - delta / (a - 1)."""
    found = gaunlearn.certify([1.0, A], None, *BY_HAND)
    assert found.delta == pytest.approx(A * (A - 1))
    budgets = 0.1, 0.5, 0.7
    frontier = found.frontier(deltas=(*budgets, np.inf), taus=(1e-9,))
    for delta in budgets:
        want = A - delta / (A - 1)
        assert frontier.least_epsilon(delta, 0.0) == pytest.approx(want, abs=1e-7)
    assert frontier.least_epsilon(1.0, 0.0) == pytest.approx(0.0, abs=1e-12)


def test_trading_epsilon_against_tau_by_hand():
    """On the way to the limit (1, 1) at distance tau lies (1, tan(phi + 45 degrees))."""
    tau, delta = 0.005, 0.01
    frontier = gaunlearn.certify([1.0, A], None, *BY_HAND).frontier(deltas=[delta], taus=[tau])
    there = np.tan(np.arctan(A) - np.arccos(1 - tau))
    assert there > 1, "the budget must not reach the limit"
    want = there - delta / (there - 1)
    assert frontier.least_epsilon(delta, tau) == pytest.approx(want, rel=1e-6)
    to_limit = 1 - (1 + A) / np.sqrt(2 * (1 + A**2))
    assert frontier.least_epsilon(delta, 1.001 * to_limit) == pytest.approx(0.0, abs=1e-12)
    assert frontier.least_epsilon(delta, 0.999 * to_limit) > 0.1
    assert frontier.path[-1] == "limit"
    assert frontier.position[-1] == 1
    assert frontier.position[0] == 0
    assert len(frontier.position) == len(frontier.path) == len(frontier.epsilon)


@pytest.fixture(scope="module")
def unlearned():
    """An unlearned network, its retain set, and the retrained one."""
    rng = np.random.default_rng(0)
    n, m, d = 20, 6, 40
    x, y = rng.normal(size=(m, d)) / np.sqrt(d), rng.choice([-1.0, 1.0], m)
    u, start = output_weights(n), 0.03 * rng.normal(size=(n, d)) / np.sqrt(d)
    retain = np.arange(m) != 0
    W = plain_descent(start, u, x, y, np.ones(m, bool), 1.0, 3000)
    W_hat = gaunlearn.ascend(W, u, x, y, 0)
    retrained = plain_descent(start, u, x, y, retain, 1.0, 3000)
    found = gaunlearn.certify(W_hat, u, x, y, retain=retain)
    return found, (W_hat, u, x, y), retain, retrained


def test_no_triple_beats_another_and_the_certificate_is_met(unlearned):
    found, _, _, retrained = unlearned
    frontier = found.frontier(towards={"retrained": retrained})
    triples = np.stack([frontier.epsilon, frontier.delta, frontier.tau], axis=1)
    assert len(triples) > 20
    for place, triple in enumerate(triples):
        others = np.delete(triples, place, axis=0)
        assert not np.any(np.all(others <= triple, axis=1))
    for rung in found.ladder:
        assert frontier.least_epsilon(rung.delta, rung.tau) <= rung.epsilon
    assert np.all(np.diff(frontier.tau) >= 0)
    assert {"snapped", "limit"} <= set(frontier.path)


def test_looser_budgets_never_ask_for_a_larger_epsilon(unlearned):
    frontier = unlearned[0].frontier()
    deltas, taus = np.geomspace(1e-4, 10, 6), np.geomspace(1e-6, 0.1, 6)
    table = np.array([[frontier.least_epsilon(d, t) for t in taus] for d in deltas])
    table = np.where(np.isnan(table), np.inf, table)
    assert np.all(np.diff(table, axis=0) <= 0)
    assert np.all(np.diff(table, axis=1) <= 0)


def test_every_rung_has_the_same_frontier(unlearned):
    found = unlearned[0]
    one, other = found.frontier(), found.ladder[3].frontier()
    np.testing.assert_array_equal(one.epsilon, other.epsilon)


def test_the_path_to_the_retrained_model_ends_at_its_certificate(unlearned):
    found, (W_hat, u, x, y), retain, retrained = unlearned
    want = gaunlearn.certify(retrained, u, x, y, retain=retain)
    unit = [w / np.linalg.norm(w) for w in (W_hat, want.weights)]
    tau = 0.5 * np.sum((unit[0] - unit[1]) ** 2)
    frontier = found.frontier(towards={"retrained": retrained})
    got = frontier.least_epsilon(want.delta * (1 + 1e-9), tau * (1 + 1e-9))
    assert got <= want.epsilon * (1 + 1e-9)


def test_weights_that_do_not_separate_still_have_triples_near_them():
    found = gaunlearn.certify([1.0, -0.01], None, *BY_HAND)
    assert not found.separated
    frontier = found.frontier()
    assert frontier.path[-1] == "limit"
    assert frontier.least_epsilon(0.1) == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(frontier.least_epsilon(0.1, 1e-6))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-8, 0.2))
def test_points_of_a_path_use_up_a_budget_and_keep_the_kinks(seed, tau):
    rng = np.random.default_rng(seed)
    end, u, x, _, kink = network_at_kinks(rng, 8, 6, 9, 2)
    weights = end + 0.3 * rng.normal(size=end.shape)
    path = to_point(weights, u, x, end)
    position = position_within(path, tau)
    if tau < path.tau:
        assert np.isnan(position)
        return
    point = np.asarray(point_on(path, position))
    unit = weights / np.linalg.norm(weights)
    used = 0.5 * np.sum((unit - point / np.linalg.norm(point)) ** 2)
    assert used <= tau
    assert position == 1 or used >= tau * (1 - 1e-6) - 1e-9 * path.tau
    assert np.all(np.abs((point @ x.T)[kink]) <= 1e-12)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-4, 0.2))
def test_in_float32_too_a_point_is_within_the_budget_as_it_is_measured(seed, tau):
    rng = np.random.default_rng(seed)
    end, u, x, _, _ = network_at_kinks(rng, 8, 6, 9, 2)
    weights = end + 0.3 * rng.normal(size=end.shape)
    narrow = [jnp.asarray(a, jnp.float32) for a in (weights, u, x, end)]
    path = to_point(*narrow)
    position = position_within(path, jnp.float32(tau))
    point = point_on(path, position)
    assert np.isnan(position) or one_minus_cosine(narrow[0], point) <= np.float32(tau)


@jax.jit
def to_point(weights, u, x, end):
    return path_to(RELU, weights, u, x, jnp.ones(len(x), bool), end)


def test_bad_input_is_refused(unlearned):
    found, (W_hat, *_), *_ = unlearned
    for key, value, message in (
        ("deltas", [0.0], "deltas must be one or more numbers above 0"),
        ("deltas", ["a"], "deltas must be"),
        ("taus", [], "taus must be"),
        ("taus", [3.0], "at most 2"),
        ("towards", {"limit": W_hat}, "'limit' is the name of a path"),
        ("towards", {"mine": W_hat[:, :3]}, r"towards\['mine'\]"),
        ("towards", {"mine": np.full(W_hat.shape, np.nan)}, "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            found.frontier(**{key: value})


def test_scale_and_rotation_change_nothing():
    rng = np.random.default_rng(3)
    W, u, x, y = separated_network(rng, 8, 5, 12)
    Q = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    budgets = {"deltas": [0.1, np.inf], "taus": [0.01]}
    one = gaunlearn.certify(W, u, x, y).frontier(**budgets)
    other = gaunlearn.certify(1e3 * W @ Q, u, x @ Q, y).frontier(**budgets)
    for tau in (0.0, 0.01, np.inf):
        for delta in budgets["deltas"]:
            pair = one.least_epsilon(delta, tau + 1e-12), other.least_epsilon(delta, tau + 1e-12)
            assert pair[0] == pytest.approx(pair[1], rel=1e-7, abs=1e-10, nan_ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_where_kinks_are_ignored_a_sign_of_rounding_decides_nothing(seed):
    """A network at kinks, moved by a few units of rounding: their pre-activations get other signs,
    and the certificate is the same; the reference in NumPy agrees."""
    rng = np.random.default_rng(seed)
    W, u, x, y, kink = network_at_kinks(rng, 12, 5, 9, kinks_per_sample=3)
    retain, found, signs = np.ones(5, bool), [], set()
    for _ in range(4):
        moved = W * (1 + 4e-16 * rng.choice([-1.0, 1.0], W.shape))
        signs.add(tuple((moved @ x.T > 0)[kink]))
        one = certify_at(RELU, moved, u, x, y, retain, jnp.asarray(-1.0))
        assert bool(one.separated)
        found.append([float(one.epsilon), float(one.delta)])
        theirs = reference.certify(moved, u, x, y, retain, None)
        assert theirs.epsilon == pytest.approx(found[-1][0], abs=1e-9)
    assert len(signs) > 1
    np.testing.assert_allclose(found, [found[0]] * 4, rtol=1e-11)
