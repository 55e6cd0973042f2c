# Every target makes its own environment: .venv from envs/requirements.lock, mrsr installed from
# src/. Needs Python 3.11, 3.12, 3.13 or 3.14, git and make.
#
#   make demo    train and measure on the embedded phantom, print the table (minutes, no network
#                beyond the package index)
#   make test    fast and slow tests, with the coverage of src/mrsr
#   make test-long   tests of minutes each: adoption, strange folders, the README's commands
#   make soak    kill jobs, Snakemake and the MLflow server at random, compare the tables (10 min)
#   make slurm-test   the cluster tests, on a SLURM that it installs and starts (root, Debian)
#   make lint    ruff, mypy, import-linter, snakefmt, snakemake --lint
#   make results-check EXPERIMENT=demo   make an experiment's tables again, in a clone, and compare
#                them with docs/results.md (real scans: set MRSR_MIRROR)
#   make weights  train the networks of the package again and pack them (hours; open scans)
#   make bench   how fast: our ways beside others', ratios timed in turns
#   make gpu MINUTES=8   tests, benchmarks and trainings on a GPU, without network or .venv; needs
#                what `python bench/gpu/pack.py` made (docs/cluster.md)
#   make docs    the documentation as a site: site/index.html, which needs no network
#   make lock    make envs/requirements.lock, conda.yaml and apptainer.def from requirements.in
#   make clean   remove caches (results, data and .venv stay)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CORES ?= 2
BIN := .venv/bin
STAMP := .venv/.stamp

# one thread per process: two trainings side by side are faster so, and sums come out the same
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export NUMEXPR_NUM_THREADS ?= 1
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help venv demo test test-fast test-slow test-long slurm-test soak lint results-check weights \
  bench gpu docs lock clean

help:
	@sed -n '4,20s/^# \{0,1\}//p' Makefile

venv: $(STAMP)

# The loop runs each candidate: a pyenv shim named python3.11 may exist and not work.
$(STAMP): envs/requirements.lock pyproject.toml
	@python=; for candidate in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 python; do \
	  if $$candidate -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
	    >/dev/null 2>&1; then python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "mrsr: error: no Python 3.11 to 3.14 with venv found; install one (on Debian and Ubuntu:" \
	    "apt install python3-venv) and run make again" >&2; \
	  exit 2; fi; \
	[ -x $(BIN)/python ] || { echo "making .venv with $$python"; $$python -m venv .venv; }; \
	echo "installing envs/requirements.lock (a few minutes)"; \
	$(BIN)/python -m pip install -qq --requirement envs/requirements.lock || { \
	  echo "mrsr: error: pip could not install envs/requirements.lock; if it found no torch: there are" \
	    "wheels for Python 3.11 to 3.14 on 64-bit Linux with glibc 2.28 or newer, macOS on Apple" \
	    "silicon, and Windows; install such a Python, remove .venv and run make again" >&2; exit 2; }; \
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .; \
	$(BIN)/python envs/commands.py $(BIN); \
	touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/snakemake --logger mrsr --cores $(CORES) all --config experiment=demo
	@$(BIN)/mrsr tables --experiment demo --print
	@$(BIN)/python -m mrsr.tables.demo_end --tables results/demo/tables

test: test-fast test-slow

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n 2 --cov=src/mrsr --cov-report=

# loadfile: tests of one file share what it takes minutes to make. Exit code 5: no test is slow
test-slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not long" --cov=src/mrsr --cov-append --cov-report=term \
	  || [ $$? -eq 5 ]

# minutes each, so not in CI: run them before a release
test-long: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long

soak: $(STAMP)
	$(BIN)/python tests/soak.py --seed $(or $(SEED),0) --kills $(or $(KILLS),20)

slurm-test: $(STAMP)
	@tests/slurm/run.sh $(BIN)/python

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# a folder for each commit: a second call at the same commit goes on where the first one stopped
results-check: $(STAMP)
	@[ -n "$(EXPERIMENT)" ] || { \
	  echo "mrsr: error: which one? make results-check EXPERIMENT=demo" >&2; exit 2; }
	@clone=.results-check/$$(git rev-parse --short HEAD); \
	[ -d $$clone/.git ] || git clone -q . $$clone; \
	(cd $$clone && PYTHONPATH="$$PWD/src" ../../$(BIN)/snakemake --logger mrsr --cores $(CORES) \
	  all --config experiment=$(EXPERIMENT)); \
	$(BIN)/python docs/insert_tables.py $(EXPERIMENT) --results $$clone/results --check

# OTHER: scans unlike the training's, which the model card reports too
weights: $(STAMP)
	@$(BIN)/snakemake --logger mrsr --cores $(CORES) all --config experiment=best
	@$(BIN)/mrsr pack --experiment best $(addprefix --other ,$(OTHER))

bench: $(STAMP)
	@OMP_NUM_THREADS=$(CORES) $(BIN)/python bench/all.py

# no .venv: the machine has a Python with torch and no network
gpu:
	@$(or $(PYTHON),python3) bench/gpu/run.py --minutes $(or $(MINUTES),8) $(if $(OUT),--out $(OUT))

# strict: a warning is an error
docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

# pins that requirements.in still allows stay as they are
lock: $(STAMP)
	@cp envs/requirements.lock .venv/compiled.txt
	$(BIN)/pip-compile --quiet --strip-extras --no-header --no-emit-index-url \
	  --no-emit-find-links --no-emit-trusted-host --no-emit-options --annotation-style line \
	  --unsafe-package pip --output-file .venv/compiled.txt envs/requirements.in
	$(BIN)/python envs/derive.py --compiled .venv/compiled.txt

clean:
	rm -rf .pytest_cache .hypothesis .ruff_cache .mypy_cache .coverage
	find src tests workflow -name __pycache__ -type d -prune -exec rm -rf {} +
