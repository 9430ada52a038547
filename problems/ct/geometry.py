"""The geometry of a scan: which line of the slice each detector pixel of each view integrates.

A line is (theta, s): the points (column, row) = centre + s (cos theta, -sin theta)
+ t (sin theta, cos theta) for all t, in pixels from the rotation axis. It is the convention of
`skimage.transform.radon`: the axis is pixel N // 2 of the slice and of the detector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Geometry:
    """One slice of a scan with a parallel beam or a fan beam and a flat detector.

    Args:
        theta: angle of each view (radians), (views,).
        detectors: number of detector pixels.
        center: position of the rotation axis on the detector (detector pixels, counted from 0).
        size: side of the slice (pixels).
        circle: whether the slice is air outside the circle of radius size // 2 around the axis.
        pitch: distance of detector pixels (pixels of the slice).
        source: distance of the source from the axis (pixels); None for a parallel beam.
        screen: distance of the detector from the axis (pixels), of a fan beam.
    """

    theta: np.ndarray
    detectors: int
    center: float
    size: int
    circle: bool = True
    pitch: float = 1.0
    source: float | None = None
    screen: float = 0.0

    @property
    def views(self) -> int:
        """Number of views."""
        return len(self.theta)

    def positions(self) -> np.ndarray:
        """Distance of each detector pixel from the axis along the detector (pixels), (D,)."""
        return (np.arange(self.detectors) - self.center) * self.pitch

    def lines(self) -> tuple[np.ndarray, np.ndarray]:
        """theta (radians) and s (pixels) of every line, (views, detectors) each."""
        u = np.broadcast_to(self.positions(), (self.views, self.detectors))
        theta = np.broadcast_to(self.theta[:, None], u.shape)
        if self.source is None:
            return theta, u
        gamma = np.arctan2(u, self.source + self.screen)
        return theta + gamma, self.source * np.sin(gamma)

    def inside(self) -> np.ndarray:
        """The pixels that may attenuate: boolean (size, size)."""
        return circle_mask(self.size) if self.circle else np.ones((self.size,) * 2, dtype=bool)


def circle_mask(size: int) -> np.ndarray:
    """The pixels within size // 2 of pixel (size // 2, size // 2), as in scikit-image."""
    distance = np.arange(size) - size // 2
    return distance[:, None] ** 2 + distance**2 <= (size // 2) ** 2
