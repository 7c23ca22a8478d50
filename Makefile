# Every target does its own set-up: a Python 3.11 or newer and make are all that a machine needs.
# What was installed is remembered in stamp files that depend on pyproject.toml, so that the
# second run of a target costs nothing.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs

# Tests start thousands of processes: none should compile the package anew, whatever the
# environment says of bytecode, nor leave any in the tree.
CACHED := env -u PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX=$(CURDIR)/$(VENV)/pycache

# Choose another interpreter with `make setup PYTHON=/path/to/python`.
PYTHON ?=

.PHONY: help
help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(DEV)  ## create .venv with everything that development needs

.PHONY: demo
demo: $(RUN)  ## a pool at work on real input, and a worker killed half-way
	@$(PY) examples/demo.py

.PHONY: test
test: $(DEV)  ## all tests, on every core
	$(CACHED) $(PY) -m pytest --numprocesses logical --dist worksteal

.PHONY: check
check: $(DEV)  ## lint, format, types, layers, and which files are pure
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m pyright
	$(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint()'
	$(PY) -m pytest -q tests/unit/test_purity.py

.PHONY: format
format: $(DEV)  ## rewrite the files as `make check` wants them
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

.PHONY: docs
docs: $(DOCS)  ## the site, into docs/_build; a warning or a broken link is an error
	$(PY) -m sphinx --fresh-env --fail-on-warning --keep-going --quiet --builder html docs docs/_build
	$(PY) docs/check_links.py docs/_build

# More of it: make sim SIM='--seconds 600 --states 1000000 --rare --within 2000 --traces 1000'.
# One seed, step by step: .venv/bin/python -m amnode.testing --trace --start 7
SIM ?=

.PHONY: sim
sim: $(DEV)  ## whole deployments with faults in simulated time, and bugs to find
	$(PY) -m tests.sim $(SIM)

.PHONY: sim-bugs
sim-bugs: $(DEV)  ## every bug that is planted into the simulation, the rare ones too
	AM_NODE_TEST_SIM_LONG=1 $(PY) -m pytest tests/sim/test_simulation.py -k planted --timeout 900 -o faulthandler_timeout=0

.PHONY: bench
bench: $(RUN)  ## cases beside their baselines, as ratios
	$(PY) benchmarks/kernel.py
	$(PY) benchmarks/rpc.py
	$(PY) benchmarks/call.py
	$(PY) benchmarks/jobs.py
	$(PY) benchmarks/imports.py
	$(PY) benchmarks/launch.py
	$(PY) benchmarks/forked.py
	$(PY) benchmarks/pool.py
	$(PY) benchmarks/executor.py

# More of it: make fuzz FUZZ='--frames 1e7 --jobs 2'
FUZZ ?=

.PHONY: fuzz
fuzz: $(DEV)  ## a minute of hostile bytes against both sides of a connection
	$(PY) -m tests.fuzz $(FUZZ)

# More of it: make cuts CUTS='--cuts 1000000 --seed 7'
CUTS ?=

.PHONY: cuts
cuts: $(DEV)  ## an exchange cut at every byte, and at random places, then resumed
	$(PY) -m tests.pairs.cuts $(CUTS)

# One of it, or more: make chaos CHAOS='--figure R6 --count 1000 --seed 7'
CHAOS ?=

.PHONY: chaos
chaos: $(DEV)  ## real pools, whose processes are killed, stopped and replaced
	$(PY) -m tests.chaos $(CHAOS)

# Heavy software, so in an environment of its own. Some of it: make executors EXECUTORS='dask scipy'
EXECUTORS ?=
THEIRS := .venv-executors

.PHONY: executors
executors: $(THEIRS)/.installed  ## software that takes an executor, with PoolExecutor as the one
	$(THEIRS)/bin/python -m tests.executors $(EXECUTORS)

.PHONY: clean
clean:  ## remove all that make and the tools created
	rm -rf $(VENV) $(THEIRS) dist build docs/_build .coverage .coverage.* .hypothesis .import_linter_cache
	rm -rf .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- set-up ------------------------------------------------------------------------------

$(VENV)/pyvenv.cfg:
	@set -eu; found=; bare=; \
	for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
	    command -v "$$python" >/dev/null 2>&1 || continue; \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	    if "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; \
	    then found=$$python; break; else bare=$${bare:-$$python}; fi; \
	done; \
	if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	    echo "make: $$bare is new enough but cannot create a virtual environment:" >&2; \
	    echo "make: it lacks ensurepip. On Debian and Ubuntu: apt install python3-venv" >&2; \
	    exit 1; \
	elif [ -z "$$found" ]; then \
	    echo "make: no Python 3.11 or newer$(if $(PYTHON), in $(PYTHON), among python3 and python3.11 to python3.14)." >&2; \
	    echo "make: install one, or name it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python" >&2; \
	    exit 1; \
	fi; \
	echo "creating $(VENV) with $$found" >&2; \
	"$$found" -m venv $(VENV)

$(RUN): $(VENV)/pyvenv.cfg pyproject.toml
	@echo "installing amnode and what the demo needs" >&2
	@$(PIP) install --editable '.[demo]'
	@touch $@

$(THEIRS)/.installed: $(VENV)/pyvenv.cfg pyproject.toml
	@echo "installing software that takes an executor" >&2
	@$(VENV)/bin/python -m venv $(THEIRS)
	@$(THEIRS)/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[executors]'
	@touch $@

$(DEV): $(VENV)/pyvenv.cfg pyproject.toml
	@echo "installing amnode and the development tools" >&2
	@$(PIP) install --editable '.[dev]'
	@touch $(RUN) $@

$(DOCS): $(VENV)/pyvenv.cfg pyproject.toml
	@echo "installing amnode and what its site is made with" >&2
	@$(PIP) install --editable '.[docs]'
	@touch $@
