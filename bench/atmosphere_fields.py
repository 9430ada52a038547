"""Write data/atmosphere: held-out hours, the IGRA station list and two soundings.

    python bench/atmosphere_fields.py "$INVERSE_DATA/atmosphere" data/atmosphere

Days 1 to 21 of the hourly fields of March 2019 are for training, days 22 to 24 for validation, and
days 25 to 31 are held out.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from options import new_parser

from inverse_problems.atmosphere.gridded_fields import GriddedFields, read_fields
from inverse_problems.atmosphere.igra import read_soundings, read_station_list
from inverse_problems.atmosphere.netcdf import package, write

WINDOW = ("2019-03-28T06", "2019-03-28T17")
"""Twelve consecutive hours, of a morning and an afternoon."""
HOURS = ("25T12", "26T00", "27T06", "28T15", "29T03", "30T18", "31T09", "31T21")
LICENCE = (
    "Generated using Copernicus Climate Change Service information 2019; "
    "contains modified Copernicus Climate Change Service information"
)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("source", type=Path, help="folder of ERA5 fields and radiosonde data")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    fields = read_fields(arguments.source / "era5_t2m_uk_2019-03.nc", ("t2m",))
    hours = np.isin(fields.times, [np.datetime64(f"2019-03-{hour}") for hour in HOURS])
    window = (fields.times >= np.datetime64(WINDOW[0])) & (fields.times <= np.datetime64(WINDOW[1]))
    for name, rows in (("hours", hours), ("window", window)):
        write(arguments.out / f"era5-uk-t2m-{name}.nc", dataset(fields, rows))

    stations = (arguments.source / "radiosonde" / "igra2-station-list.txt").read_bytes()
    (arguments.out / "igra2-station-list.txt.gz").write_bytes(gzip.compress(stations, mtime=0))
    archive = (arguments.source / "radiosonde" / "AUM00011035-data.txt.gz").read_bytes()
    vienna = gzip.decompress(archive).split(b"\n#")
    (arguments.out / "AUM00011035-excerpt.txt").write_bytes(b"\n#".join(vienna[:2]) + b"\n")

    assert len(read_station_list(arguments.out / "igra2-station-list.txt.gz")) > 2000
    assert len(read_soundings(arguments.out / "AUM00011035-excerpt.txt")) == 2
    for path in sorted(arguments.out.iterdir()):
        print(f"{path.stat().st_size:8d} {path}")


def dataset(fields: GriddedFields, rows: np.ndarray) -> Any:
    """A CF dataset of some of the hours (boolean rows)."""
    grid, values = fields.domain.grid, fields.values[rows, 0].astype(np.float32)
    hours = (fields.times[rows] - np.datetime64("2019-03-01")) / np.timedelta64(1, "h")
    names = {"units": "K", "standard_name": "air_temperature", "long_name": "2 metre temperature"}
    time = {"units": "hours since 2019-03-01", "calendar": "standard", "standard_name": "time"}
    north = {"units": "degrees_north", "standard_name": "latitude"}
    east = {"units": "degrees_east", "standard_name": "longitude"}
    return package("xarray").Dataset(
        {"t2m": (("time", "latitude", "longitude"), values, names)},
        {
            "time": ("time", hours.astype(np.int32), time),
            "latitude": ("latitude", np.array(grid.latitudes), north),
            "longitude": ("longitude", np.array(grid.longitudes), east),
        },
        {
            "Conventions": "CF-1.11",
            "split": "held out: not among the days of any shipped prior",
            "source": "ERA5 hourly 2 metre temperature over the United Kingdom",
            "licence": LICENCE,
        },
    )


if __name__ == "__main__":
    main()
