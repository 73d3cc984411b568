# The verbs, the same by hand and in CI:
#   make run           the quickstart on 127.0.0.1:8080 (Ctrl-C ends it)
#   make test          everything that needs no GPU and no engine download, in parallel; exhaustive tests as a sample
#   make test-long     the same with every exhaustive test in full size, coverage, and a soak of ten minutes
#   make coverage      make test with the coverage of gateway, backends and policies (twice the time)
#   make test-pythons  the fast part on Python 3.12 and 3.13, where they are on the machine
#   make test-engines  the tests marked `engine`, against a real vLLM on the CPU
#   make check         ruff, mypy --strict, import contracts, generated docs, rules of the house (tests/house.py)
#   make fix           what ruff can mend, and the generated parts of the documents
#   make bench         direct against through: CPU a request and an event
#   make mutants       mutation tests of the riskiest policies (COUNT= of each module, MODULES=)
#   make soak          random faults for ten minutes (SECONDS=, SEED=): nothing lost, held or grown
#   make lock          new lock files from pyproject.toml
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test-pythons mutants services test test-long coverage test-engines engines check fix docs bench soak lock env dev clean

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
POLICY ?= policies/examples/quickstart.yaml
# Options for pytest, e.g. make test PYTEST="tests/policies -x"
PYTEST ?=

# The environment is made again exactly when what it is made from has changed: the stamps carry the checksum in their name.
RUN_SUM := $(shell cat pyproject.toml requirements.lock | cksum | cut -d' ' -f1)
DEV_SUM := $(shell cat pyproject.toml requirements.lock requirements-dev.lock | cksum | cut -d' ' -f1)
RUN_STAMP := $(VENV)/.run-$(RUN_SUM)
DEV_STAMP := $(VENV)/.dev-$(DEV_SUM)

UV := $(shell command -v uv 2>/dev/null)
ifneq ($(UV),)
INSTALL := $(UV) pip install --quiet --python $(PY)
else
INSTALL := $(PY) -m pip install -qq --disable-pip-version-check
endif

help:
	@sed -n 's/^#   //p' Makefile

$(PY):
	@.ci/python "$(PYTHON)" "$(VENV)" "$(UV)"

$(RUN_STAMP): | $(PY)
	@echo "sluice: installing into $(VENV) (once) ..." >&2
	@$(INSTALL) -r requirements.lock
	@$(INSTALL) --no-deps -e .
	@rm -f $(VENV)/.run-* && touch $@

$(DEV_STAMP): $(RUN_STAMP)
	@echo "sluice: installing the tools for tests and checks into $(VENV) (once) ..." >&2
	@$(INSTALL) -r requirements-dev.lock
	@rm -f $(VENV)/.dev-* && touch $@

env: $(RUN_STAMP)

dev: $(DEV_STAMP)

run: $(RUN_STAMP)
	@exec $(PY) -I -S .ci/serve $(VENV)/bin/sluice serve $(POLICY)

# Most tests wait for real sockets and real time, so two and a half processes a core keep it busy.
WORKERS ?= $(shell echo $$(( $$(nproc) * 5 / 2 )))
PARALLEL := -n $(WORKERS) --dist worksteal --durations=20
COVERAGE := --cov --cov-report=term --cov-fail-under=95

services:
	@.ci/need redis-server=redis-server nginx=nginx curl=curl

test: $(DEV_STAMP) services
	@$(PY) -m pytest -m "not engine" $(PARALLEL) $(PYTEST)

coverage: $(DEV_STAMP) services
	@$(PY) -m pytest -m "not engine" $(PARALLEL) $(COVERAGE) $(PYTEST)

test-long: $(DEV_STAMP) services
	@SLUICE_LONG=1 $(PY) -m pytest -m "not engine" $(PARALLEL) $(COVERAGE) $(PYTEST)
	@$(PY) -m tests.soak --seconds 600

test-pythons: $(DEV_STAMP)
	@$(PY) -m tests.pythons $(PYTHONS)

mutants: $(DEV_STAMP)
	@$(PY) -m tests.mutation $(if $(COUNT),--count $(COUNT)) $(MODULES)

# Made from the registries into a cache outside the tree, keyed by versions: seconds when it is there.
engines: $(DEV_STAMP)
	@.ci/need curl=curl node=nodejs npm=npm
	@$(PY) -m tests.engines.install

test-engines: engines
	@$(PY) -m pytest -m engine $(PYTEST)

check: $(DEV_STAMP)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@$(PY) -m tests.docs --check
	@$(PY) -m tests.house

fix: $(DEV_STAMP)
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .
	@$(PY) -m tests.docs --write

docs: $(DEV_STAMP)
	@$(PY) -m tests.docs --write

bench: $(DEV_STAMP)
	@$(PY) -m tests.bench

soak: $(DEV_STAMP)
	@$(PY) -m tests.soak $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

# No --emit-index-url: a lock says what, not from where.
lock: $(DEV_STAMP)
	@$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock" \
		pyproject.toml -o requirements.lock $(UPGRADE)
	@$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock" \
		pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock $(UPGRADE)

clean:
	@rm -rf $(VENV) .venv-3.* dist build .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
