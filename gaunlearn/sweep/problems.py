"""Problems of a sweep as arrays: their sizes, and one seed's data and initial weights."""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import SingleDeviceSharding

from gaunlearn.data.distributions import (
    draw,
    initial_upper,
    initial_weights,
    law_of,
    power_law,
)
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
from gaunlearn.sweep.compiler import WORK, full_options, quick_options
from gaunlearn.sweep.identity import dataset_digest, file_digest, key_words, section_digest
from gaunlearn.sweep.lanes import batch_of, map_lanes, pad_to_capacity
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
from gaunlearn.sweep.traced import Compiled, program_of, register, traced
from gaunlearn.trial import INITIALISATIONS
from gaunlearn.types import Coordinates, Dataset, Problem

__all__ = ["build_problems", "data_size", "empty_problems", "model_of", "size_of"]

# Entries of samples and of W(0), in all its initialisations, that are drawn at a time: 32 MB; and
# how many cost less than the operations that draw them.
_ENTRIES_PER_BATCH = 4_000_000
_LEAST_ENTRIES = 10_000

register(Problem)


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
    fresh = min(d - span, n_test)
    if isinstance(data, SyntheticData) and fresh:
        fresh = n_test  # the sampler gives every test sample an axis, existing or not
    return Size(m, _neurons(model), span, fresh)


def _upper_scale(model: Any) -> np.float64:
    return np.float64(getattr(model, "upper_scale", 1.0))


def _neurons(model: Any) -> int:
    return 1 if isinstance(model, LinearModel) else model.n


def _reduced(
    model: Model, given: Coordinates, weights: Array, keys: Array, n: Any, upper_scale: Any
) -> Problem:
    """A problem of n neurons, with the layers above the first if there are any."""
    neurons, upper = weights.shape[1], None
    if model.is_deep:
        upper = initial_upper(keys, neurons, model.hidden - 1, n, upper_scale)
    return reduce_problem(given, weights, output_weights(model, neurons, n), upper)


class _Numbers(NamedTuple):
    """What synthetic problems of one program differ in."""

    data_key: Any
    init_keys: Any
    m: Any
    n: Any
    law: dict[str, Any]
    scale: Any
    upper_scale: Any


def _sampled(
    law: tuple[str, int],
    model: Model,
    n_test: int,
    room: Size,
    batch: int,
    numbers: _Numbers,
    count: Array,
) -> Problem:
    """Synthetic problems; all sizes are traced, so that one program serves many."""

    def one(lane):
        key = jax.random.wrap_key_data(lane.data_key)
        shape = (room.samples, n_test, room.span, room.fresh_axes)
        given = draw(key, law, shape, lane.m, lane.law)
        keys = jax.random.wrap_key_data(lane.init_keys)
        weights = initial_weights(keys, room.neurons, given, lane.n, lane.law["d"], lane.scale)
        return _reduced(model, given, weights, keys, lane.n, lane.upper_scale)

    return map_lanes(one, numbers, count, batch)


# Entries of weights and samples that a quickly compiled sampler may draw, all calls together: about
# where it has lost what its compiler saved. A seed's problem serves all its trials, and most sweeps
# have few seeds.
_QUICK_ENTRIES = 100_000_000


def _sampler(
    law: tuple[str, int],
    model: Model,
    n_test: int,
    room: Size,
    batch: int,
    quick: bool,
    tree: Any,
    shapes: tuple[Any, ...],
) -> Compiled:
    """``_sampled`` on the leaves of (numbers, count), compiled.

    Args:
        quick: whether to save the compiler's time rather than the program's.
        tree: of (numbers, count).
        shapes: and types of its leaves.
    """
    device = jax.local_devices()[0]
    options = quick_options() if quick else full_options()

    def on_leaves(*leaves):
        return _sampled(law, model, n_test, room, batch, *jax.tree.unflatten(tree, leaves))

    name = f"{_sampled.__module__} {law!r} {model!r} {n_test} {room!r} {batch} {tree!r}"
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    places = [SingleDeviceSharding(device)] * len(arguments)
    return traced(jax.jit(on_leaves, compiler_options=options), name, arguments, places, options)


@partial(jax.jit, static_argnames=("span", "model", "neurons"))
def _given(
    data: Dataset,
    present: Array,
    exists: Array,
    span: int,
    model: Model,
    neurons: int,
    keys: Array,
    n: Array,
    d: Array,
    scale: Array,
    upper_scale: Array,
) -> Problem:
    given = Coordinates(data, span, present, exists)
    init_keys = jax.random.wrap_key_data(keys)
    weights = initial_weights(init_keys, neurons, given, n, d, scale)
    return _reduced(model, given, weights, init_keys, n, upper_scale)


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
    data = wanted[0][0]
    with jax.enable_x64(True):
        if isinstance(data, SyntheticData):
            stacked = _build_synthetic(wanted, room, directory)
        else:
            each = [_build_given(*one, room, directory) for one in wanted]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    return stacked


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
    )


def _build_synthetic(
    wanted: Sequence[tuple[Any, Any, int]], room: Size, directory: Path
) -> Problem:
    first, model, _ = wanted[0]
    lanes = [
        _Numbers(
            key_words("data", section_digest(data, directory), seed),
            _init_keys(model, seed, directory),
            np.int64(data.m),
            np.int64(_neurons(model)),
            {name: np.float64(value) for name, value in data.numbers.items()},
            np.float64(model.init_scale),
            _upper_scale(model),
        )
        for data, model, seed in wanted
    ]
    count = len(lanes)
    numbers = pad_to_capacity(
        jax.tree.map(lambda *leaves: np.stack(leaves), *lanes), ("problems", model_of(model), room)
    )
    axes = room.span + room.fresh_axes
    entries = (INITIALISATIONS * room.neurons + room.samples + first.n_test) * axes
    batch = batch_of(
        count, len(numbers.m), _LEAST_ENTRIES // entries, _ENTRIES_PER_BATCH // entries
    )
    leaves, tree = jax.tree.flatten((numbers, np.asarray(count)))
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    key = first.law, model_of(model), first.n_test, room
    quick = WORK.stays_quick((_sampler, key), count * entries, _QUICK_ENTRIES)
    how = *key, batch, quick, tree, shapes
    made = program_of((_sampler, how), lambda: _sampler(*how))(*leaves)
    return jax.tree.map(lambda leaf: leaf[:count], jax.device_get(made))


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


def _build_given(data: Any, model: Any, seed: int, room: Size, directory: Path) -> Problem:
    if isinstance(data, FileData) and data.random_features is None:
        given, d = _rotated_file(data, directory, file_digest(data, directory))
    else:
        given, basis = rotate(_drawn(data, seed, directory))
        d = basis.shape[0]
    given = pad_coordinates(given, room.samples, room.span, room.fresh_axes)
    made = _given(
        given.data,
        given.present,
        given.exists,
        given.span,
        model_of(model),
        room.neurons,
        _init_keys(model, seed, directory),
        np.int64(_neurons(model)),
        np.float64(d),
        np.float64(model.init_scale),
        _upper_scale(model),
    )
    return jax.device_get(made)
