"""JAX as one would write it: in weight space, vmap over trials, scan over steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .trials import Array, Samples, Triples, multipliers

__all__ = ["judge", "train"]


def _log_loss(w, x, y, keep, u):
    q = y * (jax.nn.relu(x @ w.T) @ u)
    log_each = jnp.where(q > 30, -q, jnp.log(jax.nn.softplus(-jnp.minimum(q, 30))))
    return jax.nn.logsumexp(jnp.where(keep, log_each, -jnp.inf))


@partial(jax.jit, static_argnames="steps")
def _train(x, y, keep, start, u, steps, step_size):
    def one(x, y, keep, w):
        def step(w, _):
            return w - step_size * jax.grad(_log_loss)(w, x, y, keep, u), None

        return jax.lax.scan(step, w, None, steps)[0]

    return jax.vmap(one)(x, y, keep, start)


def train(samples: Samples, start: Array, u: Array, steps: int, step_size: float) -> Array:
    """See ``trials.NetworkPeer``."""
    return np.array(_train(samples.x, samples.y, samples.keep, start, u, steps, step_size))


@jax.jit
def _features(w, x, y, keep, u):
    """w with least kept margin 1, margins, slopes and the Gram matrix of the gradients."""
    z = x @ w.T
    q = y * (jax.nn.relu(z) @ u)
    least = jnp.min(jnp.where(keep, q, jnp.inf))
    slopes = (y * keep)[:, None] * (z > 0) * u
    return w / least, q / least, slopes, (slopes @ slopes.T) * (x @ x.T)


@jax.jit
def _residual(theta, slopes, level, x):
    return jnp.linalg.norm(theta - (slopes * level[:, None]).T @ x)


def _certificates(w, x, y, keep, u):
    theta, q, slopes, gram = jax.vmap(_features, (0, 0, 0, 0, None))(w, x, y, keep, u)
    margins, products = np.asarray(q), np.asarray(gram)
    level = np.zeros_like(margins)
    for place, kept in enumerate(keep):
        level[place, kept] = multipliers(products[place][np.ix_(kept, kept)], margins[place, kept])
    slack = np.where(keep, level * (margins - 1), -np.inf)
    return np.asarray(jax.vmap(_residual)(theta, slopes, level, x)), slack.max(1), level, theta


@jax.jit
def _steps(theta, x, y, forget, level, u):
    def one(theta, x, y, forget, level):
        slope = u * (theta @ x[forget] > 0)
        return level[forget] * y[forget] * slope[:, None] * x[forget]

    return jax.vmap(one)(theta, x, y, forget, level)


@jax.jit
def _one_minus_cosine(a, b):
    def one(a, b):
        return 1 - jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))

    return jax.vmap(one)(a, b)


def judge(samples: Samples, w: Array, v: Array, u: Array, fractions: tuple[float, ...]) -> Triples:
    """See ``trials.NetworkPeer``."""
    x, y, keep, forget = samples.x, samples.y, samples.keep, samples.forget
    epsilon_train, _, level, theta = _certificates(w, x, y, np.ones_like(keep), u)
    step = _steps(theta, x, y, forget, level, u)
    found = []
    for fraction in fractions:
        unlearned = theta - fraction * step
        epsilon, delta, _, _ = _certificates(unlearned, x, y, keep, u)
        found.append((epsilon, delta, np.asarray(_one_minus_cosine(unlearned, v))))
    return Triples(*np.stack(found, axis=-1), epsilon_train)
