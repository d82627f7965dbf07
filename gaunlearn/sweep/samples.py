"""Samples that are given, not drawn: a user's file (data, never code), or one of scikit-learn's."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gaunlearn.checks import check_samples, did_you_mean
from gaunlearn.data.real import breast_cancer, digits
from gaunlearn.sweep.sections import BundledData, DigitsData, FileData
from gaunlearn.types import Dataset

__all__ = ["bundled_samples", "load_file", "read_samples"]


def _arrays_of_npz(path: Path) -> dict[str, np.ndarray]:
    """x, y and, both or neither, x_test, y_test."""
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
    return arrays


def _column(table: pa.Table, path: Path, name: str) -> np.ndarray:
    """A column of numbers or truth values; NaN where it is null."""
    if name not in table.column_names:
        hint = did_you_mean(name, table.column_names)
        raise ValueError(
            f"{path}: has no column {name!r}; {hint}it has {', '.join(table.column_names)}"
        )
    found = table.column(name)
    kind = found.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(f"{path}: column {name!r} holds {kind}; allowed are numbers")
    return found.to_numpy()


def _arrays_of_parquet(
    path: Path, label: str, features: tuple[str, ...] | None, split: str | None
) -> dict[str, np.ndarray]:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{path}: cannot be read as Parquet: {first}") from None
    apart = [label] if split is None else [label, split]
    if features is None:
        features = tuple(name for name in table.column_names if name not in apart)
    both = [name for name in features if name in apart]
    if both or not features:
        what = f"{both[0]!r} is no feature" if both else "there are no features"
        raise ValueError(f"{path}: {what}: it has the columns {', '.join(table.column_names)}")
    y = _column(table, path, label).astype(float)
    x = np.column_stack([_column(table, path, name).astype(float) for name in features])
    if split is None:
        return {"x": x, "y": y}
    test = _column(table, path, split)
    if test.dtype != bool:
        raise ValueError(
            f"{path}: column {split!r} must be true for test samples, false for others"
        )
    return {"x": x[~test], "y": y[~test], "x_test": x[test], "y_test": y[test]}


def load_file(
    path: Path,
    label: str = "y",
    features: tuple[str, ...] | None = None,
    split: str | None = None,
) -> Dataset:
    """A user's samples.

    Args:
        path: an ``.npz`` archive with the arrays x, y and, both or neither, x_test, y_test; or a
            ``.parquet`` file, a row for each sample.
        label, features, split: columns of a ``.parquet`` file: of labels; of features, None being
            all others; and, if given, one that is true for test samples.

    Raises:
        ValueError: naming the file, the array or column, and what is allowed.
    """
    if path.suffix == ".parquet":
        arrays = _arrays_of_parquet(path, label, features, split)
    elif (label, features, split) != ("y", None, None):
        raise ValueError(f"{path}: label, features and split name columns of a .parquet file")
    else:
        arrays = _arrays_of_npz(path)
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


def read_samples(section: FileData, directory: Path) -> Dataset:
    """What a user's file holds now, its path relative to ``directory``; raises as ``load_file``."""
    return load_file(directory / section.path, section.label, section.features, section.split)


def bundled_samples(section: BundledData, seed: int) -> Dataset:
    """Some of scikit-learn's samples.

    Raises:
        ValueError: there are too few.
    """
    rest = seed, section.m
    if isinstance(section, DigitsData):
        return digits(*rest, section.classes, section.n_test, section.scaling)
    return breast_cancer(*rest, section.n_test, section.scaling)
