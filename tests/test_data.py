"""Reduced coordinates: exact against d dimensions, and directly sampled with the right law."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import lift, output_weights
from oracles import ascend_plainly, plain_descent, sample_in_d_dimensions, snap_rows
from scipy.stats import chi, ks_2samp, kstest
from scipy.stats import f as f_law

from gaunlearn.data import distributions, numbers
from gaunlearn.data.distributions import draw as draw_law
from gaunlearn.data.distributions import (
    gaussian_rows,
    initial_weights,
    law_of,
    power_law,
)
from gaunlearn.data.reduction import pad_coordinates, reduce_problem, rotate
from gaunlearn.ladder import KINK_TOLS, certify
from gaunlearn.losses import LOSSES
from gaunlearn.models import RELU
from gaunlearn.trial import (
    FRESH,
    ORIGINAL,
    Settings,
    Setup,
    certify_stage,
    columns_of_certificate,
    columns_of_least,
    columns_of_limit,
    compare_stage,
    descent_of,
    end_training,
    judge_stage,
    limit_stage,
    trained_model,
    unlearn_stage,
)
from gaunlearn.types import Dataset
from gaunlearn.unlearning import Effort

# Two-sample and one-sample tests below have fixed seeds; each may fail by chance once in 10^4.
LEVEL = 1e-4


def orthonormal(rng, d, p):
    return np.linalg.qr(rng.normal(size=(d, p)))[0]


MIXTURE = {"alpha": 0.1, "noise_scale": 1.0, "label_noise": 0.0, "positive": 0.5}


OPTIONS = {
    "gaussian_mixture": MIXTURE,
    "isotropic": {},
    "clusters": {"alpha": 0.1},
    "xor": {"alpha": 0.1},
    "heavy_tailed": {"tail_dof": 3.0},
    "correlated": {"correlation": 0.3},
    "near_duplicates": {"correlation": 0.5, "copies": 1.0},
}


def keys_of(seed, count):
    """The words of so many keys."""
    return np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed), count)))


def draw(kind, keys, m, t, d, samples=None, rows=0, **parameters):
    """Coordinates of synthetic data sets, led by so many rows of weights if they are; perhaps with
    room for more samples.
    """
    law = (kind, 2 if kind == "clusters" else 0)
    given = (MIXTURE if kind == "gaussian_mixture" else {}) | parameters | {"d": float(d)}
    span = min(d, m + law_of(*law)[1])
    beyond = min(d - span, rows or t)
    if samples is not None:
        span, beyond = span + samples - m, beyond + 2
    room = (m if samples is None else samples, t, span, beyond)
    return draw_law(keys, numbers.folded(keys, 9), law, room, m, rows > 0, given)


def sampled(kind, m, t, d, lead=False, seed=0, k=3, n=6, scale=0.5):
    """(Coordinates, initial weights) of a synthetic data set."""
    keys = keys_of(seed, 1 + k)
    given = draw(kind, keys[0], m, t, d, rows=lead * k * n)
    return given, initial_weights(keys[1:], n, given, n, float(d), scale)


def explicit(m, t, d, seed=0, k=3, n=6, scale=0.5):
    """(Coordinates, initial weights, isometry, Dataset) of a user's data set."""
    rng = np.random.default_rng(seed)
    x, y = sample_in_d_dimensions(rng, m + t, d)
    data = Dataset(x[:m], y[:m], x[m:], y[m:])
    given, basis = rotate(data)
    weights = initial_weights(keys_of(seed + 1, k), n, given, n, float(d), scale)
    return given, weights, basis, data


@pytest.mark.parametrize(("m", "t", "d"), [(5, 7, 40), (6, 9, 10), (6, 3, 4), (4, 0, 4), (3, 5, 9)])
def test_folding_keeps_all_geometry(m, t, d):
    """Norms, inner products across initialisations and test pre-activations, also for r = d."""
    given, weights, basis, data = explicit(m, t, d)
    got = reduce_problem(given, weights, output_weights(6))
    W = lift(weights, basis, np.random.default_rng(1))
    np.testing.assert_allclose(given.data.x @ basis.T, data.x, atol=1e-13)
    np.testing.assert_allclose(given.data.x_test @ basis.T, data.x_test, atol=1e-13)
    assert got.x.shape == (m, min(m, d) + 3)
    a = got.initial_weights
    np.testing.assert_allclose(a @ got.x.T, W @ data.x.T, atol=1e-12)
    for i in range(3):
        z = a[i] @ got.x_test.T + got.test_offset[i]
        np.testing.assert_allclose(z, W[i] @ data.x_test.T, atol=1e-12)
        for k in range(3):
            np.testing.assert_allclose((a[i] * a[k]).sum(1), (W[i] * W[k]).sum(1), atol=1e-12)


