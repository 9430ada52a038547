"""Observations: files, units, quality control, thinning, withholding, simulation, noise."""

from __future__ import annotations

import csv
import gzip
import importlib.resources
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from conftest import normal

import inverse
from inverse.errors import InputError
from inverse_problems.atmosphere import observation_files, observations, station_network
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.grid import Grid, distance
from inverse_problems.atmosphere.igra import lines, read_soundings, read_station_list
from inverse_problems.atmosphere.noise_estimation import estimated_sigma
from inverse_problems.atmosphere.units import conversion

DATA = Path(str(importlib.resources.files("inverse_data"))) / "atmosphere"
VIENNA = (
    Path(__file__).parents[4]
    / "shared"
    / "data"
    / "atmosphere"
    / "radiosonde"
    / "AUM00011035-data.txt.gz"
)
UK = Domain(("t2m",), ("K",), Grid.of(np.linspace(58, 50, 33), np.linspace(-10, 2, 49)))
LEVELS = Domain(
    ("t_850", "z_850"), ("K", "m2 s-2"), Grid.of(np.linspace(90, -90, 61), np.arange(0, 360, 3.0))
)


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# --- IGRA -------------------------------------------------------------------------------------


def test_a_sounding_has_the_values_of_the_file():
    """The first sounding of the excerpt (Vienna, 23 January 2015, 12 UTC), read by eye."""
    first, second = read_soundings(DATA / "AUM00011035-excerpt.txt")
    assert (first.station, first.latitude, first.longitude, str(first.time)) == (
        "AUM00011035",
        48.2333,
        16.35,
        "2015-01-23T12",
    )
    assert len(first.levels["pressure"]) == 123
    assert first.at("temperature", 850) == pytest.approx(-1.5)
    assert first.at("height", 850) == 1441
    assert first.at("wind_speed", 925) == pytest.approx(12.0)
    assert first.at("dewpoint_depression", 500) == pytest.approx(8.0)
    assert np.isnan(first.at("temperature", 811))
    assert np.isnan(first.at("temperature", 812.3))
    assert first.flags["temperature"][0] == "B"
    assert first.removed == 0
    assert second.time > first.time


def test_flags_and_special_values(tmp_path):
    """-8888 is a removed value, -9999 a missing one; `checked` requires both checks."""
    text = (
        "#AUM00011035 2015 01 23 99 1134    3 ncdc-gts           482333   163500\n"
        "10 -9999  85000  1441A  -15 -9999    22   340   120 \n"
        "10 -9999  50000 -8888 -8888 -9999 -9999 -9999 -9999 \n"
        "20 -9999  46900 -9999   -25B-9999    20 -9999 -9999 \n"
    )
    (sounding,) = read_soundings(table(tmp_path / "x.txt", text))
    assert np.isnat(sounding.time)
    assert (sounding.removed, sounding.missing) == (2, 9)
    assert sounding.at("temperature", 850) == pytest.approx(-1.5)
    assert np.isnan(sounding.at("temperature", 850, checked=True))
    assert sounding.at("temperature", 469, checked=True) == pytest.approx(-2.5)


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (lambda t: t[: len(t) // 3], "fewer follow"),
        (lambda t: "x" + t, "expected an IGRA header"),
        (lambda t: t.replace("123 ncdc", "abc ncdc", 1), "not an IGRA header"),
        (lambda t: t.replace("99200B", "9x200B", 1), "not an IGRA level"),
        (lambda t: "", "is empty"),
    ],
)
def test_damaged_soundings_are_refused_with_the_line_number(tmp_path, cut, words):
    whole = (DATA / "AUM00011035-excerpt.txt").read_text()
    with pytest.raises(InputError, match=words):
        read_soundings(table(tmp_path / "bad.txt", cut(whole)))


def test_a_truncated_archive_is_refused(tmp_path):
    path = tmp_path / "cut.txt.gz"
    path.write_bytes(gzip.compress((DATA / "AUM00011035-excerpt.txt").read_bytes())[:900])
    with pytest.raises(InputError, match="not readable"):
        read_soundings(path)


