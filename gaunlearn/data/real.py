"""Data sets that scikit-learn brings along, and random features. NumPy arrays throughout."""

import numpy as np
from numpy.typing import NDArray

from gaunlearn.types import Dataset

__all__ = ["breast_cancer", "digits", "relu_features"]


def _split(
    x: np.ndarray, y: np.ndarray, seed: int, m: int, n_test: int | None, scaling: str, name: str
) -> Dataset:
    """``seed`` draws m training samples without replacement; the first ``n_test`` of the others
    are the test set, or all of them.

    Args:
        scaling: raw; centred: all samples together are centred and scaled to unit mean square norm;
            normalised: then every sample is scaled to norm 1.

    Raises:
        ValueError: m leaves no test sample, or fewer than ``n_test``.
    """
    if not m < len(y):
        raise ValueError(f"m = {m}: {name} have {len(y)} samples, m must be smaller")
    if n_test is not None and m + n_test > len(y):
        raise ValueError(f"m + n_test = {m + n_test}: {name} have {len(y)} samples")
    if scaling != "raw":
        x = x - x.mean(axis=0)
        x = x / np.sqrt((x**2).sum(axis=1).mean())
    if scaling == "normalised":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[:m], order[m:][:n_test]
    return Dataset(x[train], y[train], x[test], y[test])


def relu_features(data: Dataset, count: int, words: NDArray[np.uint32]) -> Dataset:
    """sqrt(2 / count) relu(V x) in place of x, V with independent N(0, 1) entries: features whose
    inner products have the mean ||x|| ||x'|| (sin t + (pi - t) cos t) / pi, t the angle between x
    and x' (Rahimi and Recht 2007; Cho and Saul 2009). A linear model of them is a two-layer ReLU
    network of which only the output weights are trained.

    Args:
        words: what the random numbers come from.
    """
    rng = np.random.default_rng(words.tolist())
    directions = rng.normal(size=(count, np.shape(data.x)[1]))

    def features(x):
        return np.sqrt(2 / count) * np.maximum(x @ directions.T, 0.0)

    return data._replace(x=features(data.x), x_test=features(data.x_test))


def digits(
    seed: int,
    m: int,
    classes: tuple[int, int],
    n_test: int | None = None,
    scaling: str = "centred",
) -> Dataset:
    """Two classes of scikit-learn's 8 x 8 digits; the first is +1. Arguments as of ``_split``."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    chosen = np.isin(bunch.target, classes)
    y = np.where(bunch.target[chosen] == classes[0], 1.0, -1.0)
    x = bunch.data[chosen].astype(float)
    return _split(x, y, seed, m, n_test, scaling, f"digits {classes}")


def breast_cancer(
    seed: int, m: int, n_test: int | None = None, scaling: str = "centred"
) -> Dataset:
    """Wisconsin breast cancer; malignant is +1. Arguments as of ``_split``, and before all else
    every feature is divided by its standard deviation, unless the data are raw: areas would be all
    there is.
    """
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    x = bunch.data.astype(float)
    if scaling != "raw":
        x = x / x.std(axis=0)
    y = np.where(bunch.target == 0, 1.0, -1.0)
    return _split(x, y, seed, m, n_test, scaling, "breast_cancer")
