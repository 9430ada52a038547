"""Sensitivity maps and the phase of the slice, from measured or for simulated k-space."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from inverse.errors import InputError
from inverse_problems.mri.espirit import calibration_centre, cropped, espirit, padded, transform

SMALLEST_CENTRE = 8
"""Least side of a fully sampled centre from which maps are estimated (frequencies)."""

PHASE_WIDTH = 64
"""Width of the window that smooths the phase of the slice (frequencies)."""

ITERATIONS, DAMPING = 30, 1e-3
"""Conjugate gradients and weight of |x|^2 of the complex slice whose phase is taken."""


def estimated_maps(kspace: np.ndarray, sampled: np.ndarray) -> tuple[np.ndarray, str]:
    """ESPIRiT maps of every pixel (coils, H, W), and how they were found.

    Args:
        kspace: (coils, H, W), zero where not sampled.
        sampled: boolean (H, W).

    Raises: InputError if the fully sampled centre is too small.
    """
    centre = calibration_centre(sampled)
    if min(centre) < SMALLEST_CENTRE:
        raise InputError(
            f"mri: the fully sampled centre of k-space has {centre[0]}x{centre[1]} frequencies, "
            f"and maps need {SMALLEST_CENTRE}x{SMALLEST_CENTRE}; state maps=FILE"
        )
    # Background has a map as well: the measurement then says that nothing is there.
    maps = espirit(kspace, centre, crop=0.0)
    return maps, f"maps of {len(kspace)} coils by ESPIRiT from {centre[0]}x{centre[1]} frequencies"


def sense(maps: np.ndarray, kspace: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    """The complex slice (H, W) of damped least squares over all coils, by conjugate gradients.

    Args:
        maps: (coils, H, W).
        kspace: (coils, H, W), zero where not sampled.
        sampled: boolean (H, W).
    """

    def normal(x: np.ndarray) -> np.ndarray:
        seen = transform(sampled * transform(maps * x), inverse=True)
        return (maps.conj() * seen).sum(0)

    return least_squares(normal, (maps.conj() * transform(kspace, inverse=True)).sum(0))


def least_squares(normal: Callable[[np.ndarray], np.ndarray], r: np.ndarray) -> np.ndarray:
    """The complex slice x with (A^H A + damping) x = r, by conjugate gradients from 0.

    Args:
        normal: A^H A.
        r: A^H y, (H, W).
    """
    x = np.zeros(r.shape, dtype=np.complex64)
    p, power = r, float(np.vdot(r, r).real)
    for _ in range(ITERATIONS):
        q = normal(p) + DAMPING * p
        step = power / max(float(np.vdot(p, q).real), 1e-30)
        x, r = x + step * p, r - step * q
        power, before = float(np.vdot(r, r).real), power
        p = r + power / max(before, 1e-30) * p
    return x


def smooth_phase(x: np.ndarray) -> np.ndarray:
    """The phase factor of a complex slice (H, W), smoothed by a Hann window in k-space."""
    height, width = x.shape
    h, w = min(PHASE_WIDTH, height), min(PHASE_WIDTH, width)
    window = np.outer(np.hanning(h + 2)[1:-1], np.hanning(w + 2)[1:-1])
    low = padded(cropped(transform(x), (h, w)) * window, (height, width))
    return np.exp(1j * np.angle(transform(low, inverse=True))).astype(np.complex64)


def simulated_maps(coils: int, height: int, width: int) -> np.ndarray:
    """Smooth maps of coils around the slice, of unit norm over the coils: (coils, H, W).

    A coil's sensitivity falls with the distance from its place on a circle, and its phase turns
    with the angle, as in a birdcage coil.
    """
    if coils == 1:
        return np.ones((1, height, width), dtype=np.complex64)
    y, x = np.meshgrid(
        np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij", sparse=True
    )
    maps = []
    for coil in range(coils):
        angle = 2 * math.pi * coil / coils
        dx, dy = x - 1.5 * math.cos(angle), y - 1.5 * math.sin(angle)
        maps.append(np.exp(-1j * (np.arctan2(dx, -dy) + angle)) / np.hypot(dx, dy))
    answer = np.stack(maps)
    return (answer / np.sqrt((np.abs(answer) ** 2).sum(0))).astype(np.complex64)
