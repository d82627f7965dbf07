"""What the stages do with their lanes on one device: functions for ``lanes.run_lanes``.

What lanes share (problems, trained models, forget sets) comes once, as ``common``; a lane says by
number what it needs of it.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gaunlearn.certificate import Certificate
from gaunlearn.limit import Limit
from gaunlearn.models import Model
from gaunlearn.sweep.lanes import map_lanes, run_in_rounds, take
from gaunlearn.sweep.traced import register
from gaunlearn.training import Trained
from gaunlearn.trial import (
    Certified,
    Destination,
    Settings,
    Setup,
    certify_stage,
    compare_stage,
    descent_of,
    end_training,
    judge_stage,
    limit_stage,
    unlearn_stage,
)
from gaunlearn.unlearning import Unlearned

__all__ = [
    "CertifyLane",
    "ForgetLane",
    "JudgeLane",
    "LimitLane",
    "TrainLane",
    "certify",
    "compare",
    "judge",
    "limit",
    "train",
    "unlearn",
]


# What stages return.
register(Certificate, Certified, Destination, Limit, Trained, Unlearned)


def _problem_and_kept(problems: Any, orders: Array, lane: Any) -> tuple[Any, Array]:
    """A lane's problem, and which of its samples the lane does not forget."""
    problem = take(problems, lane.problem)
    return problem, problem.present & (orders[lane.forget] == 0)


class TrainLane(NamedTuple):
    """A training or retraining: its start, and the numbers of its problem, its settings and what it
    forgets.
    """

    problem: Any
    settings: Any
    start: Any
    forget: Any


def train(setup: Setup, batch: int, lanes: TrainLane, count: Array, common: Any) -> Any:
    """Descend on every lane: its end, its margins there, and the places that batches had."""
    problems, settings, orders = common

    def descent(lane):
        problem, keep = _problem_and_kept(problems, orders, lane)
        return descent_of(setup, take(settings, lane.settings), problem, lane.start, keep)

    states, places = run_in_rounds(
        lanes,
        count,
        batch,
        begin=lambda lane: descent(lane).begin(),
        one_round=lambda lane, state: descent(lane).one_round(state),
    )

    def finish(pair):
        lane, state = pair
        problem = take(problems, lane.problem)
        return end_training(setup, problem, lane.start, descent(lane).result(state))

    ended, margins = map_lanes(finish, (lanes, states), count, batch)
    return ended, margins, jnp.full(lanes.problem.shape, places)


class LimitLane(NamedTuple):
    """Weights, and what training on from them forgets."""

    problem: Any
    forget: Any
    weights: Any


def limit(
    static: tuple[Model, bool], batch: int, lanes: LimitLane, count: Array, common: Any
) -> Any:
    """Solve for limits, of trained and of unlearned models, with the fallback or without it."""
    problems, orders = common
    model, with_fallback = static

    def one(lane):
        problem, keep = _problem_and_kept(problems, orders, lane)
        return limit_stage(model, problem, lane.weights, keep, with_fallback)

    return map_lanes(one, lanes, count, batch)


class CertifyLane(NamedTuple):
    """Weights to be certified on what is not forgotten, and what the frontier's paths lead to."""

    problem: Any
    forget: Any
    settings: Settings
    weights: Any
    ends: Any


def certify(model: Model, batch: int, lanes: CertifyLane, count: Array, common: Any) -> Any:
    """Certify models, trained and unlearned."""
    problems, orders, beyond = common

    def one(lane):
        problem, keep = _problem_and_kept(problems, orders, lane)
        return certify_stage(model, lane.settings, problem, lane.weights, keep, lane.ends, beyond)

    return map_lanes(one, lanes, count, batch)


class ForgetLane(NamedTuple):
    """One forget set of a branch: numbers of the models and certificates it needs."""

    problem: Any
    trained: Any
    original: Any
    retrained: Any
    reference: Any
    again: Any
    forget: Any


def compare(setup: Setup, batch: int, lanes: Any, count: Array, common: Any) -> Any:
    """Compare trained and retrained models; lanes are (``ForgetLane``, settings)."""
    problems, models, certificates, orders = common

    def one(lane):
        forgotten, settings = lane
        return compare_stage(
            setup,
            settings,
            take(problems, forgotten.problem),
            take(models, forgotten.trained),
            take(certificates, forgotten.original),
            take(models, forgotten.retrained),
            take(certificates, forgotten.reference),
            take(models, forgotten.again),
            orders[forgotten.forget],
        )

    return map_lanes(one, lanes, count, batch)


def unlearn(static: tuple[Setup, str], batch: int, lanes: Any, count: Array, common: Any) -> Any:
    """Unlearn by one method; lanes are (``ForgetLane``, settings, effort)."""
    problems, models, certificates, orders = common
    setup, method = static

    def one(lane):
        forgotten, settings, effort = lane
        return unlearn_stage(
            setup,
            method,
            settings,
            effort,
            take(problems, forgotten.problem),
            take(models, forgotten.trained),
            take(certificates, forgotten.original),
            take(models, forgotten.retrained),
            orders[forgotten.forget],
        )

    return map_lanes(one, lanes, count, batch)


class JudgeLane(NamedTuple):
    """One trial: what it forgets, its unlearned model, and what that is."""

    forgotten: ForgetLane
    settings: Settings
    unlearned: Any
    step_fraction: Any
    is_ascent: Any


def judge(setup: Setup, batch: int, lanes: JudgeLane, count: Array, common: Any) -> Any:
    """Compare unlearned models with the others."""
    problems, models, certificates, orders = common

    def one(lane):
        return judge_stage(
            setup,
            lane.settings,
            take(problems, lane.forgotten.problem),
            take(models, lane.forgotten.trained),
            take(certificates, lane.forgotten.original),
            take(models, lane.forgotten.retrained),
            take(certificates, lane.forgotten.reference),
            orders[lane.forgotten.forget],
            lane.unlearned,
            lane.step_fraction,
            lane.is_ascent,
        )

    return map_lanes(one, lanes, count, batch)
