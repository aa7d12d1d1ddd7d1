# Every target that needs it makes the virtual environment from the pinned lock first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
DATA_DIR ?= .carryout
MINUTES ?= 5
USERS ?= 300
SWAGGER_UI ?= 5.35.0
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.bench-installed
# Another PostgreSQL than the wheel's, for every target that starts one.
export POSTGRES_BIN ?=

.DEFAULT_GOAL := help
.PHONY: help demo run test browser proxies chaos load check bench bench-quick lock swagger-ui clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements/dev.lock pyproject.toml
	@echo "Making the virtual environment in $(VENV) (once; about a minute with cold downloads)"
	@$(PYTHON) -c 'import sys; sys.exit("Carryout needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## exports of a sample user, from an empty folder to files on disk
	@$(BIN)/carryout demo

run: $(STAMP) ## the same stack left running [PORT=8000] [DATA_DIR=.carryout]
	@exec $(BIN)/carryout dev --port $(PORT) --data-dir $(DATA_DIR)

test: $(STAMP) ## all tests, on the embedded servers [POSTGRES_BIN=/usr/lib/postgresql/15/bin]
	@$(BIN)/python -m pytest -n 3

browser: $(STAMP) ## the page in a real browser (needs chromium and chromium-driver)
	@$(BIN)/python -m pytest tests/browser

proxies: $(STAMP) ## documents cut behind a real nginx (needs nginx)
	@$(BIN)/python -m pytest tests/proxies

chaos: $(STAMP) ## random faults under load, then the oracle [SEED=n] [MINUTES=5] [USERS=300]
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) --minutes $(MINUTES) --users $(USERS)

load: $(STAMP) ## many and slow clients, resets, a million users; with the figures
	@$(BIN)/python -m pytest tests/load

check: $(STAMP) ## lint, format, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

$(BENCH_STAMP): $(STAMP) requirements/bench.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.lock
	@touch $@

bench: $(BENCH_STAMP) ## the measurements behind docs/benchmarks.md, against peers
	@$(BIN)/python -m bench

bench-quick: $(BENCH_STAMP) ## the same in a minute or two: fewer rounds, less data, nothing written
	@$(BIN)/python -m bench --quick

lock: ## resolve the dependencies again (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml -o requirements/runtime.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --all-extras --group dev pyproject.toml -o requirements/dev.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group bench -c requirements/dev.lock -o requirements/bench.lock

swagger-ui: ## fetch what shows the API at /docs again (needs npm, GNU tar) [SWAGGER_UI=5.35.0]
	@npm pack --silent --pack-destination "$${TMPDIR:-/tmp}" swagger-ui-dist@$(SWAGGER_UI)
	@tar -xzf "$${TMPDIR:-/tmp}/swagger-ui-dist-$(SWAGGER_UI).tgz" -C service/api/assets --strip-components=1 \
		--transform 's,LICENSE$$,swagger-ui.LICENSE,;s,NOTICE$$,swagger-ui.NOTICE,' package/swagger-ui-bundle.js \
		package/swagger-ui-bundle.js.LICENSE.txt package/swagger-ui.css package/LICENSE package/NOTICE

clean: ## remove what the other targets made
	rm -rf $(VENV) .carryout .carryout-demo .carryout-chaos .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
