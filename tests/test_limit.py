"""The limit solver against cvxpy, closed forms, invariances and long training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import output_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import (
    clarke_kkt_residual,
    hard_margin,
    largest_frozen_margin,
    largest_margin,
    limit_by_cvxpy,
    plain_descent,
    sample_in_d_dimensions,
)

import gaunlearn
import gaunlearn.limit
from gaunlearn.limit import STATUSES
from gaunlearn.losses import LOSSES
from gaunlearn.models import LINEAR, RELU, leaky_relu
from gaunlearn.training import Descent, TrainingConfig

SOLVED = ("converged", "fallback")


def network(seed, n, m, d, steps=300, mean=0.0):
    """(W, u, x, y): descended from small random weights until it separates."""
    for attempt in range(20):
        rng = np.random.default_rng([seed, attempt])
        x, y = sample_in_d_dimensions(rng, m, d)
        x[:, 0] += mean * y
        u = output_weights(n)
        W = plain_descent(
            0.01 * rng.normal(size=(n, d)), u, x, y, np.ones(m, bool), 0.3, steps, "exponential"
        )
        if (y * (u @ np.maximum(W @ x.T, 0))).min() > 0:
            return W, u, x, y
    raise AssertionError("no separated network found")


def residual(limit, u, x, y, retain=None, leak=0.0):
    retain = np.ones(len(y), bool) if retain is None else retain
    return clarke_kkt_residual(
        limit.W, u, x, y, retain, limit.multipliers, limit.coefficients, leak
    )


def one_minus_cosine(a, b):
    return 0.5 * np.sum((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2)


@pytest.mark.parametrize("leak", [0.0, 0.2])
@pytest.mark.parametrize(
    ("n", "m", "d", "mean"), [(8, 5, 12, 0.0), (20, 8, 10, 0.0), (12, 6, 40, 0.5), (10, 8, 5, 0.3)]
)
def test_agrees_with_cvxpy_on_the_convex_program(n, m, d, mean, leak):
    """Also with more samples than dimensions. To 1e-7 of the norm."""
    for seed in range(3):
        W, u, x, y = network(seed, n, m, d, mean=mean)
        limit = gaunlearn.find_limit(W, u, x, y, leak=leak)
        assert limit.status in SOLVED
        assert residual(limit, u, x, y, leak=leak) <= 1e-10
        z = limit.W @ x.T
        # Dead neurons keep the slopes that they had.
        z = np.where(np.abs(z) > 1e-10, z, W @ x.T)
        want = limit_by_cvxpy(u, x, y, np.ones(m, bool), np.where(z > 0, 1.0, leak), leak)
        assert np.linalg.norm(limit.W - want) <= 1e-7 * np.linalg.norm(want)


def test_orthonormal_samples_by_hand():
    """z_ji = y_i u_j c_ji: same-sign active pairs have c = lambda; opposite-sign pairs are at
    their kink with c = 0; so lambda_i = 1 / sum of u_j^2 over the active same-sign neurons, and a
    neuron that is off on all its same-sign samples is dead in the limit.
    """
    x, y, u = np.eye(3), np.array([1.0, -1.0, 1.0]), np.array([0.5, 1.0, -0.5, -2.0])
    W = np.array([[1.0, 0.3, -1.0], [2.0, 1.0, 1.0], [-1.0, 1.0, 0.2], [0.1, -1.0, 0.1]])
    limit = gaunlearn.find_limit(W, u, x, y)
    assert limit.status == "converged"
    np.testing.assert_allclose(limit.multipliers, [1 / 1.25, 1 / 0.25, 1.0], rtol=1e-14)
    np.testing.assert_allclose(
        limit.W, [[0.4, 0, 0], [0.8, 0, 1.0], [0, 2.0, 0], [0, 0, 0]], atol=1e-14
    )
    np.testing.assert_allclose(limit.margins, 1.0, rtol=1e-14)


def test_leaky_orthonormal_samples_by_hand():
    """No neuron is ever quite off: same-sign pairs all become active, with c = lambda, and
    opposite-sign ones end below 0, with c = leak lambda.
    """
    x, y, u = np.eye(2), np.array([1.0, -1.0]), np.array([1.0, 2.0, -1.0])
    W = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, 1.0]])
    limit = gaunlearn.find_limit(W, u, x, y, leak=0.5)
    np.testing.assert_allclose(limit.multipliers, [1 / (1 + 4 + 0.25), 1 / (0.25 + 1 + 1)])
    assert limit.pattern_changes == 1
    assert residual(limit, u, x, y, leak=0.5) <= 1e-14


def test_leaky_neuron_that_only_an_inactive_slope_can_help():
    """Sample 1 has no same-sign neuron. By hand: both are 0.5 x_0 - lambda_1 leak x_1, and
    margins of 1 ask for <w, x_0> = 1/2 and -leak <w, x_1> = 1/2.
    """
    W, u, x, y = np.array([[1.0, -1.0], [1.0, -1.0]]), np.ones(2), np.eye(2), np.array([1.0, -1.0])
    limit = gaunlearn.find_limit(W, u, x, y, leak=0.5)
    assert limit.status in SOLVED
    np.testing.assert_allclose(limit.W, [[0.5, -1.0], [0.5, -1.0]], atol=1e-12)


@pytest.mark.parametrize(("m", "d"), [(4, 10), (30, 4), (60, 3)])
def test_linear_model_is_the_hard_margin_machine(m, d):
    """Whatever the weights, also where most samples are no support vectors."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(m, d))
        y = np.sign(x @ rng.normal(size=d))
        limit = gaunlearn.find_limit(rng.normal(size=d), None, x, y)
        want, dual = hard_margin(x, y)
        assert limit.status in SOLVED
        assert np.linalg.norm(limit.W - want) <= 1e-7 * np.linalg.norm(want)
        np.testing.assert_allclose(limit.multipliers, dual, atol=1e-6 * dual.max())
        scale = max(1.0, dual.max() ** 2)
        assert residual(limit, None, x, y) <= 1e-12 * scale


