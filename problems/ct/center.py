"""The position of the rotation axis on the detector, from the moments of a sinogram.

The centre of mass of each projection is the projection of the centre of mass of the slice:

    sum_s s p(theta, s) / sum_s p(theta, s) = center + x cos(theta) - y sin(theta)

It holds for a parallel beam and an object that every projection sees whole. A fan beam sees every
line twice in a full turn, from both sides of the axis: the mean over the views is symmetric.

Source: Azevedo, Schneberk, Fitch, Martz, Calculation of the rotational centers in computed
tomography sinograms, IEEE Transactions on Nuclear Science 1990,
https://doi.org/10.1109/23.55866.
"""

from __future__ import annotations

import numpy as np

from inverse.errors import InputError

VARIATION = 0.05
"""Largest relative deviation of the sums of projections that see the whole object."""

CONDITION = 1e3
"""Largest condition number of the fit; an arc of 30 degrees reaches it."""


def estimated_center(y: np.ndarray, theta: np.ndarray) -> float:
    """The axis (detector pixels, counted from 0) of line integrals y (views, detectors).

    Args:
        theta: angles of the views (radians).

    Raises: InputError if the sums of the projections are 0 or differ, or the angles do not
        determine it.
    """
    sums = y.sum(1)
    if not sums.mean() > 0:
        raise InputError("ct: the projections hold no attenuation; check flats, darks and metal")
    variation = float(sums.std() / max(abs(sums.mean()), 1e-30))
    if variation > VARIATION:
        raise InputError(
            f"ct: the sums of the projections vary by {variation:.0%}, as where part of the object "
            "is not seen, so that the rotation axis cannot be estimated; state center=..."
        )
    terms = np.stack([np.ones_like(theta), np.cos(theta), -np.sin(theta)], 1)
    if len(theta) < 3 or np.linalg.cond(terms) > CONDITION:
        raise InputError(
            f"ct: {len(theta)} views over {np.degrees(np.ptp(theta)):.0f} degrees do not determine "
            "the rotation axis; state center=..."
        )
    centres = (y * np.arange(y.shape[1])).sum(1) / sums
    return float(np.linalg.lstsq(terms, centres, rcond=None)[0][0])


def fan_center(y: np.ndarray, theta: np.ndarray) -> float | None:
    """The axis (detector pixels, counted from 0) of a full turn of a fan beam; None without one.

    Args:
        y: line integrals (views, detectors).
        theta: angles of the views (radians).
    """
    angles = np.sort(np.mod(theta, 2 * np.pi))
    gaps = np.append(np.diff(angles), angles[0] + 2 * np.pi - angles[-1])
    if len(theta) < 8 or gaps.max() > 1.5 * gaps.mean():
        return None
    mean = y.mean(0)
    if max(abs(mean[0]), abs(mean[-1])) > VARIATION * mean.max() or mean.sum() <= 0:
        return None  # part of the object is not seen
    return float((mean * np.arange(len(mean))).sum() / mean.sum())