@pytest.mark.parametrize(
    ("m", "t", "d", "n"), [(5, 7, 40, 6), (4, 3, 5, 1), (4, 3, 6, 1), (5, 2, 5, 6)]
)
def test_shares_of_initialisations_are_read_off_what_lies_outside_the_span(m, t, d, n):
    """Also where three parts have one dimension, or two: then they are not unique, but what fresh
    samples see of them is; and where nothing lies outside.
    """
    given, weights, _, _ = explicit(m, t, d, n=n)
    got = reduce_problem(given, weights, output_weights(n))
    outside = got.initial_weights[:, :, -3:]
    shares = np.array([1.0, -0.4, 2.5])
    mixed = np.tensordot(shares, outside, 1)
    found = (got.outside_shares * mixed).sum((1, 2))
    if (d - m) * n >= 3:
        np.testing.assert_allclose(found, shares, rtol=1e-10)
    seen, want = (np.tensordot(each, got.test_offset, 1) for each in (found, shares))
    np.testing.assert_allclose(seen, want, atol=1e-12)


SETUP = Setup(
    model=RELU,
    loss=LOSSES["logistic"],
    optimizer="normalized_gd",
    check_every=100,
    to_limit=False,
    to_epsilon=False,
    kinks=True,
)
SETTINGS = Settings(
    step_size=np.asarray(0.1),
    max_steps=np.asarray(300),
    target_log_loss=np.asarray(-np.inf),
    target_epsilon=np.asarray(0.0),
    kink_tols=np.asarray(KINK_TOLS),
    tau_budget=np.asarray(1e-3),
)
FRACTIONS = (0.0, 0.7, 1.0)


# Each compiled once for a shape, however many networks go through it.
@jax.jit
def reduced_training(problem, start, keep):
    descent = descent_of(SETUP, SETTINGS, problem, start, keep)
    state = jax.lax.while_loop(lambda s: ~s.ended, descent.one_round, descent.begin())
    ended, margins = end_training(SETUP, problem, start, descent.result(state))
    there = limit_stage(RELU, problem, ended.weights, keep, with_fallback=True)
    return trained_model(SETUP, ended, margins, there)


@jax.jit
def reduced_certificate(problem, weights, keep, ends, wanted):
    return certify_stage(RELU, SETTINGS, problem, weights, keep, ends, wanted)


limit_of = jax.jit(partial(limit_stage, RELU, with_fallback=True))
compared = jax.jit(partial(compare_stage, SETUP, SETTINGS))
unlearned = jax.jit(partial(unlearn_stage, SETUP, "ascent", SETTINGS))
judged = jax.jit(partial(judge_stage, SETUP, SETTINGS))


def reduced_trial(problem, forget):
    everything = problem.present
    order = (jnp.arange(problem.y.shape[0]) == forget).astype(int)
    retain = everything & (order == 0)

    def certified(weights, keep, ends=None):
        wanted = ends is not None
        both = ends if wanted else jnp.stack([weights, weights])
        return reduced_certificate(problem, weights, keep, both, wanted)

    trained = reduced_training(problem, ORIGINAL, everything)
    again = reduced_training(problem, FRESH, retain)
    original = certified(trained.weights, everything).certificate
    reference = certified(again.weights, retain).certificate
    shared = compared(problem, trained, original, again, reference, trained, order)

    def unlearned_by(fraction):
        effort = Effort(fraction, jnp.asarray(1), jnp.asarray(1.0))
        found = unlearned(effort, problem, trained, original, again, order)
        rest = trained, original, again, reference, order, found, fraction, jnp.asarray(True)
        there = limit_of(problem, found.weights, retain)
        ends = jnp.stack([there.limit.weights, reference.weights])
        certificate, least = certified(found.weights, retain, ends)
        return {
            **judged(problem, *rest),
            **columns_of_limit(there),
            **columns_of_certificate(certificate),
            **columns_of_least(least),
        }

    swept = [unlearned_by(jnp.asarray(fraction)) for fraction in FRACTIONS]
    return trained.weights, again.weights, shared, swept


