"""Makes the pocket model's weights from generated images. Not installed."""
