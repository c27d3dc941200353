"""The interface for Python programs. `import scanfleet` shows it."""
