"""The ladder of tolerances, and all that is looked at beyond it: nothing is left out.

Whatever is passed over is computed here all the same, one certificate after the other.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import network_at_kinks
from hypothesis import given, settings
from hypothesis import strategies as st

from gaunlearn import frontier
from gaunlearn.certificate import Certificate, certify_at, distinct_rungs, one_minus_cosine
from gaunlearn.frontier import best_and_least, path_to, point_on, position_within
from gaunlearn.ladder import certify, choose, ladder
from gaunlearn.models import LINEAR, RELU, deep_relu

TOLS = jnp.asarray([0.0, 1e-5, 1e-3, 1e-3, 3e-2, 4e-2, 0.2, 1e-2])
DELTAS, TAUS = jnp.asarray([1e-2, jnp.inf, 1e-1]), jnp.asarray([1e-3, 1e-2, 1e-1])
EVERYTHING = jnp.ones(6, bool)


def near_kinks(seed):
    """A network some of whose pre-activations are within 1e-4, and some within 1e-2 of 0."""
    rng = np.random.default_rng(seed)
    W, u, x, y, kink = network_at_kinks(rng, 12, 6, 14, 2)
    moved = W + rng.choice([1e-4, 1e-2], (12, 1)) * rng.normal(size=W.shape)
    return moved, u, x, y, kink, W


certified = jax.jit(certify_at, static_argnames="model")
laddered = jax.jit(ladder, static_argnames="model")
climbed = jax.jit(certify, static_argnames="model")


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_each_rung_is_the_certificate_at_its_tolerance(seed):
    W, u, x, y, *_ = near_kinks(seed)
    rungs = laddered(RELU, W, u, x, y, EVERYTHING, TOLS)
    for number, tol in enumerate(TOLS):
        own = certified(RELU, W, u, x, y, EVERYTHING, tol)
        for name, got, want in zip(Certificate._fields, rungs, own, strict=True):
            np.testing.assert_allclose(got[number], want, rtol=1e-12, atol=1e-14, err_msg=name)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1e-6, 1e-3, 1.0]))
def test_the_best_is_that_of_all_rungs(seed, budget):
    W, u, x, y, *_ = near_kinks(seed)
    best = climbed(RELU, W, u, x, y, EVERYTHING, TOLS, budget)
    want = choose(laddered(RELU, W, u, x, y, EVERYTHING, TOLS), budget)
    for name, got, own in zip(Certificate._fields, best, want, strict=True):
        np.testing.assert_allclose(got, own, rtol=1e-12, atol=1e-14, err_msg=name)


def test_rungs_are_told_apart_by_hand():
    """Of two neurons and two samples e_1, e_2: |z| = 0, 0.1, 0.3, 3 of a scale of about 2.1."""
    W = jnp.asarray([[0.0, 0.3], [3.0, -0.1]])
    u, x = jnp.asarray([1.0, -1.0]), jnp.eye(2)
    tols = jnp.asarray([0.0, 0.01, 0.06, 0.1, 0.2, 2.0, 0.0])
    both = jnp.ones(2, bool)
    found = distinct_rungs(RELU, W, u, x, both, tols)
    assert found.tolist() == [True, False, True, False, True, True, True]
    # Without the second sample, 0.1 and 0.3 are none of the ladder's.
    first = distinct_rungs(RELU, W, u, x, jnp.asarray([True, False]), tols)
    assert first.tolist() == [True, False, False, False, False, True, True]
    # Where kinks are ignored there is nothing to be near to.
    ignored = distinct_rungs(RELU, W, u, x, both, jnp.asarray([-1.0, -1.0, 0.0]))
    assert ignored.tolist() == [True, False, True]
    assert distinct_rungs(deep_relu(2), W, u, x, both, tols).all()
    assert distinct_rungs(LINEAR, W[:1], u[:1], x, both, tols).all()


def stacked(*rows):
    """Certificates of which only (epsilon, tau, separated) mean anything."""
    epsilon, tau, separated = map(jnp.asarray, zip(*rows, strict=True))
    size = len(rows)
    return Certificate(
        epsilon=epsilon,
        delta=epsilon,
        tau=tau,
        multipliers=jnp.zeros((size, 1)),
        coefficients=jnp.zeros((size, 1, 1)),
        kink_pairs=jnp.zeros(size, int),
        separated=separated,
        kink_tol=jnp.arange(size, dtype=float),
        gap=jnp.zeros(size),
        weights=jnp.ones((size, 1, 1)),
        margins=jnp.ones((size, 1)),
    )


@pytest.mark.parametrize(
    ("rows", "want"),
    [
        # The least epsilon within the budget, whatever is beyond it.
        ([(0.5, 0.0, True), (0.3, 1e-4, True), (0.1, 1e-2, True)], 1),
        # Of equal ones the first, and rounding is no difference.
        ([(0.5, 0.0, True), (0.3, 1e-4, True), (0.3, 0.0, True)], 1),
        ([(0.3, 1e-4, True), (0.3 - 1e-16, 0.0, True)], 0),
        # Steps that are rounding each, but not together.
        ([(1.0, 0.0, True), (1.0 - 5e-16, 0.0, True), (1.0 - 1.2e-15, 0.0, True)], 2),
        # None within: the least tau of those that separate.
        ([(0.5, 0.4, True), (0.9, 0.2, True), (0.1, 0.3, True)], 1),
        ([(np.nan, np.nan, False), (0.9, 0.2, True), (np.nan, np.nan, False)], 1),
        # One within is better than a nearer one that separates nothing.
        ([(np.nan, 0.0, False), (0.9, 1e-4, True)], 1),
        ([(np.nan, np.nan, False), (np.nan, np.nan, False)], 0),
    ],
)
def test_which_rung_is_taken(rows, want):
    assert choose(stacked(*rows), 1e-3).kink_tol == want


@jax.jit
def looked_up(W, u, x, y, retain, ends):
    return best_and_least(RELU, W, u, x, y, retain, TOLS, 1e-3, ends, DELTAS, TAUS)


def every_triple(W, u, x, y, retain, ends):
    """All there is to look at, each for itself: (epsilon, delta, tau)."""

    def triple(point, tol, delta=jnp.inf):
        found = certified(RELU, point, u, x, y, retain, tol, delta)
        return found, (found.epsilon, found.delta, one_minus_cosine(W, found.weights))

    rungs = [triple(W, tol) for tol in TOLS]
    yield from (numbers for _, numbers in rungs)
    for tau in TAUS:
        within = [found for found, _ in rungs if found.separated and found.tau <= tau]
        points = [min(within, key=lambda found: found.epsilon).weights] if within else []
        for end in ends:
            path = path_to(RELU, W, u, x, retain, end)
            points.append(point_on(path, position_within(path, tau)))
        for point in points:
            for delta in DELTAS:
                yield triple(point, jnp.asarray(0.0), delta)[1]


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_nothing_that_is_passed_over_was_better(seed, is_far, has_end):
    W, u, x, y, _, at_kinks = near_kinks(seed)
    rng = np.random.default_rng(seed)
    far = at_kinks + 0.3 * rng.normal(size=W.shape) * is_far
    ends = np.stack([at_kinks if has_end else np.full_like(W, np.nan), far])
    retain = jnp.arange(6) != seed % 6
    best, least = looked_up(W, u, x, y, retain, ends)
    np.testing.assert_allclose(
        best.epsilon, climbed(RELU, W, u, x, y, retain, TOLS, 1e-3).epsilon, rtol=1e-12
    )
    triples = np.array(list(every_triple(W, u, x, y, retain, ends)))
    for row, delta in enumerate(DELTAS):
        for column, tau in enumerate(TAUS):
            fits = (triples[:, 1] <= delta) & (triples[:, 2] <= tau)
            want = np.nanmin(triples[fits, 0], initial=np.inf)
            got = np.inf if np.isnan(least[row, column]) else least[row, column]
            assert got == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_of_the_rungs_alone_if_that_is_all():
    W, u, x, y, _, at_kinks = near_kinks(1)
    deltas = jnp.asarray([0.1, jnp.inf])
    given_ = (RELU, W, u, x, y, EVERYTHING, TOLS, 1e-3, jnp.asarray(at_kinks)[None], deltas, TAUS)
    best, least = best_and_least(*given_, beyond=False)
    rungs = laddered(RELU, W, u, x, y, EVERYTHING, TOLS)
    fits = (rungs.delta <= deltas[:, None, None]) & (rungs.tau <= TAUS[None, :, None])
    want = jnp.min(jnp.where(fits, rungs.epsilon, jnp.inf), axis=2)
    np.testing.assert_allclose(jnp.where(jnp.isnan(least), jnp.inf, least), want, rtol=1e-12)
    more, beyond = best_and_least(*given_)
    assert best.epsilon == more.epsilon
    assert np.isnan(least[0]).all()
    assert np.isfinite(beyond).all()
    assert np.isfinite(least[1]).all()
    assert np.all(beyond[1] <= least[1])


def test_what_is_known_is_not_computed_again(monkeypatch):
    """W = [e_1, e_2] with u = [1, -1] on samples e_1, e_2 of either label is a KKT point with
    multipliers 1 and delta 0: all rungs have its two kinks, no bound asks for other multipliers,
    and the path to itself is one point, at which they are 0, too. Nothing leads to what is NaN.
    """
    looks = []

    def counted(*arguments):
        jax.debug.callback(lambda: looks.append(1))
        return certify_at(*arguments)

    monkeypatch.setattr(frontier, "certify_at", counted)
    W, u, x, y = jnp.eye(2), jnp.asarray([1.0, -1.0]), jnp.eye(2), jnp.asarray([1.0, -1.0])
    for ends, want in (([W, jnp.full_like(W, jnp.nan)], 2), ([W, W], 3)):
        looks.clear()
        best, least = best_and_least(
            RELU, W, u, x, y, jnp.ones(2, bool), TOLS, 1e-3, jnp.stack(ends), DELTAS, TAUS
        )
        jax.effects_barrier()
        assert len(looks) == want
        assert best.epsilon == 0.0
        assert np.all(least == 0.0)
