"""How a person gets an optional part of scanfleet. No index has the name scanfleet, so that it is always a clone."""


def install_hint(extra: str) -> str:
    """What to run. `models/` imports nothing of ours and says the same in its own words."""
    return f"in a clone of scanfleet run: pip install -c constraints.txt '.[{extra}]' (docs/install.md)"