def test_linear_model_that_cannot_separate_is_infeasible():
    """Every data set that linear programming calls inseparable, and no other."""
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        d = int(rng.integers(2, 8))
        x = rng.normal(size=(20, d))
        y = np.sign(x @ rng.normal(size=d))
        y[: seed % 2] *= -1
        separable = largest_margin(x, y) > 1e-9
        limit = gaunlearn.find_limit(rng.normal(size=d), None, x, y)
        seen.add(separable)
        assert (limit.status in SOLVED) == separable
        assert (limit.status == "infeasible") == (not separable)
        if not separable:
            assert np.isnan(limit.W).all()
            assert np.isnan([limit.epsilon, limit.delta]).all()
    assert seen == {True, False}


@pytest.mark.parametrize("leak", [0.0, 0.3])
def test_contradiction_is_infeasible(leak):
    """x and 2 x with different labels: no homogeneous model separates them."""
    rng = np.random.default_rng(0)
    x, y = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), np.array([1.0, -1.0, 1.0])
    W, u = rng.normal(size=(20, 2)), output_weights(20)
    assert gaunlearn.find_limit(W, u, x, y, leak=leak).status == "infeasible"
    fine = gaunlearn.find_limit(W, u, x, y, leak=leak, retain=[0, 2])
    assert fine.status == "converged"
    assert fine.multipliers[1] == 0


def test_infeasible_is_said_of_every_pattern_that_cannot_separate_and_of_no_other():
    """Random weights on more samples than dimensions, against cvxpy."""
    seen = set()
    for seed in range(24):
        rng = np.random.default_rng(seed)
        n, m, d = 12, int(rng.integers(5, 10)), 2 + seed % 3
        x, y = sample_in_d_dimensions(rng, m, d)
        u, W = output_weights(n), rng.normal(size=(n, d))
        best = largest_frozen_margin(u, x, y, W @ x.T > 0)
        assert not 1e-7 < best < 1e-4, "a clear case"
        limit = gaunlearn.find_limit(W, u, x, y)
        seen.add(limit.status == "infeasible")
        assert (limit.status == "infeasible") == (best < 1e-7)
        if limit.status != "infeasible":
            # Where margins are tiny, multipliers are large: rounding is of their square.
            allowed = 1e-14 * (1 + limit.multipliers.max() ** 2)
            assert residual(limit, u, x, y) <= max(allowed, 1e-12)
    assert seen == {True, False}


def test_sample_on_which_no_neuron_can_help_is_infeasible():
    x, y = np.eye(2), np.array([1.0, -1.0])
    W, u = np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([1.0, -1.0])
    limit = gaunlearn.find_limit(W, u, x, y)
    assert limit.status == "infeasible"
    assert np.isnan(limit.multipliers).all()


