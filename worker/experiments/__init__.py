"""`scanfleet experiment`: arms x seeds x sizes on one split of labelled images."""
