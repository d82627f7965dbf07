"""Canaries: small programs that known-faulty releases of JAX compute wrongly or die of.

Each compares with NumPy or a closed form. The one that can kill its process runs in another.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

__all__ = ["Finding", "examine", "versions"]

_TIMEOUT_S = 120
# Half of N(0, 1/2) lies within this of 0.
_QUARTILE = 0.4769362762044699


class Finding(NamedTuple):
    """One canary on one device: its name, whether it is well, and what was seen."""

    canary: str
    device: str
    well: bool
    detail: str


def versions() -> dict[str, str]:
    """Versions that results depend on."""
    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "numpy": np.__version__}


def _row_norms(dtype: type, rows: int) -> tuple[bool, str]:
    """Vmapped matrix-vector product and reduction, wrong in 0.10.2 on CPU (jax#39103)."""
    values: np.ndarray = np.arange(rows, dtype=dtype)
    x = np.stack([values, np.zeros_like(values), np.zeros_like(values)], axis=1)
    matrix: np.ndarray = np.eye(3, dtype=dtype)
    got = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(x)
    error = float(np.max(np.abs(np.asarray(got) - values**2)))
    allowed = 4 * float(np.finfo(dtype).eps) * float(values[-1]) ** 2
    return error <= allowed, f"error {error:g}"


def _elementwise() -> tuple[bool, str]:
    """Plain operations outside jit, wrong on some GPUs in 0.11.0 and 0.11.1 (jax#40633)."""
    root = float(jnp.sqrt(np.asarray(512.0)))
    ones = np.asarray(jnp.ones(4) + 1)
    # Normal numbers are drawn through it; to draw some takes half a second of compilation.
    inverse = float(jax.lax.erf_inv(np.float64(0.5)))
    well = (
        abs(root - 512**0.5) < 1e-4 and bool((ones == 2).all()) and abs(inverse - _QUARTILE) < 1e-12
    )
    return well, f"sqrt(512) = {root:g}, ones + 1 = {ones[0]:g}, erf_inv(0.5) = {inverse:g}"


def _double_precision() -> tuple[bool, str]:
    """float64 is really computed in float64."""
    value = float(jax.jit(lambda a: (a + 1.0) - a)(np.asarray(2.0**40)))
    return value == 1.0, f"(2^40 + 1) - 2^40 = {value:g}"


_CANARIES: dict[str, Callable[[], tuple[bool, str]]] = {
    "vmapped matvec and sum, float64": lambda: _row_norms(np.float64, 16_385),
    "vmapped matvec and sum, float32": lambda: _row_norms(np.float32, 32_769),
    "elementwise operations": _elementwise,
    "float64 arithmetic": _double_precision,
}

# A float32 product of rank 7 with an axis of length 1, summed over another axis: 0.10.2 and 0.11.0
# crash or hang on it on CPU (jax#39257, jax#40412).
_FUSION_PROGRAM = """
import jax, numpy as np
a = np.linspace(-1, 1, 6144, dtype=np.float32).reshape(3, 1, 2, 2, 8, 8, 8)
b = np.linspace(2, 3, 6144, dtype=np.float32).reshape(a.shape)
got = np.asarray(jax.jit(lambda a, b: (a * b).sum(axis=3))(a, b))
assert np.allclose(got, (a * b).sum(axis=3), rtol=1e-4, atol=1e-5)
"""


def _fusion() -> Finding:
    name, device = "rank-7 product and sum", "cpu (own process)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _FUSION_PROGRAM],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding(name, device, False, f"hangs: no result in {_TIMEOUT_S} s")
    if done.returncode == 0:
        return Finding(name, device, True, "agrees with NumPy")
    last = done.stderr.strip().splitlines()[-1:]
    return Finding(name, device, False, " ".join([f"exit status {done.returncode}", *last]))


def examine(*, in_own_process: bool = True) -> list[Finding]:
    """Run the canaries on every local device.

    Args:
        in_own_process: also run the one that may crash or hang (some seconds).
    """
    findings = []
    # As in a sweep: unless told otherwise, GPUs multiply float32 in TF32, with errors of 5e-4.
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        for device in jax.local_devices():
            with jax.default_device(device):
                for name, canary in _CANARIES.items():
                    well, detail = canary()
                    findings.append(Finding(name, str(device), well, detail))
    if in_own_process:
        findings.append(_fusion())
    return findings
