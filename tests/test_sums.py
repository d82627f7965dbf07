"""Sums as products with ones."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaunlearn.sums import matrix_norm, matrix_sum, row_norms, row_sums


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40))
def test_they_are_sums(seed, n, m):
    a = np.random.default_rng(seed).normal(size=(n, m))
    unit = np.abs(a).sum()
    np.testing.assert_allclose(row_sums(jnp.asarray(a)), a.sum(1), rtol=0, atol=1e-14 * unit)
    np.testing.assert_allclose(matrix_sum(jnp.asarray(a)), a.sum(), rtol=0, atol=1e-14 * unit)
    np.testing.assert_allclose(row_norms(jnp.asarray(a)), np.linalg.norm(a, axis=1), rtol=1e-14)
    np.testing.assert_allclose(matrix_norm(jnp.asarray(a)), np.linalg.norm(a), rtol=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_stays_so(bad):
    a = jnp.ones((3, 4)).at[1, 2].set(bad)
    assert np.isnan(row_sums(a)).tolist() == [False, np.isnan(bad), False]
    for value in (matrix_sum(a), matrix_norm(a), row_norms(a)[1]):
        np.testing.assert_equal(float(value), bad)
    assert row_norms(a)[0] == 2.0
