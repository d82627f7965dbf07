"""A run in a few plain lines for the terminal."""

import pandas as pd

from gaunlearn.sweep.store import Run

__all__ = ["summarise"]


def summarise(run: Run) -> list[str]:
    """Where epsilon is smallest, its value there, accuracies, and what failed.

    One group of lines for each combination of the swept axes other than seed, point and step.
    """
    if not run.parts():
        return [f"0 of {run.manifest['trials']} trials"]
    frame = run.to_pandas()
    total = run.manifest["trials"]
    lines = [f"{len(frame)} of {total} trials, {frame['seed'].nunique()} seeds"]
    swept = [name for name in run.manifest["swept"] if name in frame]
    groups = frame.groupby(swept, sort=False, dropna=False) if swept else [((), frame)]
    for values, group in groups:
        if swept:
            lines.append(", ".join(f"{n} = {v}" for n, v in zip(swept, values, strict=True)))
        lines += [f"  {line}" for line in _group(group)]
    return lines


def _group(frame: pd.DataFrame) -> list[str]:
    failed = int((~frame["separated"]).sum())
    note = [f"{failed} trials have no certificate: the model does not separate its samples"]
    by_step = frame.groupby("step_fraction")["epsilon"].median()
    if by_step.isna().all():
        return note
    best = by_step.idxmin()
    at_best = frame[frame["step_fraction"] == best]
    nearest = frame.groupby("step_fraction")["tau_retrain"].median().idxmin()
    median = at_best.median(numeric_only=True)
    lines = [
        f"epsilon is smallest at step fraction {best:g}: median {median['epsilon']:.2e} "
        f"(trained model {median['epsilon_train']:.2e}, retrained {median['epsilon_retrain']:.2e})",
        f"delta there {median['delta']:.2e}, tau {median['tau']:.1e}; "
        f"1 - cos to the retrained model {median['tau_retrain']:.2e} "
        f"(two retrainings differ by {median['tau_retrain_floor']:.1e}), smallest at {nearest:g}",
        f"margin of the forgotten sample: {median['margin_forget_original']:.3f} before, "
        f"{median['margin_forget_unlearned']:.3f} after, "
        f"{median['margin_forget_retrained']:.3f} retrained",
    ]
    if at_best["accuracy_unlearned"].notna().any():
        mean = at_best.mean(numeric_only=True)
        lines.append(
            f"test accuracy: {mean['accuracy_original']:.4f} before, "
            f"{mean['accuracy_unlearned']:.4f} after, {mean['accuracy_retrained']:.4f} retrained"
        )
    return lines + (note if failed else [])