@pytest.mark.skipif(not VIENNA.exists(), reason="the shared data are not available")
def test_the_full_vienna_file_is_read():
    soundings = read_soundings(VIENNA)
    assert len(soundings) == 321
    assert all(s.station == "AUM00011035" for s in soundings)
    reported = [s.at("temperature", 500) for s in soundings]
    assert np.nanmin(reported) > -45
    assert np.nanmax(reported) < -5
    assert np.isnan(reported).sum() < 20


RAOB = "station,valid,pres,hght,tmpc,dwpc,drct,sknt\n"


def test_a_table_of_soundings_is_read(tmp_path):
    """Norman, Oklahoma, reports two of four values; an unknown station has no place."""
    path = table(
        tmp_path / "raob.csv",
        RAOB
        + "KOUN,1999-05-04,850.0,1430.0,16.2,,,\n"
        + "KOUN,1999-05-04,500.0,,-12.5,,,\n"
        + "XXXX,1999-05-04,850.0,1430.0,16.2,,,\n",
    )
    seen, notes = observations.admitted(observation_files.read_observations(path), LEVELS, "raob")
    assert dict(zip(seen.variable, seen.value, strict=True)) == {
        "t_850": pytest.approx(289.35),
        "z_850": pytest.approx(1430 * 9.80665),
    }
    assert (seen.latitude[0], seen.longitude[0]) == (35.1808, -97.4378)
    assert notes == [
        "4 of 8 observations left out: not one of the prior's variables (t_850, z_850)",
        "2 of 4 observations left out: missing values",
    ]


@pytest.mark.skipif(not VIENNA.exists(), reason="the shared data are not available")
def test_stations_of_tables_match_the_list_by_elevation():
    """113 of 116 soundings begin within 40 m of the listed elevation.

    Two others lack the lowest levels; the station of Mexico City has moved.
    """
    rows = list(csv.DictReader(lines(VIENNA.parent / "raob_1999-05-04T00.csv.gz")))
    ground = {}
    for row in rows:
        if row["tmpc"] and row["hght"]:
            ground.setdefault(row["station"], float(row["hght"]))
    elevation = {s.id: s.elevation for s in read_station_list(DATA / "igra2-station-list.txt.gz")}
    pairs = {row["raob"]: row["igra"] for row in csv.DictReader(lines(DATA / "raob-stations.csv"))}
    assert set(ground) - set(pairs) == {"KSIC"}
    apart = {name: abs(ground[name] - elevation[igra]) for name, igra in pairs.items()}
    assert {name for name, gap in apart.items() if gap > 40} == {"CYSA", "CYYQ", "KMEX"}
    assert np.median(list(apart.values())) < 2


def test_the_station_list_has_fixed_stations():
    stations = read_station_list(DATA / "igra2-station-list.txt.gz")
    camborne = next(s for s in stations if s.id == "UKM00003808")
    assert (camborne.latitude, camborne.longitude, camborne.name, camborne.first_year) == (
        50.2183,
        -5.3275,
        "CAMBORNE",
        1949,
    )
    assert all(abs(s.latitude) <= 90 and abs(s.longitude) <= 360 for s in stations)
    assert not [s for s in stations if s.id.startswith("ZZV0000DBBH")]


def test_soundings_become_observations():
    seen, _ = observations.admitted(
        observation_files.from_soundings(
            read_soundings(DATA / "AUM00011035-excerpt.txt")[:1], (850.0, 500.0)
        ),
        LEVELS,
        "vienna",
    )
    assert dict(zip(seen.variable, seen.value, strict=True)) == {
        "t_850": pytest.approx(271.65),
        "z_850": pytest.approx(1441 * 9.80665),
    }


# --- tables and points ------------------------------------------------------------------------

CSV = """station,latitude,longitude,t2m [degC],t2m_sigma [K]
A,51.5,-0.1,10.0,0.3
B,53.0,357.0,,0.3
C,55.0,-4.0,-9999,
D,48.0,-4.0,12.0,
A,51.5,-0.1,11.0,
E,52.0,-2.0,9.5,
"""


