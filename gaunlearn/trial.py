"""One trial, train -> retrain -> unlearn -> evaluate, as pure functions of arrays.

The stages are separate functions because a sweep shares them: one training serves every forget
set, one pair of retrainings every method and step fraction. ``Setup`` holds what is
static, and so defines a compiled program; all else, ``Settings`` among it, is traced and may differ
from one lane of a batch to the next. Keys of the returned dictionaries are column names of
``schema``.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.certificate import Certificate, one_minus_cosine
from gaunlearn.frontier import best_and_least
from gaunlearn.fused import Fused, steps_by
from gaunlearn.generalisation import fresh_logits, generalisation, outside_of
from gaunlearn.ladder import certify
from gaunlearn.limit import Limit, find_limit
from gaunlearn.losses import Loss
from gaunlearn.metrics import disagreement
from gaunlearn.models import Model
from gaunlearn.schema import BUDGETS, GUARANTEED_EPSILON, name_of_budget
from gaunlearn.theory import ascent_bound, data_conditions
from gaunlearn.training import Descent, Trained, TrainingConfig, margins
from gaunlearn.types import AnyArray, Problem
from gaunlearn.unlearning import METHODS, Effort, Situation, Unlearned, estimated_multipliers

__all__ = [
    "FRESH",
    "FRESH_AGAIN",
    "INITIALISATIONS",
    "ORIGINAL",
    "Certified",
    "Destination",
    "Settings",
    "Setup",
    "TrainedModel",
    "certificate_of_limit",
    "certify_stage",
    "columns_of_certificate",
    "columns_of_least",
    "columns_of_limit",
    "compare_stage",
    "descent_of",
    "end_training",
    "judge_stage",
    "limit_stage",
    "trained_model",
    "unlearn_stage",
]

# Places in Problem.initial_weights: the trained model's, and two fresh ones to retrain from.
ORIGINAL, FRESH, FRESH_AGAIN = 0, 1, 2
INITIALISATIONS = 3


class Setup(NamedTuple):
    """What is fixed for a compiled program.

    Attributes:
        model: the architecture.
        loss: the loss summed over samples.
        optimizer: a key of ``training.OPTIMIZERS``.
        check_every: steps between two looks at the descent.
        to_limit: whether the limit of the descent takes the place of its end.
        to_epsilon: whether the descent may end at ``Settings.target_epsilon``.
        kinks: whether certificates handle kinks or ignore them.
        fused: the kernel that takes the steps, instead of XLA's.
    """

    model: Model
    loss: Loss
    optimizer: str
    check_every: int
    to_limit: bool
    to_epsilon: bool
    kinks: bool
    fused: Fused | None = None


class Settings(NamedTuple):
    """What lanes of one program may differ in.

    Attributes:
        step_size, max_steps, target_log_loss, target_epsilon: see ``training.TrainingConfig``.
        kink_tols: ladder of kink tolerances, or ``ladder.IGNORED_KINKS``.
        tau_budget: how much tau a certificate may cost.
    """

    step_size: Float[AnyArray, ""]
    max_steps: Int[AnyArray, ""]
    target_log_loss: Float[AnyArray, ""]
    target_epsilon: Float[AnyArray, ""]
    kink_tols: Float[AnyArray, " l"]
    tau_budget: Float[AnyArray, ""]


class Destination(NamedTuple):
    """Where training on from some weights would lead.

    Attributes:
        limit: the limit.
        tau: 1 - cos between the weights and it.
    """

    limit: Limit
    tau: Float[Array, ""]


class Certified(NamedTuple):
    """A model's certificate, and the least epsilon within each of the budgets of ``BUDGETS``."""

    certificate: Certificate
    least: Float[Array, "b t"]


class TrainedModel(NamedTuple):
    """A trained or retrained model.

    Attributes:
        weights: those of the descent's end, or of its limit.
        steps: steps of the descent.
        log_loss: log of the summed loss at the descent's end.
        settled: see ``training.Trained``.
        limit: where the descent was going.
        tau_limit: 1 - cos between the descent's end and its limit.
        ease: what samples are ranked by from hardest to easiest: margins at the descent's end, or
            the limit's multipliers with a minus sign (all its support has margin 1).
    """

    weights: Float[Array, "n r+k"]
    steps: Int[Array, ""]
    log_loss: Float[Array, ""]
    settled: Bool[Array, ""]
    limit: Limit
    tau_limit: Float[Array, ""]
    ease: Float[Array, " m"]


