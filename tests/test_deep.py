"""Models of higher homogeneity: gradients, multipliers and kinks against autodiff and SciPy."""

from functools import partial

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import trained_output_epsilon_by_cvxpy
from scipy.optimize import nnls

import gaunlearn
from gaunlearn.certificate import certify_at
from gaunlearn.data.distributions import initial_upper
from gaunlearn.deep import forward, layers_of, weighted_gradient
from gaunlearn.models import (
    SQUARED_RELU,
    active_pairs,
    deep_relu,
    logits,
    output_weights,
    preactivations,
    upper_columns,
)
from gaunlearn.sweep.spec import load_spec
from gaunlearn.sweep.verify import verify_run
from gaunlearn.theory import ascent_bound
from gaunlearn.training import bounded_gain

M, N, D = 6, 16, 10
EVERY = np.ones(M, bool)


def outputs(model, weights, u, x):
    return logits(model, preactivations(weights, x), u, weights)


def trained_a_little(model, seed, margin=0.5):
    """(weights, u, x, y) of a network that separates its samples, far from any KKT point."""
    rng = np.random.default_rng(seed)
    extra = upper_columns(model, N)
    x = np.pad(rng.normal(size=(M, D)) / np.sqrt(D), ((0, 0), (0, extra)))
    y = np.where(np.arange(M) % 2 == 0, 1.0, -1.0)
    u = np.asarray(output_weights(model, N))
    weights = np.concatenate(
        [rng.normal(size=(N, D)), rng.normal(size=(N, extra)) / np.sqrt(N)], axis=1
    )

    @jax.jit
    def step(weights):
        def loss(weights):
            return jnp.log(jnp.sum(jnp.logaddexp(0.0, -y * outputs(model, weights, u, x))))

        return weights - 0.1 * bounded_gain(2, jax.grad(loss)(weights))

    for _ in range(3000):
        weights = step(weights)
        if np.min(y * outputs(model, weights, u, x)) > margin:
            return np.asarray(weights), u, x, y
    raise AssertionError("does not separate")


@partial(jax.jit, static_argnums=0)
def certificate(model, weights, u, x, y, tol=0.0, delta=np.inf):
    return certify_at(model, weights, u, x, y, EVERY, jnp.asarray(tol), delta)


def jacobian(model, weights, u, x):
    found = jax.jacobian(lambda weights: outputs(model, weights, u, x))(jnp.asarray(weights))
    return np.asarray(found).reshape(len(x), -1)


MODELS = [SQUARED_RELU, deep_relu(2), deep_relu(3), deep_relu(4)]
each_model = pytest.mark.parametrize(
    "model", MODELS, ids=lambda model: f"{model.name}{model.hidden}"
)


@each_model
def test_homogeneous_of_the_stated_degree(model):
    weights, u, x, _ = trained_a_little(model, 0)
    degree = model.homogeneity
    scaled = outputs(model, 1.7 * weights, u, x)
    np.testing.assert_allclose(scaled, 1.7**degree * outputs(model, weights, u, x), rtol=1e-12)
    # Euler: <theta, grad N> = L N.
    slope = jacobian(model, weights, u, x) @ weights.ravel()
    np.testing.assert_allclose(slope, degree * outputs(model, weights, u, x), rtol=1e-11)


@each_model
def test_epsilon_is_that_of_nonnegative_least_squares_over_autodiff_gradients(model):
    for seed in range(2):
        weights, u, x, y = trained_a_little(model, seed)
        found = certificate(model, weights, u, x, y, 0.0)
        theta = np.asarray(found.weights)
        assert np.min(found.margins) == pytest.approx(1.0, abs=1e-12)
        gradients = y[:, None] * jacobian(model, theta, u, x)
        want, residual = nnls(gradients.T, theta.ravel())
        assert found.epsilon == pytest.approx(residual, rel=1e-10)
        np.testing.assert_allclose(found.multipliers, want, rtol=1e-6, atol=1e-9)
        assert found.gap <= 1e-12


