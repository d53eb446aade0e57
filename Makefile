# make run    from nothing to a report          make test    the test suite
# make bench  speed beside transformers and llama.cpp (builds llama.cpp: needs a C++ compiler)
# make test-gpu  the kernels on a card; needs torch, triton, pytest and hypothesis, installs nothing
# make ci     what .ci/run does                 make install the shared first step
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RECIPE ?= recipes/mini.toml

GPU_PYTHON ?= python3

.PHONY: install run bench test test-slow test-gpu lint fmt types arch ci clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Statewise needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/.lint: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[lint]'
	touch $@

$(VENV)/.peers: $(VENV)/.installed
	$(PIP) install --constraint constraints.txt --editable '.[peers]'
	touch $@

bench: $(VENV)/.peers
	$(BIN)/python -m benchmarks.cpu --out runs/bench-cpu

run: install
	$(BIN)/statewise run $(RECIPE)

test: $(VENV)/.test
	$(BIN)/python -m pytest -m 'not slow and not gpu' --cov --cov-report=term --cov-fail-under=90

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

# A failing or hanging test does not keep the measurement from being made.
test-gpu:
	status=0; \
	PYTHONPATH=. timeout 240 $(GPU_PYTHON) -m pytest -c tests/gpu.ini --rootdir . tests/model/test_triton_gpu.py tests/model/test_ops.py tests/model/test_triton.py tests/engine/test_triton_decode.py || status=$$?; \
	PYTHONPATH=. $(GPU_PYTHON) -m benchmarks.gpu --minutes 6 || status=$$?; \
	exit $$status

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.lint
	$(BIN)/mypy

arch: $(VENV)/.lint
	$(BIN)/lint-imports

ci: test lint types arch

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
