"""A run in a few plain lines for the terminal."""

import itertools

import pandas as pd

from gaunlearn.report.answer import answer_of
from gaunlearn.report.medians import median_of, quartiles
from gaunlearn.report.style import QUALITY
from gaunlearn.schema import ROUNDING
from gaunlearn.sweep.store import Run

__all__ = ["summarise"]

# Lines that a reader still reads.
_MOST_GROUPS = 4
# Columns whose medians are told; a trial without a number counts as the worst (``medians``).
_TOLD = (
    "epsilon",
    "epsilon_train",
    "epsilon_retrain",
    "delta",
    "tau",
    "tau_retrain",
    "tau_retrain_floor",
    QUALITY,
    "margin_forget_original",
    "margin_forget_unlearned",
    "margin_forget_retrained",
)


def summarise(run: Run) -> list[str]:
    """Where epsilon is smallest, its value there, accuracies, and what failed.

    One group of lines for each combination of the swept axes other than seed, point and step.
    """
    if not run.parts():
        return [f"0 of {run.manifest['trials']} trials"]
    frame = run.to_pandas()
    total = run.manifest["trials"]
    lines = [f"{len(frame)} of {total} trials, {frame['seed'].nunique()} seeds"]
    lines.append(answer_of(frame, run.manifest, run.border(), run.points()))
    if "border" in run.manifest:
        return lines
    swept = [name for name in run.manifest["swept"] if name in frame]
    groups = list(frame.groupby(swept, sort=False, dropna=False)) if swept else [((), frame)]
    for values, group in itertools.islice(groups, _MOST_GROUPS):
        if swept:
            lines.append(", ".join(f"{n} = {v}" for n, v in zip(swept, values, strict=True)))
        lines += [f"  {line}" for line in _group(group)]
    more = len(groups) - _MOST_GROUPS
    if more > 0:
        lines.append(f"and {more} more settings of {', '.join(swept)}: see the data")
    busy = run.manifest.get("training_lanes_busy")
    if busy is not None:
        lines.append(f"{100 * busy:.0f} % of the training batches' places had steps to take")
    return lines


def _group(frame: pd.DataFrame) -> list[str]:
    failed = int((~frame["separated"]).sum())
    note = [f"{failed} trials have no certificate: the model does not separate its samples"]
    by_step = quartiles(frame, "step_fraction", "epsilon")["median"]
    if by_step.isna().all():
        return note
    best = by_step.idxmin()
    at_best = frame[frame["step_fraction"] == best]
    distance = quartiles(frame, "step_fraction", "tau_retrain")["median"]
    nearest = "nowhere" if distance.isna().all() else f"{distance.idxmin():g}"
    median = {name: median_of(at_best[name]) for name in _TOLD}
    rounding = at_best["dtype"].map(ROUNDING).max()
    said = {
        name: f"< {rounding:g}" if value < rounding else f"{value:.2e}"
        for name, value in median.items()
    }
    lines = [
        f"epsilon is smallest at step fraction {best:g}: median {said['epsilon']} "
        f"(trained model {said['epsilon_train']}, retrained {said['epsilon_retrain']})",
        f"delta there {said['delta']}, tau {said['tau']}; "
        f"1 - cos to the retrained model {said['tau_retrain']} "
        f"(two retrainings differ by {said['tau_retrain_floor']}), smallest at {nearest}",
        f"(0.1, 0.1, 0.01)-successful: {100 * (at_best[QUALITY] <= 0.1).mean():.0f} % of the "
        f"trials there; least epsilon at delta <= 0.1 and tau <= 0.01: median {said[QUALITY]}",
        f"margin of the forgotten sample: {median['margin_forget_original']:.3f} before, "
        f"{median['margin_forget_unlearned']:.3f} after, "
        f"{median['margin_forget_retrained']:.3f} retrained",
    ]
    if at_best["accuracy_unlearned"].notna().any():
        mean = at_best.mean(numeric_only=True)
        areas = [_membership(at_best, whose) for whose in ("original", "unlearned", "retrained")]
        shown = [
            f"{area:.2f}" + (f" \N{PLUS-MINUS SIGN} {error:.2f}" if error == error else "")
            for area, error in areas
        ]
        lines.append(
            f"test accuracy: {mean['accuracy_original']:.4f} before, "
            f"{mean['accuracy_unlearned']:.4f} after, {mean['accuracy_retrained']:.4f} retrained; "
            f"ROC area of a membership attack by margin: {', '.join(shown)}"
        )
    return lines + (note if failed else [])


def _membership(frame: pd.DataFrame, whose: str) -> tuple[float, float]:
    """The area under the ROC curve, and its standard error (NaN of one seed): trials of one seed
    share their fresh samples, so seeds are what is independent.
    """
    by_seed = frame.groupby("seed")[f"membership_{whose}"].mean().dropna()
    return by_seed.mean(), by_seed.std() / len(by_seed) ** 0.5
