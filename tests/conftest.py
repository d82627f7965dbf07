"""Tests compute in float64, as the engine does, and share one cache of compiled programs."""

import os

import jax
import pytest
from runs import SPEC, write

import gaunlearn
from gaunlearn.sweep.machine import drop_programs_if_crowded, keep_compiled

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True, scope="session")
def cache_of_programs(tmp_path_factory, worker_id):
    """One for all workers and the processes that tests start; not the user's."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent
    os.environ["GAUNLEARN_CACHE"] = str(base / "programs")
    keep_compiled()


@pytest.fixture(autouse=True)
def forget_programs():
    """Drop compiled programs before they exhaust the process's memory maps."""
    yield
    drop_programs_if_crowded()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """``runs.SPEC`` with 3 seeds, run in peace; not to be written to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return gaunlearn.run(write(folder, SPEC), folder / "run")
