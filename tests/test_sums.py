"""Sums as products with ones."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaunlearn.sums import (
    count,
    dot,
    is_any,
    matrix_norm,
    matrix_sum,
    row_norms,
    row_sums,
    times,
    total,
)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40))
def test_they_are_sums(seed, n, m):
    a = np.random.default_rng(seed).normal(size=(n, m))
    unit = np.abs(a).sum()
    np.testing.assert_allclose(row_sums(jnp.asarray(a)), a.sum(1), rtol=0, atol=1e-14 * unit)
    np.testing.assert_allclose(matrix_sum(jnp.asarray(a)), a.sum(), rtol=0, atol=1e-14 * unit)
    np.testing.assert_allclose(row_norms(jnp.asarray(a)), np.linalg.norm(a, axis=1), rtol=1e-14)
    np.testing.assert_allclose(matrix_norm(jnp.asarray(a)), np.linalg.norm(a), rtol=1e-14)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40))
def test_vectors_too_short_and_long(seed, n, m):
    rng = np.random.default_rng(seed)
    a, v, w = rng.normal(size=(n, m)), rng.normal(size=m), rng.normal(size=m)
    near = {"rtol": 0, "atol": 1e-13 * (1 + np.abs(a).sum()) * (1 + np.abs(v).max())}
    np.testing.assert_allclose(total(jnp.asarray(v)), v.sum(), **near)
    np.testing.assert_allclose(dot(jnp.asarray(v), jnp.asarray(w)), v @ w, rtol=0, atol=1e-12)
    np.testing.assert_allclose(times(jnp.asarray(a), jnp.asarray(v)), a @ v, **near)


def test_counts_are_exact_beyond_what_float32_can_tell():
    many = jnp.ones((5, 4_000_001), bool).at[2, 7].set(False)
    assert int(count(many, "float32")) == 20_000_004


def test_one_among_many_is_any():
    none = jnp.zeros((7, 50), bool)
    assert not is_any(none, float)
    for place in ((0, 0), (6, 49), (3, 20)):
        assert is_any(none.at[place].set(True), float)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_stays_so(bad):
    a = jnp.ones((3, 4)).at[1, 2].set(bad)
    assert np.isnan(row_sums(a)).tolist() == [False, np.isnan(bad), False]
    for value in (matrix_sum(a), matrix_norm(a), row_norms(a)[1]):
        np.testing.assert_equal(float(value), bad)
    assert row_norms(a)[0] == 2.0
