# make quickstart | test | test-long | lint | docs | clean | distclean     (PYTHON=… chooses the interpreter, VENV=… the folder)
# Everything runs in $(VENV), which is made when it is missing and renewed when pyproject.toml or constraints.txt changed.

VENV ?= .venv
# the tests' tensors are small: more threads than one cost more than they give
OMP_NUM_THREADS ?= 1
PYTEST = OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(VENV)/bin/python -m pytest tests
STAMP = $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-long lint docs clean distclean

help:
	@sed -n '1,2s/^# //p' Makefile

setup: $(STAMP)

quickstart: $(STAMP)
	$(VENV)/bin/mimdit quickstart

test: $(STAMP)
	$(PYTEST) -m "not long"

test-long: $(STAMP)
	$(PYTEST) -m long

lint: $(STAMP)
	$(VENV)/bin/ruff check .

docs: $(STAMP)
	$(VENV)/bin/mkdocs build --strict

# The named interpreter, or the first of these that runs and is new enough; version managers leave names that do not run.
$(VENV)/bin/pip:
	@set -e; \
	for python in $(if $(PYTHON),"$(PYTHON)",python3.12 python3.11 python3 python3.13 python3.14); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "error: no Python >= 3.11 found ($(if $(PYTHON),PYTHON=$(PYTHON) is older or does not run,tried python3.12 python3.11 python3 …));" \
	    "install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; \
	fi; \
	echo "Making $(VENV) with $$($$found -c 'import sys; print(sys.executable, sys.version.split()[0])')"; \
	$$found -m venv --clear $(VENV) || { \
	  echo "error: $$found has no working venv module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }

# facexlib, which pyiqa needs, asks for opencv-python, and pyiqa for opencv-python-headless: both own the folder cv2. The second install
# makes the headless one win, which loads without libGL and an X display's libraries.
$(STAMP): pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(VENV)/bin/python -m pip install -e '.[dev]' -c constraints.txt
	$(VENV)/bin/python -m pip install --force-reinstall --no-deps opencv-python-headless -c constraints.txt
	@touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
