"""Tests compute in float64, as the engine does."""

import jax

jax.config.update("jax_enable_x64", True)
