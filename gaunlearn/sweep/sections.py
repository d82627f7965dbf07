"""The tables of a specification: every parameter of a trial, its type, bounds and default.

A section is validated by itself. How parameters become axes is ``axes``' business, and how a file
is read ``spec``'s. Defaults are part of a trial's identity: a changed one makes other trials.
"""

from collections.abc import Hashable
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gaunlearn.data.distributions import law_of
from gaunlearn.ladder import KINK_TOLS, TAU_BUDGET
from gaunlearn.losses import LOSSES
from gaunlearn.training import OPTIMIZERS

__all__ = [
    "CHOICES",
    "DEFAULT_KIND",
    "HIGHER_DEGREE",
    "KIND_KEY",
    "LIST_VALUED",
    "SECTIONS",
    "WHOLE",
    "BreastCancerData",
    "BundledData",
    "ClusterData",
    "Computing",
    "CorrelatedData",
    "DeepReluModel",
    "DescentMethod",
    "DigitsData",
    "Evaluation",
    "FileData",
    "ForgetClass",
    "ForgetDraw",
    "ForgetIndex",
    "ForgetRanked",
    "HeavyTailedData",
    "IsotropicData",
    "LeakyReluModel",
    "LinearModel",
    "MixtureData",
    "NearDuplicatesData",
    "OneShotMethod",
    "PowerLawData",
    "ReluModel",
    "RepeatedMethod",
    "Retraining",
    "Section",
    "SpecError",
    "SquaredReluModel",
    "SyntheticData",
    "Training",
    "XorData",
    "column_name",
]


class SpecError(ValueError):
    """A specification or a call that has no meaning; the message is one line for its user."""


class Section(BaseModel):
    """One table of a specification."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @property
    def shape(self) -> Hashable:
        """All that the shape of arrays, the programs and the number of stages depend on: sections
        that are equal in it cost the same.
        """
        return self


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class SyntheticData(Section):
    """Drawn in the span of the samples (``data.distributions``), so that d costs nothing."""

    m: int = Field(ge=2, le=10**5)
    d: int = Field(ge=1, le=10**15)
    n_test: int = Field(default=0, ge=0, le=10**7)

    @property
    def shape(self) -> Hashable:
        """Beyond the samples and their directions, the dimension does not matter."""
        law = self.law
        enough = self.m + law_of(*law)[1] + self.n_test
        return law, self.m, self.n_test, min(self.d, enough)

    @property
    def law(self) -> tuple[str, int]:
        """Arguments of ``distributions.law_of``: what a program that draws it is compiled for."""
        return self.kind, getattr(self, "clusters", 0)  # type: ignore[attr-defined]

    @property
    def numbers(self) -> dict[str, float]:
        """The law's parameters."""
        counts = {"kind", "m", "n_test", "clusters"}
        return {key: float(value) for key, value in self.model_dump(exclude=counts).items()}


class _WithMeans(SyntheticData):
    """Means of one length, ||mu|| = d^(-1/4 + alpha): there is something for a test set to tell."""

    alpha: float = Field(gt=0, lt=0.25)
    n_test: int = Field(default=1000, ge=0, le=10**7)


class MixtureData(_WithMeans):
    """Clusters at +-mu with noise N(0, noise_scale^2 I / d). A label is +1 with probability
    positive, and in training wrong with probability label_noise.
    """

    kind: Literal["gaussian_mixture"]
    noise_scale: float = Field(default=1.0, gt=0)
    label_noise: float = Field(default=0.0, ge=0, lt=0.5)
    positive: float = Field(default=0.5, gt=0, lt=1)


class ClusterData(_WithMeans):
    """``clusters`` Gaussian clusters a class, all means orthogonal."""

    kind: Literal["clusters"]
    clusters: int = Field(ge=1, le=1000)

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.d < 2 * self.clusters:
            raise ValueError(f"clusters = {self.clusters} need d >= {2 * self.clusters}")
        return self


class XorData(_WithMeans):
    """Clusters at +-mu_1 and, of class -1, at +-mu_2, orthogonal."""

    kind: Literal["xor"]
    d: int = Field(ge=2, le=10**15)


class IsotropicData(SyntheticData):
    """N(0, I / d) with labels that are independent of it."""

    kind: Literal["isotropic"]


class HeavyTailedData(SyntheticData):
    """Multivariate Student t of tail_dof degrees of freedom, E ||x||^2 = 1; independent labels."""

    kind: Literal["heavy_tailed"]
    tail_dof: float = Field(gt=2, le=1e6)


class CorrelatedData(SyntheticData):
    """Gaussian with E <x_i, x_k> = correlation for all pairs, E ||x||^2 = 1; independent labels."""

    kind: Literal["correlated"]
    correlation: float = Field(ge=0, lt=1)