def test_a_table_is_read_checked_and_counted(tmp_path):
    seen, notes = observations.admitted(
        observation_files.read_observations(table(tmp_path / "s.csv", CSV)), UK, "s.csv"
    )
    assert seen.station.tolist() == ["A", "E"]
    assert seen.value.tolist() == [pytest.approx(283.15), pytest.approx(282.65)]
    assert seen.sigma[0] == pytest.approx(0.3)
    assert np.isnan(seen.sigma[1])
    assert [note.split(":")[0] for note in notes] == [
        "2 of 6 observations left out",
        "1 of 4 observations left out",
        "1 of 3 observations left out",
    ]
    assert ["missing" in notes[0], "outside" in notes[1], "second value" in notes[2]] == [True] * 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "station,latitude,longitude,t2m\nA,51,0,280\n",
            "column 't2m' has no units; write e.g. 't2m \\[K\\]'",
        ),
        ("station,latitude,longitude,t2m [hPa]\nA,51,0,280\n", "'hPa' do not convert to K"),
        ("station,latitude,longitude,t2m [furlong]\nA,51,0,280\n", "'furlong' do not convert to K"),
        (
            "station,latitude,longitude,t2m [K]\nA,51,0,12\nB,52,0,9\n",
            "said to be 'K', but its values are then 9 to 12 K",
        ),
        (
            "station,latitude,longitude,wind [m s-1]\nA,51,0,12\n",
            "no observation is left; 1 of 1 observations left out: not one of the prior's",
        ),
        (
            "station,latitude,longitude,t2m [K]\nA,10,0,280\nB,11,0,280\n",
            "no observation is left; 2 of 2",
        ),
        ("station,latitude,t2m [K]\nA,10,280\n", "has no column longitude"),
        (
            "station,latitude,longitude,t2m [K]\nA,51,0,warm\n",
            "line 2, column 't2m \\[K\\]': expected a number, found 'warm'",
        ),
        ("station,latitude,longitude,t2m [K]\n", "holds no observation"),
        ("station,latitude,longitude,t2m [K],t2m_sigma [K]\nA,51,0,280,-1\n", "not positive"),
        ("", "has no column station, latitude, longitude"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        observations.admitted(
            observation_files.read_observations(table(tmp_path / "bad.csv", text)), UK, "bad.csv"
        )


def points(path: Path, **attributes) -> Path:
    places = {
        "latitude": ("obs", [51.0, 52.0, 53.0]),
        "longitude": ("obs", [0.0, 359.0, -3.0]),
        "name": ("obs", ["A", "B", "C"]),
    }
    xarray.Dataset(
        places | {"t2m": ("obs", [280.0, np.nan, 279.0], attributes or {"units": "K"})}
    ).to_netcdf(path, engine="h5netcdf")
    return path


def test_netcdf_points_are_read(tmp_path):
    path = points(tmp_path / "p.nc")
    assert observation_files.holds_points(path)
    seen, notes = observations.admitted(observation_files.read_observations(path), UK, "p.nc")
    assert (seen.station.tolist(), seen.value.tolist()) == (["A", "C"], [280.0, 279.0])
    assert notes == ["1 of 3 observations left out: missing values"]


def test_points_without_units_are_refused(tmp_path):
    with pytest.raises(InputError, match="t2m: has no units"):
        observations.admitted(
            observation_files.read_observations(points(tmp_path / "p.nc", long_name="?")),
            UK,
            "p.nc",
        )


@pytest.mark.parametrize(
    ("unit", "to", "value", "expected"),
    [
        ("degC", "K", 0.0, 273.15),
        ("degF", "K", 212.0, 373.15),
        ("K", "degC", 273.15, 0.0),
        ("gpm", "m2 s-2", 100.0, 980.665),
        ("hPa", "Pa", 1.0, 100.0),
        ("m**2 s**-2", "m2 s-2", 5.0, 5.0),
        ("knots", "m s-1", 1.0, 0.514444),
        ("g/kg", "kg kg-1", 8.0, 0.008),
        ("m2 s-2", "m", 9.80665, 1.0),
    ],
)
def test_units_are_converted(unit, to, value, expected):
    a, b = conversion(unit, to, "x")
    assert a * value + b == pytest.approx(expected, rel=1e-5, abs=1e-9)


# --- thinning, withholding, simulation --------------------------------------------------------


def observed_at(places, values=None, sigma=0.6):
    values = np.arange(len(places), dtype=float) + 280 if values is None else values
    return observations.observations(
        [
            (f"S{i}", lat, lon, "t2m", "K", value, sigma)
            for i, ((lat, lon), value) in enumerate(zip(places, values, strict=True))
        ]
    )


def test_thinning_averages_clusters():
    """Three stations within 30 km, on both sides of the meridian, and a distant one."""
    seen = observed_at([(51.0, 0.1), (51.0, 359.9), (51.1, 0.0), (55.0, -3.0)])
    thin = observations.thinned(seen, 30.0)
    assert thin.value.tolist() == [pytest.approx(281.0), 283.0]
    assert thin.sigma.tolist() == [pytest.approx(0.6 / 3**0.5), pytest.approx(0.6)]
    assert thin.longitude[0] == pytest.approx(0.0, abs=1e-9)
    assert thin.station[0] == "S0 and 2 more"
    assert len(observations.thinned(seen, 0.0)) == 4


def test_thinning_keeps_the_number_of_observations():
    seen = observed_at(
        torch.rand(60, 2, generator=inverse.seeded("thin"), dtype=torch.float64)
        .mul(8)
        .add(torch.tensor([50.0, -10.0]))
        .tolist()
    )
    thin = observations.thinned(seen, 100.0)
    assert 5 < len(thin) < 60
    assert (
        sum(name.count("more") and int(name.split()[2]) for name in thin.station) + len(thin) == 60
    )


def test_withheld_stations_are_not_used():
    seen = replace(
        observed_at([(51.0 + i / 10, 0.0) for i in range(20)]),
        station=np.array([f"S{i // 2}" for i in range(20)], dtype=object),
    )
    used, back = observations.withheld(seen, 0.3)
    assert (len(used), len(back)) == (14, 6)
    assert not set(used.station) & set(back.station)
    assert observations.withheld(seen, 0.3)[1].sha256 == back.sha256
    assert observations.withheld(seen, 0.3, seed=1)[1].sha256 != back.sha256


def test_stations_are_chosen_from_the_list_first():
    stations = read_station_list(DATA / "igra2-station-list.txt.gz")
    network = station_network.choose_stations(stations, UK, 25)
    listed = {s.id for s in stations}
    assert all(s.id in listed for s in network)
    more = station_network.choose_stations(stations, UK, 50)
    assert [s.id for s in more[:25]] == [s.id for s in network]
    assert sum(s.id not in listed for s in more) == 50 - 29
    seen = station_network.observations_at(more, UK)
    assert bool(UK.grid.locate(*seen.places)[2].all())
    assert (
        seen.sha256
        == station_network.observations_at(
            station_network.choose_stations(stations, UK, 50), UK
        ).sha256
    )


def test_desroziers_estimates_the_noise():
    """Departures have noise of 0.7 K; the estimate starts at 2 K and is within 5 %."""
    lat, lon = torch.linspace(50, 58, 20), torch.linspace(-10, 2, 20)
    background = 4 * torch.exp(-0.5 * (distance((lat, lon), (lat, lon)) / 300) ** 2)
    root = torch.linalg.cholesky(background + 1e-9 * torch.eye(20, dtype=torch.float64))
    departures = normal(3000, 20, seed=1) @ root.T + 0.7 * normal(3000, 20, seed=2)
    assert estimated_sigma(departures, background, start=2.0, iterations=40) == pytest.approx(
        0.7, rel=0.05
    )
