# Everything a developer or CI runs. `make demo` and `make test` install what they need into .venv, without root.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_OUTPUT ?= runs/countdown-tiny

.PHONY: help install demo test test-cluster unit lint format crd cluster cluster-down e2e determinism bench bench-operator clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

install: $(INSTALLED) ## a virtual environment in .venv with exact versions

$(INSTALLED): pyproject.toml constraints/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints/dev.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED) ## fine-tune the tiny model with ES: examples/countdown-tiny.yaml, 2 workers
	$(BIN)/esft run examples/countdown-tiny.yaml --workers 2 --output $(DEMO_OUTPUT)

test: $(INSTALLED) ## unit and integration tests: real Redis, real torch
	$(BIN)/pytest tests/unit tests/integration --numprocesses 2 --dist loadscope --no-loadscope-reorder --durations 12

test-cluster: $(INSTALLED) ## the operator, the CRD and the chart against a real API server (Go compiles it once)
	$(BIN)/pytest tests/cluster --numprocesses 2 --dist loadscope --no-loadscope-reorder --durations 12

unit: $(INSTALLED) ## the tests that take milliseconds
	$(BIN)/pytest tests/unit

lint: $(INSTALLED) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --verbose

format: $(INSTALLED) ## apply ruff's formatting and fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

crd: $(INSTALLED) ## the CRD, its page and the install bundle, from the models
	$(BIN)/python hack/crd.py
	$(BIN)/python hack/spec_table.py > docs/spec.md
	$(BIN)/python hack/render_manifests.py

cluster: ## a Kubernetes cluster on this machine; as root with a node (hack/cluster/README.md)
	hack/cluster/up

cluster-down: ## stop it; runs/cluster keeps what it knew
	hack/cluster/down

e2e: $(INSTALLED) ## as root: real pods in a real cluster, disturbed in every way; 6 to 12 minutes
	$(BIN)/pytest tests/e2e -v --numprocesses 2 --dist worksteal

determinism: $(INSTALLED) ## the same digest however many workers there are and die
	$(BIN)/python hack/determinism.py

bench: $(INSTALLED) ## speed against the plain loop; rows in runs/bench.json
	$(BIN)/python bench/noise.py
	$(BIN)/python bench/rollout.py
	$(BIN)/python bench/generation.py
	$(BIN)/python bench/late_join.py
	$(BIN)/python bench/run.py
	$(BIN)/python bench/rows.py

bench-operator: $(INSTALLED) ## the operator with 200 runs at once; rows in runs/bench.json
	PYTHONPATH=tests:tests/support:hack $(BIN)/python bench/operator_load.py

clean: ## remove the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
