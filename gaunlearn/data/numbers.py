"""Random numbers in bulk, NumPy in and out: each row has a key of its own, so that neither what is
drawn beside it nor in which order changes a number. The numbers are ``jax.random``'s.

Keys are the words of threefry keys, (..., 2). What is asked for goes through programs of few
shapes, a part at a time: they are compiled once on a machine, not once for every sweep.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt32

from gaunlearn.compiler import Options, full_options, quick_options

__all__ = ["Keys", "folded", "gamma", "integers", "normal", "split", "uniform"]

Keys = UInt32[np.ndarray, "*lanes 2"]

# Rows of a program that draws one number for each, and entries of one that draws many, on a CPU and
# on an accelerator, which wants more at a time. What is not asked for is drawn in vain.
_ROWS, _ENTRIES = (1 << 9, 1 << 12), (1 << 16, 1 << 22)
# Columns come in steps of so many, or of more: at most a quarter more than asked for is drawn.
_LEAST_STEP = 16


def _key(words: Array) -> Array:
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def _program(one: Callable[..., Array], options: Options) -> Callable[..., Array]:
    return jax.jit(jax.vmap(one), compiler_options=options)


@cache
def _folding() -> Callable[..., Array]:
    def one(words, number):
        return jax.random.key_data(jax.random.fold_in(_key(words), number))

    return _program(one, full_options())


@cache
def _uniform() -> Callable[..., Array]:
    return _program(lambda words: jax.random.uniform(_key(words)), full_options())


@cache
def _integers(below: int) -> Callable[..., Array]:
    def one(words):
        return jax.random.randint(_key(words), (), 0, below)

    return _program(one, quick_options())


@cache
def _gamma() -> Callable[..., Array]:
    # The compiler takes longer over it than over all others, and there is little to draw.
    return _program(lambda words, a: jax.random.gamma(_key(words), a), quick_options())


@cache
def _normal(columns: int) -> Callable[..., Array]:
    def one(words):
        return jax.random.normal(_key(words), (columns,))

    return _program(one, full_options())


def _here(sizes: tuple[int, int]) -> int:
    return sizes[jax.default_backend() != "cpu"]


def _in_parts(program: Callable[..., Array], rows: int, keys: Keys, *numbers: Any) -> np.ndarray:
    """Call a program of so many rows as often as it takes; keys and numbers are broadcast."""
    lanes = np.broadcast_shapes(keys.shape[:-1], *(np.shape(each) for each in numbers))
    flat: list[np.ndarray] = [np.broadcast_to(keys, (*lanes, 2)).reshape(-1, 2)]
    flat += [np.broadcast_to(each, lanes).reshape(-1) for each in numbers]
    count = len(flat[0])
    # Nothing is asked for by a call, too, which says what shape nothing has.
    calls = max(1, -(-count // rows))
    room = [(0, calls * rows - count)]
    full = [np.pad(each, room + [(0, 0)] * (each.ndim - 1), constant_values=1) for each in flat]
    with jax.enable_x64(True):
        made = [
            program(*parts) for parts in zip(*(np.split(each, calls) for each in full), strict=True)
        ]
    drawn = np.concatenate([np.asarray(each) for each in made])[:count]
    return drawn.reshape(*lanes, *drawn.shape[1:])


def folded(keys: Keys, numbers: Int[np.ndarray, "*lanes"] | int) -> Keys:
    """Keys of their own for each pair of a key and a number, broadcast: ``jax.random.fold_in``."""
    return _in_parts(_folding(), _here(_ROWS), keys, numbers)


def split(keys: Keys, count: int) -> UInt32[np.ndarray, "count *lanes 2"]:
    """``count`` keys for each: ``jax.random.split``, whose i-th is the key folded with i."""
    return np.moveaxis(folded(keys[..., None, :], np.arange(count)), -2, 0)


def uniform(keys: Keys) -> Float[np.ndarray, "*lanes"]:
    """A number from [0, 1) for each key."""
    return _in_parts(_uniform(), _here(_ROWS), keys)


def integers(keys: Keys, below: int) -> Int[np.ndarray, "*lanes"]:
    """One of 0, ..., ``below`` - 1 for each key."""
    return _in_parts(_integers(below), _here(_ROWS), keys)


def gamma(keys: Keys, shape: Float[np.ndarray, "*lanes"]) -> Float[np.ndarray, "*lanes"]:
    """A Gamma(shape, 1) number for each pair of a key and a shape, broadcast."""
    return _in_parts(_gamma(), _here(_ROWS), keys, shape)


def normal(keys: Keys, columns: int) -> Float[np.ndarray, "*lanes columns"]:
    """A row of N(0, 1) numbers for each key; more columns change none of the first."""
    if columns == 0:
        return np.zeros((*keys.shape[:-1], 0))
    step = max(_LEAST_STEP, (1 << columns.bit_length()) // 8)
    room = -(-columns // step) * step
    return _in_parts(_normal(room), max(1, _here(_ENTRIES) // room), keys)[..., :columns]
