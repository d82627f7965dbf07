"""The interior-point method against cvxpy, and its inverses against NumPy."""

import jax
import numpy as np
import pytest
from cases import output_weights
from oracles import largest_frozen_margin, limit_by_cvxpy, sample_in_d_dimensions

from gaunlearn.interior import _inverse, follow_central_path


@pytest.mark.parametrize("m", [1, 7, 8, 21])
def test_inverses(m):
    """Also of matrices whose rows differ by ten orders of magnitude. To 1e-9 relative."""
    factors = np.random.default_rng(m).normal(size=(5, m, m + 3))
    scale = np.logspace(-5, 5, m)
    matrices = scale[:, None] * (factors @ factors.transpose(0, 2, 1)) * scale
    got = np.asarray(jax.jit(_inverse)(matrices))
    want = np.linalg.inv(matrices / scale / scale[:, None]) / scale / scale[:, None]
    size = np.sqrt(np.diagonal(want, axis1=1, axis2=2))
    assert np.all(np.abs(got - want) <= 1e-9 * size[:, :, None] * size[:, None, :])


def program(seed, n, m, d, leak):
    """(x, y, u, pattern, coefficients, multipliers) of a random pattern."""
    rng = np.random.default_rng(seed)
    x, y = sample_in_d_dimensions(rng, m, d)
    u = output_weights(n)
    same_sign = y * u[:, None] > 0
    pattern = np.where(rng.normal(size=(n, d)) @ x.T > 0, 1.0, leak)
    signed = y[:, None] * x
    point = jax.jit(follow_central_path, static_argnums=6)(
        signed @ signed.T,
        u**2,
        np.where(same_sign, pattern, 0.0),
        ~same_sign,
        np.ones(m, bool),
        0.1,
        leak,
    )
    lam = np.asarray(point.multipliers)
    c = np.where(same_sign, pattern * lam, leak * lam + np.asarray(point.above_bottom))
    return x, y, u, pattern, c, lam


@pytest.mark.parametrize("leak", [0.0, 0.2])
@pytest.mark.parametrize(("n", "m", "d"), [(8, 5, 12), (20, 8, 6), (1, 3, 4)])
def test_agrees_with_cvxpy(n, m, d, leak):
    """Up to scale, which the elastic term leaves free. To 1e-6."""
    for seed in range(4):
        x, y, u, pattern, c, lam = program(seed, n, m, d, leak)
        if n == 1 and not np.all(y * u[0] > 0):
            continue
        assert np.all((c >= leak * lam - 1e-15) & (c <= lam + 1e-15))
        theta = (u[:, None] * c) @ (y[:, None] * x)
        if leak == 0 and largest_frozen_margin(u, x, y, pattern) < 1e-7:
            assert np.linalg.norm(theta) <= 1e-7 * lam.sum()
            continue
        want = limit_by_cvxpy(u, x, y, np.ones(m, bool), pattern, leak)
        units = theta / np.linalg.norm(theta), want / np.linalg.norm(want)
        assert np.linalg.norm(units[0] - units[1]) <= 1e-6


def test_masked_samples_are_not_there():
    """Nor do they count in the sum of the multipliers."""
    rng = np.random.default_rng(0)
    x, y = sample_in_d_dimensions(rng, 5, 8)
    signed, u = y[:, None] * x, output_weights(6)
    same_sign, pattern = y * u[:, None] > 0, 1.0 * (rng.normal(size=(6, 8)) @ x.T > 0)

    slopes, gram, few = np.where(same_sign, pattern, 0.0), signed @ signed.T, np.arange(5) < 4
    want = follow_central_path(
        gram[:4, :4], u**2, slopes[:, :4], ~same_sign[:, :4], np.ones(4, bool), 0.1, 0.0
    )
    got = follow_central_path(
        np.where(few & few[:, None], gram, 0.0), u**2, slopes * few, ~same_sign & few, few, 0.1, 0.0
    )
    np.testing.assert_allclose(got.multipliers[:4], want.multipliers, rtol=1e-6, atol=1e-9)
    assert want.multipliers.sum() > 1e-3


def test_float32_stays_float32():
    """And finds to its rounding what float64 finds: by hand lambda_i = e / (1 + e m) for
    orthonormal samples and one neuron with u = 1.
    """
    for dtype, tolerance in ((np.float32, 1e-4), (np.float64, 1e-9)):
        ones, none = np.ones((1, 3), dtype), np.zeros((1, 3), bool)
        point = follow_central_path(
            np.eye(3, dtype=dtype), ones[:, 0], ones, none, np.ones(3, bool), dtype(0.1), 0.0
        )
        assert {leaf.dtype for leaf in point} == {np.dtype(dtype)}
        np.testing.assert_allclose(point.multipliers, 0.1 / (1 + 0.3), rtol=tolerance)


def test_computes_nothing_where_it_is_not_needed():
    """The starting point comes back: every multiplier the same."""
    x, u = np.eye(3), np.ones(2)
    both = np.ones((2, 3), bool)
    point = follow_central_path(x, u**2, 1.0 * both, ~both, np.ones(3, bool), 1.0, 0.0, False)
    assert np.all(np.asarray(point.multipliers) == point.multipliers[0])
