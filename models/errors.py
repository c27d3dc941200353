"""The errors of the model library, split by who can fix them.

    ModelError
    ├── ModelUnavailable    transient (hub unreachable, disk): try again later
    ├── ModelInvalid        the configuration is wrong: a person must change it
    │   └── ModelUnknown        the hub has no model of this name, or refuses it
    └── ImageUnsuitable     this one image cannot be scored; its neighbours can

Every message is one line and names the remedy.
"""

from __future__ import annotations


class ModelError(Exception):
    """A model, an adapter or an image cannot be used."""


class ModelUnavailable(ModelError):
    """The model cannot be reached now; the same request may succeed later."""


class ModelInvalid(ModelError):
    """The model, adapter or question is wrong until somebody changes it."""


class ModelUnknown(ModelInvalid):
    """The hub answers, and has no model of this name for us."""


class ImageUnsuitable(ModelError):
    """The model cannot take this image, for instance because it is a thin strip."""


def one_line(error: BaseException) -> str:
    """Return the first line of another library's error, for use inside a message of ours."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def unreadable(what: str, error: OSError) -> ModelError:
    """Return the error for a failed read: a missing file stays missing, a failing disk or mount may recover.

    transformers raises plain OSErrors without an errno for files that it expects and does not find.

    Args:
        what: The file or part, for the message.
        error: What reading it raised.

    Returns:
        ModelInvalid for a missing file, ModelUnavailable for any other failure.
    """
    if error.errno is None or isinstance(error, FileNotFoundError | NotADirectoryError):
        return ModelInvalid(f"{what} cannot be loaded: {one_line(error)}")
    return ModelUnavailable(f"{what} cannot be read now: {one_line(error)}")
