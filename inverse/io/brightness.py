"""Which number becomes intensity 1, where measured numbers are no intensities."""

from __future__ import annotations

from typing import Any

import numpy as np

BRIGHT, BRIGHTEST = 99.9, 0.95
"""Percentile of the numbers, and the intensity that it gets."""

PICTURE = (0.3, 1.3)
"""Values of that percentile whose numbers are taken as intensities."""


def unit(numbers: Any, dark: float = 0.0) -> float:
    """The number above `dark` that becomes intensity 1; not positive if nothing exceeds `dark`."""
    return (float(np.percentile(np.asarray(numbers), BRIGHT)) - dark) / BRIGHTEST


def three_digits(number: float) -> float:
    """A number as it is printed and can be stated again."""
    return float(f"{number:.3g}")


def are_intensities(numbers: Any) -> bool:
    """Whether numbers are as bright as those of a picture, from 0 to 1."""
    return PICTURE[0] <= unit(numbers) * BRIGHTEST <= PICTURE[1]
