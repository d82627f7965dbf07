"""Losses against direct formulas where those work, and against their asymptotes beyond."""

import jax.numpy as jnp
import numpy as np
import pytest

from gaunlearn.losses import LOSSES, log_total_loss, relative_slopes

MODERATE = np.linspace(-30, 30, 241)


def test_logistic_equals_the_direct_formula():
    value, slope = np.log1p(np.exp(-MODERATE)), 1 / (1 + np.exp(MODERATE))
    loss = LOSSES["logistic"]
    np.testing.assert_allclose(loss.log_value(MODERATE), np.log(value), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(loss.log_slope(MODERATE), np.log(slope), rtol=1e-13, atol=1e-13)


def test_exponential_is_minus_the_margin():
    loss = LOSSES["exponential"]
    np.testing.assert_array_equal(loss.log_value(MODERATE), -MODERATE)
    np.testing.assert_array_equal(loss.log_slope(MODERATE), -MODERATE)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_large_margins_do_not_underflow(name):
    """exp(-1e5) is 0 in float64; its logarithm is not -inf here, and weights stay exact."""
    loss = LOSSES[name]
    margins, keep = jnp.array([1e5, 1e5 + 1, 5.0]), jnp.array([True, True, False])
    slopes, total = relative_slopes(loss, margins, keep)
    share = 1 / (1 + np.exp(-1))
    assert float(total) == pytest.approx(-1e5 + np.log(1 + np.exp(-1)), rel=1e-12)
    np.testing.assert_allclose(slopes, [share, 1 - share, 0], rtol=1e-9)
    assert float(log_total_loss(loss, margins, keep)) == float(total)


def test_logistic_has_no_step_where_its_formula_changes():
    near = np.array([39.999999, 40.000001])
    values = LOSSES["logistic"].log_value(near)
    np.testing.assert_allclose(values, -near, rtol=1e-15)
