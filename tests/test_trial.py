"""The whole trial: the reduction against d dimensions, the bound, and the regimes of the design."""

import numpy as np
import pytest
from cases import lift, output_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import plain_descent

import gaunlearn
from gaunlearn.cli import main
from gaunlearn.data.distributions import initial_weights
from gaunlearn.data.reduction import rotate
from gaunlearn.models import MODELS
from gaunlearn.sweep.identity import key_words, section_digest
from gaunlearn.sweep.plan import families_of
from gaunlearn.sweep.spec import load_spec
from gaunlearn.theory import data_conditions, largest_phi
from gaunlearn.types import Dataset


def cells_of(text, folder):
    """Run a specification's text and return the columns of each combination of its axes."""
    path = folder / "spec.toml"
    path.write_text(text)
    run = gaunlearn.run(path, folder / "run", fresh=True)
    frame = run.to_pandas()
    swept = run.manifest["swept"]
    groups = [group for _, group in frame.groupby(swept)] if swept else [frame]
    return [{name: group[name].to_numpy() for name in group} for group in groups]


def rows_of(text, folder):
    """As ``cells_of`` for a specification with one combination."""
    (rows,) = cells_of(text, folder)
    return rows


def test_reduced_trial_equals_the_one_in_d_dimensions(tmp_path):
    """Train, ascend, retrain in d dimensions with NumPy and the public functions; compare rows.

    Initial weights are far from small, so that what lies outside the span matters.
    """
    rng = np.random.default_rng(3)
    m, d, n = 6, 30, 16
    x, y = rng.normal(size=(m, d)) / np.sqrt(d), np.where(np.arange(m) % 2 == 0, 1.0, -1.0)
    x_test, y_test = rng.normal(size=(50, d)) / np.sqrt(d), rng.choice([-1.0, 1.0], 50)
    np.savez(tmp_path / "mine.npz", x=x, y=y, x_test=x_test, y_test=y_test)
    rows = rows_of(
        """
        [data]
        kind = "file"
        path = "mine.npz"
        [model]
        kind = "two_layer_relu"
        n = 16
        init_scale = 0.5
        [train]
        max_steps = 400
        step_size = 0.1
        [retrain]
        init = "same"
        [forget]
        index = [1, 4]
        [unlearn]
        step_fraction = [0.0, 1.0, 1.3]
        """,
        tmp_path,
    )
    family = next(families_of(load_spec(tmp_path / "spec.toml")))
    content = section_digest(family.model, tmp_path)
    words = np.stack([key_words(f"init {which}", content, 0) for which in range(3)])
    given, basis = rotate(Dataset(x, y, x_test, y_test))
    weights = initial_weights(words, n, given, n, d, 0.5)
    starts = lift(weights, basis, rng)
    u, everything = output_weights(n), np.ones(m, bool)
    W = plain_descent(starts[0], u, x, y, everything, 0.1, 400)

    def logits(weights, features):
        return u @ np.maximum(weights @ features.T, 0)

    trained = gaunlearn.certify(W, u, x, y)
    budgets: dict = {"deltas": [0.1, 0.01], "taus": [0.01, 0.001]}
    frontiers = []
    place = 0
    for forget in (1, 4):
        retain = np.arange(m) != forget
        again = plain_descent(starts[0], u, x, y, retain, 0.1, 400)
        fresh = plain_descent(starts[1], u, x, y, retain, 0.1, 400)
        reference = gaunlearn.certify(again, u, x, y, retain=retain)
        for fraction in (0.0, 1.0, 1.3):
            W_hat = gaunlearn.ascend(W, u, x, y, forget, fraction)
            got = {name: column[place] for name, column in rows.items()}
            place += 1
            after = gaunlearn.certify(W_hat, u, x, y, retain=retain)
            frontiers.append((got, after.frontier(**budgets, towards={"retrained": again})))
            q = y * logits(W_hat, x)
            q_fresh = y_test * logits(W_hat, x_test)
            angle = np.sum(W_hat * reference.weights) / (
                np.linalg.norm(W_hat) * np.linalg.norm(reference.weights)
            )
            floor = np.sum(again * fresh) / np.linalg.norm(again) / np.linalg.norm(fresh)
            want = {
                "forget_index": forget,
                "step_fraction": fraction,
                "epsilon_train": trained.epsilon,
                "delta_train": trained.delta,
                "lambda_forget": trained.multipliers[forget],
                "epsilon": after.epsilon,
                "delta": after.delta,
                "tau": after.tau,
                "epsilon_retrain": reference.epsilon,
                "delta_retrain": reference.delta,
                "tau_retrain": 1 - angle,
                "tau_retrain_floor": 1 - floor,
                "margin_forget_unlearned": q[forget] / q[retain].min(),
                "accuracy_unlearned": np.mean(q_fresh > 0),
                "accuracy_retrained": np.mean(y_test * logits(again, x_test) > 0),
                "membership_unlearned": np.mean(q_fresh < q[forget]),
                "disagreement": np.mean(
                    np.sign(logits(W_hat, x_test)) != np.sign(logits(again, x_test))
                ),
                "phi": np.max(np.abs(x @ x.T - np.diag(np.sum(x**2, 1)))),
                "psi": np.max(np.abs(np.sum(x**2, 1) - 1)),
            }
            for name, value in want.items():
                assert got[name] == pytest.approx(value, rel=1e-8, abs=1e-9), name
    equal = 0
    for got, frontier in frontiers:
        for a in (1, 2):
            for b in (2, 3):
                found = got[f"epsilon_delta{a}_tau{b}"]
                least = frontier.least_epsilon(10.0**-a, 10.0**-b)
                # A sweep does not bound the multipliers of every rung.
                assert found >= least * (1 - 1e-6) - 1e-9
                equal += found <= least * (1 + 1e-6) + 1e-9
    assert equal >= 18, "of 24"


