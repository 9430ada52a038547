"""Rays that pass metal, which a scan does not measure: by a threshold, or by a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import inverse
from inverse.errors import InputError, OptionError
from inverse_problems.ct.projector import Projector

GRAZED = 0.5
"""Line integral through a mask of the slice (pixels) above which a ray passes metal."""


def threshold_of(metal: str | None) -> float | None:
    """The number that `metal` states; None for a file or none.

    Raises: OptionError if the number is not positive.
    """
    try:
        threshold = float(metal or "none")
    except ValueError:
        return None
    if not 0 < threshold < float("inf"):
        raise OptionError(f"ct: metal must be a positive line integral or a mask, got {metal}")
    return threshold


def seen_rays(metal: str, projector: Projector, integrals: np.ndarray | None) -> np.ndarray:
    """The rays that pass no metal: boolean (views, detectors).

    Args:
        metal: a threshold, or the path of a mask of the slice or of the sinogram (white = metal).
        integrals: measured line integrals (views, detectors); None for a simulation.

    Raises: InputError if the mask has another size, or no ray or every ray is left.
    """
    geometry = projector.geometry
    shape = (geometry.views, geometry.detectors)
    threshold = threshold_of(metal)
    if threshold is not None:
        if integrals is None:
            raise OptionError(
                "ct: a threshold of metal= is for a measurement; simulate metal with a mask picture"
            )
        seen = integrals <= threshold
    else:
        if not Path(metal).is_file():
            raise InputError(f"ct: metal '{metal}' is neither a number nor a file")
        mask, _ = inverse.read_mask(metal)
        if tuple(mask.shape) == shape:
            seen = ~mask.numpy()
        elif tuple(mask.shape) == (geometry.size,) * 2:
            trace = projector.forward(mask[None, None].double())[0, 0]
            seen = (trace <= GRAZED).numpy()
        else:
            raise InputError(
                f"ct: metal mask {metal} has {mask.shape[0]}x{mask.shape[1]} pixels; the slice has "
                f"{geometry.size}x{geometry.size}, the sinogram {shape[0]}x{shape[1]}"
            )
    if not seen.any():
        raise InputError(f"ct: metal={metal} leaves no ray; {np.size(seen)} pass it")
    return np.asarray(torch.as_tensor(seen))
