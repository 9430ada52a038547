"""Windows of several hours: measurements, optimal interpolation, files, bad files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray

import inverse
from inverse.errors import OptionError
from inverse.result import Result
from inverse_problems.atmosphere.domain import domain_of
from inverse_problems.atmosphere.operators import coarsen
from inverse_problems.atmosphere.trajectory import ComposedPrior, TrajectoryPrior, over_hours

pytest_plugins = "cli_fixtures"

F64 = torch.float64
START = np.datetime64("2019-03-28T06", "ns")


@pytest.fixture(scope="module")
def law():
    return inverse.load_prior("era5-uk-t2m-hours")


@pytest.fixture(scope="module")
def grid(law):
    return domain_of(law).grid


@pytest.fixture(scope="module")
def hours():
    """Four consecutive shipped hours, (4, 33, 49), K."""
    return inverse.get_problem("atmosphere", window=4).truths()[0]


@pytest.fixture
def fuse(command):
    def run(*arguments, window=4):
        options = (
            "--steps",
            2,
            "--samples",
            2,
            "--set",
            "sampler=ddim",
            "--set",
            "iterations=5",
            "--problem-option",
            f"window={window}",
            "factor=8",
        )
        return command(
            "solve", "--problem", "atmosphere", "--method", "multimodal", *options, *arguments
        )

    return run


def series(path, values, grid, after, start=START):
    """A file of fields (times, h, w) at hours after a start; without times if `after` is None."""
    where = {"latitude": np.array(grid.latitudes), "longitude": np.array(grid.longitudes)}
    dims = ("time", "latitude", "longitude")
    if after is not None:
        where["time"] = start + np.array(after) * np.timedelta64(1, "h")
    xarray.Dataset({"t2m": (dims, np.asarray(values), {"units": "K"})}, where).to_netcdf(
        path, engine="h5netcdf"
    )
    return path


def coarse(hours, grid, factor=8):
    return coarsen(grid, factor).A(hours[None])[0].numpy(), grid.coarsened(factor)


def test_each_hour_has_both_modalities(law, hours):
    """Hour i of the measurement matches field i, with 0.5 K of noise."""
    problem = inverse.get_problem("atmosphere", window=4, count=10)
    posterior = problem.posterior(torch.stack([hours] * 8), prior=law.double(), dtype=F64)
    assert posterior.operator.modalities == {
        "coarse": slice(0, 4 * 117),
        "stations": slice(4 * 117, 4 * 127),
    }
    clean = problem.operator((4, 33, 49)).A(hours[None].double())[0, 0, 0]
    single = inverse.get_problem("atmosphere", count=10).operator((1, 33, 49))
    for i in range(4):
        alone = single.A(hours[None, i : i + 1].double())[0, 0, 0]
        torch.testing.assert_close(clean[117 * i : 117 * (i + 1)], alone[:117])
        torch.testing.assert_close(clean[468 + 10 * i : 468 + 10 * (i + 1)], alone[117:])
    assert float(((posterior.y - clean) / 0.5).square().mean()) == pytest.approx(1, abs=0.09)


def test_the_analysis_of_a_window_is_optimal_interpolation(law, hours):
    """At a noise level where x is uninformative, mmps is C H^T (H C H^T + R)^-1 (y - H m).

    It is nearer to the truth than an analysis hour by hour.
    """
    problem = inverse.get_problem("atmosphere", window=4, factor=8, count=10)
    wide = inverse.load_prior("era5-uk-t2m-hours").double()
    posterior = problem.posterior(hours, prior=wide, dtype=F64)
    prior = posterior.prior
    H = posterior.operator.A_adjoint(
        torch.eye(posterior.y.numel(), dtype=F64).reshape(-1, 1, 1, posterior.y.numel())
    )
    CH = prior.spectral(H, lambda v: v).flatten(1) * prior.scale**2
    S = CH @ H.flatten(1).T + torch.diag(posterior.noise.sigma.flatten() ** 2)
    mean = (
        prior.decode(prior.mean).flatten()
        + torch.linalg.solve(S, posterior.residual(prior.mean[None]).flatten()) @ CH
    )
    method = inverse.get_method("multimodal", tolerance=1e-8, iterations=400)
    found = prior.decode(
        method.denoise(posterior, prior.mean[None], torch.tensor(2000.0, dtype=F64))
    ).flatten()
    torch.testing.assert_close(found, mean, rtol=0, atol=1e-3)
    single = inverse.get_problem("atmosphere", factor=8, count=10)
    climate, errors = inverse.load_prior("era5-uk-t2m-gaussian").double(), []
    for i in range(4):
        own = posterior.y.flatten()[
            torch.cat([torch.arange(35) + 35 * i, torch.arange(10) + 140 + 10 * i])
        ]
        alone = single.posterior(y=own[None, None], prior=climate, dtype=F64)
        x = climate.decode(
            method.denoise(alone, climate.mean[None], torch.tensor(2000.0, dtype=F64))
        )
        errors.append((x[0, 0] - hours[i]).square().mean())
    together = (mean.reshape(4, 33, 49) - hours).square().mean()
    assert float(together) < float(torch.stack(errors).mean())


def test_a_trajectory_gets_the_requested_length(law):
    assert law.shape == (6, 33, 49)
    assert over_hours(law, 6) is law
    shorter = over_hours(law, 2)
    assert isinstance(shorter, TrajectoryPrior)
    assert (shorter.shape, shorter.name, domain_of(shorter).hours) == (
        (2, 33, 49),
        "era5-uk-t2m-hours",
        2,
    )
    x = shorter.sample(1, inverse.seeded(0))
    dense = torch.linalg.inv(shorter.modes @ torch.diag_embed(shorter.shares) @ shorter.modes.mT)
    assert float(dense[0, 0, 1]) < 0 < float(shorter(x, torch.tensor(0.1)).abs().max())


def test_a_prior_of_windows_composes_to_the_requested_length(law):
    """A prior of an odd number of hours composes, e.g. a network."""
    window = over_hours(law, 3)

    class Anonymous(inverse.Prior):
        extra, name = law.extra, "anonymous"

        def forward(self, x, sigma):
            return window(x, sigma)

    composed = over_hours(Anonymous((3, 33, 49), shift=law.shift, scale=law.scale), 7)
    assert isinstance(composed, ComposedPrior)
    assert (composed.shape, composed.name, domain_of(composed).hours) == (
        (7, 33, 49),
        "anonymous",
        7,
    )
    with pytest.raises(OptionError, match="odd number of hours"):
        over_hours(Anonymous((2, 33, 49)), 7)


def test_a_shipped_window_is_solved_and_written(fuse, tmp_path, hours):
    outcome = fuse("--out", "out")
    assert outcome.code == 0, outcome.err
    result = Result.load("out/result.h5")
    with xarray.open_dataset("out/analysis.nc") as data:
        assert data.t2m_mean.dims == ("time", "latitude", "longitude")
        assert data.t2m_members.dims == ("member", "time", "latitude", "longitude")
        np.testing.assert_allclose(data.t2m_mean.values, result.mean[0], rtol=1e-6)
        np.testing.assert_allclose(data.t2m_truth.values, hours, rtol=1e-6)
        np.testing.assert_allclose(data.t2m_coarse.values.flatten(), result.y[0].flatten()[:140])
        last = data.used_hour.values == 3
        assert last.sum() == 25
        np.testing.assert_allclose(data.used_value.values[last], result.y[0].flatten()[-25:])
        near = data.t2m_mean.isel(time=3).interp(
            latitude=data.used_latitude[last], longitude=data.used_longitude[last]
        )
        np.testing.assert_allclose(data.used_analysis.values[last], near.values, atol=1e-3)
    assert (tmp_path / "out" / "map.png").read_bytes()[:4] == b"\x89PNG"


STATIONS = "station,latitude,longitude,time,t2m [degC]\n" + "\n".join(
    [
        "A,51.5,-0.1,2019-03-28T06:00Z,8.0",
        "A,51.5,-0.1,2019-03-28T07:10Z,8.5",
        "A,51.5,-0.1,2019-03-28T07:20Z,8.6",
        "A,51.5,-0.1,2019-03-28T12:00Z,9",
        "B,53.0,-2.0,2019-03-28T08:50Z,7.0",
        "C,52.0,-3.0,,6.0",
    ]
)


def test_a_series_with_gaps_and_stations_at_other_times(fuse, tmp_path, grid, hours):
    """A coarse field every three hours, and stations at odd minutes.

    Each observation belongs to the nearest hour; those out of the window are counted.
    """
    values, over = coarse(hours[[0, 3]], grid)
    path = series(tmp_path / "coarse.nc", values, over, [0, 3])
    (tmp_path / "stations.csv").write_text(STATIONS)
    outcome = fuse("--measurement", path, "--problem-option", "stations=stations.csv", "withhold=0")
    assert outcome.code == 0, outcome.err
    for words in (
        "time 2019-03-28T06:00Z and the 3 hours after it",
        "70 of 140 coarse values are missing",
        "1 of 6 observations left out: not within half",
    ):
        assert words in outcome.out
    assert (
        "1 of 5 observations left out: a second value of the same station and variable and hour"
        in outcome.out
    )
    with xarray.open_dataset("out/analysis.nc") as data:
        assert data.time.values.tolist() == (START + np.arange(4) * np.timedelta64(1, "h")).tolist()
        assert np.isnan(data.t2m_coarse.values).all((1, 2)).tolist() == [False, True, True, False]
        np.testing.assert_allclose(data.t2m_coarse.values[3], values[1], atol=1e-3)
        seen = dict(
            zip(
                zip(data.used_station.values, data.used_hour.values.tolist(), strict=True),
                data.used_value.values,
                strict=True,
            )
        )
        assert {key: round(float(value), 2) for key, value in seen.items()} == {
            ("A", 0): 281.15,
            ("A", 1): 281.65,
            ("B", 3): 280.15,
            ("C", 0): 279.15,
        }


def test_stations_over_several_hours_without_a_coarse_field(fuse, tmp_path):
    (tmp_path / "stations.csv").write_text(STATIONS)
    outcome = fuse("--measurement", "stations.csv", "--problem-option", "withhold=0")
    assert outcome.code == 0, outcome.err
    with xarray.open_dataset("out/analysis.nc") as data:
        assert sorted(data.used_hour.values.tolist()) == [0, 0, 1, 3]


def test_a_single_hour_uses_the_observations_of_that_hour(fuse, tmp_path, grid, hours):
    values, over = coarse(hours[:1], grid)
    (tmp_path / "stations.csv").write_text(STATIONS)
    outcome = fuse(
        "--measurement",
        series(tmp_path / "c.nc", values, over, [0]),
        "--problem-option",
        "stations=stations.csv",
        "withhold=0",
        window=1,
    )
    assert outcome.code == 0, outcome.err
    assert (
        "4 of 6 observations left out: not within half an hour of 2019-03-28T06:00" in outcome.out
    )
    with xarray.open_dataset("out/analysis.nc") as data:
        assert data.time.values == START
        assert data.t2m_mean.dims == ("latitude", "longitude")


def refused(fuse, *arguments, words, window=4):
    fuse(*arguments, window=window).refused(*words)


def test_impossible_windows_are_refused_in_one_line(fuse, tmp_path, grid, hours):
    refused(fuse, window=0, words=["window must be at least 1 and at most 1000, got 0"])
    refused(fuse, window=13, words=["12 consecutive hours are shipped, window is 13"])
    refused(
        fuse,
        "--prior",
        "era5-uk-t2m-gaussian",
        words=["era5-uk-t2m-gaussian: is of single hours", "era5-uk-t2m-hours"],
    )
    refused(
        fuse,
        "--input",
        series(tmp_path / "gap.nc", hours[:3], grid, [0, 1, 3]),
        words=["1617 of 6468 values are missing"],
    )
    refused(
        fuse,
        "--input",
        series(tmp_path / "none.nc", hours[:3], grid, None),
        words=["has no times", "window of 4 hours"],
    )
    refused(
        fuse,
        "--input",
        series(tmp_path / "long.nc", hours[[0, 1, 2, 3, 0]], grid, range(5)),
        words=["holds 5 times", "time=2019-03-25T12"],
    )
    (tmp_path / "s.csv").write_text("station,latitude,longitude,t2m [degC]\nA,51.5,-0.1,8\n")
    refused(fuse, "--measurement", "s.csv", words=["no observation has a time", "column 'time'"])
    (tmp_path / "s.csv").write_text(
        "station,latitude,longitude,time,t2m [degC]\nA,51.5,-0.1,noon,8\n"
    )
    refused(fuse, "--measurement", "s.csv", words=["line 2, column 'time'", "found 'noon'"])
    assert not (tmp_path / "out").exists()
