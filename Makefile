# Everything a newcomer needs: `make run` and `make test`. Each target brings up what it needs by itself.
SHELL := /bin/bash
PYTHON ?= python3
ROOT ?= .local
USING ?=
SEED ?= 1
MINUTES ?= 10
EXAMPLES ?= 100
REPEATS ?= 3
SECONDS ?= 5
SYSTEMS ?=
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-bench

.DEFAULT_GOAL := help
.PHONY: help setup dev tools services stop run quickstart demo seed truncate test chaos soak fuzz mutants bench check format migrate lock plans definitions docs units clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Create .venv and install the locked dependencies
	@PYTHON='$(PYTHON)' GOALS='$(MAKECMDGOALS)' sh dev/environment.sh run

dev:
	@PYTHON='$(PYTHON)' GOALS='$(MAKECMDGOALS)' sh dev/environment.sh dev

tools: setup ## Install Chromium and promtool for the tests, unless they are installed
	@$(BIN)/python -m dev tools --root $(ROOT)

services: setup ## Find or start RabbitMQ, Postgres and Redis (USING=docker|packages to insist)
	@$(BIN)/python -m dev up --root $(ROOT) $(if $(USING),--using $(USING))

# Without .venv and data nothing runs. If only .venv is missing, `setup` creates it again, as services may still run.
STARTED := $(if $(wildcard $(VENV)/.run $(ROOT)/data),setup)

stop: $(STARTED) ## End the services that `make services` started (their data stays)
	@$(if $(STARTED),$(BIN)/python -m dev stop --root $(ROOT),echo "services  nothing to stop: none was started here")

migrate: services ## Bring the database's schema to this code's revision
	@$(BIN)/posthaste migrate

run: migrate ## Start everything, send one message, show it sent, stay in the foreground
	@$(BIN)/posthaste up --sandbox --first-message

quickstart: ## Run README's commands beside `make run`, as a new user does, and compare their output
	@$(PYTHON) -m tests.e2e.quick_start

demo: migrate ## Send 300 messages through a provider that fails, and account for every one
	@$(BIN)/python -m dev.demo

seed: migrate ## Append 1,000 random posts for the reports
	@$(BIN)/posthaste posts seed

truncate: migrate ## Delete all posts (asks)
	@$(BIN)/posthaste posts truncate

# The tests start hundreds of processes: each would compile the code anew.
test: export PYTHONDONTWRITEBYTECODE =
test: services dev tools ## Run all the tests on real services
	@$(BIN)/pytest -q -n 4 --dist loadfile --no-loadscope-reorder

chaos: dev ## The fault suite, about two minutes on servers of its own (SEED=n for another schedule)
	@$(BIN)/python -m tests.chaos --seed $(SEED) --seconds 75

soak: dev ## The same for long: MINUTES=10 SEED=7
	@$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES) --schedule

fuzz: services dev ## Try new examples of every property, and every route as the OpenAPI document says and does not (EXAMPLES=100 SEED=7)
	@$(BIN)/pytest -q -m hypothesis --hypothesis-profile=new --hypothesis-seed=$(SEED) tests/unit
	@$(BIN)/python -m tests.fuzz --examples $(EXAMPLES) --seed $(SEED)

mutants: services dev ## Plant bugs into the core and the SQL, one at a time; list those that no test notices (about half an hour)
	@$(BIN)/mutmut run --max-children 2
	@$(BIN)/mutmut results
	@$(BIN)/python -m tests.mutants

bench: $(if $(filter peers clients,$(ONLY)),$(PEERS)/.run,migrate) ## Measure: queues, reports, isolation, providers, waiting, watchers, overload, processor (ONLY=name); ONLY=peers and ONLY=clients compare
	@$(if $(filter clients,$(ONLY)),$(BIN)/python -m benchmarks.http_clients,$(if $(filter peers,$(ONLY)),$(BIN)/python -m benchmarks.peers --repeats $(REPEATS) --seconds $(SECONDS) --systems "$(SYSTEMS)",$(BIN)/python -m benchmarks $(ONLY)))

$(PEERS)/.run: benchmarks/requirements.lock | setup
	@echo "bench: installing Celery, Dramatiq, Taskiq, FastStream and Procrastinate, locked, into $(PEERS)"
	@rm -rf $(PEERS) && $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r benchmarks/requirements.lock
	@touch $@

plans: services dev ## Print Postgres' plans of the statements that run all the time
	@$(BIN)/pytest -q -s tests/integration/test_plans.py

check: dev ## Format, lint, types and import rules (changes nothing)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev ## Rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

definitions: setup ## Write infra/rabbitmq/definitions.json from the topology
	@$(BIN)/python -m infra.rabbitmq.topology > infra/rabbitmq/definitions.json

# verify looks up the installed command and some targets of systemd: a folder in place of / has them.
units: ## Check the units of infra/systemd (needs systemd-analyze, of the package systemd)
	@root=$$(mktemp -d) && trap 'rm -rf "$$root"' EXIT && folder="$$root/etc/systemd/system" && mkdir -p "$$folder" && \
	install -D /bin/true "$$root/opt/posthaste/venv/bin/posthaste" && cp -r infra/systemd/. "$$folder" && cd "$$folder" && \
	for name in sysinit shutdown network-online; do printf '[Unit]\nDescription=%s\n' $$name >$$name.target; done && \
	units="posthaste.target $$(echo posthaste-*.service | sed s/@/@1/g)" && \
	systemd-analyze verify --root="$$root" --man=no --recursive-errors=one $$units && echo "units: systemd-analyze accepts $$units"

docs: dev ## Write docs/configuration.md, docs/cli.md and .env.example from the code
	@$(BIN)/python -m tests.docs

lock: setup ## Resolve the dependencies anew (needs an index)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --group pyproject.toml:build --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dask --group pyproject.toml:build -c requirements.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements-dask.lock
	$(BIN)/uv pip compile pyproject.toml --group pyproject.toml:build --group pyproject.toml:dev -c requirements.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements-dev.lock
	$(BIN)/uv pip compile --group pyproject.toml:bench --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o benchmarks/requirements.lock

clean: $(STARTED) ## End the services, delete their data and .venv
	@$(if $(STARTED),$(BIN)/python -m dev clean --root $(ROOT))
	@rm -rf $(VENV) $(PEERS) build *.egg-info
