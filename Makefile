# make demo | test | bench | lint | golden: each sets up what it needs in .venv, from nothing but Python 3.11+ and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTERS ?= 2
BENCH ?=

.PHONY: setup demo test lint golden bench constraints clean

demo: $(READY)
	$(BIN)/python -m cmapkd demo

test: lint
	$(BIN)/python -m pytest -n $(TESTERS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/basedpyright

# The losses that tests/golden keeps, made anew; CHANGELOG.md has to say why they moved.
golden: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/golden/curves.py

bench: $(READY)
	$(BIN)/python -m benchmarks $(BENCH)

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "cmapkd needs Python 3.11 or newer; say which with: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "setup: creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup: installing cmapkd and its tools into $(VENV); the first time takes some minutes"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# What CI ran: names and versions, no addresses. CUDA's parts are left to torch, which pins them itself.
constraints: $(READY)
	@$(BIN)/python -m pip freeze --exclude-editable | grep -E '^[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*(\+[a-z0-9.]+)?$$' \
	  | sed 's/+.*//' | grep -viE '^(nvidia|cuda|triton)' > $@.txt
	@wc -l $@.txt

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist build
