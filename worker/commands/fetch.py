"""`worker fetch`: a model on this node's disk before a worker starts."""

from __future__ import annotations

import sys

from scanfleet.config.settings import Settings
from scanfleet.errors import BadSettings, DeviceUnavailable, UnknownModel
from scanfleet.models.errors import ModelInvalid, ModelUnavailable, ModelUnknown
from scanfleet.models.inputs.sources import locate
from scanfleet.worker.runtime.weights import fetch_weights, in_bucket


def fetch_model(settings: Settings) -> int:
    """Download the model, print its folder and revision, and return 0.

    Raises BadSettings, UnknownModel, DeviceUnavailable, StoreUnavailable.
    """
    source = str(fetch_weights(settings)) if in_bucket(settings.model) else settings.model
    try:
        found = locate(source, revision=settings.model_revision)
    except ModelUnknown as error:
        raise UnknownModel(f"model: {error}") from error
    except ModelInvalid as error:
        raise BadSettings(f"model: {error}") from error
    except ModelUnavailable as error:
        raise DeviceUnavailable(f"model: {error}") from error
    sys.stdout.write(f"{found.folder}\n{found.revision}\n")
    return 0
