"""One trial, train -> ascend -> retrain -> evaluate, as pure functions of arrays.

The stages are separate functions because a sweep shares them: one training serves every forget
set, one pair of retrainings every step fraction (DESIGN 3.4). ``Setup`` holds what is static, and
so defines a compiled program; all else, ``Settings`` among it, is traced and may differ from one
lane of a batch to the next. Keys of the returned dictionaries are column names of ``schema``.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.certificate import Certificate, certify, one_minus_cosine
from gaunlearn.limit import Limit, find_limit
from gaunlearn.losses import Loss
from gaunlearn.metrics import accuracy, disagreement, membership
from gaunlearn.models import Model, logits, preactivations
from gaunlearn.theory import ascent_bound, data_conditions
from gaunlearn.training import Descent, Trained, TrainingConfig, margins
from gaunlearn.types import AnyArray, Problem
from gaunlearn.unlearning import ascent_direction

__all__ = [
    "FRESH",
    "FRESH_AGAIN",
    "INITIALISATIONS",
    "ORIGINAL",
    "Settings",
    "Setup",
    "TrainedModel",
    "ascend",
    "certify_stage",
    "compare_stage",
    "descent_of",
    "finish_training",
    "fresh_logits",
    "unlearn_stage",
]

# Places in Problem.initial_weights: the trained model's, and two fresh ones to retrain from.
ORIGINAL, FRESH, FRESH_AGAIN = 0, 1, 2
INITIALISATIONS = 3

# A logit or margin of so many units of rounding, relative to the network's scale, is zero.
_ZERO_UNITS = 100


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
    """

    model: Model
    loss: Loss
    optimizer: str
    check_every: int
    to_limit: bool
    to_epsilon: bool
    kinks: bool


class Settings(NamedTuple):
    """What lanes of one program may differ in.

    Attributes:
        step_size, max_steps, target_log_loss, target_epsilon: see ``training.TrainingConfig``.
        kink_tols: ladder of kink tolerances, or ``certificate.IGNORED_KINKS``.
        tau_budget: how much tau a certificate may cost.
    """

    step_size: Float[AnyArray, ""]
    max_steps: Int[AnyArray, ""]
    target_log_loss: Float[AnyArray, ""]
    target_epsilon: Float[AnyArray, ""]
    kink_tols: Float[AnyArray, " l"]
    tau_budget: Float[AnyArray, ""]


class TrainedModel(NamedTuple):
    """A trained or retrained model.

    Attributes:
        weights: those of the descent's end, or of its limit.
        steps: steps of the descent.
        log_loss: log of the summed loss at the descent's end.
        settled: see ``training.Trained``.
        limit: where the descent was going.
        tau_limit: 1 - cos between the descent's end and its limit.
    """

    weights: Float[Array, "n r+k"]
    steps: Int[Array, ""]
    log_loss: Float[Array, ""]
    settled: Bool[Array, ""]
    limit: Limit
    tau_limit: Float[Array, ""]


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


def _split(
    problem: Problem, start: Int[Array, ""]
) -> tuple[Float[Array, "n r"], Float[Array, "n k"]]:
    """Initial weights inside and outside the samples' span."""
    initial = problem.initial_weights[start]
    r = problem.x.shape[1] - problem.initial_weights.shape[0]
    return initial[:, :r], initial[:, r:]


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
    inside, outside = _split(problem, start)

    def epsilon_of(weights):
        whole = jnp.concatenate([weights, outside], axis=1)
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
        inside,
        problem.u,
        problem.x[:, : inside.shape[1]],
        problem.y,
        keep,
        epsilon_of if setup.to_epsilon else None,
    )


def finish_training(
    setup: Setup,
    problem: Problem,
    start: Int[Array, ""],
    keep: Bool[Array, " m"],
    trained: Trained,
) -> TrainedModel:
    """Add what lies outside the span, and solve for where the descent leads.

    In the limit those coordinates are zero: they stay as they are while the others grow.
    """
    _, outside = _split(problem, start)
    ended = jnp.concatenate([trained.weights, outside], axis=1)
    limit = find_limit(setup.model, ended, problem.u, problem.x, problem.y, keep)
    return TrainedModel(
        weights=limit.weights if setup.to_limit else ended,
        steps=trained.steps,
        log_loss=trained.log_loss,
        settled=trained.settled,
        limit=limit,
        tau_limit=one_minus_cosine(ended, limit.weights),
    )


