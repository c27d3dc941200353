"""The name of a device's hardware, for figures that hold for one kind of card only."""

from __future__ import annotations


def kind_of(device: str) -> str:
    """Return the card's name for `cuda` or `cuda:N`, else the device's own word: cpu, mps, an endpoint."""
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(device)
