# The commands of this project. `make reproduce` and `make test` need nothing but Python 3.11 or newer: both make .venv first.
PYTHON ?= python3
PROFILE ?= cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
CHROMIUM := $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name) 2>/dev/null)))
BROWSER := $(VENV)/.browser
export OMP_WAIT_POLICY ?= PASSIVE
export PYTHONHASHSEED ?= 0

.PHONY: help install reproduce test test-fast explore readme docs sync notebooks outputs smoke browser clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, this is $$($(PYTHON) --version 2>&1): say which one to use, as in  make PYTHON=python3.12 test"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@

install: $(READY)  ## make .venv and install into it

reproduce: $(READY)  ## every figure and table (PROFILE=cpu; smoke, gpu, paper)
	$(BIN)/python -c 'import sys; from deeplandscape.report.reproduce import reproduce; sys.exit(reproduce("$(PROFILE)"))'

# What drives Chromium; without it, or without Chromium, the tests in a browser are skipped.
$(BROWSER): $(READY)
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -e ".[browser]" && touch $@ || echo "playwright could not be installed; the tests in a browser are skipped"

# Files of tests that take seconds, not minutes.
FAST := $(addprefix tests/test_,$(addsuffix .py,sync notebook_rules repro_contract layers parity networks motion core data scenes claims page variants))
PARALLEL := -n 2 --dist loadfile

test: $(READY) $(if $(CHROMIUM),$(BROWSER)) notebooks  ## library notebooks, tests (the explorers in Chromium where it is installed), the smoke profile
	$(BIN)/ruff check
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not timing" tests
	$(BIN)/python -m pytest -q -m timing tests

test-fast: $(READY)  ## what takes less than three minutes: notebooks and library in step, rules, formulas, files
	$(BIN)/ruff check
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not timing and not slow" $(FAST)

sync: $(READY)  ## are notebooks and library in step, and notebooks clean?
	$(BIN)/python -m pytest -q tests/test_sync.py

notebooks: $(READY)  ## run the library notebooks
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nbdev_test --n_workers 2 --timing

outputs: $(READY)  ## run library notebooks again and compare their text outputs (NOTEBOOKS="nbs/04_statistics.ipynb ...")
	OMP_NUM_THREADS=1 DEEPLANDSCAPE_PROGRESS=0 $(BIN)/python tests/rerun.py $(NOTEBOOKS)

smoke: $(READY)  ## the whole graph at its smallest size
	$(MAKE) reproduce PROFILE=smoke

explore: $(READY)  ## open the explorers in JupyterLab (EXPLORE=--voila: as plain pages)
	$(BIN)/deeplandscape explore $(EXPLORE)

readme: $(READY)  ## README.md from nbs/index.ipynb
	DEEPLANDSCAPE_PROGRESS=0 $(BIN)/jupyter nbconvert --log-level ERROR --to notebook --execute nbs/index.ipynb --stdout \
	  | $(BIN)/jupyter nbconvert --log-level ERROR --to markdown --stdin --stdout --RegexRemovePreprocessor.patterns='^#\|\s*hide' \
	    --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_input_tags hide_input \
	  | sed -e 's#](\.\./#](#g' -e 's#src="\.\./#src="#g' > README.md.new
	mv README.md.new README.md

docs: $(READY)  ## all notebooks as a static site in runs/docs, with sliders that need no kernel
	$(BIN)/python -c 'from deeplandscape.report.preview import build_docs; print(build_docs("runs/docs"))'

browser: $(BROWSER)  ## tests in a real browser (needs Chromium)
	$(BIN)/python -m pytest -q -rs tests/browser

clean:  ## remove runs/ and caches, keep results and .venv
	rm -rf runs/* build .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
