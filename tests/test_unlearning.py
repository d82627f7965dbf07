"""Each method of unlearning has the property that defines it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import output_weights, separated_network

import gaunlearn
from gaunlearn import ladder, limit
from gaunlearn.certificate import one_minus_cosine
from gaunlearn.losses import LOSSES
from gaunlearn.models import LINEAR, RELU
from gaunlearn.unlearning import METHODS, Effort, Situation, estimated_multipliers
from gaunlearn.unlearning.solves import ridge_newton_step, solve_spd

LOGISTIC = LOSSES["logistic"]

certify = jax.jit(ladder.certify, static_argnums=0)
find_limit = jax.jit(limit.find_limit, static_argnums=0)


@partial(jax.jit, static_argnums=(0, 1, 2))
def unlearned(name, model, loss, given, effort):
    return METHODS[name](model, loss, given, effort)


def situation(model, weights, u, x, y, forget=0, retrained=None):
    """A model at weights of its own, which forgets one sample."""
    present = np.ones(len(y), bool)
    gone = np.arange(len(y)) == forget
    found = certify(model, weights, u, x, y, present, jnp.asarray([0.0, 1e-6]), jnp.asarray(1e-3))
    least = np.min(y * (u @ (weights @ x.T if model is LINEAR else np.maximum(weights @ x.T, 0))))
    return Situation(
        weights=jnp.asarray(weights),
        scale=jnp.asarray(least),
        certificate=found,
        u=jnp.asarray(u),
        x=jnp.asarray(x),
        y=jnp.asarray(y),
        order=jnp.asarray(np.where(gone, 1, 0)),
        retain=jnp.asarray(present & ~gone),
        retrained=jnp.asarray(weights if retrained is None else retrained),
        retraining_steps=jnp.asarray(7),
        kink_tols=jnp.asarray([0.0, 1e-6]),
        tau_budget=jnp.asarray(1e-3),
    )


def at_limit(seed, model=RELU, n=12, m=5, d=30, scale=20.0, correlation=0.0):
    """A situation at an exact KKT point, scaled up as after long training."""
    rng = np.random.default_rng(seed)
    W, u, x, y = separated_network(rng, n, m, d, correlation)
    if model is LINEAR:
        u = np.ones(1)
        W = np.linalg.lstsq(x, y, rcond=None)[0][None]
    found = find_limit(model, W, u, x, y, np.ones(m, bool))
    assert np.isfinite(found.epsilon)
    return situation(model, np.asarray(found.weights) * scale, u, x, y)


def effort(step_fraction=1.0, steps=10, step_size=0.1):
    return Effort(jnp.asarray(step_fraction), jnp.asarray(steps), jnp.asarray(step_size))


def apply(name, given, model=RELU, loss=LOGISTIC, **kwargs):
    found = unlearned(name, model, loss, given, effort(**kwargs))
    return np.asarray(found.weights), float(found.gradients)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_step_fraction_0_changes_nothing_where_it_is_a_dial(name):
    given = at_limit(0)
    got, _ = apply(name, given, step_fraction=0.0)
    assert got.shape == given.weights.shape
    assert np.isfinite(got).all()
    if name in {"gradient_difference", "limit_polishing", "retraining"}:
        return  # f = 0: descent on the retain set; the limit from the trained model; retraining
    np.testing.assert_allclose(got, given.weights, rtol=1e-14)


def test_costs_by_hand():
    """m = 5 samples, 4 of them retained, 10 steps, 7 steps of retraining."""
    given = at_limit(0)
    costs = {name: apply(name, given)[1] for name in METHODS}
    polishing = costs.pop("limit_polishing")
    assert costs == {
        "identity": 0,
        "ascent": 5,
        "estimated_ascent": 1 + 0.5 * 4,
        "repeated_ascent": 5 + 10,
        "sequential_ascent": 5,
        "gradient_difference": 50,
        "fine_tuning": 40,
        "random_labels": 50,
        "newton": 4,
        "corrected_ascent": 5,
        "retraining": 28,
    }
    assert polishing >= 5 + 4


def orthogonal(n=8, m=4, seed=0):
    """Orthonormal samples: the KKT point by hand. Each neuron sees one sample only at a time."""
    u, x = output_weights(n), np.eye(m, m + 2)
    y = np.where(np.arange(m) % 2 == 0, 1.0, -1.0)
    # theta_j = u_j lambda sum over samples with y_i u_j > 0 of y_i x_i; margins are
    # lambda sum_{same sign} u_j^2 = lambda / 2 for alternating u of norm 1.
    same = np.sign(u)[:, None] * y > 0
    W = 2.0 * (u[:, None] * same * y) @ x
    return situation(RELU, W, u, x, y)


def test_ascent_is_exact_on_orthogonal_data():
    """What remains is the KKT point of the retain set, and so is it with every exact variant."""
    given = orthogonal()
    x, y = np.asarray(given.x), np.asarray(given.y)
    want = np.asarray(given.weights).copy()
    want[:, 0] = 0.0  # the forgotten sample's direction is gone
    for name in ("ascent", "repeated_ascent", "corrected_ascent", "estimated_ascent"):
        got, _ = apply(name, given)
        np.testing.assert_allclose(got, want, atol=1e-12, err_msg=name)
    after = certify(RELU, want, given.u, x, y, given.retain, jnp.asarray([0.0]), jnp.asarray(1e-3))
    assert after.epsilon < 1e-12
    assert after.delta < 1e-12


def test_estimated_multipliers_are_exact_at_a_scaled_kkt_point_of_equal_margins():
    """All samples on the margin and equal multipliers, by symmetry of orthogonal samples: 2."""
    given = orthogonal()
    for scale in (1.0, 30.0):
        scaled = given._replace(weights=given.weights * scale, scale=given.scale * scale)
        for loss in LOSSES.values():
            got = estimated_multipliers(RELU, loss, scaled)
            np.testing.assert_allclose(got, 2.0, rtol=1e-12)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_a_sequence_of_requests_is_forgotten_one_by_one(fraction):
    """By hand, through ``certify``: sample 3, then sample 1 with what is left of the model; and on
    orthogonal data, where samples do not meet, it is the batch's step.
    """
    given = at_limit(1, m=6)
    order = np.array([0, 2, 0, 1, 0, 0])
    two = given._replace(order=jnp.asarray(order), retain=jnp.asarray(order == 0))
    got, cost = apply("sequential_ascent", two, step_fraction=fraction)
    weights, u, x, y = (np.asarray(a) for a in (given.weights, given.u, given.x, given.y))
    for sample, left in ((3, np.ones(6, bool)), (1, np.arange(6) != 3)):
        found = certify(RELU, weights, u, x, y, left, given.kink_tols, given.tau_budget)
        least = np.min((y * (u @ np.maximum(weights @ x.T, 0)))[left])
        row = np.asarray(found.coefficients)[:, sample]
        weights = weights - fraction * least * np.outer(u * row, y[sample] * x[sample])
    np.testing.assert_allclose(got, weights, rtol=1e-10, atol=1e-12)
    assert cost == 2 * 6
    given = orthogonal()
    order = jnp.asarray([2, 0, 1, 0])
    two = given._replace(order=order, retain=order == 0)
    one_by_one, _ = apply("sequential_ascent", two, step_fraction=fraction)
    batch, _ = apply("ascent", two, step_fraction=fraction)
    np.testing.assert_allclose(one_by_one, batch, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_repeated_ascent_tends_to_one_step_where_no_sign_changes(seed):
    """Along one ray with a frozen pattern, many steps are one."""
    given = at_limit(seed, LINEAR)
    one, _ = apply("ascent", given, LINEAR)
    many, _ = apply("repeated_ascent", given, LINEAR, steps=13)
    np.testing.assert_allclose(many, one, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_corrected_ascent_finds_the_max_margin_solution_without_the_sample(seed):
    """Linear model, all samples support vectors of both problems: by hand lambda solves K lambda
    = 1, w = sum lambda_i y_i x_i; ascent alone misses it.
    """
    rng = np.random.default_rng(seed)
    m, d = 5, 60
    x = rng.normal(size=(m, d)) / np.sqrt(d)
    y = np.where(np.arange(m) % 2 == 0, 1.0, -1.0)
    signed = y[:, None] * x
    w = np.linalg.solve(signed @ signed.T, np.ones(m)) @ signed
    rest = signed[1:]
    lam = np.linalg.solve(rest @ rest.T, np.ones(m - 1))
    assert (lam > 0).all()
    given = situation(LINEAR, w[None] * 15, np.ones(1), x, y)
    got, _ = apply("corrected_ascent", given, LINEAR)
    np.testing.assert_allclose(got[0] / 15, lam @ rest, rtol=1e-9, atol=1e-11)
    ascended, _ = apply("ascent", given, LINEAR)
    assert np.abs(ascended[0] / 15 - lam @ rest).max() > 1e-3


def test_corrected_ascent_reaches_the_retain_limit_where_the_cell_stays():
    """ReLU with kinks, at the limit: where the retain set's limit has the same signs, kinks and
    support it is that; elsewhere a better KKT point than ascent alone.
    """
    same_cells = better = 0
    for seed in range(8):
        given = at_limit(seed, d=200)
        got, _ = apply("corrected_ascent", given)
        ascended, _ = apply("ascent", given)
        x, u, retain = given.x, given.u, np.asarray(given.retain)
        retained = find_limit(RELU, got, u, x, given.y, given.retain)

        def cell(point, x=x, retain=retain):
            z = np.asarray(point.weights) @ np.asarray(x).T
            signs = np.where(np.abs(z) < 1e-9, 0, np.sign(z))[:, retain]
            return signs.tolist(), (np.asarray(point.multipliers)[retain] > 0).tolist()

        if cell(given.certificate) == cell(retained):
            same_cells += 1
            want = np.asarray(retained.weights)
            np.testing.assert_allclose(
                got / np.linalg.norm(got), want / np.linalg.norm(want), atol=1e-9
            )
        tols, budget = jnp.asarray([0.0, 1e-9, 1e-3, 1e-2]), jnp.asarray(1e-3)
        epsilons = [
            float(certify(RELU, w, u, x, given.y, given.retain, tols, budget).epsilon)
            for w in (got, ascended)
        ]
        better += epsilons[0] <= epsilons[1] + 1e-9
    assert same_cells >= 2
    assert better >= 7


def test_newton_is_exact_for_ridge_regression():
    """Quadratic f_i: one step from anywhere is the minimiser, here from the normal equations."""
    rng = np.random.default_rng(0)
    m, d, ridge = 7, 4, 0.3
    V, target, w = rng.normal(size=(m, d)), rng.normal(size=m), rng.normal(size=d)
    curvature = rng.uniform(0.5, 2.0, m)
    curvature[2] = 0.0  # the removed sample
    gradient = ridge * w + V.T @ (curvature * (V @ w - target))
    b = ridge_newton_step(
        jnp.asarray(V @ V.T), jnp.asarray(V @ gradient), jnp.asarray(curvature), jnp.asarray(ridge)
    )
    got = w - gradient / ridge + V.T @ np.asarray(b)
    want = np.linalg.solve(
        ridge * np.eye(d) + V.T @ (curvature[:, None] * V), V.T @ (curvature * target)
    )
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_newton_is_the_step_of_the_whole_hessian():
    """Against derivatives of the ridge loss by JAX in all n d weights."""
    W, u, x, y = separated_network(np.random.default_rng(1), 4, 4, 6)
    given = situation(RELU, 3 * W, u, x, y)
    x, y, u = given.x, given.y, given.u
    W = np.asarray(given.weights)
    q = np.asarray(y * (u @ np.maximum(W @ np.asarray(x).T, 0)))
    total = np.log1p(np.exp(-q)).sum()
    p = 1 / (1 + np.exp(q)) / total
    ridge = (p * q).sum() / (W**2).sum()

    def objective(flat):
        weights = flat.reshape(W.shape)
        z = jnp.maximum(weights @ x.T, 0)
        losses = jnp.log1p(jnp.exp(-y * (u @ z)))
        return 0.5 * ridge * jnp.sum(flat**2) + jnp.sum(jnp.where(given.retain, losses, 0)) / total

    flat = jnp.asarray(W.ravel())
    # At kinks JAX's derivative of max(z, 0) is 1/2: keep away from them.
    assert np.abs(W @ np.asarray(x).T).min() > 1e-9
    step = -np.linalg.solve(jax.hessian(objective)(flat), jax.grad(objective)(flat))
    got, _ = apply("newton", given)
    np.testing.assert_allclose(got - W, step.reshape(W.shape), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("singular", [False, True])
def test_solve_spd_against_numpy(singular):
    rng = np.random.default_rng(3)
    A = rng.normal(size=(9, 6 if singular else 20))
    K, want = A @ A.T, rng.normal(size=9)
    right = K @ want
    got = np.asarray(solve_spd(jnp.asarray(K), jnp.asarray(right)))
    np.testing.assert_allclose(K @ got, right, rtol=1e-11, atol=1e-12)
    # Of a singular matrix rounding leaves some of the null space in the solution.
    np.testing.assert_allclose(got, np.linalg.pinv(K) @ right, rtol=1e-6 if singular else 1e-10)


def loss_of(given, weights, keep, flip=False):
    q = np.asarray(given.y) * (np.asarray(given.u) @ np.maximum(weights @ np.asarray(given.x).T, 0))
    q = np.where(np.asarray(given.forget) & flip, -q, q)
    return np.log1p(np.exp(-q))[np.asarray(keep)].sum()


def test_descent_methods_descend_on_what_they_say():
    given = at_limit(2, scale=2.0, correlation=0.5)
    W = np.asarray(given.weights)
    before_retain = loss_of(given, W, given.retain)
    before_forget = loss_of(given, W, given.forget)
    tuned, _ = apply("fine_tuning", given, step_size=0.05)
    assert loss_of(given, tuned, given.retain) < before_retain
    relabelled, _ = apply("random_labels", given, step_size=0.05)
    flipped = loss_of(given, W, given.present, flip=True)
    assert loss_of(given, relabelled, given.present, flip=True) < flipped
    apart, _ = apply("gradient_difference", given, step_size=0.05)
    assert loss_of(given, apart, given.forget) > before_forget
    difference = before_retain - before_forget
    got = loss_of(given, apart, given.retain) - loss_of(given, apart, given.forget)
    assert got < difference


def test_one_step_of_fine_tuning_by_hand():
    """W + f eta sum_R p_i y_i u_j 1[z > 0] x_i, p_i = -l'(q_i) / L."""
    given = at_limit(3)
    x, y, u = map(np.asarray, (given.x, given.y, given.u))
    W, retain = np.asarray(given.weights), np.asarray(given.retain)
    z = W @ x.T
    q = y * (u @ np.maximum(z, 0))
    p = np.where(retain, 1 / (1 + np.exp(q)), 0) / np.log1p(np.exp(-q))[retain].sum()
    want = W + 0.5 * 0.1 * (u[:, None] * (z > 1e-9) * p * y) @ x  # at kinks z is rounding
    got, _ = apply("fine_tuning", given, step_fraction=0.5, steps=1)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_limit_polishing_is_the_retain_limit_at_the_old_norm():
    given = at_limit(4)
    got, _ = apply("limit_polishing", given)
    assert np.linalg.norm(got) == pytest.approx(np.linalg.norm(given.weights), rel=1e-12)
    after = certify(
        RELU, got, given.u, given.x, given.y, given.retain, jnp.asarray([1e-9]), jnp.asarray(1e-3)
    )
    assert after.epsilon < 1e-10
    ascended, _ = apply("ascent", given)
    retained = find_limit(RELU, ascended, given.u, given.x, given.y, given.retain)
    assert one_minus_cosine(got, retained.weights) < 1e-28


