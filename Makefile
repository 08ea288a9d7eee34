# Every command of the project in one place. PYTHON names the interpreter: make test PYTHON=.venv/bin/python
PYTHON ?= python

.PHONY: help check test prove demo app bench gpu

help:            ## this list
	@grep -E '^[a-z]+: +##' Makefile | sed 's/: *##/\t/'

check:           ## style, format and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:            ## all tests except the long proofs
	$(PYTHON) -m pytest

prove:           ## the long drills and full batteries; results go, dated, into docs/log.md
	$(PYTHON) -m pytest -m prove

demo:            ## a small model from nothing, in a minute
	$(PYTHON) -m nanochat.scripts.demo

app:             ## the browser app
	$(PYTHON) -m streamlit run Home.py

bench:           ## speed of decoding and of training, each paired with a baseline in one run
	$(PYTHON) -m nanochat.benchmarks.engine
	$(PYTHON) -m nanochat.benchmarks.training

gpu:             ## checks of the GPU kernels
	@echo "There is nothing to check on a GPU yet: every op of kernels/ has a PyTorch path only, no Triton kernel." >&2
	@exit 1
