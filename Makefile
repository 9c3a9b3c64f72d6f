# make quickstart: a small language model learns from a reward, in minutes, without network.
# make test:       all tests.
# make check:      format, lint, types and the fast tests, as before every commit.
# make docs:       the site of the documents, in site/; a broken link fails.

PYTHON ?= python3
VENV ?= .venv
# The PyTorch to install: the one that the tests run on. make TORCH=torch quickstart takes the newest, with CUDA.
TORCH ?= -c constraints.txt torch
# Seconds of CPU that the fast tests may take. They take less than half of it on a laptop's core; CI's runners are
# slower, and by no fixed factor. Unlike a test that asserts a time, this fails only when tests were added or grew.
CPU_BUDGET ?= 120

# Processes that share the tests out, file by file.
WORKERS ?= 2

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: quickstart test check format docs clean

quickstart: $(INSTALLED)
	$(BIN)/trl-nlpo run recipes/quickstart.yaml --overwrite

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --durations 40

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not slow" --cpu-budget $(CPU_BUDGET)

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED)
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) .nox .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site

# PyTorch first: what the other packages would bring is another build of it.
$(INSTALLED):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@
