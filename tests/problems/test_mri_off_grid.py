"""MRI off a Cartesian grid: transform, density, gridding, posterior, files and refusals."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import dense, normal, smooth_covariance
from ismrmrd_writer import acquisition, header, write

import inverse
from inverse.errors import OptionError
from inverse.measurement.operators import adjoint_error, clone
from inverse_problems.mri.maps import simulated_maps
from inverse_problems.mri.nufft import NUFFT, density_compensation
from inverse_problems.mri.operators import as_complex, off_grid
from inverse_problems.mri.trajectories import in_cycles, radial, spiral

pytest_plugins = "cli_fixtures"
F64 = torch.float64


def head(side: int) -> np.ndarray:
    """A smooth ellipse with structure, intensities (side, side)."""
    y, x = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    r = np.sqrt((y / 0.8) ** 2 + (x / 0.6) ** 2)
    return (1 / (1 + np.exp((r - 0.9) * 12))) * (0.7 + 0.2 * np.cos(6 * x) * np.cos(5 * y))


def exact(frequencies: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The transform by its definition."""
    axes = [np.arange(n) - n // 2 for n in image.shape]
    rows, columns = (
        np.exp(-2j * np.pi * frequencies[:, i, None] * axis / len(axis))
        for i, axis in enumerate(axes)
    )
    return np.einsum("ch,cw,hw->c", rows, columns, image) / np.sqrt(image.size)


# --- transform and density ----------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(12, 10), (13, 16), (9, 9)])
def test_the_transform_is_that_of_its_definition(sides):
    """Errors of the kernel, of 8 points at twice the sides, are 1e-7."""
    rng = np.random.default_rng(0)
    frequencies = rng.uniform(-0.5, 0.5, (150, 2)) * sides
    image = rng.normal(size=sides) + 1j * rng.normal(size=sides)
    expected = exact(frequencies, image)
    found = NUFFT(frequencies, sides).forward(torch.from_numpy(image)).numpy()
    assert np.abs(found - expected).max() < 5e-7 * np.abs(expected).max()


def test_the_transform_is_that_of_torchkbnufft():
    """An independent implementation, whose default table has errors of 1e-3."""
    with warnings.catch_warnings(action="ignore"):
        kb = pytest.importorskip("torchkbnufft")
        k = radial(7, (16, 16)).reshape(-1, 2)
        image = torch.from_numpy(head(16)).to(torch.complex64)
        omega = torch.from_numpy(k.T * 2 * np.pi / 16).float()
        other = kb.KbNufft((16, 16))(image[None, None], omega)[0, 0] / 16
    ours = NUFFT(k, (16, 16)).forward(image)
    assert float((ours - other).abs().max()) < 5e-3 * float(ours.abs().max())


@pytest.mark.parametrize("name", ["radial", "spiral"])
@pytest.mark.parametrize("coils", [1, 3])
def test_the_adjoint_is_the_transpose(name, coils):
    problem = inverse.get_problem("mri", trajectory=name, coils=coils, acceleration=3)
    operator = clone(problem.operator((1, 15, 12)), "cpu", F64)
    assert adjoint_error(operator, (1, 15, 12)) < 1e-12
    x = normal(1, 1, 15, 12).requires_grad_()
    y = operator.A(x)
    v = normal(*y.shape)
    (gradient,) = torch.autograd.grad((y * v).sum(), x)
    torch.testing.assert_close(gradient, operator.A_adjoint(v))


@pytest.mark.parametrize("k", [radial(60, (32, 32)), spiral(16, (32, 32), 16)])
def test_density_is_the_area_of_k_space(k):
    density = density_compensation(k.reshape(-1, 2))
    assert density.sum() == pytest.approx(np.pi * 16**2, rel=0.12)
    radius = np.hypot(*k.reshape(-1, 2).T)
    inner = density[radius < 8].sum()
    assert inner == pytest.approx(np.pi * 8**2, rel=0.12)


@pytest.mark.parametrize("name", ["radial", "spiral"])
def test_gridding_recovers_a_smooth_slice(name):
    problem = inverse.get_problem("mri", trajectory=name, acceleration=1, sigma_y=1e-6)
    truth = torch.from_numpy(head(48))[None]
    prior = inverse.FlatPrior((1, None, None), shift=0.5, scale=0.5)
    posterior = problem.posterior(truth, prior=prior, dtype=F64)
    found = inverse.solve(posterior, inverse.get_method("gridding")).mean[0]
    assert float((found - truth).square().mean().sqrt()) < 0.03
    better = inverse.solve(posterior, inverse.get_method("sense", damping=1e-6)).mean[0]
    assert float((better - truth).square().mean().sqrt()) < 0.005


def test_the_posterior_of_a_gaussian_slice_is_exact():
    covariance = smooth_covariance(1, 8, 8)
    units = {"shift": 0.5, "scale": 0.5, "sigma_min": 0.01, "sigma_max": 20.0}
    prior = inverse.GaussianPrior(torch.full((1, 8, 8), -0.2, dtype=F64), covariance, **units)
    problem = inverse.get_problem("mri", trajectory="radial", coils=2, acceleration=4, sigma_y=0.1)
    truth = prior.decode(prior.sample(1, inverse.seeded("mri")))
    posterior = problem.posterior(truth, prior=prior, dtype=F64)
    A = dense(posterior.operator, (1, 8, 8))
    law = prior.given(A, 0.1, posterior.y.flatten())
    result = inverse.solve(posterior, inverse.get_method("mmps", steps=25), samples=150, seed=1)
    variance = 0.25 * law.covariance.diagonal()
    found = result.samples[0].double().flatten(1)
    z = (found.mean(0) - prior.decode(law.mean).flatten()) / (variance / 150).sqrt()
    assert float(z.abs().max()) < 5  # of 64 standard normals
    assert float((found.var(0) / variance).mean()) == pytest.approx(1, abs=0.1)


def test_gridding_needs_a_density(command):
    outcome = command("solve", "--problem", "mri", "--method", "gridding")
    outcome.refused("gridding needs frequencies off a grid")


# --- units --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1, "cycles per field of view"), (1 / 32, "cycles per pixel"), (np.pi / 16, "radians")],
)
def test_units_are_found_from_the_range(factor, words):
    k = radial(8, (32, 32))
    notes: list[str] = []
    found, _ = in_cycles(Path("k.npz"), k * factor, (32, 32), None, notes)
    np.testing.assert_allclose(found, k)
    assert words in notes[0]


