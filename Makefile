# Every command of this project. `make` lists them.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
STATE ?= .local
UV_VERSION := 0.13.9
# A uv on PATH serves; without one the pinned one is installed under .local/.
UV ?= $(shell command -v uv || echo $(STATE)/uv/bin/uv)
VENV := .venv/bin
PYTEST := $(VENV)/pytest

# make dev
PREFECT_PORT ?= 4200
API_PORT ?= 8080
SOURCE_PORT ?= 8090
# make demo, make dev: another PostgreSQL server than the embedded one, by a role that may create databases
DATABASE_URL ?=

# make up, make down
CLUSTER ?= pipelines
NAMESPACE ?= pipelines
RELEASE ?= pipelines

export UV_PYTHON_DOWNLOADS := never
export CLUSTER NAMESPACE RELEASE DATABASE_URL

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 28

# -- the Python environment

.PHONY: python
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
	  echo "Python 3.11 or newer is needed, and \`$(PYTHON)\` is not one: install it, or name it: make PYTHON=/path/to/python3.13 …" >&2; exit 1; }

$(STATE)/uv/bin/uv: | python
	@$(PYTHON) -m venv $(STATE)/uv || { echo "Python's venv module is needed (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(STATE)/uv/bin/python -m pip install --quiet uv==$(UV_VERSION)

.PHONY: local-environment
local-environment: python | $(filter $(STATE)/uv/bin/uv,$(UV))
	@$(UV) sync --quiet --frozen --inexact --python $(PYTHON) --no-default-groups --group local

.PHONY: dev-environment
dev-environment: python | $(filter $(STATE)/uv/bin/uv,$(UV))
	@$(UV) sync --quiet --frozen --inexact --python $(PYTHON) --all-packages --no-default-groups --group local

# Compiled once for each lock: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each process that a test starts
# would do it anew, for seconds.
.PHONY: environment
environment: python | $(filter $(STATE)/uv/bin/uv,$(UV))
	@compile=--compile-bytecode; [ ! .venv/compiled -nt uv.lock ] || compile=; \
	$(UV) sync --quiet --frozen --python $(PYTHON) --all-packages $$compile && { [ -z "$$compile" ] || touch .venv/compiled; }

# -- without a cluster

.PHONY: demo
demo: local-environment ## one run of the daily ETL on real data, on this machine, without a cluster
	@$(VENV)/python -m local_platform demo --state $(STATE)

.PHONY: dev
dev: dev-environment ## the same platform, kept running: UI on port 4200, API on port 8080, until Ctrl-C
	@$(VENV)/python -m local_platform dev --state $(STATE) \
	  --prefect-port $(PREFECT_PORT) --api-port $(API_PORT) --source-port $(SOURCE_PORT)

# make new-pipeline: the name of yours. make bench: which benchmarks (all)
NAME ?=

.PHONY: new-pipeline
new-pipeline: python | $(filter $(STATE)/uv/bin/uv,$(UV)) ## a pipeline of your own that runs at once: make new-pipeline NAME=flight_times
	@$(PYTHON) templates/new_pipeline.py "$(NAME)"
	@# What the template imports is in the lock, so that usually no index has to be asked.
	@$(UV) lock --quiet --offline --python $(PYTHON) 2> /dev/null || $(UV) lock --quiet --python $(PYTHON)
	@$(MAKE) --no-print-directory environment
	@$(VENV)/ruff check --quiet --select I --fix flows/$(NAME) tests/unit/$(NAME)
	@$(VENV)/ruff format --quiet flows/$(NAME) tests/unit/$(NAME)

.PHONY: client
client: python | $(filter $(STATE)/uv/bin/uv,$(UV)) ## install the command pipelines for your user
	@$(UV) tool install --quiet --force --python $(PYTHON) ./services/client
	@echo "pipelines is in $$($(UV) tool dir --bin): pipelines --help"

.PHONY: doctor
doctor: local-environment ## what is wrong with `make dev`, or with the release in your context's cluster, and what mends it
	@$(VENV)/pipelines doctor $(ARGS)

# -- tests

.PHONY: test
test: lint test-unit test-processes test-browser test-chart test-integration ## everything: lint, unit, process, browser, chart and integration tests

.PHONY: test-unit
test-unit: environment ## unit tests, on an embedded PostgreSQL
	@$(PYTEST) --numprocesses 2 -m "not processes" tests/unit

.PHONY: test-processes
test-processes: environment ## flow runs, examples and the guides' commands as processes of their own, on a real Prefect server
	@$(PYTEST) --numprocesses 2 --dist loadfile -m processes tests/unit tests/processes

.PHONY: test-browser
test-browser: environment ## the page in Chromium, by mouse and by keys (skips without chromium; REQUIRE_BROWSER=1: fails)
	@$(PYTEST) tests/browser

.PHONY: screenshots
screenshots: environment ## the pictures of the page under docs/images, light and dark
	@SCREENSHOTS=1 REQUIRE_BROWSER=1 $(PYTEST) tests/browser -k screenshots

.PHONY: test-api
test-api: environment ## thousands of requests generated from the OpenAPI document, against the running API
	@$(PYTEST) tests/unit/orchestrator/test_generated.py

.PHONY: test-chart
test-chart: environment ## the chart, rendered by helm; its alerts, by promtool where that is installed
	@$(PYTEST) --numprocesses 2 tests/chart tests/alerts

.PHONY: check-chart
check-chart: environment ## kube-score and checkov on the rendered chart: nothing but what tests/chart/waivers.yaml explains
	@UV=$(UV) $(VENV)/python -m tests.chart check

# A checkout of github.com/PrefectHQ/prefect-helm with its dependencies under charts/*/charts
PREFECT_HELM ?=

.PHONY: checks-report
checks-report: environment ## write docs/checks.md, prefect-helm's findings beside ours: make checks-report PREFECT_HELM=/path
	@[ -n "$(PREFECT_HELM)" ] || { echo "name a checkout: make checks-report PREFECT_HELM=/path/to/prefect-helm" >&2; exit 2; }
	@UV=$(UV) $(VENV)/python -m tests.chart report "$(PREFECT_HELM)"

.PHONY: test-integration
test-integration: environment ## the whole platform on a kind cluster (ARGS=--keep-cluster keeps it)
	@$(PYTEST) $(addprefix tests/integration/,test_control.py test_doctor.py test_locked_down.py test_admission.py test_loop.py test_ui.py test_tilt.py) $(ARGS)

# Apart from `make test`: they wait for minutes, and a machine that is busy otherwise makes them late.
.PHONY: test-cluster
test-cluster: environment ## on the same cluster: what holds or stops runs, who may call, faults, credentials, upgrades, the profiles, no egress
	@$(PYTEST) $(addprefix tests/integration/,test_reasons.py test_recovery.py test_doors.py test_faults.py test_trial.py \
	  test_model.py test_rotation.py test_upgrade.py test_side_by_side.py test_ha.py test_restore.py test_air_gap.py) $(ARGS)

# make test-faults: which faults (all), which sides, how many runs each, which seed
FAULTS ?=
SIDES ?= ours stock
RUNS ?= 50
SEED ?= 1

.PHONY: faults-up
faults-up: ## a cluster to play faults on: the release, and stock Prefect beside it
	@VALUES="tests/faults/values.yaml $(VALUES)" k8s/up
	@tests/faults/stock/up

.PHONY: test-faults
test-faults: environment ## play faults on that cluster: make test-faults FAULTS="worker-sigkill eviction" SIDES=ours RUNS=50 SEED=1
	@$(VENV)/python -m tests.faults run --faults "$(FAULTS)" --sides "$(SIDES)" --runs $(RUNS) --seed $(SEED) $(ARGS)

.PHONY: faults-report
faults-report: environment ## write docs/faults, and its summary in the README, from the raw samples
	@$(VENV)/python -m tests.faults report

# make bench: with which seed, and on which kind cluster those that need one
BENCH_CLUSTER ?= bench

.PHONY: bench
bench: environment ## measure against rivals, then write docs/bench: make bench NAME=load SEED=1 (ARGS=--short: that it runs)
	@CLUSTER=$(BENCH_CLUSTER) UV=$(UV) $(VENV)/python -m tests.bench run --names "$(NAME)" --seed $(SEED) $(ARGS)

.PHONY: bench-report
bench-report: environment ## write docs/bench, its table and drawings, from the raw samples
	@$(VENV)/python -m tests.bench report $(ARGS)

.PHONY: lint
lint: environment ## ruff, mypy --strict, import contracts, helm lint --strict
	@$(VENV)/ruff check
	@$(VENV)/ruff format --check --quiet
	@$(VENV)/mypy
	@$(VENV)/lint-imports --no-logo
	@if command -v helm > /dev/null; then helm lint --strict --quiet charts/pipelines --values k8s/kind/values.yaml; \
	  else echo "helm lint skipped: helm is not installed"; fi

.PHONY: docs
docs: environment ## the documentation as a site under .local/site; a link that leads nowhere fails
	@NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs build --strict --site-dir $(STATE)/site
	@echo "$(STATE)/site/index.html; to read it while it is written: $(VENV)/mkdocs serve"

.PHONY: chart-reference
chart-reference: environment ## the reference of the chart's values, made from the comments in values.yaml
	@$(VENV)/python charts/reference.py

.PHONY: api-document
api-document: environment ## write down the HTTP API, with which a test compares every later one
	@$(VENV)/python -m tests.unit.orchestrator.compatibility

.PHONY: client-schemas
client-schemas: environment ## the JSON schemas of the command pipelines, made from its code
	@$(VENV)/pipelines help json > services/client/schemas.json.new
	@mv services/client/schemas.json.new services/client/schemas.json

.PHONY: troubleshooting
troubleshooting: environment ## docs/troubleshooting.md, made from the checks of `pipelines doctor`
	@$(VENV)/python -m pipelines_client.doctor.page > docs/troubleshooting.md.new
	@mv docs/troubleshooting.md.new docs/troubleshooting.md

.PHONY: format
format: environment ## rewrite the Python code as the linter wants it
	@$(VENV)/ruff check --fix --quiet
	@$(VENV)/ruff format --quiet

# -- images and cluster

.PHONY: images
images: ## build every image and print their sizes
	@images/build

.PHONY: push
push: ## push the images: make push REGISTRY=registry.example.com/team
	@images/push "$(REGISTRY)"

.PHONY: mirror
mirror: ## push every image of an installation, PostgreSQL's too: make mirror REGISTRY=registry.example.com/team
	@images/mirror "$(REGISTRY)"

.PHONY: sbom
sbom: environment ## what Python packages each image holds, as CycloneDX, under .local/sbom
	@UV=$(UV) $(VENV)/python images/sbom $(STATE)/sbom

.PHONY: up
up: ## cluster, images and chart on kind; ends with the commands that start a run
	@k8s/up

.PHONY: down
down: ## delete the kind cluster
	@k8s/down

.PHONY: clean
clean: ## remove the local platform's databases and logs, and the virtual environment
	@rm -rf $(STATE) .venv
