# Every target that needs it makes the virtual environment from the pinned lock first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
DATA_DIR ?= .carryout
ARGS ?=
MINUTES ?= 5
USERS ?= 300
SURROUNDINGS ?= pooler,standby,sentinels,virtual-hosts,provider
SWAGGER_UI ?= 5.35.0
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.bench-installed
PROVIDER := tests/browser/provider
PROVIDER_STAMP := $(PROVIDER)/node_modules/.installed
COMPAT_STAMP := $(VENV)/.compat-installed
# Another PostgreSQL than the wheel's, for every target that starts one.
export POSTGRES_BIN ?=
# Containers often set it; then each process of each run compiles all modules and tests again, for seconds.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help messages demo run test quick coverage browser proxies compat large chaos week load format check words bench bench-quick profile mutate lock swagger-ui clean

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

test: $(STAMP) ## all tests, or those of ARGS, on the embedded servers [ARGS="tests/documents -k csv"] [POSTGRES_BIN=…/15/bin]
	@$(BIN)/python -m pytest $(or $(ARGS),-n 5 --dist worksteal)

quick: $(STAMP) ## the tests that need no server but PostgreSQL, in a minute [ARGS="-k csv"]
	@$(BIN)/python -m pytest --quick -n 3 --dist worksteal $(ARGS)

coverage: $(STAMP) ## all tests, measured; fails below the floor in pyproject.toml
	@$(BIN)/python -m pytest -n 4 --dist worksteal --cov --cov-report=term:skip-covered

$(PROVIDER_STAMP): $(STAMP) requirements/browser.lock $(PROVIDER)/package-lock.json
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/browser.lock
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm ci --prefix $(PROVIDER) --ignore-scripts --no-audit --no-fund --silent
	@touch $@

browser: $(PROVIDER_STAMP) ## the page in a real browser (needs chromium, chromium-driver)
	@$(BIN)/python -m pytest tests/browser

proxies: $(STAMP) ## documents cut behind a real nginx (needs nginx)
	@$(BIN)/python -m pytest tests/proxies

$(COMPAT_STAMP): $(PROVIDER_STAMP) requirements/compat.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/compat.lock
	@touch $@

compat: $(COMPAT_STAMP) ## other people's servers: poolers, standbys, S3s, Postfix (needs root and Debian's packages: CONTRIBUTING.md)
	@$(BIN)/python -m pytest tests/compat tests/fleet --surroundings $(SURROUNDINGS) -n 2
	@$(BIN)/python -m pytest tests/documents/package -p tests.compat.data_packages -n 2

large: $(COMPAT_STAMP) ## a package of 4 GiB, lists of 1,000,000 rows, 10,000 events; with the figures (half an hour; 13 GiB of disk)
	@$(BIN)/python -m pytest tests/compat tests/client tests/webhooks -m large

chaos: $(STAMP) ## random faults under load, then the oracle [SEED=n] [MINUTES=5] [USERS=300]
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) --minutes $(MINUTES) --users $(USERS)

week: $(STAMP) ## a bad week on Debian's PostgreSQL 15 and nginx: outages, rotations, a restore (needs root, postgresql-15, nginx, faketime)
	@POSTGRES_BIN=$(or $(POSTGRES_BIN),/usr/lib/postgresql/15/bin) $(BIN)/python -m tests.week

load: $(STAMP) ## many and slow clients, resets, a million users; with the figures
	@$(BIN)/python -m pytest tests/load

format: $(STAMP) ## format the code, and mend what the linter can
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

check: $(STAMP) ## lint, format, types, import rules, spelling, words, the migrations' locks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/codespell
	@$(BIN)/python -m tests.support.words
	@$(BIN)/squawk sql/migrations/*.sql

messages: $(STAMP) ## collect the messages for users from the source, into the catalogue of each language, and compile them
	@for domain in service scripts client; do \
		case $$domain in client) folders=client;; *) folders="languages service";; esac; \
		$(BIN)/pybabel --quiet extract -F languages/$$domain.ini -k to_translate --add-location=file -o $(VENV)/$$domain.pot $$folders && \
		$(BIN)/pybabel --quiet update -D $$domain -i $(VENV)/$$domain.pot -d languages/locales --width=120 --no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date && \
		$(BIN)/pybabel --quiet compile -D $$domain -d languages/locales || exit; \
	done

words: $(STAMP) ## every word and sentence that the word list counts
	@$(BIN)/python -m tests.support.words --list

mutate: $(STAMP) ## change links, keys, csv, orders; see their tests fail [ARGS="links --most 40 --seed 1"]
	@$(BIN)/python -m tests.mutate $(ARGS)

$(BENCH_STAMP): $(STAMP) requirements/bench.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.lock
	@touch $@

bench: $(BENCH_STAMP) ## the measurements behind docs/benchmarks.md, against peers
	@$(BIN)/python -m bench

bench-quick: $(BENCH_STAMP) ## the same in a minute or two: fewer rounds, less data, nothing written
	@$(BIN)/python -m bench --quick

profile: $(BENCH_STAMP) ## where the CPU goes while a document streams: docs/row.md [ARGS="--format json --seconds 20"]
	@$(BIN)/python -m bench.profile $(ARGS)

lock: ## resolve the dependencies again (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml -o requirements/runtime.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --all-extras --group dev pyproject.toml -o requirements/dev.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group bench -c requirements/dev.lock -o requirements/bench.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group browser -c requirements/dev.lock -o requirements/browser.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group compat -c requirements/dev.lock -c requirements/browser.lock -o requirements/compat.lock

swagger-ui: ## fetch what shows the API at /docs again (needs npm, GNU tar) [SWAGGER_UI=5.35.0]
	@npm pack --silent --pack-destination "$${TMPDIR:-/tmp}" swagger-ui-dist@$(SWAGGER_UI)
	@tar -xzf "$${TMPDIR:-/tmp}/swagger-ui-dist-$(SWAGGER_UI).tgz" -C service/api/assets --strip-components=1 \
		--transform 's,LICENSE$$,swagger-ui.LICENSE,;s,NOTICE$$,swagger-ui.NOTICE,' package/swagger-ui-bundle.js \
		package/swagger-ui-bundle.js.LICENSE.txt package/swagger-ui.css package/LICENSE package/NOTICE

clean: ## remove what the other targets made
	rm -rf $(VENV) .venv-* .coverage* .carryout .carryout-demo .carryout-chaos .carryout-week .mypy_cache .ruff_cache .pytest_cache .import_linter_cache $(PROVIDER)/node_modules
