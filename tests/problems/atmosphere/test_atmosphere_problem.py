"""The problem and its command: shipped fields, files, bad files, closed-form posterior."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
import xarray

import inverse
from inverse.result import Result
from inverse_problems.atmosphere.domain import Domain, domain_of
from inverse_problems.atmosphere.grid import Grid
from inverse_problems.atmosphere.gridded_fields import read_fields
from inverse_problems.atmosphere.operators import coarsen
from inverse_problems.atmosphere.training_fields import load_fields

pytest_plugins = "cli_fixtures"

F64 = torch.float64


@pytest.fixture(scope="module")
def law():
    """The climatological Gaussian, whether or not the trained prior is installed."""
    return inverse.load_prior("era5-uk-t2m-gaussian")


@pytest.fixture(scope="module")
def domain(law):
    return domain_of(law)


@pytest.fixture(scope="module")
def hour():
    """A shipped field (1, 33, 49), K."""
    return inverse.get_problem("atmosphere").truths()[0]


@pytest.fixture
def fuse(command):
    """`inverse solve` with the climatology and few steps."""

    def run(*arguments, samples=2):
        given = () if "--prior" in arguments else ("--prior", "era5-uk-t2m-gaussian")
        return command(
            "solve",
            "--problem",
            "atmosphere",
            "--method",
            "multimodal",
            "--steps",
            4,
            "--samples",
            samples,
            *given,
            *arguments,
        )

    return run


def grid_file(path, values, grid, name="t2m", units="K", coordinates=None, **encoding):
    """A NetCDF file of one field (H, W) on a grid."""
    where = {
        "latitude": ("latitude", np.array(grid.latitudes), {"units": "degrees_north"}),
        "longitude": ("longitude", np.array(grid.longitudes), {"units": "degrees_east"}),
    }
    about = {} if units is None else {"units": units}
    xarray.Dataset(
        {name: (("latitude", "longitude"), np.asarray(values), about)}, coordinates or where
    ).to_netcdf(path, engine="h5netcdf", encoding=encoding)
    return path


def coarse_of(hour, domain, factor=4):
    return coarsen(domain.grid, factor).A(hour[None])[0, 0].numpy(), domain.grid.coarsened(factor)


# --- the problem ------------------------------------------------------------------------------


def test_the_shipped_hours_are_plausible(hour):
    truths = inverse.get_problem("atmosphere").truths()
    assert len(truths) == 8
    assert all(t.shape == (1, 33, 49) and t.min() > 265 and t.max() < 295 for t in truths)
    assert len({float(t.sum()) for t in truths}) == 8


def test_the_measurement_has_the_stated_noise(law, hour):
    """Residuals of area means and stations are standard normal in units of the noise, 0.5 K."""
    problem = inverse.get_problem("atmosphere")
    posterior = problem.posterior(torch.stack([hour] * 40), prior=law.double(), dtype=F64)
    assert posterior.operator.modalities == {"coarse": slice(0, 117), "stations": slice(117, 142)}
    residual = (posterior.y - problem.operator((1, 33, 49)).A(hour[None])) / 0.5
    assert float(residual.square().mean()) == pytest.approx(1, abs=0.06)
    assert {
        len(posterior.provenance["observations"][k]["station"]) for k in ("used", "withheld")
    } == {25, 5}


def test_the_closed_form_is_optimal_interpolation(hour):
    """Mean and variance from the Kalman gain of the dense covariance."""
    law = inverse.load_prior("era5-uk-t2m-gaussian").double()
    problem = inverse.get_problem("atmosphere", factor=8, count=10)
    posterior = problem.posterior(hour, prior=law, dtype=F64)
    exact = problem.exact(posterior.y)
    if exact is None:
        pytest.skip("a trained prior is installed, whose posterior has no closed form")
    H = torch.cat(
        [
            problem.operator((1, 33, 49))
            .A(torch.eye(1617, dtype=F64).reshape(-1, 1, 33, 49)[i : i + 400])
            .flatten(1)
            for i in range(0, 1617, 400)
        ]
    ).T
    C, y = law.scale**2 * law.covariance, posterior.y.flatten()
    gain = torch.linalg.solve(H @ C @ H.T + 0.25 * torch.eye(len(y), dtype=F64), H @ C).T
    mean = law.decode(law.mean).flatten() + gain @ (y - H @ law.decode(law.mean).flatten())
    torch.testing.assert_close(exact.mean.flatten(), mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        exact.covariance.diagonal(), (C - gain @ H @ C).diagonal(), rtol=0, atol=1e-6
    )


def test_mmps_draws_the_joint_analysis(hour):
    """64 members of the shipped problem.

    Tolerances: standard errors of the mean, and 9 % in each standard deviation, averaged over 1617
    points.
    """
    law = inverse.load_prior("era5-uk-t2m-gaussian").double()
    posterior = inverse.get_problem("atmosphere", factor=8, count=10).posterior(
        hour, prior=law, dtype=F64
    )
    matrix = posterior.operator.A(torch.eye(1617, dtype=F64).reshape(-1, 1, 33, 49)).flatten(1).T
    exact = inverse.Exact(
        law.given(matrix, posterior.noise.sigma.flatten(), posterior.y.flatten()), 0.0
    )
    samples = (
        inverse.solve(posterior, inverse.get_method("multimodal", steps=25), 64)
        .samples[0]
        .flatten(1)
    )
    variance = exact.covariance.diagonal()
    assert float(((samples.mean(0) - exact.mean.flatten()).square() / (variance / 64)).mean()) < 3
    assert float((samples.var(0) / variance).mean()) == pytest.approx(1, abs=0.1)


def test_diagnose_reads_weather_fields(command, hour, domain, tmp_path):
    files = [grid_file(tmp_path / f"{i}.nc", hour[0] + i, domain.grid) for i in range(10)]
    outcome = command(
        "diagnose",
        "--problem",
        "atmosphere",
        "--method",
        "pseudo-inverse",
        "--prior",
        "era5-uk-t2m-gaussian",
        "--samples",
        2,
        "--input",
        *files,
        "--json",
        "--problem-option",
        "count=5",
    )
    assert outcome.code in (0, 1), outcome.err
    assert json.loads(outcome.out)["exact_prior"] is False


def test_noise_levels_by_variable():
    """The level's own sigma takes precedence, then the variable's, then sigma_y.

    This holds for the coarse field and for the stations.
    """
    globe = Domain(
        ("t_850", "z_850", "z_500"),
        ("K", "m2 s-2", "m2 s-2"),
        Grid.of(np.linspace(90, -90, 13), np.arange(0, 360, 15.0)),
    )
    problem = inverse.get_problem(
        "atmosphere",
        sigmas="z:80,z_500:110",
        sigma_y=0.7,
        sigma_coarse=0.4,
        count=3,
        withhold=0,
        representativeness=0.1,
    ).on(globe)
    sigma = problem.noise(globe.shape).sigma.flatten().tolist()
    cells = 4 * 6
    assert sigma[: 3 * cells] == pytest.approx([0.4] * cells + [80.0] * cells + [110.0] * cells)
    assert sigma[3 * cells :] == pytest.approx(
        [np.hypot(s, 0.1) for s in [0.7] * 3 + [80.0] * 3 + [110.0] * 3]
    )
    assert problem.operator(globe.shape).A(torch.zeros(1, *globe.shape)).numel() == 3 * cells + 9


def test_impossible_options_are_refused(command):
    refusals = {
        "sigma_y=0": "must be positive",
        "count=0": "at least 1",
        "withhold=1": "at least 0 and below 1",
        "factor=40": "from 1 to 33",
        "thin=-1": "thin",
    }
    refusals |= {
        "sigmas=80": "variable:number",
        "sigmas=z:much": "e.g. z:1.5",
        "sigmas=z:-1": "positive number",
    }
    for option, words in refusals.items():
        command(
            "solve", "--problem", "atmosphere", "--method", "multimodal", "--problem-option", option
        ).refused(words)


def test_a_prior_of_photographs_is_refused(fuse, tmp_path, hour, domain):
    path = grid_file(tmp_path / "x.nc", hour[0], domain.grid)
    fuse("--input", path, "--prior", "photo-64").refused(
        "photo-64", "not a prior of weather fields"
    )


# --- the command ------------------------------------------------------------------------------


def test_the_shipped_hour_is_solved_and_written(fuse, tmp_path):
    outcome = fuse("--out", "out", samples=3)
    assert outcome.code == 0, outcome.err
    assert "CRPS" in outcome.out
    assert "PSNR" not in outcome.out
    result = Result.load("out/result.h5")
    with xarray.open_dataset("out/analysis.nc") as data:
        assert data.attrs["Conventions"].startswith("CF-")
        assert data.t2m_mean.attrs == {
            "units": "K",
            "standard_name": "air_temperature",
            "long_name": "t2m, mean of the ensemble",
        }
        np.testing.assert_allclose(data.t2m_mean.values, result.mean[0, 0], rtol=1e-6)
        np.testing.assert_allclose(
            data.t2m_members.values.std(0, ddof=1), data.t2m_std.values, atol=1e-4
        )
        np.testing.assert_allclose(data.t2m_coarse.values.flatten(), result.y[0].flatten()[:117])
        np.testing.assert_allclose(data.used_value.values, result.y[0].flatten()[117:])
        assert not set(data.used_station.values) & set(data.withheld_station.values)
        near = data.t2m_mean.interp(
            latitude=data.withheld_latitude, longitude=data.withheld_longitude
        )
        np.testing.assert_allclose(data.withheld_analysis.values, near.values, atol=1e-3)
        assert json.loads(data.attrs["provenance"])["method"]["name"] == "multimodal"
    assert (tmp_path / "out" / "map.png").read_bytes()[:4] == b"\x89PNG"


STATIONS = """station,latitude,longitude,t2m [degC]
A,51.5,-0.1,8.0
B,53.0,357.0,7.0
C,55.0,-4.0,
D,30.0,-4.0,12.0
A,51.5,-0.1,8.0
E,52.0,-2.0,7.5
"""


def test_a_coarse_field_and_stations_are_read_from_files(fuse, tmp_path, hour, domain):
    """The field is in degC, has ascending latitudes and a missing cell.

    The NetCDF file has the stations, the output the counts; there is no truth.
    """
    values, grid = coarse_of(hour, domain)
    values[2, 3] = np.nan
    up = Grid(grid.latitudes[::-1], grid.longitudes)
    path = grid_file(
        tmp_path / "coarse.nc", values[::-1] - 273.15, up, units="degC", t2m={"_FillValue": -9999.0}
    )
    (tmp_path / "stations.csv").write_text(STATIONS)
    outcome = fuse(
        "--measurement", path, "--problem-option", "stations=stations.csv", "withhold=0.34"
    )
    assert outcome.code == 0, outcome.err
    assert "1 of 117 coarse values are missing and masked" in outcome.out
    for words in (
        "1 of 6 observations left out: missing",
        "1 of 5 observations left out: outside",
        "1 of 4 observations left out: a second value",
    ):
        assert words in outcome.out
    with xarray.open_dataset("out/analysis.nc") as data:
        assert np.argwhere(np.isnan(data.t2m_coarse.values)).tolist() == [[2, 3]]
        np.testing.assert_allclose(data.t2m_coarse.values[0], values[0], atol=1e-3)
        assert sorted([*data.used_station.values, *data.withheld_station.values]) == ["A", "B", "E"]
        assert sorted([*data.used_value.values, *data.withheld_value.values]) == pytest.approx(
            [280.15, 280.65, 281.15], abs=1e-3
        )
        assert "t2m_truth" not in data


def test_stations_without_a_coarse_field(fuse, tmp_path):
    (tmp_path / "stations.csv").write_text(STATIONS)
    outcome = fuse("--measurement", "stations.csv", "--problem-option", "withhold=0")
    assert outcome.code == 0, outcome.err
    with xarray.open_dataset("out/analysis.nc") as data:
        assert "t2m_coarse" not in data
        assert len(data.used_value) == 3
        assert "withheld_value" not in data


def test_a_truth_is_read_in_any_order_of_rows_and_columns(fuse, tmp_path, hour, domain):
    flipped = Grid(domain.grid.latitudes[::-1], tuple(lon + 360 for lon in domain.grid.longitudes))
    outcome = fuse("--input", grid_file(tmp_path / "truth.nc", hour[0].flip(0), flipped))
    assert outcome.code == 0, outcome.err
    np.testing.assert_allclose(Result.load("out/result.h5").truth[0], hour, rtol=1e-6)


def test_netcdf_3_is_read(hour, domain, tmp_path):
    path = grid_file(tmp_path / "x.nc", hour[0], domain.grid)
    with xarray.open_dataset(path) as data:
        data.load().to_netcdf(tmp_path / "classic.nc", engine="scipy")
    np.testing.assert_allclose(read_fields(tmp_path / "classic.nc").values[0], hour, rtol=1e-6)


def test_zarr_is_read(fuse, hour, domain, tmp_path):
    """Zarr holds a measurement or training data; a damaged or missing store is refused."""
    pytest.importorskip("zarr")
    values, grid = coarse_of(hour, domain)
    with xarray.open_dataset(grid_file(tmp_path / "x.nc", values, grid)) as data:
        data.load().to_zarr(tmp_path / "coarse.zarr", zarr_format=2, consolidated=False)
    outcome = fuse("--measurement", tmp_path / "coarse.zarr")
    assert outcome.code == 0, outcome.err
    with xarray.open_dataset("out/analysis.nc") as data:
        np.testing.assert_allclose(data.t2m_coarse.values, values, rtol=1e-6)
    assert load_fields(tmp_path / "coarse.zarr", ["t2m"]).values.shape == (1, 1, *grid.shape)
    (tmp_path / "coarse.zarr" / "t2m" / ".zarray").write_text("{")
    fuse("--measurement", tmp_path / "coarse.zarr").refused("not a readable Zarr store")
    (tmp_path / "nothing.zarr").mkdir()
    fuse("--measurement", tmp_path / "nothing.zarr").refused("nothing.zarr")


def test_a_missing_zarr_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "zarr", None)
    (tmp_path / "coarse.zarr").mkdir()
    for read in (read_fields, lambda path: load_fields(path, ["t2m"])):
        with pytest.raises(
            inverse.InverseError, match=r"zarr: pip install 'inverse-posterior\[zarr\]'"
        ):
            read(tmp_path / "coarse.zarr")


def test_soundings_of_two_variables_on_a_globe(tmp_path):
    """Two soundings at two levels, a prior of four channels: the analysis is the Kalman mean."""
    globe = Grid.of(np.linspace(90, -90, 7), np.arange(0, 360, 30.0))
    names, units = ("t_850", "t_500", "z_850", "z_500"), ("K", "K", "m2 s-2", "m2 s-2")
    mean = torch.tensor([280.0, 255.0, 14000.0, 55000.0], dtype=F64)[:, None, None].expand(4, 7, 12)
    spread = torch.diag(torch.tensor([5.0, 4.0, 500.0, 800.0], dtype=F64).repeat_interleave(84))
    law = inverse.LowRankPrior.factored(mean, spread, torch.tensor(0.01, dtype=F64))
    law.extra = {
        "variables": names,
        "units": units,
        "latitudes": globe.latitudes,
        "longitudes": globe.longitudes,
    }
    levels = [
        ("KOUN", 850.0, 1430, 16.2),
        ("KOUN", 500.0, 5640, -12.5),
        ("KABQ", 850.0, 1470, 20.0),
        ("KABQ", 500.0, 5700, -14.1),
    ]
    rows = [f"{name},1999-05-04,{p},{z},{t},,," for name, p, z, t in levels]
    (tmp_path / "raob.csv").write_text(
        "\n".join(["station,valid,pres,hght,tmpc,dwpc,drct,sknt", *rows]) + "\n"
    )
    problem, y, notes = inverse.get_problem("atmosphere", sigmas="z:80,t:0.7", withhold=0).open(
        tmp_path / "raob.csv", law, measured=True
    )
    posterior = problem.posterior(y=y, prior=law, dtype=F64)
    assert (posterior.y.numel(), notes) == (8, [])
    H = posterior.operator.A(torch.eye(336, dtype=F64).reshape(-1, 4, 7, 12)).flatten(1).T
    C, R = law.covariance, torch.diag(posterior.noise.sigma.flatten() ** 2)
    expected = mean.flatten() + C @ H.T @ torch.linalg.solve(
        H @ C @ H.T + R, posterior.y.flatten() - H @ mean.flatten()
    )
    exact = law.given(H, posterior.noise.sigma.flatten(), posterior.y.flatten())
    torch.testing.assert_close(exact.mean.flatten(), expected, rtol=1e-9, atol=1e-6)
    assert sorted(posterior.noise.sigma.flatten().tolist()) == [0.7] * 4 + [80.0] * 4
    assert problem.scene().used.variable.tolist() == ["t_850", "z_850", "t_500", "z_500"] * 2


def test_heights_in_dam_have_the_name_of_geopotential_heights(command, tmp_path):
    """The card of era5-zt states dam: 1430 m is 143 dam, and the CF name matches the unit."""
    rows = (
        "KOUN,1999-05-04 00:00:00,850.0,1430,16.2,,,\nKOUN,1999-05-04 00:00:00,500.0,5640,-12.5,,,"
    )
    (tmp_path / "raob.csv").write_text(
        "station,valid,pres,hght,tmpc,dwpc,drct,sknt\n" + rows + "\n"
    )
    outcome = command(
        "solve",
        "--problem",
        "atmosphere",
        "--method",
        "multimodal",
        "--prior",
        "era5-zt-gaussian",
        "--measurement",
        "raob.csv",
        "--steps",
        2,
        "--problem-option",
        "sigmas=z:1.5,t:1",
        "withhold=0",
        "--set",
        "sampler=ddim",
    )
    assert outcome.code == 0, outcome.err
    with xarray.open_dataset("out/analysis.nc") as data:
        assert data.z_850_mean.attrs["units"] == "dam"
        assert data.z_850_mean.attrs["standard_name"] == "geopotential_height"
        assert data.t_850_mean.attrs["standard_name"] == "air_temperature"
        assert sorted(data.used_value.values.round(2).tolist()) == [143.0, 260.65, 289.35, 564.0]
        assert sorted(data.used_sigma.values.tolist()) == [1.0, 1.0, 1.5, 1.5]


# --- bad files --------------------------------------------------------------------------------


def truncated(tmp_path, hour, domain):
    path = grid_file(tmp_path / "bad.nc", hour[0], domain.grid)
    path.write_bytes(path.read_bytes()[:3000])
    return path


def several_times(tmp_path, hour, domain, calendar="standard"):
    where = {
        "latitude": np.array(domain.grid.latitudes),
        "longitude": np.array(domain.grid.longitudes),
    }
    when = ("time", [0, 6], {"units": "hours since 2019-03-25", "calendar": calendar})
    values = (("time", "latitude", "longitude"), np.stack([hour[0], hour[0]]), {"units": "K"})
    xarray.Dataset({"t2m": values}, where | {"time": when}).to_netcdf(
        tmp_path / "bad.nc", engine="h5netcdf"
    )
    return tmp_path / "bad.nc"


def text(tmp_path, hour, domain):
    (tmp_path / "bad.nc").write_text("latitude, longitude")
    return tmp_path / "bad.nc"


def wrong_dimensions(tmp_path, hour, domain):
    xarray.Dataset({"t2m": (("a", "b"), hour[0].numpy(), {"units": "K"})}).to_netcdf(
        tmp_path / "bad.nc", engine="h5netcdf"
    )
    return tmp_path / "bad.nc"


def holes(tmp_path, hour, domain):
    values = hour[0].clone()
    values[:2, :3] = float("nan")
    return grid_file(tmp_path / "bad.nc", values, domain.grid)


BAD = {
    "no file": (lambda *a: "missing.nc", "no such file"),
    "no NetCDF": (text, "not a NetCDF file"),
    "truncated": (truncated, "not a readable NetCDF file"),
    "no units": (
        lambda p, h, d: grid_file(p / "bad.nc", h[0], d.grid, units=None),
        "has no units attribute",
    ),
    "units of another quantity": (
        lambda p, h, d: grid_file(p / "bad.nc", h[0], d.grid, units="hPa"),
        "'hPa' do not convert to K",
    ),
    "wrong units": (
        lambda p, h, d: grid_file(p / "bad.nc", h[0] - 273.15, d.grid),
        "said to be 'K'",
    ),
    "another variable": (
        lambda p, h, d: grid_file(p / "bad.nc", h[0], d.grid, name="u10"),
        "has no variable t2m; the prior has t2m, the file u10",
    ),
    "missing values": (holes, "6 of 1617 values are missing; a truth must be complete"),
    "calendar": (lambda *a: several_times(*a, calendar="360_day"), "its calendar is '360_day'"),
    "several times": (
        several_times,
        "holds 2 times from 2019-03-25T00:00Z to 2019-03-25T06:00Z; choose one",
    ),
    "no coordinates": (wrong_dimensions, "no coordinate is latitude"),
    "another grid": (
        lambda p, h, d: grid_file(
            p / "bad.nc", h[0, :-1], Grid(d.grid.latitudes[:-1], d.grid.longitudes)
        ),
        "its grid is 32 x 49 points",
    ),
    "shifted grid": (
        lambda p, h, d: grid_file(
            p / "bad.nc", h[0], Grid(tuple(x - 1 for x in d.grid.latitudes), d.grid.longitudes)
        ),
        "its grid is 33 x 49",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_truths_are_refused_in_one_line(name, fuse, tmp_path, hour, domain):
    make, words = BAD[name]
    fuse("--input", make(tmp_path, hour, domain)).refused(words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [
        "no NetCDF",
        "truncated",
        "no units",
        "wrong units",
        "another variable",
        "calendar",
        "several times",
        "another grid",
    ],
)
def test_bad_measurements_are_refused_in_one_line(name, fuse, tmp_path, hour, domain):
    make, words = BAD[name]
    fuse("--measurement", make(tmp_path, hour, domain)).refused(words)
    assert not (tmp_path / "out").exists()


def test_a_coarse_field_without_values_is_refused(fuse, tmp_path, hour, domain):
    values, grid = coarse_of(hour, domain)
    fuse("--measurement", grid_file(tmp_path / "bad.nc", np.nan * values, grid)).refused(
        "all 117 values are missing"
    )


def test_stations_outside_the_grid_are_refused(fuse, tmp_path):
    (tmp_path / "stations.csv").write_text(
        "station,latitude,longitude,t2m [K]\nA,10,0,280\nB,11,0,281\n"
    )
    fuse("--measurement", "stations.csv").refused(
        "no observation is left", "2 of 2 observations left out: outside the grid"
    )


def test_one_of_several_times_is_chosen(fuse, tmp_path, hour, domain):
    path = several_times(tmp_path, hour, domain)
    assert fuse("--input", path, "--problem-option", "time=2019-03-25T06").code == 0
    fuse("--input", path, "--problem-option", "time=2019-03-25T07").refused(
        "does not hold 2019-03-25T07"
    )
    fuse("--input", path, "--problem-option", "time=noon").refused("not a date and hour")


def test_a_missing_package_is_named(monkeypatch):
    from inverse_problems.atmosphere.netcdf import package

    with pytest.raises(
        inverse.InverseError, match="pip install 'inverse-posterior\\[atmosphere\\]'"
    ):
        package("xarray_that_is_not_there")
