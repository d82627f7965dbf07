"""The running median against NumPy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaunlearn.sweep.tally import counts_of, median_of

NUMBERS = st.lists(
    st.one_of(st.just(0.0), st.just(float("nan")), st.floats(1e-300, 1e300)), max_size=60
)


@given(NUMBERS, NUMBERS)
def test_the_median_of_parts_is_that_of_the_whole(one, two):
    """To half a bin, and of an even number the lower one; NaN do not count."""
    found = median_of(counts_of(np.array(one)) + counts_of(np.array(two)))
    known = np.array([value for value in one + two if value == value])
    if not known.size:
        assert np.isnan(found)
        return
    want = np.quantile(known, 0.5, method="inverted_cdf")
    assert found == pytest.approx(want, rel=0.006, abs=0.0)


def test_a_receipt_stays_small():
    """A million epsilons over sixteen decades fill no more bins than there are."""
    values = 10 ** np.random.default_rng(0).uniform(-16, 0, 1_000_000)
    assert len(counts_of(values)) <= 16 * 200
