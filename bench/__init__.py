"""Measurements: `python -m bench NAME --json`. Ratios within one run, medians of five; docs/benchmarks.md has figures."""