def _certify(
    setup: Setup,
    settings: Settings,
    problem: Problem,
    weights: Float[Array, "n r+k"],
    keep: Bool[Array, " m"],
) -> Certificate:
    return certify(
        setup.model,
        weights,
        problem.u,
        problem.x,
        problem.y,
        keep,
        jnp.asarray(settings.kink_tols),
        jnp.asarray(settings.tau_budget),
    )


def _without(matrix: Float[Array, "n r"], columns: slice) -> Float[Array, "n s"]:
    return jnp.concatenate([matrix[:, : columns.start], matrix[:, columns.stop :]], axis=1)


def _with(
    matrix: Float[Array, "n s"], columns: slice, put: Float[Array, "n k"]
) -> Float[Array, "n r"]:
    return jnp.concatenate([matrix[:, : columns.start], put, matrix[:, columns.start :]], axis=1)


def descent_of(
    setup: Setup,
    settings: Settings,
    problem: Problem,
    start: Int[Array, ""],
    keep: Bool[Array, " m"],
) -> Descent:
    """Descent on the samples in ``keep`` from initialisation number ``start``.

    The coordinates outside the samples' span never change, so descent leaves them out.
    """
    initial, outside = problem.initial_weights[start], outside_of(problem, setup.model)

    def epsilon_of(weights):
        whole = _with(weights, outside, initial[:, outside])
        return _certify(setup, settings, problem, whole, keep).epsilon

    return Descent(
        setup.model,
        TrainingConfig(
            loss=setup.loss,
            optimizer=setup.optimizer,
            step_size=settings.step_size,
            max_steps=settings.max_steps,
            target_log_loss=settings.target_log_loss,
            target_epsilon=settings.target_epsilon,
            check_every=setup.check_every,
            until_settled=setup.to_limit,
        ),
        _without(initial, outside),
        problem.u,
        _without(problem.x, outside),
        problem.y,
        keep,
        epsilon_of if setup.to_epsilon else None,
        setup.fused and steps_by(setup.fused, setup.model, setup.loss, setup.optimizer),
    )


def end_training(
    setup: Setup, problem: Problem, start: Int[Array, ""], trained: Trained
) -> tuple[Trained, Float[Array, " m"]]:
    """Where descent from initialisation number ``start`` ended, with what lies outside the span;
    and the margins there.
    """
    outside = outside_of(problem, setup.model)
    weights = _with(trained.weights, outside, problem.initial_weights[start][:, outside])
    ended = trained._replace(weights=weights)
    return ended, margins(setup.model, weights, problem.u, problem.x, problem.y)


def limit_stage(
    model: Model,
    problem: Problem,
    weights: Float[Array, "n r+k"],
    keep: Bool[Array, " m"],
    with_fallback: bool,
) -> Destination:
    """Solve for where training on the samples in ``keep`` leads from some weights. There
    coordinates outside the samples' span are zero: they stay as they are while the others grow.

    Args:
        with_fallback: see ``find_limit``.
    """
    limit = find_limit(model, weights, problem.u, problem.x, problem.y, keep, with_fallback)
    return Destination(limit, one_minus_cosine(weights, limit.weights))


def trained_model(
    setup: Setup,
    ended: Trained,
    margins_at_end: Float[Array, " m"],
    destination: Destination,
) -> TrainedModel:
    """What is taken for the trained model, one or many stacked: the descent's end or its limit."""
    limit = destination.limit
    return TrainedModel(
        weights=limit.weights if setup.to_limit else ended.weights,
        steps=ended.steps,
        log_loss=ended.log_loss,
        settled=ended.settled,
        limit=limit,
        tau_limit=destination.tau,
        ease=-limit.multipliers if setup.to_limit else margins_at_end,
    )