@pytest.mark.parametrize("depth", [4, 6, 8])
def test_margins_of_deep_networks_are_not_taken_for_rounding_in_float32(depth):
    """Labels are the signs of the logits, which are right to 1e-6: such networks separate."""
    model, n = deep_relu(depth), 64
    rng = np.random.default_rng(depth)
    extra = upper_columns(model, n)
    x = np.pad(rng.normal(size=(M, D)) / np.sqrt(D), ((0, 0), (0, extra))).astype(np.float32)
    weights = rng.normal(size=(n, D + extra)) * np.sqrt(2 / n)
    weights = weights.astype(np.float32)
    u = np.asarray(output_weights(model, n), np.float32)
    labels = np.sign(outputs(model, weights, u, x)).astype(np.float32)
    found = certificate(model, weights, u, x, labels, np.float32(0.0))
    assert found.separated
    assert found.epsilon.dtype == np.float32


@each_model
def test_a_bound_on_the_multipliers_is_kept_and_costs_epsilon(model):
    weights, u, x, y = trained_a_little(model, 1)
    free = certificate(model, weights, u, x, y, 0.0)
    assert free.delta > 0
    half = certificate(model, weights, u, x, y, 0.0, free.delta / 2)
    assert half.delta <= free.delta / 2
    assert half.epsilon > free.epsilon
    theta = np.asarray(half.weights)
    gradients = y[:, None] * jacobian(model, theta, u, x)
    lam = cp.Variable(M, nonneg=True)
    ceiling = (free.delta / 2) / np.maximum(np.asarray(half.margins) - 1, 1e-9)
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(theta.ravel() - gradients.T @ lam)), [lam <= ceiling]
    )
    problem.solve(solver="CLARABEL")
    assert half.epsilon == pytest.approx(np.sqrt(problem.value), rel=1e-6)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_gradients_with_chosen_derivatives_are_backpropagation(depth):
    model = deep_relu(depth)
    weights, u, x, y = trained_a_little(model, 2)
    z = forward(model, weights, x)
    assert z.shape == (depth - 1, N, M)
    np.testing.assert_array_equal(active_pairs(model, weights, u, x), z > 0)
    got = weighted_gradient(model, weights, x, y, z, jnp.where(z > 0, 1.0, 0.0))
    want = (y @ jacobian(model, weights, u, x)).reshape(weights.shape)
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_kinks_below_trained_output_weights_against_a_quadratic_program():
    model, used = deep_relu(2), 0
    for seed in range(3):
        weights, u, x, y = trained_a_little(model, seed)
        tol = 0.1
        found = certificate(model, weights, u, x, y, tol)
        if not found.separated:
            continue
        used += 1
        theta = np.asarray(found.weights)
        kink = np.abs(theta[:, :-1] @ x[:, :-1].T) <= 1e-12
        assert kink.sum() == found.kink_pairs > 0
        assert found.epsilon == pytest.approx(
            trained_output_epsilon_by_cvxpy(theta[:, :-1], theta[:, -1], x[:, :-1], y, kink),
            rel=1e-6,
        )
    assert used


@pytest.mark.parametrize("depth", [2, 3])
def test_snapping_moves_every_layer_onto_its_kinks(depth):
    model = deep_relu(depth)
    weights, u, x, _ = trained_a_little(model, 3)
    found = layers_of(model, jnp.asarray(weights), u, x, EVERY, 0.1)
    counts = np.asarray(found.kink.sum(axis=(1, 2)))
    assert np.all(counts > 0)
    z = np.asarray(forward(model, found.weights, x))
    assert np.max(np.abs(z[np.asarray(found.kink)])) <= 1e-12
    np.testing.assert_array_equal(found.weights[:, -1], weights[:, -1])


