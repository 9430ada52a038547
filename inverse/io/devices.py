"""Devices and precisions by their names on the command line."""

from __future__ import annotations

import torch

from inverse.errors import OptionError

DTYPES = {
    "float32": (torch.float32, None),
    "float64": (torch.float64, None),
    "bf16": (torch.float32, "bf16"),
    "fp16": (torch.float32, "fp16"),
}
"""Name -> dtype of x and of the operator, and autocast precision of the prior (None for none)."""


def check_device(name: str) -> torch.device:
    """The device called `name`.

    Raises: OptionError if torch cannot use it on this machine.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise OptionError(
            f"device '{name}' is not available; this machine has {', '.join(devices)}"
        ) from error
    return device
