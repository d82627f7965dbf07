"""Programs: traced once, compiled in threads of their own, and kept between processes.

Python traces one program at a time; the compiler needs no Python, and works beside it.

JAX's cache of compiled programs saves the compiler's time only: tracing a stage and lowering it
take as long again, in every process anew. Here the lowered program is kept beside the compiled one
(``jax.export``), under a digest of all that it depends on: this package's source, the versions of
JAX, the stage with what is static in it, shapes and types of its arguments, and the devices.

All programs are called in the form in which they are kept, whether they were found or made just
now, so that both give the same numbers. What cannot be read, or kept, is traced: nothing relies on
this, and without a cache of compiled programs none is kept. A program that calls what JAX gives no
stable form (a callback, some libraries of a GPU) is traced in every process.
"""

import hashlib
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.export
import jaxlib
import numpy as np

from gaunlearn.compiler import Options
from gaunlearn.sweep.host import host_cores
from gaunlearn.sweep.identity import digest, digest_of_code
from gaunlearn.sweep.place import Place

__all__ = ["Compiled", "forget_programs", "program_of", "register", "traced"]

# Compilers that work side by side; each takes some hundreds of megabytes, and a core is Python's.
_MOST_COMPILERS = 8

# Of GPUs; its form may change between versions of JAX, by which programs are kept apart.
_KERNELS = jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")

_registered: set[type] = set()
_programs: "dict[Hashable, Future[Compiled]]" = {}
_lock = threading.Lock()


@cache
def _compilers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_MOST_COMPILERS, max(1, host_cores() - 1)), "compiler")


class Compiled:
    """A program that is being compiled, or has been. Called, it waits for its compiler.

    Attributes:
        results: shapes and types of what it returns.
        compiled: what the compiler has made of it, or will.
    """

    def __init__(
        self, lowered: jax.stages.Lowered, shardings: Sequence[Any], options: Options
    ) -> None:
        self.results = jax.tree.map(
            lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype), lowered.out_info
        )
        self.compiled: Future[jax.stages.Compiled] = _compilers().submit(
            partial(lowered.compile, cast(Any, options))
        )
        self._shardings = tuple(shardings)

    def __call__(self, *leaves: Any) -> Any:
        # Results of other programs may lie elsewhere.
        return self.compiled.result()(*jax.device_put(leaves, self._shardings))


def program_of(key: Hashable, make: Callable[[], Compiled]) -> Compiled:
    """The program of a key; made once, whichever thread asks first."""
    with _lock:
        found = _programs.get(key)
        if found is None:
            mine = _programs[key] = Future()
    if found is not None:
        return found.result()

    def forget_if_failed(made: Future[Any]) -> None:
        # What lacked memory may have it the next time.
        if made.exception() is not None:
            with _lock:
                if _programs.get(key) is mine:
                    del _programs[key]

    mine.add_done_callback(forget_if_failed)
    try:
        program = make()
    except BaseException as error:
        mine.set_exception(error)
        raise
    mine.set_result(program)
    program.compiled.add_done_callback(forget_if_failed)
    return program


def forget_programs() -> None:
    """Let go of all programs."""
    with _lock:
        _programs.clear()


def register(*kinds: type) -> None:
    """Make named tuples known that a program returns, so that its form can be kept."""
    for kind in kinds:
        if kind not in _registered:
            name = f"{kind.__module__}.{kind.__qualname__}"
            jax.export.register_namedtuple_serialization(kind, serialized_name=name)
            _registered.add(kind)


def _key(name: str, arguments: Sequence[Any]) -> str:
    """Tells a lowered program from all others, of all times."""
    shapes = [[list(np.shape(leaf)), np.dtype(leaf.dtype).name] for leaf in arguments]
    settings = [
        str(jax.config.values[key])
        for key in ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion")
    ]
    devices = [[device.platform, device.device_kind] for device in jax.local_devices()]
    versions = [jax.__version__, jaxlib.__version__, digest_of_code()]
    return digest([name, shapes, settings, devices, versions])


def _file(key: str) -> Path | None:
    """Where a program is kept; None if nothing is."""
    directory = jax.config.values["jax_compilation_cache_dir"]
    return Path(directory) / f"traced-{key}" if directory else None


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
) -> Compiled:
    """A program, from its kept form if there is one.

    Args:
        program: jitted; takes the arguments one by one.
        name: tells it from all others of this package.
        arguments: arrays, or their shapes and types.
        shardings: of each argument.
        options: the compiler's.
    """
    file = _file(_key(name, arguments))
    return Compiled(_lower(program, file, arguments, shardings), shardings, options)


def _lower(
    program: Any, file: Path | None, arguments: Sequence[Any], shardings: Sequence[Any]
) -> jax.stages.Lowered:
    """A program in the form in which it is kept, if it can be."""
    exported = None if file is None else _read(file)
    if file is not None and exported is None:
        with suppress(Exception):  # if it is the program that is wrong, lowering it will say so
            exported = jax.export.export(program, disabled_checks=[_KERNELS])(*arguments)
            _keep(file, exported)
    if exported is not None:
        program = jax.jit(exported.call)
    placed = [
        jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding)
        for leaf, sharding in zip(arguments, shardings, strict=True)
    ]
    return program.lower(*placed)