def certify_stage(
    model: Model,
    settings: Settings,
    problem: Problem,
    weights: Float[Array, "n r+k"],
    keep: Bool[Array, " m"],
    ends: Float[Array, "e n r+k"],
    beyond: Bool[Array, ""],
) -> Certified:
    """A model's certificate on the samples in ``keep``, and the least epsilons within budgets if
    there is to be more than the certificate.

    Args:
        ends: what the frontier's paths lead to.
        beyond: see ``frontier.best_and_least``.
    """
    u, x, y = problem.u, problem.x, problem.y
    deltas, taus = (jnp.asarray([10.0**-k for k in powers]) for powers in BUDGETS)
    best, least = best_and_least(
        model,
        weights,
        u,
        x,
        y,
        keep,
        jnp.asarray(settings.kink_tols),
        jnp.asarray(settings.tau_budget),
        ends,
        deltas,
        taus,
        beyond,
    )
    return Certified(best, least)


def certificate_of_limit(limit: Limit) -> Certificate:
    """What the limit solver found a limit with, one or many stacked: exact, and with tau = 0."""
    return Certificate(
        epsilon=limit.epsilon,
        delta=limit.delta,
        tau=0.0 * limit.epsilon,
        multipliers=limit.multipliers,
        coefficients=limit.coefficients,
        kink_pairs=limit.kink_pairs,
        separated=limit.epsilon < float("inf"),
        kink_tol=0.0 * limit.epsilon,
        gap=0.0 * limit.epsilon,
        weights=limit.weights,
        margins=limit.margins,
    )


def _situation(
    problem: Problem,
    model: Model,
    settings: Settings,
    trained: TrainedModel,
    original: Certificate,
    retrained: TrainedModel,
    order: Int[Array, " m"],
) -> Situation:
    """What a method of unlearning is given."""
    u, x, y = problem.u, problem.x, problem.y
    q = margins(model, trained.weights, u, x, y)
    least = jnp.min(jnp.where(problem.present, q, jnp.inf))
    return Situation(
        weights=trained.weights,
        scale=jnp.where(least > 0, least, jnp.nan) ** (1 / model.homogeneity),
        certificate=original,
        u=u,
        x=x,
        y=y,
        order=order,
        retain=problem.present & (order == 0),
        retrained=retrained.weights,
        retraining_steps=retrained.steps,
        kink_tols=jnp.asarray(settings.kink_tols),
        tau_budget=jnp.asarray(settings.tau_budget),
    )


def compare_stage(
    setup: Setup,
    settings: Settings,
    problem: Problem,
    trained: TrainedModel,
    original: Certificate,
    retrained: TrainedModel,
    reference: Certificate,
    retrained_again: TrainedModel,
    order: Int[Array, " m"],
) -> dict[str, Array]:
    """What holds for every method and step: data, trained and retrained model.

    Args:
        original: the trained model's certificate on all samples.
        reference: the retrained model's, on the retain set.
        retrained_again: one retrained from another initialisation, for ``tau_retrain_floor``.
        order: 0 for retained samples; forgotten ones are numbered from 1.
    """
    conditions = data_conditions(setup.model, problem.u, problem.x, problem.present)
    situation = _situation(problem, setup.model, settings, trained, original, retrained, order)
    estimated = estimated_multipliers(setup.model, setup.loss, situation)
    forget = situation.forget

    def of(weights, whose):
        fresh = fresh_logits(setup.model, problem, weights)
        return generalisation(setup.model, problem, weights, fresh, forget, whose)

    return {
        **conditions._asdict(),
        "epsilon_train": original.epsilon,
        "delta_train": original.delta,
        "tau_train": original.tau,
        "kink_pairs_train": original.kink_pairs,
        "separated_train": original.separated,
        "log_loss_train": trained.log_loss,
        "steps": trained.steps,
        "settled_train": trained.settled,
        "tau_train_limit": trained.tau_limit,
        "limit_status": trained.limit.status,
        "lambda_forget": jnp.sum(jnp.where(forget, original.multipliers, 0.0)),
        "lambda_forget_estimated": jnp.sum(jnp.where(forget, estimated, 0.0)),
        "epsilon_retrain": reference.epsilon,
        "delta_retrain": reference.delta,
        "separated_retrain": reference.separated,
        "log_loss_retrain": retrained.log_loss,
        "steps_retrain": retrained.steps,
        "tau_retrain_limit": retrained.tau_limit,
        "limit_status_retrain": retrained.limit.status,
        "tau_retrain_floor": one_minus_cosine(retrained.weights, retrained_again.weights),
        **of(trained.weights, "original"),
        **of(retrained.weights, "retrained"),
    }


