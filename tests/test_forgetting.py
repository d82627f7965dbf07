"""Forget sets and methods as axes of a sweep: which samples a trial forgets, and what follows."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from cases import assert_same_rows
from runs import SPEC, write

import gaunlearn
from gaunlearn.cli import main
from gaunlearn.sweep.forgetting import forget_order
from gaunlearn.sweep.plan import families_of, survey
from gaunlearn.sweep.sections import (
    ForgetClass,
    ForgetDraw,
    ForgetIndex,
    ForgetRanked,
    IsotropicData,
    SpecError,
)
from gaunlearn.sweep.spec import load_spec
from gaunlearn.unlearning import METHODS

DATA = IsotropicData(kind="isotropic", m=4, d=9)


def chosen(rule, tmp_path, number=0, seed=0, ease=None, x=None, y=None):
    """Forgotten samples in order; one absent sample stands at the end of the arrays."""
    x = np.eye(4) if x is None else x
    m = len(x)
    problem = SimpleNamespace(
        x=np.vstack([x, np.zeros(x.shape[1])]),
        y=np.append(np.ones(m) if y is None else y, 1.0),
        present=np.arange(m + 1) < m,
    )
    order = forget_order(rule, number, problem, DATA, seed, tmp_path, ease)
    assert order[m] == 0, "what does not exist cannot be forgotten"
    forgotten = np.flatnonzero(order)
    assert sorted(order[forgotten]) == list(range(1, len(forgotten) + 1))
    return forgotten[np.argsort(order[forgotten])].tolist()


def test_rules_by_hand(tmp_path):
    assert chosen(ForgetIndex(), tmp_path, number=2) == [2]
    ease = np.array([3.0, 1.0, np.nan, 2.0, -9.0])
    assert chosen(ForgetRanked(rule="hardest", size=2), tmp_path, ease=ease) == [1, 3]
    assert chosen(ForgetRanked(rule="easiest", size=2), tmp_path, ease=ease) == [0, 3]
    # Samples 0 and 1 are at 60 degrees, 2 is orthogonal to all, 3 is opposite to 0.
    x = np.array([[1.0, 0, 0], [0.5, np.sqrt(0.75), 0], [0, 0, 5.0], [-2.0, 0, 0]])
    assert chosen(ForgetRanked(rule="most_correlated", size=3), tmp_path, x=x) == [0, 3, 1]
    assert chosen(ForgetRanked(rule="least_correlated", size=2), tmp_path, x=x) == [2, 1]


def test_equal_scores_are_told_apart_by_index_and_not_by_rounding(tmp_path):
    ease = np.array([1.0, 1.0 + 1e-14, 1.0 - 1e-14, 1.0, 0.0])
    rule = ForgetRanked(rule="hardest", size=3)
    assert chosen(rule, tmp_path, ease=ease) == [0, 1, 2]
    assert chosen(rule, tmp_path, ease=ease[[2, 0, 1, 3, 4]]) == [0, 1, 2]


def test_draws_are_nested_and_uniform(tmp_path):
    small = [chosen(ForgetDraw(rule="random", size=1), tmp_path, n) for n in range(400)]
    large = [chosen(ForgetDraw(rule="random", size=3), tmp_path, n) for n in range(400)]
    assert all(a == b[:1] for a, b in zip(small, large, strict=True))
    counts = np.bincount([a for (a,) in small], minlength=4)
    # Four standard deviations of a binomial with 400 draws at 1/4.
    assert np.all(np.abs(counts - 100) < 4 * np.sqrt(400 * 3 / 16))
    other = [chosen(ForgetDraw(rule="random", size=3), tmp_path, n, seed=1) for n in range(400)]
    assert other != large


def test_classes_hold_one_label_and_no_more_than_there_are(tmp_path):
    y = np.array([1.0, -1.0, -1.0, 1.0])
    for label, members in ((1, [0, 3]), (-1, [1, 2])):
        rule = ForgetClass(rule="class", size=3, label=label)
        assert sorted(chosen(rule, tmp_path, y=y)) == members
        one = chosen(ForgetClass(rule="class", size=1, label=label), tmp_path, y=y)
        assert chosen(rule, tmp_path, y=y)[:1] == one


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["forget.rule='random'"], "forget.size: missing"),
        (["forget.rule='random'", "forget.size=4"], "forget.size = 4: must leave one of the 4"),
        (["forget.rule='random'", "forget.size=0"], "forget.size = 0: must be greater"),
        (["forget.rule='random'", "forget.size=1", "forget.index=0"], "goes with rule = 'index'"),
        (["forget.rule='hardest'", "forget.size=1", "forget.draws=2"], "random and class only"),
        (["forget.draws=2"], "forget.draws: goes with the rules random and class only"),
        (["forget.rule=['index', 'random']", "forget.size=1"], "'index' cannot be swept together"),
        (["forget.rule='random'", "forget.size=1", "forget.draws=0"], "forget.draws = 0: must be"),
        (["forget.rule='rnd'"], "forget.rule: 'rnd'; did you mean 'random'. allowed are index"),
        (["forget.rule='class'", "forget.size=1", "forget.label=0"], "forget.label = 0"),
        (["unlearn.method='asent'"], "unlearn.method: 'asent'; did you mean 'ascent'. allowed are"),
        (["unlearn.steps=3"], "unlearn.steps: unknown key; .*allowed are method, step_fraction"),
        (["unlearn.method='fine_tuning'", "unlearn.steps=0"], "unlearn.steps = 0: must be"),
        (["unlearn.method='fine_tuning'", "unlearn.learning_rate=0.0"], "learning_rate = 0.0"),
        (["unlearn.method='newton'", "unlearn.learning_rate=1.0"], "learning_rate: unknown key"),
    ],
)
def test_wrong_forget_sets_and_methods_are_one_clear_line(tmp_path, overrides, message):
    with pytest.raises(SpecError, match=message) as caught:
        load_spec(write(tmp_path, SPEC), overrides)
    assert "\n" not in str(caught.value)


def test_what_a_method_or_rule_does_not_have_makes_no_more_trials(tmp_path):
    """Steps are none of ascent's, draws none of hardest's: by hand 2 seeds x 2 step fractions."""
    path = write(tmp_path, SPEC, seeds=2)
    given = ["unlearn.step_fraction=[0.5, 1.0]", "forget.index=0"]
    methods = ["unlearn.method=['ascent', 'fine_tuning']", "unlearn.steps=[1, 2, 3]"]
    found = survey(load_spec(path, [*given, *methods]))
    assert (found.trials, found.trainings, found.retrainings) == (2 * 2 * (1 + 3), 2, 4)
    rules = ["forget.rule=['hardest', 'random']", "forget.size=[1, 2]", "forget.draws=3"]
    found = survey(load_spec(path, [given[0], *rules]))
    assert (found.trials, found.retrainings) == (2 * 2 * 2 * (1 + 3), 2 * 2 * 2 * (1 + 3))


def test_the_names_of_trials_do_not_depend_on_sections_that_say_nothing(tmp_path):
    """The default rule and method, written out or not."""
    plain = load_spec(write(tmp_path, SPEC))
    written = load_spec(write(tmp_path, SPEC), ["forget.rule='index'", "unlearn.method='ascent'"])
    names = [[f.contents(tmp_path) for f in families_of(sweep)] for sweep in (plain, written)]
    assert names[0] == names[1]
    other = load_spec(write(tmp_path, SPEC), ["unlearn.method='newton'"])
    assert next(families_of(other)).contents(tmp_path) != names[0][0]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All methods on sets of one and two samples that rules choose, their networks kept."""
    folder = tmp_path_factory.mktemp("everything")
    text = SPEC.replace("step_fraction = [0.0, 0.5, 1.0]", "step_fraction = 1.0")
    return gaunlearn.run(
        write(folder, text, seeds=2),
        folder / "run",
        overrides=[
            "forget.rule=['random', 'class', 'hardest', 'easiest', 'most_correlated']",
            "forget.size=[1, 2]",
            "forget.draws=2",
            f"unlearn.method={json.dumps(sorted(METHODS))}",
            "unlearn.steps=7",
            "store.weights=true",
        ],
    )


