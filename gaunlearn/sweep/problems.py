"""Problems of a sweep as arrays: their sizes, and one seed's data and initial weights."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gaunlearn.data.distributions import (
    draw,
    initial_upper,
    initial_weights,
    law_of,
    power_law,
    weights_lead,
)
from gaunlearn.data.numbers import Keys
from gaunlearn.data.real import relu_features
from gaunlearn.data.reduction import pad_coordinates, reduce_problem, rotate
from gaunlearn.models import (
    MODELS,
    Model,
    deep_relu,
    leaky_relu,
    output_weights,
    upper_columns,
)
from gaunlearn.sweep.identity import (
    dataset_digest,
    file_digest,
    join_digests,
    key_words,
    section_digest,
)
from gaunlearn.sweep.samples import bundled_samples, read_samples
from gaunlearn.sweep.sections import (
    BundledData,
    DeepReluModel,
    FileData,
    LeakyReluModel,
    LinearModel,
    PowerLawData,
    SpecError,
    SyntheticData,
)
from gaunlearn.sweep.shapes import Size
from gaunlearn.trial import INITIALISATIONS
from gaunlearn.types import Coordinates, Dataset, Problem

__all__ = ["build_problems", "data_size", "empty_problems", "model_of", "size_of"]

# Entries of samples and of initial weights that problems are made of at a time: 32 MB, and a few
# times that while they are put together.
_ENTRIES = 4_000_000


def model_of(section: Any) -> Model:
    """The architecture that a [model] section names."""
    if isinstance(section, LeakyReluModel):
        return leaky_relu(section.leak)
    if isinstance(section, DeepReluModel):
        return deep_relu(section.depth)
    return MODELS[section.kind]


# What is read is remembered by what the file held, so that a changed one is another.
@lru_cache(maxsize=8)
def _file(data: FileData, directory: Path, content: str) -> Dataset:
    """A file that trials are named after.

    Raises:
        SpecError: it has changed since the specification was read.
    """
    found = read_samples(data, directory)
    if dataset_digest(found) != content:
        raise SpecError(
            f"{directory / data.path}: has changed since the specification was read; run again"
        )
    return found


@lru_cache(maxsize=8)
def _rotated_file(data: FileData, directory: Path, content: str) -> tuple[Coordinates, int]:
    given, basis = rotate(_file(data, directory, content))
    return given, basis.shape[0]


@lru_cache(maxsize=1024)
def _size_of_given(data: Any, directory: Path, content: str) -> tuple[int, int, int]:
    if isinstance(data, FileData):
        given = _file(data, directory, content)
    else:
        given = bundled_samples(data, 0)
    return len(given.y), data.random_features or given.x.shape[1], len(given.y_test)


def data_size(data: Any, directory: Path) -> tuple[int, int, int]:
    """(m, d, n_test) of a [data] section."""
    if isinstance(data, FileData):
        return _size_of_given(data, directory, file_digest(data, directory))
    if isinstance(data, BundledData):
        return _size_of_given(data, directory, "")
    return data.m, data.d, data.n_test


def size_of(data: Any, model: Any, directory: Path) -> Size:
    """The arrays that a problem needs."""
    m, d, n_test = data_size(data, directory)
    directions = law_of(*data.law)[1] if isinstance(data, SyntheticData) else 0
    span = min(d, m + directions)
    n, beyond = _neurons(model), n_test
    if isinstance(data, SyntheticData) and weights_lead(INITIALISATIONS, n, n_test):
        beyond = INITIALISATIONS * n
    return Size(m, n, span, min(d - span, beyond))


def _neurons(model: Any) -> int:
    return 1 if isinstance(model, LinearModel) else model.n


def _problems(
    sections: Sequence[Any], given: Coordinates, keys: Keys, d: np.ndarray, neurons: int
) -> Problem:
    """Data sets with initial weights, all stacked.

    Args:
        sections: the [model] of each; they differ in numbers only.
        given: the data sets.
        keys: of each one's initialisations.
        d: their features.
        neurons: room for them.
    """
    model = model_of(sections[0])
    n = np.array([_neurons(each) for each in sections])
    scale = np.array([each.init_scale for each in sections])
    weights = initial_weights(keys, neurons, given, n, d, scale)
    upper = None
    if model.is_deep:
        upper_scale = np.array([each.upper_scale for each in sections])
        upper = initial_upper(keys, neurons, model.hidden - 1, n, upper_scale)
    return reduce_problem(given, weights, output_weights(model, neurons, n), upper)


def _init_keys(model: Any, seed: int, directory: Path) -> np.ndarray:
    content = section_digest(model, directory)
    return np.stack([key_words(f"init {a}", content, seed) for a in range(INITIALISATIONS)])


def build_problems(wanted: Sequence[tuple[Any, Any, int]], room: Size, directory: Path) -> Problem:
    """Data and initial weights in reduced coordinates, in float64, stacked (NumPy arrays).

    Nothing of size d is formed but what a file or scikit-learn holds.

    Args:
        wanted: (data, model, seed) of each; sections of one kind, with as many test samples.
        room: the arrays' shape; at least ``size_of`` each.
        directory: what relative paths refer to.
    """
    n_test = data_size(wanted[0][0], directory)[2]
    axes = room.span + room.beyond
    columns = axes + upper_columns(model_of(wanted[0][1]), room.neurons) + n_test
    entries = (room.samples + n_test) * axes + INITIALISATIONS * room.neurons * columns
    batch = max(1, _ENTRIES // max(entries, 1))
    parts = [
        _built(wanted[first : first + batch], room, directory)
        for first in range(0, len(wanted), batch)
    ]
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _built(wanted: Sequence[tuple[Any, Any, int]], room: Size, directory: Path) -> Problem:
    data, models, seeds = zip(*wanted, strict=True)
    if isinstance(data[0], SyntheticData):
        given, d = _sampled(data, models, seeds, room, directory)
    else:
        given, d = _read(data, seeds, room, directory)
    keys = np.stack(
        [_init_keys(model, seed, directory) for model, seed in zip(models, seeds, strict=True)]
    )
    return _problems(models, given, keys, d, room.neurons)


def empty_problems(wanted: Sequence[tuple[Any, Any, int]], room: Size, directory: Path) -> Problem:
    """Zeros in the place of what ``build_problems`` makes."""
    data, section, _ = wanted[0]
    m, n, t = room.samples, room.neurons, data_size(data, directory)[2]
    columns = room.span + INITIALISATIONS + upper_columns(model_of(section), n)

    def zeros(*shape: int, dtype: type = float) -> Any:
        return np.zeros((len(wanted), *shape), dtype)

    return Problem(
        x=zeros(m, columns),
        y=zeros(m),
        present=zeros(m, dtype=bool),
        u=zeros(n),
        x_test=zeros(t, columns),
        y_test=zeros(t),
        initial_weights=zeros(INITIALISATIONS, n, columns),
        test_offset=zeros(INITIALISATIONS, n, t),
        outside_shares=zeros(INITIALISATIONS, n, INITIALISATIONS),
    )


def _sampled(
    data: Sequence[SyntheticData],
    models: Sequence[Any],
    seeds: Sequence[int],
    room: Size,
    directory: Path,
) -> tuple[Coordinates, np.ndarray]:
    """Synthetic data sets, stacked, and d of each."""
    keys, beyond_keys = [], []
    for section, model, seed in zip(data, models, seeds, strict=True):
        content = section_digest(section, directory)
        both = join_digests([content, section_digest(model, directory)])
        keys.append(key_words("data", content, seed))
        beyond_keys.append(key_words("beyond", both, seed))
    each = [section.numbers for section in data]
    numbers = {name: np.array([found[name] for found in each]) for name in each[0]}
    n_test = data[0].n_test
    lead = weights_lead(INITIALISATIONS, np.array([_neurons(each) for each in models]), n_test)
    given = draw(
        np.stack(keys),
        np.stack(beyond_keys),
        data[0].law,
        (room.samples, n_test, room.span, room.beyond),
        np.array([section.m for section in data]),
        lead,
        numbers,
    )
    return given, numbers["d"]


def _drawn(data: BundledData | PowerLawData | FileData, seed: int, directory: Path) -> Dataset:
    """A seed's samples, in the original dimensions."""
    content = section_digest(data, directory)
    if isinstance(data, PowerLawData):
        words = key_words("data", content, seed)
        return power_law(words, data.m, data.n_test, data.d, data.exponent)
    if isinstance(data, FileData):
        found = _file(data, directory, file_digest(data, directory))
    else:
        found = bundled_samples(data, seed)
    if data.random_features is None:
        return found
    return relu_features(found, data.random_features, key_words("features", content, seed))


def _read(
    data: Sequence[Any], seeds: Sequence[int], room: Size, directory: Path
) -> tuple[Coordinates, np.ndarray]:
    """Data sets that are not drawn in coordinates, stacked, and d of each."""
    each, d = [], []
    for section, seed in zip(data, seeds, strict=True):
        if isinstance(section, FileData) and section.random_features is None:
            given, features = _rotated_file(section, directory, file_digest(section, directory))
        else:
            given, basis = rotate(_drawn(section, seed, directory))
            features = basis.shape[0]
        each.append(pad_coordinates(given, room.samples, room.span, room.beyond))
        d.append(features)
    datasets = zip(*(given.data for given in each), strict=True)
    stacked = Coordinates(
        Dataset(*(np.stack(leaves) for leaves in datasets)),
        room.span,
        np.stack([given.present for given in each]),
        np.stack([given.exists for given in each]),
        np.stack([given.led_by_weights for given in each]),
    )
    return stacked, np.array(d)
