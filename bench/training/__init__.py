"""Benchmarks of trainings: seconds per epoch, and accuracy by number of labels."""
