"""Every column of a data set once: name, type, unit, range, meaning and when it has no value.

The store writes these into the Parquet field metadata, and docs/columns.md is made from them. Every
file has all columns. A result that does not exist, or a parameter that a trial does not have, is
null (NaN where pandas knows no other): a comparison with it is never true, and means leave it out.
"""

from typing import Literal, NamedTuple

__all__ = [
    "BORDER",
    "BUDGETS",
    "COLUMNS",
    "GUARANTEED_EPSILON",
    "IDENTITY",
    "PARAMETERS",
    "POINTS",
    "RESULTS",
    "ROUNDING",
    "SCHEMA_VERSION",
    "Column",
    "as_markdown",
    "name_of_budget",
]

SCHEMA_VERSION = 7

_NOT_SEPARATED = "the unlearned model does not separate the retain set"
_NOT_TRAINED = "the trained model does not separate its training set"
_NO_LIMIT = "limit_status{} is infeasible, stalled, undefined or unsupported"
_STATUS = (
    "how the limit of {} was solved for: converged (active set), fallback (convergent method), "
    "infeasible (no weights with these same-sign slopes have a margin), stalled, undefined (no "
    "weights to start from), unsupported (there is no solver for models of homogeneity above 1)"
)
_NO_END = "train_end is limit, and that limit could not be solved for"
_NOT_RETRAINED = "the retrained model does not separate the retain set"
_NO_TEST = "there are no fresh samples"
_NO_BOUND = (
    "method is not ascent, the model's homogeneity is above 1, a retained sign flipped or the "
    "interference is 1 or more, or "
    f"{_NOT_TRAINED}"
)


# Numbers below these have no digits that another machine would find too.
ROUNDING = {"float64": 1e-12, "float32": 1e-6}
# The epsilon that phi_guarantee is about.
GUARANTEED_EPSILON = 0.1
# Budgets of the frontier's columns: delta <= 10^-a, tau <= 10^-b.
BUDGETS = ((1, 2), (2, 3))


def name_of_budget(a: int, b: int) -> str:
    """The column of the least epsilon at delta <= 10^-a, tau <= 10^-b."""
    return f"epsilon_delta{a}_tau{b}"


class Column(NamedTuple):
    """One column.

    Attributes:
        name: in the data set.
        type: of the Arrow field.
        meaning: one line; symbols as in the definitions of the README.
        range: unit and range.
        missing: when there is no value; empty if there always is one.
    """

    name: str
    type: Literal["string", "int64", "int32", "float64", "bool"]
    meaning: str
    range: str
    missing: str = ""


def _generalisation(whose: str, missing: str) -> tuple[Column, ...]:
    unlearnable = f"{_NO_TEST}, or {missing}"
    return (
        Column(
            f"margin_forget_{whose}",
            "float64",
            f"mean margin of the forgotten samples, in units of the least retained one ({whose})",
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
        ),
        Column(
            f"membership_{whose}",
            "float64",
            "share of fresh samples with a smaller margin than a forgotten sample, ties half, in "
            f"the mean over these ({whose} model); its mean over trials is the ROC area of a "
            "margin attack",
            "0 to 1, 0.5 is indistinguishable",
            unlearnable,
        ),
    )


IDENTITY: tuple[Column, ...] = (
    Column("trial_id", "string", "hash of the resolved trial", "32 hexadecimal digits"),
    Column(
        "training_id",
        "string",
        "hash of the trained model: trials that share it share their training",
        "32 hexadecimal digits",
    ),
    Column("seed", "int64", "seed of data and initial weights", "0 or more"),
    Column(
        "forget_index",
        "int32",
        "index of the forgotten sample",
        "0 to m - 1",
        "forget_rule is not index",
    ),
    Column(
        "forget_draw",
        "int32",
        "number of the draw that chose the forgotten samples; 0 for rules that do not draw",
        "0 or more",
        "forget_rule is index",
    ),
    Column(
        "step_fraction",
        "float64",
        "the method's dial: the ascent step in units of the theorem's; of methods that descend, "
        "what multiplies their learning rate or the forget set's part",
        "0 or more",
    ),
)

