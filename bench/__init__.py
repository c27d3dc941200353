"""Measurements: `python -m bench NAME --json`. Ratios in one run, medians of five; figures in docs/benchmarks.md."""
