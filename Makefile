# Two commands do everything:   make run   make test
# Both make a virtual environment in .venv (PYTHON=python3.12 make run picks another Python) and install what is missing.

PYTHON ?= python3
PORT ?= 8501
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint screenshots clean

run: $(VENV)/app.stamp
	$(BIN)/python -m rotviz models --fetch smollm2-135m > /dev/null
	$(BIN)/python -m rotviz app --port $(PORT)

# One thread a worker: two workers with two threads each wait for one another on two cores, and take many times as long.
test: $(VENV)/test.stamp lint
	$(BIN)/python tools/install_browser.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/lint-imports > /dev/null || $(BIN)/lint-imports

screenshots: $(VENV)/test.stamp
	$(BIN)/python tools/install_browser.py
	$(BIN)/python docs/screenshots.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rotviz needs Python 3.11 or later; install it, or name one: PYTHON=python3.12 make run"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || sh tools/install-venv.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)

$(VENV)/app.stamp: $(VENV)/bin/python requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/test.stamp: $(VENV)/app.stamp requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache
