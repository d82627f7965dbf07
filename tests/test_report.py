"""Figures along an axis: what they draw, and where unlearning is worse than nothing."""

import numpy as np
import pandas as pd
import pytest

from gaunlearn.report.axis import axis_of, draw_axis
from gaunlearn.report.summary import _membership

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
    assert labels == ["doing nothing", "ascent, n 8", "newton, n 8", "two retrainings"]


def test_membership_and_its_standard_error_by_hand():
    """Means of two seeds: 0.8 and 0.6, hence 0.7 and (0.2 / sqrt 2) / sqrt 2 = 0.1."""
    frame = pd.DataFrame({"seed": [0, 0, 1, 1], "membership_unlearned": [0.9, 0.7, 0.6, np.nan]})
    assert _membership(frame, "unlearned") == pytest.approx((0.7, 0.1))
