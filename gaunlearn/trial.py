"""One trial, train -> retrain -> unlearn -> evaluate, as pure functions of arrays.

The stages are separate functions because a sweep shares them: one training serves every forget
set, one pair of retrainings every method and step fraction (DESIGN 3.4). ``Setup`` holds what is
static, and so defines a compiled program; all else, ``Settings`` among it, is traced and may differ
from one lane of a batch to the next. Keys of the returned dictionaries are column names of
``schema``.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.certificate import Certificate, certify, choose, one_minus_cosine
from gaunlearn.frontier import ladder_and_least
from gaunlearn.limit import Limit, find_limit
from gaunlearn.losses import Loss
from gaunlearn.metrics import accuracy, disagreement, membership
from gaunlearn.models import Model, largest_logits, logits, preactivations, upper_columns
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
    "Settings",
    "Setup",
    "TrainedModel",
    "certify_stage",
    "compare_stage",
    "descent_of",
    "finish_training",
    "fresh_logits",
    "judge_stage",
    "unlearn_stage",
]

# Places in Problem.initial_weights: the trained model's, and two fresh ones to retrain from.
ORIGINAL, FRESH, FRESH_AGAIN = 0, 1, 2
INITIALISATIONS = 3

# A logit or margin of so many units of rounding, relative to the network's scale, is zero.
_ZERO_UNITS = 100
# Of a vector's length: what is left of it when it depends on others, but for rounding.
_DEPENDENT = 1e-5


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


def _outside(problem: Problem, model: Model) -> slice:
    """The columns of what lies outside the samples' span, behind those inside it; behind them stand
    the layers above the first.
    """
    k, n, width = problem.initial_weights.shape
    end = width - upper_columns(model, n)
    return slice(end - k, end)


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
    initial, outside = problem.initial_weights[start], _outside(problem, setup.model)

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
    outside = _outside(problem, setup.model)
    ended = _with(trained.weights, outside, problem.initial_weights[start][:, outside])
    limit = find_limit(setup.model, ended, problem.u, problem.x, problem.y, keep)
    margins_at_end = margins(setup.model, ended, problem.u, problem.x, problem.y)
    return TrainedModel(
        weights=limit.weights if setup.to_limit else ended,
        steps=trained.steps,
        log_loss=trained.log_loss,
        settled=trained.settled,
        limit=limit,
        tau_limit=one_minus_cosine(ended, limit.weights),
        ease=-limit.multipliers if setup.to_limit else margins_at_end,
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
    model: Model,
    problem: Problem,
    weights: Float[Array, "n r+k"],
    x: Float[Array, "t r+k"],
    outputs: Float[Array, " t"],
) -> Float[Array, " t"]:
    """Logits or margins, 0 where they are rounding: neurons that unlearning takes to zero leave
    some, and its sign is nobody's class.
    """
    if model.homogeneity == 1:
        lengths = jnp.linalg.norm(x, axis=1)
        scale = jnp.linalg.norm(weights) * jnp.max(jnp.abs(problem.u)) * lengths
    else:
        scale = largest_logits(model, weights, problem.u, x)
    noise = _ZERO_UNITS * jnp.finfo(outputs.dtype).eps * scale
    return jnp.where(jnp.abs(outputs) <= noise, 0.0, outputs)


def _shares(model: Model, problem: Problem, weights: Float[Array, "n r+k"]) -> Float[Array, " k"]:
    """How many times each initialisation's part outside the samples' span is in some weights.

    Training leaves it as it is, limits have none of it, methods may shrink it. All weights here
    are such sums, which Gram and Schmidt's directions of the few parts take apart.
    """
    initial = problem.initial_weights
    k = initial.shape[0]
    outside = _outside(problem, model)
    parts = initial[:, :, outside].reshape(k, -1)
    rest = weights[:, outside].ravel()
    directions: list[Array] = []
    along, lengths = [], []
    for part in parts:
        own = part
        for direction in directions:
            own = own - (direction @ own) * direction
        length = jnp.linalg.norm(own)
        # Where fewer dimensions are left than there are parts, some add nothing.
        exists = length > _DEPENDENT * jnp.linalg.norm(part)
        directions.append(jnp.where(exists, own / jnp.where(exists, length, 1.0), 0.0))
        lengths.append(jnp.where(exists, length, 1.0))
        along.append(directions[-1] @ rest)
        rest = rest - along[-1] * directions[-1]
    shares = [jnp.zeros(())] * k
    for a in reversed(range(k)):
        later = sum((directions[a] @ parts[b]) * shares[b] for b in range(a + 1, k))
        shares[a] = (along[a] - later) / lengths[a]
    return jnp.stack(shares)


def fresh_logits(
    model: Model, problem: Problem, weights: Float[Array, "n r+k"]
) -> Float[Array, " t"]:
    """Logits on the test set, what weights have outside the samples' span among it."""
    z = preactivations(weights, problem.x_test)
    z = z + jnp.tensordot(_shares(model, problem, weights), problem.test_offset, 1)
    outputs = logits(model, z, problem.u, weights)
    return _without_noise(model, problem, weights, problem.x_test, outputs)


