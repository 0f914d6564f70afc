# Short names for what is done often; ./test.sh does all the checks.

PYTHON := .venv/bin/python

.PHONY: help setup test fast lint format types layers complexity

help:
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

setup: ## make .venv, with what the exporter and the experiments need
	./run.sh --setup

test: ## all tests and checks, on each Python
	./test.sh

fast: ## only pytest, on Python 3.11
	./test.sh --fast

lint: ## ruff, shellcheck and the layers
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	shellcheck -x ./*.sh tools/*.sh experiments/*/*.sh .ci/run
	.venv/bin/lint-imports

format: ## put imports and layout in order
	$(PYTHON) -m ruff check --select I --fix
	$(PYTHON) -m ruff format

types: ## mypy, strict
	$(PYTHON) -m mypy

complexity: ## write complexity_report.json, print what is worst
	$(PYTHON) tools/complexity.py
