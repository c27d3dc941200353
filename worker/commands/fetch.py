"""`worker fetch`: a model on this node's disk before a worker starts."""

from __future__ import annotations

import sys

from scanfleet.config.settings import Settings
from scanfleet.models.inputs.sources import locate
from scanfleet.worker.runtime.weights import fetch_weights, in_bucket
from scanfleet.worker.scoring.error_mapping import naming_model


def fetch_model(settings: Settings) -> int:
    """Download the model, print its folder and revision, and return 0.

    Raises BadSettings, UnknownModel, DeviceUnavailable, StoreUnavailable.
    """
    source = str(fetch_weights(settings)) if in_bucket(settings.model) else settings.model
    with naming_model():
        found = locate(source, revision=settings.model_revision)
    sys.stdout.write(f"{found.folder}\n{found.revision}\n")
    return 0
