"""Tests compute in float64, as the engine does, and share one cache of compiled programs."""

import gc
import os

import jax
import pytest

# Tests run many small programs, most of them once: how fast the compiler is counts, not how fast
# its programs are. Before any device is used, and for the processes that tests start. A flag that
# a later XLA does not know would end the process.
if jax.__version_info__ < (0, 12):
    fast = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{fast} {os.environ.get('XLA_FLAGS', '')}"

# Ray's workers are nice to other processes: beside another test they would stand still.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112, Ray's name

from runs import SPEC, write

import gaunlearn
from gaunlearn.compiler import WORK
from gaunlearn.sweep import execute
from gaunlearn.sweep.lanes import Terms
from gaunlearn.sweep.machine import drop_programs_if_crowded, keep_compiled

jax.config.update("jax_enable_x64", True)
# As in a sweep (``machine.rare_collections``): tracing makes millions of objects that stay.
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(autouse=True, scope="session")
def cache_of_programs(tmp_path_factory, worker_id):
    """One for all workers and the processes that tests start; not the user's."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent
    os.environ["GAUNLEARN_CACHE"] = str(base / "programs")
    keep_compiled()


@pytest.fixture(autouse=True)
def forget_programs():
    """Drop compiled programs before they exhaust the process's memory maps. And forget what they
    have done, so that a sweep's are compiled as if it was a process's first.
    """
    yield
    drop_programs_if_crowded()
    WORK._done.clear()


@pytest.fixture
def in_batches(monkeypatch):
    """Lanes of small sweeps are worked on as those of large ones."""
    monkeypatch.setattr(execute, "Terms", lambda *a, **k: Terms(*a, **k | {"in_batches": True}))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """``runs.SPEC`` with 3 seeds, run in peace; not to be written to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return gaunlearn.run(write(folder, SPEC), folder / "run")
