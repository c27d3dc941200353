"""Several pictures in a file: animations and pages."""
