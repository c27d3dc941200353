"""Benchmarks: `python -m bench NAME --json`. Ratios within one run, medians of five; figures in docs/benchmarks.md."""
