"""Every command, snippet and specification of the tutorial and the how-to is run, in its order."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gaunlearn.cli import main

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def in_a_process(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "gaunlearn", *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, SimpleNamespace(out=done.stdout, err=done.stderr)


@pytest.mark.parametrize("page", ["tutorial.md", "how-to.md"])
def test_what_a_page_says_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kinds = []
    for kind, name, content in BLOCK.findall((DOCS / page).read_text()):
        kinds.append(kind)
        if kind == "toml":
            (tmp_path / name).write_text(content)
        elif kind == "python":
            exec(compile(content, page, "exec"), {"__name__": "__main__"})
        else:
            assert kind == "sh"
            for line in content.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "gaunlearn"
                if "--cluster" in arguments:  # Ray's threads outlive it
                    status, told = in_a_process(arguments)
                else:
                    status, told = main(arguments), capsys.readouterr()
                assert status == 0, f"{line}: {told.err[-2000:]}"
                assert told.out, line
    assert {"toml", "python", "sh"} <= set(kinds)
    report = tmp_path / "results" / "phase" / "report"
    assert page != "tutorial.md" or {"plane.png", "index.html"} <= {
        f.name for f in report.iterdir()
    }


@pytest.mark.parametrize("file", sorted((DOCS / "measured").glob("*.json")), ids=lambda f: f.stem)
def test_measurements_are_quoted_as_they_were_printed(file):
    """Whole tables, of a commit that the page names."""
    kept, page = json.loads(file.read_text()), (DOCS / "measurements.md").read_text()
    lines = [
        line
        for part in kept["tables"]
        for line in part["text"].splitlines()
        if line.startswith("|")
    ]
    assert len(lines) > 5
    assert set(lines) <= set(page.splitlines())
    assert re.fullmatch("[0-9a-f]{40}", kept["provenance"]["commit"])
    assert f"commit {kept['provenance']['commit'][:7]}" in page


def test_pages_name_each_other_and_nothing_that_is_not_there():
    for page in DOCS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert link.startswith("http") or (DOCS / link).exists(), f"{page.name}: {link}"