def certify_stage(
    setup: Setup,
    settings: Settings,
    problem: Problem,
    trained: TrainedModel,
    keep: Bool[Array, " m"],
) -> Certificate:
    """A trained model's certificate on the samples that it was trained on.

    That of a limit is what the limit solver found it with: exact, and with tau = 0.
    """
    limit = trained.limit
    if not (setup.to_limit and setup.kinks):
        return _certify(setup, settings, problem, trained.weights, keep)
    return Certificate(
        epsilon=limit.epsilon,
        delta=limit.delta,
        tau=0.0 * limit.epsilon,
        multipliers=limit.multipliers,
        coefficients=limit.coefficients,
        kink_pairs=limit.kink_pairs,
        separated=jnp.isfinite(limit.epsilon),
        kink_tol=jnp.zeros_like(limit.epsilon),
        gap=jnp.zeros_like(limit.epsilon),
        weights=limit.weights,
        margins=limit.margins,
    )


def _without_noise(
    problem: Problem,
    weights: Float[Array, "n r+k"],
    x: Float[Array, "t r+k"],
    outputs: Float[Array, " t"],
) -> Float[Array, " t"]:
    """Logits or margins, 0 where they are rounding: neurons that unlearning takes to zero leave
    some, and its sign is nobody's class.
    """
    scale = jnp.linalg.norm(weights) * jnp.max(jnp.abs(problem.u)) * jnp.linalg.norm(x, axis=1)
    noise = _ZERO_UNITS * jnp.finfo(outputs.dtype).eps * scale
    return jnp.where(jnp.abs(outputs) <= noise, 0.0, outputs)


def fresh_logits(
    setup: Setup, problem: Problem, weights: Float[Array, "n r+k"], start: Int[Array, ""]
) -> Float[Array, " t"]:
    """Logits on the test set of weights trained from initialisation number ``start``."""
    z = preactivations(weights, problem.x_test)
    # What initial weights have outside the samples' span; nothing of it is left in a limit.
    z = z if setup.to_limit else z + problem.test_offset[start]
    return _without_noise(problem, weights, problem.x_test, logits(setup.model, z, problem.u))


def _generalisation(
    setup: Setup,
    problem: Problem,
    weights: Float[Array, "n r+k"],
    start: Int[Array, ""],
    forget_index: Int[Array, ""],
    whose: str,
) -> dict[str, Array]:
    """Forget margin in units of the least retained one; accuracy and membership."""
    q = margins(setup.model, weights, problem.u, problem.x, problem.y)
    q = _without_noise(problem, weights, problem.x, q)
    retain = problem.present & (jnp.arange(q.shape[0]) != forget_index)
    least = jnp.min(jnp.where(retain, q, jnp.inf))
    found = {"margin_forget": q[forget_index] / jnp.where(least > 0, least, jnp.nan)}
    if problem.y_test.shape[0]:
        fresh = fresh_logits(setup, problem, weights, start)
        known = jnp.isfinite(q[forget_index])
        found["accuracy"] = jnp.where(known, accuracy(fresh, problem.y_test), jnp.nan)
        found["membership"] = jnp.where(
            known, membership(q[forget_index], problem.y_test * fresh), jnp.nan
        )
    return {f"{name}_{whose}": value for name, value in found.items()}


