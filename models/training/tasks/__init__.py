"""The trained part of a model: a head, or an adapter of the network."""
