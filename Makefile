# `make demo` and `make test` do all the set-up themselves: a virtual environment with locked dependencies.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Also constrains what pip installs to build the package.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: demo test test-slow lint check benchmark clean

demo: $(VENV)/ready
	$(BIN)/python -m examples.letters.demo

test: $(VENV)/ready
	$(BIN)/python -m pytest -n auto

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# What continuous integration runs.
check: lint test

benchmark: $(VENV)/ready
	$(BIN)/python -m benchmarks.host_latency

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bitloom needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,mali]'
	touch $@

clean:
	rm -rf $(VENV) out build dist .pytest_cache .hypothesis .ruff_cache