def test_the_size_is_that_of_the_trajectory():
    notes: list[str] = []
    _, sides = in_cycles(Path("k.npz"), radial(8, (32, 32)), None, None, notes)
    assert sides == (32, 32)
    assert "slice of 32x32 pixels from the trajectory" in notes[1]


# --- files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K-space (4, 40, 64) of 40 spokes with phase and noise, its trajectory and the slice."""
    image, k = head(32), radial(40, (32, 32))
    y, x = np.meshgrid(np.linspace(-1, 1, 32), np.linspace(-1, 1, 32), indexing="ij")
    maps = simulated_maps(4, 32, 32) * np.exp(1j * (0.4 + 0.8 * x - 0.5 * y))
    nufft = NUFFT(k.reshape(-1, 2), (32, 32))
    data = nufft.forward(torch.from_numpy(maps * image)).numpy().reshape(4, 40, 64)
    return (data + 0.005 * as_complex(normal(8, 40, 64)).numpy()).astype(np.complex64), k, image


def error_of(outcome, image: np.ndarray) -> float:
    assert outcome.code == 0, outcome.err
    result = inverse.Result.load(outcome.path / "result.h5")
    found = result.mean[0, 0].numpy()
    return float(np.sqrt(((found / found.mean() - image / image.mean()) ** 2).mean()))


