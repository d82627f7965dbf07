"""How hard XLA's compiler is to try. Nothing here knows what is compiled."""

from collections import Counter
from collections.abc import Hashable, Mapping
from functools import cache

import jax

__all__ = ["WORK", "Options", "Work", "full_options", "loop_options", "quick_options"]

Options = dict[str, bool | int]

# Neither is documented by XLA, and later versions may not know them.
_PLAIN_FUSIONS: Options = {"xla_cpu_use_fusion_emitters": False}
_NO_OPTIMISATION: Options = {"xla_backend_optimization_level": 0}


@cache
def _known(names: tuple[tuple[str, bool | int], ...]) -> bool:
    try:
        jax.jit(lambda number: number + 1, compiler_options=dict(names))(1)
    except jax.errors.JaxRuntimeError:  # no such option
        return False
    return True


def _if_known(*options: Options) -> Options:
    if jax.default_backend() != "cpu":
        return {}
    known = (each for each in options if _known(tuple(each.items())))
    return {name: value for each in known for name, value in each.items()}


def full_options() -> Options:
    """For programs with much to do. On CPUs XLA's newer way of compiling fusions takes a third
    longer, and most kernels here run no faster for it (docs/measurements.md, *Compiling*).
    """
    return _if_known(_PLAIN_FUSIONS)


def loop_options() -> Options:
    """For small programs that go round a loop for most of their time: XLA's own choice, which makes
    training steps up to a third faster (docs/measurements.md, *Against the machine*).
    """
    return {}


def quick_options() -> Options:
    """For programs with little to do: on CPUs compiled in a fifth to a half of the time, they run
    up to eight times slower (docs/measurements.md, *Compiling*).
    """
    return _if_known(_PLAIN_FUSIONS, _NO_OPTIMISATION)


class Work:
    """What programs have done, by which quickly compiled ones have had their share or not."""

    def __init__(self, done: Mapping[Hashable, int] | None = None) -> None:
        self._done = Counter(done or {})

    def copy(self) -> "Work":
        """To count on without changing this."""
        return Work(self._done)

    def stays_quick(self, program: Hashable, work: int, enough: int, ahead: float = 0) -> bool:
        """Whether a program is (still) to be one that was compiled quickly; counts its work.

        Args:
            program: tells it from others.
            work: what it is about to do, in units of the caller's.
            enough: work, all calls together, at which it has lost what its compiler saved.
            ahead: work that is known to come after this.
        """
        self._done[program] += work
        return self._done[program] + ahead <= enough


# Of this process.
WORK = Work()
