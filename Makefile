# `make help` lists every target. Each target sets up what it needs first: only Python 3.11-3.13 has to be there.
PYTHON ?= $(shell for v in 3.11 3.12 3.13; do p=$$(command -v python$$v) && $$p -c 'import ensurepip' 2>/dev/null && echo $$p && exit; done; command -v python3)
VENV := .venv
export OMP_WAIT_POLICY ?= PASSIVE  # threads that wait must not spin: with another busy process, they slow each other tenfold
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WANTED := -c constraints.txt -e '.[dev]'  # by uv, which takes half of pip's time

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all fuzz chaos study tables bench gpu bundle lint format golden clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with everything in it; nothing to do when it is up to date

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11-3.13 is needed, {sys.executable} is {v[0]}.{v[1]}; use make PYTHON=/path/to/python3.12 ...")'
	@echo "Setting up $(VENV) with $(PYTHON): PyTorch with CUDA is a download of some GB, a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@! $(BIN)/python -m pip config list | grep -E '\.(index-url|no-index)=' >/dev/null && \
	    $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt uv && \
	    $(BIN)/python -m uv pip install --python $(BIN)/python --compile-bytecode $(WANTED) || \
	    { echo "With pip: it has an index of its own, which uv would pass by, or uv failed"; $(BIN)/python -m pip install $(WANTED); }
	@touch $(READY)

demo: setup ## train a tiny SSD, attack it, defend it, compare: about 8 minutes on two CPU cores
	@$(BIN)/python -m src.demo

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test: setup ## run the tests but the slow ones, a process per core (no network needed): 5 to 7 minutes on two CPU cores
	@$(PYTEST) -m "not slow"

test-all: setup ## run all tests, as CI does: 15 minutes and more on two CPU cores
	@$(PYTEST)

study: setup ## train and evaluate all that a page of results stands on, resumable: STUDY=shapes (or another of conf/study), DATA=VOC
	@$(BIN)/python -m src.study study=$(or $(STUDY),shapes) $(if $(DATA),data_root=$(DATA))

tables: setup ## write the tables in README and docs again from the records in results/
	@$(BIN)/python -m robustdet.cli.tables

bench: setup ## measure the speed of this machine: about 9 minutes on two CPU cores; BENCH=--quick: one minute
	@$(BIN)/python -m benchmarks $(BENCH)

gpu: setup ## prove a GPU: equal results, speed, memory, a short training, 10 minutes; QUICK=1: 4; DATA=VOC: train on it
	@$(BIN)/python -m benchmarks.gpu $(if $(QUICK),--quick) $(if $(DATA),--data "$(DATA)") $(GPU)

bundle: setup ## one folder for a machine without a network: DATA=FOLDER WEIGHTS="FILE ..." PYTHON_VERSION=3.12 HAVE="torch ..."
	@$(BIN)/python -m bundle $(if $(DATA),--data "$(DATA)") $(if $(WEIGHTS),--weights $(WEIGHTS)) $(if $(HAVE),--have $(HAVE)) \
	    $(if $(PYTHON_VERSION),--python-version $(PYTHON_VERSION)) $(BUNDLE)

fuzz: setup ## read 10,000 damaged files of every kind; FUZZ="--inputs 500 record": fewer, of one kind
	@OMP_NUM_THREADS=1 PYTHONPATH=src:. $(BIN)/python -m tests.fuzz $(FUZZ)

chaos: setup ## kill, stop and starve 200 commands, and compare what they end with; CHAOS="--trials 20": fewer
	@OMP_NUM_THREADS=1 PYTHONPATH=src:. $(BIN)/python -m tests.chaos $(CHAOS)

lint: setup ## check style and types
	@$(BIN)/ruff check && $(BIN)/ruff format --check 
	@MYPYPATH=src:. $(BIN)/mypy src/robustdet benchmarks bundle  # the package, then its users

format: setup ## mend style where a tool can
	@$(BIN)/ruff check --fix && $(BIN)/ruff format

golden: setup ## rewrite the golden training curves after a deliberate change; review the diff
	@$(BIN)/python -m pytest tests/golden tests/contracts/test_adapters.py --rewrite-golden

clean: ## remove the environment and caches, never outputs or data
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
