"""Computed tomography: projector, filtered back-projection, files, noise and refusals.

test_operators.py tests the adjoint, batches and states of the operator for every problem.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from cli_fixtures import pixels, write_picture
from conftest import dense, normal, smooth_covariance
from PIL import Image
from skimage.transform import iradon, radon

import inverse
from inverse.errors import InputError, OptionError
from inverse.measurement.operators import adjoint_error, clone
from inverse.priors.loading import save_prior
from inverse.priors.networks.unet import UNetConfig
from inverse_problems.ct.center import estimated_center, fan_center
from inverse_problems.ct.circle import InCircle
from inverse_problems.ct.filtering import angular_weights, filled, filtered_backprojection
from inverse_problems.ct.geometry import Geometry, circle_mask
from inverse_problems.ct.projector import Projector
from inverse_problems.ct.scan import fitted_gain
from inverse_problems.ct.scan_files import as_radians

pytest_plugins = "cli_fixtures"
F64 = torch.float64
ANGLES = np.array([0, 13.7, 45, 90, 101, 179.0])


def disc(size: int, radius: float, column: float = 0.0, row: float = 0.0) -> torch.Tensor:
    """A disk of intensity 1, edges averaged over 8 x 8 points of a pixel: (1, 1, size, size)."""
    fine = (np.arange(size * 8) + 0.5) / 8 - 0.5 - size // 2
    inside = (fine[:, None] - row) ** 2 + (fine - column) ** 2 <= radius**2
    return torch.from_numpy(inside.reshape(size, 8, size, 8).mean((1, 3)))[None, None]


def random_slice(size: int) -> np.ndarray:
    """Random intensities within the circle, away from its edge."""
    axis = np.arange(size) - size // 2
    inside = axis[:, None] ** 2 + axis**2 < (size // 2 - 2) ** 2
    return np.random.default_rng(0).random((size, size)) * inside


# --- projector and filtered back-projection -----------------------------------------------------


@pytest.mark.parametrize("size", [63, 64])
def test_line_integrals_are_those_of_scikit_image(size):
    image = random_slice(size)
    ours = Projector(Geometry(np.deg2rad(ANGLES), size, size // 2, size))
    expected = radon(image, ANGLES, circle=True).T
    y = ours.forward(torch.from_numpy(image)[None, None])[0, 0]
    np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [63, 64])
@pytest.mark.parametrize("window", ["ramp", "shepp-logan", "cosine", "hamming", "hann"])
def test_filtered_backprojection_is_that_of_scikit_image(size, window):
    theta = np.linspace(0, 180, 20, endpoint=False)
    sinogram = np.random.default_rng(0).random((size, len(theta)))
    expected = iradon(sinogram, theta, filter_name=window, circle=True)
    geometry = Geometry(np.deg2rad(theta), size, size // 2, size)
    y = torch.from_numpy(sinogram.T.copy())[None, None]
    ours = filtered_backprojection(y, geometry, window)[0, 0]
    # scikit-image draws these two windows off the origin of the frequencies by half a step
    atol = 2e-3 if window in ("hamming", "hann") else 1e-12
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=atol)


BEAMS = {
    "parallel": {},
    "limited": {"arc": 100.0},
    "off-centre": {"center": 9.3},
    "square": {"circle": False},
    "fan": {"beam": "fan"},
    "wide fan": {"beam": "fan", "source": 14.0, "screen": 3.0, "pitch": 1.7},
}


@pytest.mark.parametrize("beam", BEAMS)
def test_the_adjoint_is_the_transpose(beam):
    problem = inverse.get_problem("ct", views=7, mu=0.3, **BEAMS[beam])
    operator = problem.operator((1, 24, 24))
    assert adjoint_error(operator, (1, 24, 24)) < 1e-13
    matrix = dense(operator, (1, 24, 24))
    v = normal(1, 1, 7, 24)
    torch.testing.assert_close(operator.A_adjoint(v).flatten(), matrix.T @ v.flatten())


@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_the_integral_through_a_disk_is_its_chord(beam):
    """2 sqrt(R^2 - s^2); edges of pixels leave errors of a fraction of a pixel, none in the sum."""
    size, radius = 128, 40.0
    geometry = inverse.get_problem("ct", views=11, beam=beam).geometry((1, size, size))
    _, s = geometry.lines()
    expected = 2 * np.sqrt(np.clip(radius**2 - s**2, 0, None))
    y = Projector(geometry).forward(disc(size, radius))[0, 0].numpy()
    away = np.abs(np.abs(s) - radius) > 1.5
    assert np.abs(y - expected)[away].max() < 0.6
    assert np.abs((y - expected).sum(1)).max() < 2e-3 * expected.sum(1).max()


def test_a_fan_ray_of_one_pixel_is_where_trigonometry_puts_it():
    """A point off the axis, seen from the source under the angle atan(s / (source + t))."""
    size, source, screen, column, row = 65, 100.0, 40.0, 12.0, 7.0
    theta = np.deg2rad([0.0, 33.0, 200.0])
    geometry = Geometry(theta, 201, 100.0, size, True, 0.7, source, screen)
    x = torch.zeros(1, 1, size, size, dtype=F64)
    x[0, 0, size // 2 + int(row), size // 2 + int(column)] = 1
    y = Projector(geometry).forward(x)[0, 0].numpy()
    centroid = (y * geometry.positions()).sum(1) / y.sum(1)
    s = column * np.cos(theta) - row * np.sin(theta)
    t = column * np.sin(theta) + row * np.cos(theta)
    expected = (source + screen) * s / (source + t)
    np.testing.assert_allclose(centroid, expected, atol=0.02)


@pytest.mark.parametrize(("beam", "views"), [("parallel", 180), ("fan", 360)])
def test_filtered_backprojection_recovers_a_smooth_slice(beam, views):
    size = 96
    axis = np.arange(size) - size // 2
    blob = np.exp(-((axis[:, None] - 9) ** 2 + (axis + 14) ** 2) / (2 * 6.0**2))
    x = torch.from_numpy(blob)[None, None]
    geometry = inverse.get_problem("ct", views=views, beam=beam).geometry((1, size, size))
    found = filtered_backprojection(Projector(geometry).forward(x), geometry)
    assert float((found - x).abs().max()) < 0.02


ASTRA = {
    "line": Geometry(np.deg2rad(ANGLES), 37, 15.3, 32, True, 1.1),
    "strip": Geometry(np.deg2rad(ANGLES), 38, 15.3, 33, True, 1.1),
    "line of a fan": Geometry(np.deg2rad(ANGLES * 2), 40, 17.7, 32, True, 2.0, 60.0, 30.0),
}


@pytest.mark.parametrize("kind", ASTRA)
def test_line_integrals_are_those_of_astra(kind):
    """An independent geometry; a line through square pixels of a blob errs by a tenth."""
    pytest.importorskip("astra")
    geometry = ASTRA[kind]
    axis = np.arange(geometry.size) - geometry.size // 2
    blob = np.exp(-((axis[:, None] - 4) ** 2 + (axis + 6) ** 2) / (2 * 3.0**2))
    x = torch.from_numpy(blob)[None, None]
    ours = Projector(geometry).forward(x)
    theirs = Projector(geometry, kind.split()[0]).forward(x)
    assert float((ours - theirs).abs().max()) < (0.1 if kind == "strip" else 0.8)
    assert float((ours - theirs).sum().abs()) < 0.005 * float(ours.sum())
    centroids = [(y * torch.arange(geometry.detectors)).sum(-1) / y.sum(-1) for y in (ours, theirs)]
    torch.testing.assert_close(*centroids, atol=0.2, rtol=0)


def test_a_projector_of_astra_needs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "astra", None)
    problem = inverse.get_problem("ct", projector="strip", views=3)
    with pytest.raises(OptionError, match="pip install astra-toolbox"):
        problem.operator((1, 16, 16)).A(torch.zeros(1, 1, 16, 16))


def test_views_of_an_uneven_arc_are_weighted_by_their_angles():
    theta = np.deg2rad([0.0, 10.0, 30.0, 60.0, 100.0, 140.0])
    weights = np.rad2deg(angular_weights(theta, math.pi))
    np.testing.assert_allclose(weights, [25, 15, 25, 35, 40, 40])
    limited = angular_weights(np.deg2rad(np.arange(0.0, 120.0, 2.0)), math.pi)
    np.testing.assert_allclose(np.rad2deg(limited), 2.0)


def test_a_slice_beyond_memory_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr("inverse_problems.ct.projector.free_memory", lambda device: 2**20)
    operator = inverse.get_problem("ct").operator((1, 96, 96))
    operator.projector.__dict__.pop("matrix", None)
    with pytest.raises(inverse.InverseError, match="GiB are free; use fewer views"):
        operator.A(torch.zeros(1, 1, 96, 96))


# --- the posterior ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gaussian():
    """A smooth Gaussian slice of 16 x 16 pixels."""
    covariance = smooth_covariance(1, 16, 16)
    mean = torch.full((1, 16, 16), -0.2, dtype=F64)
    units = {"shift": 0.5, "scale": 0.5, "sigma_min": 0.01, "sigma_max": 20.0}
    return inverse.GaussianPrior(mean, covariance, **units)


@pytest.mark.parametrize("options", [{}, {"beam": "fan"}, {"data": "counts", "photons": 500.0}])
def test_the_posterior_of_a_gaussian_slice_is_exact(gaussian, options):
    """The law of x given y by Bayes' rule with the dense matrix, per ray noise included."""
    problem = inverse.get_problem("ct", views=9, circle=False, sigma_y=0.5, **options)
    truth = gaussian.decode(gaussian.sample(1, inverse.seeded("ct")))
    posterior = problem.posterior(truth, prior=gaussian, dtype=F64)
    A = dense(posterior.operator, (1, 16, 16))
    sigma = posterior.noise.sigma.expand(posterior.y.shape[1:]).flatten()
    law = gaussian.given(A, sigma if "data" in options else 0.5, posterior.y.flatten())
    result = inverse.solve(posterior, inverse.get_method("mmps", steps=25), samples=150, seed=1)
    expected = gaussian.decode(law.mean)[0].flatten()
    variance = 0.25 * law.covariance.diagonal()
    z = (result.samples[0].double().mean(0).flatten() - expected) / (variance / 150).sqrt()
    assert float(z.abs().max()) < 5  # of 256 standard normals
    ratio = result.samples[0].double().flatten(1).var(0) / variance
    assert float(ratio.mean()) == pytest.approx(1, abs=0.1)


