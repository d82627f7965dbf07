"""A trial as a row: from sections and results to columns, and from a row back to sections."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gaunlearn.limit import STATUSES
from gaunlearn.schema import PARAMETERS, RESULTS
from gaunlearn.sweep.execute import Results
from gaunlearn.sweep.grid import Cell
from gaunlearn.sweep.identity import digest, training_digest, trial_id
from gaunlearn.sweep.plan import Block, Branch, Family
from gaunlearn.sweep.sections import (
    KIND_KEY,
    LIST_VALUED,
    SECTIONS,
    WHOLE,
    ForgetIndex,
    Section,
    column_name,
)

__all__ = ["Rows", "cell_of_row", "parameters_of", "rows_of", "training_id"]


class Rows(NamedTuple):
    """A block's rows as ``store.write_part`` takes them."""

    columns: dict[str, Any]
    parameters: list[dict[str, Any]]
    owner: np.ndarray


def parameters_of(family: Family, branch: Branch) -> dict[str, Any]:
    """Column name -> value; a list as JSON. Parameters that are not set are left out."""
    sections: dict[str, Section] = {
        "data": family.data,
        "model": family.model,
        "train": family.train,
        "retrain": branch.retrain,
        "evaluate": branch.evaluate,
        "compute": family.compute,
        "forget": branch.forget,
        "unlearn": branch.unlearn,
    }
    found = {}
    for name, section in sections.items():
        for key, value in section.model_dump().items():
            if value is not None:
                listed = isinstance(value, tuple)
                found[column_name(name, key)] = json.dumps(value) if listed else value
    return found


def training_id(family: Family, directory: Path) -> str:
    """The name of a training: equal for trials that share it."""
    sections: tuple[Section, ...] = (family.data, family.model, family.train, family.compute)
    if family.judge is not None:
        sections = (*sections, family.judge)
    return digest({"training": training_digest(sections, directory), "seed": family.seed})


def rows_of(block: Block, results: Results, directory: Path) -> Rows:
    """Add identity and parameters to a block's results."""
    branches = [
        (number, place)
        for number, family in enumerate(block.families)
        for place in range(len(family.branches))
    ]
    number_of = {branch: number for number, branch in enumerate(branches)}
    owner = np.asarray([number_of[number, place] for number, place in results.owner.tolist()])
    contents = [content for family in block.families for content in family.contents(directory)]
    seeds = np.asarray([block.families[number].seed for number, _ in branches])[owner]
    trainings = np.asarray([training_id(family, directory) for family in block.families])
    columns: dict[str, Any] = dict(results.columns)
    for column in RESULTS:
        if column.name in columns and column.type == "string":
            columns[column.name] = np.asarray(STATUSES)[columns[column.name]]
    by_index = np.asarray(
        [
            isinstance(block.families[number].branches[place].forget, ForgetIndex)
            for number, place in branches
        ]
    )[owner]
    columns |= {
        "seed": seeds,
        "forget_index": np.where(by_index, results.number, np.nan),
        "forget_draw": np.where(by_index, np.nan, results.number),
        "forgotten": [json.dumps(each) for each in results.forgotten],
        "step_fraction": results.step_fraction,
        "training_id": trainings[results.owner[:, 0]],
        "trial_id": [
            trial_id(contents[branch], seed, index, step)
            for branch, seed, index, step in zip(
                owner.tolist(),
                seeds.tolist(),
                results.number.tolist(),
                results.step_fraction.tolist(),
                strict=True,
            )
        ],
    }
    parameters = [
        parameters_of(block.families[number], block.families[number].branches[place])
        for number, place in branches
    ]
    return Rows(columns, parameters, owner)


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _number_of_row(row: Mapping[str, Any]) -> int:
    """The number of the forgotten sample, or of the draw."""
    index = row["forget_index"]
    return int(row["forget_draw"] if _is_missing(index) else index)


def cell_of_row(row: Mapping[str, Any]) -> Cell:
    """The trial that a row of a data set describes, as a cell with one trial.

    Raises:
        ValueError: the row's parameters are none of this version's.
    """
    built: dict[str, Any] = {}
    for name, kinds in SECTIONS.items():
        column = column_name(name, KIND_KEY[name]) if name in KIND_KEY else ""
        kind = row[column] if column else ""
        if kind not in kinds:
            raise ValueError(f"{column} is {kind!r}, this version has {', '.join(kinds)}")
        cls = kinds[kind]
        values = {}
        for key, field in cls.model_fields.items():
            value = row[column_name(name, key)]
            if _is_missing(value):
                continue
            if key in LIST_VALUED:
                value = json.loads(value)
            values[key] = int(value) if field.annotation in WHOLE else value
        built[name] = cls(**values)
    own = {column_name(name, key) for name in built for key in type(built[name]).model_fields}
    for parameter in PARAMETERS:
        if parameter.name not in own and not _is_missing(row[parameter.name]):
            raise ValueError(f"{parameter.name} is {row[parameter.name]!r}, this trial has none")
    return Cell(
        **built,
        seeds=(int(row["seed"]),),
        forget_indices=(_number_of_row(row),),
        step_fractions=(float(row["step_fraction"]),),
    )
