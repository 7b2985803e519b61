# `make` lists the commands; docs/install.md says more about each.
PYTHON ?= python3
TORCH_INDEX ?=
TEST_WORKERS ?= 2
ARGS ?=

PY := .venv/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check -c constraints.txt
# The interpreter that has to be of a supported version: the one of .venv once that exists.
BASE = $(if $(wildcard $(PY)),$(PY),$(PYTHON))
# Holds the folder it was installed for: a copied or moved checkout must not go on importing the original.
STAMP := .venv/.installed
# What builds the site has an environment of its own: no package of it is needed to train.
DOCS_PY := .venv-docs/bin/python
DOCS_STAMP := .venv-docs/.installed

# Idle OpenMP threads spin for tens of microseconds, then sleep: long enough for the next small kernel of the same update,
# short enough for whatever else needs the cores. Sleeping at once (OMP_WAIT_POLICY=PASSIVE) doubles an update's time.
export GOMP_SPINCOUNT ?= 20000

.PHONY: help setup train test test-fast lint format docs doctor gpu-check clean FORCE

help:
	@echo 'make setup                 build .venv with the pinned versions (PYTHON=python3.12, TORCH_INDEX=<url>)'
	@echo 'make train ARGS="..."      set up, then scripts/train.py, e.g. ARGS="env.task=walker_walk planner=cem"'
	@echo 'make test ARGS="..."       set up, then pytest, e.g. ARGS="-k replay"'
	@echo 'make test-fast             the same without what trains, starts processes or is heavy: a minute and a half'
	@echo 'make doctor                set up, then say whether this machine can draw and train, and what is missing'
	@echo 'make gpu-check             set up, then check a GPU for ten minutes, e.g. ARGS="minutes=5 to=check"'
	@echo 'make lint, make format     set up, then check or rewrite the code with ruff'
	@echo 'make docs                  build the documentation into site/; a dead link is an error'
	@echo 'make clean                 delete .venv, .venv-docs, site/ and caches; runs are kept'

define supported
@command -v $(BASE) >/dev/null || { \
	  echo "error: there is no $(BASE); install Python 3.11 or 3.12 and run \`make setup PYTHON=python3.12\`." >&2; exit 1; }
	@$(BASE) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || { \
	  echo "error: $(BASE) is `$(BASE) --version 2>&1`, but worldmodels needs 3.11 or 3.12;" \
	    "run \`make clean && make setup PYTHON=python3.12\`." >&2; exit 1; }
endef

define environment
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1) || { rm -rf $(1); \
	  echo "error: $(PYTHON) could not build $(1); on Debian or Ubuntu run \`sudo apt-get install -y python3-venv\`." >&2; exit 1; }
endef

setup: $(STAMP)
	@:

ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
endif
$(STAMP): pyproject.toml constraints.txt
	$(supported)
	$(call environment,.venv)
	@echo 'Installing PyTorch into .venv ...'
	@$(PIP) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
	@echo 'Installing the other packages into .venv ...'
	@$(PIP) -q -e '.[dev]'
	@echo '$(CURDIR)' > $@
	@echo 'Installed.'

train: setup
	@$(PY) scripts/train.py $(ARGS)

# One thread in each worker, so that workers do not wait for each other's cores.
test: export OMP_NUM_THREADS ?= 1
test: setup
	@$(PY) -m pytest -n $(TEST_WORKERS) --dist worksteal $(ARGS)

# tests/conftest.py fails what would start a process here unmarked.
test-fast: export OMP_NUM_THREADS ?= 1
test-fast: setup
	@$(PY) -m pytest -n $(TEST_WORKERS) --dist worksteal -m 'not (learns or process or heavy)' $(ARGS)

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: setup
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

docs: $(DOCS_STAMP)
	@NO_MKDOCS_2_WARNING=1 $(DOCS_PY) -m mkdocs build --strict

$(DOCS_STAMP): docs/site/requirements.txt
	$(supported)
	$(call environment,.venv-docs)
	@echo 'Installing what builds the documentation into .venv-docs ...'
	@$(DOCS_PY) -m pip install --disable-pip-version-check -q --no-deps -r $<
	@$(DOCS_PY) -m pip check --disable-pip-version-check
	@touch $@

doctor: setup
	@$(PY) scripts/doctor.py

gpu-check: setup
	@$(PY) scripts/gpu_check.py $(ARGS)

clean:
	@rm -rf .venv .venv-docs site .hypothesis .pytest_cache .ruff_cache build dist *.egg-info MUJOCO_LOG.TXT
	@find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
