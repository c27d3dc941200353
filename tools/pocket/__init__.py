"""Train the pocket model from generated images. Not installed."""