def compare_stage(
    setup: Setup,
    problem: Problem,
    trained: TrainedModel,
    original: Certificate,
    retrained: TrainedModel,
    reference: Certificate,
    retrained_start: Int[Array, ""],
    retrained_again: TrainedModel,
    forget_index: Int[Array, ""],
) -> dict[str, Array]:
    """What holds for every ascent step: data, trained and retrained model.

    Args:
        original: the trained model's certificate on all samples.
        reference: the retrained model's, on the retain set.
        retrained_start: the number of the initialisation that it was retrained from.
        retrained_again: one retrained from another, for ``tau_retrain_floor``.
    """
    conditions = data_conditions(setup.model, problem.u, problem.x, problem.present)
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
        "lambda_forget": original.multipliers[forget_index],
        "epsilon_retrain": reference.epsilon,
        "delta_retrain": reference.delta,
        "separated_retrain": reference.separated,
        "log_loss_retrain": retrained.log_loss,
        "steps_retrain": retrained.steps,
        "tau_retrain_limit": retrained.tau_limit,
        "limit_status_retrain": retrained.limit.status,
        "tau_retrain_floor": one_minus_cosine(retrained.weights, retrained_again.weights),
        **_generalisation(
            setup, problem, trained.weights, jnp.asarray(ORIGINAL), forget_index, "original"
        ),
        **_generalisation(
            setup, problem, retrained.weights, retrained_start, forget_index, "retrained"
        ),
    }


def ascend(
    setup: Setup,
    problem: Problem,
    trained: TrainedModel,
    original: Certificate,
    forget_index: Int[Array, ""],
    step_fraction: Float[Array, ""],
) -> Float[Array, "n r+k"]:
    """The unlearned weights, at the trained scale, so that the test offset of the initialisation
    still fits; NaN if the trained model has no certificate.
    """
    x, y, u = problem.x, problem.y, problem.u
    forget = jnp.arange(y.shape[0]) == forget_index
    q = margins(setup.model, trained.weights, u, x, y)
    least = jnp.min(jnp.where(problem.present, q, jnp.inf))
    direction = ascent_direction(original, u, x, y, forget)
    scale = least ** (1 / setup.model.homogeneity)
    unlearned = trained.weights - step_fraction * scale * direction
    return jnp.where(original.separated, unlearned, jnp.nan)


def unlearn_stage(
    setup: Setup,
    settings: Settings,
    problem: Problem,
    trained: TrainedModel,
    original: Certificate,
    retrained: TrainedModel,
    reference: Certificate,
    retrained_start: Int[Array, ""],
    forget_index: Int[Array, ""],
    step_fraction: Float[Array, ""],
) -> dict[str, Array]:
    """Forget one sample by a step of one size, certify, and compare with the retrained model.

    Arguments as of ``compare_stage``.
    """
    model, u, x, y = setup.model, problem.u, problem.x, problem.y
    forget = problem.present & (jnp.arange(y.shape[0]) == forget_index)
    retain = problem.present & ~forget
    q = margins(model, trained.weights, u, x, y)
    least = jnp.min(jnp.where(problem.present, q, jnp.inf))
    theta = trained.weights / jnp.where(least > 0, least, jnp.nan) ** (1 / model.homogeneity)
    unlearned = ascend(setup, problem, trained, original, forget_index, step_fraction)
    certificate = _certify(setup, settings, problem, unlearned, retain)
    limit = find_limit(model, unlearned, u, x, y, retain)
    bound = ascent_bound(
        model,
        theta,
        original.multipliers,
        original.coefficients,
        u,
        x,
        y,
        forget,
        retain,
        step_fraction,
    )
    start = jnp.asarray(ORIGINAL)
    found = {
        "separated": certificate.separated,
        "epsilon": certificate.epsilon,
        "delta": certificate.delta,
        "tau": certificate.tau,
        "kink_tol": certificate.kink_tol,
        "kink_pairs": certificate.kink_pairs,
        "kkt_gap": certificate.gap,
        "epsilon_limit": limit.epsilon,
        "delta_limit": limit.delta,
        "tau_limit": one_minus_cosine(unlearned, limit.weights),
        "limit_status_unlearned": limit.status,
        "tau_retrain": one_minus_cosine(unlearned, reference.weights),
        "sign_flips": bound.sign_flips,
        "epsilon_inherited": bound.epsilon,
        "delta_inherited": bound.delta,
        "bound_epsilon": bound.bound_epsilon,
        "bound_delta": bound.bound_delta,
        **_generalisation(setup, problem, unlearned, start, forget_index, "unlearned"),
    }
    if problem.y_test.shape[0]:
        differ = disagreement(
            fresh_logits(setup, problem, unlearned, start),
            fresh_logits(setup, problem, retrained.weights, retrained_start),
        )
        found["disagreement"] = jnp.where(original.separated, differ, jnp.nan)
    return found
