"""Chaos: a real fleet on real services, with faults at random moments, and then an audit image by image.

    python -m tests.chaos --faults 200 --seed 7 --images 20000 --json

Exit code 0 only when every image ended in exactly the verdict or the failure that a run without faults gives.
"""
