# Everything that one does with a checkout. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := $(CURDIR)/.venv
PYTHON := $(VENV)/bin/python
# The stack and the lab make namespaces, bridges and cgroups, so they run as root.
KEPT := DATABASE_URL,PREFECT_API_URL,INNKEEPER_HOME,INNKEEPER_CACHE,INNKEEPER_ACCELERATOR
KEPT := $(KEPT),INNKEEPER_POSTGRES_PORT,INNKEEPER_PREFECT_PORT,INNKEEPER_API_PORT
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo -H --preserve-env=$(KEPT) PYTHONPYCACHEPREFIX=/var/cache/innkeeper/pycache)
INNKEEPER := $(AS_ROOT) $(PYTHON) -m innkeeper.cli
PYTEST_ARGS ?=

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo up down
demo: setup ## from a bare machine to a server that one can log in to
	@$(INNKEEPER) demo

up: setup ## start the stack on loopback: PostgreSQL, Prefect, worker, API, listener
	@$(INNKEEPER) stack up

down: ## stop the stack and the lab, and leave nothing behind
	@if [ -x $(PYTHON) ]; then $(INNKEEPER) stack down; else echo "nothing is set up"; fi

.PHONY: setup setup-dev packages terraform
setup: packages ## packages, Python environment, Terraform with the libvirt provider
	@setup/venv.sh
	@$(MAKE) terraform

setup-dev: packages
	@setup/venv.sh dev
	@$(MAKE) terraform

packages:
	@setup/packages.sh

terraform:
	@$(AS_ROOT) $(PYTHON) -m innkeeper.stack.terraform

.PHONY: test lint format types contracts unit pytest
test: setup-dev lint types contracts pytest ## set up, then every check and every test

lint: ## ruff, rules and format
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m ruff format --quiet --check .
	@echo "  lint       clean"

format: ## rewrite the files as the formatter wants them
	@$(PYTHON) -m ruff check --quiet --fix . || true
	@$(PYTHON) -m ruff format .

types: ## mypy, strict
	@$(PYTHON) -m mypy --no-error-summary
	@echo "  types      clean"

contracts: ## the layers, by import-linter
	@$(VENV)/bin/lint-imports --no-logo >/dev/null || { $(VENV)/bin/lint-imports --no-logo; exit 1; }
	@echo "  contracts  kept"

unit: ## the fast tests only
	@$(PYTHON) -m pytest -q tests/unit $(PYTEST_ARGS)

pytest:
	@$(AS_ROOT) $(PYTHON) -m pytest -q -n 3 --no-loadscope-reorder $(PYTEST_ARGS)

.PHONY: bench lock clean
bench: setup ## measure; see docs/benchmarks.md
	@$(INNKEEPER) stack up
	@$(AS_ROOT) $(PYTHON) -m benchmarks

lock: ## resolve requirements.in again, with hashes
	@setup/lock.sh

clean: down ## stop everything and remove what was built in the checkout
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
