"""Other ways to do the same work, measured beside ours. `with_*` and `work` run in the Python of the rivals."""
