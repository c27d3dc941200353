"""What a training changes: a head, or an adapter of the network."""