def test_the_score_of_poisson_counts_is_its_derivative():
    problem = inverse.get_problem(
        "ct", data="counts", likelihood="poisson", views=5, photons=200.0, circle=False
    )
    prior = inverse.FlatPrior((1, None, None), shift=0.5, scale=0.5)
    posterior = problem.posterior(torch.full((1, 12, 12), 0.4), prior=prior, dtype=F64)
    x = 0.1 * normal(1, 1, 12, 12)
    expected = posterior.operator.A(prior.decode(x))
    integrals = problem.operator((1, 12, 12))
    matrix = dense(
        clone(
            inverse.get_problem("ct", views=5, mu=integrals.mu, circle=False).operator((1, 12, 12)),
            "cpu",
            F64,
        ),
        (1, 12, 12),
    )
    score = 0.5 * (matrix.T @ (expected - posterior.y).flatten())
    torch.testing.assert_close(posterior.likelihood_score(x).flatten(), score)


def test_line_integrals_of_counts_have_the_stated_noise():
    problem = inverse.get_problem("ct", data="counts", views=40, photons=1e4)
    truth = disc(64, 20.0)[0]
    clean = problem.operator((1, 64, 64)).A(truth[None])
    posterior = problem.posterior(truth, prior=inverse.FlatPrior((1, None, None)), dtype=F64)
    z = (posterior.y - clean) / posterior.noise.sigma
    assert float(z.square().mean()) == pytest.approx(1, abs=4 * (2 / z.numel()) ** 0.5)
    with pytest.raises(InputError, match="solve them one by one"):
        problem.posterior(torch.stack([truth, truth]), prior=inverse.FlatPrior((1, None, None)))