def test_retraining_is_the_retrained_model():
    given = at_limit(5)
    other = np.asarray(given.weights) + 1.0
    got, _ = apply("retraining", given._replace(retrained=jnp.asarray(other)))
    assert (got == other).all()


def separated(seed=0):
    rng = np.random.default_rng(seed)
    W, u, x, y = separated_network(rng, 10, 5, 40)
    return find_limit_weights(W, u, x, y), u, x, y


def find_limit_weights(W, u, x, y):
    """Weights near the limit, with a part outside the samples' span."""
    outside = np.random.default_rng(9).normal(size=W.shape)
    outside -= outside @ np.linalg.pinv(x) @ x
    return 5 * gaunlearn.find_limit(W, u, x, y).W + 0.01 * outside


def test_api_agrees_with_ascend_and_find_limit():
    W, u, x, y = separated()
    got = gaunlearn.unlearn(W, u, x, y, 2, "ascent", step_fraction=0.7)
    np.testing.assert_allclose(got.W, gaunlearn.ascend(W, u, x, y, 2, 0.7), atol=1e-12)
    polished = gaunlearn.unlearn(W, u, x, y, [1, 2], "limit_polishing").W
    retain = ~np.isin(np.arange(5), [1, 2])
    ascended = gaunlearn.ascend(W, u, x, y, [1, 2])
    want = gaunlearn.find_limit(ascended, u, x, y, retain=retain).W
    scale = np.linalg.norm(W) / np.linalg.norm(want)
    np.testing.assert_allclose(polished, scale * want, atol=1e-10)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"retraining"}))
