"""Figures along an axis: what they draw, and where unlearning is worse than nothing."""

import numpy as np
import pandas as pd
import pytest

from gaunlearn.report.answer import answer_of
from gaunlearn.report.axis import axis_of, draw_axis
from gaunlearn.report.figures import View, draw
from gaunlearn.report.plane import medians_over, plane_of
from gaunlearn.report.style import settings_of
from gaunlearn.report.summary import _membership
from gaunlearn.sweep.store import RunError

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
    assert axis_of(frame, MANIFEST) == "correlation"
    assert axis_of(frame[frame["correlation"] < 0.4], MANIFEST) is None
    assert axis_of(frame, MANIFEST | {"swept": ["method", "n"]}) is None


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
    epsilons, taus, _ = texts(figure)
    assert epsilons == ["0.8" if gone else "0.2"]
    assert taus == [], "never better, and so never worse from some value on"
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["doing nothing", "ascent", "newton", "two retrainings"]


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
        }
        for method, epsilon, tau, cost in (
            ("newton", 2.0, 0.1, 9.0),
            ("corrected_ascent", 0.5, 0.2, 10.0),
            ("identity", 3.0, 0.4, 0.0),
            ("retraining", 0.0, 0.0, 1e4),
        )
        for factor in (0.5, 1.0, 1.5)
    ]
    text = answer_of(pd.DataFrame(rows), {"swept": ["method"]}, None, None)
    assert "corrected ascent leaves the least ε (median 0.5, for 10 gradients" in text
    assert "against 3 for doing nothing. Nearest to the retrained model is newton, at 1" in text
    assert text.endswith("cos = 0.1.")


def test_the_answer_along_an_axis_has_its_ends():
    frame = frame_of(lambda method, step, rho: 0.1 + rho)
    frame = frame[frame["method"] == "ascent"]
    text = answer_of(frame, {"swept": ["correlation"]}, None, "correlation")
    assert "Between correlation = 0 and 0.8 the median ε goes from 0.11 to 0.99." in text
    nothing = frame.assign(epsilon=np.nan)
    assert "No trial has a certificate" in answer_of(nothing, {"swept": []}, None, None)


def test_a_trial_without_a_number_counts_as_the_worst_in_a_heat_map():
    frame = pd.DataFrame(
        {"a": [1, 1, 1, 2, 2, 2], "b": [5] * 6, "v": [1.0, 3.0, np.nan, 1.0, np.nan, np.nan]}
    )
    found = medians_over(frame, "a", "b", "v")
    assert found[1, 5] == 3.0
    assert np.isnan(found[2, 5])
    swept = {"swept": ["a", "b"]}
    assert plane_of(frame, swept) is None, "two values and one make no plane"
    wide = pd.DataFrame({"a": [1, 2, 3, 4], "b": [1, 2, 3, 3]})
    assert plane_of(wide, swept) == ("a", "b")


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
