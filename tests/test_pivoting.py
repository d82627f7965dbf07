"""Bounded least squares by pivoting, against SciPy and the conditions for a minimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import lsq_linear, nnls

from gaunlearn.pivoting import minimise_in_box


def drawn(seed, m, rows):
    """(A, b) of min ||A l - b||, many of whose solution's entries are at a bound."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, m)) + 0.3, rng.normal(size=rows)


def pivoted(a, b, used=None, ceiling=None, needed=True):
    m = a.shape[1]
    return jax.jit(minimise_in_box)(
        jnp.asarray(a.T @ a),
        jnp.asarray(a.T @ b),
        jnp.ones(m, bool) if used is None else jnp.asarray(used),
        jnp.full(m, jnp.inf) if ceiling is None else jnp.asarray(ceiling),
        needed,
    )


@pytest.mark.parametrize("m", [1, 2, 7, 30])
@pytest.mark.parametrize("seed", range(5))
def test_without_ceilings_it_agrees_with_nnls(m, seed):
    a, b = drawn(seed, m, 2 * m + 3)
    got = pivoted(a, b)
    assert got.ended
    np.testing.assert_allclose(got.solution, nnls(a, b)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_with_ceilings_no_variable_can_move_to_advantage(seed):
    """The conditions for a minimum, which the problem being convex is the global one; SciPy's
    bounded solvers end at points that are worse.
    """
    a, b = drawn(seed, 12, 30)
    rng = np.random.default_rng(seed + 100)
    ceiling = np.where(rng.random(12) < 0.5, rng.uniform(0, 0.2, 12), np.inf)
    ceiling[3] = 0.0
    got = pivoted(a, b, ceiling=ceiling)
    assert got.ended
    found = np.asarray(got.solution)
    assert np.all((found >= 0) & (found <= ceiling))
    pull = a.T @ (b - a @ found)
    assert np.all(pull[found == 0] <= 1e-10 + 1e300 * (ceiling[found == 0] == 0))
    assert np.all(pull[(found == ceiling) & (ceiling > 0)] >= -1e-10)
    np.testing.assert_allclose(pull[(found > 0) & (found < ceiling)], 0, atol=1e-10)
    # SciPy wants an interval, not a point.
    other = lsq_linear(a, b, (0, np.maximum(ceiling, 1e-300)), method="bvls")
    assert np.linalg.norm(a @ found - b) <= np.linalg.norm(a @ other.x - b) * (1 + 1e-12)


def test_variables_that_are_not_used_stay_zero_and_change_nothing():
    a, b = drawn(0, 9, 20)
    used = np.arange(9) % 3 != 1
    got = pivoted(a, b, used=used)
    assert np.all(np.asarray(got.solution)[~used] == 0)
    np.testing.assert_allclose(np.asarray(got.solution)[used], nnls(a[:, used], b)[0], atol=1e-12)


def test_nothing_is_computed_where_nothing_is_needed():
    got = pivoted(*drawn(0, 4, 9), needed=jnp.asarray(False))
    assert np.all(np.asarray(got.solution) == 0)
    assert not got.ended


def test_a_batch_gives_each_lane_what_it_gives_alone():
    cases = [drawn(seed, 8, 12) for seed in range(6)]
    grams = jnp.stack([a.T @ a for a, _ in cases])
    targets = jnp.stack([a.T @ b for a, b in cases])
    every, none = jnp.ones(8, bool), jnp.full(8, jnp.inf)
    together = jax.jit(jax.vmap(lambda h, t: minimise_in_box(h, t, every, none)))(grams, targets)
    for place, case in enumerate(cases):
        np.testing.assert_allclose(
            together.solution[place], pivoted(*case).solution, rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize(("m", "rows"), [(6, 20), (30, 60)])
def test_of_many_solutions_the_one_of_least_norm_is_found(m, rows):
    """Every variable twice: halves of each, however the products of the copies are rounded."""
    for seed in range(20):
        a, _ = drawn(seed, m, rows)
        single = np.arange(1.0, m + 1)
        got = pivoted(np.hstack([a, a]), a @ single)
        assert got.ended
        halves = np.asarray(got.solution).reshape(2, m)
        np.testing.assert_allclose(halves, 0.5 * single * np.ones((2, 1)), rtol=1e-9)


def test_a_matrix_of_zeros_has_the_solution_zero():
    got = pivoted(np.zeros((5, 3)), np.ones(5))
    assert got.ended
    assert np.all(np.asarray(got.solution) == 0)
