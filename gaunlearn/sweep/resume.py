"""What a run's directory already holds of a sweep, and what of it the sweep no longer wants.

Trials are matched by content: a changed specification finds those of its trials that were computed
under another one. Parts that it does not want are set aside in ``unused/``, never deleted, and
taken back when a later specification wants them. What ``store`` says holds at every moment, holds
here too.
"""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gaunlearn.sweep.identity import digest, forget_name, trial_id
from gaunlearn.sweep.parts import Claim, inspect_parts, read_claims, select_rows
from gaunlearn.sweep.place import Place
from gaunlearn.sweep.plan import STARTS, Branch, Family, Pairs
from gaunlearn.sweep.rows import training_id
from gaunlearn.sweep.sections import Section
from gaunlearn.sweep.store import NetworkName
from gaunlearn.trial import ORIGINAL

__all__ = ["Finished", "claims_of", "reconcile", "trial_ids_of"]

_Place = tuple[str, int]  # content digest and seed


def claims_of(family: Family, directory: Path) -> list[Claim]:
    """What a family's trials will be claimed as."""
    contents = family.contents(directory)
    return [
        Claim(content, family.seed, branch.pairs)
        for content, branch in zip(contents, family.branches, strict=True)
    ]


def _without(pairs: Pairs, done: Iterable[Pairs]) -> Pairs:
    """Products of what ``pairs`` has and none of ``done``."""
    known: dict[int, set[float]] = {}
    for products in done:
        for forget, steps in products:
            for index in forget:
                known.setdefault(index, set()).update(steps)
    return _products(
        (index, tuple(step for step in steps if step not in known.get(index, ())))
        for forget, steps in pairs
        for index in forget
    )


def _products(each: Iterable[tuple[int, tuple[float, ...]]]) -> Pairs:
    """The same pairs, samples with equal steps together."""
    together: dict[tuple[float, ...], list[int]] = {}
    for index, steps in each:
        if steps:
            together.setdefault(steps, []).append(index)
    return tuple((tuple(indices), steps) for steps, indices in together.items())


def _both(pairs: Pairs, others: Iterable[Pairs]) -> Pairs:
    """Products of what is in ``pairs`` and in ``others``."""
    missing = {
        (index, step)
        for forget, steps in _without(pairs, others)
        for index in forget
        for step in steps
    }
    return _products(
        (index, tuple(step for step in steps if (index, step) not in missing))
        for forget, steps in pairs
        for index in forget
    )


class Finished:
    """Which trials are stored, and how many parts were found damaged and set aside."""

    def __init__(self) -> None:
        # Seeds by branch and products: of millions of trainings few differ in more than the seed.
        self._done: dict[str, dict[Pairs, set[int]]] = {}
        self.trials = 0
        self.damaged_parts = 0

    def add(self, claims: Sequence[Claim]) -> None:
        """Count a part's trials as stored."""
        for claim in claims:
            of_branch = self._done.setdefault(claim.content, {})
            of_branch.setdefault(claim.pairs, set()).add(claim.seed)
            self.trials += claim.trials

    def missing(self, content: str, seed: int, pairs: Pairs) -> Pairs:
        """What is not stored of one branch."""
        of_branch = self._done.get(content, {})
        if seed in of_branch.get(pairs, ()):
            return ()
        done = [products for products, seeds in of_branch.items() if seed in seeds]
        return _without(pairs, done) if done else pairs

    def left_of(self, family: Family, directory: Path) -> Family | None:
        """A family without its stored trials; None if nothing is left."""
        if not self._done:
            return family
        branches: list[Branch] = []
        for branch, content in zip(family.branches, family.contents(directory), strict=True):
            pairs = self.missing(content, family.seed, branch.pairs)
            if pairs:
                branches.append(branch._replace(pairs=pairs))
        return family._replace(branches=tuple(branches)) if branches else None