class NearDuplicatesData(SyntheticData):
    """Isotropic, but samples 0 to copies have one label and E <x_i, x_k> = correlation."""

    kind: Literal["near_duplicates"]
    correlation: float = Field(ge=0, lt=1)
    copies: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _are_there(self) -> Self:
        if self.copies >= self.m:
            raise ValueError(f"copies = {self.copies} of sample 0 need m > {self.copies}")
        return self


class PowerLawData(Section):
    """N(0, Sigma) with eigenvalues proportional to k^-exponent and trace 1; independent labels.
    Drawn in d dimensions.
    """

    kind: Literal["power_law"]
    m: int = Field(ge=2, le=10**5)
    d: int = Field(ge=1, le=10**6)
    exponent: float = Field(ge=0, le=10)
    n_test: int = Field(default=0, ge=0, le=10**6)


class BundledData(Section):
    """One of scikit-learn's data sets, as they come (raw), centred and scaled to unit mean square
    norm, or with every sample then scaled to norm 1; samples that are not trained on are fresh, or
    the first ``n_test`` of them. With ``random_features``, so many ReLU features of them, drawn
    anew for each seed, take the place of x.
    """

    m: int = Field(default=40, ge=2)
    n_test: int | None = Field(default=None, ge=0)
    scaling: Literal["raw", "centred", "normalised"] = "centred"
    random_features: int | None = Field(default=None, ge=1, le=10**5)


class DigitsData(BundledData):
    """Two classes of the 8 x 8 digits."""

    kind: Literal["digits"]
    classes: Annotated[tuple[int, int], BeforeValidator(_tuple)] = (3, 8)


class BreastCancerData(BundledData):
    """Malignant (+1) and benign tumours, 30 features."""

    kind: Literal["breast_cancer"]


class FileData(Section):
    """A user's .npz with x, y and optionally x_test, y_test, or a .parquet file with a column of
    labels, others of features (all but those named here, if none are named), and optionally one
    that is true for test samples; a path relative to the spec's. ``random_features`` as of
    BundledData.
    """

    kind: Literal["file"]
    path: str
    label: str = "y"
    features: Annotated[tuple[str, ...] | None, BeforeValidator(_tuple), Field(min_length=1)] = None
    split: str | None = None
    random_features: int | None = Field(default=None, ge=1, le=10**5)


class LinearModel(Section):
    """N = <w, x>."""

    kind: Literal["linear"]
    init_scale: float = Field(default=0.03, gt=0)

    @property
    def shape(self) -> Hashable:
        """There is one."""
        return self.kind


class ReluModel(Section):
    """N = sum_j u_j relu(<w_j, x>), u_j = +-1/sqrt(n)."""

    kind: Literal["two_layer_relu"]
    n: int = Field(ge=1, le=10**8)
    init_scale: float = Field(default=0.03, gt=0)

    @property
    def shape(self) -> Hashable:
        """The number of neurons."""
        return self.kind, self.n


class LeakyReluModel(Section):
    """As two_layer_relu, with slope leak below 0."""

    kind: Literal["two_layer_leaky_relu"]
    n: int = Field(ge=1, le=10**8)
    leak: float = Field(gt=0, lt=1)
    init_scale: float = Field(default=0.03, gt=0)


class SquaredReluModel(Section):
    """As two_layer_relu, with relu(z)^2 for relu(z); homogeneous of degree 2."""

    kind: Literal["two_layer_squared_relu"]
    n: int = Field(ge=1, le=10**8)
    init_scale: float = Field(default=0.03, gt=0)

    @property
    def shape(self) -> Hashable:
        """The number of neurons."""
        return self.kind, self.n


class DeepReluModel(Section):
    """A bias-free ReLU network of ``depth`` layers, n wide, all of them trained, the output weights
    too; homogeneous of degree depth. ``init_scale`` is that of the first layer; ``upper_scale``
    multiplies the initial weights of the others, N(0, 2 / n) and, the output's, N(0, 1 / n).
    """

    kind: Literal["deep_relu"]
    depth: int = Field(ge=2, le=8)
    n: int = Field(ge=1, le=4096)
    init_scale: float = Field(default=0.03, gt=0)
    upper_scale: float = Field(default=1.0, gt=0)

    @property
    def shape(self) -> Hashable:
        """Its layers."""
        return self.kind, self.depth, self.n


class Training(Section):
    """Descent for training and retraining; stops at whichever comes first. With end "limit" it
    also stops when signs have settled, and its limit takes its place.
    """

    end: Literal["descent", "limit"] = "descent"
    optimizer: str = "normalized_gd"
    loss: str = "logistic"
    step_size: float = Field(default=1.0, gt=0)
    max_steps: int = Field(ge=1, le=10**12)
    target_log_loss: float | None = None
    target_epsilon: float | None = Field(default=None, gt=0)
    check_every: int = Field(default=100, ge=1, le=10**12)

    @property
    def shape(self) -> Hashable:
        """All but the size of steps, and the values of targets."""
        judged = self.target_epsilon is not None
        return self.end, self.optimizer, self.loss, self.max_steps, self.check_every, judged


