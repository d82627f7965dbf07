"""Reach a Ray cluster, or say in one line why not."""

import os
import secrets
import socket
import subprocess
import sys
from typing import Any

from gaunlearn.sweep.sections import SpecError

__all__ = ["connect", "last_line"]

# Seconds for a cluster's first word, and until it proves to be one.
_REACH_S, _PROVE_S = 5.0, 60.0
# Bytes that Ray keeps for objects on a cluster of our own: blocks and receipts are small.
_OBJECTS = 100 * 2**20


def last_line(text: str) -> str:
    """What a traceback ends with."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def connect(address: str) -> Any:
    """Ray, connected to a cluster, or to one that lives as long as this process.

    Raises:
        SpecError: it is not installed, or cannot be reached.
    """
    # No reports of use over the network; a process without GPUs is told so by ourselves.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == "local":
        # Nobody else is to send it anything. Ray would leave its token in the user's home, and
        # clusters that are started later would then ask for it.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise SpecError("--cluster needs Ray: pip install 'gaunlearn[cluster]'") from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if address == "local":
        try:
            ray.init("local", include_dashboard=False, object_store_memory=_OBJECTS, **quiet)
        except Exception as error:  # Ray raises many kinds, down to Exception itself
            raise SpecError(
                f"--cluster local: cannot be started: {' '.join(str(error).split())}"
            ) from None
        return ray
    if address != "auto":
        host, colon, port = address.rpartition(":")
        if not (colon and host and "/" not in host and port.isdecimal()):
            raise SpecError(
                f"--cluster {address}: must be 'local', 'auto' (the cluster that this machine is a "
                "node of) or HOST:PORT of the head"
            )
        try:
            socket.create_connection((host, int(port)), _REACH_S).close()
        except (OSError, OverflowError) as error:
            raise SpecError(
                f"--cluster {address}: cannot be reached: {error}; on its head, 'ray start --head "
                "--port=PORT' starts one"
            ) from None
        _prove(address)
    try:
        ray.init(address, **quiet)
    except Exception as error:
        raise SpecError(
            f"--cluster {address}: cannot be joined: {' '.join(str(error).split())}"
        ) from None
    return ray


def _prove(address: str) -> None:
    """See that a cluster answers there: Ray waits for minutes for one that is none, and says why
    it does not let somebody in on the process's error output only.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROVE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise SpecError(
            f"--cluster {address}: does not answer as a Ray cluster's head does ({_PROVE_S:.0f} s)"
        ) from None
    if "Authentication" in done.stderr:
        raise SpecError(
            f"--cluster {address}: cannot be joined: it asks for its token: set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too"
        )
    if done.returncode:
        reason = last_line(done.stderr)
        raise SpecError(f"--cluster {address}: cannot be joined: {reason}")
