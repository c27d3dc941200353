"""The fleet as an operator sees it: what is open, what workers did, how many of them are wanted, what ends a scan."""
