"""The sandbox: child processes that decode strangers' files. Workers use it, and commands that read images."""