@pytest.mark.parametrize("kind", ["isotropic", "mixture"])
def test_residual_of_many_random_problems(kind):
    """Those that descent separates, in batches; some hundreds. To 1e-10."""
    solve = jax.jit(
        jax.vmap(gaunlearn.limit.find_limit, (None, 0, None, 0, 0, 0)), static_argnums=0
    )
    solved = 0
    for m, d, n in ((3, 5, 6), (10, 15, 20), (10, 300, 60), (25, 60, 40)):
        lanes = []
        for seed in range(40):
            rng = np.random.default_rng([seed, m, d])
            x, y = sample_in_d_dimensions(rng, m, d, 0.1 if kind == "mixture" else None)
            u, keep = output_weights(n), np.ones(m, bool)
            W = plain_descent(0.01 * rng.normal(size=(n, d)), u, x, y, keep, 0.3, 150, "logistic")
            if (y * (u @ np.maximum(W @ x.T, 0))).min() > 0:
                lanes.append((W, x, y, keep))
        W, x, y, keep = map(np.stack, zip(*lanes, strict=True))
        got = solve(RELU, W, u, x, y, keep)
        assert np.all(np.asarray(got.status) <= STATUSES.index("fallback"))
        for i in range(len(lanes)):
            parts = (got.weights, got.multipliers, got.coefficients)
            theta, lam, c = (np.asarray(part[i]) for part in parts)
            assert clarke_kkt_residual(theta, u, x[i], y[i], keep[i], lam, c) <= 1e-10
        solved += len(lanes)
    assert solved >= 100


def test_digits_have_a_limit():
    """Strongly correlated samples, many kinks a neuron, and pre-activations near zero."""
    from gaunlearn.data.real import digits

    data = digits(0, 40, (3, 8))
    u, keep = output_weights(60), np.ones(40, bool)
    start = 0.05 * np.random.default_rng(0).normal(size=(60, 64))
    W = plain_descent(start, u, data.x, data.y, keep, 0.3, 3000)
    limit = gaunlearn.find_limit(W, u, data.x, data.y)
    assert limit.status in SOLVED
    assert residual(limit, u, data.x, data.y) <= 1e-10
    certificate = gaunlearn.certify(limit.W, u, data.x, data.y)
    assert certificate.epsilon <= 1e-12
    assert certificate.tau <= 1e-20


def test_training_approaches_its_limit():
    """1 - cos falls like 1 / T^2, and the limit does not depend on when one asks for it."""
    W, u, x, y = network(3, 20, 5, 60, steps=1000)
    keep = np.ones(5, bool)
    limit = gaunlearn.find_limit(W, u, x, y)
    assert limit.pattern_changes == 0
    settings = TrainingConfig(LOSSES["logistic"], "normalized_gd", 0.3, 0)
    distances, done = [], 0
    for steps in (4000, 16_000, 64_000):
        W = Descent(RELU, settings._replace(max_steps=steps - done), W, u, x, y, keep).run().weights
        done = steps
        distances.append(one_minus_cosine(W, limit.W))
    ratios = np.array(distances[:-1]) / np.array(distances[1:])
    assert np.all((ratios > 8) & (ratios < 32)), "four times the steps, a sixteenth of 1 - cos"
    later = gaunlearn.find_limit(W, u, x, y)
    assert one_minus_cosine(later.W, limit.W) <= 1e-25


def test_same_sign_pair_is_released_once_the_program_is_solved():
    """Neuron 1 serves x_1 and, barely, x_2 at 153 degrees from it, which neuron 2 serves better:
    in the limit neuron 1 is off on x_2.
    """
    x, y = np.array([[1.0, 0.0], [-0.9, 0.45]]), np.array([1.0, 1.0])
    u = np.array([0.5, 2.0])
    W = np.array([[0.1, 0.3], [-2.0, 0.2]])
    limit = gaunlearn.find_limit(W, u, x, y)
    assert limit.status == "converged"
    assert limit.pattern_changes >= 1
    assert residual(limit, u, x, y) <= 1e-14
    # By hand: neuron 1 alone on x_1 and neuron 2 alone on x_2.
    np.testing.assert_allclose(limit.W[0], [2.0, 0.0], atol=1e-14)
    np.testing.assert_allclose(limit.W[1], x[1] / (2 * np.sum(x[1] ** 2)), atol=1e-14)


