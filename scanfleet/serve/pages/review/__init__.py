"""Where people decide: the queues, one image at a time."""
