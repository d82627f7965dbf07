"""Tests compute in float64, as the engine does."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drop a module's compiled programs: several hundred exhaust the process's memory maps."""
    yield
    jax.clear_caches()
