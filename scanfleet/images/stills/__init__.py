"""One picture: what each format says of it, and what its decoder would fill in unseen."""
