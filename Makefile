# `make demo` and `make test` set everything up themselves; `make help` lists the rest.

PYTHON  ?= python3
VENV    ?= .venv
# On Linux the default index serves a CUDA build of several GB. For the small one:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH   ?= torch==2.13.0
TESTS   ?= tests
WORKERS ?= 2

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types layers check bank clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# torch comes first and alone, so that pip takes the build asked for and nothing later replaces it.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "netgraft needs Python 3.11 or newer, and $(PYTHON) is %d.%d: run make with PYTHON=python3.12" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## train, evolve and report a small ResNet-20 on handwritten digits
	$(BIN)/netgraft demo

test: $(INSTALLED)  ## run the tests (TESTS=tests/test_zoo.py for some of them)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

lint: $(INSTALLED)  ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)  ## ruff: put right what can be put right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)  ## mypy, strict
	$(BIN)/mypy

layers: $(INSTALLED)  ## who may import whom
	$(BIN)/python -m pytest -q tests/test_layers.py

check: lint types test  ## everything a change must pass

NETGRAFT := $(BIN)/netgraft

bank: $(INSTALLED)  ## mine the shipped bank anew into build/ and compare: the same bytes come out (5 minutes)
	mkdir -p build
	$(NETGRAFT) bank mine 'zoo:*' --out build/zoo.bank
	$(NETGRAFT) bank mine 'family:nasbench201?count=4096' 'family:nasbench101?count=5000' 'family:hiaml?count=5000' \
	    'family:two_path?count=5000' 'family:inception?count=1000' --cuts 4 --at-least 8 --out build/families.bank
	$(NETGRAFT) bank merge build/zoo.bank build/families.bank --out build/default.bank
	cmp build/default.bank netgraft/segments/default.bank

clean:  ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
