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


AUTO = "auto"
"""The precision that `automatic` chooses."""

SMALL_LOSS = 0.01
"""Loss of PSNR (dB) below which `automatic` chooses bf16."""


def automatic(loss: float | None, device: torch.device) -> str:
    """The fastest precision that costs nothing: bf16 if it is faster and the loss is small.

    Args:
        loss: of PSNR (dB) in bf16, measured; None if it was not.
    """
    small = loss is not None and loss < SMALL_LOSS
    return "bf16" if small and gains_from_bf16(device) else "float32"


def gains_from_bf16(device: torch.device) -> bool:
    """Whether convolutions are faster in bf16 than in float32 on a processor or GPU.

    Processors without instructions for bf16 emulate it. Intel's AVX-512 instruction does no more
    products per second than float32, and the conversions make `photo-64` slower
    (`bench/bf16_speed.py`); its AMX tiles and AMD's instruction do gain.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    found: dict[str, object] = dict(getattr(torch.cpu, "get_capabilities", dict)())
    amd = "AMD" in str(found.get("cpu_name", ""))
    return bool(found.get("amx_bf16") or (amd and found.get("avx512_bf16")))


def check_device(name: torch.device | str) -> torch.device:
    """The device called `name`; a device is returned unchanged.

    Raises: OptionError if torch cannot use it on this machine.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError) as error:
        devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise OptionError(
            f"device '{name}' is not available; this machine has {', '.join(devices)}"
        ) from error
    return device
