"""certify and ascend on plain arrays: oracles, closed forms, invariances, bad input."""

import numpy as np
import pytest
from cases import network_at_kinks, output_weights, separated_network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import certificate_by_cvxpy, hard_margin
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import gaunlearn
from gaunlearn import certifying, coordinates, reference
from gaunlearn.data.real import digits

N, M, D = 12, 6, 9
seeds = st.integers(0, 2**31)
few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def same(a, b, tol=1e-9):
    """Two certificates with the same numbers."""
    assert a.separated == b.separated
    assert a.kink_pairs == b.kink_pairs
    for name in ("epsilon", "delta"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=tol, abs=tol), name
    assert a.tau == pytest.approx(b.tau, rel=1e-6, abs=1e-14)


@pytest.mark.parametrize("tol", [None, 0.0, 1e-3, 0.05, 0.2])
@pytest.mark.parametrize("seed", range(4))
def test_certificate_agrees_with_cvxpy(seed, tol):
    """Random networks near kinks, correlated samples, a retain set; 1e-7 is cvxpy's accuracy."""
    rng = np.random.default_rng(seed)
    W, u, x, y, _ = network_at_kinks(rng, N, M, D, 2, correlation=seed / 2)
    W = W + 1e-4 * rng.normal(size=W.shape)
    retain = np.arange(M) != 2
    got = gaunlearn.certify(W, u, x, y, retain=retain, kink_tol=tol)
    want = certificate_by_cvxpy(W, u, x, y, retain, tol)
    if want is None:
        assert not got.separated
        return
    epsilon, delta, tau = want
    scale = np.linalg.norm(got.weights)
    assert got.epsilon == pytest.approx(epsilon, abs=1e-7 * scale)
    assert got.delta == pytest.approx(delta, abs=1e-5 * scale)
    assert got.tau == pytest.approx(tau, abs=1e-12)
    assert got.gap <= 1e-13


