# make demo   train, binarize, fine-tune and evaluate on handwritten digits (under 5 minutes on 2 cores)
# make test   lint, types, tests
# Each makes .venv if it is missing and installs what it needs.

PYTHON ?= python3
BIN := .venv/bin
RUNS := runs/demo

.PHONY: demo test lint clean

.venv/.base:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

.venv/.demo: .venv/.base pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[digits]'
	touch $@

.venv/.test: .venv/.base pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: .venv/.demo
	@PATH="$(CURDIR)/$(BIN):$$PATH" RUNS=$(RUNS) sh recipes/demo.sh

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 10

clean:
	rm -rf .venv build dist *.egg-info $(RUNS)
