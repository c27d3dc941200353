"""What the producer and the worker share: ledger, queue, object stores, checks. No torch, no command line."""

__version__ = "0.1.0"