@pytest.mark.parametrize("size", [0.0, 1e-16])
def test_dead_neuron_stays_dead(size):
    """A row of zeros, or of rounding, changes nothing and is 0 itself."""
    W, u, x, y = network(1, 10, 5, 20)
    limit = gaunlearn.find_limit(W, u, x, y)
    rounding = size * np.linalg.norm(W) * np.random.default_rng(0).normal(size=(1, 20))
    dead = np.vstack([W, rounding])
    more = gaunlearn.find_limit(dead, np.append(u, 0.7), x, y)
    np.testing.assert_allclose(more.W, np.vstack([limit.W, np.zeros((1, 20))]), atol=1e-13)
    assert more.pattern_changes == limit.pattern_changes


@pytest.mark.parametrize("seed", range(3))
def test_fallback_finds_the_same_limit(seed, monkeypatch):
    """The active set is allowed one linear system at a time: the fallback has to find the face.
    One sample is masked and one is there twice, of which it must not see anything.
    """
    W, u, x, y = network(seed, 16, 8, 14)
    x, y = np.vstack([x, 2 * x[:1], np.ones(14)]), np.append(y, [y[0], 1.0])
    retain = np.arange(10) < 9
    want = gaunlearn.find_limit(W, u, x, y, retain=retain)
    assert want.status == "converged"
    assert want.iterations > 1
    monkeypatch.setattr(gaunlearn.limit, "_MAX_ITERATIONS", 1)
    jax.clear_caches()
    got = gaunlearn.find_limit(W, u, x, y, retain=retain)
    monkeypatch.undo()
    jax.clear_caches()
    assert got.status == "fallback"
    np.testing.assert_allclose(got.W, want.W, rtol=0, atol=1e-12)


UNAIDED = ("converged", "infeasible")
UNTRAINED = [(LINEAR, 1, 20, 5), (RELU, 10, 20, 5), (leaky_relu(0.2), 3, 12, 3)]


def untrained(model, n, m, d):
    """Separable data and others, each with weights that nobody has trained: (W, u, x, y)."""
    u = jnp.ones(1) if model.is_linear else jnp.asarray(output_weights(n))
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(m, d))
        y = np.sign(x[:, 0] if seed % 2 else rng.normal(size=m))
        yield jnp.asarray(rng.normal(size=(n, d))), u, jnp.asarray(x), jnp.asarray(y)


@pytest.mark.parametrize(("model", "n", "m", "d"), UNTRAINED)
def test_without_the_fallback_only_what_asks_for_it_is_stalled(model, n, m, d):
    """Separable data and others, from weights that nobody has trained."""
    seen = set()
    for problem in untrained(model, n, m, d):
        whole, quick = (
            gaunlearn.limit.find_limit(model, *problem, jnp.ones(m, bool), with_fallback)
            for with_fallback in (True, False)
        )
        want, got = (STATUSES[int(each.status)] for each in (whole, quick))
        seen |= {want, got}
        assert got in ("converged", "infeasible", "stalled")
        if got == "stalled":
            assert want in ("fallback", "infeasible", "stalled")
        else:
            assert got == want
            np.testing.assert_allclose(quick.weights, whole.weights, rtol=0, atol=1e-11)
    assert {"converged", "fallback", "infeasible", "stalled"} <= seen


