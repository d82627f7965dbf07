"""How a run's numbers are computed: versions, code, devices, and whether JAX computes correctly."""

import platform
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from gaunlearn.doctor import examine, versions
from gaunlearn.sweep.identity import digest, digest_of_code

__all__ = ["FaultyJaxError", "commit_of_code", "identity_of_code", "provenance_of"]


class FaultyJaxError(RuntimeError):
    """This JAX computes wrong results here."""


def commit_of_code() -> str | None:
    """The commit of the checkout that this package was imported from, if it is one; changes that
    are in no commit are told apart by what the package's files hold.
    """
    here = Path(__file__).resolve().parent
    try:
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            check=False,
        )
        if tracked.returncode:
            return None
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    commit = found.stdout.strip()
    if commit.endswith("-dirty"):
        commit += f"-{digest_of_code()[:12]}"
    return commit or None


def identity_of_code() -> dict[str, str]:
    """What processes that compute parts of one run have to have in common."""
    return {
        "gaunlearn": f"{version('gaunlearn')} (code {digest_of_code()[:12]})",
        **versions(),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def provenance_of(
    text: str, directory: Path, started: str, allow_faulty_jax: bool = False
) -> dict[str, Any]:
    """What a part says of how this process computed it.

    Args:
        text: of the specification.
        directory: what relative paths in it refer to.
        started: when the run began, in ISO 8601.
        allow_faulty_jax: go on although a canary failed.

    Raises:
        FaultyJaxError: a canary failed.
    """
    ill = [finding for finding in examine(in_own_process=False) if not finding.well]
    if ill and not allow_faulty_jax:
        first = ill[0]
        raise FaultyJaxError(
            f"jax {jax.__version__} computes wrong results on {first.device} ({first.canary}: "
            f"{first.detail}); install another release, or insist with --allow-faulty-jax"
        )
    devices = jax.local_devices()
    # Where the user's files lie is nobody's business in a data set that reads none of them.
    reads_files = "path" in tomllib.loads(text).get("data", {})
    return {
        "gaunlearn": version("gaunlearn"),
        "commit": commit_of_code(),
        **versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "devices": len(devices),
        "canaries": "well" if not ill else "; ".join(f"{f.canary}: {f.detail}" for f in ill),
        "started": started,
        "spec_hash": digest(text),
        "spec": text,
        **({"directory": str(directory.resolve())} if reads_files else {}),
    }
