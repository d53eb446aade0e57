# make run       from nothing to a report       make install   the shared first step
# make test      the test suite, a worker a core; what it leaves out and how long: docs/tests.md
# make test-all  the same and the slow tests    make coverage  the share of lines that tests run
# make test-gpu  the kernels on a card; needs torch, triton, pytest and hypothesis, installs nothing
# make bench     speed beside transformers and llama.cpp (builds llama.cpp: needs a C++ compiler)
# make ci        the suite, lint, types and import contracts: what .ci/run does
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RECIPE ?= mini

GPU_PYTHON ?= python3

WORKERS ?= logical
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

.PHONY: install run bench test test-all coverage test-gpu lint fmt types arch ci clean

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
	$(PYTEST) -m 'not slow and not gpu'

test-all: $(VENV)/.test
	$(PYTEST) -m 'not gpu'

coverage: $(VENV)/.test
	$(PYTEST) -m 'not slow and not gpu' --cov --cov-report=term --cov-fail-under=90

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