def test_outside_the_circle_is_air():
    prior = inverse.FlatPrior((1, None, None), shift=0.5, scale=0.5)
    problem = inverse.get_problem("ct", views=12, sigma_y=0.1)
    posterior = problem.posterior(disc(32, 9.0)[0] * 0.7, prior=prior, dtype=F64)
    assert isinstance(posterior.prior, InCircle)
    for method in ("fbp", "sirt", "tv", "pseudo-inverse"):
        answer = inverse.solve(posterior, method, samples=1).mean[0, 0]
        assert not bool(answer[~torch.from_numpy(circle_mask(32))].any()), method
    z = normal(2, 1, 32, 32)
    gap = (posterior.prior.decode(z) * z[:1]).sum() - posterior.prior.shift * (
        z[:1] * torch.from_numpy(circle_mask(32))
    ).sum() * 2
    back = (z * posterior.prior.decode_adjoint(z[:1].expand(2, -1, -1, -1))).sum()
    torch.testing.assert_close(gap, back)


def test_sirt_converges_to_non_negative_least_squares():
    truth = disc(9, 2.3)[0]
    problem = inverse.get_problem("ct", views=40, sigma_y=0.0)
    posterior = problem.posterior(
        truth, prior=inverse.FlatPrior((1, None, None), shift=0.5, scale=0.5), dtype=F64
    )
    answer = inverse.solve(posterior, inverse.get_method("sirt", steps=3000), samples=1).mean[0]
    assert float((answer - truth).abs().max()) < 0.02