def test_data_conditions_by_hand():
    x = np.array([[1.0, 0.0], [0.6, 0.9]])
    u, present = output_weights(5), np.ones(2, bool)
    relu = data_conditions(MODELS["two_layer_relu"], u, x, present)
    assert (relu.psi, relu.phi, relu.eps_d) == pytest.approx((0.17, 0.6, 4 * 2 * 5 * 0.6))
    linear = data_conditions(MODELS["linear"], np.ones(1), x, present)
    assert linear.eps_d == pytest.approx(4 * 2 * 0.6)
    room = data_conditions(
        MODELS["two_layer_relu"],
        np.append(u, [0.0, 0.0]),
        np.vstack([x, np.zeros((1, 2))]),
        np.array([True, True, False]),
    )
    assert tuple(room) == tuple(relu), "room for more changes nothing"


@pytest.mark.parametrize("model", ['kind = "linear"', 'kind = "two_layer_relu"\nn = 40'])
def test_bound_holds_wherever_it_is_stated(tmp_path, model):
    """On every trial without sign flips, for every step fraction; and it is stated somewhere."""
    text = f"""
        [sweep]
        seeds = 3
        [data]
        kind = ["gaussian_mixture", "isotropic"]
        alpha = 0.1
        m = 6
        d = 400
        n_test = 0
        [model]
        {model}
        [train]
        max_steps = 500
        [unlearn]
        step_fraction = [0.0, 0.3, 0.8, 1.0, 1.2]
        """
    for rows in cells_of(text, tmp_path):
        stated = np.isfinite(rows["bound_epsilon"])
        assert stated.any()
        assert np.all(rows["sign_flips"][stated] == 0)
        slack = 1e-9
        assert np.all(rows["epsilon_inherited"][stated] <= rows["bound_epsilon"][stated] + slack)
        assert np.all(rows["epsilon"][stated] <= rows["epsilon_inherited"][stated] + slack)
        assert np.all(rows["delta_inherited"][stated] <= rows["bound_delta"][stated] + slack)
        full = stated & (rows["step_fraction"] == 1) & (rows["kink_pairs_train"] == 0)
        if "linear" in model:
            s = 1 - rows["epsilon_train"][full] / rows["bound_epsilon"][full]
            assert full.any()
            assert np.all((s >= 0) & (s < 1)), "for f = 1 the bound is epsilon_1 / (1 - s)"


