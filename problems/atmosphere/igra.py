"""Soundings and station list of the Integrated Global Radiosonde Archive (IGRA), version 2.

The files are fixed-width text. Source: NOAA NCEI, igra2-data-format.txt and igra2-list-format.txt.
The packages `igra` and `siphon` read only their own downloads, and do not distinguish values that
quality assurance removed (-8888) from missing values (-9999); this module counts both.
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
"""Variable -> first column, last column (exclusive, from 0) and factor to the units of `UNITS`."""
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
"""Column of the flag of a value's climatological checks.

Blank: it passed none; A: it passed the check of all days; B: also that of the time of year.
"""


@dataclass(frozen=True)
class Station:
    """A line of the station list: degrees, elevation in metres (NaN if unknown)."""

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
        station: identifier of the station.
        latitude, longitude: degrees.
        time: nominal time, datetime64 in hours; not-a-time if the hour is missing.
        levels: variable of `COLUMNS` -> (levels,), in `UNITS`, NaN where missing.
        flags: variable of `FLAGS` -> (levels,), "", "A" or "B".
        removed: number of values that quality assurance removed.
        missing: number of values that were not reported.
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
        """The value reported at a pressure level, in `UNITS`, NaN if none; without interpolation.

        Args:
            variable: one of `COLUMNS`.
            pressure: hPa.
            checked: accept a value with a flag only if it passed both checks (flag B).
        """
        rows = np.flatnonzero(np.isclose(self.levels["pressure"], pressure, atol=0.05))
        for row in rows:
            value = float(self.levels[variable][row])
            unchecked = variable in self.flags and self.flags[variable][row] != "B"
            if not np.isnan(value) and not (checked and unchecked):
                return value
        return float("nan")


def read_soundings(path: Path) -> list[Sounding]:
    """Every sounding of a station's file (text or .gz).

    Raises: InputError with the line number if the file is missing, of another format or truncated.
    """
    text = list(lines(path))
    soundings, index = [], 0
    if not text:
        raise InputError(f"{path}: is empty")
    while index < len(text):
        header, where = text[index], f"{path}, line {index + 1}"
        if not header.startswith("#"):
            raise InputError(
                f"{where}: expected an IGRA header that begins with '#', found '{header[:20]}'"
            )
        try:
            count = int(header[32:36])
            place = int(header[55:62]) / 1e4, int(header[63:71]) / 1e4
            time = _time(header)
        except ValueError as error:
            raise InputError(f"{where}: not an IGRA header ({error})") from error
        records = text[index + 1 : index + 1 + count]
        if len(records) < count or any(record.startswith("#") for record in records):
            raise InputError(
                f"{where}: the sounding has {count} levels, fewer follow; "
                "the file is truncated or damaged"
            )
        soundings.append(_sounding(header, place, time, records, f"{path}, line {index + 2}"))
        index += 1 + count
    return soundings


def read_station_list(path: Path) -> list[Station]:
    """The stations with a fixed place, in the order of the file.

    Raises: InputError with the line number if the file is missing or of another format.
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
        # a mobile station has latitude -98.8888 and longitude -998.8888
        if abs(station.latitude) <= 90 and abs(station.longitude) <= 360:
            stations.append(station)
    if not stations:
        raise InputError(f"{path}: is empty, expected the IGRA station list")
    return stations


def is_soundings(path: Path) -> bool:
    """Whether a file begins like IGRA soundings.

    Raises: InputError if it cannot be read.
    """
    return next(lines(path), "")[:1] == "#"


def _sounding(
    header: str, place: tuple[float, float], time: np.datetime64, records: list[str], where: str
) -> Sounding:
    levels, flags, absent = {}, {}, {REMOVED: 0, MISSING: 0}
    try:
        for name, (a, b, unit) in COLUMNS.items():
            raw = np.array([int(record[a:b]) for record in records], dtype=np.float64)
            for code in absent:
                absent[code] += int((raw == code).sum())
            levels[name] = np.where(np.isin(raw, list(absent)), np.nan, raw * unit)
    except ValueError as error:
        raise InputError(f"{where} on: not an IGRA level ({error})") from error
    for name, column in FLAGS.items():
        flags[name] = np.array([record[column].strip() for record in records])
    station = header[1:12].strip()
    return Sounding(station, *place, time, levels, flags, absent[REMOVED], absent[MISSING])


def _time(header: str) -> np.datetime64:
    year, month, day, hour = (int(header[a:b]) for a, b in ((13, 17), (18, 20), (21, 23), (24, 26)))
    return (
        np.datetime64("NaT", "h")
        if hour == 99
        else np.datetime64(f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}", "h")
    )


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, plain or .gz, without line ends.

    Raises: InputError if it is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="latin-1") as file:
            yield from (line.rstrip("\r\n") for line in file)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not readable ({error})") from error