def separated(run, **wanted):
    """Its trials whose trained model has a certificate, with these values."""
    frame = run.to_pandas()
    frame = frame[frame["separated_train"]]
    for name, value in wanted.items():
        frame = frame[frame[name] == value]
    assert len(frame) > 0
    return frame


SHARED = (
    "epsilon",
    "delta",
    "epsilon_retrain",
    "tau_retrain",
    "lambda_forget",
    "margin_forget_unlearned",
    "membership_unlearned",
    "bound_epsilon",
)


def test_a_set_of_one_is_that_sample(everything, undisturbed):
    """Whatever rule chose it: all results are those of the trial that names it by index."""
    frame, by_index = everything.to_pandas(), undisturbed.to_pandas()
    one = frame[(frame["forget_size"] == 1) & (frame["method"] == "ascent")].copy()
    assert len(one) == 2 * (2 * 2 + 3)
    assert one["forget_index"].isna().all()
    one["forget_index"] = one["forgotten"].map(lambda text: json.loads(text)[0])
    wanted = by_index[by_index["step_fraction"] == 1.0].set_index(["seed", "forget_index"])
    for row in one.to_dict("records"):
        other = wanted.loc[(row["seed"], row["forget_index"])]
        for name in SHARED:
            assert row[name] == pytest.approx(other[name], rel=1e-9, abs=1e-12, nan_ok=True)