def unlearn_stage(
    setup: Setup,
    method: str,
    settings: Settings,
    effort: Effort,
    problem: Problem,
    trained: TrainedModel,
    original: Certificate,
    retrained: TrainedModel,
    order: Int[Array, " m"],
) -> Unlearned:
    """Unlearn by one method, a key of ``unlearning.METHODS``; the weights are NaN if the trained
    model has no certificate. Arguments as of ``compare_stage``.
    """
    situation = _situation(problem, setup.model, settings, trained, original, retrained, order)
    found = METHODS[method](setup.model, setup.loss, situation, effort)
    return found._replace(weights=jnp.where(original.separated, found.weights, jnp.nan))


def judge_stage(
    setup: Setup,
    settings: Settings,
    problem: Problem,
    trained: TrainedModel,
    original: Certificate,
    retrained: TrainedModel,
    reference: Certificate,
    order: Int[Array, " m"],
    unlearned: Unlearned,
    step_fraction: Float[Array, ""],
    is_ascent: Bool[Array, ""],
) -> dict[str, Array]:
    """Compare the unlearned model with the trained and the retrained one.

    Args:
        is_ascent: whether it is ``step_fraction`` times the theorem's step: the a-posteriori
            bounds are about that alone.

    Other arguments as of ``compare_stage``.
    """
    model, u, x, y = setup.model, problem.u, problem.x, problem.y
    situation = _situation(problem, model, settings, trained, original, retrained, order)
    weights, forget, retain = unlearned.weights, situation.forget, situation.retain
    bound = ascent_bound(
        model,
        trained.weights / situation.scale,
        weights / situation.scale,
        original.multipliers,
        original.coefficients,
        u,
        x,
        y,
        forget,
        retain,
        step_fraction,
        GUARANTEED_EPSILON,
    )
    guaranteed = jnp.where(is_ascent, bound.phi_guarantee, jnp.nan)
    phi = data_conditions(model, u, x, problem.present).phi
    fresh = fresh_logits(model, problem, weights)
    found = {
        "unlearn_gradients": unlearned.gradients,
        "tau_retrain": one_minus_cosine(weights, reference.weights),
        "sign_flips": bound.sign_flips,
        "epsilon_inherited": bound.epsilon,
        "delta_inherited": bound.delta,
        "bound_epsilon": jnp.where(is_ascent, bound.bound_epsilon, jnp.nan),
        "bound_delta": jnp.where(is_ascent, bound.bound_delta, jnp.nan),
        "phi_guarantee": guaranteed,
        # Of other methods and models nothing is assumed, and so nothing holds or fails.
        "assumptions_hold": jnp.where(
            is_ascent & (model.homogeneity == 1) & original.separated,
            ((phi <= guaranteed) & (bound.sign_flips == 0)).astype(phi.dtype),
            jnp.nan,
        ),
        **generalisation(model, problem, weights, fresh, forget, "unlearned"),
    }
    if problem.y_test.shape[0]:
        differ = disagreement(fresh, fresh_logits(model, problem, retrained.weights))
        found["disagreement"] = jnp.where(original.separated, differ, jnp.nan)
    return found


def columns_of_certificate(certificate: Certificate) -> dict[str, Array]:
    """Of unlearned models, one or many stacked."""
    return {
        "separated": certificate.separated,
        "epsilon": certificate.epsilon,
        "delta": certificate.delta,
        "tau": certificate.tau,
        "kink_tol": certificate.kink_tol,
        "kink_pairs": certificate.kink_pairs,
        "kkt_gap": certificate.gap,
    }


def columns_of_least(least: Float[AnyArray, "... b t"]) -> dict[str, AnyArray]:
    """The frontier's columns, of one model or of many."""
    return {
        name_of_budget(a, b): least[..., row, column]
        for row, a in enumerate(BUDGETS[0])
        for column, b in enumerate(BUDGETS[1])
    }


def columns_of_limit(destination: Destination) -> dict[str, Array]:
    """Of where unlearned models would be trained to, one or many stacked."""
    return {
        "epsilon_limit": destination.limit.epsilon,
        "delta_limit": destination.limit.delta,
        "tau_limit": destination.tau,
        "limit_status_unlearned": destination.limit.status,
    }
