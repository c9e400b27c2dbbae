# make demo: install and train on the images that ship with the package.  make test: install what tests need, run them.
# make test-otherwise: the same tests with every automatic choice turned the other way (small networks choose fp32, eager).
PYTHON ?= python3
BIN := .venv/bin
TOGETHER := --numprocesses auto --maxprocesses 4 --dist loadfile

demo: .venv/installed
	$(BIN)/spikedistill train

test: .venv/installed-test
	$(BIN)/pytest $(TOGETHER)

test-otherwise: .venv/installed-test
	SPIKEDISTILL_PRECISION=bf16 SPIKEDISTILL_COMPILE=on $(BIN)/pytest $(TOGETHER)

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-test: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@ .venv/installed

.PHONY: demo test test-otherwise check