_OTHER = "data_kind has no such parameter"
_OTHER_RULE = "forget_rule has no such parameter"
_OTHER_METHOD = "method has no such parameter"
_OTHER_MODEL = "model_kind has no such parameter"
PARAMETERS: tuple[Column, ...] = (
    Column("data_kind", "string", "distribution or source of the data", "a kind of [data]"),
    Column("m", "int64", "training samples", "2 or more", "data_kind is file"),
    Column("d", "int64", "dimension of the samples", "1 or more", _OTHER),
    Column("alpha", "float64", "||mu|| = d^(-1/4 + alpha)", "0 to 1/4", _OTHER),
    Column(
        "n_test", "int64", "fresh samples", "0 or more", f"all that there are are used, or {_OTHER}"
    ),
    Column("noise_scale", "float64", "noise is N(0, noise_scale^2 I / d)", "> 0", _OTHER),
    Column("label_noise", "float64", "probability of a wrong training label", "0 to 1/2", _OTHER),
    Column("positive", "float64", "probability of the label +1", "0 to 1", _OTHER),
    Column("clusters", "int64", "clusters of each class", "1 to d / 2", _OTHER),
    Column("tail_dof", "float64", "degrees of freedom of Student's t", "> 2", _OTHER),
    Column(
        "correlation",
        "float64",
        "E <x_i, x_k> of samples that are alike",
        "0 to 1",
        _OTHER,
    ),
    Column("copies", "int64", "samples that are like sample 0", "1 to m - 1", _OTHER),
    Column("exponent", "float64", "the k-th variance is like k^-exponent", "0 to 10", _OTHER),
    Column("classes", "string", "the two digits, as a JSON list", "two of 0 to 9", _OTHER),
    Column("scaling", "string", "of real data", "raw, centred or normalised", _OTHER),
    Column("data_path", "string", "the user's file, as the specification names it", "text", _OTHER),
    Column("data_label", "string", "column of labels in a user's .parquet file", "text", _OTHER),
    Column(
        "features",
        "string",
        "columns of features in a user's .parquet file, as a JSON list",
        "text",
        f"all others are, or {_OTHER}",
    ),
    Column(
        "data_split",
        "string",
        "column that is true for test samples in a user's .parquet file",
        "text",
        f"not given, or {_OTHER}",
    ),
    Column(
        "random_features",
        "int64",
        "random ReLU features that take the place of x",
        "1 or more",
        f"x is used as it is, or {_OTHER}",
    ),
    Column("model_kind", "string", "architecture", "a kind of [model]"),
    Column("n", "int64", "neurons of each hidden layer", "1 or more", _OTHER_MODEL),
    Column("depth", "int64", "trained layers of a deep network", "2 to 8", _OTHER_MODEL),
    Column("leak", "float64", "slope of the activation below 0", "0 to 1", _OTHER_MODEL),
    Column(
        "init_scale",
        "float64",
        "norm of a first-layer neuron's initial weights (root mean square)",
        "> 0",
    ),
    Column(
        "upper_scale",
        "float64",
        "what multiplies a deep network's initial weights above the first layer",
        "> 0",
        _OTHER_MODEL,
    ),
    Column("train_end", "string", "how training and retraining end", "descent or limit"),
    Column("optimizer", "string", "what takes the steps", "normalized_gd or gd"),
    Column("loss", "string", "loss summed over samples", "logistic or exponential"),
    Column("step_size", "float64", "learning rate", "> 0"),
    Column("max_steps", "int64", "steps after which descent stops", "1 or more"),
    Column(
        "target_log_loss", "float64", "log of the loss at which descent stops", "real", "not given"
    ),
    Column("target_epsilon", "float64", "epsilon at which descent stops", "> 0", "not given"),
    Column("check_every", "int64", "steps between two looks at the targets", "1 or more"),
    Column("retrain_init", "string", "initial weights of retraining", "fresh or same"),
    Column("kinks", "string", "how certificates treat ReLU's kinks", "handled or ignored"),
    Column("kink_tols", "string", "ladder of kink tolerances, as a JSON list", "each 0 to 1"),
    Column("tau_budget", "float64", "tau that a certificate may cost", "0 or more"),
    Column("dtype", "string", "precision of all computations", "float64 or float32"),
    Column("forget_rule", "string", "how forgotten samples are chosen", "a rule of [forget]"),
    Column("forget_size", "int64", "samples to forget", "1 to m - 1", _OTHER_RULE),
    Column("forget_label", "int64", "label of samples to forget", "1 or -1", _OTHER_RULE),
    Column("method", "string", "how the model unlearns", "a method of [unlearn]"),
    Column("unlearn_steps", "int64", "steps of unlearning", "1 or more", _OTHER_METHOD),
    Column(
        "learning_rate",
        "float64",
        "step size of unlearning's descent",
        "> 0",
        f"step_size is used, or {_OTHER_METHOD}",
    ),
)

