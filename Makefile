# `make run` and `make test` need Python 3.11 or later, make and a compiler; they set up .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers
SPEC ?= sweeps/step_size.toml

.PHONY: run test browser-test lint types doctor bench bench-more bench-full gallery clean

run: $(STAMP)
	$(BIN)/gaunlearn run $(SPEC)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=20 -m 'not browser' gaunlearn tests

# The report in a real browser, which no Python package brings: Debian's, if there is none yet.
browser-test: $(STAMP)
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	  { echo 'install chromium or google-chrome first'; exit 1; }
	$(BIN)/python -m pytest -m browser tests/test_page.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@command -v shellcheck >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends shellcheck >/dev/null; } || \
	  { echo 'install shellcheck first'; exit 1; }
	shellcheck cluster/slurm.sh .ci/run

types: $(STAMP)
	$(BIN)/mypy

doctor: $(STAMP)
	$(BIN)/gaunlearn doctor

# Tables on the terminal and in results/bench/; docs/measurements.md holds those of full runs. How
# fast: minutes; what else was asked of the solvers and the engine: bench-more.
bench: $(PEERS)
	$(BIN)/python benchmarks/speed.py --quick
	$(BIN)/python benchmarks/solvers.py --quick
	$(BIN)/python benchmarks/roofline.py --quick
	$(BIN)/python benchmarks/growth.py --quick
	$(BIN)/python benchmarks/start.py --quick

bench-more: $(PEERS)
	$(BIN)/python benchmarks/reduction.py --quick
	$(BIN)/python benchmarks/limit.py --quick
	$(BIN)/python benchmarks/engine.py --quick
	$(BIN)/python benchmarks/compiling.py --quick
	$(BIN)/python benchmarks/operations.py --quick
	$(BIN)/python benchmarks/precision.py --seeds 1
	$(BIN)/python benchmarks/border.py --quick
	$(BIN)/python benchmarks/cluster.py --quick

bench-full: $(PEERS)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/solvers.py
	$(BIN)/python benchmarks/roofline.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/reduction.py
	$(BIN)/python benchmarks/limit.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/compiling.py
	$(BIN)/python benchmarks/operations.py
	$(BIN)/python benchmarks/precision.py
	$(BIN)/python benchmarks/border.py
	$(BIN)/python benchmarks/cluster.py

# All shipped sweeps, verified, into results/gallery/ and its page: three quarters of an hour.
gallery: $(STAMP)
	$(BIN)/python tools/gallery.py

clean:
	rm -rf $(VENV)

# A Debian without python3-venv has no ensurepip: then another pip fills the environment.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'gaunlearn needs Python 3.11 or later; set PYTHON=/path/to/python3.11'; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) 2>/dev/null || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	    $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } || \
	  { echo 'cannot make a virtual environment: install python3-venv or python3-pip'; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

# What benchmarks compare with.
$(PEERS): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@
