# Every command of the project in one place. PYTHON names the interpreter: make test PYTHON=.venv/bin/python
# OUT is the folder for the results of a GPU run.
PYTHON ?= python
OUT ?= gpu-results

.PHONY: help check test prove demo app pictures bench gpu gpu-test gpu-bench

help:            ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/'

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

pictures:        ## every page as it looks on this machine's workspace, into docs/images; needs Chromium
	$(PYTHON) -m tests.e2e.pictures

bench:           ## speed of decoding and of training, each paired with a baseline in one run
	$(PYTHON) -m nanochat.benchmarks.engine
	$(PYTHON) -m nanochat.benchmarks.training

gpu: gpu-test gpu-bench          ## both of the next two, on a machine with an NVIDIA GPU

gpu-test:        ## the kernels' tests on the GPU itself, not in Triton's interpreter
	@$(PYTHON) -m nanochat.benchmarks.gpu_check
	@mkdir -p "$(OUT)"
	env -u TRITON_INTERPRET -u NANOCHAT_KERNELS timeout 530 $(PYTHON) -m pytest -q --junitxml "$(OUT)/kernel_tests.xml" \
		tests/test_kernel_*_triton.py

gpu-bench:       ## kernels beside their peers, then training and decoding with and without them; files go to OUT
	@$(PYTHON) -m nanochat.benchmarks.gpu_check
	env -u TRITON_INTERPRET -u NANOCHAT_KERNELS timeout 530 $(PYTHON) -m nanochat.benchmarks.gpu --out "$(OUT)"
