"""Run the shipped sweeps into results/gallery/ and write the page that shows them.

    python tools/gallery.py [--draw] [NAME ...]

Each is a whole run, verified: its figures, and the Parquet behind them. One that is there already,
of the same specification, is only verified and drawn again. Without names all of ``sweeps/``
run. With ``--draw`` nothing runs: what is there is drawn again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import gaunlearn
from gaunlearn.report.answer import answer_of
from gaunlearn.report.style import title_of
from gaunlearn.runs import Run

ROOT = Path(__file__).resolve().parent.parent
GALLERY = Path("results/gallery")
# The first ones of the page; the others follow by name.
FIRST = ("step_size", "phase_m_d", "phase_alpha_d", "methods", "when_ascent_fails")
VERIFIED_TRIALS = 50
HEAD = """\
# Gallery

What the shipped sweeps answer, as `make gallery` has run them. Each directory is a whole run: the
specification (`spec.toml`), the trials (`trials/`, Parquet), a border if it looks for one
(`border.parquet`, `points.parquet`), what `gaunlearn verify` found (`verification.json`) and the
figures (`report/`, PNG and SVG). So these work on them:

    gaunlearn report results/gallery/step_size   # and its interactive page, report/index.html
    gaunlearn verify results/gallery/step_size --any-version   # recompute trials
"""


def command(*arguments: object) -> None:
    """``gaunlearn`` from the repository's root; ends this program where it fails."""
    words = [str(word) for word in arguments]
    print("gaunlearn", *words, flush=True)
    subprocess.run([sys.executable, "-m", "gaunlearn", *words], cwd=ROOT, check=True)


def section(run: Run, spec: Path) -> str:
    """A run's part of the page: question, answer, figures, and what made them.

    Raises:
        SystemExit: ``gaunlearn verify`` has found something wrong, or has not been run.
    """
    manifest, frame, verified = run.manifest, run.to_pandas(), run.verification()
    if verified is None or not verified["holds"]:
        raise SystemExit(f"{run.path}: does not pass gaunlearn verify")
    batch, alone, reference = verified["trials"]
    made, name = manifest["provenance"], run.path.name
    images = "\n".join(
        f"![{path.stem} of {name}]({name}/report/{path.name})"
        for path in sorted((ROOT / GALLERY / name / "report").glob("*.png"))
    )
    facts = (
        f"{len(frame)} trials of {frame['seed'].nunique()} seeds: `gaunlearn run "
        f"{spec.as_posix()}` on {made['started'][:10]}, {manifest['seconds']:.0f} s on "
        f"{made['device']}; gaunlearn {made['gaunlearn']} at commit {made['commit'][:12]}, jax "
        f"{made['jax']}.",
        f"Verified: {batch} trials recomputed in batches, {alone} alone, {reference} by NumPy and "
        "SciPy.",
    )
    answer = answer_of(frame, manifest, run.border(), run.points())
    return "\n\n".join([f"## {title_of(manifest)}", answer, images, "\n".join(facts)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="sweeps to run (all)")
    parser.add_argument("--draw", action="store_true", help="run nothing, draw what is there")
    arguments = parser.parse_args()
    names, only_draw = arguments.names, arguments.draw
    specs = sorted(
        (path.relative_to(ROOT) for path in (ROOT / "sweeps").glob("*.toml")),
        key=lambda path: ((*FIRST, path.stem).index(path.stem), path.stem),
    )
    if unknown := set(names) - {spec.stem for spec in specs}:
        parser.error(f"no such sweep: {', '.join(sorted(unknown))}")
    for spec in specs:
        out = GALLERY / spec.stem
        if (names and spec.stem not in names) or (only_draw and not (ROOT / out).is_dir()):
            continue
        if not only_draw:
            command("run", spec, "--out", out)
            command("verify", out, "--sample", VERIFIED_TRIALS, "--any-version")
        command("report", out)
    there = [spec for spec in specs if (ROOT / GALLERY / spec.stem).is_dir()]
    runs = [(gaunlearn.load(ROOT / GALLERY / spec.stem), spec) for spec in there]
    page = "\n".join([HEAD, *(section(run, spec) for run, spec in runs)])
    (ROOT / GALLERY / "README.md").write_text(page)


if __name__ == "__main__":
    main()
