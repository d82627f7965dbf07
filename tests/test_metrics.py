"""Accuracy, disagreement and membership against NumPy."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gaunlearn.metrics import accuracy, disagreement, membership

# Few values, so that there are ties, and zeros.
values = st.integers(-3, 3).map(float)


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=9), st.lists(values, min_size=1, max_size=80))
def test_membership_is_mann_and_whitneys_share(margins, fresh):
    q, t = np.array(margins), np.array(fresh)
    want = (t < q[:, None]).mean(1) + 0.5 * (t == q[:, None]).mean(1)
    np.testing.assert_allclose(membership(jnp.asarray(q), jnp.asarray(t)), want, atol=1e-15)


@settings(deadline=None)
@given(st.lists(st.tuples(values, values), min_size=1, max_size=80))
def test_a_logit_of_zero_is_an_error_and_a_sign_of_its_own(pairs):
    a, b = np.array(pairs).T
    y = np.where(np.arange(len(a)) % 2, 1.0, -1.0)
    np.testing.assert_allclose(accuracy(jnp.asarray(a), jnp.asarray(y)), (y * a > 0).mean())
    want = (np.sign(a) != np.sign(b)).mean()
    np.testing.assert_allclose(disagreement(jnp.asarray(a), jnp.asarray(b)), want)
