"""Priors of weather fields: data, Gaussians, networks that correct them, shipped priors."""

import json

import numpy as np
import pytest
import torch

import inverse
from inverse.analytic_start import gaussian_of
from inverse.errors import InputError, OptionError
from inverse.priors.analytic import GaussianPrior, LowRankPrior
from inverse.priors.loading import PriorCard, cards, load_prior, save_prior
from inverse.priors.networks.corrected import CorrectedPrior
from inverse.priors.networks.unet import UNet, UNetConfig
from inverse.training.loop import TrainConfig
from inverse_problems.atmosphere.climatology import fit_gaussian, gaspari_cohn
from inverse_problems.atmosphere.domain import domain_of
from inverse_problems.atmosphere.field_evaluation import error_ratio, field_table
from inverse_problems.atmosphere.grid import Grid, distance
from inverse_problems.atmosphere.training import check_disjoint, train_field_prior
from inverse_problems.atmosphere.training_fields import TrainingFields, load_fields
from inverse_problems.atmosphere.trajectory import TrajectoryPrior
from inverse_problems.atmosphere.zonal import fit_zonal

xarray = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")

GRID = Grid(tuple(np.linspace(58, 55, 7)), tuple(np.linspace(-4, 0, 9)))
SHIPPED = [name for name in cards() if name.startswith("era5-")]
TINY = UNetConfig(1, (8, 16), (1, 1), 16)


def smooth(count, seed=0):
    """Fields (count, 1, 7, 9) around 280 K with a covariance that decays with distance."""
    lat, lon = torch.meshgrid(
        torch.tensor(GRID.latitudes), torch.tensor(GRID.longitudes), indexing="ij"
    )
    km = distance((lat.flatten(), lon.flatten()), (lat.flatten(), lon.flatten()))
    root = torch.linalg.cholesky(
        4 * torch.exp(-km / 100) + 1e-6 * torch.eye(63, dtype=torch.float64)
    )
    white = torch.randn(count, 63, generator=inverse.seeded("fields", seed), dtype=torch.float64)
    return (280 + white @ root.T).reshape(count, 1, 7, 9)


@pytest.fixture
def file(tmp_path):
    """Six days of three fields each; the fifth field has a missing value."""
    values = smooth(18)[:, 0].numpy().astype(np.float32)
    values[4, 2, 3] = np.nan
    times = np.datetime64("2019-03-01T00", "ns") + np.arange(18) * np.timedelta64(8, "h")
    data = xarray.Dataset(
        {
            "t2m": (("time", "latitude", "longitude"), values, {"units": "K"}),
            "bare": (("time", "latitude", "longitude"), values),
        },
        {
            "time": times,
            "latitude": np.array(GRID.latitudes),
            "longitude": np.array(GRID.longitudes),
        },
        {"source": "made up"},
    )
    data.to_netcdf(tmp_path / "fields.nc", engine="h5netcdf")
    return tmp_path / "fields.nc"


@pytest.fixture(scope="module")
def law():
    fields = smooth(40)
    return fit_gaussian(
        fields, smooth(10, 1), GRID, rank=20, tapers=(100.0, 200.0), shift=280.0, scale=2.0
    ).law


def test_periods_include_whole_days_and_must_not_overlap(file):
    parts = [
        load_fields(file, ["t2m"], period)
        for period in ("2019-03-01/2019-03-03", "2019-03-04/2019-03-05", "2019-03-06/2019-03-06")
    ]
    assert [len(part) for part in parts] == [8, 6, 3]  # nine fields in three days, one with a gap
    assert [part.skipped for part in parts] == [1, 0, 0]
    assert parts[0].period == ("2019-03-01T00:00", "2019-03-03T16:00")
    check_disjoint(parts)
    with pytest.raises(OptionError, match="overlap"):
        check_disjoint([parts[0], load_fields(file, ["t2m"], "2019-03-03T16/2019-03-05")])


def test_fields_keep_their_values_grid_and_names(file):
    fields = load_fields(file, ["t2m"], "2019-03-02/2019-03-02")
    np.testing.assert_array_equal(
        fields.values[0, 0], smooth(18)[3, 0].float()
    )  # the fourth; the fifth has the gap
    assert (fields.channels, fields.units, fields.source) == (("t2m",), ("K",), "made up")
    assert fields.grid == GRID


