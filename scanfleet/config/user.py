"""The name of the person who runs this."""

import getpass


def user_name() -> str | None:
    """Return the name of the user; None on a machine without one, as in a container that has no user names."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return None