# --- the rotation axis and the gain -------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 2.6, -11.3])
@pytest.mark.parametrize("views", [20, 90])
def test_the_rotation_axis_is_found(shift, views):
    theta = np.linspace(0, math.pi, views, endpoint=False)
    geometry = Geometry(theta, 128, 64 + shift, 96)
    y = Projector(geometry).forward(disc(96, 20.0, 11.0, -8.0))[0, 0].numpy()
    assert estimated_center(y, theta) == pytest.approx(64 + shift, abs=0.02)
    noisy = y + np.random.default_rng(0).normal(0, 0.2, y.shape)
    assert estimated_center(noisy, theta) == pytest.approx(64 + shift, abs=0.15)


@pytest.mark.parametrize("shift", [0.0, 3.4, -7.2])
def test_the_axis_of_a_fan_is_found(shift):
    """From pixel edges and the measure of the angle an error of a tenth of a pixel remains."""
    theta = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    geometry = Geometry(theta, 128, 64 + shift, 96, True, 1.3, 150.0, 60.0)
    y = Projector(geometry).forward(disc(96, 20.0, 11.0, -8.0))[0, 0].numpy()
    assert fan_center(y, theta) == pytest.approx(64 + shift, abs=0.1)
    assert fan_center(y, theta / 2) is None
    assert fan_center(y[:, 45:], theta) is None


def test_an_axis_that_cannot_be_found_is_refused():
    theta = np.linspace(0, math.pi, 30, endpoint=False)
    y = Projector(Geometry(theta, 96, 48, 96)).forward(disc(96, 20.0, 16.0))[0, 0].numpy()
    with pytest.raises(InputError, match="part of the object is not seen"):
        estimated_center(y[:, :60], theta)
    with pytest.raises(InputError, match="do not determine the rotation axis"):
        estimated_center(y[:2], theta[:2])


def test_the_gain_is_found_from_flats_of_a_drifting_beam():
    draw = np.random.default_rng(0)
    drift = np.linspace(0.9, 1.1, 12)[:, None]
    flats = 1.7 * draw.poisson(8000 * drift * np.ones(600))
    assert fitted_gain(flats) == pytest.approx(1.7, rel=0.08)
    assert fitted_gain(flats[:1]) is None


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def grey(tmp_path) -> Path:
    """An untrained grey prior on disk."""
    prior = inverse.NetworkPrior.unet(UNetConfig(1, (8, 16), (1, 1), 16), shift=0.5, scale=0.5)
    save_prior(prior, tmp_path / "grey.safetensors")
    return tmp_path / "grey.safetensors"


