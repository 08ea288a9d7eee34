"""Paired measurements, one module per subject: `python -m nanochat.benchmarks.engine`. Results go to docs/log.md."""
