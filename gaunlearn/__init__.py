"""gaunlearn: how well does gradient ascent unlearn? Seeded trials, certified and stored.

Names are imported when they are first used: the command line starts without JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaunlearn.api import (
        Certificate,
        Frontier,
        Limit,
        Unlearned,
        ascend,
        certify,
        find_limit,
        unlearn,
    )
    from gaunlearn.runs import Run, load, run
    from gaunlearn.stored import Networks, networks

__all__ = [
    "Certificate",
    "Frontier",
    "Limit",
    "Networks",
    "Run",
    "Unlearned",
    "ascend",
    "certify",
    "find_limit",
    "load",
    "networks",
    "run",
    "unlearn",
]


# Where names are, but for those of ``api``, which does without the engine.
_MODULES = {
    "Run": "runs",
    "load": "runs",
    "run": "runs",
    "Networks": "stored",
    "networks": "stored",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gaunlearn' has no attribute {name!r}")
    return getattr(import_module(f"gaunlearn.{_MODULES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return __all__