@jax.jit
def certify_in_d(W, u, x, y, retain):
    return certify(RELU, W, u, x, y, retain, jnp.asarray(KINK_TOLS), jnp.asarray(1e-3))


@pytest.mark.parametrize(
    ("kind", "lead"),
    [
        ("gaussian_mixture", True),
        ("gaussian_mixture", False),
        ("isotropic", True),
        ("isotropic", False),
        ("explicit", False),
    ],
)
@pytest.mark.parametrize(("m", "t", "d"), [(6, 20, 50), (6, 20, 12), (7, 9, 5)])
def test_reduced_trial_is_the_trial_in_d_dimensions(kind, lead, m, t, d):
    """Descent, ascent and retraining in NumPy on the lifted problem. Initial weights are far from
    small, so that what lies outside the samples' span matters. To 1e-9 relative.
    """
    rng = np.random.default_rng(d)
    if kind == "explicit":
        given, weights, basis, data = explicit(m, t, d)
    else:
        given, weights = sampled(kind, m, t, d, lead)
        exists, found = given.exists, given.data
        basis = orthonormal(rng, d, exists.sum())
        x, x_test = (part[:, exists] @ basis.T for part in (found.x, found.x_test))
        data = Dataset(x, found.y, x_test, found.y_test)
    used = np.append(given.exists, np.ones(3, bool))
    starts = lift(weights[:, :, used], basis, rng)
    u, forget = output_weights(6), 2
    problem = reduce_problem(given, weights, u)
    everything, retain = np.ones(m, bool), np.arange(m) != forget
    got_W, got_again, shared, swept = jax.device_get(reduced_trial(problem, forget))

    def agree(got, want, what, scale=None):
        size = np.abs(want).max() if scale is None else scale
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9 * size, err_msg=what)

    def logits(W, x):
        return u @ np.maximum(W @ x.T, 0)

    r = given.span
    W = plain_descent(starts[0], u, data.x, data.y, everything, 0.1, 300)
    again = plain_descent(starts[1], u, data.x, data.y, retain, 0.1, 300)
    agree(got_W[:, :r], W @ basis[:, :r], "trained weights")
    agree(got_again[:, :r], again @ basis[:, :r], "retrained weights")
    agree((got_W**2).sum(1), (W**2).sum(1), "norms of rows")
    for got, want, start in ((got_W, W, 0), (got_again, again, 1)):
        agree(u @ np.maximum(got @ problem.x.T, 0), logits(want, data.x), "logits")
        fresh_z = got @ problem.x_test.T + problem.test_offset[start]
        agree(u @ np.maximum(fresh_z, 0), logits(want, data.x_test), "test logits")
    # A model that separates has a certificate on both sides, one that does not on neither.
    original = jax.device_get(certify_in_d(W, u, data.x, data.y, everything))
    reference = jax.device_get(certify_in_d(again, u, data.x, data.y, retain))
    assert bool(shared["separated_train"]) == bool(original.separated)
    assert original.separated or (kind, m) != ("explicit", 6), "most cases separate"
    agree(shared["epsilon_train"], original.epsilon, "epsilon_train")
    agree(shared["delta_train"], original.delta, "delta_train", 1.0)
    agree(shared["epsilon_retrain"], reference.epsilon, "epsilon_retrain")
    agree(shared["accuracy_retrained"], np.mean(data.y_test * logits(again, data.x_test) > 0), "")
    if not original.separated:
        return
    for place, fraction in enumerate(FRACTIONS):
        W_hat = ascend_plainly(W, u, data.x, data.y, forget, fraction, original.coefficients)
        after = jax.device_get(certify_in_d(W_hat, u, data.x, data.y, retain))
        row = swept[place]
        agree(row["epsilon"], after.epsilon, "epsilon")
        agree(row["delta"], after.delta, "delta", 1.0)
        agree(row["tau"], after.tau, "tau", 1.0)
        snapped, _ = snap_rows(W_hat, data.x, retain, float(after.kink_tol))
        units = [a / np.linalg.norm(a) for a in (W_hat, snapped)]
        agree(row["tau"], 0.5 * np.sum((units[0] - units[1]) ** 2), "tau by pinv", 1.0)
        q = data.y * logits(W_hat, data.x)
        if after.separated:
            agree(row["margin_forget_unlearned"], q[forget] / q[retain].min(), "margin", 1.0)
        fresh = data.y_test * logits(W_hat, data.x_test)
        agree(row["accuracy_unlearned"], np.mean(fresh > 0), "accuracy")
        ranks = np.mean(fresh < q[forget]) + 0.5 * np.mean(fresh == q[forget])
        agree(row["membership_unlearned"], ranks, "membership")
        disagree = np.sign(data.y_test * fresh) != np.sign(logits(again, data.x_test))
        agree(row["disagreement"], np.mean(disagree), "disagreement")
        if reference.separated:
            units = [a / np.linalg.norm(a) for a in (W_hat, reference.weights)]
            agree(row["tau_retrain"], 0.5 * np.sum((units[0] - units[1]) ** 2), "tau_retrain", 1.0)


