"""Programs that are kept between processes: found again, made anew where they cannot be read."""

from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gaunlearn.losses import LOSSES
from gaunlearn.models import leaky_relu
from gaunlearn.sweep import traced as module
from gaunlearn.sweep.traced import register, traced


class Pair(NamedTuple):
    total: jax.Array
    each: jax.Array


register(Pair)


@pytest.fixture
def folder(tmp_path):
    """A cache of its own."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def program(x, scale):
    each = jnp.sin(x) * scale
    return Pair(each.sum(), each)


X, SCALE = np.linspace(0.0, 1.0, 7), np.asarray(3.0)
SHARDING = NamedSharding(Mesh(np.asarray(jax.local_devices()[:1]), ("trial",)), PartitionSpec())


def result(function=program, name="program", x=X):
    module.forget_programs()  # as in another process
    found = traced(jax.jit(function), name, [x, SCALE], [SHARDING, SHARDING], {})(x, SCALE)
    assert isinstance(found, Pair)
    return found


def never(*_):
    raise AssertionError("traced")


def test_what_was_kept_is_not_traced_again_and_gives_the_same_numbers(folder):
    first = result()
    assert len(list(folder.glob("traced-*"))) == 1
    second = result(never)
    np.testing.assert_array_equal(first.each, second.each)
    np.testing.assert_array_equal(first.total, second.total)
    np.testing.assert_allclose(first.each, 3 * np.sin(X), rtol=1e-14)


@pytest.mark.parametrize("other", ["name", "shape", "type", "code", "precision", "x64"])
def test_another_program_is_another_file(folder, monkeypatch, other):
    result()
    if other == "code":
        monkeypatch.setattr(module, "digest_of_code", lambda: "edited")
    precision = "highest" if other == "precision" else None
    x = {"shape": X[:4], "type": X.astype(np.float32)}.get(other, X)
    name = "another" if other == "name" else "program"
    with jax.default_matmul_precision(precision), jax.enable_x64(other != "x64"):
        with pytest.raises(AssertionError, match="traced"):
            result(never, name, x)
        result(program, name, x)
    assert len(list(folder.glob("traced-*"))) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "unwritable"])
def test_what_cannot_be_read_is_traced_and_kept_again(folder, damage):
    want = result()
    (file,) = folder.glob("traced-*")
    content = file.read_bytes()
    if damage == "unwritable":
        file.unlink()
        file.mkdir()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        file.write_bytes({"cut": content[:-9], "flipped": flipped, "empty": b""}[damage])
    np.testing.assert_array_equal(result().each, want.each)
    if damage != "unwritable":
        np.testing.assert_array_equal(result(never).each, want.each)


def test_what_has_no_stable_form_is_traced(folder):
    def calls_back(x, scale):
        each = jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x) * scale
        return Pair(each.sum(), each)

    for _ in range(2):
        np.testing.assert_allclose(result(calls_back, "calls back").each, 3 * np.sin(X))
    assert not list(folder.glob("traced-*"))


def test_without_a_cache_nothing_is_kept(tmp_path):
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        result()
        result()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert not list(tmp_path.iterdir())


def test_what_is_static_has_a_name_that_is_the_same_in_every_process():
    """No addresses: they would be other programs' tomorrow."""
    assert " at 0x" not in repr((LOSSES, leaky_relu(0.1)))
