"""Units of meteorological variables, in the spelling of the CF conventions and common variants.

Angles and times are not converted.
"""

from __future__ import annotations

import re

import numpy as np

from inverse.errors import InputError

GRAVITY = 9.80665
"""Standard gravity (m s-2), which turns geopotential height (m) into geopotential (m2 s-2)."""

_KNOWN: dict[str, tuple[str, float, float]] = {
    "K": ("K", 1, 0),
    "degC": ("K", 1, 273.15),
    "degF": ("K", 5 / 9, 459.67 * 5 / 9),
    "m2 s-2": ("m2 s-2", 1, 0),
    "m": ("m2 s-2", GRAVITY, 0),
    "km": ("m2 s-2", 1000 * GRAVITY, 0),
    "dam": ("m2 s-2", 10 * GRAVITY, 0),
    "m s-1": ("m s-1", 1, 0),
    "knot": ("m s-1", 1852 / 3600, 0),
    "km h-1": ("m s-1", 1 / 3.6, 0),
    "Pa": ("Pa", 1, 0),
    "hPa": ("Pa", 100, 0),
    "kPa": ("Pa", 1000, 0),
    "kg kg-1": ("kg kg-1", 1, 0),
    "g kg-1": ("kg kg-1", 1e-3, 0),
    "%": ("1", 0.01, 0),
    "1": ("1", 1, 0),
}
"""Unit -> (base unit, a, b), with base = a * value + b.

Heights are geopotential divided by standard gravity.
"""

_SPELLINGS = {
    "K": "k kelvin kelvins degk degreek degreesk degreekelvin degreeskelvin degkelvin",
    "degC": "c celsius centigrade degc degreec degreesc degreecelsius degreescelsius degcelsius",
    "degF": "f fahrenheit degf degreef degreesf degreefahrenheit degreesfahrenheit degfahrenheit",
    "m2 s-2": "m2s-2 m2/s2 m2/s^2 j/kg jkg-1",
    "m": "gpm m meter metre meters metres geopotentialmeter geopotentialmetre geopotentialmeters"
    " geopotentialmetres",
    "km": "km kilometer kilometre kilometers kilometres gpkm",
    "dam": "dam gpdam dgpm decameter decametre decameters decametres",
    "m s-1": "ms-1 m/s m/sec msec-1 mps meterspersecond metrespersecond meterpersecond"
    " metrepersecond",
    "knot": "kt kts knot knots kn",
    "km h-1": "km/h kmh-1 kph kmh kilometersperhour kilometresperhour",
    "Pa": "pa pascal pascals n/m2 nm-2",
    "hPa": "hpa mb mbar millibar millibars mbars hectopascal hectopascals",
    "kPa": "kpa kilopascal kilopascals",
    "kg kg-1": "kgkg-1 kg/kg",
    "g kg-1": "gkg-1 g/kg",
    "%": "% percent pct",
    "1": "1 0-1 (0-1) fraction dimensionless",
}
"""Unit -> its spellings in lower case, without spaces, underscores, dots and signs of powers."""

_CANONICAL = {spelling: unit for unit, text in _SPELLINGS.items() for spelling in text.split()}

PLAUSIBLE = {
    "K": (140.0, 350.0),
    "Pa": (0.0, 120_000.0),
    "m s-1": (-150.0, 150.0),
    "m2 s-2": (-20_000.0, 1_000_000.0),
    "kg kg-1": (-0.01, 0.2),
}
"""Base unit -> range of values on Earth."""


def conversion(unit: str | None, target: str, source: str) -> tuple[float, float]:
    """(a, b) such that a * value + b converts a value in `unit` to `target`.

    Args:
        source: beginning of the error message.

    Raises: InputError if the unit is missing, unknown or of another quantity.
    """
    if unit is None or not str(unit).strip():
        raise InputError(
            f"{source}: has no units; expected {target} or a unit that converts to it "
            f"({', '.join(_alike(target))})"
        )
    known, wanted = _KNOWN.get(_canonical(unit)), _KNOWN.get(_canonical(target))
    if wanted is None:
        raise InputError(
            f"{source}: the prior's unit '{target}' is unknown; known: {', '.join(_KNOWN)}"
        )
    if known is None or known[0] != wanted[0]:
        raise InputError(
            f"{source}: units '{unit}' do not convert to {target}; "
            f"expected one of {', '.join(_alike(target))}"
        )
    return known[1] / wanted[1], (known[2] - wanted[2]) / wanted[1]


def plausible(unit: str) -> tuple[float, float]:
    """Range of plausible values in a known unit, infinite for quantities without a known range."""
    base, a, b = _KNOWN[_canonical(unit)]
    low, high = PLAUSIBLE.get(base, (-float("inf"), float("inf")))
    return (low - b) / a, (high - b) / a


def is_impossible(values: np.ndarray | float, unit: str) -> np.ndarray:
    """Where values in a known unit lie outside the range on Earth: boolean, same shape."""
    values = np.asarray(values)
    low, high = plausible(unit)
    with np.errstate(invalid="ignore"):
        return (values < low) | (values > high)


def check_plausible(values: np.ndarray, unit: str, source: str, stated: str) -> None:
    """Check that values are plausible for a quantity in this unit.

    Args:
        values: values in `unit`; NaN is ignored.
        source: beginning of the error message.
        stated: unit that the file states.

    Raises: InputError if more than half of the values are out of the plausible range.
    """
    present = values[~np.isnan(values)]
    if len(present) and is_impossible(present, unit).mean() > 0.5:
        raise InputError(
            f"{source}: units are said to be '{stated}', but its values are then "
            f"{present.min():.4g} to {present.max():.4g} {unit}; correct the units attribute"
        )


def _canonical(unit: str) -> str:
    """The spelling of a unit in `_KNOWN`, or the unit itself."""
    text = str(unit).strip()
    if text in _KNOWN:
        return text
    squeezed = text.lower().replace("℃", "degc").replace("°", "deg").replace("º", "deg")
    return _CANONICAL.get(re.sub(r"\*\*|[\s_.·*^{}]", "", squeezed), text)


def _alike(unit: str) -> list[str]:
    """The known units that convert to a unit."""
    base = _KNOWN.get(_canonical(unit), (unit,))[0]
    return [name for name, (other, *_) in _KNOWN.items() if other == base] or [unit]