def test_certificate_agrees_with_cvxpy_on_digits_near_training():
    """Strongly correlated real samples, many kinks: m = 20 digits and a short plain descent."""
    data = digits(0, 20, (3, 8))
    rng = np.random.default_rng(0)
    u = output_weights(30)
    W = 0.3 * rng.normal(size=(30, 64)) / 8
    for _ in range(3000):
        z = W @ data.x.T
        q = data.y * (u @ np.maximum(z, 0))
        slope = np.exp(-q - np.log(np.exp(-q).sum()))
        W += 0.3 * (u[:, None] * (z > 0) * (slope * data.y)) @ data.x
    for tol in (1e-3, 1e-2, 5e-2):
        got = gaunlearn.certify(W, u, data.x, data.y, kink_tol=tol)
        assert got.kink_pairs >= 10
        epsilon, _, tau = certificate_by_cvxpy(W, u, data.x, data.y, np.ones(20, bool), tol)
        assert got.epsilon == pytest.approx(epsilon, abs=1e-6 * np.linalg.norm(got.weights))
        assert got.tau == pytest.approx(tau, rel=1e-6, abs=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_linear_model_agrees_with_hard_margin_solvers(seed):
    """The SVM solution is certified exactly, with the solver's own dual variables."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(10, 40)) / 6, np.where(np.arange(10) % 2 == 0, 1.0, -1.0)
    w, dual = hard_margin(x, y)
    got = gaunlearn.certify(w, None, x, y)
    assert got.epsilon <= 1e-7
    assert got.delta <= 1e-7
    np.testing.assert_allclose(got.multipliers, dual, atol=1e-6)
    assert got.weights.shape == w.shape
    svc = SVC(kernel="linear", C=1e10, tol=1e-10).fit(np.vstack([x, -x]), np.hstack([y, -y]))
    v = svc.coef_[0]  # the mirrored copies force the offset to 0
    assert w @ v / np.linalg.norm(w) / np.linalg.norm(v) >= 1 - 1e-6
    noisy = w + 0.05 * rng.normal(size=w.shape)
    retain = np.arange(10) != 4
    got = gaunlearn.certify(noisy, None, x, y, retain=retain)
    epsilon, delta, _ = certificate_by_cvxpy(noisy, None, x, y, retain, None)
    assert got.epsilon == pytest.approx(epsilon, abs=1e-8)
    assert got.delta == pytest.approx(delta, abs=1e-7)


def test_two_orthogonal_points_by_hand():
    """w = (2, -1) on e_1 (+1), e_2 (-1): normalised it is itself; margins 2 and 1, lambda (2, 1);
    epsilon 0 and delta = 2 (2 - 1) = 2. Forgetting e_1 leaves w = (0, -1), which is exact.
    """
    W, x, y = np.array([2.0, -1.0]), np.eye(2), np.array([1.0, -1.0])
    got = gaunlearn.certify(W, None, x, y)
    assert (got.epsilon, got.delta, got.tau) == pytest.approx((0, 2, 0), abs=1e-14)
    np.testing.assert_allclose(got.multipliers, [2, 1], atol=1e-14)
    unlearned = gaunlearn.ascend(W, None, x, y, forget=0)
    np.testing.assert_allclose(unlearned, [0, -1], atol=1e-14)
    after = gaunlearn.certify(unlearned, None, x, y, retain=[1])
    assert (after.epsilon, after.delta) == pytest.approx((0, 0), abs=1e-14)


def test_one_point_one_neuron_by_hand():
    """W = (3, 4), u = 2, x = (1, 0): margin 6, normalised (0.5, 2/3), lambda u = 0.5."""
    got = gaunlearn.certify([[3.0, 4.0]], [2.0], [[1.0, 0.0]], [1])
    assert got.epsilon == pytest.approx(2 / 3)
    assert got.multipliers[0] == pytest.approx(0.25)
    assert got.delta == pytest.approx(0, abs=1e-15)


def test_dead_neuron_sits_at_every_kink():
    """A tolerance relative to ||w_j|| would leave lambda |u_j| of a dead neuron as residual."""
    x, y, u = np.eye(3), np.ones(3), output_weights(4)
    W = np.array([[1.0, 1, 1], [0, 0, 0], [1, 1, 1], [1e-6, 1e-6, 1e-6]])
    with_kinks = gaunlearn.certify(W, u, x, y, kink_tol=1e-4)
    assert with_kinks.kink_pairs == 6
    assert with_kinks.epsilon <= 1e-12
    assert gaunlearn.certify(W, u, x, y, kink_tol=None).epsilon > 0.1


def test_a_neuron_that_snapping_takes_to_zero_is_at_every_kink():
    """d = 2: a small neuron near the kinks of two samples vanishes, and its pre-activations on the
    others are rounding, whose sign means nothing.
    """
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(5, 2)), np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    u = output_weights(8)
    W = rng.normal(size=(8, 2))
    W[0] = 1e-3 * rng.normal(size=2)
    z = np.abs(W @ x.T) / np.linalg.norm(x, axis=1) / (np.linalg.norm(W) / np.sqrt(8))
    assert (z[0] < 2e-3).sum() >= 2
    tol, gone = 2e-3, W.copy()
    gone[0] = 0.0
    q = y * (u @ np.maximum(gone @ x.T, 0))
    y = y * np.where(q > 0, 1, -1)  # labels that it separates
    got = gaunlearn.certify(W, u, x, y, kink_tol=tol)
    want = gaunlearn.certify(gone, u, x, y, kink_tol=tol)
    assert got.separated
    assert got.kink_pairs == want.kink_pairs >= 5
    assert got.epsilon == pytest.approx(want.epsilon, rel=1e-9)
    independent = reference.certify(W, u, x, y, np.ones(5, bool), tol)
    assert independent.epsilon == pytest.approx(want.epsilon, rel=1e-7)


@few
@given(seeds, st.sampled_from([1e-200, 1e-6, 0.3, 1e6, 1e200]))
def test_scale_of_the_weights_does_not_matter(seed, scale):
    W, u, x, y = separated_network(np.random.default_rng(seed), N, M, D)
    same(gaunlearn.certify(scale * W, u, x, y), gaunlearn.certify(W, u, x, y))


@few
@given(seeds)
def test_order_of_samples_and_neurons_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    W, u, x, y = separated_network(rng, N, M, D)
    rows, columns = rng.permutation(N), rng.permutation(M)
    a = gaunlearn.certify(W, u, x, y)
    b = gaunlearn.certify(W[rows], u[rows], x[columns], y[columns])
    same(a, b)
    np.testing.assert_allclose(b.multipliers, a.multipliers[columns], atol=1e-8)


@pytest.mark.parametrize("linear", [False, True])
def test_room_for_more_does_not_matter(monkeypatch, linear):
    """Samples, neurons and coordinates that are not there change no number beyond rounding."""
    W, u, x, y = separated_network(np.random.default_rng(3), N, M, D)
    if linear:
        W, u = np.linalg.lstsq(x, y, rcond=None)[0], None
    found = []
    for least in (1, 32):
        monkeypatch.setattr(coordinates, "_LEAST", least)
        limit = gaunlearn.find_limit(W, u, x, y, retain=np.arange(M) != 1)
        moved = gaunlearn.unlearn(W, u, x, y, [2, 0], "sequential_ascent", step_fraction=0.3)
        found.append((gaunlearn.certify(W, u, x, y), limit, moved))
    (a, limit, moved), (b, other_limit, other_moved) = found
    same(a, b)
    for name in ("weights", "multipliers", "coefficients", "margins"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-9, err_msg=name)
    for name in ("W", "multipliers", "coefficients", "margins"):
        want = getattr(limit, name)
        np.testing.assert_allclose(getattr(other_limit, name), want, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(other_moved.W, moved.W, atol=1e-9)
    assert other_moved.gradients == moved.gradients


def test_problems_of_many_sizes_share_a_program():
    before = certifying.rungs._cache_size()
    for n, m, d in ((9, 17, 40), (12, 20, 18), (16, 31, 99)):
        W, u, x, y = separated_network(np.random.default_rng(n), n, m, d)
        assert gaunlearn.certify(W, u, x, y, kink_tol=[0.0, 1e-3]).coefficients.shape == (n, m)
    assert certifying.rungs._cache_size() == before + 1


@few
@given(seeds)
def test_rotation_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    W, u, x, y = separated_network(rng, N, M, D)
    rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
    a, b = gaunlearn.certify(W, u, x, y), gaunlearn.certify(W @ rotation, u, x @ rotation, y)
    same(a, b)
    np.testing.assert_allclose(a.weights @ rotation, b.weights, atol=1e-9)


@few
@given(seeds)
def test_masked_sample_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    W, u, x, y = separated_network(rng, N, M, D)
    retain = np.arange(M) != M - 1
    masked = gaunlearn.certify(W, u, x, y, retain=retain)
    absent = gaunlearn.certify(W, u, x[:-1], y[:-1])
    same(masked, absent)
    assert masked.multipliers[-1] == 0


@few
@given(seeds)
def test_duplicating_a_sample_changes_epsilon_of_nothing(seed):
    W, u, x, y = separated_network(np.random.default_rng(seed), N, M, D)
    once = gaunlearn.certify(W, u, x, y)
    twice = gaunlearn.certify(W, u, np.vstack([x, x[:1]]), np.append(y, y[0]))
    assert twice.epsilon == pytest.approx(once.epsilon, abs=1e-9)
    shared = twice.multipliers[0] + twice.multipliers[-1]
    assert shared == pytest.approx(once.multipliers[0], abs=1e-7)


@few
@given(seeds)
def test_copies_of_a_sample_share_alike_at_kinks_too(seed):
    """How they share out their multiplier and its derivatives is not left to chance."""
    W, u, x, y, _ = network_at_kinks(np.random.default_rng(seed), N, M, D, 2)
    x, y = np.vstack([x, x[:2], x[:1]]), np.concatenate([y, y[:2], y[:1]])
    got = gaunlearn.certify(W, u, x, y)
    if not got.separated:
        return
    for a, b in ((0, M), (0, M + 2), (1, M + 1)):
        assert got.multipliers[a] == got.multipliers[b]
        np.testing.assert_array_equal(got.coefficients[:, a], got.coefficients[:, b])
    fitted = (u[:, None] * got.coefficients) @ (y[:, None] * x)
    assert got.epsilon == pytest.approx(np.linalg.norm(got.weights - fitted), abs=1e-9)
    assert got.epsilon == pytest.approx(gaunlearn.certify(W, u, x[:M], y[:M]).epsilon, abs=1e-7)


@few
@given(seeds)
def test_certificate_is_a_true_triple(seed):
    """epsilon, delta and tau follow from the returned weights, multipliers and coefficients."""
    W, u, x, y, _ = network_at_kinks(np.random.default_rng(seed), N, M, D, 2)
    got = gaunlearn.certify(W, u, x, y, kink_tol=0.05)
    if not got.separated:  # this tolerance moved a sample across the border
        return
    theta, lam, c = got.weights, got.multipliers, got.coefficients
    residual = np.linalg.norm(theta - (u[:, None] * c) @ (y[:, None] * x))
    assert got.epsilon == pytest.approx(residual, abs=1e-9)
    z = theta @ x.T
    scale = np.linalg.norm(theta)
    assert np.all((c >= 0) & (c <= lam))
    off_kink = np.abs(z) > 1e-9 * scale
    assert np.array_equal(c[off_kink], np.where(z > 0, lam, 0)[off_kink])
    q = y * (u @ np.maximum(z, 0))
    assert q.min() == pytest.approx(1)
    assert got.delta == pytest.approx(np.max(lam * (q - 1)), abs=1e-9)
    cos = np.sum(W * theta) / np.linalg.norm(W) / scale
    assert got.tau == pytest.approx(1 - cos, abs=1e-12)


def test_ladder_is_chosen_within_the_budget():
    W, u, x, y, _ = network_at_kinks(np.random.default_rng(1), N, M, D, 2)
    W = W + 1e-3 * np.random.default_rng(2).normal(size=W.shape)
    best = gaunlearn.certify(W, u, x, y, kink_tol=[0.0, 1e-2, 0.5], tau_budget=1e-3)
    within = [rung for rung in best.ladder if rung.separated and rung.tau <= 1e-3]
    assert best.epsilon == min(rung.epsilon for rung in within)
    assert any(rung.tau > 1e-3 or not rung.separated for rung in best.ladder)
    assert best.kink_tol == 1e-2
    strict = gaunlearn.certify(W, u, x, y, kink_tol=[0.0, 1e-2, 0.5], tau_budget=0.0)
    assert strict.tau <= 1e-15


def test_model_that_does_not_separate_has_no_certificate():
    W, u, x, y = separated_network(np.random.default_rng(0), N, M, D)
    got = gaunlearn.certify(-W, u, x, y)
    assert not got.separated
    assert np.isnan([got.epsilon, got.delta, got.tau, got.gap]).all()
    assert np.isnan(got.multipliers).all()
    with pytest.raises(ValueError, match="does not separate"):
        gaunlearn.ascend(-W, u, x, y, 0)
    assert gaunlearn.certify(np.zeros((N, D)), u, x, y).separated is False


def test_ascent_removes_what_the_multipliers_say():
    """W^ = W - f q_min sum_F lambda_r y_r h_r, from the certificate's own coefficients."""
    W, u, x, y = separated_network(np.random.default_rng(3), N, M, D)
    trained = gaunlearn.certify(W, u, x, y)
    q_min = (y * (u @ np.maximum(W @ x.T, 0))).min()
    want = np.zeros_like(W)
    for r in (0, 3):
        want += u[:, None] * trained.coefficients[:, [r]] * y[r] * x[r]
    for forget in ([0, 3], np.isin(np.arange(M), [0, 3])):
        got = gaunlearn.ascend(W, u, x, y, forget, step_fraction=0.7)
        np.testing.assert_allclose(got, W - 0.7 * q_min * want, atol=1e-12)
    np.testing.assert_array_equal(gaunlearn.ascend(W, u, x, y, 0, 0.0), W)
    np.testing.assert_allclose(
        gaunlearn.ascend(10 * W, u, x, y, 0), 10 * gaunlearn.ascend(W, u, x, y, 0), rtol=1e-9
    )


X, Y = np.eye(3), np.array([1.0, -1.0, 1.0])
W_OK = np.array([1.0, -1.0, 1.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [1, 0, 1]}, r"y\[1\] is 0: labels must be \+1 or -1"),
        ({"y": [1, -1]}, "y must have shape"),
        ({"x": [[1, 0, 0], [0, np.nan, 0], [0, 0, 1]]}, r"x\[1\] is NaN or infinite"),
        ({"x": [[1, 0, 0], [0, np.inf, 0], [0, 0, 1]]}, r"x\[1\] is NaN or infinite"),
        ({"x": [[1, 0, 0], [0, 0, 0], [0, 0, 1]]}, r"x\[1\] is all zero"),
        ({"x": [[1, 0, 0], [1, 0, 0], [0, 0, 1]]}, r"x\[0\] and x\[1\] are the same sample"),
        ({"x": [1, 2, 3]}, "x must have shape"),
        ({"x": [["a", "b", "c"]] * 3}, "must hold real numbers"),
        ({"x": [[1, 2], [3]]}, "rectangular"),
        ({"W": [1.0, 2.0]}, "W must have shape"),
        ({"W": [1.0, np.nan, 1.0]}, "W has NaN"),
        ({"retain": []}, "retain is empty"),
        ({"retain": [3]}, "retain names sample 3; there are samples 0 to 2"),
        ({"retain": [-1]}, "retain names sample -1"),
        ({"retain": [True, False]}, "must be"),
        ({"retain": [0.5]}, "indices or a boolean mask"),
        ({"kink_tol": -1.0}, "kink_tol must be"),
        ({"kink_tol": []}, "kink_tol must be"),
        ({"kink_tol": "small"}, "kink_tol must be"),
        ({"tau_budget": float("nan")}, "tau_budget must be"),
        ({"tau_budget": "small"}, "tau_budget must be"),
    ],
)
def test_certify_says_what_is_wrong(change, message):
    arguments = {"W": W_OK, "u": None, "x": X, "y": Y} | change
    with pytest.raises(ValueError, match=message):
        gaunlearn.certify(**arguments)


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        ([0, 1, 2], "forget names all 3 samples"),
        (3, "forget names sample 3; there are samples 0 to 2"),
        ([], "forget is empty"),
        ("first", "indices or a boolean mask"),
    ],
)
def test_ascend_says_what_is_wrong(forget, message):
    with pytest.raises(ValueError, match=message):
        gaunlearn.ascend(W_OK, None, X, Y, forget)


