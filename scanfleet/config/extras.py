"""How to install an optional part of scanfleet. It is on no package index: it is installed from a clone."""


def install_hint(extra: str) -> str:
    """Return the command to run. `models/` imports nothing from here and has its own text for the same."""
    return f"in a clone of scanfleet run: pip install -c constraints.txt '.[{extra}]' (docs/install.md)"
