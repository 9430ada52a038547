"""One slice of a scan as the problem `ct` poses it: geometry, measurement and noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from inverse.errors import InputError
from inverse_problems.ct.geometry import Geometry

FEWEST = 1.0
"""Photons that a detector pixel is taken to have counted at least; a logarithm needs one."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of a detector, with its flat and dark field.

    Args:
        counts: (views, detectors).
        flat: counts without the object, dark included, (detectors,).
        dark: counts without the beam, (detectors,).
        gain: counts per photon.
    """

    counts: np.ndarray
    flat: np.ndarray
    dark: np.ndarray
    gain: float

    def photons(self) -> np.ndarray:
        """Photons of the object's views, at least `FEWEST`."""
        return np.maximum((self.counts - self.dark) / self.gain, FEWEST)

    def integrals(self) -> np.ndarray:
        """Line integrals of the attenuation, -log of the transmission, (views, detectors)."""
        return np.log((self.flat - self.dark) / self.gain / self.photons())

    def sigma(self) -> np.ndarray:
        """Standard deviation of the line integrals: 1 / sqrt(photons), (views, detectors).

        Source: Sauer, Bouman, A local update strategy for iterative reconstruction from
        projections, IEEE Transactions on Signal Processing 1993.
        """
        return 1 / np.sqrt(self.photons())

    def binned(self, factor: int) -> Counts:
        """The sums of groups of `factor` detector pixels."""
        counts, flat, dark = (
            _groups(a, factor).sum(-1) for a in (self.counts, self.flat, self.dark)
        )
        return Counts(counts, flat, dark, self.gain)

    def views(self, chosen: np.ndarray) -> Counts:
        """Some of the views, by index."""
        return replace(self, counts=self.counts[chosen])


@dataclass(frozen=True, eq=False, repr=False)
class Scan:
    """A measured slice.

    Args:
        geometry: of the beam and the slice.
        integrals: line integrals (views, detectors), in the unit of the file or per slice pixel.
        counts: what the detector counted, if the file holds counts or transmissions.
        mu: attenuation of intensity 1 (units of the integrals per pixel).
        seen: boolean (views, detectors), false where metal hides the slice; None is everywhere.
    """

    geometry: Geometry
    integrals: np.ndarray
    counts: Counts | None
    mu: float
    seen: np.ndarray | None = None

    def __repr__(self) -> str:
        beam = self.geometry
        return (
            f"{beam.views} views of {beam.detectors} detector pixels, axis at {beam.center:.6g}, "
            f"slice of {beam.size} pixels, mu {self.mu:g}"
        )


def fitted_gain(flats: np.ndarray) -> float | None:
    """Counts per photon, from the variance of flats between frames; None for a single frame.

    Each frame is divided by its mean, because the beam drifts. Photons are Poisson, so the gain is
    the variance divided by the mean.

    Args:
        flats: (frames, detectors), dark subtracted.
    """
    if flats.ndim < 2 or len(flats) < 3:
        return None
    level = flats.mean()
    steady = flats / flats.mean(1, keepdims=True) * level
    return float(np.median(steady.var(0, ddof=1) / steady.mean(0)))


def averaged(data: np.ndarray, factor: int) -> np.ndarray:
    """The means of groups of `factor` detector pixels; pixels that fill no group are dropped."""
    return data if factor == 1 else _groups(data, factor).mean(-1)


def _groups(data: np.ndarray, factor: int) -> np.ndarray:
    used = data.shape[-1] // factor * factor
    return data[..., :used].reshape(*data.shape[:-1], -1, factor)


def view_axis(data: np.ndarray, views: int | None) -> tuple[int, str]:
    """The axis of the views in a sinogram (a, b) of unknown order, and how it was found.

    The projections of an object have equal sums; the sums over the views do not.

    Args:
        views: number of angles, if known.

    Raises: InputError if the number of angles fits neither axis.
    """
    if views is not None and views not in data.shape:
        raise InputError(
            f"ct: {views} angles, but the projections have shape {data.shape}; "
            "give one angle for each projection"
        )
    if views is not None and data.shape[0] != data.shape[1]:
        return data.shape.index(views), "the axis with as many entries as there are angles"
    sums = [data.sum(1 - axis) for axis in (0, 1)]
    variation = [float(s.std() / max(abs(s.mean()), 1e-30)) for s in sums]
    return int(np.argmin(variation)), "the axis along which the sums of the projections are equal"
