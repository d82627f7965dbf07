"""One trial, train -> ascend -> retrain -> evaluate, as pure functions of arrays.

The stages are separate functions because a sweep shares them: one training serves every forget
set, one pair of retrainings every step fraction (DESIGN 3.4). ``Setup`` holds what is static, and
so defines a compiled program; all else is traced. Keys of the returned dictionaries are column
names of ``schema``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.certificate import IGNORED_KINKS, Certificate, certify, one_minus_cosine
from gaunlearn.limit import Limit, find_limit
from gaunlearn.metrics import accuracy, disagreement, membership
from gaunlearn.models import Model, logits, output_weights, preactivations
from gaunlearn.theory import ascent_bound, data_conditions
from gaunlearn.training import TrainingConfig, margins, train
from gaunlearn.types import Problem
from gaunlearn.unlearning import ascent_direction

__all__ = [
    "FRESH",
    "FRESH_AGAIN",
    "INITIALISATIONS",
    "ORIGINAL",
    "Setup",
    "TrainedModel",
    "certify_stage",
    "evaluate_stage",
    "train_stage",
]

# Places in Problem.initial_weights: the trained model's, and two fresh ones to retrain from.
ORIGINAL, FRESH, FRESH_AGAIN = 0, 1, 2
INITIALISATIONS = 3


class Setup(NamedTuple):
    """What is fixed for a compiled program.

    Attributes:
        model: the architecture.
        n: neurons; 1 for the linear model.
        training: the descent, the same for training and retraining.
        to_limit: whether the limit of the descent takes the place of its end.
        kink_tols: ladder of kink tolerances, or ``certificate.IGNORED_KINKS``.
        tau_budget: how much tau a certificate may cost.
    """

    model: Model
    n: int
    training: TrainingConfig
    to_limit: bool
    kink_tols: tuple[float, ...]
    tau_budget: float


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
    setup: Setup, problem: Problem, weights: Float[Array, "n r+k"], keep: Bool[Array, " m"]
) -> Certificate:
    return certify(
        setup.model,
        weights,
        output_weights(setup.model, setup.n),
        problem.x,
        problem.y,
        keep,
        jnp.asarray(setup.kink_tols),
        jnp.asarray(setup.tau_budget),
    )


def train_stage(
    setup: Setup, problem: Problem, start: Int[Array, ""], keep: Bool[Array, " m"]
) -> TrainedModel:
    """Train on the samples in ``keep`` from initialisation number ``start``, and solve for where
    that leads.

    The coordinates outside the samples' span never change, so descent leaves them out. In the
    limit they are zero: they stay as they are while the others grow.
    """
    u = output_weights(setup.model, setup.n)
    initial = problem.initial_weights[start]
    r = problem.x.shape[1] - problem.initial_weights.shape[0]
    outside = initial[:, r:]

    def whole(inside):
        return jnp.concatenate([inside, outside], axis=1)

    trained = train(
        setup.model,
        setup.training,
        initial[:, :r],
        u,
        problem.x[:, :r],
        problem.y,
        keep,
        epsilon_of=lambda inside: _certify(setup, problem, whole(inside), keep).epsilon,
    )
    ended = whole(trained.weights)
    limit = find_limit(setup.model, ended, u, problem.x, problem.y, keep)
    return TrainedModel(
        weights=limit.weights if setup.to_limit else ended,
        steps=trained.steps,
        log_loss=trained.log_loss,
        settled=trained.settled,
        limit=limit,
        tau_limit=one_minus_cosine(ended, limit.weights),
    )


def certify_stage(
    setup: Setup, problem: Problem, trained: TrainedModel, keep: Bool[Array, " m"]
) -> Certificate:
    """A trained model's certificate on the samples that it was trained on.

    That of a limit is what the limit solver found it with: exact, and with tau = 0.
    """
    limit = trained.limit
    if not setup.to_limit or setup.kink_tols == IGNORED_KINKS:
        return _certify(setup, problem, trained.weights, keep)
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


def evaluate_stage(
    setup: Setup,
    problem: Problem,
    trained: TrainedModel,
    original: Certificate,
    retrained: TrainedModel,
    reference: Certificate,
    retrained_start: Int[Array, ""],
    retrained_again: TrainedModel,
    forget_index: Int[Array, ""],
    step_fractions: Float[Array, " f"],
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Forget one sample at every step fraction and compare with the retrained model.

    Args:
        original: the trained model's certificate on all samples.
        reference: the retrained model's, on the retain set.
        retrained_start: the number of the initialisation that it was retrained from.
        retrained_again: one retrained from another, for ``tau_retrain_floor``.

    Returns:
        Two dictionaries: scalars, which hold for every step fraction, and arrays (f,).
    """
    model, u = setup.model, output_weights(setup.model, setup.n)
    x, y = problem.x, problem.y
    forget = jnp.arange(y.shape[0]) == forget_index
    retain = ~forget
    has_test = problem.y_test.shape[0] > 0

    def test_logits(weights, start):
        z = preactivations(weights, problem.x_test)
        # What initial weights have outside the samples' span; nothing of it is left in a limit.
        return logits(model, z if setup.to_limit else z + problem.test_offset[start], u)

    def least_retained(q):
        least = jnp.min(jnp.where(retain, q, jnp.inf))
        return jnp.where(least > 0, least, jnp.nan)

    def generalisation(weights, start):
        """Forget margin in units of the least retained one; accuracy, membership, logits."""
        q = margins(model, weights, u, x, y)
        found = {"margin_forget": q[forget_index] / least_retained(q)}
        if not has_test:
            return found, None
        fresh = test_logits(weights, start)
        known = jnp.isfinite(q[forget_index])
        found["accuracy"] = jnp.where(known, accuracy(fresh, problem.y_test), jnp.nan)
        found["membership"] = jnp.where(
            known, membership(q[forget_index], problem.y_test * fresh), jnp.nan
        )
        return found, fresh

    def named(found, whose):
        return {f"{name}_{whose}": value for name, value in found.items()}

    retrained_quality, retrained_logits = generalisation(retrained.weights, retrained_start)
    original_quality, _ = generalisation(trained.weights, jnp.asarray(ORIGINAL))
    conditions = data_conditions(model, setup.n, x)
    shared = {
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
        **named(original_quality, "original"),
        **named(retrained_quality, "retrained"),
    }

    least = jnp.min(margins(model, trained.weights, u, x, y))
    theta = trained.weights / jnp.where(least > 0, least, jnp.nan) ** (1 / model.homogeneity)
    direction = ascent_direction(original, u, x, y, forget)

    def at_fraction(step_fraction):
        # At the trained scale, so that the test offset of the initialisation still fits.
        unlearned = trained.weights - step_fraction * least ** (1 / model.homogeneity) * direction
        unlearned = jnp.where(original.separated, unlearned, jnp.nan)
        certificate = _certify(setup, problem, unlearned, retain)
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
            step_fraction,
        )
        quality, fresh = generalisation(unlearned, jnp.asarray(ORIGINAL))
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
            **named(quality, "unlearned"),
        }
        if fresh is not None:
            differ = disagreement(fresh, retrained_logits)
            found["disagreement"] = jnp.where(original.separated, differ, jnp.nan)
        return found

    return shared, jax.vmap(at_fraction)(step_fractions)