@pytest.fixture
def ct(command, grey):
    """Run `inverse solve --problem ct` with the untrained prior."""

    def run(*arguments, method="fbp", **options):
        stated = [part for n, v in options.items() for part in ("--problem-option", f"{n}={v}")]
        given = ("solve", "--problem", "ct", "--method", method, "--prior", grey)
        return command(*given, *arguments, *stated)

    return run


@pytest.fixture
def slice_and_views():
    return random_slice(48), np.linspace(0, 180, 25, endpoint=False)


def write_exchange(path: Path, counts, flats, darks, theta, units: str | None = "degrees") -> Path:
    with h5py.File(path, "w") as file:
        arrays = {"data": counts, "data_white": flats, "data_dark": darks, "theta": theta}
        for name, values in arrays.items():
            if values is not None:
                file[f"exchange/{name}"] = values
        if units:
            file["exchange/theta"].attrs["units"] = units
    return path


@pytest.fixture
def scan(slice_and_views):
    """Counts (views, slices, detectors), flats, darks and angles (degree) of a scan."""
    image, theta = slice_and_views
    integrals = 0.05 * radon(image, theta, circle=True).T[:, None]
    draw = np.random.default_rng(0)
    counts = draw.poisson(9000 * np.exp(-integrals)) + 100.0
    flats = draw.poisson(9000 * np.ones((10, 1, 48))) + 100.0
    return counts, flats, np.full((4, 1, 48), 100.0), theta


def test_a_sinogram_of_scikit_image_works_as_it_is(ct, slice_and_views, tmp_path):
    image, theta = slice_and_views
    sinogram = radon(image, theta, circle=True)
    np.save(tmp_path / "sinogram.npy", sinogram)
    tifffile.imwrite(tmp_path / "sinogram.tif", sinogram.astype(np.float32))
    np.savez(tmp_path / "named.npz", sinogram=sinogram, theta=theta)
    expected = iradon(sinogram, theta, circle=True)
    for name in ("sinogram.npy", "sinogram.tif", "named.npz"):
        outcome = ct("--measurement", name, center=24)
        assert outcome.code == 0, outcome.err
        result = inverse.Result.load(outcome.path / "result.h5")
        assert result.y.shape == (1, 1, 25, 48)
        np.testing.assert_allclose(result.mean[0, 0].numpy(), expected, atol=2e-5)
        written = tifffile.imread(outcome.path / "reconstruction.tif")
        np.testing.assert_array_equal(written, result.mean[0, 0].numpy())
        assert written.dtype == np.float32
    estimated = ct("--measurement", "sinogram.npy")
    assert "rotation axis at detector pixel 24.0" in estimated.out
    assert "25 views of 48 detector pixels" in estimated.out


def test_a_picture_is_scanned(ct, tmp_path):
    write_picture(tmp_path / "slice.png", pixels(30, 24, 1))
    outcome = ct("--input", "slice.png", views=12, beam="fan")
    assert outcome.code == 0, outcome.err
    assert "cropped from 30x24 to 24x24" in outcome.out