@pytest.mark.parametrize("model", ['kind = "linear"', 'kind = "two_layer_relu"\nn = 40'])
def test_what_is_guaranteed_comes_true(tmp_path, model):
    """Where phi is small enough and no sign flips, epsilon is at most 0.1; and somewhere it is."""
    rows = rows_of(
        f"""
        [sweep]
        seeds = 3
        [data]
        kind = "isotropic"
        m = 6
        d = 1_000_000
        [model]
        {model}
        [train]
        max_steps = 2000
        [unlearn]
        step_fraction = [0.9, 1.0, 1.1]
        """,
        tmp_path,
    )
    held = rows["assumptions_hold"]
    assert held.any()
    assert np.all(rows["epsilon_inherited"][held] <= 0.1)
    assert np.all(rows["phi"][held] <= rows["phi_guarantee"][held])
    assert rows["nearly_orthogonal"].all()


@settings(deadline=None)
@given(
    st.integers(2, 30),
    st.floats(0.0, 0.3),
    st.floats(1e-4, 0.05),
    st.floats(0.0, 0.5),
    st.floats(0.1, 1.0),
)
def test_the_largest_phi_meets_the_bound_with_equality(m, psi, epsilon_1, delta_1, share):
    """The bound with the largest multipliers that phi allows is the target, exactly."""
    target, k = 0.1, 1
    phi = float(largest_phi(m, k, psi, epsilon_1, delta_1, share, 0.0, 1.0, target))
    c = 1 + delta_1 + epsilon_1 * np.sqrt(1 + psi)
    largest = c / (share * (1 - psi) - (m - 1) * phi)
    assert largest > 0
    assert epsilon_1 / (1 - k * phi * largest) == pytest.approx(target, rel=1e-6)


def test_nothing_is_guaranteed_by_a_model_that_is_no_better_than_the_target():
    assert np.isnan(largest_phi(5, 1, 0.0, 0.1, 0.0, 1.0, 0.0, 1.0, 0.1))
    assert np.isnan(largest_phi(5, 1, 0.0, 0.01, 0.0, 1.0, 0.2, 1.0, 0.1))
    assert np.isnan(largest_phi(5, 1, 1.0, 0.01, 0.0, 1.0, 0.0, 1.0, 0.1))
    # Two samples, an exact KKT point: s = phi / (1 - phi) < 1 up to phi = 1/2.
    assert largest_phi(2, 1, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.1) == 0.5


def by_step(rows, column):
    return {
        f: np.median(rows[column][rows["step_fraction"] == f])
        for f in np.unique(rows["step_fraction"])
    }


def test_mixtures_show_the_v_and_isotropic_data_only_with_kinks(tmp_path):
    text = """
        [sweep]
        seeds = [7, 8, 101]
        zip = [["data.kind", "train.max_steps"]]
        [data]
        kind = ["gaussian_mixture", "isotropic"]
        m = 10
        d = 1000
        alpha = 0.1
        n_test = 0
        [model]
        kind = "two_layer_relu"
        n = 100
        [train]
        max_steps = [5000, 10_000]
        [evaluate]
        kinks = ["handled", "ignored"]
        [forget]
        index = [0, 3, 6]
        [unlearn]
        step_fraction = [0.0, 0.4, 0.8, 1.0, 1.2, 1.6, 2.0]
        """
    mixture, _, rows, ignored = cells_of(text, tmp_path)
    assert set(mixture["data_kind"]) == {"gaussian_mixture"}
    assert set(ignored["kinks"]) == {"ignored"}
    epsilon = by_step(mixture, "epsilon")
    assert np.median(mixture["epsilon_train"]) <= 1e-3
    assert 0.7 <= epsilon[0.0] <= 1.2
    assert epsilon[1.0] <= 2e-3
    values = np.array(list(epsilon.values()))
    assert np.all(np.diff(values[:4]) < 0)
    assert np.all(np.diff(values[3:]) > 0)
    tau = by_step(mixture, "tau_retrain")
    assert min(tau, key=tau.get) == 1.0
    at_tip = mixture["step_fraction"] == 1.0
    gap = mixture["margin_forget_unlearned"] - mixture["margin_forget_retrained"]
    assert np.median(np.abs(gap[at_tip])) <= 0.05
    assert np.all(mixture["separated"])

    assert np.all(rows["epsilon_train"] <= 0.05)
    assert np.all(rows["tau_train"] <= 1e-7)
    assert np.all(ignored["epsilon_train"] >= 0.3)
    epsilon, blind = by_step(rows, "epsilon"), by_step(ignored, "epsilon")
    assert epsilon[0.0] > 1.0
    assert 0.02 <= epsilon[1.0] <= 0.3
    assert 0.2 <= epsilon[0.8] <= 0.5
    assert 0.2 <= epsilon[1.2] <= 0.5
    assert np.all(rows["tau"] <= 1e-3)
    assert blind[1.0] > 0.5 * blind[0.0]


