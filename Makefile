# make demo: an environment from requirements.lock, and the main command in it. make test: the same with the test tools.
# Needs Python 3.11 or 3.12 and a package index that pip knows; nothing else.

VENV   ?= .venv
ARGS   ?=
PYTHON ?=
TIME   ?= 60

bin     := $(VENV)/bin
runtime := $(VENV)/.runtime-installed
dev     := $(VENV)/.dev-installed
fuzzer  := $(VENV)/.fuzz-installed
auditor := $(VENV)-audit/.installed
locked  := requirements.lock requirements-uv.lock pyproject.toml .ci/install.py

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz bench-ptq conformance audit-deps install install-dev lint format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(runtime) ## quantize the reference RepViT-M1.1 to int8 for TFLite, in a fresh environment
	$(bin)/qtools quantize m1_1 --bits 8 --target tflite $(ARGS)

test: $(dev) ## run the tests (ARGS='-k numerics' for some, ARGS='-m bench -n 0' for the timings)
	@$(bin)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

fuzz: $(fuzzer) ## coverage-guided fuzzing of every reader for TIME seconds in all (ARGS=plan_json for one of them)
	@$(bin)/python tests/fuzz/run.py --seconds $(TIME) $(ARGS)

bench-ptq: $(dev) ## every method on real networks: DATA=folder with weights/ and images/ (ARGS='--networks mobilevit')
	@PYTHONPATH=. $(bin)/python tests/bench/ptq.py --data "$(DATA)" $(ARGS)

conformance: $(dev) ## families x targets into tests/e2e/reference.yaml (ARGS='--rows repvit_m0_9 --schemes w8a8,w6a6')
	@PYTHONPATH=. $(bin)/python tests/bench/conformance.py $(ARGS)

audit-deps: $(auditor) ## known vulnerabilities of every pin; needs the network, and ends in 3 where it cannot ask
	@$(VENV)-audit/bin/python .ci/audit.py requirements.lock requirements-dev.lock requirements-uv.lock requirements-fuzz.lock

install: $(runtime) ## only build the environment

install-dev: $(dev) ## only build the environment with the test tools

lint: $(dev) ## style, types and import layers, as tests/arch runs them
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports

format: $(dev) ## rewrite the code in the one style
	$(bin)/ruff check --fix-only --quiet
	$(bin)/ruff format

# Pins already in the files are kept while they fit; ARGS=--upgrade moves them. The index and its certificate are the
# user's own (UV_DEFAULT_INDEX, SSL_CERT_FILE) and are not written.
compile = $(bin)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-annotate --no-header $(ARGS)
lock: $(dev) ## solve the lock files again from pyproject.toml
	$(compile) --group bootstrap -o requirements-uv.lock
	$(compile) --group fuzz -o requirements-fuzz.lock
	$(compile) --group audit -o requirements-audit.lock
	$(compile) pyproject.toml --group build -o requirements.lock
	$(compile) pyproject.toml --extra tensorflow --extra ray --group build --group dev -c requirements.lock -o requirements-dev.lock

clean: ## remove caches and build leftovers; runs and the environment stay
	rm -rf build dist *.egg-info .fuzz .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
	find qtools calibration exporters reports tests .ci -name __pycache__ -type d -prune -exec rm -rf {} +

$(bin)/python:
	@for python in $(PYTHON) python3.11 python3.12 python3 python; do \
	  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1; then \
	    if $$python -c 'import ensurepip, venv' >/dev/null 2>&1; then $$python -m venv $(VENV); exit; fi; \
	    echo "make: $$python cannot make a virtual environment; on Debian: apt install python3-venv" >&2; exit 3; \
	  fi; \
	done; \
	echo "make: no Python 3.11 or 3.12 here; install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 3

$(runtime): $(bin)/python $(locked)
	$(bin)/python .ci/install.py requirements.lock
	@touch $@

# The larger lock holds the smaller one, version for version, so `make demo` afterwards has nothing to do.
$(dev): $(bin)/python $(locked) requirements-dev.lock
	$(bin)/python .ci/install.py requirements-dev.lock
	@touch $(runtime) $@

$(fuzzer): $(dev) requirements-fuzz.lock
	$(bin)/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r requirements-fuzz.lock
	@touch $@

$(auditor): $(bin)/python requirements-audit.lock
	$(bin)/python -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
	  -r requirements-audit.lock
	@touch $@
