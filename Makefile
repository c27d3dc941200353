# Every target makes its own virtual environment first, with the versions in constraints.txt; nothing needs to be
# installed by hand.
# `make test PYTHON=python3.12` chooses the interpreter the environment is made with.

PYTHON ?= python3
VENV := .venv
LOCK := constraints.txt
INSTALL := --editable '.[worker,dev,parquet,pandas,xlsx,video,pdf,dicom,baselines,serve,metrics]'
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
PROCESSES ?= 3
BENCH_ARGS ?=
MUTANTS_ARGS ?=

DEMO_IMAGES ?= 300
DEMO_SEED ?= 7

.DEFAULT_GOAL := help
UV := .venv-uv/bin/uv
MUTMUT := .venv-mutants/bin/mutmut
COMPILE := $(UV) pip compile --quiet --no-annotate --no-emit-index-url --custom-compile-command 'make lock'

.PHONY: help venv lock services container-tools demo demo-refresh demo-crops test test-oldest test-newest test-slow mutants check audit bench clean distclean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

venv: $(STAMP) ## make .venv with every extra, in the locked versions

# The stamp is written last: an interrupted installation is taken up again, and a changed
# pyproject.toml or lock installs what is new.
$(STAMP): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "scanfleet needs Python 3.11 or later: make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "could not make $(VENV): install the venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint $(LOCK) $(INSTALL)
	$(if $(EDITABLE_ALONE),$(BIN)/python -m pip install --quiet --no-deps --editable .)
	@touch $@

$(UV):
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install --quiet 'uv>=0.13,<0.14' packaging

# Universal: one file for every platform and Python that pyproject.toml admits. It is a list of constraints and not of
# requirements: a CPU build of torch needs none of the CUDA packages in it, so that none is installed.
lock: $(UV) ## renew constraints.txt: the newest versions that pyproject.toml admits
	$(COMPILE) --all-extras --universal --upgrade --output-file $(LOCK) pyproject.toml

services:
	@tools/setup-services.sh

demo: $(STAMP) ## make an archive with known truth, scan it, print the result, write demo/report.html
	rm -rf demo
	$(BIN)/python -m scanfleet.models.pocket.generate --check overlay --n $(DEMO_IMAGES) --seed $(DEMO_SEED) --out demo/archive
	SCANFLEET_DATA_DIR=demo/data $(BIN)/scanfleet run demo/archive/manifest.csv --check overlay --truth truth \
	  --report demo/report.html

demo-refresh: $(STAMP) ## labels arrive, an adapter is trained, judged, put in use; a poisoned one is refused
	$(BIN)/python -P tools/demo_refresh.py

SMALL := $(BIN)/python -m scanfleet.models.pocket.generate --check razor --sizes 768,1024,1536 --share 0.02,0.05
demo-crops: export SCANFLEET_DATA_DIR = demo-crops/data
demo-crops: $(STAMP) ## small objects: tune a crop pass on labels, and use it
	rm -rf demo-crops
	$(SMALL) --n 120 --seed 32 --out demo-crops/archive
	$(BIN)/scanfleet run demo-crops/archive/manifest.csv --check razor --truth truth
	$(SMALL) --n 160 --seed 31 --out demo-crops/labelled
	$(BIN)/scanfleet tune --check razor --labels demo-crops/labelled/manifest.csv --label-column truth --trials 8 \
	  --apply --out demo-crops/tuned
	$(BIN)/scanfleet run demo-crops/archive/manifest.csv --check razor --truth truth --report demo-crops/report.html

# Bytecode is written also where the environment forbids it: hundreds of processes import the same modules.
# A file stays in one process, so that what its module sets up is made once. There are more processes than cores, because
# many tests wait for servers and leases; those come first (acceptance, integration), the ones that compute fill the rest.
test: $(STAMP) services ## tests that take seconds, with real Redis, PostgreSQL and S3
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n $(PROCESSES) --dist loadfile \
	  --no-loadscope-reorder --durations 20 $(PYTEST_ARGS)

# The same tests on other versions, in an environment of their own. Warnings are listed at the end instead of raised.
OTHER = $(MAKE) test VENV=.venv-$(1) LOCK=.venv-$(1)/constraints.txt PYTEST_ARGS="-o filterwarnings=default $(PYTEST_ARGS)"

test-oldest: $(UV) ## the tests on the lowest versions that pyproject.toml admits
	mkdir -p .venv-oldest
	$(COMPILE) --all-extras --python $(PYTHON) --resolution lowest-direct --output-file .venv-oldest/constraints.txt pyproject.toml
	$(call OTHER,oldest)

test-newest: $(UV) ## the tests on the newest versions there are, upper bounds left out; ends with their warnings
	mkdir -p .venv-newest
	.venv-uv/bin/python tools/without_upper_bounds.py >.venv-newest/requirements.txt
	$(COMPILE) --python $(PYTHON) --upgrade --output-file .venv-newest/constraints.txt .venv-newest/requirements.txt
	$(call OTHER,newest) INSTALL='--requirement .venv-newest/requirements.txt' EDITABLE_ALONE=yes

container-tools:
	@tools/setup-services.sh containers

test-slow: $(STAMP) services container-tools ## tests that take minutes
	$(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

# The operators come from mutmut, in an environment of their own: the project needs nothing of it.
$(MUTMUT):
	$(PYTHON) -m venv .venv-mutants
	.venv-mutants/bin/python -m pip install --quiet 'mutmut>=3.8,<3.9'

mutants: $(STAMP) $(MUTMUT) services ## change 200 lines, one at a time: which does no test notice? Takes hours
	PYTHONPATH=. .venv-mutants/bin/python -m tools.mutants $(MUTANTS_ARGS)

check: $(STAMP) ## style, types, import rules, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory audit

audit: $(STAMP) ## known vulnerabilities of what is installed
	@$(BIN)/python tools/audit.py

bench: $(STAMP) ## measure: make bench BENCH_ARGS="NAME --json"
	$(BIN)/python -m bench $(BENCH_ARGS)

clean: ## remove what the targets made, except .venv
	rm -rf demo demo-refresh demo-crops bench-crops build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the environments as well
	rm -rf $(VENV) .venv-* *.egg-info
