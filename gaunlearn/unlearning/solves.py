"""Methods that solve one linear system of the size of the sample: Newton's step, and the step that
corrects the retained multipliers.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from gaunlearn.losses import Loss, relative_slopes
from gaunlearn.models import Model, clean_preactivations, preactivations, slopes
from gaunlearn.snapping import snap
from gaunlearn.training import margins
from gaunlearn.unlearning.ascent import ascent_direction
from gaunlearn.unlearning.situation import (
    Effort,
    Situation,
    Unlearned,
    gradient_sum,
)

__all__ = ["corrected_ascent", "newton", "ridge_newton_step", "solve_spd"]


def solve_spd(matrix: Float[Array, "m m"], right: Float[Array, " m"]) -> Float[Array, " m"]:
    """The solution of a symmetric positive semidefinite system, by conjugate gradients.

    Batched LAPACK inside a compiled loop is not safe on several CPU devices. Where the matrix is
    singular and the system consistent, it is the solution of least norm. Run twice over, so that
    the error is that of one residual computed afresh.
    """
    rounding, tiny = jnp.finfo(right.dtype).eps, jnp.finfo(right.dtype).tiny
    m = right.shape[0]
    flat = 10 * rounding * jnp.trace(matrix)

    def once(right):
        goal = (0.1 * rounding) ** 2 * jnp.sum(right**2)

        def iterate(state):
            solution, residual, direction, squared, count, _ = state
            image = matrix @ direction
            bending = direction @ image
            going = bending > flat * (direction @ direction)
            length = jnp.where(going, squared / jnp.maximum(bending, tiny), 0.0)
            solution, residual = solution + length * direction, residual - length * image
            new = residual @ residual
            direction = residual + new / jnp.maximum(squared, tiny) * direction
            return solution, residual, direction, new, count + 1, going

        start = (jnp.zeros_like(right), right, right, right @ right, 0, jnp.asarray(True))
        return jax.lax.while_loop(
            lambda state: (state[3] > goal) & state[5] & (state[4] < 4 * m + 50), iterate, start
        )[0]

    solution = once(right)
    return solution + once(right - matrix @ solution)


def ridge_newton_step(
    gram: Float[Array, "m m"],
    pull: Float[Array, " m"],
    curvature: Float[Array, " m"],
    ridge: Float[Array, ""],
) -> Float[Array, " m"]:
    """Coefficients b of Newton's step on ridge ||w||^2 / 2 + sum_i f_i(<v_i, w>).

    With gradient g = ridge w + sum_i f_i' v_i and Hessian H = ridge + sum_i f_i'' v_i v_i^T, the
    step is -H^-1 g = -g / ridge + sum_i b_i v_i (Woodbury), where with C = diag(f_i'') and
    K_ik = <v_i, v_k>

        (ridge C^-1 + K) b = pull / ridge.

    Args:
        gram: K.
        pull: <v_i, g>.
        curvature: f_i'' >= 0; samples with 0 take no part.
    """
    root = jnp.sqrt(curvature)
    matrix = ridge * jnp.eye(gram.shape[0], dtype=gram.dtype) + root[:, None] * gram * root
    return root * solve_spd(matrix, root * pull / ridge)


def _gradient_gram(
    model: Model, situation: Situation, pattern: Float[Array, "n m"]
) -> Float[Array, "m m"]:
    """<v_i, v_k> for the signed gradients v_i with rows u_j pattern_ji y_i x_i."""
    signed = situation.y[:, None] * situation.x
    return (signed @ signed.T) * (pattern.T @ (situation.u[:, None] ** 2 * pattern))


def newton(model: Model, loss: Loss, situation: Situation, effort: Effort) -> Unlearned:
    """f times one Newton step on the retain set (certified removal; Guo et al. 2020, *Certified
    data removal from machine learning models*).

    Their loss is regularised, ours is not; so the step is taken on (ridge / 2) ||W||^2 + L(W) / L0
    with the ridge for which the trained weights are stationary as nearly as a multiple of them can
    be: ridge ||W||^2 = sum_i p_i q_i, p_i = -l'(q_i) / L0 (Euler's identity; for homogeneity 1).
    """
    s = situation
    q = margins(model, s.weights, s.u, s.x, s.y)
    factors, _ = relative_slopes(loss, q, s.present)
    norm = jnp.sum(s.weights**2)
    ridge = jnp.sum(factors * q) / jnp.where(norm > 0, norm, 1.0)
    pattern = slopes(model, clean_preactivations(s.weights, s.u, s.x))
    kept = jnp.where(s.retain, factors, 0.0)
    gradient = ridge * s.weights - gradient_sum(model, s, s.weights, kept)
    signed = s.y[:, None] * s.x
    pull = jnp.sum(s.u[:, None] * pattern * (gradient @ signed.T), axis=0)
    gram = _gradient_gram(model, s, pattern)
    b = ridge_newton_step(gram, pull, kept * loss.bending(q), ridge)
    step = gradient_sum(model, s, s.weights, b) - gradient / ridge
    gradients = jnp.sum(s.retain).astype(q.dtype)
    return Unlearned(s.weights + effort.step_fraction * step, gradients)


def _at_kinks(model: Model, situation: Situation) -> Bool[Array, "n m"]:
    """Retained pairs at a kink of the certificate's weights: zero but for rounding."""
    z = clean_preactivations(situation.certificate.weights, situation.u, situation.x)
    return (z == 0) & situation.retain & (situation.u[:, None] != 0) & model.has_kinks


def corrected_ascent(model: Model, loss: Loss, situation: Situation, effort: Effort) -> Unlearned:
    """f times the theorem's step with the retained multipliers solved for anew in a frozen cell.

    The cell is that of the trained model's certificate: its signs, its kinks, and its support S,
    the retained samples with lambda_i > 0. P projects each row onto the kinks of retained samples,
    v_i is the gradient of q_i on the cell. The step ends at

        theta' = P theta^ + sum_S Delta_i P v_i,    <v_i, theta'> = 1 on S,

    one linear system, <P v_i, P v_k> Delta = 1 - <v_i, P theta^>. From a KKT point of the whole
    sample this is one of the retain set if that has the same cell.
    """
    del loss
    s, found = situation, situation.certificate
    support = s.retain & (found.multipliers > 0)
    kink = _at_kinks(model, s)
    pattern = jnp.where(kink, 0.0, slopes(model, preactivations(found.weights, s.x)))
    signed = s.y[:, None] * s.x

    def projected(rows):
        return snap(rows, s.x, kink.T) if model.has_kinks else rows

    def gradient(slope, sample):
        return projected((s.u * slope)[:, None] * sample)

    gradients = jax.vmap(gradient)(jnp.where(support, pattern, 0.0).T, signed)
    ascended = projected(found.weights - ascent_direction(model, found, s.u, s.x, s.y, s.forget))
    missing = jnp.where(support, 1 - jnp.tensordot(gradients, ascended, 2), 0.0)
    flat = gradients.reshape(len(s.y), -1)
    delta = solve_spd(flat @ flat.T, missing)
    step = ascended + jnp.tensordot(delta, gradients, 1) - found.weights
    cost = jnp.sum(s.present).astype(delta.dtype)
    return Unlearned(s.weights + effort.step_fraction * s.scale * step, cost)
