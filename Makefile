# make demo: install and train on the images that ship with the package.  make test: install what tests need, run them.
# make test-whole: those that start processes, compile, or do what a page says from end to end.
# make test-otherwise: the tests of runs that choose by themselves, with every choice turned the other way (small networks
# choose fp32 and eager kernels).
PYTHON ?= python3
BIN := .venv/bin
TOGETHER := --numprocesses auto --maxprocesses 4
# files without a test whose numbers depend on a choice: their runs say both, or are about what happens around a run
SETTLED := bench bench_command compiled_step cuda damaged_files data data_files device eight_bit figures fitting folders \
	in_parts kernels models operations own_data own_network own_pictures package pages peer_networks phases \
	processes ranks recipes reliability resuming run_again run_parts shared_frames step tensor_train thin_runs trained \
	written_otherwise

demo: .venv/installed
	$(BIN)/spikedistill train

test: .venv/installed-test
	$(BIN)/pytest $(TOGETHER) --dist loadfile

# few and long: shared out by file, one process would end alone
test-whole: .venv/installed-test
	$(BIN)/pytest $(TOGETHER) --dist worksteal -m 'whole and not slow'

test-otherwise: .venv/installed-test
	SPIKEDISTILL_PRECISION=bf16 SPIKEDISTILL_COMPILE=on $(BIN)/pytest $(TOGETHER) --dist loadfile -m 'not slow' $(SETTLED:%=--ignore tests/test_%.py)

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

.PHONY: demo test test-whole test-otherwise check