@pytest.mark.parametrize(("rows", "d"), [(4, 9), (6, 6), (7, 3)])
def test_gaussian_rows_have_bartletts_law(rows, d):
    """Its Gram matrix is Wishart: diagonal chi^2(d), and Kolmogorov-Smirnov tests of single
    entries against a Gaussian matrix's own.
    """
    columns = min(rows, d)
    own, axes = np.arange(float(rows)), np.arange(float(columns))
    L = gaussian_rows(keys_of(0, 4000), own, axes, float(d))
    assert np.all(L[:, *np.triu_indices(rows, 1, columns)] == 0)
    gram = L @ L.transpose(0, 2, 1)
    Z = np.random.default_rng(0).normal(size=(4000, rows, d))
    want = Z @ Z.transpose(0, 2, 1)
    for i, k in [(0, 0), (rows - 1, rows - 1), (0, rows - 1), (1, 2)]:
        assert ks_2samp(gram[:, i, k], want[:, i, k], method="asymp").pvalue > LEVEL
    assert kstest(np.sqrt(gram[:, rows - 1, rows - 1]), chi(d).cdf).pvalue > LEVEL
    # Moments of the Wishart law: E G = d I, Var G_ik = d (1 + [i = k]); five standard errors.
    error = 5 * np.sqrt(2 * d / 4000)
    np.testing.assert_allclose(gram.mean(0), d * np.eye(rows), atol=error)
    np.testing.assert_allclose(
        gram.var(0), d * (1 + np.eye(rows)), rtol=5 * np.sqrt((2 + 12 / d) / 4000)
    )


def summaries(x, y, x_test, y_test, W):
    """What a trial could notice of its data: phi, psi, a classifier's accuracy, W's geometry."""
    gram = x @ x.T
    off = gram - np.diag(np.diag(gram))
    mean = y @ x
    z = W[0] @ x.T
    return {
        "phi": np.abs(off).max(),
        "psi": np.abs(np.diag(gram) - 1).max(),
        "inner": off[0, 1] * y[0] * y[1],
        "accuracy of the mean": np.mean(y_test * (x_test @ mean) > 0),
        "test margin": y_test[0] * (x_test[0] @ mean),
        "pre-activation": z[0, 0],
        "correlation of pre-activations": z[0, 0] * z[0, 1],
        "norm of a row": np.sum(W[0, 0] ** 2),
        "overlap of two initialisations": np.sum(W[0] * W[1]),
        "overlap of the last two": np.sum(W[1, 1] * W[2, 1]),
        "fresh pre-activation": W[0, 0] @ x_test[0],
        "two neurons on a fresh sample": (W[0, 0] @ x_test[0]) * (W[0, 1] @ x_test[0]),
        "two initialisations on a fresh sample": (W[0, 0] @ x_test[0]) * (W[1, 0] @ x_test[0]),
        "spread over fresh samples": np.var(W[0, 0] @ x_test.T),
        "two fresh samples on a neuron": (W[0, 0] @ x_test[0]) * (W[0, 0] @ x_test[1]),
        "two fresh samples on two neurons": (W[0, 0] @ x_test[0]) * (W[2, 1] @ x_test[1]),
        "last neuron of all": (W[2, 1] @ x_test[0]) * (W[1, 1] @ x_test[0]),
        "spread and norm": np.var(W[1, 1] @ x_test.T) * np.sum(W[1, 1] ** 2),
        "spread and overlap": np.cov(W[1:, 1] @ x_test.T)[0, 1] * np.sum(W[1, 1] * W[2, 1]),
    }