class _Asked(NamedTuple):
    """What a sweep wants of one branch: trials, and what their networks are called."""

    pairs: Pairs
    training: str
    forget: Section
    starts: tuple[int, int]

    def with_networks(self, pairs: Pairs, stored: Collection[NetworkName]) -> Pairs:
        """Those of some products whose networks are stored."""
        if (self.training, None, ORIGINAL) not in stored:
            return ()
        complete = {
            index
            for forget, _ in pairs
            for index in forget
            for name in [forget_name(self.forget, index)]
            if all((self.training, name, start) in stored for start in self.starts)
        }
        if all(complete.issuperset(forget) for forget, _ in pairs):
            return pairs
        return _products(
            (index, steps) for forget, steps in pairs for index in forget if index in complete
        )


def _wanted(
    families: Iterable[Family], directory: Path, stored: Container[_Place]
) -> dict[_Place, _Asked]:
    """What is asked of the branches of which something is stored."""
    return {
        (claim.content, claim.seed): _Asked(
            claim.pairs, training, branch.forget, STARTS[branch.retrain.init]
        )
        for family in families
        for training in [training_id(family, directory)]
        for claim, branch in zip(claims_of(family, directory), family.branches, strict=True)
        if (claim.content, claim.seed) in stored
    }


def trial_ids_of(claims: Sequence[Claim]) -> Iterable[str]:
    """The names of the trials that are claimed."""
    for content, seed, pairs in claims:
        for forget, steps in pairs:
            for index in forget:
                for step in steps:
                    yield trial_id(content, seed, index, step)


def reconcile(
    run: Place,
    families: Iterable[Family],
    directory: Path,
    networks: Collection[NetworkName] | None = None,
    may_change: bool = True,
) -> tuple[Finished, dict[str, list[Claim]], bool]:
    """Make ``trials/`` hold trials of the sweep only, none twice.

    Args:
        families: of the whole sweep; not looked at if there are no parts.
        networks: those that are stored, if a trial is to have its networks; without them it is not
            finished.
        may_change: if false, nothing is moved but parts that are seen to be damaged, and they are
            not read to their ends to see it.

    Returns:
        What is stored, the parts that hold it, and whether something was (or is to be) moved.
    """
    finished, kept = Finished(), dict[str, list[Claim]]()
    # Object stores compare checksums themselves; to read all of a large run would take hours.
    bodies = may_change and run.local is not None
    stored, damaged = inspect_parts(run, "trials", bodies)
    sources = {"trials": stored, "unused": read_claims(run, "unused", bodies)}
    changed = False
    finished.damaged_parts = len(damaged)
    for key in damaged:
        with suppress(FileNotFoundError):  # another shard has done it
            (run / "trials").move(f"{key}.parquet", run / "unused")
    if not any(sources.values()):
        return finished, kept, changed
    known = {
        (claim.content, claim.seed)
        for parts in sources.values()
        for claims in parts.values()
        for claim in claims
    }
    wanted = _wanted(families, directory, known)
    for folder, parts in sources.items():
        for key, claims in sorted(parts.items()):
            keep = _claims_to_keep(claims, wanted, finished, networks)
            whole = keep == claims
            if not (folder == "trials" and whole):
                if folder == "unused" and not keep:
                    continue
                changed = True
                if not may_change:
                    continue
                key = _set_aside(run, folder, key, keep)
            if keep:
                finished.add(keep)
                kept[key] = keep
    return finished, kept, changed


def _claims_to_keep(
    claims: Sequence[Claim],
    wanted: Mapping[_Place, _Asked],
    finished: Finished,
    networks: Collection[NetworkName] | None,
) -> list[Claim]:
    keep = []
    for claim in claims:
        asked = wanted.get((claim.content, claim.seed))
        if asked is None:
            continue
        pairs = claim.pairs if asked.pairs == claim.pairs else _both(claim.pairs, [asked.pairs])
        if networks is not None:
            pairs = asked.with_networks(pairs, networks)
        pairs = finished.missing(claim.content, claim.seed, pairs)
        if pairs:
            keep.append(claim._replace(pairs=pairs))
    return keep


def _set_aside(run: Place, folder: str, key: str, keep: Sequence[Claim]) -> str:
    """Move a part to unused/, and what is wanted of it into a part of its own."""
    name, new = f"{key}.parquet", digest([list(claim) for claim in keep])
    content = select_rows(run, folder, key, trial_ids_of(keep), keep) if keep else b""
    if folder == "trials":
        (run / "trials").move(name, run / "unused")
    if keep:
        (run / "trials").write(f"{new}.parquet", content)
    return new