@pytest.mark.parametrize("layout", ["npz", "npy", "ismrmrd", "density"])
def test_spokes_of_a_file_are_solved(mri, measured, tmp_path, layout):
    data, k, image = measured
    options = {}
    if layout == "npy":
        np.save(tmp_path / "k.npy", data)
        np.save(tmp_path / "trajectory.npy", k)
        file, options = "k.npy", {"trajectory": "trajectory.npy"}
    elif layout == "ismrmrd":
        rows = [acquisition(data[:, i], k[i] / 32) for i in range(40)]
        write(tmp_path / "k.h5", header((32, 32, 1), (32, 32, 1), "radial"), rows)
        file = "k.h5"
    else:
        extra = {"density": 7 * np.hypot(*np.moveaxis(k, -1, 0))} if layout == "density" else {}
        np.savez(tmp_path / "k.npz", kspace=data, trajectory=k, **extra)
        file = "k.npz"
    outcome = mri(file, **options)
    assert "4 coils, 40 shots of 64 samples" in outcome.out
    assert "maps of 4 coils by ESPIRiT from" in outcome.out
    assert error_of(outcome, image) < 0.03
    result = inverse.Result.load(outcome.path / "result.h5")
    assert result.y.shape == (1, 8, 40, 64)
    assert float(result.misfit.mean()) == pytest.approx(1, abs=1)
    assert (outcome.path / "panel.png").is_file()


def test_one_coil_and_one_shot_axis_are_read(mri, measured, tmp_path):
    data, k, image = measured
    nufft = NUFFT(k.reshape(-1, 2), (32, 32))
    one = nufft.forward(torch.from_numpy(image).to(torch.complex128)).numpy().reshape(40, 64)
    np.savez(tmp_path / "k.npz", kspace=one, trajectory=k)
    assert error_of(mri("k.npz"), image) < 0.15
    np.savez(tmp_path / "flat.npz", kspace=data.reshape(4, -1), trajectory=k.reshape(-1, 2))
    assert error_of(mri("flat.npz", method="gridding", maps=_maps(tmp_path)), image) < 0.2


def _maps(folder: Path) -> str:
    np.save(folder / "maps.npy", simulated_maps(4, 32, 32))
    return "maps.npy"


# --- bad input ----------------------------------------------------------------------------------


def test_bad_trajectories_are_refused(mri, measured, tmp_path):
    data, k, _ = measured

    def refuse(words: str, data=data, k=k, extra=None, **options):
        np.savez(tmp_path / "k.npz", kspace=data, trajectory=k, **(extra or {}))
        before = sorted(tmp_path.rglob("*"))
        mri("k.npz", **options).refused(words)
        assert sorted(tmp_path.rglob("*")) == before

    refuse("a trajectory is real and finite", k=k * np.nan)
    refuse("a trajectory is real and finite", k=k + 1j)
    refuse("trajectory of shape (40, 64, 4); expected (shots, samples, 2)", k=np.dstack([k, k]))
    refuse("k-space of shape (4, 39, 64) and a trajectory of 40 shots", data=data[:, 1:])
    refuse("its trajectory is a line or a point", k=k * [0, 1])
    refuse("state size=HEIGHT,WIDTH", k=k / 32)
    refuse("times the highest frequency of a slice of 16x16 pixels", size="16,16")
    refuse("its trajectory reaches", trajectory_unit="pixel", size="32,32")
    refuse("density holds one area of k-space", extra={"density": -np.ones((40, 64))})
    refuse("found real numbers of shape", data=np.abs(data[:3]))
    refuse("select=... chooses", select="phase:1")
    mri("k.npz", trajectory="lost.npy").refused("no such file")


def test_simulations_know_their_trajectories():
    with pytest.raises(OptionError, match="trajectory star is not known for a simulation"):
        inverse.get_problem("mri", trajectory="star").operator((1, 16, 16))
    with pytest.raises(OptionError, match="state size=HEIGHT,WIDTH"):
        inverse.get_problem("mri", trajectory="radial").signal_shape((2, 4, 8))


def test_too_many_frequencies_are_refused_before_they_are_built(monkeypatch):
    monkeypatch.setattr("inverse_problems.mri.nufft.free_memory", lambda device: 2**10)
    with pytest.raises(inverse.InverseError, match="use fewer shots"):
        NUFFT(radial(4, (16, 16)).reshape(-1, 2), (16, 16))


def test_off_grid_operators_share_their_matrix():
    k = radial(3, (8, 8))
    nufft = NUFFT(k.reshape(-1, 2), (8, 8))
    operator = off_grid(nufft, torch.ones(1, 8, 8, dtype=torch.complex64), torch.ones(3, 16))
    assert clone(operator, "cpu", F64).nufft is nufft