@pytest.mark.parametrize("kind", ["gaussian_mixture", "isotropic"])
@pytest.mark.parametrize("lead", [True, False])
@pytest.mark.parametrize(("m", "t", "d"), [(4, 6, 30), (4, 8, 9), (4, 3, 7), (5, 6, 3), (2, 2, 1)])
def test_direct_and_explicit_sampling_agree_in_distribution(kind, lead, m, t, d):
    """Two-sample Kolmogorov-Smirnov tests at level 10^-4 each, 1500 draws on both sides."""
    count, scale, rng = 1500, 0.5, np.random.default_rng(0)
    direct, plain = [], []

    data_keys, init_keys = keys_of(5, count), keys_of(6, 3 * count).reshape(count, 3, 2)
    given = draw(kind, data_keys, m, t, d, rows=lead * 3 * 2)
    weights = initial_weights(init_keys, 2, given, 2, float(d), scale)
    data, problem = given.data, reduce_problem(given, weights, output_weights(2))
    pad = weights.shape[-1] - data.x.shape[-1]
    for i in range(count):
        x, x_test = (np.pad(a[i], ((0, 0), (0, pad))) for a in (data.x, data.x_test))
        direct.append(summaries(x, data.y[i], x_test, data.y_test[i], weights[i]))
        # The folded problem has the same pre-activations and geometry as what it was folded from.
        folded = problem.initial_weights[i]
        assert np.allclose(folded @ problem.x[i].T, weights[i] @ x.T, atol=1e-12)
        assert np.allclose((folded**2).sum(-1), (weights[i] ** 2).sum(-1), atol=1e-12)
        alpha = 0.1 if kind == "gaussian_mixture" else None
        x, y = sample_in_d_dimensions(rng, m + t, d, alpha)
        W = scale / np.sqrt(d) * rng.normal(size=(3, 2, d))
        plain.append(summaries(x[:m], y[:m], x[m:], y[m:], W))
    for name in direct[0]:
        a, b = [row[name] for row in direct], [row[name] for row in plain]
        assert ks_2samp(a, b, method="asymp").pvalue > LEVEL, name


def many(kind, m=20000, d=8, t=0, seed=3, **parameters):
    """Training samples of one large data set (the first are triangular, hence left out)."""
    given = draw(kind, keys_of(seed, 1)[0], m, t, d, **parameters)
    return given.data.x[d + 4 :], given.data.y[d + 4 :], given


def many_small(kind, count, *sizes, **parameters):
    """``count`` data sets, stacked."""
    return draw(kind, keys_of(1, count), *sizes, **parameters).data


def close(got, want, spread, count):
    """Within five standard errors of a mean."""
    np.testing.assert_allclose(got, want, atol=5 * spread / np.sqrt(count))


def test_mixture_has_the_noise_and_labels_that_are_asked_for():
    options = {"noise_scale": 0.5, "label_noise": 0.2, "positive": 0.7}
    x, y, given = many("gaussian_mixture", t=20000, **options)
    mean, count = 8**-0.15, len(y)
    cluster = np.where(x[:, 0] > 0, 1.0, -1.0)
    # Of N(mean, 1/32) about one in 3 * 10^5 is on the wrong side: labels tell the rest.
    close(np.mean(cluster), 0.4, 1.0, count)
    close(np.mean(cluster != y), 0.2, 0.4, count)
    np.testing.assert_allclose(np.var(x - mean * cluster[:, None] * np.eye(8)[0], 0), 0.25 / 8,
                               rtol=5 * np.sqrt(2 / count))  # fmt: skip
    assert np.mean(np.sign(given.data.x_test[:, 0]) != given.data.y_test) < 1e-3, (
        "fresh labels are clean"
    )


