# make demo     train, evaluate and draw a VAE on 8x8 digits into runs/demo (a minute or two)
# make test     the tests          make test-slow   the ones that take minutes
# make evidence RECIPE=models/vae/digits    run a recipe and keep what it measured beside it
# make lint     ruff and pyright   make clean       remove .venv, runs and caches
#
# The first target makes .venv. It needs Python 3.11 or newer and a package index:
#   make PYTHON=python3.12 test
#   make TORCH_INDEX=https://download.pytorch.org/whl/cpu test    torch without CUDA, gigabytes less
#   make PIP_OPTIONS="--proxy http://proxy:3128" test

PYTHON ?= python3
PIP_OPTIONS ?=
TORCH_INDEX ?=
BIN := .venv/bin
export MPLBACKEND := Agg
# idle threads of OpenMP otherwise spin, and slow down whatever else runs
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help .venv demo test test-slow evidence lint clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

.venv: .venv/installed

# torch alone and first, so that TORCH_INDEX serves torch and nothing else
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pyrogen needs Python 3.11 or newer; try make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install $(PIP_OPTIONS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(BIN)/pip install $(PIP_OPTIONS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/installed
	$(BIN)/pyrogen run models/vae/digits.toml --out runs/demo --overwrite

# a process for each core, and a file's tests in one of them
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# pytest answers 5 when nothing is marked slow
test-slow: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow || [ $$? -eq 5 ]

evidence: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pyrogen run $(RECIPE).toml --out runs/evidence --overwrite
	cp runs/evidence/result.json $(RECIPE).json
	$(BIN)/python docs/results.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf .venv runs dist build .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
