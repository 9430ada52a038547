"""Data that ship with the problem: fields of ERA5, the IGRA station list, and their folder."""

from __future__ import annotations

import functools
import importlib.resources
from pathlib import Path

from inverse_problems.atmosphere.gridded_fields import GriddedFields, read_fields
from inverse_problems.atmosphere.igra import Station, read_station_list


def folder() -> Path:
    """Folder of the shipped fields, station lists and excerpts."""
    return Path(str(importlib.resources.files("inverse_data"))) / "atmosphere"


@functools.cache
def hours() -> GriddedFields:
    """Eight separate hours of 2 m temperature over the United Kingdom, K."""
    return read_fields(folder() / "era5-uk-t2m-hours.nc", ("t2m",))


@functools.cache
def consecutive_hours() -> GriddedFields:
    """Twelve consecutive hours of 2 m temperature over the United Kingdom, K."""
    return read_fields(folder() / "era5-uk-t2m-window.nc", ("t2m",))


@functools.cache
def stations() -> list[Station]:
    """The stations of the IGRA list that have a fixed place."""
    return read_station_list(folder() / "igra2-station-list.txt.gz")
