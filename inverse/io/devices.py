"""Devices and precisions by the names that commands take."""

from __future__ import annotations

import torch

from inverse.errors import OptionError

DTYPES = {
    "float32": (torch.float32, None),
    "float64": (torch.float64, None),
    "bf16": (torch.float32, "bf16"),
    "fp16": (torch.float32, "fp16"),
}
"""Name -> dtype of x and of the operator, and the precision in which the prior alone runs."""


def check_device(name: str) -> torch.device:
    """The device called `name`.

    Raises: OptionError if torch has no such device here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        gpus = torch.cuda.device_count()
        raise OptionError(
            f"device '{name}' is not available; this machine has cpu{''.join(f', cuda:{i}' for i in range(gpus))}"
        ) from error
    return device
