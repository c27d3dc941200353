"""The fleet of a run, its services, and the network between them."""