def test_longer_training_has_a_smaller_epsilon(tmp_path):
    """At kinks as elsewhere, once they are handled."""
    found = [
        rows_of(
            f"""
            [data]
            kind = "isotropic"
            m = 6
            d = 300
            [model]
            kind = "two_layer_relu"
            n = 40
            [train]
            max_steps = {steps}
            """,
            tmp_path,
        )["epsilon_train"][0]
        for steps in (300, 3000, 30_000)
    ]
    assert found[1] < 0.3 * found[0]
    assert found[2] < 0.3 * found[1]


def test_trial_that_is_not_separated_is_a_row_that_says_so(tmp_path):
    """Isotropic data with m = 3 d cannot be separated by a linear model."""
    rows = rows_of(
        """
        [data]
        kind = "isotropic"
        m = 12
        d = 4
        n_test = 10
        [model]
        kind = "linear"
        [train]
        max_steps = 200
        [forget]
        index = 0
        """,
        tmp_path,
    )
    assert not rows["separated"].any()
    assert not rows["separated_train"].any()
    for name in (
        "epsilon",
        "delta",
        "tau",
        "epsilon_train",
        "lambda_forget",
        "bound_epsilon",
        "accuracy_unlearned",
        "tau_retrain",
        "epsilon_retrain",
        "sign_flips",
    ):
        assert np.isnan(rows[name]).all(), name
    assert np.isfinite(rows["accuracy_original"]).all()


def test_training_stops_at_a_target_epsilon(tmp_path):
    rows = rows_of(
        """
        [data]
        kind = "gaussian_mixture"
        m = 6
        d = 300
        alpha = 0.1
        n_test = 0
        [model]
        kind = "two_layer_relu"
        n = 40
        [train]
        max_steps = 100000
        target_epsilon = 0.01
        """,
        tmp_path,
    )
    assert np.all(rows["epsilon_train"] <= 0.01)
    assert np.all(rows["epsilon_train"] > 0.003)
    assert np.all(rows["steps"] < 100_000)
    assert np.all(rows["epsilon_retrain"] <= 0.01)


LIMIT_SPEC = """
    [sweep]
    seeds = 2
    [data]
    kind = "isotropic"
    m = 5
    d = 60
    n_test = 50
    [model]
    kind = "two_layer_relu"
    n = 12
    init_scale = 0.3
    [train]
    step_size = 0.3
    max_steps = 3000
    end = {end}
    [unlearn]
    step_fraction = [0.0, 1.0]
    [compute]
    dtype = {dtype}
    """