def test_clusters_are_orthogonal_and_each_has_one_label():
    x, y, _ = many("clusters", alpha=0.2)
    mean, count = 8**-0.05, len(y)
    for label, axes, others in ((1, [0, 1], [2, 3]), (-1, [2, 3], [0, 1])):
        part = x[y == label]
        close(part[:, axes].mean(0), mean / 2, 1.0, count / 2)
        close((part[:, axes] ** 2).mean(0), mean**2 / 2 + 1 / 8, 1.0, count / 2)
        close((part[:, axes[0]] * part[:, axes[1]]).mean(), 0.0, 1.0, count / 2)
        close(part[:, others].mean(0), 0.0, 0.5, count / 2)


def test_xor_has_two_opposite_clusters_a_class():
    x, y, _ = many("xor", alpha=0.2)
    mean, count = 8**-0.05, len(y)
    close(x.mean(0), 0.0, 1.0, count)
    for label, own in ((1, 0), (-1, 1)):
        squares = (x[y == label] ** 2).mean(0)
        want = np.full(8, 1 / 8)
        want[own] += mean**2
        close(squares, want, 1.0, count / 2)
    assert abs(np.mean(y * x[:, 0])) < 0.03, "no direction tells the classes apart"


def test_heavy_tails_are_students():
    """||x||^2 dof / (dof - 2) ~ F(d, dof), hence E ||x||^2 = 1."""
    x, y, _ = many("heavy_tailed", tail_dof=5.0)
    assert kstest((x**2).sum(1) * 5 / 3, f_law(8, 5).cdf).pvalue > LEVEL
    close(np.mean(y), 0.0, 1.0, len(y))


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9])
def test_correlation_dial_gives_the_stated_correlation(rho):
    """All pairs of samples, training and fresh, of either label."""
    x, y, x_test, _ = many_small("correlated", 3000, 4, 3, 30, correlation=rho)
    every = np.concatenate([x, x_test], axis=1)
    gram = every @ every.transpose(0, 2, 1)
    np.testing.assert_allclose(
        gram.mean(0), np.where(np.eye(7, dtype=bool), 1.0, rho), atol=5 * 0.5 / np.sqrt(3000)
    )
    close(np.mean(y[:, 0] * y[:, 1]), 0.0, 1.0, 3000)


def test_near_duplicates_are_alike_in_label_and_direction():
    x, y, _, y_test = many_small("near_duplicates", 3000, 5, 3, 30, correlation=0.8, copies=2.0)
    want = np.eye(5)
    want[:3, :3] += 0.8 * (1 - np.eye(3))
    gram = x @ x.transpose(0, 2, 1)
    np.testing.assert_allclose(gram.mean(0), want, atol=5 * 0.5 / np.sqrt(3000))
    assert (y[:, 0] == y[:, 1]).all()
    assert (y[:, 0] == y[:, 2]).all()
    close(np.mean(y[:, 0] * y[:, 3]), 0.0, 1.0, 3000)
    close(np.mean(y[:, 0] * y_test[:, 0]), 0.0, 1.0, 3000)


def test_power_law_has_its_spectrum():
    data = power_law(np.array([1, 2], np.uint32), 40000, 10, 6, 1.5)
    variance = np.arange(1.0, 7) ** -1.5
    covariance = data.x.T @ data.x / 40000
    np.testing.assert_allclose(covariance, np.diag(variance / variance.sum()), atol=0.01)
    assert data.x_test.shape == (10, 6)
    close(np.mean(data.y), 0.0, 1.0, 40000)


@pytest.mark.parametrize("rows", [40, 0])
def test_a_billion_dimensions_cost_what_a_thousand_do(rows):
    """Same shapes, same programs; and the law of large d: unit norms, phi of order d^(-1/2)."""
    keys, compiled = keys_of(0, 3), None
    for d in (1e3, 1e9):
        given = draw("isotropic", keys[0], 10, 50, int(d), rows=rows)
        weights = initial_weights(keys[1:], 20, given, 20, d, 0.03)
        problem = reduce_problem(given, weights, output_weights(20))
        gram = problem.x @ problem.x.T
        off = np.abs(gram - np.diag(np.diag(gram))).max()
        assert problem.x.shape == (10, 12)
        assert np.abs(np.diag(gram) - 1).max() <= 6 * np.sqrt(2 / d)
        assert 1 / np.sqrt(d) <= off <= 5 / np.sqrt(d)
        norms = np.sum(problem.initial_weights**2, -1) / 0.03**2
        assert np.abs(norms - 1).max() <= 6 * np.sqrt(2 / d)
        overlap = np.abs(problem.initial_weights[0] @ problem.initial_weights[0].T)
        assert np.diag(overlap).min() > 0
        assert np.std(problem.test_offset) == pytest.approx(0.03 / np.sqrt(d), rel=0.2)
        programs = numbers._normal.cache_info().currsize
        assert compiled in (None, programs)
        compiled = programs