def test_levels_become_channels_and_members_become_samples(tmp_path):
    values = np.arange(2 * 3 * 2 * 7 * 9, dtype=np.float32).reshape(2, 3, 2, 7, 9)
    values[1, 2, 0, 0, 0] = np.nan
    coordinates = {
        "level": ("level", [850.0, 500.0]),
        "latitude": np.array(GRID.latitudes),
        "longitude": np.array(GRID.longitudes),
    }
    axes = ("number", "time", "level", "latitude", "longitude")
    xarray.Dataset(
        {"z": (axes, values, {"units": "m2 s-2"}), "t": (axes, -values, {"units": "K"})},
        coordinates,
    ).to_netcdf(tmp_path / "m.nc", engine="h5netcdf")
    fields = load_fields(tmp_path / "m.nc", ["z", "t"])
    assert fields.channels == ("z_850", "z_500", "t_850", "t_500")
    assert (len(fields), fields.skipped) == (5, 1)
    np.testing.assert_array_equal(fields.values[4], np.concatenate([values[1, 1], -values[1, 1]]))


@pytest.mark.parametrize(
    ("variables", "period", "message"),
    [
        (["sst"], "", "no variable 'sst'"),
        (["bare"], "", "no units"),
        (["t2m"], "2020-01-01/2020-01-02", "no complete field"),
        (["t2m"], "2019-03-01", "FIRST/LAST"),
    ],
)
def test_missing_fields_are_named(file, variables, period, message):
    with pytest.raises((InputError, OptionError), match=message):
        load_fields(file, variables, period)


def test_the_taper_is_a_correlation_function():
    assert float(gaspari_cohn(torch.zeros(()), 100.0)) == 1
    near, far = (float(gaspari_cohn(torch.tensor(100.0 + e), 100.0)) for e in (-1e-4, 1e-4))
    assert near == pytest.approx(5 / 24, abs=1e-4)  # 1 - 5/3 + 5/8 + 1/2 - 1/4
    assert far == pytest.approx(near, abs=1e-5)
    assert float(gaspari_cohn(torch.tensor(200.0), 100.0)) == 0
    lat, lon = torch.meshgrid(
        torch.tensor(GRID.latitudes), torch.tensor(GRID.longitudes), indexing="ij"
    )
    km = distance((lat.flatten(), lon.flatten()), (lat.flatten(), lon.flatten()))
    assert float(torch.linalg.eigvalsh(gaspari_cohn(km, 150.0))[0]) > -1e-10


def test_the_gaussian_has_the_tapered_sample_covariance():
    fields = smooth(40)
    fitted = fit_gaussian(
        fields,
        smooth(10, 1),
        GRID,
        rank=62,
        tapers=(150.0,),
        inflations=(1.25,),
        shift=280.0,
        scale=2.0,
    )
    lat, lon = torch.meshgrid(
        torch.tensor(GRID.latitudes), torch.tensor(GRID.longitudes), indexing="ij"
    )
    km = distance((lat.flatten(), lon.flatten()), (lat.flatten(), lon.flatten()))
    x = (fields.flatten(1) - 280) / 2
    covariance = 1.25 * torch.from_numpy(np.cov(x.numpy().T, bias=True)) * gaspari_cohn(km, 150.0)
    torch.testing.assert_close(fitted.law.covariance, covariance, rtol=1e-9, atol=1e-9)
    dense = GaussianPrior(x.mean(0).reshape(1, 7, 9), covariance, shift=280.0, scale=2.0)
    noisy = torch.randn(3, 1, 7, 9, generator=inverse.seeded(0), dtype=torch.float64)
    sigma = torch.tensor(0.7, dtype=torch.float64)
    torch.testing.assert_close(fitted.law(noisy, sigma), dense(noisy, sigma))
    expected = float(dense.log_density((smooth(10, 1) - 280) / 2).mean()) / 63
    assert fitted.held_out == pytest.approx(expected, rel=1e-9)


