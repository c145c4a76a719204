# Everything a newcomer or CI runs. Needs Python 3.11+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Without an environment of its own, for which pip would compare no hashes.
BUILD := --no-build-isolation --no-deps

.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# What `make run` needs, and nothing more: a newcomer waits for this.
$(VENV)/.runtime: requirements.txt pyproject.toml sdk/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "runqy needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "runqy needs the module venv of Python; on Debian and Ubuntu: apt install $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; exit 1; }
	@echo "Making the environment in $(VENV), which may take a minute ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.txt -r requirements-build.txt
	@$(PIP) $(BUILD) -e . -e ./sdk
	@touch $@

$(VENV)/.development: requirements-dev.txt $(VENV)/.runtime
	@echo "Adding what tests and checks need ..."
	@$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@

install: $(VENV)/.development  ## make the environment in .venv, with all that tests and checks need

# The worker finds the SDK of this clone here when it installs what a queue requires.
$(VENV)/wheels: sdk/pyproject.toml $(shell find sdk/runqy_sdk -name '*.py') $(VENV)/.runtime
	@rm -rf $@
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check $(BUILD) --wheel-dir $@ ./sdk

run: $(VENV)/.runtime $(VENV)/wheels  ## run the product: server on :3000, maintenance, one worker
	@PIP_FIND_LINKS="$(CURDIR)/$(VENV)/wheels $$PIP_FIND_LINKS" exec $(BIN)/runqy up

# Two processes more than processors: some wait for what others compute. A part named by its path runs whole.
PYTEST = $(BIN)/python -m tests.support.run_pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 2)) --dist loadscope --no-loadscope-reorder -rs
REST := slow or fault or docs or browser or postgresql or cluster
ONLY = $(if $(findstring tests/,$(ARGS)),,-m "$(1)")

test: install  ## what a change usually breaks, in about five minutes on two processors; starts the servers it needs
	@$(PYTEST) $(call ONLY,smoke or not (release or $(REST))) $(ARGS)

test-rest: install  ## what `make test` leaves out: PostgreSQL, Redis Cluster, browsers, faults, the documentation's blocks
	@$(PYTEST) $(call ONLY,not (smoke or release) and ($(REST))) $(ARGS)

test-all:  ## every test, as CI runs them: `make test`, then `make test-rest`
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory test-rest

fuzz: install  ## try every operation of the API for ten minutes; RUNQY_TEST_FUZZ_SECONDS=60 for one
	@RUNQY_TEST_FUZZ_SECONDS=$${RUNQY_TEST_FUZZ_SECONDS:-600} $(BIN)/python -m pytest -n auto tests/api/test_fuzzing.py $(ARGS)

lint: install  ## ruff, import layers, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

audit: install  ## insecure code (bandit), and known vulnerabilities of what is installed (pip-audit)
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive manage.py sdk/runqy_sdk runqy \
		$$($(BIN)/python -c 'from runqy.core.environment.own_packages import APPS; print(*APPS)')
	$(BIN)/pip-audit --disable-pip --no-deps --requirement requirements.txt

format: install  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: install  ## build the documentation site into site/; a broken link or anchor fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: install  ## figures, as ratios within one run; ARGS="http --rounds 7" for a part, ARGS="http no_ops --against COMMIT" beside another commit
	@$(BIN)/python -m tools.benchmarks $(ARGS)

soak: install  ## faults and load, checked; MINUTES=, SEED= to repeat a run, ARGS="nemesis" or "history --rate 500" for a part
	@MINUTES=$(MINUTES) SEED=$(SEED) $(BIN)/python -m tools.soak $(ARGS)

release: install  ## build the release of a tagged commit into dist/; ARGS=--snapshot for any commit
	@$(BIN)/python .ci/release.py $(ARGS)

release-check: install  ## build the packages, install them afresh, run the suite on every Python, fuzz for long
	@.ci/release-check

screenshots: install  ## the README's pictures of the admin; ARGS=folder for every page in every state
	@$(BIN)/python -m tools.demo.screenshots $(ARGS)

# All but the SDK, which is of this repository: installed beside the package, and pinned by a release.
COMPILE = $(BIN)/uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-emit-package runqy-sdk

requirements:  ## resolve the pinned requirements for Python 3.11 and newer
	$(COMPILE) --extra server pyproject.toml \
		-o requirements.txt --custom-compile-command "make requirements"
	$(COMPILE) --extra server --extra otel --group dev pyproject.toml \
		-o requirements-dev.txt --custom-compile-command "make requirements"
	$(COMPILE) -c requirements.txt pyproject.toml \
		-o requirements-worker.txt --custom-compile-command "make requirements"
	$(COMPILE) -c requirements-dev.txt --group build \
		-o requirements-build.txt --custom-compile-command "make requirements"
	$(COMPILE) --group release-check \
		-o .ci/requirements.txt --custom-compile-command "make requirements"

proto: install  ## generate the message classes from runqy/broker/asynq.proto
	cd runqy/broker && ../../$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. asynq.proto

.PHONY: help install run test test-rest test-all fuzz lint audit format docs bench soak release release-check screenshots requirements proto
