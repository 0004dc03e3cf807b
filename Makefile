# The only set-up a newcomer types: `make train` or `make test`. Each builds .venv when it is missing or out of date.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
READY  := $(VENV)/.ready

# What `make train` runs; for example `make train PRESET=none METHOD=ls ARGS="seeds=[0,1,2]"`. METHOD is any file of
# configs/method, such as ls, fairgrad, famo, nash_mtl, or stl for each task alone.
PRESET ?= quick
METHOD ?= fairgrad
ARGS   ?=

.PHONY: train test quicktest lint audit clean

train: $(READY)
	$(RUN) -m mtrl_fairgrad.train preset=$(PRESET) method=$(METHOD) $(ARGS)

# Two processes of one thread each; a file's tests stay together because they share what they trained. Files go in
# order: with those of many tests first, which are not the long ones, one process would wait for the other at the end.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Everything CI runs: style, types, architecture, all tests.
test: lint
	$(PYTEST)

# The tests that take seconds.
quicktest: $(READY)
	$(PYTEST) -m "not slow"

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

# The interpreter, then this project with its tools, at the versions that were tested.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else "error: %s is Python %d.%d, but 3.11 to 3.13 is needed: run make PYTHON=python3.12, say." % (sys.executable, *v))'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,video,supervised]"
	@touch $(READY)

# Known vulnerabilities of the tested versions; says so where no advisories can be reached.
audit:
	$(PYTHON) scripts/audit.py $(VENV)-audit

clean:
	rm -rf $(VENV) $(VENV)-audit build dist *.egg-info
