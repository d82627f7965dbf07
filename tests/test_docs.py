"""Every command, snippet and specification of the tutorial and the how-to is run, in its order."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(folder, *command):
    found = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ, check=False
    )
    assert found.returncode == 0, f"{' '.join(command)}: {found.stderr[-2000:]}"
    return found.stdout


@pytest.mark.parametrize("page", ["tutorial.md", "how-to.md"])
def test_what_a_page_says_runs(page, tmp_path):
    kinds = []
    for kind, name, content in BLOCK.findall((DOCS / page).read_text()):
        kinds.append(kind)
        if kind == "toml":
            (tmp_path / name).write_text(content)
        elif kind == "python":
            run(tmp_path, sys.executable, "-c", content)
        else:
            assert kind == "sh"
            for line in content.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "gaunlearn"
                assert run(tmp_path, sys.executable, "-m", "gaunlearn", *arguments)
    assert {"toml", "python", "sh"} <= set(kinds)
    report = tmp_path / "results" / "phase" / "report"
    assert page != "tutorial.md" or {"plane.png", "index.html"} <= {
        f.name for f in report.iterdir()
    }


def test_pages_name_each_other_and_nothing_that_is_not_there():
    for page in DOCS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert link.startswith("http") or (DOCS / link).exists(), f"{page.name}: {link}"
