"""What a report shows of which trials: medians, axes, answers, figures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaunlearn.report.answer import answer_of
from gaunlearn.report.axis import crossing, draw_axis, draw_column, is_below
from gaunlearn.report.figures import View, _meant, draw
from gaunlearn.report.medians import median_of, quartiles
from gaunlearn.report.methods import draw_methods
from gaunlearn.report.parts import as_meant, fits_of, lines_along, settings_of
from gaunlearn.report.plane import draw_plane
from gaunlearn.report.plots import lines_plot, plane_plot
from gaunlearn.report.style import cell_edges
from gaunlearn.report.summary import _group, _membership
from gaunlearn.sweep.parts import RunError

MANIFEST = {"swept": ["method", "correlation", "n"], "question": "When?", "name": "x"}


def frame_of(epsilon):
    """Three seeds of two methods at five correlations."""
    rows = [
        {
            "method": method,
            "correlation": rho,
            "n": 8,
            "seed": seed,
            "step_fraction": step,
            "training_id": f"{rho} {seed}",
            "retrain_init": "fresh",
            "forgotten": "[0]",
            "kink_tols": "[0]",
            "epsilon": value * (1 + 0.1 * seed),
            "epsilon_train": 1e-3,
            "bound_epsilon": np.nan,
            "delta": 0.1,
            "delta_train": 1e-4,
            "bound_delta": np.nan,
            "tau_retrain": 0.1,
            "tau_retrain_floor": 0.01,
            "separated": np.isfinite(value),
        }
        for method in ("ascent", "newton")
        for rho in (0.0, 0.1, 0.2, 0.4, 0.8)
        for seed in range(3)
        for step in (0.0, 1.0)
        for value in [epsilon(method, step, rho)]
    ]
    return pd.DataFrame(rows)


def texts(figure):
    return [[text.get_text() for text in ax.texts] for ax in figure.axes]


def test_the_axis_is_the_swept_number_with_most_values():
    frame = frame_of(lambda *_: 1.0)
    assert fits_of(frame, MANIFEST).axis == "correlation"
    few = frame[frame["correlation"] < 0.4]
    assert fits_of(few, MANIFEST).axis is None
    assert fits_of(few, MANIFEST).methods, "then the methods are what there is to be seen"
    assert fits_of(frame, MANIFEST | {"swept": ["method", "n"]}).axis is None


def test_what_fits_by_hand():
    frame = pd.DataFrame({"a": [1, 1, 1, 2, 2, 2], "b": [5] * 6, "unlearn_steps": range(6)})
    frame = frame.assign(method="ascent", step_fraction=[0.0, 1.0] * 3)
    swept = {"swept": ["a", "b", "unlearn_steps"]}
    assert fits_of(frame, swept) == (False, None, "unlearn_steps", False, False)
    two = frame.assign(method=["ascent", "newton"] * 3)
    assert fits_of(two, swept) == (False, None, None, False, True), "it is a dial of some"
    three = frame.assign(step_fraction=[0.0, 0.5, 1.0] * 2)
    assert fits_of(three, {"swept": []}) == (False, None, None, True, False)
    assert fits_of(frame, {"swept": []}).steps, "two fractions are shown where nothing else is"
    wide = frame.assign(a=[1, 2, 3, 4, 5, 5], b=[1, 2, 3, 3, 3, 3])
    assert fits_of(wide, {"swept": ["b", "a"]}) == (False, ("a", "b"), "a", False, False)
    border = {"swept": ["a", "b"], "border": {"axes": ["a", "b"]}}
    assert fits_of(frame, border) == (True, ("a", "b"), None, False, False)


@given(
    st.lists(st.one_of(st.floats(-5, 5), st.just(np.nan)), min_size=1, max_size=9),
    st.sampled_from(["epsilon", "accuracy_unlearned"]),
)
def test_no_number_counts_as_the_worst(values, column):
    """Against the definition: quartiles of the sorted values, the ones without a number at the bad
    end, interpolated linearly between numbers and no number if one of the two is none."""
    frame = pd.DataFrame({column: values, "at": 1})
    found = quartiles(frame, "at", column).loc[1]
    numbers = sorted(v for v in values if v == v)
    missing = [None] * (len(values) - len(numbers))
    ordered = missing + numbers if column.startswith("accuracy") else numbers + missing
    for name, share in (("low", 0.25), ("median", 0.5), ("high", 0.75)):
        place = share * (len(values) - 1)
        below, part = int(place), place - int(place)
        ends = [ordered[below], ordered[below + 1] if part else 0.0]
        if None in ends:
            assert np.isnan(found[name])
        else:
            assert found[name] == pytest.approx((1 - part) * ends[0] + part * ends[1], abs=1e-12)
    assert found["count"] == len(values)
    assert median_of(frame[column]) == pytest.approx(found["median"], nan_ok=True)


def test_of_yes_and_no_the_share_is_shown_and_no_key_is_no_group():
    frame = pd.DataFrame({"separated": [True, False, True, True], "at": [1.0, 1.0, 2.0, np.nan]})
    assert quartiles(frame, "at", "separated")["median"].to_dict() == {1.0: 0.5, 2.0: 1.0}
    unknown = pd.DataFrame({"holds": [True, None], "at": [1, 1]}, dtype=object)
    assert quartiles(unknown, "at", "holds")["median"].tolist() == [0.5]


def test_untouched_models_are_counted_once_and_lie_beside_their_own_family():
    """Two kinds of data: what nothing does to one is no measure for the other."""
    frame = frame_of(lambda method, step, rho: 1.0 + step)
    both = pd.concat(
        [
            frame.assign(
                n=n, epsilon=frame["epsilon"] * n, training_id=frame["training_id"] + str(n)
            )
            for n in (1, 10)
        ]
    )
    lines = lines_along(both, MANIFEST, "correlation")
    assert [line.label for line in lines] == [
        f"{method}, n {n}" for n in (1, 10) for method in ("ascent", "newton")
    ]
    for line in lines:
        (n,) = line.family
        assert set(line.untouched["n"]) == set(line.trials["n"]) == {n}
        assert len(line.untouched) == 15, "five correlations and three seeds"
        assert set(line.trials["step_fraction"]) == {1.0}
    assert set(as_meant(both)["step_fraction"]) == {1.0}


def test_of_parameters_that_advance_together_one_names_the_line():
    """n is 4 m and the kind sets the step size: a line for each kind, along m or along n."""
    rows = [
        {"m": m, "n": 4 * m, "data_kind": kind, "step_size": size, "epsilon": 0.1}
        for m in (4, 8, 16, 32)
        for kind, size in (("isotropic", 0.3), ("gaussian_mixture", 1.0))
    ]
    frame = pd.DataFrame(rows)
    manifest = MANIFEST | {"swept": ["m", "data_kind", "step_size", "n"]}
    assert settings_of(frame, manifest, apart_from=["m"]) == ["data_kind"]
    assert settings_of(frame, manifest, apart_from=["n"]) == ["data_kind"]
    assert settings_of(frame, manifest) == ["m", "data_kind"]
    assert settings_of(frame, manifest | {"swept": ["d"]}) == []
    assert settings_of(frame.assign(n=1), manifest | {"swept": ["n"]}) == []


@pytest.mark.parametrize("gone", [False, True])
def test_the_figure_marks_where_a_method_is_worse_than_nothing_for_good(gone):
    """Ascent crosses at 0.2, touches at 0 too, or loses its certificate from 0.8 on; Newton's step
    is better everywhere.
    """

    def epsilon(method, step, rho):
        if step == 0.0:
            return 1.0
        if method == "newton":
            return 0.5
        if gone:
            return np.nan if rho == 0.8 else 0.5
        return {0.0: 2.0, 0.1: 0.5}.get(rho, 3.0)

    figure = draw_axis(frame_of(epsilon), MANIFEST, "correlation")
    epsilons, deltas, taus, _ = texts(figure)
    assert epsilons == ["0.8" if gone else "0.2"]
    assert deltas == taus == [], "never better, and so never worse from some value on"
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["ascent", "newton", "doing nothing", "trained model, on its own samples"]
    text = answer_of(frame_of(epsilon), MANIFEST, None, None)
    assert f"no longer better from {'0.8' if gone else '0.2'} on in ε (ascent)" in text
    assert "Against doing nothing it is " in text
    assert "everywhere better in ε (newton)" in text
    assert "nowhere better in 1 \N{MINUS SIGN} cos" in text


def test_a_mark_is_set_by_numbers_not_by_where_they_are_drawn():
    """Below what is shown, ascent is still ten times better than nothing."""

    def epsilon(method, step, rho):
        return (0.5 if step else 1.0) if rho < 0.8 else (1e-12 if step else 1e-11)

    assert texts(draw_axis(frame_of(epsilon), MANIFEST, "correlation"))[0] == []


def test_membership_and_its_standard_error_by_hand():
    """Means of two seeds: 0.8 and 0.6, hence 0.7 and (0.2 / sqrt 2) / sqrt 2 = 0.1."""
    frame = pd.DataFrame({"seed": [0, 0, 1, 1], "membership_unlearned": [0.9, 0.7, 0.6, np.nan]})
    assert _membership(frame, "unlearned") == pytest.approx((0.7, 0.1))


def test_the_answer_names_the_best_method_its_cost_and_what_nothing_does():
    """Medians by hand: of 0.5, 2 and 3; distances 0.2, 0.1 and 0.4."""
    rows = [
        {
            "method": method,
            "step_fraction": 1.0,
            "epsilon": epsilon * factor,
            "tau_retrain": tau,
            "unlearn_gradients": cost,
            "tau_retrain_floor": 0.3,
        }
        for method, epsilon, tau, cost in (
            ("newton", 2.0, 0.1, 9.0),
            ("corrected_ascent", 0.5, 0.2, 10.0),
            ("identity", 3.0, 0.4, 0.0),
            ("retraining", 0.0, 0.0, 1e4),
        )
        for factor in (0.5, 1.0, 1.5)
    ]
    frame = pd.DataFrame(rows)
    text = answer_of(frame, {"swept": ["method"]}, None, None)
    assert "the least ε is that of corrected ascent (median 0.5), for 10 gradients" in text
    assert "against 3 for doing nothing. Nearest to the retrained model" in text
    assert text.endswith("is newton (median 0.1); two retrainings differ by 0.3.")
    # Of three kinds of data, on one of which Newton's step is best and on one nothing has a number.
    worse = frame["epsilon"].where(frame["method"] != "corrected_ascent")
    kinds = [
        frame.assign(data_kind="a"),
        frame.assign(data_kind="b", epsilon=worse),
        frame.assign(data_kind="c", epsilon=np.nan),
    ]
    text = answer_of(pd.concat(kinds), {"swept": ["method", "data_kind"]}, None, None)
    assert "corrected ascent (median 0.5, in 1 of 3 settings)" in text
    assert "newton (median 2, in 1 of 3 settings) and none in 1, where no method has a" in text
    assert "against 3 or no number for doing nothing" in text
    assert "is newton (median 0.1, in 3 of 3 settings)" in text
    references = frame[frame["method"].isin(("retraining", "newton"))]
    references = references.replace({"method": {"newton": "limit_polishing"}})
    text = answer_of(references, {"swept": ["method"]}, None, None)
    assert "Of 2 methods the least ε is that of retraining (median 0)" in text
    tied = frame.assign(tau_retrain=0.1)
    text = answer_of(tied, {"swept": ["method"]}, None, None)
    assert "is corrected ascent or identity or newton (median 0.1)" in text


def test_better_than_nothing_is_not_said_of_places_where_nothing_has_a_number():
    at = [1, 2, 3, 4]
    mine = pd.Series([1.0, 1.0, np.nan, np.nan], at)
    nothing = pd.Series([2.0, 2.0, 3.0, np.nan], at)
    assert is_below(mine, nothing).to_dict() == {1: True, 2: True, 3: False}
    assert crossing(mine, nothing) == 3
    assert crossing(mine[:2], nothing[:2]) is None
    assert crossing(nothing, mine) is None, "a number is below none: better at the end"


def test_the_answer_along_an_axis_has_the_ends_of_each_line():
    frame = frame_of(lambda method, step, rho: (0.1 + rho) * (2 if method == "newton" else 1))
    text = answer_of(frame, MANIFEST, None, None)
    assert "the median ε goes from 0.11 to 0.99 (ascent) and 0.22 to 1.98 (newton)" in text
    assert "from 0.1 to 0.1 (ascent, newton)." in text
    exact = answer_of(frame.assign(epsilon=1e-15), MANIFEST, None, None)
    assert "ε is 0 to rounding, the median δ goes from 0.1 to 0.1 (ascent, newton)" in exact
    nothing = frame.assign(epsilon=np.nan)
    assert "No trial has a certificate" in answer_of(nothing, {"swept": []}, None, None)


def test_the_answer_of_a_border_says_on_which_side_it_holds():
    about = {"axes": ["m", "d"], "predicate": "epsilon <= 0.1", "points": 4, "confidence": 0.0}
    about |= {"points_inside": 2, "points_of_full_grid": 4}
    manifest = {"swept": ["m", "d"], "border": about}
    points = pd.DataFrame({"m": [1, 1, 2, 2], "d": [1, 9, 1, 9], "share": [1.0, 1.0, 0.0, 0.0]})
    border = pd.DataFrame({"curve": ["border"] * 2, "m": [1.5, 1.5], "d": [1.0, 9.0]})
    frame = pd.DataFrame({"separated": [True] * 3 + [False], "method": "a", "step_fraction": 1.0})
    frame = frame.assign(epsilon=[0.1] * 3 + [np.nan], m=[1, 1, 2, 2], d=[1, 9, 1, 9])
    text = answer_of(frame, manifest, border, points)
    assert "holds at 2 of the 4 points looked at, of 4 in (m, d), towards smaller m; 1 of 4" in text
    assert text.endswith("Its border runs over m from 1.5 to 1.5 and d from 1 to 9."), "no band"
    assert "least ε" not in text, "the border is about that itself"
    # Of a border about something else it is told how well is unlearned on its two sides.
    manifest["border"] = about | {"predicate": "phi <= 1", "column": "phi"}
    points["margin"] = [1.0, 1.0, -1.0, -1.0]
    frame = frame.assign(phi=1.0, epsilon_delta1_tau2=[1.0, 3.0, 5.0, 9.0])
    text = answer_of(frame, manifest, border, points)
    assert "least ε with δ ≤ 0.1 and τ ≤ 0.01 has a median of 2 inside and 7 outside." in text
    nothing = answer_of(frame.assign(phi=np.nan), manifest, border, points)
    assert nothing == "No trial has a value of phi: there is nothing to be found."


def plane_frame():
    """Certificates at (1, 1) always, at (2, 1) of one seed in three, and so on."""
    rows = [
        {"a": a, "b": b, "kind": kind, "epsilon": value, "separated": value == value}
        for kind in ("x", "y")
        for a, b, values in (
            (1, 1, (1.0, 2.0, 3.0)),
            (2, 1, (1.0, np.nan, np.nan)),
            (1, 10, (4.0, 4.0, 4.0)),
            (2, 10, (5.0, 6.0, np.nan)),
        )
        for value in values
    ]
    return pd.DataFrame(rows)


def test_a_heat_map_shows_medians_hollow_cells_and_marks_without_certificates():
    frame = plane_frame()
    manifest = {"question": "Where?", "name": "x"}
    figure = draw_plane(frame, manifest, None, "a", "b", "epsilon", ["kind"])
    panels = [ax for ax in figure.axes if ax.get_title(loc="left").startswith("kind")]
    assert [ax.get_title(loc="left") for ax in panels] == ["kind x", "kind y"]
    drawn = np.ma.filled(panels[0].collections[0].get_array(), np.nan)
    np.testing.assert_array_equal(drawn.reshape(2, 2), [[2.0, np.nan], [4.0, 6.0]])
    crosses = panels[0].collections[1]
    assert crosses.get_offsets().tolist() == [[2.0, 1.0], [2.0, 10.0]]
    assert crosses.get_sizes()[0] == pytest.approx(2 * crosses.get_sizes()[1]), "2/3, 1/3 fail"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["no number", "trials without a certificate; larger: more"]
    # A panel of which nothing has a place on the axes is none.
    gone = frame.assign(a=frame["a"].where(frame["kind"] == "x"))
    assert (
        sum(
            ax.get_title(loc="left") != ""
            for ax in draw_plane(gone, manifest, None, "a", "b", "epsilon", ["kind"]).axes
        )
        == 1
    )
    shares = draw_plane(frame, manifest, None, "a", "b", "separated")
    drawn = shares.axes[0].collections[0].get_array()
    np.testing.assert_allclose(np.ravel(drawn), [1.0, 1 / 3, 1.0, 2 / 3])


def test_a_heat_map_has_a_line_where_theory_begins_to_be_certain():
    """Of three by three points, certain from b = 10 on: the line lies between b = 1 and 10, where
    the share is a half."""
    rows = [
        {"a": a, "b": b, "epsilon": 0.1, "separated": True} for a in (1, 2, 3) for b in (1, 10, 19)
    ]
    frame, manifest = pd.DataFrame(rows), {"question": "Where?", "name": "x"}
    certain = frame.assign(share=(frame["b"] >= 10) * 1.0).set_index(["a", "b"])["share"]
    figure = draw_plane(frame, manifest, None, "a", "b", "epsilon", certain=certain)
    (path,) = figure.axes[0].collections[-1].get_paths()
    np.testing.assert_allclose(path.vertices[:, 1], 5.5)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["ε ≤ 0.1 certain beforehand"]
    none = draw_plane(frame, manifest, None, "a", "b", "epsilon", certain=0 * certain)
    assert not none.legends


def test_the_page_s_heat_map_holds_the_same_and_names_no_band_of_another_plane():
    frame = plane_frame()
    table = quartiles(frame, ["a", "b"], "epsilon")["median"].rename("epsilon").reset_index()
    border = pd.DataFrame({"curve": ["border"] * 2, "piece": 0, "place": [0, 1], "m": 1, "d": 2})
    plot = plane_plot(table, "a", "b", "epsilon", border, {"border": {"predicate": "p"}}, {"k": 1})
    assert plot.values["epsilon"].tolist() == ["2", "4", "no number", "6"]
    assert plot.trials[0] == '{"a":1,"b":1,"k":1}'
    assert plot.note == "grey: no number"
    assert len(plot.figure.renderers) == 1, "cells alone: the border is of other axes"


def test_lines_of_the_page_say_what_they_leave_out():
    frame = pd.DataFrame(
        [
            {"x": x, "g": g, "epsilon": g + x, "bound_epsilon": 9.0}
            for g in range(14)
            for x in (1, 2)
        ]
    )
    plot = lines_plot(frame, "x", "epsilon", ["g"])
    assert plot.note == (
        "dotted: the bound stated beforehand; the first 12 of 14 settings are drawn"
    )
    assert len(plot.values) == len(plot.trials) == 24
    assert plot.values.iloc[3].tolist() == ["g 1", "2", "3", "3", "3", "1"]


def test_methods_that_fail_are_drawn_as_the_worst_and_all_of_six_settings():
    rows = [
        {
            "method": method,
            "unlearn_steps": steps,
            "learning_rate": np.nan,
            "data_kind": kind,
            "step_fraction": 1.0,
            "epsilon": value,
            "delta": value,
            "tau_retrain": value,
            "tau_retrain_floor": 0.1,
            "unlearn_gradients": cost,
            "separated": value == value,
        }
        for kind in "abcdef"
        for method, steps, cost, values in (
            ("ascent", np.nan, 10.0, (1.0, np.nan, np.nan)),
            ("fine_tuning", 1.0, 5.0, (1.0, 2.0, 3.0)),
            ("fine_tuning", 9.0, 50.0, (0.5, 0.5, np.nan)),
        )
        for value in values
    ]
    figure = draw_methods(pd.DataFrame(rows), MANIFEST | {"swept": ["method", "data_kind"]})
    assert len(figure.axes) == 18
    lines = {c.get_label(): c.lines[0].get_ydata().tolist() for c in figure.axes[0].containers}
    np.testing.assert_array_equal(lines["ascent"], [np.nan])
    assert lines["fine tuning"] == [2.0, 0.5]
    assert "more settings" not in figure.texts[-1].get_text()


def test_a_column_of_any_sign_is_not_drawn_on_a_log_scale():
    frame = pd.DataFrame({"x": [1, 2, 3, 4], "v": [-1.0, 1e-3, 1.0, 50.0]})
    manifest = {"question": "Which?", "name": "x"}
    assert draw_column(frame, manifest, "x", "v").axes[0].get_yscale() == "linear"
    assert draw_column(frame.abs(), manifest, "x", "v").axes[0].get_yscale() == "log"


@pytest.mark.parametrize("log", [False, True])
def test_cells_meet_half_way(log):
    values = np.array([1.0, 2.0, 8.0])
    edges = cell_edges(values, log)
    root = np.sqrt(2.0)
    want = [1 / root, root, 4.0, 8 * root] if log else [0.5, 1.5, 5.0, 8.5]
    np.testing.assert_allclose(edges, want)
    assert len(cell_edges(values[:1], log)) == 2


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View("stepfraction"), "--x stepfraction: there is no such column; did you mean 'step_fr"),
        (View("seed", "method"), "--y method: holds no numbers"),
        (View("seed", value="alpha"), "--value alpha: has no value in this run"),
        (View("seed", "seed"), "--y seed: is what --x is"),
    ],
)
def test_a_figure_of_columns_that_cannot_be_drawn_is_refused(undisturbed, view, message):
    with pytest.raises(RunError, match=message):
        draw(undisturbed, view)


def test_shares_facets_and_figures_that_no_longer_fit(undisturbed):
    folder = undisturbed.path / "report"
    made = draw(undisturbed, View("step_fraction", value="separated", facet="seed"))
    names = [f"separated_along_step_fraction.{kind}" for kind in ("png", "svg")]
    assert [Path(file).name for file in made] == names
    (folder / "methods.png").write_bytes(b"of an earlier specification")
    draw(undisturbed)
    assert not (folder / "methods.png").exists()
    assert (folder / "separated_along_step_fraction.png").exists(), "somebody has asked for it"


def test_a_view_does_not_mix_methods_with_nothing_unless_it_is_about_them():
    frame = frame_of(lambda method, step, rho: 1.0)
    shown, about = _meant(frame, MANIFEST, ["correlation", None, "epsilon", None])
    assert set(shown["step_fraction"]) == {1.0}
    assert about == ", at step fraction 1, of all method together"
    assert len(_meant(frame, MANIFEST, ["step_fraction", None, "epsilon", "method"])[0]) == len(
        frame
    )
    nothing = frame.assign(method="identity")
    both = pd.concat([frame, nothing])
    shown, about = _meant(both, MANIFEST, ["correlation", None, "epsilon", None])
    assert "identity" not in set(shown["method"])
    assert ", without identity" in about
    kept, about = _meant(both, MANIFEST, ["correlation", None, "epsilon", "method"])
    assert "identity" in set(kept["method"])
    assert about == ", at step fraction 1"


def test_the_summary_too_counts_no_number_as_the_worst(undisturbed):
    """Two of three trials at the best step get no number: half of them and more have none, and the
    step with the least median is another one."""
    frame = undisturbed.to_pandas()
    steps = sorted(frame["step_fraction"].unique())
    assert len(steps) > 1
    each = len(frame) // len(steps)
    epsilon = {step: 1.0 + place for place, step in enumerate(steps)}
    frame = frame.assign(epsilon=frame["step_fraction"].map(epsilon)).reset_index(drop=True)
    first = frame.index[frame["step_fraction"] == steps[0]]
    assert f"at step fraction {steps[0]:g}: median 1.00e+00" in _group(frame)[0]
    frame.loc[first[: each // 2 + 1], "epsilon"] = np.nan
    assert f"at step fraction {steps[1]:g}: median 2.00e+00" in _group(frame)[0]
