# Needs Python 3.11 or newer, make and a network; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test test-all check format docs docs-serve dist benchmarks clean

demo: $(VENV)/.plots
	$(BIN)/python examples/distill_maf_into_iaf.py

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist worksteal

test-all: $(VENV)/.test $(VENV)/.docs $(VENV)/.browser
	$(BIN)/python -m pytest -n auto --dist worksteal -m ""

check: $(VENV)/.test $(VENV)/.check $(VENV)/.docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -p tests.conftest -n auto --dist worksteal --doctest-modules flows
	DOCS_RUN=0 $(BIN)/mkdocs build --quiet --site-dir .cache/site

format: $(VENV)/.check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	$(BIN)/mkdocs build

docs-serve: $(VENV)/.docs
	$(BIN)/mkdocs serve

dist: $(VENV)/.dist
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/doors.py

benchmarks: $(VENV)/.bench
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/autoregressive.py
	$(BIN)/python benchmarks/families.py
	$(BIN)/python benchmarks/density.py
	$(BIN)/python benchmarks/small_tables.py
	$(BIN)/python benchmarks/distillation.py
	$(BIN)/python benchmarks/amortised.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/variational.py
	$(BIN)/python benchmarks/variational_peers.py
	$(BIN)/python benchmarks/guides.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/divergences.py
	$(BIN)/python benchmarks/first_answers.py
	$(BIN)/python benchmarks/calls.py
	$(BIN)/python benchmarks/chart.py
	$(BIN)/python benchmarks/density_chart.py
	$(BIN)/python benchmarks/report.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("flows needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": try make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]"
	@touch $@

clean:
	rm -rf $(VENV) .cache dist figures site .pytest_cache .ruff_cache .mypy_cache
