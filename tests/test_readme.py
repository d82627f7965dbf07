"""What the README shows is what one gets."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import gaunlearn
from gaunlearn.report.summary import summarise
from gaunlearn.sweep.plan import families_of
from gaunlearn.sweep.resume import claims_of, trial_ids_of
from gaunlearn.sweep.runner import run_sweep
from gaunlearn.sweep.spec import load_spec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def numbers(text):
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)]


def test_worked_example_prints_what_the_readme_says():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    shown = re.search(r"```text\n(.*?)```", README, re.DOTALL).group(1)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert re.sub(r"[\d.e-]+", "", done.stdout) == re.sub(r"[\d.e-]+", "", shown)
    np.testing.assert_allclose(numbers(done.stdout), numbers(shown), rtol=0.1, atol=2e-3)


def test_the_frontier_of_the_readme_is_printed():
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "frontier" in c]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    epsilon, path = done.stdout.split()
    assert float(epsilon) >= 0
    assert path in ("snapped", "limit", "retrained")


def test_snippets_read_a_run_with_other_tools(tmp_path):
    """pandas, polars and DuckDB find the same medians in the files as they lie."""
    small = load_spec(ROOT / "tests" / "small.toml", ["sweep.name=tiny", "train.max_steps=100"])
    run = run_sweep(small, tmp_path / "results" / "tiny")
    want = run.to_pandas().groupby("step_fraction")["epsilon"].median()
    snippets = [
        code
        for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if "results/tiny/trials" in code
    ]
    assert len(snippets) == 3
    for code in snippets:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        found = numbers(done.stdout)
        for value in want:
            assert any(abs(number - value) <= 1e-3 * value for number in found), (code, value)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_sweeps_are_valid_open_with_a_question_and_are_listed(path):
    sweep = load_spec(path)
    assert sweep.question.split("?")[0] != sweep.question
    assert f"sweeps/{path.name}" in README


GALLERY = ROOT / "results" / "gallery"


@pytest.mark.parametrize("spec", sorted(GALLERY.glob("*/spec.toml")), ids=lambda p: p.parent.name)
def test_the_gallery_shows_whole_verified_runs_of_shipped_sweeps(spec):
    """The page and the data lie side by side; a sweep that has changed since has to be run again
    (make gallery).
    """
    name, run = spec.parent.name, gaunlearn.load(spec.parent)
    page, frame = (GALLERY / "README.md").read_text(), run.to_pandas()
    assert run.manifest["provenance"]["spec"] == (ROOT / "sweeps" / f"{name}.toml").read_text()
    assert len(frame) == run.manifest["trials"]
    assert f"{len(frame)} trials" in page
    assert run.verification()["holds"]
    shown = re.findall(rf"\(({name}/report/\w+\.png)\)", page)
    assert shown
    assert all((GALLERY / name).stat().st_size > 10_000 for name in shown)
    assert "directory" not in run.manifest["provenance"]


@pytest.mark.parametrize("spec", sorted(GALLERY.glob("*/spec.toml")), ids=lambda p: p.parent.name)
def test_the_gallery_has_the_trials_that_this_version_would_run(spec):
    """By their names, in which the generation of random numbers is; of a border a part of them."""
    sweep = load_spec(ROOT / "sweeps" / f"{spec.parent.name}.toml")
    stored = set(gaunlearn.load(spec.parent).to_pandas()["trial_id"])
    wanted = {
        name
        for family in families_of(sweep)
        for name in trial_ids_of(claims_of(family, sweep.directory))
    }
    assert stored == wanted if sweep.border is None else stored <= wanted


def test_the_readme_opens_with_figures_of_the_gallery_and_tells_of_them_what_is_so():
    opening = README.split("## Two commands")[0]
    shown = re.findall(r'<img src="([^"]+)"', opening)
    assert len(shown) == 2
    assert all((ROOT / path).is_file() for path in shown)
    border = gaunlearn.load(GALLERY / "phase_alpha_d").manifest["border"]
    assert f"{border['points']} of\n{border['points_of_full_grid']} points" in opening


def test_what_make_run_ends_with_is_what_the_gallery_s_trials_say():
    """But for lines that are left out, files and what a machine adds."""
    block = re.search(r"ends like this:\n\n((?:    .*\n)+)", README)[1]
    shown = [line[4:] for line in block.splitlines()]
    known = summarise(gaunlearn.load(GALLERY / "step_size"))
    ours = [line for line in shown if not re.match(r" *(\.\.\.|data: |figure: )", line)]
    assert len(ours) >= 10
    assert [line for line in known if line in ours] == ours


UNITS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


def seconds(text):
    """Times in a text, in seconds."""
    found = re.findall(r"([\d.]+) (µs|ms|s|min|h)\b", text)
    return [float(number) * UNITS[unit] for number, unit in found]


def test_the_table_of_speeds_is_of_the_measurements():
    kept = (ROOT / "docs" / "measurements.md").read_text()
    tables = kept.split("## Against what one would write instead")[1].split("\n## ")[0]
    printed = np.asarray(seconds(tables))
    section = README.split("## How fast")[1].split("\n## ")[0]
    rows = [line.split("|")[2:5] for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 15
    for peers, ours, ratios in rows:
        (own,) = seconds(ours)
        for peer, ratio in zip(seconds(peers), numbers(ratios), strict=True):
            for number in (peer, own):
                assert np.isclose(printed, number, rtol=1e-3).any(), number
            assert np.isclose(ratio, peer / own, rtol=0.06), (peer, own, ratio)


def test_extras_and_jax_exclusions_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"test", "bench", "cluster"} <= set(project["optional-dependencies"])
    for package in ("jax", "jaxlib"):
        (requirement,) = [d for d in project["dependencies"] if re.match(rf"{package}[^\w]", d)]
        assert {"!=0.10.2", "!=0.11.0", "!=0.11.1"} <= set(
            requirement.split(">=0.10.1,")[1].split(",")
        )
