"""A small sweep that several tests run, in this process or as one of its own."""

import os
import subprocess
import sys

__all__ = ["SMALL_BLOCKS", "SPEC", "command", "finish", "refusal", "write"]

SPEC = """
[sweep]
seeds = {seeds}
[data]
kind = "isotropic"
m = 4
d = 50
n_test = 10
[model]
kind = "two_layer_relu"
n = 8
init_scale = 0.3
[train]
max_steps = 150
step_size = 0.3
[unlearn]
step_fraction = [0.0, 0.5, 1.0]
"""


def write(folder, text, **values):
    path = folder / "spec.toml"
    path.write_text(text.format(seeds=3) if not values else text.format(**values))
    return path


# Blocks of one family each, so that there is something to interrupt.
SMALL_BLOCKS = "from gaunlearn.sweep import plan\nplan.BLOCK_S = 1e-9"


def command(folder, *arguments, code="", **environment):
    """Start ``gaunlearn run`` of a folder's specification as a process."""
    program = f"import sys\n{code}\nfrom gaunlearn.cli import main\nsys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, "run", "spec.toml", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def refusal(folder, capsys, *arguments):
    """The one line that a run of a folder's specification is refused with."""
    from gaunlearn.cli import main

    assert main(["run", str(folder / "spec.toml"), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]
