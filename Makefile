# Every target sets up what it needs: `make demo` and `make test` work on a fresh machine.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The first interpreter that is new enough; override with `make PYTHON=...`.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help venv install format format-check lint types tests test test-fast demo clean

help:  ## List the targets
	@awk -F ':.*## *' '/^[a-z-]+:.*##/ { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(INSTALLED)  ## Create .venv, or update it when the dependencies changed

install: venv  ## The same as venv

# The installation compiles the native engine, so its sources are reasons to install again.
$(INSTALLED): pyproject.toml constraints.txt hatch_build.py $(wildcard src/magic_pyramid/native/*.h src/magic_pyramid/native/*.cpp src/magic_pyramid/native/build.py)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it with make PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time)" >&2
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

format: venv  ## Rewrite the code in the house format
	$(BIN)/ruff format src tests
	$(BIN)/ruff check --fix --select I src tests

format-check: venv
	$(BIN)/ruff format --check src tests

lint: venv  ## Check the style
	$(BIN)/ruff check src tests

types: venv  ## Check the types
	$(BIN)/mypy

tests: venv
	$(BIN)/pytest -n logical --maxprocesses 8 --dist loadfile

test: format-check lint types tests  ## Format check, lint, types and every test: what CI runs

test-fast: venv  ## The tests without the slow ones
	$(BIN)/pytest -m "not slow"

demo: venv  ## Measure the packaged demo model on real texts and draw one pyramid
	$(BIN)/magic-pyramid demo --picture pyramid.png

clean:  ## Remove what the tools left behind; .venv stays
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage htmlcov pyramid.png
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
