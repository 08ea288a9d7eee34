"""Says in one sentence what is missing for the GPU targets of the Makefile, or what is there.

    python -m nanochat.benchmarks.gpu_check          # exits 1 where something is missing

A bare GPU machine needs torch, triton, numpy and pytest; neither a network nor the packages of the app.
"""

import argparse
import importlib.util
import sys

NEEDED = ("torch", "triton", "numpy", "pytest")


def missing() -> str:
    """What keeps GPU tests and benchmarks from running here; empty if nothing does."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        return f"Not installed: {', '.join(absent)}; GPU tests and benchmarks need {', '.join(NEEDED)} and a GPU."
    from kernels.benchmark import gpu_obstacle

    return gpu_obstacle()


def main(argv: list[str] | None = None) -> int:
    """Print the verdict."""
    parser = argparse.ArgumentParser(
        prog="python -m nanochat.benchmarks.gpu_check", description="What is missing for GPU tests and benchmarks."
    )
    parser.parse_args(argv)
    if sentence := missing():
        print(sentence, file=sys.stderr)
        return 1
    import torch

    from kernels.benchmark import machine

    facts = machine(torch.device("cuda"))
    print(f"{facts['device']} ({facts['capability']}), {facts['versions']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
