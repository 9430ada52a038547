"""What weather files say in other words: units, times, longitudes, codes, tables, names."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import xarray

from inverse.errors import InputError
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.grid import Grid, west_to_east
from inverse_problems.atmosphere.gridded_fields import conformed, read_fields, window_of
from inverse_problems.atmosphere.input_files import MeasurementFiles
from inverse_problems.atmosphere.noise_levels import NoiseLevels
from inverse_problems.atmosphere.observation_files import holds_points, read_observations
from inverse_problems.atmosphere.observations import admitted
from inverse_problems.atmosphere.tables import time_of
from inverse_problems.atmosphere.units import conversion

LAT, LON = np.linspace(58, 50, 9), np.linspace(-10, 2, 13)
UK = Domain(("t2m",), ("K",), Grid.of(LAT, LON))
FIELD = 280 + np.arange(9)[:, None] + 0.1 * np.arange(13)


def dataset(values=FIELD, units="K", lon=LON, **attributes):
    item = xarray.DataArray(
        values, dims=("latitude", "longitude"), attrs={"units": units, **attributes}
    )
    coordinates = {"latitude": LAT, "longitude": lon}
    return xarray.Dataset({"t2m": item}, coordinates)


def stored(path, data):
    data.to_netcdf(path, engine="h5netcdf")
    return path


# --- units --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "spellings"),
    [
        ("K", "K|k|Kelvin|kelvins|deg K|degree_Kelvin|degrees kelvin"),
        ("degC", "degC|deg C|deg_C|degree_C|degrees_C|degrees Celsius|degree celsius|°C|℃|º C|C"),
        ("degF", "degF|deg F|degrees Fahrenheit|fahrenheit"),
        ("hPa", "hPa|hpa|mb|mbar|millibar|Millibars|hectopascal"),
        ("Pa", "Pa|pascal|Pascals|N m-2|N/m2|N m**-2"),
        ("m s-1", "m s-1|m s**-1|m/s|m.s-1|m s^-1|m s^{-1}|meters per second|m·s-1"),
        ("knot", "kt|kts|knot|knots"),
        ("m2 s-2", "m2 s-2|m**2 s**-2|m^2/s^2|m^2 s^-2|m2/s2|J kg-1|J/kg"),
        ("m", "m|gpm|metre|meters|geopotential metre"),
        ("g kg-1", "g/kg|g kg-1|g kg**-1"),
    ],
)
def test_usual_spellings_of_a_unit_are_one_unit(target, spellings):
    for spelling in spellings.split("|"):
        assert conversion(spelling, target, "x") == pytest.approx((1, 0)), spelling


@pytest.mark.parametrize("unit", ["degrees", "C/km", "kPa s-1", "K m-1", "furlong"])
def test_other_units_are_refused(unit):
    with pytest.raises(InputError, match="do not convert to K"):
        conversion(unit, "K", "x")


@pytest.mark.parametrize("units", ["", "unknown"])
def test_a_grib_unit_stands_in(tmp_path, units):
    data = dataset(FIELD - 273.15, units, GRIB_units="C")
    fields, _ = conformed(read_fields(stored(tmp_path / "a.nc", data)), UK, tmp_path)
    np.testing.assert_allclose(fields.values[0, 0], FIELD)


# --- times --------------------------------------------------------------------------------------


def series(name, **attributes):
    hours = xarray.DataArray(
        [0, 1, 2],
        dims=name,
        attrs={"units": "hours since 2019-03-25 11:00", **attributes},
    )
    values = xarray.DataArray(
        np.stack([FIELD - 1, FIELD, FIELD + 1]),
        dims=(name, "latitude", "longitude"),
        attrs={"units": "K"},
    )
    return xarray.Dataset({"t2m": values}, {name: hours, "latitude": LAT, "longitude": LON})


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("time", {}),
        ("valid_time", {}),
        ("obs_time", {}),
        ("stunde", {"standard_name": "time"}),
        ("z", {"axis": "T"}),
        ("when", {}),
    ],
)
def test_the_axis_of_times_has_any_name(tmp_path, name, attributes):
    fields = read_fields(stored(tmp_path / "a.nc", series(name, **attributes)))
    chosen, start = window_of(fields, "2019-03-25T12", tmp_path)
    np.testing.assert_allclose(chosen[0], FIELD)
    assert str(start) == "2019-03-25T12:00"


SINCE = "hours since 2019-03-24"


def test_the_start_of_a_forecast_is_not_its_time(tmp_path):
    data = dataset().assign_coords(
        time=(
            (),
            0,
            {"units": "hours since 2019-03-24", "standard_name": "forecast_reference_time"},
        ),
        step=((), 36, {"units": "hours", "standard_name": "forecast_period"}),
        valid_time=((), 36, {"units": "hours since 2019-03-24", "standard_name": "time"}),
    )
    assert str(read_fields(stored(tmp_path / "a.nc", data)).times[0])[:16] == "2019-03-25T12:00"


def _stations(path, heading="station,latitude,longitude,time,t2m [K]"):
    path.write_text(f"{heading}\nA,55,-4,2019-03-25T12:00,281\nB,52,-1,2019-03-25T12:00,283\n")
    return path


def test_stations_with_times_need_the_time_of_the_field(tmp_path):
    field = stored(tmp_path / "a.nc", dataset())
    files = MeasurementFiles(field, _stations(tmp_path / "s.csv"))
    with pytest.raises(InputError, match=r"its observations have times, .*a\.nc has none"):
        files.scene(UK, NoiseLevels(1.0, 1.0, {}))
    at_noon = MeasurementFiles(field, files.stations, time="2019-03-25T12")
    assert len(at_noon.scene(UK, NoiseLevels(1.0, 1.0, {}))[0].used) == 2
    later = MeasurementFiles(field, files.stations, time="2019-03-26T12")
    with pytest.raises(InputError, match="no observation is left"):
        later.scene(UK, NoiseLevels(1.0, 1.0, {}))


@pytest.mark.parametrize(
    "text",
    [
        "2019-03-25T12:00",
        "2019-03-25 12:00:00",
        "2019-03-25T12:00:00Z",
        "2019-03-25 12:00 UTC",
        "2019-03-25T14:00+02:00",
        "2019-03-25 07:00 -0500",
        "2019/03/25 12:00",
        "25.03.2019 12:00",
    ],
)
def test_times_of_tables(text):
    assert str(time_of(text, "x")) == "2019-03-25T12:00"


@pytest.mark.parametrize("text", ["03/25/2019 12:00", "noon", "2019-13-25"])
def test_ambiguous_times_are_refused(text):
    with pytest.raises(InputError, match="expected a time"):
        time_of(text, "x")


# --- longitudes ---------------------------------------------------------------------------------

ARRANGED = {
    "east of Greenwich": LON % 360,
    "sorted within 0 to 360": np.sort(LON % 360),
    "falling": LON[::-1],
    "falling within 0 to 360": np.sort(LON % 360)[::-1],
    "from 350": LON + 360,
}


@pytest.mark.parametrize("name", ARRANGED)
def test_longitudes_in_any_convention_and_order(tmp_path, name):
    lon = ARRANGED[name]
    columns = [int(np.abs((LON - x + 180) % 360 - 180).argmin()) for x in lon]
    data = dataset(FIELD[:, columns], lon=lon)
    fields, _ = conformed(read_fields(stored(tmp_path / "a.nc", data)), UK, tmp_path)
    np.testing.assert_allclose(fields.values[0, 0], FIELD)


@pytest.mark.parametrize("start", [0, -180, 90, -3])
@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize("cyclic", [False, True])
def test_global_longitudes(start, falling, cyclic):
    lon = start + np.arange(0, 360 + cyclic * 3, 3.0)
    lon = lon[::-1] if falling else lon
    columns, east = west_to_east(lon)
    assert len(columns) == 120
    np.testing.assert_allclose(np.diff(east), 3)
    np.testing.assert_allclose((lon[columns] - east) % 360, 0)


def test_longitudes_across_the_date_line():
    lon = np.array([170.0, 175, 180, -175, -170])
    columns, east = west_to_east(lon)
    assert columns.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(east, [170, 175, 180, 185, 190])


# --- missing values -----------------------------------------------------------------------------

CODES = (
    "-999",
    "-9999",
    "9999",
    "999.9",
    "-99.9",
    "-99",
    "99999",
    "-32768",
    "1e20",
    "NaN",
    "",
    "M",
)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("unit", ["K", "degC"])
def test_usual_codes_of_a_missing_value_are_left_out(tmp_path, code, unit):
    shift = 273 if unit == "degC" else 0
    lines = [f"S{i},{55 - i},-4,{281 - shift}" for i in range(3)]
    (tmp_path / "s.csv").write_text(
        "\n".join([f"station,latitude,longitude,t2m [{unit}]", *lines, f"X,51,-3,{code}"])
    )
    table, notes = admitted(read_observations(tmp_path / "s.csv"), UK, "s.csv")
    assert list(table.station) == ["S0", "S1", "S2"]
    assert len(notes) == 1


@pytest.mark.parametrize(
    "attributes",
    [
        {"valid_range": np.array([200.0, 350.0])},
        {"valid_min": 200.0},
        {"valid_max": 350.0, "valid_min": 0.0},
        {},
    ],
)
def test_values_out_of_range_are_missing(tmp_path, attributes):
    values = FIELD.copy()
    values[2, 3] = 9999 if "valid_max" in attributes else 99
    data = dataset(values, **attributes)
    fields, missing = conformed(read_fields(stored(tmp_path / "a.nc", data)), UK, tmp_path)
    assert missing == 1
    assert np.isnan(fields.values[0, 0, 2, 3])


# --- content, tables, names ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FIELD.NC", "field.netcdf", "download", "a.csv"])
def test_a_field_is_known_by_its_content(tmp_path, name):
    path = stored(tmp_path / name, dataset())
    assert not holds_points(path)
    np.testing.assert_allclose(read_fields(path).values[0, 0], FIELD)


ROWS = [("A", "55.25", "-4.5", "281.73"), ("B", "52.5", "-1.25", "283.01")]
HEAD = ("station", "latitude", "longitude", "t2m [K]")


def _text(separator, comma):
    rows = [[cell.replace(".", ",") if comma else cell for cell in row] for row in ROWS]
    return "\n".join(separator.join(row) for row in [HEAD, *rows]) + "\n"


@pytest.mark.parametrize(
    ("separator", "comma"), [(",", False), (";", False), (";", True), ("\t", True), ("|", False)]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "gzip"])
@pytest.mark.parametrize("suffix", ["csv", "txt"])
def test_tables_of_spreadsheets(tmp_path, separator, comma, encoding, suffix):
    text, path = _text(separator, comma), tmp_path / f"s.{suffix}"
    if encoding == "cp1252":
        text = text.replace("B", "Bø")
    data = gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding)
    path.write_bytes(data)
    table = read_observations(path)
    np.testing.assert_allclose(table.value, [281.73, 283.01])
    np.testing.assert_allclose(table.latitude, [55.25, 52.5])


@pytest.mark.parametrize(
    "heading",
    [
        "Station;Lat;Lon;time;t2m [K]",
        "id;LATITUDE;LONGITUDE;valid_time;t2m (K)",
        "station_id;lat;lng;timestamp;t2m [K]",
        ";wmo id;lat;long;date;t2m [K];elevation [m];name",
    ],
)
def test_synonyms_of_headings(tmp_path, heading):
    names = heading.split(";")
    row = dict.fromkeys(names, "0") | {names[-1]: "Leeds"}
    cells = ["A", "55", "-4", "2019-03-25 12:00", "281"]
    row |= dict(zip([name for name in names if name][:5], cells, strict=True))
    (tmp_path / "s.csv").write_text(heading + "\n" + ";".join(row[n] for n in names) + "\n")
    table = read_observations(tmp_path / "s.csv")
    assert (table.station[0], table.value[0], str(table.time[0])[:13]) == (
        "A",
        281,
        "2019-03-25T12",
    )


def test_a_missing_column_names_what_was_found(tmp_path):
    (tmp_path / "s.csv").write_text("place;t2m [K]\nA;3\n")
    with pytest.raises(InputError, match=r"found place, t2m \[K\] \(separated by semicolons\)"):
        read_observations(tmp_path / "s.csv")


@pytest.mark.parametrize("identifier", ["cf_role", "station_id", "wmo number", "none"])
def test_points_are_named_by_their_identifier(tmp_path, identifier):
    data = xarray.Dataset(
        {
            "platform": ("obs", np.array(["SYNOP", "SYNOP", "SYNOP"], object)),
            "t2m": ("obs", [281.0, 282, 283], {"units": "K"}),
            "quality": ("obs", [0, 0, 1], {"flag_values": [0, 1]}),
            "latitude": ("obs", [55.0, 54, 53]),
            "longitude": ("obs", [-4.0, -3, -2]),
        }
    )
    names = ["03001", "03002", "03003"]
    if identifier == "cf_role":
        data["who"] = ("obs", np.array(names, object), {"cf_role": "timeseries_id"})
    elif identifier == "station_id":
        data["station_id"] = ("obs", np.array(names, object))
    elif identifier == "wmo number":
        data["wmo_id"] = ("obs", np.array([3001, 3002, 3003]))
    table = read_observations(stored(tmp_path / "p.nc", data))
    assert len(set(table.station)) == 3
    assert set(table.variable) == {"t2m"}
