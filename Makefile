# `make train` or `make test` is all a newcomer types. Each builds .venv if it is missing or outdated:
# training installs the extra `rl`, tests add the extra `dev`, exhaustive tests the extra `kernels`.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
TRAIN  := $(VENV)/.ready-train
DEV    := $(VENV)/.ready-dev
FULL   := $(VENV)/.ready-exhaustive
DOCS   := $(VENV)/.ready-docs
PIP    := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# What `make train` runs, for example `make train PRESET=none METHOD=ls ARGS="seeds=[0,1,2]"`.
# METHOD is a file of configs/method: ls, fairgrad, famo, …, or stl for an agent per task.
PRESET ?= quick
METHOD ?= fairgrad
ARGS   ?=

.PHONY: train test test-exhaustive test-gpu benchmark-gpu gallery docs smoke lint audit clean

train: $(TRAIN)
	$(RUN) -m mtrl_fairgrad.train preset=$(PRESET) method=$(METHOD) $(ARGS)

# Two processes of one thread each; one that has nothing left takes tests from the other.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal --durations 25

# Style, types, architecture, unit and integration tests.
test: lint
	$(PYTEST) -m "not exhaustive" tests/unit tests/integration

# All fifty tasks, fine grids, 250-digit solutions, long runs, fault injection, fuzzing.
test-exhaustive: $(FULL)
	$(PYTEST) -m exhaustive tests

# What needs a GPU, in under 3 minutes; GPU_RUN is a Python with a CUDA build of PyTorch. Both parts
# with time limits: scripts/gpu_session.sh. Python's launches, not the GPU, limit the tests.
GPU_RUN ?= $(RUN)
test-gpu:
	$(GPU_RUN) -m pytest -n 4 tests/gpu

# Measure updates on a GPU, in under 4 minutes.
benchmark-gpu:
	$(GPU_RUN) scripts/benchmark.py --device cuda --keep results/performance

# Film strips and the animation of docs/: drawn in software, a few minutes.
POLICY := results/mt10/preset_cpu/ls/policies/policy-600000-seed0.json
gallery: $(TRAIN)
	$(RUN) -m mtrl_fairgrad.evaluate $(POLICY) --goals 1 --out runs/gallery --pictures docs/assets/mt10

# The documentation site in site/, built strictly; its links, and the code blocks of every page.
docs: $(DOCS)
	$(RUN) -m mkdocs build --strict
	$(RUN) scripts/check_site.py site
	$(RUN) -m pytest tests/integration/test_docs*.py

# Complete packages, and the wheel alone in an empty environment.
smoke:
	$(PYTHON) scripts/smoke_test.py

lint: $(DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

$(RUN):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else "error: %s is Python %d.%d, but 3.11 to 3.13 is needed: run, for example, make PYTHON=python3.12." % (sys.executable, *v))'
	$(PYTHON) -m venv $(VENV)

$(TRAIN): pyproject.toml constraints.txt | $(RUN)
	$(PIP) --editable ".[rl]"
	@touch $(TRAIN)

$(DEV): pyproject.toml constraints.txt | $(RUN)
	$(PIP) --editable ".[dev]"
	@touch $(TRAIN) $(DEV)

$(FULL): pyproject.toml constraints.txt | $(RUN)
	$(PIP) --editable ".[dev,kernels]"
	@touch $(TRAIN) $(DEV) $(FULL)

$(DOCS): pyproject.toml constraints.txt | $(RUN)
	$(PIP) --editable ".[dev,docs]"
	@touch $(TRAIN) $(DEV) $(DOCS)

# Check the tested versions for known vulnerabilities; reports if no advisories can be reached.
audit:
	$(PYTHON) scripts/audit.py $(VENV)-audit

clean:
	rm -rf $(VENV) $(VENV)-audit build dist site *.egg-info
