"""From a specification to the tree of stages that have to run (DESIGN 3.4).

A training serves every forget set, step fraction, way of retraining and way of evaluating; so a
``Block`` is one training configuration with some seeds and all that hangs below it, and is what is
computed, stored and resumed as a whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gaunlearn.data.real import load_npz
from gaunlearn.schema import SCHEMA_VERSION
from gaunlearn.sweep.identity import data_content, digest, model_content, trial_content
from gaunlearn.sweep.spec import Cell, FileData, Sweep

__all__ = ["Block", "plan_blocks"]

# Retrainings that run side by side in a block: enough to amortise a step's overhead, few enough
# that an interruption loses little.
_RETRAININGS = 96


@dataclass(frozen=True)
class Block:
    """One training configuration, some seeds, and everything evaluated below them.

    Attributes:
        key: hash of the content of all the block's trials; the name of its file.
        cells: differ in [retrain] and [evaluate] only.
        contents: ``trial_content`` of each cell.
        data, model: what the random keys are folded from.
        seeds, forget_indices, step_fractions: every combination is a trial of each cell.
    """

    key: str
    cells: tuple[Cell, ...]
    contents: tuple[dict[str, Any], ...]
    data: dict[str, Any]
    model: dict[str, Any]
    seeds: tuple[int, ...]
    forget_indices: tuple[int, ...]
    step_fractions: tuple[float, ...]

    @property
    def trials(self) -> int:
        """How many rows the block will have."""
        return (
            len(self.cells) * len(self.seeds) * len(self.forget_indices) * len(self.step_fractions)
        )


def plan_blocks(sweep: Sweep) -> Iterator[Block]:
    """The blocks of a sweep, one training configuration after the other, none twice."""
    planned: set[str] = set()
    groups: dict[str, list[Cell]] = {}
    for cell in sweep.cells:
        shared = repr((cell.data, cell.model, cell.train, cell.compute))
        groups.setdefault(shared, []).append(cell)
    for cells in groups.values():
        first = cells[0]
        data = data_content(first, sweep.directory)
        contents = tuple(trial_content(cell, data) for cell in cells)
        if sweep.forget_indices is not None:
            indices = sweep.forget_indices
        elif isinstance(first.data, FileData):
            indices = tuple(range(len(load_npz(sweep.directory / first.data.path).y)))
        else:
            indices = tuple(range(first.data.m))
        count = max(1, _RETRAININGS // (2 * len(indices)))
        for place in range(0, len(sweep.seeds), count):
            seeds = sweep.seeds[place : place + count]
            key = digest(
                {
                    "schema": SCHEMA_VERSION,
                    "cells": contents,
                    "seeds": seeds,
                    "forget": indices,
                    "step_fractions": sweep.step_fractions,
                }
            )
            if key in planned:
                continue
            planned.add(key)
            yield Block(
                key=key,
                cells=tuple(cells),
                contents=contents,
                data=data,
                model=model_content(first),
                seeds=seeds,
                forget_indices=indices,
                step_fractions=sweep.step_fractions,
            )
