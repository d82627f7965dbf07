"""The ladder of kink tolerances: which of its certificates is taken for a model.

Close to a kink and on it are told apart by a tolerance, and what snapping costs in tau decides
which one is worth it. Most rungs of most networks find the same kinks as the rung before: their
certificates are the same, and are not computed again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.certificate import Certificate, certify_at, distinct_rungs
from gaunlearn.models import Model
from gaunlearn.sums import matrix_norm

__all__ = [
    "IGNORED_KINKS",
    "KINK_TOLS",
    "TAU_BUDGET",
    "certify",
    "choose",
    "is_better",
    "ladder",
]

# Trained networks need about 1e-3; the ascent step moves retained kinks by about
# lambda |u_j| phi, so unlearned ones need about phi. What a rung costs in tau decides.
KINK_TOLS = (0.0, 1e-4, 1e-3, 1e-2, 2e-2, 3e-2, 4e-2, 5e-2, 6e-2, 8e-2, 1e-1)
TAU_BUDGET = 1e-3
# A negative tolerance: no pair is at a kink.
IGNORED_KINKS = (-1.0,)

# Two epsilons that differ by so little are equal.
_TIED_UNITS = 4


def _fold_rungs(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    kink_tols: Float[Array, " l"],
    take_in: Callable[[Int[Array, ""], Certificate, Any], Any],
    start: Callable[[Certificate], Any],
) -> tuple[Any, Bool[Array, " l"]]:
    """Go up a ladder of kink tolerances, past rungs that have the kinks of the one before.

    Args:
        take_in: (number of a rung, its certificate, state) -> state.
        start: certificate, of whose leaves only shapes and types mean anything -> state.

    Returns:
        The state at the end, and which rungs it has seen.
    """
    distinct = distinct_rungs(model, weights, u, x, retain, kink_tols)

    def at(number):
        return certify_at(model, weights, u, x, y, retain, kink_tols[number])

    def look(carry):
        pending, state = carry
        number = jnp.argmax(pending)
        return pending.at[number].set(False), take_in(number, at(number), state)

    shapes = jax.eval_shape(at, 0)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    _, state = jax.lax.while_loop(lambda carry: jnp.any(carry[0]), look, (distinct, start(empty)))
    return state, distinct


def ladder(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    kink_tols: Float[Array, " l"],
) -> Certificate:
    """One certificate for each kink tolerance, stacked along the first axis.

    A negative tolerance ignores kinks altogether: the derivative is 1[z > 0], tau is 0.
    """
    if not model.has_kinks:
        kink_tols = kink_tols[:1]
    numbers = jnp.arange(len(kink_tols))

    def stacked(leaf):
        return jnp.zeros((len(kink_tols), *leaf.shape), leaf.dtype)

    found, distinct = _fold_rungs(
        model,
        weights,
        u,
        x,
        y,
        retain,
        kink_tols,
        lambda number, new, all_: jax.tree.map(lambda a, b: a.at[number].set(b), all_, new),
        lambda empty: jax.tree.map(stacked, empty),
    )
    source = jax.lax.cummax(jnp.where(distinct, numbers, 0))
    each = jax.tree.map(lambda leaf: leaf[source], found)
    return each._replace(kink_tol=jnp.maximum(kink_tols, 0.0))


def is_better(new: Certificate, old: Certificate, tau_budget: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether a certificate is to be preferred to one from an earlier rung: for its epsilon if its
    tau is within the budget, by more than differences of rounding; if neither is, for its tau.
    """
    rounding = _TIED_UNITS * jnp.finfo(new.tau.dtype).eps
    fits, fitted = (each.separated & (each.tau <= tau_budget) for each in (new, old))
    less = new.epsilon + rounding * matrix_norm(old.weights) < old.epsilon
    nearer = new.separated & (~old.separated | (new.tau < old.tau))
    return jnp.where(fits, ~fitted | less, ~fitted & nearer)


def choose(rungs: Certificate, tau_budget: Float[Array, ""]) -> Certificate:
    """The best of stacked certificates: one after the other is held against the best so far
    (``is_better``), so that the first of several equal ones is taken.
    """

    def rung(number):
        return jax.tree.map(lambda leaf: leaf[number], rungs)

    def look(number, best):
        return jnp.where(is_better(rung(number), rung(best), tau_budget), number, best)

    return rung(jax.lax.fori_loop(1, len(rungs.tau), look, 0))


def certify(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    kink_tols: Float[Array, " l"],
    tau_budget: Float[Array, ""],
) -> Certificate:
    """The best certificate on a ladder of kink tolerances within a budget for tau.

    Pure, jittable, vmappable. A model that does not separate the retain set gets NaN and
    ``separated = False``. The columns of ``x`` must hold the whole of ``weights`` (its
    remainder outside the samples' span as columns in which ``x`` is zero).
    """

    def take_in(number, new, best):
        better = (number == 0) | is_better(new, best, tau_budget)
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best)

    if not model.has_kinks:
        kink_tols = kink_tols[:1]
    return _fold_rungs(model, weights, u, x, y, retain, kink_tols, take_in, lambda empty: empty)[0]
