"""The kernel against SciPy, closed forms and its own optimality conditions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import network_at_kinks, separated_network
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import bounded_epsilon_by_cvxpy, epsilon_by_generators
from scipy.optimize import minimize_scalar

from gaunlearn.certificate import certify_at
from gaunlearn.cone import cone_of, project_onto_cone
from gaunlearn.kkt import solve_multipliers
from gaunlearn.models import LINEAR


@partial(jax.jit, static_argnames="leak")
def solve(gram, targets, weights, slope, kink, squared_norm, leak=0.0, **others):
    """The kernel on pairs that are laid out (n, m), like all else here."""
    found = solve_multipliers(
        gram, targets.T, weights, slope.T, kink.T, squared_norm, leak, **others
    )
    return found._replace(coefficients=found.coefficients.T)


def kernel_inputs(theta, u, x, y, active, kink):
    signed = y[:, None] * x
    targets = theta @ signed.T / u[:, None]
    return signed @ signed.T, targets, u**2, active.astype(float), kink, np.sum(theta**2)


def solved(theta, u, x, y, active, kink):
    """Solution and epsilon from the explicit residual."""
    got = solve(*kernel_inputs(theta, u, x, y, active, kink))
    residual = theta - (u[:, None] * np.asarray(got.coefficients)) @ (y[:, None] * x)
    return got, float(np.linalg.norm(residual))


@pytest.mark.parametrize("seed", range(12))
def test_agrees_with_nonnegative_least_squares_at_kinks(seed):
    rng = np.random.default_rng(seed)
    n, m, d = 8, 6, 9
    W, u, x, y, kink = network_at_kinks(rng, n, m, d, kinks_per_sample=2, correlation=seed / 4)
    z = np.where(kink, 0.0, W @ x.T)
    theta = W / (y * (u @ np.maximum(z, 0))).min()
    active = (z > 0) & ~kink
    got, epsilon = solved(theta, u, x, y, active, kink)
    want = epsilon_by_generators(theta, u, x, y, active, kink)
    assert abs(epsilon - want) <= 1e-10 * np.linalg.norm(theta)
    assert got.gap <= 1e-13


@pytest.mark.parametrize(("m", "d", "correlation"), [(6, 20, 0.0), (12, 5, 0.0), (10, 12, 3.0)])
def test_agrees_without_kinks_for_many_samples_and_strong_correlation(m, d, correlation):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        W, u, x, y = separated_network(rng, 16, m, d, correlation)
        active = W @ x.T > 0
        none = np.zeros_like(active)
        got, epsilon = solved(W, u, x, y, active, none)
        want = epsilon_by_generators(W, u, x, y, active, none)
        assert abs(epsilon - want) <= 1e-10 * np.linalg.norm(W)
        assert np.all(np.asarray(got.multipliers) >= 0)


@pytest.mark.parametrize("leak", [0.0, 0.2])
def test_bounded_multipliers_agree_with_a_quadratic_program(leak):
    tight = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        W, u, x, y, kink = network_at_kinks(rng, 8, 6, 9, 2, correlation=seed / 4)
        z = np.where(kink, 0.0, W @ x.T)
        if not np.all(y * (u @ np.maximum(z, leak * z)) > 0):
            continue
        active = z > 0
        signed = y[:, None] * x
        slope = np.where(kink, 0.0, np.where(active, 1.0, leak))
        targets = np.where(kink, 0.0, W @ signed.T / u[:, None])
        inputs = signed @ signed.T, targets, u**2, slope, kink, np.sum(W**2)
        free = np.asarray(solve(*inputs, leak=leak).multipliers)
        some = np.where(rng.random(6) < 0.4, np.inf, (free + 0.1) * rng.uniform(0.1, 1, 6))
        for ceiling in (some, 0.5 * free + 0.01, np.full(6, np.inf)):
            got = solve(*inputs, leak=leak, ceiling=ceiling)
            residual = W - (u[:, None] * np.asarray(got.coefficients)) @ signed
            want = bounded_epsilon_by_cvxpy(W, u, x, y, active, kink, ceiling, leak)
            assert abs(np.linalg.norm(residual) - want) <= 1e-6 * np.linalg.norm(W)
            assert np.all(np.asarray(got.multipliers) <= ceiling)
            assert got.gap <= 1e-12
            tight += np.sum((free > ceiling) & (np.asarray(got.multipliers) == ceiling))
        nothing = solve(*inputs, leak=leak, ceiling=np.zeros(6))
        assert not np.any(nothing.coefficients)
    assert tight > 20, "bounds that never bind would prove little"


def test_a_bound_by_hand():
    """Two orthogonal points, theta = (1, 3), lambda_2 <= 2: what is left is (0, 1)."""
    got = solve(
        np.eye(2),
        np.array([[1.0, 3.0]]),
        np.ones(1),
        np.ones((1, 2)),
        np.zeros((1, 2), bool),
        10.0,
        ceiling=np.array([np.inf, 2.0]),
    )
    np.testing.assert_allclose(got.multipliers, [1.0, 2.0], rtol=1e-14)


def test_result_lies_in_the_cone_and_satisfies_the_optimality_conditions():
    rng = np.random.default_rng(5)
    W, u, x, y, kink = network_at_kinks(rng, 20, 8, 10, kinks_per_sample=6, correlation=1.0)
    active = (W @ x.T > 0) & ~kink
    got, epsilon = solved(W, u, x, y, active, kink)
    lam, c = np.asarray(got.multipliers), np.asarray(got.coefficients)
    assert np.array_equal(c[active], np.broadcast_to(lam, c.shape)[active])
    assert np.all(c[~active & ~kink] == 0)
    assert np.all((c >= 0) & (c <= lam))
    residual = W - (u[:, None] * c) @ (y[:, None] * x)
    slope = u[:, None] * (residual @ (y[:, None] * x).T)
    dual = np.where(active, slope, 0).sum(0) + np.where(kink, np.maximum(slope, 0), 0).sum(0)
    assert np.all(dual <= 1e-12 * np.linalg.norm(W))
    assert abs(np.sum(c * slope)) <= 1e-12 * np.sum(W**2)
    assert epsilon > 0.1, "a case with nothing left over would prove little"


def test_gap_is_a_true_bound():
    """No random member of the cone has a squared residual smaller by more than the gap allows."""
    rng = np.random.default_rng(2)
    W, u, x, y, kink = network_at_kinks(rng, 10, 5, 8, kinks_per_sample=3)
    active = (W @ x.T > 0) & ~kink
    got, epsilon = solved(W, u, x, y, active, kink)
    lam, c = np.asarray(got.multipliers), np.asarray(got.coefficients)
    for scale in (1e-3, 1e-2, 1e-1, 1.0):
        for _ in range(200):
            other_lam = np.maximum(lam + scale * rng.normal(size=lam.shape), 0)
            other = np.clip(c + scale * rng.normal(size=c.shape), 0, other_lam)
            other = np.where(active, other_lam, np.where(kink, other, 0))
            worse = np.linalg.norm(W - (u[:, None] * other) @ (y[:, None] * x))
            assert worse**2 >= epsilon**2 - float(got.gap) * np.sum(W**2)


def test_one_point_one_neuron_by_hand():
    """theta = (3, 4), x = (1, 0): lambda = 3 removes the first coordinate; 4 is left."""
    theta, u, x, y = np.array([[3.0, 4.0]]), np.ones(1), np.array([[1.0, 0.0]]), np.ones(1)
    got, epsilon = solved(theta, u, x, y, np.ones((1, 1), bool), np.zeros((1, 1), bool))
    assert got.multipliers[0] == pytest.approx(3.0, abs=1e-14)
    assert epsilon == pytest.approx(4.0, abs=1e-14)


def test_two_orthogonal_points_by_hand():
    """w = a x_1 - b x_2 with labels +-1 is stationary with lambda = (a, b)."""
    x, y = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([1.0, -1.0])
    theta = np.array([[1.5, -0.8]])
    got, epsilon = solved(theta, np.ones(1), x, y, np.ones((1, 2), bool), np.zeros((1, 2), bool))
    np.testing.assert_allclose(got.multipliers, [1.5, 0.4], rtol=1e-14)
    assert epsilon <= 1e-15


def test_kink_coefficient_by_hand():
    """Two neurons u = (1, 1), one sample x = 1: neuron 1 active at 2, neuron 2 at a kink.

    It has theta_2 = 0 in the sample's direction, so c = 0 there, lambda = 2, epsilon = 0. With
    theta_2 = 5 (not a kink of a network, but legal input) c is capped at lambda and the best
    lambda is the mean of 2 and 5.
    """
    x, y, u = np.array([[1.0]]), np.ones(1), np.ones(2)
    active, kink = np.array([[True], [False]]), np.array([[False], [True]])
    got, epsilon = solved(np.array([[2.0], [0.0]]), u, x, y, active, kink)
    np.testing.assert_allclose(got.coefficients, [[2.0], [0.0]], atol=1e-14)
    assert epsilon <= 1e-14
    got, epsilon = solved(np.array([[2.0], [5.0]]), u, x, y, active, kink)
    np.testing.assert_allclose(got.coefficients, [[3.5], [3.5]], rtol=1e-14)
    assert epsilon == pytest.approx(np.hypot(1.5, 1.5))


def test_nothing_to_explain_leaves_the_whole_norm():
    got, epsilon = solved(
        np.array([[3.0, 4.0]]), np.ones(1), np.eye(2), np.ones(2), *np.zeros((2, 1, 2), bool)
    )
    assert epsilon == 5.0
    assert np.all(np.asarray(got.multipliers) == 0)


pairs = st.integers(0, 2**31).map(np.random.default_rng)


@partial(jax.jit, static_argnames="leak")
def project(point, weights, slope, kink, leak, guess):
    return project_onto_cone(cone_of(weights, slope, kink, leak), point, guess)


@settings(max_examples=100, deadline=None)
@given(pairs, st.sampled_from([0.0, 0.1, 0.5, 0.9]))
# From far to the right, Newton's steps go to and fro between two breakpoints.
@example(np.random.default_rng(19874082), 0.5)
def test_projection_is_the_nearest_point_of_the_cone(rng, leak):
    n = 7
    weights = rng.uniform(0.1, 2.0, n)
    state = rng.integers(0, 4, n)
    slope, kink = np.choose(state, [0.0, 1.0, 0.0, leak]), state == 2
    point = rng.normal(size=n) * rng.choice([0.1, 1.0, 10.0])

    def nearest(level):
        return np.where(kink, np.clip(point, leak * level, level), slope * level)

    def cost(level):
        return np.sum(weights * (nearest(level) - point) ** 2)

    best = minimize_scalar(cost, bounds=(0, 50), method="bounded", options={"xatol": 1e-12})
    # Wherever the search for lambda begins: at its own start, near, far to either side.
    for guess in (None, best.x, 0.0, -3.0, 100.0):
        got, lam = project(
            point[None],
            weights,
            slope[None],
            kink[None],
            leak,
            guess=None if guess is None else jnp.full(1, guess),
        )
        assert cost(float(lam[0])) <= best.fun + 1e-9 * (1 + best.fun)
        np.testing.assert_allclose(np.asarray(got)[0], nearest(float(lam[0])), atol=1e-12)


def test_vmap_gives_what_single_calls_give():
    cases = []
    for seed in range(6):
        W, u, x, y, kink = network_at_kinks(np.random.default_rng(seed), 8, 5, 7, 2)
        cases.append(kernel_inputs(W, u, x, y, (W @ x.T > 0) & ~kink, kink))
    stacked = [jnp.stack([jnp.asarray(case[i]) for case in cases]) for i in range(6)]
    together = jax.jit(jax.vmap(solve))(*stacked)
    for place, case in enumerate(cases):
        alone = solve(*case)
        np.testing.assert_allclose(
            together.coefficients[place], alone.coefficients, rtol=1e-9, atol=1e-12
        )


def test_kernel_is_traced_once_for_one_shape():
    traces = []

    @jax.jit
    def counted(*arguments):
        traces.append(1)
        return solve(*arguments)

    for seed in range(3):
        W, u, x, y, kink = network_at_kinks(np.random.default_rng(seed), 8, 5, 7, 2)
        counted(*kernel_inputs(W, u, x, y, (W @ x.T > 0) & ~kink, kink))
    assert len(traces) == 1


def test_of_many_multipliers_those_of_least_norm_are_found_whatever_rounding_does():
    """Linear model with every sample twice: half of each multiplier goes to either copy, and noise
    of one unit of rounding changes no digit that counts.
    """
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 6)), np.array([1.0, -1, 1, -1])
    lam = np.array([1.0, 2.0, 0.5, 3.0])
    theta = (lam * y @ x + 0.1 * rng.normal(size=6))[None]
    one = np.ones((1, 4))
    single, _ = solved(theta, np.ones(1), x, y, one, np.zeros_like(one, bool))
    twice, y2 = np.vstack([x, x]), np.append(y, y)
    for _ in range(5):
        noisy = theta * (1 + 2e-16 * rng.normal(size=theta.shape))
        got, _ = solved(noisy, np.ones(1), twice, y2, np.ones((1, 8)), np.zeros((1, 8), bool))
        halves = np.asarray(got.multipliers).reshape(2, 4)
        want = 0.5 * np.asarray(single.multipliers)
        np.testing.assert_allclose(halves, np.stack([want, want]), rtol=1e-9)


def test_an_exact_point_of_nearly_parallel_samples_is_found_to_be_one():
    """theta = sum lambda_i s_i of three bundles of samples: epsilon is 0. Its digits are beyond
    what a gap of rounding tells: to 1e-7, of which it takes a half.
    """

    def one(theta, x):
        ones, every = jnp.ones(12), jnp.ones(12, bool)
        return certify_at(LINEAR, theta[None], jnp.ones(1), x, ones, every, jnp.asarray(0.0))

    thetas, samples = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        centres = np.repeat(np.linalg.qr(rng.normal(size=(14, 3)))[0].T, 4, axis=0)
        samples.append(centres + 1e-5 * rng.normal(size=(12, 14)))
        thetas.append(rng.exponential(size=12) ** 3 @ samples[-1])
    found = jax.jit(jax.vmap(one))(np.array(thetas), np.array(samples))
    assert found.separated.all()
    assert np.max(found.epsilon / np.linalg.norm(found.weights, axis=(1, 2))) <= 1e-7


def test_rounding_of_many_pairs_ends_the_rounds():
    """Sums over 500 000 pairs, in any two orders, differ by more than those over a thousand: of an
    exact KKT point the gap then stays above what is rounding for the small."""
    rng = np.random.default_rng(0)
    n, m = 100_000, 5
    signed = rng.normal(size=(m, 1000)) / np.sqrt(1000)
    gram, u = signed @ signed.T, rng.choice([-1, 1], n) / np.sqrt(n)
    kink = rng.random((n, m)) < 0.4
    slope = np.where(kink, 0.0, rng.integers(0, 2, (n, m)))
    multipliers = rng.uniform(0.5, 2, m)
    c = np.where(kink, rng.random((n, m)), slope) * multipliers
    squared_norm = (u**2) @ ((c @ gram) * c).sum(1) * (1 + 2000 * np.finfo(float).eps)
    got = solve(gram, c @ gram, u**2, slope, kink, squared_norm)
    assert got.rounds <= 5
    np.testing.assert_allclose(got.multipliers, multipliers, rtol=1e-9)