@pytest.mark.parametrize(("model", "n", "m", "d"), UNTRAINED)
def test_a_batch_takes_the_fallback_where_a_lane_needs_it_and_for_that_lane_only(
    model, n, m, d, monkeypatch
):
    """One that is replaced by nonsense once it has been counted: lanes that need none must not see
    it, and a batch of such lanes must not come to it.
    """
    lanes = list(untrained(model, n, m, d))
    asked = []

    def solve(lanes):
        W, u, x, y = (jnp.stack(each) for each in zip(*lanes, strict=True))
        return jax.vmap(partial(gaunlearn.limit.find_limit, model))(W, u, x, y, y != 0)

    want = solve(lanes)
    real = gaunlearn.limit._fallback

    def nonsense(program, pattern, needed):
        jax.debug.callback(lambda needed: asked.append(bool(needed)), needed)
        point = real(program, pattern, needed)
        return point._replace(c=jnp.full_like(point.c, jnp.nan), level=point.level * jnp.nan)

    monkeypatch.setattr(gaunlearn.limit, "_fallback", nonsense)
    jax.clear_caches()
    got = solve(lanes)
    jax.effects_barrier()
    used = np.asarray(want.status) == STATUSES.index("fallback")
    assert any(asked)
    assert not all(asked)
    # Another program has other rounding, by which a few may come to another limit.
    same = np.asarray(got.status == want.status) & np.asarray(
        got.pattern_changes == want.pattern_changes
    )
    spared = np.isin(want.status, [STATUSES.index(name) for name in UNAIDED])
    assert (same & spared).sum() >= 0.8 * spared.sum() > 0
    np.testing.assert_allclose(
        got.weights[same & spared], want.weights[same & spared], rtol=0, atol=1e-11
    )
    assert np.any(got.status[used] != want.status[used])

    asked.clear()
    easy = solve(list(untrained(model, n, 6, 40)))
    jax.effects_barrier()
    monkeypatch.undo()
    jax.clear_caches()
    assert set(np.asarray(easy.status).tolist()) <= {STATUSES.index(name) for name in UNAIDED}
    assert asked == []


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 5),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e10]),
    shuffle=st.integers(0, 2**31),
)
def test_invariances(seed, scale, shuffle):
    """Scale of W, order of samples and neurons, rotation of the data."""
    W, u, x, y = network(seed, 10, 6, 9)
    rng = np.random.default_rng(shuffle)
    samples, neurons = rng.permutation(6), rng.permutation(10)
    rotation = np.linalg.qr(rng.normal(size=(9, 9)))[0]
    want = gaunlearn.find_limit(W, u, x, y)
    got = gaunlearn.find_limit(
        scale * (W @ rotation)[neurons], u[neurons], (x @ rotation)[samples], y[samples]
    )
    assert got.status in SOLVED
    np.testing.assert_allclose(got.W, (want.W @ rotation)[neurons], rtol=0, atol=1e-11)
    np.testing.assert_allclose(got.multipliers, want.multipliers[samples], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_duplicate_and_masked_samples(seed):
    """A duplicate makes the Gram matrix singular but moves nothing; a masked one is not there."""
    W, u, x, y = network(seed, 12, 6, 10)
    want = gaunlearn.find_limit(W, u, x, y)
    twice = gaunlearn.find_limit(W, u, np.vstack([x, x[:2]]), np.append(y, y[:2]))
    assert twice.status in SOLVED
    np.testing.assert_allclose(twice.W, want.W, rtol=0, atol=1e-10)
    together = twice.multipliers[:6].copy()
    together[:2] += twice.multipliers[6:]
    np.testing.assert_allclose(together, want.multipliers, rtol=1e-8, atol=1e-10)
    rng = np.random.default_rng(seed)
    more = gaunlearn.find_limit(
        W, u, np.vstack([x, rng.normal(size=10)]), np.append(y, 1.0), retain=np.arange(6)
    )
    np.testing.assert_allclose(more.W, want.W, rtol=0, atol=1e-12)
    assert more.multipliers[6] == 0


@given(st.integers(0, 2**31), st.booleans())
@settings(max_examples=50, deadline=None)
def test_which_constraints_others_imply(seed, by_kind):
    """Multiples by powers of 2 are parallel to the last bit; an angle of 1e-9 is one."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 4, 9)
    factor, tilt = 2.0 ** rng.integers(-2, 3, 9), rng.choice([0.0, 0.0, 1e-9, 1e-3], 9)
    directions = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    signed = factor[:, None] * (directions[base] + tilt[:, None] * directions[4])
    signed[rng.random(9) < 0.1] = 0.0
    kind = rng.integers(0, 2, 9) if by_kind else np.zeros(9, int)
    same_kind = kind[:, None] == kind

    def implies(k, i):
        parallel = base[k] == base[i] and tilt[k] == tilt[i] and same_kind[k, i]
        larger = factor[i] > factor[k] or (factor[i] == factor[k] and k < i)
        return parallel and larger and signed[k].any() and signed[i].any()

    want = [any(implies(k, i) for k in range(9)) for i in range(9)]
    gram = signed @ signed.T
    lengths = np.sqrt(np.diagonal(gram))
    got = implied(signed, gram, lengths, same_kind)
    assert got.tolist() == want


implied = jax.jit(gaunlearn.limit._implied)


@pytest.mark.parametrize("leak", [0.0, 0.1])
@pytest.mark.parametrize("angle", [0.0, 1e-3, 1e-6])
def test_parallel_and_nearly_parallel_samples(angle, leak):
    """A third of the samples point where the first does, at other lengths: the Gram matrix is
    singular, or nearly so. The limit is solved for, and its certificate sees that it is exact.
    """
    m, d, n = 12, 15, 20
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = sample_in_d_dimensions(rng, m, d)
        x[1::3] = rng.uniform(0.5, 2, (4, 1)) * (x[0] + angle * x[1::3])
        y[1::3] = y[0]
        u = output_weights(n)
        W = plain_descent(0.01 * rng.normal(size=(n, d)), u, x, y, np.ones(m, bool), 0.3, 300)
        limit = gaunlearn.find_limit(W, u, x, y, leak=leak)
        assert limit.status in SOLVED
        assert residual(limit, u, x, y, leak=leak) <= 1e-10
        if angle == 0:
            same = np.r_[0, 1:m:3]
            shortest = same[np.argmin(np.linalg.norm(x[same], axis=1))]
            assert np.all(limit.multipliers[same[same != shortest]] == 0)
            found = gaunlearn.certify(limit.W, u, x, y, leak=leak)
            assert max(found.epsilon, found.delta) <= 1e-10
            assert found.tau <= 1e-20


def test_limit_of_an_unlearned_network_is_on_the_retain_set():
    W, u, x, y = network(2, 20, 8, 100, mean=0.6)
    retain = np.arange(8) != 3
    W_hat = gaunlearn.ascend(W, u, x, y, forget=3)
    limit = gaunlearn.find_limit(W_hat, u, x, y, retain=retain)
    assert limit.status in SOLVED
    assert residual(limit, u, x, y, retain) <= 1e-10
    assert limit.margins[3] < 1 - 1e-3
    assert one_minus_cosine(W_hat, limit.W) < one_minus_cosine(W, limit.W)


def test_batch_gives_what_single_calls_give_and_is_traced_once():
    traces = []

    def solve(W, u, x, y, keep):
        traces.append(1)
        return gaunlearn.limit.find_limit(RELU, W, u, x, y, keep)

    cases = [(*network(seed, 8, 5, 7), np.ones(5, bool)) for seed in range(4)]
    together = jax.jit(jax.vmap(solve))(*map(np.stack, zip(*cases, strict=True)))
    single = jax.jit(solve)
    for place, case in enumerate(cases):
        alone = single(*case)
        np.testing.assert_allclose(together.weights[place], alone.weights, rtol=1e-9, atol=1e-12)
        assert int(together.iterations[place]) == int(alone.iterations)
    assert len(traces) == 2, "one for the batch, one for the single calls"


def test_float32_is_accurate_to_its_rounding():
    W, u, x, y = network(4, 20, 8, 12)
    want = gaunlearn.find_limit(W, u, x, y)
    with jax.enable_x64(False):
        narrow = [jnp.asarray(a, jnp.float32) for a in (W, u, x, y)]
        got = jax.jit(gaunlearn.limit.find_limit, static_argnums=0)(
            RELU, *narrow, jnp.ones(8, bool)
        )
    assert got.weights.dtype == jnp.float32
    assert STATUSES[int(got.status)] in SOLVED
    assert np.linalg.norm(got.weights - want.W) <= 1e-4 * np.linalg.norm(want.W)
    slack = np.abs(np.asarray(got.margins) - 1)[np.asarray(got.multipliers) > 0]
    assert max(float(got.epsilon), np.max(np.asarray(got.multipliers)) * slack.max()) <= 1e-4
    assert float(got.delta) == 0.0, "of rounding nothing is reported"


@pytest.mark.parametrize("model", [RELU, LINEAR, leaky_relu(0.1)])
def test_weights_that_are_not_finite_have_no_limit(model):
    x, y = np.eye(2), np.ones(2)
    n = 1 if model is LINEAR else 2
    got = gaunlearn.limit.find_limit(
        model, np.full((n, 2), np.nan), np.ones(n), x, y, np.ones(2, bool)
    )
    assert STATUSES[int(got.status)] == "undefined"
    assert np.isnan(got.weights).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W": np.ones(3)}, r"W must have shape \(n, 2\)"),
        ({"W": np.full((2, 2), np.inf)}, "W has NaN or infinite entries"),
        ({"retain": []}, "retain is empty"),
        ({"leak": 1.0}, r"leak must be a number in \[0, 1\), not 1.0"),
        ({"leak": "x"}, "leak must be a number"),
        ({"u": None, "W": np.ones(2), "leak": 0.1}, "the linear model has no activation"),
    ],
)
def test_find_limit_says_what_is_wrong(change, message):
    arguments = {"W": np.ones((2, 2)), "u": np.ones(2), "x": np.eye(2), "y": np.ones(2)}
    with pytest.raises(ValueError, match=message):
        gaunlearn.find_limit(**{**arguments, **change})