def test_methods_do_not_depend_on_the_coordinates(method):
    """Rotating the data rotates the result; permuting samples and neurons permutes it."""
    W, u, x, y = separated(1)
    rng = np.random.default_rng(2)
    Q = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    rows, neurons = rng.permutation(5), rng.permutation(10)
    settings = {"steps": 5, "learning_rate": 0.05, "step_fraction": 0.8}
    got = gaunlearn.unlearn(W, u, x, y, [0, 3], method, **settings)
    gone = np.isin(np.arange(5), [0, 3])
    other = gaunlearn.unlearn(
        W[neurons] @ Q, u[neurons], (x @ Q)[rows], y[rows], gone[rows], method, **settings
    )
    np.testing.assert_allclose(other.W @ Q.T, got.W[neurons], rtol=1e-8, atol=1e-9)
    assert other.gradients == got.gradients


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "retraining"}, "method must be one of ascent, .*, not 'retraining'"),
        ({"method": ["ascent"]}, "method must be one of"),
        ({"loss": "hinge"}, "loss must be one of exponential, logistic, not 'hinge'"),
        ({"steps": 0}, "steps must be a whole number, 1 or more, not 0"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"step_fraction": float("nan")}, "step_fraction must be a finite number, 0 or more"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number, 0 or more, not -1.0"),
        ({"forget": 9}, "forget"),
        ({"W": np.zeros((10, 40))}, "does not separate"),
    ],
)
def test_unlearn_says_what_is_wrong(change, message):
    W, u, x, y = separated()
    arguments = {"W": W, "u": u, "x": x, "y": y, "forget": 0, "method": "ascent"} | change
    with pytest.raises(ValueError, match=message):
        gaunlearn.unlearn(**arguments)
