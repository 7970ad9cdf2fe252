# Every target does its own set-up. Needs Python 3.11 or newer; no root, no Docker, no compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A step's stamp is touched when the step is done. The steps: uv, the demo's packages, all packages.
INSTALLER := $(VENV)/.installer
DEMO := $(VENV)/.demo
INSTALLED := $(VENV)/.installed
NODE := tests/supabase/node_modules/.installed
AXE := tests/browser/node_modules/.installed
# Downloads each time, and takes two minutes.
SETUP := tests/acceptance/test_setup.py

# uv ignores a user's configuration files and these variables: they are meant for other projects.
# The machine decides on the index and the certificates: pip's index, or UV_DEFAULT_INDEX.
export UV_NO_CONFIG := 1
UV_SYSTEM_CERTS ?= 1
export UV_SYSTEM_CERTS
unexport UV_CONSTRAINT UV_EXCLUDE_NEWER UV_OVERRIDE UV_REQUIRE_HASHES UV_WORKING_DIR
UV = UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX-$${PIP_INDEX_URL-$$($(BIN)/python -m pip config get \
  global.index-url 2>/dev/null)}}" $(BIN)/uv --quiet

# For every platform and Python, and with the extras, without which older pips refuse a pin.
LOCK = $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras \
  --no-emit-index-url --no-annotate --no-header $(UPGRADE)

.PHONY: help setup setup-demo demo dev test test-fast test-long test-browser test-setup test-versions \
  test-postgres chaos audit bench bench-quick lint format lock model clean

help: ## List the targets.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(INSTALLED) ## Make the virtual environment.

setup-demo: $(DEMO) ## Make it with what `demo` and `dev` need, and no more.

# Any pip can install uv: one wheel, pinned, with its hash, that needs no other.
$(INSTALLER): requirements/uv.txt $(BIN)/python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which with: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip; ensurepip.version()' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments;" \
	  "on Debian and Ubuntu: apt install $(notdir $(PYTHON))-venv" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install --no-user --no-deps \
	  --no-compile --only-binary :all: --require-hashes --requirement requirements/uv.txt
	@touch $@

# Has no recipe: if the interpreter is gone, this makes the installer's stamp out of date.
$(BIN)/python:

# $(call install,OPTIONS) installs what is pinned, and this checkout. It resolves nothing, so later
# releases do not matter, and builds nothing, so no compiler is needed. If it is killed, the
# installer's stamp is gone, and the next run begins with an empty environment.
define install
@mv $(INSTALLER) $(INSTALLER)-busy
@$(UV) pip $(1) --python $(BIN)/python --no-build --require-hashes && \
  $(BIN)/uv --quiet pip install --python $(BIN)/python --no-deps --no-build-isolation \
  --editable .; \
  code=$$?; mv $(INSTALLER)-busy $(INSTALLER); exit $$code
endef

$(DEMO): requirements/demo.txt pyproject.toml $(INSTALLER)
	@echo "Installing what the demo needs (100 MB, once)"
	$(call install,install --no-deps --requirement requirements/demo.txt)
	@touch $@

# `sync` also removes each package that is not pinned any more.
$(INSTALLED): requirements/dev.txt $(DEMO)
	@echo "Installing what the tests need"
	$(call install,sync --compile-bytecode requirements/uv.txt requirements/dev.txt)
	@touch $@

# The stand-in for Supabase's API, its client and its CLI. Node comes from the virtual environment
# where the machine has none.
tests/%/node_modules/.installed: tests/%/package-lock.json $(INSTALLED)
	cd $(dir $<) && PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --ignore-scripts --no-update-notifier
	touch $@

demo: $(DEMO) ## Play the example's story on real servers.
	$(BIN)/mirror demo

dev: $(DEMO) ## Run the same servers until Ctrl-C.
	$(BIN)/mirror dev

# Three processes also on two cores, because many tests wait. In the order of the folders: the long
# files are in the first, and the last ones end together.
PARALLEL := --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED) $(NODE) ## Run every test, except the long ones and those of test-browser, test-setup, chaos.
	$(BIN)/pytest $(PARALLEL) --ignore $(SETUP) --ignore tests/browser --ignore tests/chaos

