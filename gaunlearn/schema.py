"""Every result column once: name, type, unit, range, meaning and when it has no value.

The store writes these into the Parquet field metadata. Columns of swept and fixed parameters come
from the specification (``sweep.spec``). A value that does not exist is NaN (floats) or null
(others); a comparison with NaN is false, so it never passes a threshold.
"""

from typing import Literal, NamedTuple

__all__ = ["COLUMNS", "SCHEMA_VERSION", "Column"]

SCHEMA_VERSION = 2

_NOT_SEPARATED = "the unlearned model does not separate the retain set"
_NOT_TRAINED = "the trained model does not separate its training set"
_NO_LIMIT = "limit_status{} is infeasible, stalled or undefined"
_STATUS = (
    "how the limit of {} was solved for: converged (active set), fallback (convergent method), "
    "infeasible (no weights with these same-sign slopes have a margin), stalled, undefined (no "
    "weights to start from)"
)
_NO_END = "train_end is limit, and that limit could not be solved for"
_NOT_RETRAINED = "the retrained model does not separate the retain set"
_FLIPS = f"a retained sign flipped or the interference is 1 or more, or {_NOT_TRAINED}"


class Column(NamedTuple):
    """One column.

    Attributes:
        name: in the data set.
        type: of the Arrow field.
        meaning: one line; symbols as in the definitions of the README.
        range: unit and range.
        missing: when there is no value; empty if there always is one.
        needs_test: whether the column exists only for data with a test set.
    """

    name: str
    type: Literal["string", "int64", "int32", "float64", "bool"]
    meaning: str
    range: str
    missing: str = ""
    needs_test: bool = False


def _generalisation(whose: str, missing: str) -> tuple[Column, ...]:
    unlearnable = f"{missing}" if missing else ""
    return (
        Column(
            f"margin_forget_{whose}",
            "float64",
            f"margin of the forgotten sample, in units of the least retained margin ({whose})",
            "real",
            {
                "original": _NOT_TRAINED,
                "unlearned": _NOT_SEPARATED,
                "retrained": _NOT_RETRAINED,
            }[whose],
        ),
        Column(
            f"accuracy_{whose}",
            "float64",
            f"share of fresh samples classified correctly ({whose} model)",
            "0 to 1",
            unlearnable,
            needs_test=True,
        ),
        Column(
            f"membership_{whose}",
            "float64",
            "share of fresh samples with a smaller margin than the forgotten sample, ties half "
            f"({whose} model); its mean over trials is the ROC area of a margin attack",
            "0 to 1, 0.5 is indistinguishable",
            unlearnable,
            needs_test=True,
        ),
    )


COLUMNS: tuple[Column, ...] = (
    Column("trial_id", "string", "hash of the resolved trial", "32 hexadecimal digits"),
    Column("seed", "int64", "seed of data and initial weights", "0 or more"),
    Column("forget_index", "int32", "index of the forgotten sample", "0 to m - 1"),
    Column("step_fraction", "float64", "ascent step in units of the theorem's", "0 or more"),
    Column("psi", "float64", "max | ||x_i||^2 - 1 |", "0 or more"),
    Column("phi", "float64", "max |<x_i, x_k>| over pairs of samples", "0 or more"),
    Column("eps_d", "float64", "4 m n phi (two_layer_relu), 4 m phi (linear)", "0 or more"),
    Column(
        "separated_train",
        "bool",
        "whether the trained model (with train_end limit: its limit) separates its training set",
        "bool",
    ),
    Column(
        "epsilon_train",
        "float64",
        "epsilon_1: stationarity residual of the trained model on its training set",
        "0 or more, normalised to least margin 1",
        _NOT_TRAINED,
    ),
    Column(
        "delta_train",
        "float64",
        "delta_1: complementarity of the trained model on its training set",
        "0 or more, normalised to least margin 1",
        _NOT_TRAINED,
    ),
    Column("tau_train", "float64", "1 - cos to the point of epsilon_1", "0 to 2", _NOT_TRAINED),
    Column("kink_pairs_train", "int32", "pairs at a kink of the point of epsilon_1", "0 to m n"),
    Column("log_loss_train", "float64", "log of the loss summed over training samples", "real"),
    Column("steps", "int64", "training steps taken", "0 or more"),
    Column(
        "settled_train",
        "bool",
        "whether no same-sign pair changed its sign during the last half of the training steps",
        "bool",
    ),
    Column(
        "tau_train_limit",
        "float64",
        "1 - cos between the end of training's descent and the limit that was solved for from it",
        "0 to 2",
        _NO_LIMIT.format(""),
    ),
    Column("limit_status", "string", _STATUS.format("training"), "one of five words"),
    Column(
        "lambda_forget",
        "float64",
        "dual variable of the forgotten sample in the trained model",
        "0 or more",
        _NOT_TRAINED,
    ),
    Column("separated", "bool", "whether the unlearned model separates the retain set", "bool"),
    Column(
        "epsilon",
        "float64",
        "stationarity residual of the unlearned model, snapped, on the retain set",
        "0 or more, normalised to least retained margin 1",
        _NOT_SEPARATED,
    ),
    Column(
        "delta",
        "float64",
        "complementarity that goes with epsilon: max lambda_i (q_i - 1)",
        "0 or more",
        _NOT_SEPARATED,
    ),
    Column(
        "tau",
        "float64",
        "1 - cos between the unlearned model and the point of epsilon and delta",
        "0 to 2",
        _NOT_SEPARATED,
    ),
    Column("kink_tol", "float64", "tolerance at which pairs were snapped", "0 to 1"),
    Column("kink_pairs", "int32", "retained pairs at a kink of that point", "0 to m n"),
    Column(
        "kkt_gap",
        "float64",
        "relative duality gap of epsilon's least-squares problem",
        "0 or more; rounding is 1e-15",
        _NOT_SEPARATED,
    ),
    Column(
        "epsilon_limit",
        "float64",
        "stationarity residual of the limit solved for from the unlearned model, on the retain set",
        "0 or more, normalised to least retained margin 1; rounding",
        _NO_LIMIT.format("_unlearned"),
    ),
    Column(
        "delta_limit",
        "float64",
        "complementarity that goes with epsilon_limit",
        "0 or more; rounding",
        _NO_LIMIT.format("_unlearned"),
    ),
    Column(
        "tau_limit",
        "float64",
        "1 - cos between the unlearned model and the limit of epsilon_limit",
        "0 to 2",
        _NO_LIMIT.format("_unlearned"),
    ),
    Column(
        "limit_status_unlearned",
        "string",
        _STATUS.format("further training of the unlearned model on the retain set"),
        "one of five words",
    ),
    Column(
        "sign_flips",
        "int32",
        "retained (neuron, sample) pairs whose ReLU sign the ascent step changed",
        "0 to m n",
        _NOT_TRAINED,
    ),
    Column(
        "epsilon_inherited",
        "float64",
        "stationarity residual of the unlearned model with the trained model's multipliers",
        "0 or more; tau is 0",
        f"{_NOT_SEPARATED}, or {_NOT_TRAINED}",
    ),
    Column(
        "delta_inherited",
        "float64",
        "complementarity with the trained model's multipliers",
        "0 or more; tau is 0",
        f"{_NOT_SEPARATED}, or {_NOT_TRAINED}",
    ),
    Column("bound_epsilon", "float64", "bound on epsilon_inherited", "0 or more", _FLIPS),
    Column("bound_delta", "float64", "bound on delta_inherited", "0 or more", _FLIPS),
    Column(
        "separated_retrain", "bool", "whether the retrained model separates the retain set", "bool"
    ),
    Column(
        "epsilon_retrain",
        "float64",
        "stationarity residual of the retrained model, snapped, on the retain set",
        "0 or more, normalised to least retained margin 1",
        _NOT_RETRAINED,
    ),
    Column(
        "delta_retrain",
        "float64",
        "complementarity that goes with epsilon_retrain",
        "0 or more",
        _NOT_RETRAINED,
    ),
    Column(
        "tau_retrain",
        "float64",
        "1 - cos between the unlearned model and the point of epsilon_retrain",
        "0 to 2",
        f"{_NOT_RETRAINED}, or {_NOT_TRAINED}",
    ),
    Column(
        "tau_retrain_floor",
        "float64",
        "1 - cos between two retrained models from different initial weights",
        "0 to 2",
        _NO_END,
    ),
    Column("log_loss_retrain", "float64", "log of the retrained model's summed loss", "real"),
    Column("steps_retrain", "int64", "retraining steps taken", "0 or more"),
    Column(
        "tau_retrain_limit",
        "float64",
        "1 - cos between the end of retraining's descent and its limit",
        "0 to 2",
        _NO_LIMIT.format("_retrain"),
    ),
    Column("limit_status_retrain", "string", _STATUS.format("retraining"), "one of five words"),
    *_generalisation("original", _NO_END),
    *_generalisation("unlearned", _NOT_TRAINED),
    *_generalisation("retrained", _NO_END),
    Column(
        "disagreement",
        "float64",
        "share of fresh samples to which unlearned and retrained model give different signs",
        "0 to 1",
        _NOT_TRAINED,
        needs_test=True,
    ),
)
