"""The border of a region: where it looks, what it finds, on fields whose border is known."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import write
from scipy.stats import binom

import gaunlearn
from gaunlearn.border import coarse_points, curves, points_to_add, spread_of
from gaunlearn.cli import main
from gaunlearn.schema import BORDER, POINTS
from gaunlearn.sweep.adaptive import border_of
from gaunlearn.sweep.predicate import margins_of
from gaunlearn.sweep.sections import SpecError
from gaunlearn.sweep.spec import load_spec
from gaunlearn.sweep.verify import verify_run

SIZE = 33
ROW, COLUMN = np.indices((SIZE, SIZE))
EVERYWHERE = np.ones((SIZE, SIZE), bool)


def circle(centre=(13.3, 17.1), radius=9.2):
    return radius - np.hypot(ROW - centre[0], COLUMN - centre[1])


def search(field, budget=np.inf, coarse=5, available=EVERYWHERE, cost=None):
    """What is looked at, round by round, if ``field`` (I, J) or (I, J, S) is what is measured."""
    field = field if field.ndim == 3 else field[:, :, None]
    cost = np.ones(available.shape) if cost is None else cost
    new = coarse_points(available, coarse)
    chosen, rounds = np.zeros_like(new), 0
    while new.any():
        assert not (new & chosen).any()
        assert not (new & ~available).any()
        chosen |= new
        budget -= cost[new].sum()
        known = np.where(chosen[:, :, None], field, np.nan)
        new = points_to_add(spread_of(known), available, cost, budget, coarse, np.isfinite(budget))
        rounds += 1
    return chosen, rounds


def neighbours_of_the_border(inside):
    """Points with a neighbour on the other side."""
    found = np.zeros_like(inside)
    found[1:] |= inside[1:] != inside[:-1]
    found[:-1] |= inside[1:] != inside[:-1]
    found[:, 1:] |= inside[:, 1:] != inside[:, :-1]
    found[:, :-1] |= inside[:, 1:] != inside[:, :-1]
    return found


@given(
    st.floats(6, 26), st.floats(6, 26), st.floats(6, 20), st.sampled_from(["circle", "line", "s"])
)
@settings(max_examples=40, deadline=None)
def test_all_points_next_to_the_border_are_looked_at_and_few_others(a, b, r, kind):
    """So that the border is the full grid's. Regions are no smaller than what the coarse points, 8
    apart, cannot miss.
    """
    if kind == "circle":
        field = circle((a, b), r)
    elif kind == "line":
        field = ROW * np.cos(a) + COLUMN * np.sin(a) - b * np.abs(np.cos(a) + np.sin(a))
    else:
        field = ROW - 16 - r / 3 * np.sin(COLUMN / b * 3)
    chosen, _ = search(field)
    inside = field >= 0
    assert not (neighbours_of_the_border(inside) & ~chosen).any()
    seen = np.where(chosen, field, np.nan)
    for mine, whole in zip(curves(seen), curves(field), strict=True):
        np.testing.assert_allclose(np.sort(mine, 0), np.sort(whole, 0), atol=1e-12)
    assert chosen.sum() <= 25 + 5.5 * np.count_nonzero(neighbours_of_the_border(inside))


def test_the_border_is_where_it_is_by_hand():
    """i - j = 1/2: from (0.5, 0) to the other end; linear interpolation is exact."""
    (line,) = curves(ROW - COLUMN - 0.5)
    np.testing.assert_allclose(line[:, 0] - line[:, 1], 0.5, atol=1e-12)
    assert {round(float(v), 6) for v in line[[0, -1], 1]} == {0.0, 31.5}
    coarse = np.where(coarse_points(EVERYWHERE, 3), ROW - COLUMN - 0.5, np.nan)
    for piece in curves(coarse):
        np.testing.assert_allclose(piece[:, 0] - piece[:, 1], 0.5, atol=1e-9)
    assert curves(np.full((4, 4), np.nan)) == []
    assert curves(np.ones((4, 4))) == []


def test_what_is_spent_is_within_the_budget_and_large_cells_come_first():
    cost = 1.0 + (ROW + COLUMN) % 3
    whole, _ = search(circle(), cost=cost)
    spent = cost[whole].sum()
    for budget in (cost[coarse_points(EVERYWHERE, 5)].sum(), 0.4 * spent, 0.9 * spent):
        chosen, _ = search(circle(), budget, cost=cost)
        assert cost[chosen].sum() <= budget
    assert chosen.sum() > 25
    start, _ = search(circle(), 25)
    assert start.sum() == 25
    # With one cell's worth left, it is one of the largest that is split: 8 wide.
    chosen, _ = search(circle(), 30)
    new = np.argwhere(chosen & ~start)
    assert len(new) == 5
    assert np.ptp(new, axis=0).tolist() == [8, 8]


def test_points_that_filters_leave_out_are_not_asked_for():
    available = ROW + COLUMN <= 50
    chosen, _ = search(circle((20, 20), 9), available=available)
    assert chosen.sum() > 60
    assert not (chosen & ~available).any()


def test_where_seeds_disagree_comes_last():
    """No border in the median; one of five seeds sees one: looked at only if points are left."""
    field = np.stack([np.ones((SIZE, SIZE))] * 4 + [circle()], axis=2)
    assert search(field)[0].sum() == 25, "without a budget, only what a border cuts"
    chosen, rounds = search(field, budget=1e6)
    assert rounds > 3
    assert not (neighbours_of_the_border(circle() >= 0) & ~chosen).any()
    two = np.stack([circle((6, 6), 4)] * 4 + [circle((26, 26), 5)], axis=2)
    tight, _ = search(two, budget=160)
    near = neighbours_of_the_border(circle((6, 6), 4) >= 0)
    assert not (near & ~tight).any()


@given(st.integers(1, 40))
def test_the_interval_for_the_median_has_the_stated_probability(k):
    """By the binomial law itself, and in ranks of the numbers 1 to k."""
    values = np.random.default_rng(k).permutation(np.arange(1.0, k + 1))
    spread = spread_of(np.tile(values, (2, 2, 1)))
    low, high = spread.low[0, 0], spread.high[0, 0]
    assert spread.median[0, 0] == np.median(values)
    assert low + high == k + 1
    rank = int(low)
    assert spread.confidence == pytest.approx(1 - 2 * binom.cdf(rank - 1, k, 0.5))
    assert rank == 1 or spread.confidence >= 0.9
    if k >= 5:
        assert spread.confidence >= 0.9
        assert 1 - 2 * binom.cdf(rank, k, 0.5) < 0.9, "the next narrower one would not do"


def test_the_interval_comes_true():
    """Coverage over many draws of a law with a known median, at 12 repetitions."""
    draws = np.random.default_rng(0).exponential(size=(100, 100, 12)) - np.log(2)
    spread = spread_of(draws)
    covered = np.mean((spread.low <= 0) & (spread.high >= 0))
    assert covered == pytest.approx(spread.confidence, abs=0.01)


# -- sweeps ------------------------------------------------------------------------------------

SPEC = """# Where does ascent keep delta at 0.3 or less?
[sweep]
seeds = {seeds}
[data]
kind = "correlated"
m = 6
correlation = {{ start = 0.0, stop = 0.8, count = 9 }}
d = {{ start = 20, stop = 4000, count = 9, scale = "log" }}
n_test = 0
[model]
kind = "linear"
[train]
max_steps = 50
end = "limit"
[forget]
index = [0]
[border]
predicate = "delta <= 0.3"
coarse = 3
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The full grid, as an ordinary sweep."""
    folder = tmp_path_factory.mktemp("whole")
    path = write(folder, SPEC.partition("[border]")[0], seeds=5)
    return gaunlearn.run(path, folder / "run")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("border")
    return gaunlearn.run(write(folder, SPEC, seeds=5), folder / "run")


def test_its_trials_are_those_of_the_full_grid_and_so_is_its_border(found, whole, tmp_path):
    mine, every = (run.to_pandas().set_index("trial_id") for run in (found, whole))
    assert 45 <= len(mine) < 0.8 * len(every)
    assert found.manifest["trials"] == len(mine)
    numbers = ["epsilon", "delta", "tau_retrain"]
    np.testing.assert_allclose(mine[numbers], every.loc[mine.index, numbers], rtol=1e-9, atol=1e-12)
    border = load_spec(write(tmp_path, SPEC, seeds=5)).border
    table, _, facts = border_of(border, whole.to_pandas())
    assert facts["points"] == facts["points_of_full_grid"] == 81
    # But for islands that it has not seen: noise makes some.
    a, b = (t.loc[t["curve"] == "border", ["d", "correlation"]] for t in (found.border(), table))
    distance = np.abs(np.log(a["d"].to_numpy()[:, None] / b["d"].to_numpy()))
    distance += np.abs(a["correlation"].to_numpy()[:, None] - b["correlation"].to_numpy())
    assert len(a) > 4
    assert np.mean(distance.min(1) < 1e-6) > 0.8
    # Its points, by hand.
    point = found.points().iloc[7]
    here = mine[(mine["correlation"] == point["correlation"]) & (mine["d"] == point["d"])]
    assert len(here) == point["seeds"] == 5
    assert point["share"] == np.mean(here["delta"] <= 0.3)
    assert point["margin"] == pytest.approx(
        np.clip(np.log(0.3 / here["delta"].median()), -np.log(10), np.log(10))
    )
    about = json.loads(pq.read_schema(found.path / "border.parquet").metadata[b"border"])
    assert about == found.manifest["border"]
    assert about["axes"] == ["d", "correlation"]


def test_an_interrupted_search_goes_on_and_ends_the_same(found, tmp_path):
    path, out = write(tmp_path, SPEC, seeds=5), tmp_path / "run"

    class StoppedError(Exception):
        pass

    stored = []

    def stop(progress):
        stored.append(progress.stage)
        if stored.count("stored") == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        gaunlearn.run(path, out, progress=stop)
    part = len(gaunlearn.load(out).to_pandas())
    assert 0 < part < found.manifest["trials"]
    again = gaunlearn.run(path, out)
    names = [set(run.to_pandas()["trial_id"]) for run in (again, found)]
    assert names[0] == names[1]
    pd.testing.assert_frame_equal(again.border(), found.border())
    stages = []
    gaunlearn.run(path, out, progress=lambda p: stages.append(p.stage))
    assert stages == ["already finished"]


def test_a_budget_is_kept_and_the_command_line_tells_what_was_found(found, tmp_path, capsys):
    write(tmp_path, SPEC, seeds=5)
    spec, out = str(tmp_path / "spec.toml"), str(tmp_path / "run")
    assert main(["plan", spec, "--set", "border.budget=100"]) == 0
    assert "beginning with 45 trials\nruns at most 100 of the full grid" in capsys.readouterr().out
    assert main(["run", spec, "--out", out, "--set", "border.budget=100"]) == 0
    text = capsys.readouterr().out
    assert "“delta <= 0.3” holds at" in text
    assert "of 81 in (d, correlation)" in text
    run = gaunlearn.load(out)
    assert 45 < len(run.to_pandas()) <= 100
    assert set(run.to_pandas()["trial_id"]) <= set(found.to_pandas()["trial_id"])
    assert (run.path / "report" / "plane.png").stat().st_size > 10_000
    assert main(["run", spec, "--out", out, "--shard", "1/2"]) == 2
    assert "run it whole" in capsys.readouterr().err


def test_a_specification_without_a_border_has_none(found, tmp_path):
    """Nor do its figures, though the files of the one before are still there."""
    out = tmp_path / "run"
    shutil.copytree(found.path, out)
    manifest = {k: v for k, v in found.manifest.items() if k != "border"}
    (out / "run.json").write_text(json.dumps(manifest))
    run = gaunlearn.load(out)
    assert (out / "border.parquet").exists()
    assert run.border() is None
    assert run.points() is None


def test_it_is_verified_like_any_other(found):
    verdict = verify_run(found, sample=6, any_version=True)
    assert verdict.holds
    assert verdict.stored == verdict.planned


def test_one_method_against_another(tmp_path):
    """By hand: logs of ratios on the same training and forgotten sample, ties beaten by nobody."""
    text = SPEC.replace('"delta <= 0.3"', '"ascent beats identity in tau_retrain"')
    text += '[unlearn]\nmethod = ["ascent", "identity"]\n'
    border = load_spec(write(tmp_path, text, seeds=2)).border
    assert border.columns == ("d", "correlation")
    rows = [
        {
            "correlation": border.values[1][place],
            "d": 20,
            "seed": 0,
            "training_id": "t",
            "retrain_init": "fresh",
            "forgotten": f"[{k}]",
            "method": method,
            "tau_retrain": value,
        }
        for place, k, a, b in (
            (0, 0, 1.0, 2.0),
            (0, 1, 1.0, 4.0),
            (1, 0, 1.0, 1.0),
            (2, 0, np.nan, 1.0),
            (3, 0, 1.0, np.nan),
        )
        for method, value in (("ascent", a), ("identity", b))
    ]
    got = margins_of(border, pd.DataFrame(rows))[0, :, 0]
    assert got[0] == pytest.approx(np.log(8) / 2)
    assert -1e-6 < got[1] < 0
    np.testing.assert_allclose(got[2:4], [-np.log(10), np.log(10)])
    assert np.isnan(got[4:]).all()


@pytest.mark.parametrize(
    ("predicate", "inside"),
    [("sign_flips <= 0", True), ("sign_flips < 0", False), ("sign_flips >= 0", True)],
)
def test_what_is_at_the_level_is_on_the_side_that_the_sign_says(tmp_path, predicate, inside):
    """No trial has fewer than 0 flips: half of the plane has none, the other half three."""
    text = SPEC.replace('"delta <= 0.3"', f'"{predicate}"')
    border = load_spec(write(tmp_path, text, seeds=2)).border
    rows = [
        {"d": d, "correlation": rho, "seed": 0, "sign_flips": 0 if half else 3, "separated": True}
        for d in border.values[0]
        for half, rho in enumerate(border.values[1][:2])
    ]
    table, points, facts = border_of(border, pd.DataFrame(rows))
    none = points["correlation"] == border.values[1][1]
    assert (points.loc[none, "share"] == float(inside)).all()
    assert facts["points_inside"] == points["share"].sum()
    assert bool((table["curve"] == "border").any()) == (predicate == "sign_flips <= 0")


@pytest.mark.parametrize(
    ("predicate", "columns", "margin"),
    [
        ("tau_retrain", {"tau_retrain": 0.2, "tau_retrain_floor": 0.3}, np.log(0.3 / 0.2)),
        ("tau_retrain", {"tau_retrain": 0.6, "tau_retrain_floor": 0.3}, -np.log(2)),
        ("epsilon >= epsilon_retrain", {"epsilon": 4.0, "epsilon_retrain": 2.0}, np.log(2)),
        ("epsilon <= epsilon_retrain", {"epsilon": 4.0, "epsilon_retrain": np.nan}, -np.log(10)),
        ("separated", {"separated": True}, np.log(2)),
        ("separated", {"separated": False}, -np.log(10)),
    ],
)
def test_levels_that_are_columns_and_columns_alone(tmp_path, predicate, columns, margin):
    """Logarithms of ratios, within a factor of 10; no number is outside."""
    text = SPEC.replace('"delta <= 0.3"', f'"{predicate}"')
    border = load_spec(write(tmp_path, text, seeds=2)).border
    row = {"d": border.values[0][0], "correlation": border.values[1][0], "seed": 0, **columns}
    found = margins_of(border, pd.DataFrame([row]))
    assert found[0, 0, 0] == pytest.approx(margin)
    assert border.column == predicate.split()[0]


def test_points_say_where_trials_have_no_certificate(found):
    frame, points = found.to_pandas(), found.points()
    want = frame.groupby(["d", "correlation"])["separated"].mean()
    got = points.set_index(["d", "correlation"])["separated"]
    assert (got == want[got.index]).all()
    assert found.manifest["border"]["column"] == "delta"
    for name, columns in (("border", BORDER), ("points", POINTS)):
        fields = pq.read_schema(found.path / f"{name}.parquet")
        told = {field.name: field.metadata[b"meaning"].decode() for field in fields}
        assert told.keys() == {"d", "correlation", *(column.name for column in columns)}
        assert all(told[column.name] == column.meaning for column in columns)


def test_a_budget_that_does_not_reach_the_first_points_is_refused(tmp_path):
    path, out = write(tmp_path, SPEC, seeds=5), tmp_path / "run"
    with pytest.raises(SpecError, match="the 9 points to begin with take 45 trials"):
        gaunlearn.run(path, out, overrides=["border.budget=44"])
    assert not (out / "trials").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"delta <= 0.3"', '"delat <= 0.3"', "there is no column 'delat'; did you mean 'delta'"),
        ('"delta <= 0.3"', '"delta == 0.3"', "must be a level, such as"),
        ('"delta <= 0.3"', '"delta <= 1e999"', "must be a level, such as"),
        ('"delta <= 0.3"', "3", "must be a level, such as"),
        ('"delta <= 0.3"', '"delta"', 'needs a level, such as "delta <= 0.1"'),
        ('"delta <= 0.3"', '"delta <= tua"', "there is no column 'tua'; did you mean 'tau'"),
        ('"delta <= 0.3"', '"delta <= delta"', "compares a column with itself"),
        ('"delta <= 0.3"', '"delta <= -1"', "delta is nowhere below 0"),
        ('"delta <= 0.3"', '"ascent beats ascent"', "compares a method with itself"),
        ("coarse = 3", 'axes = ["seed", "d"]', "'seed' is no axis; there are data.d, data.corr"),
        ('"delta <= 0.3"', '"ascent beats newton"', "unlearn.method has no 'newton'"),
        ('"delta <= 0.3"', '"ascent beats ascent in m"', "is no column of which less is better"),
        ("coarse = 3", "coarse = 1", "border.coarse = 1: must be a number of lines, 2 to 1000"),
        ("coarse = 3", "budget = 0", "border.budget = 0: must be a number of trials"),
        ("coarse = 3", "bugdet = 9", "border.bugdet: unknown key; did you mean 'budget'"),
        ("coarse = 3", 'axes = ["d"]', "must name two axes"),
        ("coarse = 3", 'axes = ["d", "d"]', "names one axis twice"),
        ("coarse = 3", 'axes = ["d", "n"]', "'n' is no axis; there are data.d, data.correlation"),
        ("end =", "step_size = [0.5, 1.0]\nend =", "must name two axes"),
        ("index = [0]", "index = [0]\n[unlearn]\nstep_fraction = [0, 1]", "must have one value"),
        ("count = 9 }}", "count = 2 }}", "an axis of a border needs three or more numbers"),
    ],
)
def test_a_wrong_border_is_refused_before_anything_runs(tmp_path, old, new, message):
    assert old in SPEC
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        load_spec(write(tmp_path, SPEC.replace(old, new, 1), seeds=2))


def test_what_repeats_a_trial_is_no_axis(tmp_path):
    """A filter makes forgotten samples one of the grid's axes."""
    text = SPEC.replace("index = [0]", "index = [0, 1, 2]")
    text = text.replace("[data]", 'filter = ["index < m"]\n[data]')
    text = text.replace("coarse = 3", 'axes = ["forget.index", "d"]')
    with pytest.raises(SpecError, match=r"border.axes: forget.index repeats or continues a trial"):
        load_spec(write(tmp_path, text, seeds=2))


def test_other_axes_are_refused(tmp_path):
    text = SPEC.replace("end =", "step_size = [0.5, 1.0]\nend =")
    text = text.replace("coarse = 3", 'axes = ["d", "correlation"]')
    with pytest.raises(
        SpecError, match=r"train\.step_size: a sweep with \[border\] varies its two"
    ):
        load_spec(write(tmp_path, text, seeds=2))
