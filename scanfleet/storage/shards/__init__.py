"""Members of tar and zip archives as objects of their own."""