def test_a_data_exchange_file_is_reconstructed(ct, scan, slice_and_views, tmp_path):
    counts, flats, darks, theta = scan
    write_exchange(tmp_path / "scan.h5", counts, flats, darks, theta)
    outcome = ct("--measurement", "scan.h5", method="tv", mu=0.05)
    assert outcome.code == 0, outcome.err
    assert "counts per photon, found from 10 flats" in outcome.out
    result = inverse.Result.load(outcome.path / "result.h5")
    error = result.mean[0, 0].numpy()[:48, :48] - slice_and_views[0]
    assert np.sqrt((error**2).mean()) < 0.2
    expected = -np.log((counts - 100) / (flats - 100).mean(0))[:, 0]
    np.testing.assert_allclose(result.y[0, 0].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_counts_in_arrays_are_those_of_the_exchange_file(ct, scan, tmp_path):
    counts, flats, darks, theta = scan
    write_exchange(tmp_path / "scan.h5", counts, flats, darks, theta)
    np.save(tmp_path / "counts.npy", counts[:, 0])
    np.save(tmp_path / "flats.npy", flats[:, 0])
    np.savetxt(tmp_path / "theta.txt", theta)
    first = ct("--measurement", "scan.h5", "--out", "a")
    second = ct(
        "--measurement", "counts.npy", "--out", "b",
        data="counts", flats="flats.npy", darks=100, theta="theta.txt",
    )  # fmt: skip
    assert first.code == second.code == 0, second.err
    a, b = (inverse.Result.load(o.path / "result.h5") for o in (first, second))
    torch.testing.assert_close(a.samples, b.samples)


@pytest.mark.parametrize("likelihood", ["gaussian", "poisson"])
def test_counts_are_solved_by_their_likelihood(ct, scan, tmp_path, likelihood):
    write_exchange(tmp_path / "scan.h5", *scan)
    outcome = ct(
        "--measurement", "scan.h5", "--steps", 2,
        method="dps", data="counts", likelihood=likelihood, views=10, bin=2,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "10 of 25 views" in outcome.out
    result = inverse.Result.load(outcome.path / "result.h5")
    assert result.y.shape == (1, 1, 10, 24)
    assert (float(result.y.max()) > 1000) == (likelihood == "poisson")


def test_transmissions_are_read(ct, scan, tmp_path):
    counts, _, _, theta = scan
    np.savez(tmp_path / "t.npz", data=(counts - 100)[:, 0] / 9000, theta=theta)
    outcome = ct("--measurement", "t.npz", data="intensities", photons=9000)
    assert outcome.code == 0, outcome.err
    y = inverse.Result.load(outcome.path / "result.h5").y[0, 0].numpy()
    np.testing.assert_allclose(y, -np.log((counts - 100)[:, 0] / 9000), rtol=1e-4, atol=1e-6)


# --- bad input ----------------------------------------------------------------------------------


@pytest.fixture
def refuse(ct, tmp_path):
    """Check that a request is refused in one line, and that nothing is written."""

    def run(*arguments, says, **options):
        before = sorted(tmp_path.rglob("*"))
        line = ct(*arguments, **options).refused(*([says] if isinstance(says, str) else says))
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return run


def test_angles_in_another_unit_are_refused(refuse, ct, scan, tmp_path):
    counts, flats, darks, theta = scan
    write_exchange(tmp_path / "a.h5", counts, flats, darks, np.deg2rad(theta), None)
    refuse("--measurement", "a.h5", says="a range in radians, not in degrees; state theta_unit=r")
    refuse(
        "--measurement", write_exchange(tmp_path / "b.h5", counts, flats, darks, theta, "radians"),
        says="a range in degrees, not in radians",
    )  # fmt: skip
    assert ct("--measurement", "a.h5", theta_unit="radian").code == 0


def test_projections_and_angles_must_be_as_many(refuse, scan, tmp_path):
    counts, flats, darks, theta = scan
    file = write_exchange(tmp_path / "a.h5", counts[:20], flats, darks, theta)
    refuse("--measurement", file, says="20 projections and 25 angles; give one angle for each")
    np.save(tmp_path / "a.npy", counts[:20, 0])
    np.savetxt(tmp_path / "theta.txt", theta)
    refuse("--measurement", "a.npy", says="25 angles, but the projections", theta="theta.txt")
    write_exchange(tmp_path / "a.h5", counts, flats, darks, theta)
    refuse("--measurement", "a.h5", says="has 25 views, views=26 asks for more", views=26)


def test_flats_and_counts_without_beam_are_refused(refuse, scan, tmp_path):
    counts, flats, darks, theta = scan
    name = "a.h5"
    write_exchange(tmp_path / name, counts, 0 * flats, darks, theta)
    refuse("--measurement", name, says="does not exceed the dark field at 48 of 48")
    write_exchange(tmp_path / name, counts, None, None, theta)
    refuse("--measurement", name, says="state flats=FILE, or a number")
    write_exchange(tmp_path / name, counts - 5000, flats, darks, theta)
    refuse("--measurement", name, says="counts are negative")
    write_exchange(tmp_path / name, counts, flats[..., :40], darks, theta)
    refuse("--measurement", name, says="flats have 40 detector pixels, the projections 48")
    write_exchange(tmp_path / name, counts * np.nan, flats, darks, theta)
    refuse("--measurement", name, says="values are NaN or infinite")


def test_numbers_of_another_kind_are_refused(refuse, scan, tmp_path):
    counts, _, _, theta = scan
    np.save(tmp_path / "counts.npy", counts[:, 0])
    refuse("--measurement", "counts.npy", says="they lie between 0 and 1", data="intensities")
    np.save(tmp_path / "negative.npy", -counts[:, 0])
    refuse("--measurement", "negative.npy", says="attenuation is positive")
    np.save(tmp_path / "complex.npy", counts[:, 0] + 1j)
    refuse("--measurement", "complex.npy", says="expected real numbers, found complex128")
    np.save(tmp_path / "four.npy", counts[None])
    refuse("--measurement", "four.npy", says="expected (views, detectors)")
    write_picture(tmp_path / "a.png", pixels(20, 20, 1))
    refuse("--measurement", "a.png", says="found another kind of file")
    refuse("--measurement", "lost.h5", says="no such file")
    np.savez(tmp_path / "t.npz", data=counts[:, 0], theta=theta)
    refuse("--measurement", "t.npz", says="beyond the 48 detector pixels", center=99)


def test_impossible_options_are_refused(refuse, tmp_path):
    write_picture(tmp_path / "a.png", pixels(20, 20, 1))
    given = ("--input", "a.png")
    refuse(*given, says="views must be at least 1", views=0)
    refuse(*given, says="arc must be positive and at most 720", arc=-10)
    refuse(*given, says="lies inside the slice", beam="fan", source=5)
    refuse(*given, says="source and screen belong to a fan beam", source=100)
    refuse(*given, says="likelihood=poisson needs counts", likelihood="poisson")
    refuse(*given, says="no such file", theta="lost.txt")


def test_fbp_and_sirt_say_what_they_need():
    prior = inverse.FlatPrior((3, None, None), shift=0.5, scale=0.5)
    posterior = inverse.get_problem("denoise").posterior(torch.rand(3, 8, 8), prior=prior)
    with pytest.raises(inverse.InverseError, match="fbp needs an operator with a filtered"):
        inverse.solve(posterior, "fbp")
    with pytest.raises(OptionError, match="relaxation must be positive and below 2"):
        inverse.get_method("sirt", relaxation=2.5)


# --- real data ----------------------------------------------------------------------------------

TOOTH = Path(os.environ.get("INVERSE_DATA", ".")) / "instruments" / "ct" / "tooth.h5"


@pytest.mark.skipif(not TOOTH.is_file(), reason="needs $INVERSE_DATA/instruments/ct/tooth.h5")
def test_the_axis_of_both_slices_of_the_tooth_agrees(ct):
    """tomopy's documentation has 296 for this scan."""
    for number in (0, 1):
        outcome = ct("--measurement", TOOTH, bin=8, slice=number, size=32)
        assert outcome.code == 0, outcome.err
        place = float(outcome.out.split("rotation axis at detector pixel ")[1].split()[0])
        assert place == pytest.approx(296.2, abs=0.3)


def test_every_slice_of_a_scan_is_solved_and_resumed(ct, tmp_path):
    """A stack of attenuation; one slice alone has the same answer."""
    theta = np.arange(0.0, 180, 9)
    volume = [random_slice(24), random_slice(24)[::-1]]
    sinograms = np.stack([radon(s, theta, circle=True).T for s in volume], 1)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"], file["theta"] = sinograms, theta
    outcome = ct("--restore", "scan.h5", slice="all")
    assert outcome.code == 0, outcome.err
    stack = tifffile.imread(outcome.path)
    assert outcome.path.name == "reconstruction.tif"
    assert stack.shape == (2, 24, 24)
    one = ct("--restore", "scan.h5", "--out", "one", slice=1)
    assert np.array_equal(tifffile.imread(one.path / "reconstruction.tif"), stack[1])
    first = outcome.path.parent / "slices" / "0001" / "result.h5"
    written = first.stat().st_mtime_ns
    assert ct("--restore", "scan.h5", "--resume", slice="all").code == 0
    assert first.stat().st_mtime_ns == written
    ct("--restore", "scan.h5", slice=2).refused("slice 2 does not exist; there are 2")
    outcome = ct("--restore", "scan.h5", "--restore", "scan.h5", slice="all")
    assert outcome.code == 2
    assert "slice=all takes one measured file alone" in outcome.err


# --- metal --------------------------------------------------------------------------------------


def with_metal(size: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """A slice (1, size, size), and the mask of a small disk of metal in it."""
    soft = 0.5 * disc(size, 17.0) + 0.3 * disc(size, 6.0, -7.0, 3.0)
    return soft[0], disc(size, 2.5, 8.0, -2.0)[0, 0] > 0.4


def test_what_is_not_seen_is_interpolated():
    y = torch.tensor([[[1.0, 9.0, 9.0, 4.0, 9.0]]])
    seen = torch.tensor([[True, False, False, True, False]])
    torch.testing.assert_close(filled(y, seen), torch.tensor([[[1.0, 2.0, 3.0, 4.0, 2.0]]]))
    assert torch.equal(filled(y, torch.ones_like(seen)), y)


def test_rays_through_metal_are_not_used(ct, tmp_path):
    """A threshold and the mask of the slice find the same rays; the slice beside is recovered."""
    soft, metal = with_metal()
    Image.fromarray((metal.numpy() * 255).astype(np.uint8)).save(tmp_path / "metal.png")
    geometry = inverse.get_problem("ct", views=60).geometry((1, 48, 48))
    x = torch.where(metal, 40.0, soft)[None]
    np.save(tmp_path / "y.npy", Projector(geometry).forward(x)[0, 0].numpy())
    errors = {}
    stated = {"center": 24, "mu": 1, "sigma_y": 0.1}
    for name, options in {
        "none": {},
        "threshold": {"metal": 22},
        "mask": {"metal": "metal.png"},
    }.items():
        outcome = ct("--restore", "y.npy", "--out", name, **stated, **options)
        assert outcome.code == 0, outcome.err
        found = inverse.Result.load(outcome.path / "result.h5").mean[0, 0]
        errors[name] = float((found - soft[0])[~metal].square().mean().sqrt())
        assert ("of the rays pass metal" in outcome.out) == bool(options)
    assert errors["mask"] < 0.4 * errors["none"]
    assert errors["threshold"] < 0.4 * errors["none"]


def test_unseen_rays_carry_no_likelihood(tmp_path):
    soft, metal = with_metal(24)
    Image.fromarray((metal.numpy() * 255).astype(np.uint8)).save(tmp_path / "metal.png")
    problem = inverse.get_problem("ct", views=9, metal=str(tmp_path / "metal.png"), sigma_y=0.1)
    operator = problem.operator((1, 24, 24))
    assert adjoint_error(operator, (1, 24, 24)) < 1e-13
    posterior = problem.posterior(
        soft, prior=inverse.FlatPrior((1, None, None), shift=0.5, scale=0.5), dtype=F64
    )
    hidden = ~posterior.noise.observed
    assert 0 < float(hidden.double().mean()) < 0.4
    assert not bool(posterior.y[0][hidden[None]].any())
    inside = torch.where(metal, 1.0, 0.0)[None, None].double()
    assert float(operator.A(inside).abs().max()) <= 0.5


@pytest.mark.parametrize("theta", [np.array([0, np.nan, 2]), np.array([0j, 1]), np.array(["a"])])
def test_angles_that_are_no_numbers_are_refused(theta):
    with pytest.raises(InputError, match="expected finite real numbers"):
        as_radians("theta", theta, None)


def test_bad_metal_is_refused(ct, tmp_path):
    np.save(tmp_path / "y.npy", np.ones((20, 24)) * np.hanning(24))
    Image.fromarray(np.full((30, 30), 255, np.uint8)).save(tmp_path / "metal.png")
    given = ("--restore", "y.npy")
    ct(*given, metal="lost.png").refused("neither a number nor a file")
    ct(*given, metal="metal.png").refused("metal mask metal.png has 30x30 pixels")
    ct(*given, metal="-2").refused("must be a positive line integral")
    ct(*given, metal="1e-9").refused("hold no attenuation")
    ct(metal="3").refused("a threshold of metal= is for a measurement")
    ct(*given, metal="2", data="counts", flats=9, likelihood="poisson").refused("metal= leaves out")