def test_at_kinks_of_two_layers_no_other_derivatives_in_reach_are_better():
    """The residual is that of its own derivatives, and small changes of these do not lower it."""
    model = deep_relu(3)
    weights, u, x, y = trained_a_little(model, 4, margin=1.0)
    found = certificate(model, weights, u, x, y, 0.1)
    assert found.separated
    theta = jnp.asarray(found.weights)
    level = np.asarray(found.multipliers)
    share = np.where(level > 0, np.asarray(found.coefficients) / np.where(level > 0, level, 1), 0)
    layers = layers_of(model, theta, u, x, EVERY, 0.0)
    kink = np.asarray(layers.kink)
    assert kink.sum() == found.kink_pairs
    z = layers.z

    @jax.jit
    def residual(level, share):
        return jnp.linalg.norm(theta - weighted_gradient(model, theta, x, level * y, z, share))

    assert residual(level, share) == pytest.approx(float(found.epsilon), rel=1e-9)
    rng = np.random.default_rng(0)
    for _ in range(200):
        for place in range(2):
            size = 10.0 ** rng.uniform(-4, 0)
            other = share.copy()
            other[place] += size * rng.normal(size=share[place].shape) * kink[place]
            more = np.maximum(level + size * rng.normal(size=M), 0)
            assert residual(more, np.clip(other, 0, 1)) >= found.epsilon * (1 - 1e-3)


@each_model
def test_inherited_multipliers_fit_an_unchanged_model(model):
    """At step 0 the measured triple is that of the certificate, whatever the scale."""
    weights, u, x, y = trained_a_little(model, 5)
    found = certificate(model, weights, u, x, y, 0.0)
    retain = np.arange(M) != 0
    got = ascent_bound(
        model,
        found.weights,
        found.weights,
        found.multipliers,
        found.coefficients,
        u,
        x,
        y,
        ~retain,
        EVERY,
        jnp.asarray(1.0),
        0.1,
    )
    assert got.epsilon == pytest.approx(float(found.epsilon), rel=1e-9)
    assert got.sign_flips == 0
    assert np.isnan(got.bound_epsilon)


def test_initial_layers_do_not_depend_on_room_and_have_the_stated_scale():
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), 2)))
    small = initial_upper(keys, 5, 2, 5, 1.0)
    large = initial_upper(keys, 9, 2, 5, 1.0)
    assert large.shape == (2, 9, 19)
    for layer in range(2):
        np.testing.assert_array_equal(
            large[:, :5, 9 * layer : 9 * layer + 5], small[:, :, 5 * layer : 5 * layer + 5]
        )
    np.testing.assert_array_equal(large[:, :5, -1], small[:, :, -1])
    assert not np.any(large[:, 5:])
    assert not np.any(large[:, :, 5:9])
    many = initial_upper(keys, 200, 1, 200, 3.0)
    assert many[:, :, :200].std() == pytest.approx(3 * np.sqrt(2 / 200), rel=0.02)
    assert many[:, :, -1].std() == pytest.approx(3 / np.sqrt(200), rel=0.15)