def test_one_sample_cannot_be_unlearned():
    with pytest.raises(ValueError, match="at least one must be retained"):
        gaunlearn.ascend([1.0], None, [[1.0]], [1], 0)


def test_two_layer_shapes_are_checked():
    with pytest.raises(ValueError, match=r"u must have shape \(2,\)"):
        gaunlearn.certify(np.ones((2, 3)), [1.0], X, Y)
    with pytest.raises(ValueError, match=r"W must have shape \(n, 3\)"):
        gaunlearn.certify(np.ones((2, 2)), [1.0, -1.0], X, Y)


def test_digits_are_what_their_docstring_says():
    data, again, other = digits(0, 40, (3, 8)), digits(0, 40, (3, 8)), digits(1, 40, (3, 8))
    np.testing.assert_array_equal(data.x, again.x)
    assert not np.array_equal(data.x, other.x)
    everything = np.vstack([data.x, data.x_test])
    assert len(everything) == np.isin(load_digits().target, (3, 8)).sum()
    np.testing.assert_allclose(everything.mean(0), 0, atol=1e-12)
    assert np.mean(np.sum(everything**2, 1)) == pytest.approx(1)
    assert set(data.y) == {1.0, -1.0}


def test_a_margin_of_rounding_separates_nothing():
    """Weights orthogonal to a sample but for rounding, whose sign is chance: of 60 margins about
    half are positive, and none separates.
    """
    rng, positive = np.random.default_rng(0), 0
    for _ in range(60):
        x, W = rng.normal(size=(1, 5)), rng.normal(size=5)
        for _ in range(2):
            W = W - x[0] * (x[0] @ W) / (x[0] @ x[0])
        positive += x[0] @ W > 0
        assert not gaunlearn.certify(W, None, x, [1]).separated
    assert positive > 10