def _mean(values: Float[Array, " m"], where: Bool[Array, " m"]) -> Float[Array, ""]:
    """NaN if it is a mean of none."""
    return jnp.sum(jnp.where(where, values, 0.0)) / jnp.sum(where)


def _generalisation(
    setup: Setup,
    problem: Problem,
    weights: Float[Array, "n r+k"],
    fresh: Float[Array, " t"],
    forget: Bool[Array, " m"],
    whose: str,
) -> dict[str, Array]:
    """Forget margin in units of the least retained one; accuracy and membership.

    Args:
        fresh: ``fresh_logits`` of the weights.
    """
    q = margins(setup.model, weights, problem.u, problem.x, problem.y)
    q = _without_noise(setup.model, problem, weights, problem.x, q)
    least = jnp.min(jnp.where(problem.present & ~forget, q, jnp.inf))
    margin = _mean(q, forget)
    found = {"margin_forget": margin / jnp.where(least > 0, least, jnp.nan)}
    if problem.y_test.shape[0]:
        known = jnp.all(jnp.isfinite(weights))
        found["accuracy"] = jnp.where(known, accuracy(fresh, problem.y_test), jnp.nan)
        stands_out = membership(q, problem.y_test * fresh)
        found["membership"] = jnp.where(known, _mean(stands_out, forget), jnp.nan)
    return {f"{name}_{whose}": value for name, value in found.items()}


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

    def generalisation(weights, whose):
        fresh = fresh_logits(setup.model, problem, weights)
        return _generalisation(setup, problem, weights, fresh, forget, whose)

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
        **generalisation(trained.weights, "original"),
        **generalisation(retrained.weights, "retrained"),
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
    """Certify the unlearned model, and compare it with the trained and the retrained one.

    Args:
        is_ascent: whether it is ``step_fraction`` times the theorem's step: the a-posteriori
            bounds are about that alone.

    Other arguments as of ``compare_stage``.
    """
    model, u, x, y = setup.model, problem.u, problem.x, problem.y
    situation = _situation(problem, model, settings, trained, original, retrained, order)
    weights, forget, retain = unlearned.weights, situation.forget, situation.retain
    kink_tols, tau_budget = jnp.asarray(settings.kink_tols), jnp.asarray(settings.tau_budget)
    limit = find_limit(model, weights, u, x, y, retain)
    deltas, taus = (jnp.asarray([10.0**-k for k in powers]) for powers in BUDGETS)
    ends = [limit.weights, reference.weights]
    rungs, least = ladder_and_least(model, weights, u, x, y, retain, kink_tols, ends, deltas, taus)
    certificate = choose(rungs, tau_budget)
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
        "separated": certificate.separated,
        "epsilon": certificate.epsilon,
        "delta": certificate.delta,
        "tau": certificate.tau,
        "kink_tol": certificate.kink_tol,
        "kink_pairs": certificate.kink_pairs,
        "kkt_gap": certificate.gap,
        "epsilon_limit": limit.epsilon,
        "delta_limit": limit.delta,
        "tau_limit": one_minus_cosine(weights, limit.weights),
        "limit_status_unlearned": limit.status,
        **{
            name_of_budget(a, b): least[row, column]
            for row, a in enumerate(BUDGETS[0])
            for column, b in enumerate(BUDGETS[1])
        },
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
        **_generalisation(setup, problem, weights, fresh, forget, "unlearned"),
    }
    if problem.y_test.shape[0]:
        differ = disagreement(fresh, fresh_logits(model, problem, retrained.weights))
        found["disagreement"] = jnp.where(original.separated, differ, jnp.nan)
    return found
