"""From labelled images to the batches of a training."""
