# Everything a developer does, set-up included. Needs Python >= 3.11 with venv, and make.
# `make help` lists the targets.

PYTHON ?= python3
WORKERS ?= 2
OUT ?= demo
# Of `make results`.
STUDIES ?= figure1 optimizers architectures sensitivity baselines memory preset rates angles figure1-tuned \
	transfer endless off-span segmentation detection counting
# Files and folders of `make test`; all where empty.
TESTS ?=
# Libraries to preload for the tests only, in the form of LD_PRELOAD; empty nearly everywhere.
TEST_PRELOAD ?=

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# pip says which files it fetches, which takes minutes the first time, and nothing else.
PIP_INSTALL := set -o pipefail; $(BIN)/pip install --disable-pip-version-check -c constraints.txt
SHOW_DOWNLOADS := | awk '/^ *Downloading/ { print "  " $$2, $$3, $$4; fflush() }'
WITH_PRELOAD := $(if $(TEST_PRELOAD),env LD_PRELOAD="$(TEST_PRELOAD)")
PYTEST := $(WITH_PRELOAD) $(BIN)/python -m pytest -n $(WORKERS)

# One thread a process, and none that spins while it waits: two workers on two cores would slow each other
# down tenfold.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo why results test test-slow lint format bench gpu site dist clean

help:
	@echo "make demo       train five methods on real digits in about two minutes, and write $(OUT)/report.html"
	@echo "make why        the same, and write docs/why.md with its pictures out of it"
	@echo "make results    run the built-in studies and keep them; STUDIES=\"figure1 memory\": these only."
	@echo "                docs/studies.md says how many minutes each takes"
	@echo "make test       run all tests but the slow ones; TESTS=\"tests/span src/decayfree/span\": these only"
	@echo "make test-slow  run the slow ones"
	@echo "make lint       check format, style and types"
	@echo "make format     format the code and mend what can be mended"
	@echo "make bench      measure speed and memory beside the peers"
	@echo "make gpu        run all tests and benchmarks that want a GPU, under 9 minutes, into gpu.json"
	@echo "make site       make the pages of docs/ and the docstrings into build/site; a warning is an error"
	@echo "make dist       build wheel and sdist into dist/, and check what an index would say of them"
	@echo "make clean      remove what was built; $(VENV) and $(OUT) stay"

demo: $(VENV)/installed-study
	$(BIN)/decayfree demo --out $(OUT)

why: $(VENV)/installed-develop
	$(BIN)/decayfree demo --out $(OUT)
	$(BIN)/python docs/why.py $(OUT)

# What is killed goes on where it was.
results: $(VENV)/installed-study
	for study in $(STUDIES); do \
		$(BIN)/python results/keep.py --go-on runs/$$study; \
		$(BIN)/decayfree study run $$study --jobs $(WORKERS) --out runs/$$study || exit 1; \
	done
	$(BIN)/python results/keep.py $(addprefix runs/,$(STUDIES))

test: $(VENV)/installed-develop
	$(PYTEST) -m "not slow" $(TESTS)

# pytest exits with 5 where no test is slow.
test-slow: $(VENV)/installed-develop
	$(PYTEST) -m slow $(TESTS) || [ $$? -eq 5 ]

lint: $(VENV)/installed-develop
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict src

format: $(VENV)/installed-develop
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed-develop
	$(BIN)/python benchmarks/rescale.py
	$(BIN)/python benchmarks/recorder.py
	$(BIN)/python benchmarks/span.py
	$(BIN)/python benchmarks/study.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/scenes.py
	$(WITH_PRELOAD) $(BIN)/python benchmarks/trainers.py

gpu: $(VENV)/installed-develop
	$(BIN)/python benchmarks/gpu.py --out gpu.json

# Needs no network to be read: open build/site/index.html.
site: $(VENV)/installed-develop
	rm -rf build/site
	$(WITH_PRELOAD) $(BIN)/python -m sphinx -W --keep-going -q -d build/doctrees docs build/site
	$(WITH_PRELOAD) $(BIN)/python docs/site/check.py build/site

# Wheel and sdist, as an index would take them; publishes nothing.
dist: $(VENV)/installed-develop
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf build dist docs/reference .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed-study: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing decayfree with torch, once; this takes a few minutes."
	@$(PIP_INSTALL) -e ".[study]" $(SHOW_DOWNLOADS)
	@touch $@

$(VENV)/installed-develop: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing decayfree with torch and the tools for its tests, once; this takes a few minutes."
	@$(PIP_INSTALL) -e ".[test,lint,release,models,benchmarks,docs,real,site]" $(SHOW_DOWNLOADS)
	@touch $@ $(VENV)/installed-study

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "the tools of decayfree need Python 3.11 or later, $(PYTHON) is $$($(PYTHON) --version);" \
			"try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