RESULTS: tuple[Column, ...] = (
    Column(
        "forgotten",
        "string",
        "the samples that are forgotten, in order, as a JSON list",
        "indices, 0 to m - 1",
    ),
    Column("psi", "float64", "max | ||x_i||^2 - 1 |", "0 or more"),
    Column("phi", "float64", "max |<x_i, x_k>| over pairs of samples", "0 or more"),
    Column(
        "eps_d",
        "float64",
        "4 m n phi (two-layer ReLU and leaky ReLU), 4 m phi (linear)",
        "0 or more",
        "model_kind is another",
    ),
    Column(
        "nearly_orthogonal",
        "bool",
        "whether (m - 1) phi < 1 - psi: every labelling of such samples is separable",
        "bool",
    ),
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
        "whether no same-sign pair (of deep networks, no pair of the first layer) changed its sign "
        "during the last half of the training steps",
        "bool",
    ),
    Column(
        "tau_train_limit",
        "float64",
        "1 - cos between the end of training's descent and the limit that was solved for from it",
        "0 to 2",
        _NO_LIMIT.format(""),
    ),
    Column("limit_status", "string", _STATUS.format("training"), "one of six words"),
    Column(
        "lambda_forget",
        "float64",
        "dual variables of the forgotten samples in the trained model, summed",
        "0 or more",
        _NOT_TRAINED,
    ),
    Column(
        "lambda_forget_estimated",
        "float64",
        "lambda_forget as the loss alone suggests it: the step of estimated_ascent",
        "0 or more",
        _NOT_TRAINED,
    ),
    Column(
        "unlearn_gradients",
        "float64",
        "cost of unlearning: gradients of single samples, and products of the Hessian of one with "
        "a vector",
        "0 or more",
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
    Column(
        "kink_pairs",
        "int32",
        "retained pairs at a kink of that point, in all layers",
        "0 to m n times hidden layers",
    ),
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
        "complementarity that goes with epsilon_limit; a margin that is 1 to rounding is 1",
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
    *(
        Column(
            name_of_budget(a, b),
            "float64",
            f"least epsilon found for the unlearned model at delta <= {10.0**-a:g}, tau <= "
            f"{10.0**-b:g}: on the ladder of kink tolerances, and on the way to the limit and to "
            "the retrained model",
            "0 or more, normalised to least retained margin 1",
            f"nothing that was looked at is within these budgets, or {_NOT_TRAINED}",
        )
        for a in BUDGETS[0]
        for b in BUDGETS[1]
    ),
    Column(
        "limit_status_unlearned",
        "string",
        _STATUS.format("further training of the unlearned model on the retain set"),
        "one of six words",
    ),
    Column(
        "sign_flips",
        "int32",
        "retained (neuron, sample) pairs, of all hidden layers, whose ReLU sign unlearning changed",
        "0 to m n times hidden layers",
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
    Column("bound_epsilon", "float64", "bound on epsilon_inherited", "0 or more", _NO_BOUND),
    Column("bound_delta", "float64", "bound on delta_inherited", "0 or more", _NO_BOUND),
    Column(
        "phi_guarantee",
        "float64",
        f"the largest phi at which epsilon_inherited <= {GUARANTEED_EPSILON:g} is certain if no "
        "retained sign flips, given what else is known of the trained model (docs/mathematics.md)",
        "0 to 1",
        f"the trained model's residual with derivatives 1[z > 0] (large where there are kinks) and "
        f"what step_fraction leaves of the forget set's gradients are together "
        f"{GUARANTEED_EPSILON:g} or more, psi is 1 or more, method "
        f"is not ascent, the model's homogeneity is above 1, or {_NOT_TRAINED}",
    ),
    Column(
        "assumptions_hold",
        "bool",
        "whether phi <= phi_guarantee and sign_flips is 0, all that the guarantee assumes; false "
        "where no phi would do",
        "bool",
        f"method is not ascent, the model's homogeneity is above 1, or {_NOT_TRAINED}",
    ),
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
    Column("limit_status_retrain", "string", _STATUS.format("retraining"), "one of six words"),
    *_generalisation("original", _NO_END),
    *_generalisation("unlearned", _NOT_TRAINED),
    *_generalisation("retrained", _NO_END),
    Column(
        "disagreement",
        "float64",
        "share of fresh samples to which unlearned and retrained model give different signs",
        "0 to 1",
        f"{_NO_TEST}, or {_NOT_TRAINED}",
    ),
)

COLUMNS = (*IDENTITY, *PARAMETERS, *RESULTS)

# Of border.parquet and points.parquet, which a sweep with [border] has; their axes' columns are
# called and measured like the parameters that they are.
BORDER = (
    Column(
        "curve",
        "string",
        "what the corner is of: border, where the median over seeds changes sides; low and high, "
        "where the ends of an interval for that median do",
        "one of three words",
    ),
    Column("piece", "int64", "which connected line of its curve", "0 or more"),
    Column("place", "int64", "which corner of its line, in order", "0 or more"),
)
POINTS = (
    Column("seeds", "int64", "seeds with a trial at this point", "1 or more"),
    Column("share", "float64", "share of seeds for which the predicate holds", "0 to 1"),
    Column(
        "margin",
        "float64",
        "median over seeds of how far inside the region the point is: log of the ratio to the "
        "level, within a factor of 10; of columns or levels that may be negative, the difference",
        "real; 0 or more is inside",
    ),
    Column("low", "float64", "lower end of an interval for that median", "real"),
    Column("high", "float64", "upper end", "real"),
    Column("separated", "float64", "share of the point's trials that have a certificate", "0 to 1"),
)


def as_markdown() -> str:
    """The columns as tables: the text of docs/columns.md."""
    lines = [
        "# Columns",
        "",
        f"Schema version {SCHEMA_VERSION}. Every file in `trials/` has all columns of the first "
        "three tables.",
    ]
    for title, columns in (
        ("Identity", IDENTITY),
        ("Parameters", PARAMETERS),
        ("Results", RESULTS),
        ("border.parquet, with both axes", BORDER),
        ("points.parquet, with both axes", POINTS),
    ):
        lines += ["", f"## {title}", "", "| column | type | meaning | range | no value |"]
        lines.append("|---|---|---|---|---|")
        for column in columns:
            cells = (f"`{column.name}`", *column[1:])
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
