"""Synthetic distributions, sampled from a key. Real data are in ``real``."""

import jax
import jax.numpy as jnp
from jax import Array

from gaunlearn.types import Dataset

__all__ = ["gaussian_mixture", "isotropic"]


def _around(key: Array, mean: Array, m: int, n_test: int) -> Dataset:
    """y uniform on +-1 and x = y mean + N(0, I / d), m training and n_test fresh samples."""
    d = mean.shape[0]
    keys = jax.random.split(key, 4)

    def draw(label_key, noise_key, count):
        y = jax.random.rademacher(label_key, (count,), dtype=mean.dtype)
        noise = jax.random.normal(noise_key, (count, d), mean.dtype) / jnp.sqrt(float(d))
        return y[:, None] * mean + noise, y

    x, y = draw(keys[0], keys[1], m)
    x_test, y_test = draw(keys[2], keys[3], n_test)
    return Dataset(x, y, x_test, y_test, mean)


def gaussian_mixture(key: Array, m: int, d: int, n_test: int, alpha: float | Array) -> Dataset:
    """D_MG (MYV, FVBS): x = y mu + zeta, zeta ~ N(0, I / d), ||mu|| = d^(-1/4 + alpha).

    mu lies along the first axis: noise and initial weights are rotation invariant.
    """
    mean = jnp.zeros(d).at[0].set(float(d) ** (alpha - 0.25))
    return _around(key, mean, m, n_test)


def isotropic(key: Array, m: int, d: int, n_test: int) -> Dataset:
    """x ~ N(0, I / d) with labels that are independent of it: no cluster mean."""
    return _around(key, jnp.zeros(d), m, n_test)