SPEC = """# How do other architectures unlearn?
[sweep]
seeds = 2
[data]
kind = "gaussian_mixture"
m = 6
d = 300
alpha = 0.1
n_test = 20
[model]
kind = ["two_layer_squared_relu", "deep_relu"]
n = 16
depth = 3
upper_scale = 0.5
[train]
max_steps = 3000
step_size = 0.3
[forget]
index = [0]
[unlearn]
step_fraction = [0.0, 1.0]
[store]
weights = true
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep")
    (folder / "spec.toml").write_text(SPEC)
    return gaunlearn.run(folder / "spec.toml", folder / "run")


def test_a_sweep_of_architectures(run):
    frame = run.to_pandas()
    assert len(frame) == 8
    assert frame["separated_train"].all()
    assert set(frame["limit_status"]) == {"unsupported"}
    assert frame["tau_limit"].isna().all()
    assert frame["bound_epsilon"].isna().all()
    assert frame["assumptions_hold"].isna().all(), "nothing is assumed of these models"
    assert frame["eps_d"].isna().all()
    assert set(frame["depth"].dropna()) == {3}
    means = frame.groupby(["model_kind", "step_fraction"])["epsilon"].median()
    for kind in ("two_layer_squared_relu", "deep_relu"):
        assert means[kind, 1.0] < means[kind, 0.0], "the theorem's step helps"
    whole = frame[frame["step_fraction"] == 0]
    np.testing.assert_allclose(whole["margin_forget_unlearned"], whole["margin_forget_original"])


def test_verify_recomputes_it(run):
    """In batches and alone; by the reference, where it knows the model."""
    verdict = verify_run(run, any_version=True)
    assert not [d for d in verdict.differences if d.broken]
    assert verdict.trials[0] == 8
    assert verdict.trials[2] == 4


def test_its_networks_are_stored_and_have_its_certificates(run):
    """Training may switch a deep network off, on all samples; then it has no margins."""
    separated = 0
    for row in run.to_pandas().itertuples():
        nets = gaunlearn.networks(run, row.trial_id)
        got = gaunlearn.certify(
            nets.unlearned, nets.u, nets.x, nets.y, retain=nets.retain, power=nets.power
        )
        want = (row.epsilon, row.delta, row.tau)
        np.testing.assert_allclose((got.epsilon, got.delta, got.tau), want, rtol=1e-7, atol=1e-11)
        if row.model_kind == "deep_relu":
            values = nets.x.T
            for layer in nets.retrained[:-1]:
                values = np.maximum(layer @ values, 0)
            q = nets.y * (nets.retrained[-1] @ values)
            least = q[nets.retain].min()
            separated += least > 0
            want = q[0] / least if least > 0 else np.nan
            assert row.margin_forget_retrained == pytest.approx(want, rel=1e-9, nan_ok=True)
    assert separated


def random_layers(depth, n, d, seed):
    """Layers of a deep network, the samples that it is surest of, and the labels it gives them."""
    rng = np.random.default_rng(seed)
    layers = [rng.normal(size=(n, d)), *(rng.normal(size=(n, n)) for _ in range(depth - 2))]
    layers.append(rng.normal(size=n))
    x = rng.normal(size=(20 * M, d)) / np.sqrt(d)
    x = x[np.argsort(-np.abs(forward_by_hand(layers, x)[-1]))[:M]]
    return layers, x, np.sign(forward_by_hand(layers, x)[-1])


def forward_by_hand(layers, x):
    """Values of all layers, those of the samples first, the logits last."""
    values = [x.T]
    for layer in layers[:-1]:
        values.append(np.maximum(layer @ values[-1], 0))
    return [*values, layers[-1] @ values[-1]]


def gradient_by_hand(layers, x, factors, slopes):
    """Backpropagation: sum_i factor_i grad N(x_i), with the given derivatives of ReLU."""
    values = forward_by_hand(layers, x)[:-1]
    gradients = [values[-1] @ factors]
    signal = layers[-1][:, None] * factors
    for place in reversed(range(len(layers) - 1)):
        signal = signal * slopes[place]
        gradients.insert(0, signal @ values[place].T)
        signal = layers[place].T @ signal
    return gradients


@pytest.mark.parametrize(("depth", "n"), [(2, 5), (3, 9)])
@pytest.mark.parametrize("tolerance", [0.0, 0.1])
def test_certificates_of_layers_hold_by_numpy(depth, n, tolerance):
    """From its definition: margins, stationarity, complementarity, angle, slopes in [0, 1]."""
    layers, x, y = random_layers(depth, n, D, seed=depth)
    c = gaunlearn.certify(layers, None, x, y, retain=range(1, M), kink_tol=tolerance)
    assert c.separated
    q = y * forward_by_hand(c.weights, x)[-1]
    assert q[1:].min() == pytest.approx(1.0, abs=1e-9)
    assert c.multipliers[0] == 0
    share = c.coefficients / np.where(c.multipliers > 0, c.multipliers, 1.0)
    assert np.all((share > -1e-12) & (share < 1 + 1e-12))
    fitted = gradient_by_hand(c.weights, x, c.multipliers * y, share)
    left = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(c.weights, fitted, strict=True)))
    assert c.epsilon == pytest.approx(left, rel=1e-9)
    assert c.delta == pytest.approx(np.max(c.multipliers * (q - 1)), rel=1e-6, abs=1e-12)
    whole, moved = (np.concatenate([np.ravel(a) for a in each]) for each in (layers, c.weights))
    cosine = whole @ moved / np.linalg.norm(whole) / np.linalg.norm(moved)
    assert c.tau == pytest.approx(1 - cosine, abs=1e-12)
    assert (c.kink_pairs > 0) == (tolerance > 0)


def test_the_step_of_layers_is_along_the_gradient_by_numpy():
    """Without kinks: W_hat = W - f s lambda_r y_r grad N(x_r) at the normalised weights, where
    s^3 is the least margin of three layers.
    """
    layers, x, y = random_layers(3, 9, D, seed=3)
    c = gaunlearn.certify(layers, None, x, y, kink_tol=0.0)
    slopes = np.stack([values > 0 for values in forward_by_hand(layers, x)[1:-1]])
    factors = np.where(np.arange(M) == 2, c.multipliers * y, 0.0)
    direction = gradient_by_hand(c.weights, x, factors, slopes)
    scale = np.min(y * forward_by_hand(layers, x)[-1]) ** (1 / 3)
    got = gaunlearn.ascend(layers, None, x, y, 2, 0.7, kink_tol=0.0)
    assert any(np.abs(part).max() > 1e-3 for part in direction)
    for after, before, part in zip(got, layers, direction, strict=True):
        np.testing.assert_allclose(after, before - 0.7 * scale * part, rtol=1e-9, atol=1e-9)
    unchanged = gaunlearn.unlearn(layers, None, x, y, 2, "identity").W
    for after, before in zip(unchanged, layers, strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("depth", [2, 3])
def test_certificates_of_layers_do_not_know_scale_neurons_order_or_rotation(depth):
    layers, x, y = random_layers(depth, 5, D, seed=depth)
    c = gaunlearn.certify(layers, None, x, y)
    rng = np.random.default_rng(0)
    order, turn = rng.permutation(5), np.linalg.qr(rng.normal(size=(D, D)))[0]
    other = [layers[0][order] @ turn, *(a[order][:, order] for a in layers[1:-1])]
    other = [3.7 * layer for layer in (*other, layers[-1][order])]
    d = gaunlearn.certify(other, None, x @ turn, y)
    np.testing.assert_allclose(
        (c.epsilon, c.delta, c.tau), (d.epsilon, d.delta, d.tau), rtol=1e-7, atol=1e-12
    )


def test_squared_relu_is_certified_and_ascended_by_numpy():
    """Non-negative least squares over 2 u_j relu(z_ji) x_i, which has no kinks."""
    rng = np.random.default_rng(1)
    W, u = rng.normal(size=(7, D)), rng.normal(size=7)
    x = rng.normal(size=(M, D)) / np.sqrt(D)

    def logits_of(W):
        return u @ np.maximum(W @ x.T, 0) ** 2

    y = np.sign(logits_of(W))
    scale = np.sqrt(np.min(y * logits_of(W)))
    theta = W / scale
    active = 2 * u[:, None] * np.maximum(theta @ x.T, 0)
    gradients = (active[:, :, None] * (y[:, None] * x)).transpose(1, 0, 2)
    multipliers, residual = nnls(gradients.reshape(M, -1).T, theta.ravel())
    c = gaunlearn.certify(W, u, x, y, power=2)
    assert c.epsilon == pytest.approx(residual, rel=1e-9)
    np.testing.assert_allclose(c.multipliers, multipliers, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        theta - (u[:, None] * c.coefficients) @ (y[:, None] * x),
        theta - np.tensordot(multipliers, gradients, 1),
        atol=1e-7,
    )
    forgotten = int(np.argmax(multipliers))
    got = gaunlearn.ascend(W, u, x, y, forgotten, power=2)
    want = W - scale * multipliers[forgotten] * gradients[forgotten]
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-8)


def test_frontiers_of_layers_go_to_other_networks():
    layers, x, y = random_layers(3, 5, D, seed=3)
    retrained = gaunlearn.unlearn(layers, None, x, y, 2, "fine_tuning", steps=30).W
    retain = np.arange(M) != 2
    c = gaunlearn.certify(layers, None, x, y, retain=retain)
    frontier = c.frontier(towards={"tuned": retrained})
    end = gaunlearn.certify(retrained, None, x, y, retain=retain)
    assert set(frontier.path) == {"snapped", "tuned"}
    assert frontier.least_epsilon() <= min(c.epsilon, end.epsilon) * (1 + 1e-9)
    with pytest.raises(ValueError, match=r"towards\['a'\] must be a list of the 3 layers"):
        c.frontier(towards={"a": layers[:2]})


A, B, V = np.ones((5, D)), np.ones((5, 5)), np.ones(5)
SAMPLES = np.eye(2, D), [1, -1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaunlearn.certify([A, V], V, *SAMPLES), "u must be None where W is a list"),
        (lambda: gaunlearn.certify([A, B], None, *SAMPLES), r"W\[1\], the output weights, must"),
        (
            lambda: gaunlearn.certify([A, B[:3], V], None, *SAMPLES),
            r"W\[1\] must have shape \(5, 5",
        ),
        (
            lambda: gaunlearn.certify([A[:, 1:], V], None, *SAMPLES),
            r"W\[0\] must have shape \(n, 10",
        ),
        (lambda: gaunlearn.certify([A, np.inf * V], None, *SAMPLES), r"W\[1\] has NaN or infinite"),
        (lambda: gaunlearn.certify([A, *[B] * 8, V], None, *SAMPLES), "W must have 2 to 8 layers"),
        (lambda: gaunlearn.certify([A], None, *SAMPLES), "W must have 2 to 8 layers, not 1"),
        (lambda: gaunlearn.certify([A, V], None, *SAMPLES, leak=0.1), "leak must be 0 for a deep"),
        (lambda: gaunlearn.certify([A, V], None, *SAMPLES, power=2), "power must be 1 for a deep"),
        (lambda: gaunlearn.certify(A, V, *SAMPLES, power=3), "power must be 1 or 2, not 3"),
        (
            lambda: gaunlearn.certify(A, V, *SAMPLES, power=2, leak=0.1),
            "leak must be 0 where power",
        ),
        (lambda: gaunlearn.certify(A[0], None, *SAMPLES, power=2), "power is 2, but u is None"),
        (
            lambda: gaunlearn.find_limit([A, V], None, *SAMPLES),
            "limits are solved for in two-layer",
        ),
        (
            lambda: gaunlearn.unlearn([A, V], None, *SAMPLES, 0, "newton"),
            "method newton needs a model that is homogeneous of degree 1; this one's degree is 2",
        ),
    ],
)
def test_networks_that_there_are_not_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.end=limit", "its limit cannot be solved for"),
        ("unlearn.method=newton", "the method needs degree 1"),
        ("model.depth=1", "depth"),
    ],
)
def test_what_does_not_apply_is_refused(tmp_path, override, message):
    (tmp_path / "spec.toml").write_text(SPEC)
    with pytest.raises(ValueError, match=message):
        load_spec(tmp_path / "spec.toml", [override])
