# The one door. `make help` lists what it opens; every target sets up what it needs by itself.

.DEFAULT_GOAL := help
.PHONY: help setup set-up-test set-up-bench test servers check lint types docs docs-serve snippets bench demo demo-state sim soak promises coverage lock format clean
MAKEFLAGS += --no-print-directory

PY := .venv/bin/python
TESTS ?= tests --ignore=tests/docs
PYTEST_ARGS ?=
WORKERS ?= 4
QUICK := $(if $(CI)$(ALL),,-m "not long")
export PYTHON
unexport PYTHONDONTWRITEBYTECODE  # images set it; hundreds of processes would each compile everything anew

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Make .venv with everything that is pinned (PYTHON=… names the interpreter); quick when done already
	@scripts/setup check

set-up-test:
	@scripts/setup test

set-up-bench:
	@scripts/setup bench

test: set-up-test ## Run the tests, four at a time (ALL=1: the long ones too; WORKERS=0: one by one; TESTS=tests/journal PYTEST_ARGS=-x)
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(QUICK) $(TESTS) $(PYTEST_ARGS)

servers: set-up-test ## Install the real brokers, and the PostgreSQL, that tests start and stop; without them those tests are skipped (SERVERS=nats)
	@$(PY) -m eventspine.cli servers install $(SERVERS)

check: lint types docs snippets ## Lint, formatting, types, the docs' build and every snippet in them

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: setup
	@$(PY) -m mypy
	@if [ -d tests/typing ]; then $(PY) -m mypy tests/typing && $(PY) -m pyright; fi

docs: setup ## Build the documentation into site/, strictly
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

docs-serve: setup
	@$(PY) -m mkdocs serve

snippets: set-up-test ## Run every snippet of README.md and docs/
	@$(PY) -m pytest tests/docs -q

bench: set-up-bench ## Measure, each figure beside its raw twin (BROKER=nats: at a broker)
	@$(PY) -m bench $(if $(BROKER),--broker $(BROKER)) $(BENCH)

demo: set-up-test ## A shop of four services on real orders, some of them killed (BROKER=nats JOURNAL=postgres ORDERS=orders.csv REPORT=report.json)
	@$(PY) -m examples.shop $(if $(BROKER),--broker $(BROKER)) $(if $(JOURNAL),--journal $(JOURNAL)) $(if $(ORDERS),--orders "$(ORDERS)") $(if $(REPORT),--report "$(REPORT)")

demo-state: set-up-test ## The same orders in a ledger: double entry, accounts as aggregates, views, a rebuild under way, and the past, all checked (JOURNAL=postgres)
	@$(PY) -m examples.ledger $(if $(JOURNAL),--journal $(JOURNAL))

sim: set-up-test ## Run simulated histories of a shop, with crashes and worse (SEED=17 HISTORIES=300, or MINUTES=1)
	@$(PY) -m tests.simulate $(if $(SEED),--seed $(SEED)) $(if $(HISTORIES),--histories $(HISTORIES)) $(if $(MINUTES),--minutes $(MINUTES))

soak: set-up-test ## Minutes of load with random kills, then an exact reckoning (MINUTES=10 SEED=17)
	@$(PY) -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

promises: set-up-test ## Make the table of docs/why/promises.md, and of `spine doctor`, anew from the tests' marks
	@$(PY) -m tests.promises

coverage: set-up-test ## Run the tests and say which lines and branches they never take
	@$(PY) -m coverage erase
	@$(PY) -m coverage run -m pytest $(TESTS) $(PYTEST_ARGS)
	@$(PY) -m coverage combine --quiet
	@$(PY) -m coverage report

format: setup ## Let ruff format the code and mend what it can
	@$(PY) -m ruff check --fix --quiet . ; $(PY) -m ruff format .

lock: setup ## Compile requirements/*.txt anew from pyproject.toml
	@compile() { \
	  $(PY) -m uv pip compile --quiet --no-config --upgrade --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$$@"; }; \
	for set in test check bench; do \
	  compile --all-extras --group $$set pyproject.toml -o requirements/$$set.txt || exit 1; \
	done; \
	echo pip | compile - -o requirements/pip.txt
	@if grep -nE '://|^-|(^|[^\\])/[a-z]' requirements/*.txt; then \
	  echo "lock: the lines above carry a host or a path of this machine; take them out" >&2; exit 1; fi

clean: ## Remove .venv and all that is built or cached
	rm -rf .venv site build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