def test_taper_and_inflation_maximise_the_held_out_density():
    fields, other = smooth(40), smooth(30, 1)
    best = fit_gaussian(
        fields,
        other,
        GRID,
        rank=40,
        tapers=(50.0, 150.0, 5000.0),
        inflations=(0.5, 1.0, 2.0),
        shift=280.0,
    )
    each = {
        (t, i): fit_gaussian(
            fields, other, GRID, rank=40, tapers=(t,), inflations=(i,), shift=280.0
        ).held_out
        for t in (50.0, 150.0, 5000.0)
        for i in (0.5, 1.0, 2.0)
    }
    assert each[best.taper, best.inflation] == max(each.values()) == pytest.approx(best.held_out)
    # 40 fields do not determine correlations at 5000 km; 50 km removes true correlations
    assert best.taper == 150.0


def test_decoding_inverts_encoding(law):
    u = smooth(4, 2)
    torch.testing.assert_close(law.decode(law.encode(u)), u)
    x = law.encode(smooth(2000, 3))
    assert abs(float(x.mean())) < 0.1
    assert float(x.std()) == pytest.approx(1.0, abs=0.1)


def test_an_untrained_correction_is_the_gaussian_with_traces_as_scales(law):
    prior = CorrectedPrior(law, TINY).double()
    x, sigma = law.encode(smooth(3, 4)), torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64)
    torch.testing.assert_close(prior(x, sigma), prior.law(x, sigma))
    C, eye = prior.law.covariance, torch.eye(63, dtype=torch.float64)
    for s, e, g, r in zip(sigma, *prior.scales(sigma), strict=True):
        inverse_total = torch.linalg.inv(C + s**2 * eye)
        for found, dense in (
            (e, s**2 * C @ inverse_total),
            (g, C @ C @ inverse_total),
            (r, s**4 * inverse_total),
        ):
            assert float(found) == pytest.approx(float((dense.trace() / 63).sqrt()), rel=1e-6)
    assert float(prior.statics.std()) == pytest.approx(1.0, abs=0.02)
    start = gaussian_of(prior, (1, 7, 9))
    torch.testing.assert_close(start.spectral(x, lambda v: v), prior.law.spectral(x, lambda v: v))


def test_the_loss_is_relative_to_the_error_of_the_gaussian(law):
    """The loss of an untrained network is 1 on draws of the Gaussian."""
    prior, draw = CorrectedPrior(law, TINY).double(), inverse.seeded("draw")
    x0 = law.sample(1000, draw)
    noise = torch.randn(x0.shape, generator=draw, dtype=torch.float64)
    for s in (0.1, 1.0):
        loss = float(prior.loss(x0, torch.full((1000,), s, dtype=torch.float64), noise).detach())
        assert loss == pytest.approx(1.0, abs=0.04)


