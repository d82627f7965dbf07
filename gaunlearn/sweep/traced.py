"""Traced programs, kept between processes.

JAX's cache of compiled programs saves the compiler's time only: tracing a stage and lowering it
take as long again, in every process anew. Here the lowered program is kept beside the compiled one
(``jax.export``), under a digest of all that it depends on: this package's source, the versions of
JAX, the stage with what is static in it, shapes and types of its arguments, and the devices.

All programs are called in the form in which they are kept, whether they were found or made just
now, so that both give the same numbers. What cannot be read, or kept, is traced: nothing relies on
this, and without a cache of compiled programs there is none of it. A program that calls what JAX
gives no stable form (a callback, some libraries of a GPU) is traced in every process.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.export
import jaxlib
import numpy as np

from gaunlearn.sweep.compiler import Options
from gaunlearn.sweep.identity import digest, digest_of_code
from gaunlearn.sweep.place import Place

__all__ = ["register", "traced"]

_registered: set[type] = set()


def register(*kinds: type) -> None:
    """Make named tuples known that a program returns, so that its form can be kept."""
    for kind in kinds:
        if kind not in _registered:
            name = f"{kind.__module__}.{kind.__qualname__}"
            jax.export.register_namedtuple_serialization(kind, serialized_name=name)
            _registered.add(kind)


def _file(name: str, arguments: Sequence[Any]) -> Path | None:
    """Where a program is kept; None if nothing is."""
    directory = jax.config.values["jax_compilation_cache_dir"]
    if not directory:
        return None
    shapes = [[list(np.shape(leaf)), np.dtype(leaf.dtype).name] for leaf in arguments]
    settings = [
        str(jax.config.values[key])
        for key in ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion")
    ]
    devices = [[device.platform, device.device_kind] for device in jax.local_devices()]
    versions = [jax.__version__, jaxlib.__version__, digest_of_code()]
    key = digest([name, shapes, settings, devices, versions])
    return Path(directory) / f"traced-{key}"


def _read(file: Path) -> jax.export.Exported | None:
    """The program in a file, if it is whole."""
    with suppress(Exception):  # whatever is wrong with it, it can be made again
        content = file.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return jax.export.deserialize(bytearray(content[32:]))
    return None


def _keep(file: Path, exported: jax.export.Exported) -> None:
    with suppress(Exception):  # a full disk, a type that has no serial form
        content = bytes(exported.serialize())
        Place.of(file.parent).write(file.name, hashlib.sha256(content).digest() + content)


def traced(
    program: Any,
    name: str,
    arguments: Sequence[Any],
    shardings: Sequence[Any],
    options: Options,
) -> Callable[..., Any]:
    """A compiled program, from its kept form if there is one.

    Args:
        program: jitted, with the same ``options``; takes the arguments one by one.
        name: tells it from all others of this package.
        arguments: arrays, or their shapes and types.
        shardings: of each argument.
        options: the compiler's.
    """
    file = _file(name, arguments)
    if file is None:
        return program
    exported = _read(file)
    if exported is None:
        with suppress(Exception):  # if it is the program that is wrong, it says so when it runs
            exported = jax.export.export(program)(*arguments)
        if exported is None:
            return program
        _keep(file, exported)
    places = tuple(shardings)
    call = jax.jit(exported.call, in_shardings=places, compiler_options=options)
    # Results of other programs may lie elsewhere; a plain program would move them by itself.
    return lambda *leaves: call(*jax.device_put(leaves, places))
