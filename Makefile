# Everything below works on a machine that has only Python >= 3.11 and make: the environment lives in
# .venv and is rebuilt when pyproject.toml changes. Tests with the oldest and newest versions have environments
# of their own, .venv-oldest and .venv-newest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
NEWEST := .venv-newest
KEY := $(shell cksum < pyproject.toml | cut -d' ' -f1)
# The CPU build of PyTorch; a bare "torch" would pull the CUDA libraries. Empty skips it.
TORCH ?= torch==2.13.0
COMMA := ,
VERIFY ?=
TESTS ?=
# What `make test-oldest` runs: the core, its files, SciPy's adapter, the command line. Not JAX, where compiling
# takes minutes.
CORE_TESTS ?= -k "not jax" $(patsubst %,tests/test_%.py,array permutation criterion orbit_groups low_rank_group \
	schedules checkpoint_files npz_headers preconditioners scipy_adapter scipy_habits cli_help release)

THREADS := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
EXTRAS := fast,jax,test,cupy-names,lint$(if $(TORCH),$(COMMA)reproduce$(COMMA)reproduce-rl)

.PHONY: help verify test test-oldest test-newest test-long docs dist lint types hooks clean

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##|^[a-z-]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

$(VENV)/.venv-$(KEY):
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.verify-$(KEY): $(VENV)/.venv-$(KEY)
	$(BIN)/python -m pip install -q -e ".[analysis,fast]"
	@touch $@

$(VENV)/.test-$(KEY): $(VENV)/.venv-$(KEY)
	test -z "$(TORCH)" || $(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e ".[$(EXTRAS)]"
	@touch $@

$(VENV)/.dist-$(KEY): $(VENV)/.venv-$(KEY)
	$(BIN)/python -m pip install -q -e ".[dist]"
	@touch $@

$(VENV)/.docs-$(KEY): $(VENV)/.venv-$(KEY)
	test -z "$(TORCH)" || $(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e ".[jax,docs]"
	@touch $@

verify: $(VENV)/.verify-$(KEY)  ## check every preconditioner against its exact target (VERIFY="--all" for more)
	$(BIN)/psgd verify $(VERIFY)

test: $(VENV)/.test-$(KEY)  ## run the test suite on every installed array library (TESTS="-k dense")
	$(THREADS) $(BIN)/python -m pytest -n auto $(TESTS)

test-long: $(VENV)/.test-$(KEY)  ## the same with the long tests in full and 20,000 odd calls: hours
	$(THREADS) PSGD_LONG=1 PSGD_FUZZ_CALLS=20000 $(BIN)/python -m pytest --timeout 21600 -n auto $(TESTS)

# The lowest versions that pyproject.toml names and that this Python has a wheel of (Python 3.11 has all of them).
# PyTorch is left out: of its older versions, the package index has only builds that come with CUDA.
$(OLDEST)/.test-$(KEY):
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q "uv>=0.5"
	$(OLDEST)/bin/uv pip install -q --python $(OLDEST)/bin/python --resolution lowest-direct --only-binary :all: -e ".[fast,jax,test]"
	@touch $@

test-oldest: $(OLDEST)/.test-$(KEY)  ## run the core's tests with the lowest versions that pyproject.toml names
	$(THREADS) NUMBA_CACHE_DIR=$(OLDEST)/numba $(OLDEST)/bin/python -m pytest -n auto $(CORE_TESTS)

$(NEWEST)/.venv-$(KEY):
	$(PYTHON) -m venv --clear $(NEWEST)
	@touch $@

test-newest: $(NEWEST)/.venv-$(KEY)  ## run the test suite with the newest release of everything but PyTorch
	$(NEWEST)/bin/python -m pip install -q --upgrade --upgrade-strategy eager $(TORCH) -e ".[$(EXTRAS)]"
	$(THREADS) NUMBA_CACHE_DIR=$(NEWEST)/numba $(NEWEST)/bin/python -m pytest -n auto $(TESTS)

docs: $(VENV)/.docs-$(KEY)  ## build the documentation into docs/_build/html, and check its links and code
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	PSGD_DOCS_HTML=docs/_build/html $(BIN)/python -m pytest -q tests/test_docs.py

dist: $(VENV)/.dist-$(KEY)  ## build the wheel and the sdist into dist, and check them
	rm -rf dist
	$(BIN)/python -m build -o dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

lint: $(VENV)/.test-$(KEY)  ## ruff: style, imports, docstrings
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.test-$(KEY)  ## mypy, strict for the core
	$(BIN)/mypy --strict psgd_core && $(BIN)/mypy

hooks: $(VENV)/.test-$(KEY)  ## git hooks: lint and types before a commit, tests before a push
	$(BIN)/python -m pip install -q "pre-commit>=3.5"
	$(BIN)/pre-commit install

clean:           ## remove the environments and every cache
	rm -rf $(VENV) $(OLDEST) $(NEWEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist docs/_build docs/gallery
	rm -f docs/api/*.rst
