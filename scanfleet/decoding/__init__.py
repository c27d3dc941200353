"""The sandbox: child processes that decode untrusted files. Workers use it, and commands that read images."""
