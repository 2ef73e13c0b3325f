# On a machine with Python 3.11 or newer and make, each target does its own set-up.
#
#   make run     serve an example on this machine, to try with curl
#   make test    run all tests
#   make quick   run those that are quick, on all cores: about two minutes of one core
#   make check   run what CI runs: lint, layers, types, then all tests
#   make scoped  run the tests with a real Envoy where each hostname has a route table of its own
#   make long    run the tests that take minutes each, such as 50 rounds through all kinds
#   make bench   measure here what docs/reference/benchmarks.md shows
#   make clean   remove .venv and what was generated
#
# Another interpreter: make test PYTHON=/path/to/python3.13. The choice is made once, when .venv is built.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST_ARGS ?=
# How many examples Hypothesis tries; tests/conftest.py has the profiles.
export HYPOTHESIS_PROFILE ?= default

.DEFAULT_GOAL := help
.PHONY: help run test quick check lint layers types scoped long bench clean

help:
	@sed -n 's/^#   make/make/p' Makefile

run: $(READY)
	$(BIN)/moongate quickstart

test: $(READY)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

quick: export HYPOTHESIS_PROFILE = quick
quick: $(READY)
	$(BIN)/python -m pytest --numprocesses auto -m "not envoy and not slow" $(PYTEST_ARGS)

# Tests come last, so that pytest's summary is what CI shows last.
check: lint layers types
	@$(MAKE) --no-print-directory test

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files -z | xargs -0 $(BIN)/codespell

layers: $(READY)
	$(BIN)/lint-imports --no-cache

types: $(READY)
	$(BIN)/python tools/gen_typings.py
	$(BIN)/pyright --pythonpath $(BIN)/python

# The tests with a real Envoy once more, with a table for each hostname. It takes about ten minutes.
scoped: $(READY)
	$(BIN)/python -m pytest -m envoy --scoped $(PYTEST_ARGS)

long: $(READY)
	$(BIN)/python -m pytest -m long -v $(PYTEST_ARGS)

bench: $(READY)
	$(BIN)/python -m bench
	$(BIN)/python -m bench.gateway_policy

clean:
	rm -rf $(VENV) typings build dist .pytest_cache .ruff_cache .hypothesis

# The stamp is written last: set-up that was interrupted starts again, and a finished one costs nothing.
$(READY): pyproject.toml constraints.txt tools/find_python.sh
	@python=$$(PYTHON='$(PYTHON)' sh tools/find_python.sh) || exit 1; \
	echo "set-up: pip installs moongate, Envoy and the tools of the tests into $(VENV) with $$python, once; this takes a minute or two"; \
	"$$python" -m venv --clear $(VENV)
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
