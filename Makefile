# `make demo` edits a picture, `make studio` in the browser; `make test` checks everything. Each sets itself up: it needs Python 3.11 or newer, pip and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

# one pytest worker per core, each of one torch thread; every worker holds torch and the bundled model (about 1 GB)
WORKERS ?= auto
PYTEST  := $(BIN)/pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal

# pyright comes whole from its wheels: do not ask a server for a newer one
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help demo studio test lint slow-test gpu docs clean distclean

help:
	@echo "make demo       set up, draw a scene, edit it several ways, write demo/"
	@echo "make studio     set up, and edit in the browser"
	@echo "make test       set up, then lint, types, import rules and tests"
	@echo "make lint       lint, types and import rules only"
	@echo "make slow-test  the long tests, left out of make test"
	@echo "make gpu        the tests that need a GPU (benchmarks/gpu.py measures there)"
	@echo "make docs       build the documentation site into site/"
	@echo "make clean      remove caches and outputs (make distclean: $(VENV) too)"

demo: $(VENV)/.runtime
	$(BIN)/reinvert demo -o demo/

studio: $(VENV)/.studio
	$(BIN)/reinvert studio --open

test: lint
	$(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo

slow-test: $(VENV)/.dev
	REINVERT_SHAPES=all $(PYTEST) -m slow

gpu: $(VENV)/.dev
	$(BIN)/pytest -m gpu -rs

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python docs/check_links.py site

clean:
	rm -rf build dist site demo out .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf $(VENV)

# --- set-up: a stamp file per stage, so that nothing is installed twice ---------------------------------------------------

# A Python without ensurepip (Debian's, without python3-venv) lends the new environment its own pip.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "reinvert needs Python 3.11 or newer, which '$(PYTHON)' is not: name one, as in make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && \
	  $(PYTHON) -m pip --quiet --python $(BIN)/python install pip; }
	@touch $@

$(VENV)/.runtime: requirements.txt pyproject.toml | $(VENV)/.python
	@echo "installing reinvert into $(VENV), some minutes the first time"
	@$(PIP) install -r requirements.txt
	@$(PIP) install --no-deps -e .
	@touch $@

$(VENV)/.studio: requirements-studio.txt $(VENV)/.runtime
	@echo "installing the studio into $(VENV)"
	@$(PIP) install -r requirements-studio.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-studio.txt $(VENV)/.runtime
	@echo "installing the tools for tests into $(VENV)"
	@$(PIP) install -r requirements-dev.txt
	@touch $@

$(VENV)/.docs: requirements-docs.txt $(VENV)/.runtime
	@echo "installing the tools for the documentation into $(VENV)"
	@$(PIP) install -r requirements-docs.txt
	@touch $@
