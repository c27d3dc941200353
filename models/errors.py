"""The errors of the model library, split as the fleet needs them.

    ModelError
    ├── ModelUnavailable    the world failed (hub unreachable, disk): try again later
    ├── ModelInvalid        the configuration is wrong: a person must change something
    └── ImageUnsuitable     this one image cannot be scored; its neighbours can

Every message is one line and says what to do.
"""

from __future__ import annotations


class ModelError(Exception):
    """Something about a model, an adapter or an image's fitness for it."""


class ModelUnavailable(ModelError):
    """The model cannot be reached now; the same request may succeed later."""


class ModelInvalid(ModelError):
    """The model, adapter or question is wrong and will stay wrong until it is changed."""


class ImageUnsuitable(ModelError):
    """The model cannot take this image, for instance because it is a thin strip."""


def one_line(error: BaseException) -> str:
    """The first line of another library's error, for use inside a message of ours."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def unreadable(what: str, error: OSError) -> ModelError:
    """The right error for a failed read: absent files stay absent, a failing disk or mount may heal.

    transformers raises bare OSErrors, without an errno, for files it expects and does not find.
    """
    if error.errno is None or isinstance(error, FileNotFoundError | NotADirectoryError):
        return ModelInvalid(f"{what} cannot be loaded: {one_line(error)}")
    return ModelUnavailable(f"{what} cannot be read now: {one_line(error)}")