@pytest.mark.parametrize("kind", [*OPTIONS])
@pytest.mark.parametrize("lead", [True, False])
def test_no_two_random_numbers_have_the_same_bits(kind, lead, monkeypatch):
    """The j-th number of a key is made of the same block of threefry as the key folded with j: each
    block serves once, for all that a problem with three layers is made of.
    """
    drawn, folds = [], set()

    def blocks(keys, count):
        return [(*map(int, key), j) for key in keys.reshape(-1, 2) for j in range(count)]

    def recording(name, count_of):
        plain = getattr(distributions, name)

        def recorded(keys, *rest):
            drawn.extend(blocks(keys, count_of(*rest)))
            return plain(keys, *rest)

        monkeypatch.setattr(distributions, name, recorded)

    def folded(keys, places):
        lanes = np.broadcast_shapes(keys.shape[:-1], np.shape(places))
        every = np.broadcast_to(keys, (*lanes, 2)).reshape(-1, 2).tolist()
        place_of = np.broadcast_to(places, lanes).ravel().tolist()
        folds.update((*key, place) for key, place in zip(every, place_of, strict=True))
        return numbers.folded(keys, places)

    def split(keys, count):
        return np.moveaxis(folded(keys[..., None, :], np.arange(count)), -2, 0)

    # Of a gamma and an integer the first two blocks, at least.
    for name, count_of in {
        "uniform": lambda: 1,
        "integers": lambda below: 2,
        "gamma": lambda shape: 2,
        "normal": lambda columns: columns,
    }.items():
        recording(name, count_of)
    monkeypatch.setattr(distributions, "folded", folded)
    monkeypatch.setattr(distributions, "split", split)
    keys = keys_of(0, 5)
    options = OPTIONS[kind] | ({"copies": 0.0} if kind == "near_duplicates" else {})  # labels alike
    given = draw(kind, keys[0], 3, 7, 40, rows=lead * 3 * 4, **options)
    initial_weights(keys[2:], 4, given, 4, 40.0, 1.0)
    distributions.initial_upper(keys[2:], 4, 2, 4, 1.0)
    assert len(drawn) == len(set(drawn)) > 100
    assert not folds & set(drawn)


