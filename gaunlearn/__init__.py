"""gaunlearn: how well does gradient ascent unlearn? Seeded trials, certified and stored.

Names are imported when they are first used: the command line starts without JAX.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaunlearn.api import (
        Certificate,
        Frontier,
        Limit,
        Run,
        Unlearned,
        ascend,
        certify,
        find_limit,
        load,
        run,
        unlearn,
    )
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gaunlearn' has no attribute {name!r}")
    from gaunlearn import api, stored

    return getattr(stored if name in stored.__all__ else api, name)


def __dir__() -> list[str]:
    return __all__
