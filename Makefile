# make setup | quickstart | test | test-long | gpu | lint | docs | clean | distclean     (PYTHON=… chooses the interpreter, VENV=… the folder)
# Everything runs in $(VENV), which is created if missing and updated after a change of pyproject.toml or constraints.txt.

VENV ?= .venv
# The tests' tensors are small: more than one thread slows them down.
OMP_NUM_THREADS ?= 1
# Processes that `make test` shares the test files between.
TEST_WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(VENV)/bin/python -m pytest tests
STAMP = $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-long gpu lint docs clean distclean

help:
	@sed -n '1,2s/^# //p' Makefile

setup: $(STAMP)

quickstart: $(STAMP)
	$(VENV)/bin/mimdit quickstart

test: $(STAMP)
	$(PYTEST) -m "not long" -n $(TEST_WORKERS) --dist loadfile

test-long: $(STAMP)
	$(PYTEST) -m long

# What needs a GPU, about half an hour: tests, measurements and a short training, each with its figures in a file of GPU_OUT.
GPU_OUT ?= runs/gpu
gpu: $(STAMP)
	$(VENV)/bin/python -m benchmarks.gpu all --out $(GPU_OUT)

# Style, spelling (American), the order of the packages, types.
lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/codespell
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/basedpyright --level error --pythonpath $(VENV)/bin/python

docs: $(STAMP)
	$(VENV)/bin/mkdocs build --strict

# PYTHON, or the first of these that runs and is new enough: version managers leave names that do not run.
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

# facexlib, a dependency of pyiqa, requires opencv-python, and pyiqa opencv-python-headless: both own the folder cv2. The second install
# puts the headless one there, which loads without libGL and the libraries of a display.
$(STAMP): pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(VENV)/bin/python -m pip install -e '.[dev]' -c constraints.txt
	$(VENV)/bin/python -m pip install --force-reinstall --no-deps opencv-python-headless -c constraints.txt
	@touch $@

clean:
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