def test_hardest_and_easiest_are_ends_of_the_margins(everything):
    """Margins of the stored networks, by NumPy."""
    for rule, sign in (("hardest", 1), ("easiest", -1)):
        for row in separated(everything, forget_rule=rule, method="ascent").itertuples():
            nets = gaunlearn.networks(everything, row.trial_id)
            q = nets.y * (nets.u @ np.maximum(nets.trained @ nets.x.T, 0))
            ranked = np.argsort(sign * q)
            assert json.loads(row.forgotten) == ranked[: row.forget_size].tolist()


def test_sets_of_two_are_retrained_without_both(everything):
    """Multipliers of the retrained network vanish on both, and its margins are its certificate's;
    the mean margin of what is forgotten is in units of the least retained one.
    """
    two = separated(everything, forget_size=2, forget_rule="random", method="ascent")
    for row in two.itertuples():
        nets = gaunlearn.networks(everything, row.trial_id)
        forgotten = json.loads(row.forgotten)
        assert len(forgotten) == 2
        assert not set(forgotten) & set(nets.retain.tolist())
        found = gaunlearn.certify(nets.retrained, nets.u, nets.x, nets.y, retain=nets.retain)
        assert found.epsilon == pytest.approx(row.epsilon_retrain, rel=1e-8)
        q = nets.y * (nets.u @ np.maximum(nets.unlearned @ nets.x.T, 0))
        mean = q[forgotten].mean() / q[nets.retain].min()
        assert row.margin_forget_unlearned == pytest.approx(mean, rel=1e-9)


def test_sets_and_methods_are_verified_and_resumed(everything, capsys):
    assert main(["verify", str(everything.path), "--sample", "0"]) == 0
    assert "the contract holds" in capsys.readouterr().out
    stages = []
    again = gaunlearn.run(
        everything.path / "spec.toml", everything.path, progress=lambda p: stages.append(p.stage)
    )
    assert stages == ["already finished"], "networks of sets are found by what they forget"
    assert_same_rows(again.to_pandas(), everything.to_pandas())


def test_every_method_of_a_sweep_is_that_of_the_library(everything):
    """The trial's unlearned network, made anew by ``unlearn``, has the trial's certificate."""
    frame = separated(everything, forget_rule="class")
    assert set(frame["method"]) == set(METHODS)
    for row in frame.itertuples():
        nets = gaunlearn.networks(everything, row.trial_id)
        got = gaunlearn.certify(nets.unlearned, nets.u, nets.x, nets.y, retain=nets.retain)
        want = (row.epsilon, row.delta, row.tau)
        np.testing.assert_allclose((got.epsilon, got.delta, got.tau), want, rtol=1e-7, atol=1e-11)


def one_draw(run):
    """The methods' trials on one draw of a seed whose training separates."""
    frame = separated(run, forget_rule="random", forget_draw=0)
    frame = frame[frame["seed"] == frame["seed"].min()]
    return frame.set_index(["method", "forget_size"]).sort_index()


def test_methods_have_the_same_training_and_their_own_cost(everything):
    frame = one_draw(everything)
    assert frame["training_id"].nunique() == 1
    assert frame.groupby("forget_size")["epsilon_retrain"].nunique().tolist() == [1, 1]
    # m = 4 samples, k of them forgotten, 7 steps, 150 steps of retraining.
    for k in (1, 2):
        cost = frame["unlearn_gradients"].xs(k, level="forget_size")
        assert cost["identity"] == 0
        assert cost["ascent"] == cost["corrected_ascent"] == 4
        assert cost["sequential_ascent"] == 4 * k
        assert cost["repeated_ascent"] == 4 + 7 * k
        assert cost["fine_tuning"] == 7 * (4 - k)
        assert cost["gradient_difference"] == cost["random_labels"] == 7 * 4
        assert cost["newton"] == 4 - k
        assert cost["retraining"] == 150 * (4 - k)


def test_references_among_the_methods_are_exact(everything):
    """Identity changes nothing, retraining is the retrained model, what lies outside the samples'
    span included; one request is forgotten by a sequence as by a batch; only ascent has bounds.
    """
    frame = one_draw(everything)
    for k in (1, 2):
        rows = {name: frame.loc[(name, k)] for name in METHODS}
        same = rows["identity"]
        for name in ("margin_forget", "accuracy", "membership"):
            assert same[f"{name}_unlearned"] == pytest.approx(same[f"{name}_original"], rel=1e-9)
        same = rows["retraining"]
        assert same["disagreement"] == 0
        assert same["epsilon"] == pytest.approx(same["epsilon_retrain"], rel=1e-9)
        for name in ("margin_forget", "accuracy", "membership"):
            assert same[f"{name}_unlearned"] == pytest.approx(same[f"{name}_retrained"], rel=1e-9)
        assert rows["limit_polishing"]["epsilon"] < 1e-8
        bounded = frame.xs(k, level="forget_size")["bound_epsilon"].dropna()
        assert set(bounded.index) <= {"ascent"}
    one, sequence = frame.loc[("ascent", 1)], frame.loc[("sequential_ascent", 1)]
    assert sequence["epsilon"] == pytest.approx(one["epsilon"], rel=1e-9)
    assert sequence["delta"] == pytest.approx(one["delta"], rel=1e-9)


def test_networks_of_a_trial_without_a_certificate_are_nan(tmp_path):
    """After a single step nothing is separated."""
    given = ["train.max_steps=1", "store.weights=true"]
    run = gaunlearn.run(write(tmp_path, SPEC, seeds=1), tmp_path / "run", overrides=given)
    frame = run.to_pandas()
    assert not frame["separated_train"].any()
    nets = gaunlearn.networks(run, frame["trial_id"].iloc[0])
    assert np.isfinite(nets.trained).all()
    assert np.isnan(nets.unlearned).all()
