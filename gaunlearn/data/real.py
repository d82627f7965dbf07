"""Real data: scikit-learn's bundled digits, and a user's own file. NumPy arrays throughout."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from gaunlearn.checks import check_samples
from gaunlearn.types import Dataset

__all__ = ["digits", "load_npz"]


def digits(seed: int, m: int, classes: tuple[int, int], n_test: int | None = None) -> Dataset:
    """Two classes of scikit-learn's 8 x 8 digits; the first is +1.

    Both classes together are centred and scaled to unit mean square norm. ``seed`` draws m
    training samples without replacement; the first ``n_test`` of the others are the test set, or
    all of them.

    Raises:
        ValueError: m leaves no test sample, or fewer than ``n_test``.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    chosen = np.isin(bunch.target, classes)
    x = bunch.data[chosen].astype(float)
    y = np.where(bunch.target[chosen] == classes[0], 1.0, -1.0)
    if not m < len(y):
        raise ValueError(f"m = {m}: digits {classes} have {len(y)} samples, m must be smaller")
    if n_test is not None and m + n_test > len(y):
        raise ValueError(f"m + n_test = {m + n_test}: digits {classes} have {len(y)} samples")
    x -= x.mean(axis=0)
    x /= np.sqrt((x**2).sum(axis=1).mean())
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[:m], order[m:][:n_test]
    return Dataset(x[train], y[train], x[test], y[test])


def load_npz(path: Path) -> Dataset:
    """A user's ``.npz`` file with arrays x, y and, both or neither, x_test, y_test.

    Raises:
        ValueError: naming the file, the array and what is allowed.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (AttributeError, TypeError):  # a single array, .npy
        raise ValueError(f"{path}: is not an .npz archive") from None
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as .npz: {error}") from None
    for name in ("x", "y"):
        if name not in arrays:
            raise ValueError(f"{path}: has no array {name!r}; it has {sorted(arrays)}")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise ValueError(f"{path}: x_test and y_test must be given together")
    unknown = sorted(set(arrays) - {"x", "y", "x_test", "y_test"})
    if unknown:
        raise ValueError(f"{path}: unknown arrays {unknown}; allowed: x, y, x_test, y_test")
    x, y = check_samples(arrays["x"], arrays["y"], where=f"{path}: ")
    if "x_test" in arrays:
        x_test, y_test = check_samples(
            arrays["x_test"], arrays["y_test"], where=f"{path}: test ", training=False
        )
        if x_test.shape[1] != x.shape[1]:
            raise ValueError(
                f"{path}: x_test has {x_test.shape[1]} features, but x has {x.shape[1]}"
            )
    else:
        x_test, y_test = np.zeros((0, x.shape[1])), np.zeros(0)
    return Dataset(x, y, x_test, y_test)
