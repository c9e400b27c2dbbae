# make demo: install and train on the pictures that ship with the package.  make test: install what tests need, run them.
PYTHON ?= python3
BIN := .venv/bin

demo: .venv/installed
	$(BIN)/spikedistill train

test: .venv/installed-test
	$(BIN)/pytest

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

.PHONY: demo test check
