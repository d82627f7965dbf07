"""Data sets that scikit-learn brings along. NumPy arrays throughout."""

import numpy as np

from gaunlearn.types import Dataset

__all__ = ["breast_cancer", "digits"]


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
