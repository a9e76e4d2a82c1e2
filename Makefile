# `make demo` and `make test` work as the first command on a bare clone: they need python3, a C++17
# compiler and make; cmake and ninja come from PyPI.
.DELETE_ON_ERROR:
.PHONY: setup demo test lint format wheel clean distclean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# An environment variable reaches isolated build environments too; --constraint does not.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Twice quiet: errors only.
PIP := $(BIN)/python -m pip install -qq
KERNELS := $(shell find kernels -type f)

setup: $(VENV)/.ready

# torch before the rest: with it in place nothing that follows can ask for another build of it.
# No build isolation: the build folder stays valid, so a changed kernel is all that is compiled.
$(VENV)/.ready: pyproject.toml constraints.txt $(KERNELS)
	@echo "setting up $(VENV): a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch 'scikit-build-core>=0.10' 'nanobind>=2.4' cmake ninja
	$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/fit3d demo

test: lint
	$(BIN)/python -m pytest -n 2 -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: setup
	$(BIN)/python -m pip wheel -qq --no-deps --wheel-dir dist .

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache fit3d-demo
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
