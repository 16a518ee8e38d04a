# Everything here runs in .venv, which is made on first use and again when the dependencies change.

.POSIX:
.SUFFIXES:
.DELETE_ON_ERROR:

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
# Wheels only: nothing is compiled. Versions are those of constraints.txt.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
	--constraint constraints.txt --editable
DEPENDENCIES = pyproject.toml constraints.txt

help: ## show this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/run.stamp ## run the bank here: PostgreSQL, migrations, HTTP on PORT (8000); Ctrl-C stops it
	@exec $(BIN)/pgteller serve

test: $(VENV)/dev.stamp ## run the tests on a throw-away PostgreSQL; ARGS="-k import -x" goes to pytest
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/dev.stamp ## lint, strict types, SQL lint, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint sql migrations
	$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/bench.stamp ## measure ours and its peers in 6 minutes, see benchmarks/README.md; ARGS="--only http"
	$(BIN)/python -m benchmarks.run $(ARGS)

bench-full: $(VENV)/bench.stamp ## the same with every workload, and growth to 20 million transfers: 45 minutes
	$(BIN)/python -m benchmarks.run --full $(ARGS)

docs: $(VENV)/dev.stamp ## write the generated documentation anew
	$(BIN)/python -m service.docs

# The stamps are newer than what they were made from, so an unchanged checkout costs nothing.
$(VENV)/run.stamp: $(VENV)/python.stamp $(DEPENDENCIES)
	@echo "Installing into $(VENV)"
	@$(PIP_INSTALL) .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/python.stamp $(DEPENDENCIES)
	@echo "Installing into $(VENV), with what development needs"
	@$(PIP_INSTALL) '.[dev]'
	@touch $@ $(VENV)/run.stamp

$(VENV)/bench.stamp: $(VENV)/python.stamp $(DEPENDENCIES)
	@echo "Installing into $(VENV), with what development and the benchmarks need"
	@$(PIP_INSTALL) '.[dev,bench]'
	@touch $@ $(VENV)/dev.stamp $(VENV)/run.stamp

$(VENV)/python.stamp:
	@command -v $(PYTHON) > /dev/null || { \
		echo "$(PYTHON) is not installed. Install Python 3.11 or later, or say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is older than 3.11: say make PYTHON=... with a later one" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "$(PYTHON) has no venv module: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

.PHONY: help run test check bench bench-full docs