def test_training_to_the_limit_is_exact(tmp_path):
    """epsilon_1 and the retrained epsilon are rounding, where signs had settled the limit is that
    of the descent, and each row's limit certificate is one of the unlearned network.
    """
    text = LIMIT_SPEC.format(end='["descent", "limit"]', dtype='"float64"')
    (tmp_path / "spec.toml").write_text(text)
    frame = gaunlearn.run(tmp_path / "spec.toml", tmp_path / "run").to_pandas()
    descent, limit = (frame[frame["train_end"] == end] for end in ("descent", "limit"))
    assert len(descent) == len(limit) == 20
    solved = limit["limit_status"].isin(["converged", "fallback"])
    assert solved.any()
    assert limit.loc[solved, ["epsilon_train", "delta_train"]].max().max() <= 1e-10
    retrained = limit["limit_status_retrain"].isin(["converged", "fallback"])
    assert limit.loc[retrained, ["epsilon_retrain", "delta_retrain"]].max().max() <= 1e-10
    assert (descent["epsilon_train"] > 1e-4).all()
    assert (limit["steps"] < 3000).any()
    for rows in (descent, limit):
        known = rows["limit_status_unlearned"].isin(["converged", "fallback"])
        assert known.any()
        assert rows.loc[known, ["epsilon_limit", "delta_limit"]].max().max() <= 1e-10
        assert rows.loc[known, "tau_limit"].between(0, 2).all()
        assert rows.loc[~known, ["epsilon_limit", "delta_limit", "tau_limit"]].isna().all().all()
    same = descent.merge(limit, on=["seed", "forget_index", "step_fraction"])
    settled = same["settled_train_x"] & same["settled_train_y"] & (same["tau_train_limit_x"] < 1e-3)
    assert settled.any()
    near = same.loc[settled, ["lambda_forget_x", "lambda_forget_y"]].to_numpy()
    np.testing.assert_allclose(near[:, 0], near[:, 1], rtol=0.1)


def test_float32_trial_is_the_float64_trial_to_its_rounding(tmp_path):
    """The same data and initial weights. Columns say what dtype it was. Where two tolerances give
    one epsilon but for float32's rounding, either may be chosen, and delta with it.
    """
    text = LIMIT_SPEC.format(end='"descent"', dtype='["float64", "float32"]')
    (tmp_path / "spec.toml").write_text(text)
    frame = gaunlearn.run(tmp_path / "spec.toml", tmp_path / "run").to_pandas()
    wide, narrow = (frame[frame["dtype"] == dtype] for dtype in ("float64", "float32"))
    assert set(wide["trial_id"]).isdisjoint(narrow["trial_id"])
    both = wide.merge(narrow, on=["seed", "forget_index", "step_fraction"])
    assert len(both) == 20
    for name, tolerance in (
        ("phi", 1e-6),
        ("epsilon_train", 1e-3),
        ("epsilon", 1e-5),
        ("tau_retrain", 1e-3),
        ("epsilon_limit", 1e-3),
        ("tau_limit", 1e-3),
    ):
        np.testing.assert_allclose(
            both[f"{name}_y"], both[f"{name}_x"], rtol=tolerance, atol=tolerance, err_msg=name
        )
    same = both[np.isclose(both["kink_tol_x"], both["kink_tol_y"])]
    assert len(same) >= 15
    np.testing.assert_allclose(same["delta_y"], same["delta_x"], rtol=1e-4, atol=1e-4)
    assert main(["verify", str(tmp_path / "run"), "--sample", "0"]) == 0


def test_leaky_network_is_trained_unlearned_and_certified(tmp_path):
    """Its limit exists, is a KKT point by the public functions, and the step of fraction 1 is the
    best of those tried.
    """
    rows = rows_of(
        """
        [data]
        kind = "gaussian_mixture"
        m = 6
        d = 300
        alpha = 0.1
        [model]
        kind = "two_layer_leaky_relu"
        n = 20
        leak = 0.2
        [train]
        max_steps = 2000
        end = "limit"
        [unlearn]
        step_fraction = [0.5, 1.0, 1.5]
        """,
        tmp_path,
    )
    assert set(rows["limit_status"]) == {"converged"}
    assert np.all(rows["epsilon_train"] <= 1e-10)
    epsilon = by_step(rows, "epsilon")
    assert min(epsilon, key=epsilon.get) == 1.0
    assert np.all(rows["epsilon_limit"] <= 1e-10)


def test_dimension_of_a_billion_runs(tmp_path):
    rows = rows_of(
        """
        [data]
        kind = "gaussian_mixture"
        m = 4
        d = 1_000_000_000
        alpha = 0.2
        n_test = 100
        [model]
        kind = "two_layer_relu"
        n = 8
        [train]
        max_steps = 500
        """,
        tmp_path,
    )
    assert rows["separated"].all()
    # |x|^2 is |mu|^2 + |noise|^2, that is d^(2 alpha - 1/2) + 1, up to 1 / sqrt(d).
    np.testing.assert_allclose(rows["psi"], 1e9**-0.1, atol=1e-3)
    assert np.all(rows["accuracy_original"] > 0.9)
