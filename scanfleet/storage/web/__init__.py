"""Images on the web."""
