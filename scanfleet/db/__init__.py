"""The ledger: everything that must not be lost is a row here. One module a subject; SQL lives nowhere else."""
