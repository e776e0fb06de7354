# Everything below works on a machine that has only Python >= 3.11 and make: the environment lives in
# .venv and is rebuilt when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KEY := $(shell cksum < pyproject.toml | cut -d' ' -f1)
# The CPU build of PyTorch; a bare "torch" would pull the CUDA libraries. Empty skips it.
TORCH ?= torch==2.13.0
COMMA := ,
VERIFY ?=
TESTS ?=

.PHONY: help verify test docs lint types hooks clean

help:            ## list the targets
	@grep -E '^[a-z]+: .*##|^[a-z]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

$(VENV)/.venv-$(KEY):
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.verify-$(KEY): $(VENV)/.venv-$(KEY)
	$(BIN)/python -m pip install -q -e ".[analysis,fast]"
	@touch $@

$(VENV)/.test-$(KEY): $(VENV)/.venv-$(KEY)
	test -z "$(TORCH)" || $(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e ".[fast,jax,test,cupy-names,lint$(if $(TORCH),$(COMMA)reproduce$(COMMA)reproduce-rl)]"
	@touch $@

$(VENV)/.docs-$(KEY): $(VENV)/.venv-$(KEY)
	test -z "$(TORCH)" || $(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e ".[jax,docs]"
	@touch $@

verify: $(VENV)/.verify-$(KEY)  ## check every preconditioner against its exact target (VERIFY="--all" for more)
	$(BIN)/psgd verify $(VERIFY)

test: $(VENV)/.test-$(KEY)  ## run the test suite on every installed array library (TESTS="-k dense")
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto $(TESTS)

docs: $(VENV)/.docs-$(KEY)  ## build the documentation into docs/_build/html, and check its links and code
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	PSGD_DOCS_HTML=docs/_build/html $(BIN)/python -m pytest -q tests/test_docs.py

lint: $(VENV)/.test-$(KEY)  ## ruff: style, imports, docstrings
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.test-$(KEY)  ## mypy, strict for the core
	$(BIN)/mypy --strict psgd_core && $(BIN)/mypy

hooks: $(VENV)/.test-$(KEY)  ## git hooks: lint and types before a commit, tests before a push
	$(BIN)/python -m pip install -q "pre-commit>=3.5"
	$(BIN)/pre-commit install

clean:           ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist docs/_build docs/gallery
	rm -f docs/api/*.rst
