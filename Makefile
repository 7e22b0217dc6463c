# Every target that needs Python makes the virtual environment first; it is made anew only when pyproject.toml or
# constraints.txt change. Variables to set on the command line:
#
#     PYTHON    the interpreter that makes the environment (3.10 or later)
#     VENV      where the environment is
#     PIP_ARGS  more arguments for pip, such as the index of a CPU build of torch

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The constraints are part of every call: an unpinned torch brings gigabytes of CUDA libraries.
PIP_INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
TORCH := $(shell grep -m1 '^torch==' constraints.txt)
PACKAGES := parallelize paraformer passes
CODE := $(wildcard $(PACKAGES) tests benchmarks examples)

MODEL := examples/fashion_vit

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo train test test-slow test-data lint format bench fetch clean

help: ## list the targets
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## make the virtual environment

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): this takes a few minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) $(TORCH)
	$(PIP_INSTALL) -e ".[dev]"
	@touch $@

demo: venv ## convert the shipped vision transformer and print the before/after table
	$(BIN)/parallelize convert $(MODEL)/vit12.pt --inputs $(MODEL)/calibration.npz \
		--test-inputs $(MODEL)/test.npz --labels labels --depth 3 --output out/demo --force

train: venv ## train the shipped model again (needs the Debian package dataset-fashion-mnist)
	$(BIN)/parallelize train --output runs/vit12.pt --depth 12 --width 64 --heads 4 --patch-size 4 --epochs 18

# A file's tests stay in one process, because they share what they capture. There is a process for each core, so one
# thread each: threads that wait for one another's core make some tests four times as long.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: venv ## run the tests, and tell which were slowest
	$(PYTEST) --durations=10

test-slow: venv ## run the tests that take minutes to hours
	$(PYTEST) --dist worksteal -m "slow and not data"

test-data: venv ## run the tests that need fetched files
	$(BIN)/python -m pytest -m data

lint: venv ## check rules, formatting and types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy --strict $(PACKAGES)

format: venv ## format the code and apply safe fixes
	$(BIN)/ruff check --fix-only $(CODE)
	$(BIN)/ruff format $(CODE)

bench: venv ## run every script in benchmarks/
	@for script in $(filter-out benchmarks/fetch.py,$(wildcard benchmarks/*.py)); do \
		echo "$$script"; \
		$(BIN)/python "$$script" || exit 1; \
	done

fetch: venv ## fetch the weights and data that benchmarks and examples of training need (520 MB)
	$(PIP_INSTALL) -e ".[bench]"
	$(BIN)/python benchmarks/fetch.py

clean: ## remove what was built, but not the environment and not runs/
	rm -rf out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CODE) -type d -name __pycache__ -prune -exec rm -rf {} +