test-browser: $(INSTALLED) $(AXE) ## Look at the page in Chromium, which this machine has to have.
	$(BIN)/pytest tests/browser

test-long: $(INSTALLED) $(NODE) ## Run what `test` leaves out: longer searches, wheel, site; or TESTS=FILES.
	$(BIN)/pytest -m long $(PARALLEL) $(TESTS)
	$(if $(TESTS),,$(BIN)/pytest --hypothesis-profile long tests/unit/test_logs.py tests/unit/test_urls.py)

test-setup: $(INSTALLED) ## Install the lock into empty environments with the oldest and the newest pip.
	$(BIN)/pytest $(SETUP)

# Two processes, because these tests do not wait.
test-fast: $(INSTALLED) ## Run the unit tests and the main job, in half a minute; or also TESTS=FILES.
	$(BIN)/pytest $(PARALLEL) --numprocesses 2 tests/unit tests/integration/test_main_job.py $(TESTS)

test-versions: ## Run test-fast on each supported Python that this machine has; or VERSIONS=3.13.
	@$(PYTHON) tests/versions.py $(VERSIONS)

test-postgres: $(INSTALLED) $(NODE) ## Run what PostgreSQL's version decides on 14 to 18; or PRIMARY=14 TARGET=15.
	$(BIN)/python -m tests.matrix $(PRIMARY:%=--primary=%) $(TARGET:%=--target=%) $(TESTS)

# What `make chaos` takes: the seed of a run that is to be repeated, its time with faults, and
# TRANSPORT=postgres or rest; without it, odd seeds use REST.
SEED :=
SECONDS := 60
TRANSPORT :=

chaos: $(INSTALLED) $(NODE) ## Write at random while workers, servers and links break; SEED=1 SECONDS=60.
	$(BIN)/pytest tests/chaos
	$(BIN)/python -m tests.chaos $(SEED:%=--seed=%) --seconds=$(SECONDS) $(TRANSPORT:%=--transport=%)

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

lint: $(INSTALLED) ## Check style, types, the direction of imports, spelling and prose.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/validate-pyproject pyproject.toml
	$(BIN)/codespell
	$(BIN)/python tests/prose.py

# A package that the database of vulnerabilities cannot be asked about counts as a fault, too.
audit: $(INSTALLED) $(NODE) ## Ask whether a pinned package has a known vulnerability; needs the network.
	@$(BIN)/uv tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes --progress-spinner off \
	  --requirement requirements/dev.txt || { echo "The packages of Python were not audited, or one" \
	  "is vulnerable; the lines above say which. No network?" >&2; exit 1; }
	@cd tests/supabase && PATH="$$PATH:$(CURDIR)/$(BIN)" npm audit --no-update-notifier || \
	  { echo "The packages of Node were not audited, or one is vulnerable; the lines above say" \
	  "which. No network?" >&2; exit 1; }

.PHONY: docs
docs: $(INSTALLED) ## Build the documentation's site into docs/_build; a warning is an error.
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet --conf-dir docs . docs/_build
	@echo "docs/_build/index.html"

format: $(INSTALLED) ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

model: $(INSTALLED) ## Print the trips model and its guards into their golden files.
	MIRROR_MAPPINGS=mappings.trips $(BIN)/mirror ddl supabase > migrations/supabase/0002_trips.sql
	MIRROR_MAPPINGS=mappings.trips $(BIN)/mirror ddl supabase --guards > examples/trip_chat/guards.sql

lock: $(INSTALLER) ## Pin what pyproject.toml asks for; UPGRADE=--upgrade moves every pin.
	@$(LOCK) pyproject.toml --extra embedded --extra serve --group dev --constraint requirements/constraints.txt \
	  --output-file requirements/dev.txt
	@$(LOCK) pyproject.toml --extra embedded --group editable --constraint requirements/dev.txt \
	  --output-file requirements/demo.txt
	@$(if $(UPGRADE),echo uv | $(LOCK) - --output-file requirements/uv.txt)

clean: ## Remove what the targets made.
	rm -rf $(VENV) .venvs docs/_build tests/*/node_modules .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis
