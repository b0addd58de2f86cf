# make demo   train, binarize, fine-tune and evaluate on handwritten digits (under 5 minutes on 2 cores)
# make test   lint, types, tests
# make test-long   fuzzes packed files and the native code that runs them, kills training runs (minutes)
# Each makes .venv if it is missing and installs what it needs.

PYTHON ?= python3
BIN := .venv/bin
RUNS := runs/demo
NATIVE := $(wildcard irnet_convert/packed/native/*)

.PHONY: demo test test-long lint clean

.venv/.base:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

.venv/.demo: .venv/.base pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable '.[digits]'
	touch $@

.venv/.test: .venv/.base pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: .venv/.demo
	@PATH="$(CURDIR)/$(BIN):$$PATH" RUNS=$(RUNS) sh recipes/demo.sh

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 10

test-long: .venv/.test
	IRNET_FUZZ=200000 IRNET_FUZZ_FILES=100000 $(BIN)/python -m pytest tests/packed/test_native_elsewhere.py tests/packed/long_fuzz_files.py
	IRNET_KILLS=50 $(BIN)/python -m pytest -s tests/train/test_kills.py

clean:
	rm -rf .venv build dist *.egg-info $(RUNS)