def test_a_circular_network_is_equivariant_to_rotation():
    config = UNetConfig(2, (8, 16), (1, 1), 16, circular=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(config).double()
        for parameter in network.parameters():
            parameter.data.normal_(0, 0.1)
    x = torch.randn(2, 2, 11, 24, generator=inverse.seeded(0), dtype=torch.float64)
    level = torch.zeros(2, dtype=torch.float64)
    output = network(x, level).detach()
    for turn in (4, 12):
        torch.testing.assert_close(network(x.roll(turn, -1), level), output.roll(turn, -1))
    over_poles = network(x.roll(4, -2), level).detach() - output.roll(4, -2)
    assert float(over_poles.abs().max()) > 1e-3  # not equivariant in latitude
    with pytest.raises(OptionError, match="multiple of 4 columns"):
        network(x[..., :22], level)


def test_blended_fields_keep_mean_and_covariance():
    fields = TrainingFields(smooth(40).float(), ("t2m",), ("K",), GRID, ("", ""), 0, "")
    x = fields.batch(20000, inverse.seeded("blend"), mix=1.0).double().flatten(1)
    expected = torch.from_numpy(np.cov(fields.values.flatten(1).numpy().T, bias=True))
    assert float((x.mean(0) - fields.values.flatten(1).mean(0)).abs().max()) < 5 * 2 / 20000**0.5
    assert (
        float((torch.from_numpy(np.cov(x.numpy().T)) - expected).abs().max())
        < 5 * float(expected.max()) * (2 / 20000) ** 0.5
    )
    known = {tuple(row) for row in fields.values.flatten(1).tolist()}
    assert all(
        tuple(row) not in known
        for row in fields.batch(20, inverse.seeded(1), mix=1.0).flatten(1).tolist()
    )
    torch.testing.assert_close(
        min((fields.values - fields.batch(1, inverse.seeded(2))).abs().amax((1, 2, 3))),
        torch.tensor(0.0),
        rtol=0,
        atol=1e-4,
    )


@pytest.mark.parametrize("steps", [0, 60])
def test_train_writes_a_field_prior_that_loads(file, tmp_path, steps):
    """The fields have two climates, which a Gaussian does not represent.

    The saved weights improve on the Gaussian.
    """
    with xarray.open_dataset(file) as data:
        two = data.load()
    two["t2m"] += 8.0 * (two.time.dt.hour > 0)
    two.to_netcdf(tmp_path / "two.nc", engine="h5netcdf")
    out = tmp_path / "mine.safetensors"
    periods = ("2019-03-01/2019-03-03", "2019-03-04/2019-03-05", "2019-03-06/2019-03-06")
    config = (
        TrainConfig(steps=steps, batch=8, warmup=5, learning_rate=5e-3, network=TINY)
        if steps
        else None
    )
    assert train_field_prior(
        tmp_path / "two.nc",
        ["t2m"],
        periods,
        out,
        5,
        config,
        "cpu",
        {"licence": "mine", "limits": "made up"},
    )
    card, prior = json.loads(out.with_suffix(".json").read_text()), load_prior(out)
    assert isinstance(prior, CorrectedPrior if steps else LowRankPrior)
    assert domain_of(prior).grid == GRID
    assert card["extra"]["period"] == ["2019-03-01T00:00", "2019-03-03T16:00"]
    assert card["extra"]["skipped"] == 1
    assert card["law"]["rank"] == 5
    assert len(card["denoising"]["rmse"]["prior"]) == 10
    if steps:
        assert card["denoising"]["validation_ratio"] < 1
        validation = load_fields(tmp_path / "two.nc", ["t2m"], periods[1])
        again = error_ratio(field_table(prior, prior.law, validation, 24))
        assert again == pytest.approx(card["denoising"]["validation_ratio"], abs=2e-3)
    save_prior(prior, tmp_path / "again.safetensors", licence="mine")
    x, sigma = prior.encode(smooth(2, 5).float()), torch.tensor([0.3, 3.0])
    torch.testing.assert_close(
        load_prior(tmp_path / "again.safetensors")(x, sigma), prior(x, sigma), rtol=0, atol=2e-3
    )  # weights in half precision


@pytest.mark.parametrize("steps", [0, 40])
def test_train_writes_a_prior_of_trajectories_that_loads(tmp_path, steps):
    """Six hours of each of six days; no window crosses a gap.

    Each hour depends on the hour before, which the persistence measures.
    """
    noise, fields = smooth(36, 7)[:, 0].numpy() - 280, []
    for i in range(36):
        fields.append(noise[i] if i % 6 == 0 else 0.8 * fields[-1] + 0.6 * noise[i])
    times = np.array(
        [
            np.datetime64("2019-03-01", "ns") + np.timedelta64(24 * (i // 6) + i % 6, "h")
            for i in range(36)
        ]
    )
    where = {
        "time": times,
        "latitude": np.array(GRID.latitudes),
        "longitude": np.array(GRID.longitudes),
    }
    data = xarray.Dataset(
        {"t2m": (("time", "latitude", "longitude"), 280 + np.float32(fields), {"units": "K"})},
        where,
    )
    data.to_netcdf(tmp_path / "hourly.nc", engine="h5netcdf")
    periods = ("2019-03-01/2019-03-03", "2019-03-04/2019-03-05", "2019-03-06/2019-03-06")
    out = tmp_path / "mine.safetensors"
    assert load_fields(tmp_path / "hourly.nc", ["t2m"], periods[0]).windows(3).values.shape == (
        12,
        3,
        7,
        9,
    )
    config = (
        TrainConfig(steps=steps, batch=4, warmup=5, learning_rate=2e-3, network=TINY)
        if steps
        else None
    )
    assert train_field_prior(
        tmp_path / "hourly.nc",
        ["t2m"],
        periods,
        out,
        5,
        config,
        "cpu",
        {"licence": "mine", "limits": "made up"},
        hours=3,
    )
    prior = load_prior(out)
    law = prior.law if steps else prior
    assert isinstance(law, TrajectoryPrior)
    assert (prior.shape, domain_of(prior).hours) == ((3, 7, 9), 3)
    assert 0.5 < float(law.persistence[0]) < 0.95
    x = prior.encode(280 + torch.tensor(np.float32(fields[3:6]))[None])
    assert float((prior(x, torch.tensor(0.05)) - x).abs().max()) < 1
    with pytest.raises(InputError, match="at consecutive hours"):
        load_fields(tmp_path / "hourly.nc", ["t2m"], periods[0]).windows(7)


GLOBE = Grid(tuple(np.linspace(90, -90, 7)), tuple(np.arange(0, 360, 45.0)))


def globe(count, seed=0):
    """Fields (count, 2, 7, 8), stationary in longitude and constant along the pole rows.

    The channels are correlated.
    """
    waves = torch.randn(
        count, 2, 7, 8, generator=inverse.seeded("globe", seed), dtype=torch.float64
    )
    waves = torch.fft.irfft(torch.fft.rfft(waves) / (1 + torch.arange(5)), n=8)
    waves[:, 1] += waves[:, 0] + 0.5 * waves[:, 0].roll(1, -1)
    waves[..., [0, -1], :] = waves[..., [0, -1], :].mean(-1, keepdim=True)
    return waves + torch.tensor([550.0, 260.0])[:, None, None] + torch.linspace(-5, 5, 7)[:, None]


def test_the_zonal_covariance_averages_all_rotations_of_the_fields():
    fields = globe(60)
    # the full rank is 14, or 10 for k > 0, where the poles do not vary
    law = fit_zonal(fields, GLOBE, rank=10, taper=1e9, smooth=0.0, scale=2.0)
    turned = torch.cat([fields.roll(k, -1) for k in range(8)])
    anomaly = ((turned - fields.mean((0, 3))[..., None]) / 2).flatten(1)
    dense = anomaly.T @ anomaly / len(anomaly)
    assert float(law.covariance.trace()) == pytest.approx(float(dense.trace()), rel=1e-9)
    assert law.deviation**2 == pytest.approx(float(dense.trace()) / 112, rel=1e-9)
    # wavenumbers 1 to 4 have full rank; the zonal mean has rank 10 of 14
    waves = torch.fft.rfft(torch.eye(8, dtype=torch.float64), norm="ortho")[:, 1:]
    turn = torch.kron(torch.eye(14, dtype=torch.complex128), waves)
    torch.testing.assert_close(
        turn.mH @ law.covariance.to(turn.dtype) @ turn, turn.mH @ dense.to(turn.dtype) @ turn
    )


def test_the_zonal_law_matches_its_dense_form_and_is_equivariant():
    law = fit_zonal(globe(30), GLOBE, rank=6, taper=3000.0, scale=2.0)
    dense = GaussianPrior(law.mean, law.covariance)
    x = law.encode(globe(3, 1)) + 0.3 * torch.randn(
        3, 2, 7, 8, generator=inverse.seeded(0), dtype=torch.float64
    )
    sigma = torch.tensor(0.4, dtype=torch.float64)
    torch.testing.assert_close(law(x, sigma), dense(x, sigma))
    torch.testing.assert_close(law.log_density(x, 0.4), dense.log_density(x, 0.4))
    torch.testing.assert_close(law(x.roll(3, -1), sigma), law(x, sigma).roll(3, -1))
    assert float(law(x, sigma)[..., [0, -1], :].std(-1).max()) < 1e-12
    draws = law.sample(4000, inverse.seeded("draws"))
    assert float(draws.square().mean().sqrt()) == pytest.approx(law.deviation, rel=0.03)
    assert float(draws[..., 0, :].std(-1).max()) < 1e-12


def test_a_zonal_prior_is_saved_and_loaded(tmp_path):
    law = fit_zonal(globe(30), GLOBE, rank=6, taper=3000.0, scale=2.0)
    save_prior(law, tmp_path / "zonal.safetensors", units="dam, K")
    loaded = load_prior(tmp_path / "zonal.safetensors")
    torch.testing.assert_close(loaded.decode(loaded.mean), law.decode(law.mean).float())
    x = torch.randn(2, 2, 7, 8, generator=inverse.seeded(0))
    torch.testing.assert_close(
        loaded.double()(x.double(), torch.tensor(0.4)).float(), loaded.float()(x, torch.tensor(0.4))
    )
    torch.testing.assert_close(
        loaded(x, torch.tensor(0.4)), law(x.double(), torch.tensor(0.4)).float(), rtol=0, atol=3e-3
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_cards_state_domain_periods_and_licence(name):
    card = PriorCard.read(cards()[name])
    assert (cards()[name].with_name(card.file)).stat().st_size < 5 * 2**20
    assert "Copernicus" in card.licence
    assert card.limits
    assert {"variables", "units", "latitudes", "longitudes", "period", "validation", "test"} <= set(
        card.extra
    )
    period, validation, test = (card.extra[key] for key in ("period", "validation", "test"))
    assert period[1] < validation[0] <= validation[1] < test[0]
    prior = load_prior(name)
    assert domain_of(prior).shape == tuple(prior.shape)
    mean = prior.decode(prior.law.mean if isinstance(prior, CorrectedPrior) else prior.mean)
    bounds = {
        "t2m": (270, 290),
        "z_850": (110, 170),
        "z_500": (480, 600),
        "t_850": (235, 300),
        "t_500": (220, 275),
    }
    for channel, variable in zip(
        mean, domain_of(prior).variables * domain_of(prior).hours, strict=True
    ):
        assert (
            bounds[variable][0] < float(channel.min()) < float(channel.max()) < bounds[variable][1]
        )


def test_shipped_priors_are_found():
    assert {"era5-uk-t2m-gaussian", "era5-zt"} <= set(SHIPPED)


def test_a_zonal_law_can_be_corrected(tmp_path):
    """An untrained correction is the Gaussian, and its scales are traces.

    With any weights it is constant along pole rows and equivariant to rotations by the stride. A
    saved prior loads.
    """
    law = fit_zonal(globe(30), GLOBE, rank=6, taper=3000.0, scale=2.0)
    prior = CorrectedPrior(law, UNetConfig(1, (8,), (1,), 16)).double()
    prior.law.double()
    x = law.encode(globe(2, 1)) + 0.3 * torch.randn(
        2, 2, 7, 8, generator=inverse.seeded(0), dtype=torch.float64
    )
    sigma = torch.tensor([0.1, 0.8]).double()
    torch.testing.assert_close(prior(x, sigma), prior.law(x, sigma))
    C = prior.law.covariance
    for s, e in zip(sigma, prior.scales(sigma)[0], strict=True):
        dense = s**2 * C @ torch.linalg.inv(C + s**2 * torch.eye(112, dtype=torch.float64))
        assert float(e) == pytest.approx(float((dense.trace() / 112).sqrt()), rel=1e-6)
    torch.testing.assert_close(
        prior.law.spread.flatten(), C.diagonal().sqrt(), rtol=1e-5, atol=1e-7
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in prior.network.parameters():
            parameter.data.normal_(0, 0.1)
    output = prior(x, sigma).detach()
    assert float((output - prior.law(x, sigma)).abs().max()) > 1e-3
    assert float(output[..., [0, -1], :].std(-1).max()) < 1e-12
    torch.testing.assert_close(prior(x.roll(4, -1), sigma).detach(), output.roll(4, -1))
    save_prior(prior.float(), tmp_path / "zt.safetensors")
    torch.testing.assert_close(
        load_prior(tmp_path / "zt.safetensors")(x.float(), sigma.float()),
        output.float(),
        rtol=0,
        atol=2e-2,
    )
    torch.testing.assert_close(
        load_prior(tmp_path / "zt.safetensors").decode(x.float()), law.decode(x).float()
    )
