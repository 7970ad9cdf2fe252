# Every target does its own set-up. Needs Python 3.11 or newer and git; no root, no Docker.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NODE := tests/supabase/node_modules/.installed
# Beside the trips, whose model is the migration that comes with the library: each module of
# mappings/ has an example of its name.
MODELS := $(filter-out __init__ trips,$(basename $(notdir $(wildcard mappings/*.py))))

.PHONY: help setup demo dev test test-fast bench bench-quick lint format lock model clean

help: ## List the targets.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(INSTALLED) ## Make the virtual environment.

# The environment is built beside its final stamp, so an interrupted install is done again.
$(INSTALLED): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which with: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	touch $@

# The stand-in for Supabase's API, its client and its CLI. Node comes from the virtual environment
# where the machine has none.
$(NODE): tests/supabase/package-lock.json $(INSTALLED)
	cd tests/supabase && PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --ignore-scripts --no-update-notifier
	touch $@

demo: $(INSTALLED) ## Play the example's story on real servers.
	$(BIN)/mirror demo

dev: $(INSTALLED) ## Run the same servers until Ctrl-C.
	$(BIN)/mirror dev

test: $(INSTALLED) $(NODE) ## Run every test.
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-fast: $(INSTALLED) ## Run what answers within half a minute.
	$(BIN)/pytest tests/unit tests/integration/test_main_job.py

# What `make bench` takes: PARTS="throughput latency" instead of all of them, and AGAINST=REV to
# compare them with that commit, each run RUNS times.
AGAINST :=
RUNS := 5
COMPARED := $(if $(AGAINST),--against $(AGAINST) --runs $(RUNS))
BENCHMARKS = $(BIN)/python -m benchmarks $(PARTS) $(COMPARED)

bench: $(INSTALLED) $(NODE) ## Measure PARTS, or all in half an hour; compare with AGAINST=REV.
	$(BENCHMARKS) --keep benchmarks/figures.jsonl $(if $(AGAINST),,--json benchmarks/last.json)

bench-quick: $(INSTALLED) $(NODE) ## Find out whether the benchmarks run.
	$(BENCHMARKS) --quick

lint: $(INSTALLED) ## Check style, types and the direction of imports.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

model: $(INSTALLED) ## Print each permission model, and its guards, into their checked-in files.
	MIRROR_MAPPINGS=mappings.trips $(BIN)/mirror ddl supabase > migrations/supabase/0002_trips.sql
	MIRROR_MAPPINGS=mappings.trips $(BIN)/mirror ddl supabase --guards > examples/trip_chat/guards.sql
	@set -e; for model in $(MODELS); do \
	  export MIRROR_MAPPINGS=mappings.$$model; echo "$$MIRROR_MAPPINGS into examples/$$model"; \
	  $(BIN)/mirror ddl supabase > examples/$$model/mirror.sql; \
	  $(BIN)/mirror ddl supabase --guards > examples/$$model/guards.sql; \
	done

lock: ## Pin the requirements anew, with hashes (needs uv).
	uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header \
	  --upgrade --output-file requirements/dev.txt

clean: ## Remove what the targets made.
	rm -rf $(VENV) tests/supabase/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