class Retraining(Section):
    """Whether the retrained model starts from the trained model's initial weights."""

    init: Literal["fresh", "same"] = "fresh"


class Evaluation(Section):
    """How certificates treat kinks (see ``certificate``)."""

    kinks: Literal["handled", "ignored"] = "handled"
    kink_tol: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], ...],
        BeforeValidator(_tuple),
        Field(min_length=1),
    ] = KINK_TOLS
    tau_budget: float = Field(default=TAU_BUDGET, ge=0)


class ForgetIndex(Section):
    """One sample, named by its index; a trial for each index."""

    rule: Literal["index"] = "index"


class ForgetDraw(Section):
    """``size`` samples drawn at random; a trial for each draw. Larger sets contain smaller ones."""

    rule: Literal["random"]
    size: int = Field(ge=1)


class ForgetClass(Section):
    """``size`` samples drawn from those with one label, or all of them if there are fewer."""

    rule: Literal["class"]
    size: int = Field(ge=1)
    label: Literal[1, -1] = 1


class ForgetRanked(Section):
    """The ``size`` samples that come first by a rule: those with the least or largest margins of
    the trained model (the largest or least multipliers, if it is a limit), or with the largest or
    least mean |cos| to the others.
    """

    rule: Literal["hardest", "easiest", "most_correlated", "least_correlated"]
    size: int = Field(ge=1)


class OneShotMethod(Section):
    """A method of unlearning without parameters but ``step_fraction`` (see ``unlearning``)."""

    method: Literal[
        "ascent",
        "identity",
        "estimated_ascent",
        "sequential_ascent",
        "newton",
        "corrected_ascent",
        "limit_polishing",
        "retraining",
    ] = "ascent"


class RepeatedMethod(Section):
    """A method of ``steps`` steps."""

    method: Literal["repeated_ascent"]
    steps: int = Field(default=100, ge=1, le=10**9)


class DescentMethod(Section):
    """A method of ``steps`` steps of descent; their learning rate is training's step size, if it is
    not given.
    """

    method: Literal["gradient_difference", "fine_tuning", "random_labels"]
    steps: int = Field(default=100, ge=1, le=10**9)
    learning_rate: float | None = Field(default=None, gt=0)


class Computing(Section):
    """How numbers are represented; data and initial weights are the same in either."""

    dtype: Literal["float64", "float32"] = "float64"


def _kinds(*classes: type[Section], key: str) -> dict[str, type[Section]]:
    """Each kind that a class has, by its name in the parameter ``key``."""
    return {name: cls for cls in classes for name in get_args(cls.model_fields[key].annotation)}


# Section -> kind -> class; sections without kinds have the one class "".
SECTIONS: dict[str, dict[str, type[Section]]] = {
    "data": _kinds(
        MixtureData,
        IsotropicData,
        ClusterData,
        XorData,
        HeavyTailedData,
        CorrelatedData,
        NearDuplicatesData,
        PowerLawData,
        DigitsData,
        BreastCancerData,
        FileData,
        key="kind",
    ),
    "model": _kinds(
        LinearModel, ReluModel, LeakyReluModel, SquaredReluModel, DeepReluModel, key="kind"
    ),
    "train": {"": Training},
    "retrain": {"": Retraining},
    "evaluate": {"": Evaluation},
    "compute": {"": Computing},
    "forget": _kinds(ForgetIndex, ForgetDraw, ForgetClass, ForgetRanked, key="rule"),
    "unlearn": _kinds(OneShotMethod, RepeatedMethod, DescentMethod, key="method"),
}
# The parameter that names a section's kind, and the kind of what is not given.
KIND_KEY = {"data": "kind", "model": "kind", "forget": "rule", "unlearn": "method"}
DEFAULT_KIND = {"forget": "index", "unlearn": "ascent"}
# Models that are homogeneous of a degree above 1.
HIGHER_DEGREE = ("two_layer_squared_relu", "deep_relu")
# What whole numbers are annotated with.
WHOLE = (int, int | None)
# Parameters whose single value is a list; an axis of them is a list of lists.
LIST_VALUED = {"classes", "features", "kink_tol"}
CHOICES = {"optimizer": tuple(OPTIMIZERS), "loss": tuple(LOSSES)}


def column_name(section: str, key: str) -> str:
    """The column of a parameter: its key, after the section where that alone says too little."""
    if key == "kink_tol":  # the result of that name is the tolerance that was chosen
        return "kink_tols"
    short = {"kind", "init", "path", "end", "rule", "size", "label", "split", "steps"}
    return f"{section}_{key}" if key in short else key
