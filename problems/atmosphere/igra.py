"""IGRA version 2: the Integrated Global Radiosonde Archive's soundings and station list, fixed-width text.

Format: NOAA NCEI, igra2-data-format.txt and igra2-list-format.txt. The readers of `igra` and `siphon` are tied to their downloads and
do not tell a value that quality assurance removed (-8888) from one that never was (-9999); both are counted here.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inverse.errors import InputError

REMOVED, MISSING = -8888, -9999
COLUMNS = {
    "pressure": (9, 15, 0.01),
    "height": (16, 21, 1.0),
    "temperature": (22, 27, 0.1),
    "relative_humidity": (28, 33, 0.1),
    "dewpoint_depression": (34, 39, 0.1),
    "wind_direction": (40, 45, 1.0),
    "wind_speed": (46, 51, 0.1),
}
"""First and last column (from 0, exclusive) of each value and what it is counted in."""
UNITS = {
    "pressure": "hPa",
    "height": "m",
    "temperature": "degC",
    "relative_humidity": "%",
    "dewpoint_depression": "K",
    "wind_direction": "degree",
    "wind_speed": "m s-1",
}
FLAGS = {"pressure": 15, "height": 21, "temperature": 27}
"""Column of the flag that says which climatological checks a value passed: blank none, A those of all days, B those of the time of year too."""


@dataclass(frozen=True)
class Station:
    """One line of the station list; degrees, metres (NaN if unknown)."""

    id: str
    latitude: float
    longitude: float
    elevation: float
    name: str
    first_year: int
    last_year: int


@dataclass(frozen=True)
class Sounding:
    """One ascent.

    Args:
        station, latitude, longitude: where, degrees.
        time: nominal, datetime64 in hours; not-a-time where the hour is missing.
        levels: (levels,) of each of `COLUMNS`, in `UNITS`, NaN where there is no value.
        flags: (levels,) of each of `FLAGS`, "", "A" or "B".
        removed: values that quality assurance removed, over all levels.
        missing: values that never were.
    """

    station: str
    latitude: float
    longitude: float
    time: np.datetime64
    levels: dict[str, np.ndarray]
    flags: dict[str, np.ndarray]
    removed: int
    missing: int

    def at(self, variable: str, pressure: float, checked: bool = False) -> float:
        """The value reported at a pressure level (hPa), NaN if there is none; nothing is interpolated.

        Args:
            checked: only if it passed both climatological checks (flag B), of the variables that have flags.
        """
        rows = np.flatnonzero(np.isclose(self.levels["pressure"], pressure, atol=0.05))
        for row in rows:
            value = float(self.levels[variable][row])
            if not np.isnan(value) and not (
                checked and variable in self.flags and self.flags[variable][row] != "B"
            ):
                return value
        return float("nan")


def read_soundings(path: Path) -> list[Sounding]:
    """Every sounding of a station's file (text or .gz).

    Raises: InputError with the line if the file is missing, of another format or cut off.
    """
    text = list(lines(path))
    soundings, at = [], 0
    if not text:
        raise InputError(f"{path}: is empty")
    while at < len(text):
        header = text[at]
        if not header.startswith("#"):
            raise InputError(
                f"{path}, line {at + 1}: expected an IGRA header that begins with '#', found '{header[:20]}'"
            )
        try:
            count = int(header[32:36])
            place = int(header[55:62]) / 1e4, int(header[63:71]) / 1e4
            time = _time(header)
        except ValueError as error:
            raise InputError(f"{path}, line {at + 1}: not an IGRA header ({error})") from error
        records = text[at + 1 : at + 1 + count]
        if len(records) < count or any(record.startswith("#") for record in records):
            raise InputError(
                f"{path}, line {at + 1}: the sounding has {count} levels, fewer follow; the file is cut off or damaged"
            )
        soundings.append(_sounding(header, place, time, records, f"{path}, line {at + 2}"))
        at += 1 + count
    return soundings


def read_station_list(path: Path) -> list[Station]:
    """The stations that have a fixed place, in the order of the file.

    Raises: InputError with the line if the file is missing or of another format.
    """
    stations = []
    for number, line in enumerate(lines(path), 1):
        try:
            elevation = float(line[31:37])
            station = Station(
                line[:11],
                float(line[12:20]),
                float(line[21:30]),
                float("nan") if elevation < -900 else elevation,
                line[41:71].strip(),
                int(line[72:76]),
                int(line[77:81]),
            )
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: not a line of the IGRA station list ({error})"
            ) from error
        if (
            abs(station.latitude) <= 90 and abs(station.longitude) <= 360
        ):  # mobile ones have -98.8888 and -998.8888
            stations.append(station)
    if not stations:
        raise InputError(f"{path}: is empty, expected the IGRA station list")
    return stations


def is_soundings(path: Path) -> bool:
    """Whether a file begins like IGRA soundings."""
    return next(lines(path), "")[:1] == "#"


def _sounding(
    header: str, place: tuple[float, float], time: np.datetime64, records: list[str], where: str
) -> Sounding:
    levels, flags, gone = {}, {}, {REMOVED: 0, MISSING: 0}
    try:
        for name, (a, b, unit) in COLUMNS.items():
            raw = np.array([int(record[a:b]) for record in records], dtype=np.float64)
            for code in gone:
                gone[code] += int((raw == code).sum())
            levels[name] = np.where(np.isin(raw, list(gone)), np.nan, raw * unit)
    except ValueError as error:
        raise InputError(f"{where} on: not an IGRA level ({error})") from error
    for name, column in FLAGS.items():
        flags[name] = np.array([record[column].strip() for record in records])
    return Sounding(header[1:12].strip(), *place, time, levels, flags, gone[REMOVED], gone[MISSING])


def _time(header: str) -> np.datetime64:
    year, month, day, hour = (int(header[a:b]) for a, b in ((13, 17), (18, 20), (21, 23), (24, 26)))
    return (
        np.datetime64("NaT")
        if hour == 99
        else np.datetime64(f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}", "h")
    )


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, .gz or not."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="latin-1") as file:
            yield from (line.rstrip("\r\n") for line in file)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not readable ({error})") from error