@pytest.mark.parametrize("count", [0, 1, 5, 4097])
def test_numbers_are_those_of_the_keys(count):
    """However many are drawn together, each is what ``jax.random`` draws for its key."""
    words = keys_of(2, max(count, 1))[:count]
    some = range(0, count, max(1, count // 4))
    place, shape = np.arange(count) * 1000, np.linspace(0.3, 50.0, count)
    drawn = {
        "fold_in": (numbers.folded(words, place), lambda key, i: jax.random.fold_in(key, place[i])),
        "uniform": (numbers.uniform(words), lambda key, _: jax.random.uniform(key)),
        "randint": (numbers.integers(words, 7), lambda key, _: jax.random.randint(key, (), 0, 7)),
        "gamma": (numbers.gamma(words, shape), lambda key, i: jax.random.gamma(key, shape[i])),
        "normal": (numbers.normal(words, 37), lambda key, _: jax.random.normal(key, (37,))),
        "split": (
            np.moveaxis(numbers.split(words, 7), 0, 1),
            lambda key, _: jax.random.split(key, 7),
        ),
    }
    for name, (got, one) in drawn.items():
        assert len(got) == count, name
        for i in some:
            want = one(jax.random.wrap_key_data(jnp.asarray(words[i])), i)
            if jnp.issubdtype(want.dtype, jax.dtypes.prng_key):
                want = jax.random.key_data(want)
            # Compiled with others, a logarithm may be rounded differently.
            np.testing.assert_allclose(got[i], want, rtol=4e-15, err_msg=name)
    assert numbers.normal(words, 0).shape == (count, 0)


@pytest.mark.parametrize("kind", [*OPTIONS])
@pytest.mark.parametrize("small", [60.0, 11.0])
def test_lanes_change_no_number(kind, small):
    """Data sets of several sizes that are drawn together are those that are drawn alone, whether
    initial weights lead or fresh samples.
    """
    keys, m, d = keys_of(4, 3), np.array([3, 5, 4]), np.array([40.0, 40.0, small])
    law = (kind, 2 if kind == "clusters" else 0)
    room = (5, 6, 5 + law_of(*law)[1], 10)
    beyond, lead = numbers.folded(keys, 9), np.array([True, False, True])
    each = {name: np.full(3, value) for name, value in OPTIONS[kind].items()} | {"d": d}
    together = draw_law(keys, beyond, law, room, m, lead, each)
    init = keys_of(5, 6).reshape(3, 2, 2)
    n = np.array([3, 5, 4])
    weights = initial_weights(init, 5, together, n, d, np.array([0.1, 0.2, 0.3]))
    found = reduce_problem(together, weights, output_weights(5))
    for lane in range(3):
        numbers_of = {name: value[lane] for name, value in each.items()}
        alone = draw_law(keys[lane], beyond[lane], law, room, m[lane], lead[lane], numbers_of)
        start = initial_weights(init[lane], 5, alone, n[lane], d[lane], [0.1, 0.2, 0.3][lane])
        want = reduce_problem(alone, start, output_weights(5))
        for name in ("x", "y", "present", "x_test", "y_test", "initial_weights"):
            np.testing.assert_array_equal(getattr(found, name)[lane], getattr(want, name), name)
        np.testing.assert_allclose(
            found.test_offset[lane], want.test_offset, rtol=1e-13, atol=1e-16
        )


@pytest.mark.parametrize(
    ("kind", "m", "t", "d"),
    [
        ("gaussian_mixture", 4, 3, 30),
        ("gaussian_mixture", 5, 3, 3),
        ("isotropic", 4, 3, 30),
        ("isotropic", 5, 3, 3),
        ("gaussian_mixture", 4, 3, 9),
        ("explicit", 4, 3, 30),
        ("explicit", 5, 3, 3),
        ("clusters", 4, 3, 30),
        ("heavy_tailed", 4, 3, 30),
        ("near_duplicates", 4, 3, 30),
    ],
)
@pytest.mark.parametrize("lead", [True, False])
def test_room_changes_no_number(kind, m, t, d, lead):
    """Room for more samples, neurons and axes: what exists is the same to the bit, the rest 0."""
    keys = keys_of(1, 4)
    if kind == "explicit":
        tight, _, _, _ = explicit(m, t, d)
        axes = tight.data.x.shape[1] - tight.span
        wide = pad_coordinates(tight, m + 3, tight.span + 2, axes + 1)
    else:
        options = OPTIONS[kind]
        tight = draw(kind, keys[0], m, t, d, rows=lead * 18, **options)
        wide = draw(kind, keys[0], m, t, d, samples=m + 3, rows=lead * 18, **options)

    def problem_of(given, neurons):
        weights = initial_weights(keys[1:], neurons, given, 6, float(d), 0.5)
        return reduce_problem(given, weights, np.where(np.arange(neurons) < 6, 1.0, 0.0))

    a, b = problem_of(tight, 6), problem_of(wide, 9)
    r, width = tight.span, b.x.shape[1]
    used = np.r_[0:r, width - 3 : width]
    assert a.x.shape[0] < b.x.shape[0]
    np.testing.assert_array_equal(b.x[:m, used], a.x)
    np.testing.assert_array_equal(b.y[:m], a.y)
    np.testing.assert_array_equal(b.x_test[:, used], a.x_test)
    np.testing.assert_array_equal(b.y_test, a.y_test)
    np.testing.assert_array_equal(b.initial_weights[:, :6, :r], a.initial_weights[..., :r])
    np.testing.assert_allclose(b.initial_weights[:, :6, used], a.initial_weights, rtol=1e-13)
    np.testing.assert_allclose(b.test_offset[:, :6], a.test_offset, rtol=1e-12, atol=1e-15)
    assert b.present.tolist() == [True] * m + [False] * 3
    assert not b.x[m:].any()
    assert not b.x[:, r : width - 3].any()
    assert not b.initial_weights[:, 6:].any()
    assert not b.initial_weights[:, :, r : width - 3].any()
