"""MRI with several coils: maps, phase, conventions of k-space files, baselines and refusals."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import dense, matrix_operator, normal, smooth_covariance
from PIL import Image

import inverse
from inverse.measurement.operators import adjoint_error, clone
from inverse.priors.loading import save_prior
from inverse.priors.networks.unet import UNetConfig
from inverse_plugins.l1_wavelet import analysis, shrunk, synthesis
from inverse_problems.mri.espirit import calibration_centre, espirit, transform
from inverse_problems.mri.kspace_files import grid_radius, noise_level, outer, whitening
from inverse_problems.mri.maps import sense, simulated_maps, smooth_phase
from inverse_problems.mri.operators import as_complex, as_parts, several_coils

pytest_plugins = "cli_fixtures"
F64 = torch.float64


def head(height: int, width: int) -> np.ndarray:
    """A smooth ellipse with structure, intensities (height, width)."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    r = np.sqrt((y / 0.8) ** 2 + (x / 0.65) ** 2)
    return (1 / (1 + np.exp((r - 0.9) * 25))) * (0.7 + 0.2 * np.cos(9 * x) * np.cos(7 * y))


def phase(height: int, width: int) -> np.ndarray:
    """A smooth phase factor (height, width)."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.exp(1j * (0.8 + 1.2 * x - 0.9 * y * x))


@pytest.fixture
def measured() -> tuple[np.ndarray, np.ndarray]:
    """K-space of 4 coils (4, 64, 48), every second line beside a centre of 12; and the slice."""
    image = head(64, 48)
    data = transform(simulated_maps(4, 64, 48) * image * phase(64, 48))
    data += 0.003 * as_complex(normal(8, 64, 48)).numpy()
    lines = (np.arange(48) % 2 == 0) | (np.abs(np.arange(48) - 24) < 7)
    return (data * lines).astype(np.complex64), image


# --- operator, maps and phase -------------------------------------------------------------------


def test_parts_and_complex_numbers_are_inverse():
    y = normal(2, 6, 5, 4)
    assert as_complex(y).shape == (2, 3, 5, 4)
    assert torch.equal(as_parts(as_complex(y)), y)


def test_one_uniform_coil_is_the_operator_of_one_coil():
    problem = inverse.get_problem("mri", acceleration=2)
    one = clone(problem.operator((1, 12, 10)), "cpu", F64)
    maps = torch.ones(1, 12, 10, dtype=torch.complex64)
    several = clone(several_coils(problem.sampled(12, 10), maps), "cpu", F64)
    x, y = normal(2, 1, 12, 10), normal(2, 2, 12, 10)
    torch.testing.assert_close(several.A(x), one.A(x))
    torch.testing.assert_close(several.A_adjoint(y), one.A_adjoint(y))


@pytest.mark.parametrize("coils", [2, 5])
def test_the_adjoint_of_several_coils_is_the_transpose(coils):
    operator = inverse.get_problem("mri", coils=coils, acceleration=2).operator((1, 9, 12))
    operator = clone(operator, "cpu", F64)
    assert adjoint_error(operator, (1, 9, 12)) < 1e-13
    assert operator.A(normal(1, 1, 9, 12)).shape == (1, 2 * coils, 9, 12)


def test_simulated_maps_have_unit_norm():
    maps = simulated_maps(6, 10, 14)
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, rtol=1e-5)


def test_the_posterior_of_a_gaussian_slice_is_exact():
    covariance = smooth_covariance(1, 12, 12)
    units = {"shift": 0.5, "scale": 0.5, "sigma_min": 0.01, "sigma_max": 20.0}
    prior = inverse.GaussianPrior(torch.full((1, 12, 12), -0.2, dtype=F64), covariance, **units)
    problem = inverse.get_problem("mri", coils=3, acceleration=3, sigma_y=0.1)
    truth = prior.decode(prior.sample(1, inverse.seeded("mri")))
    posterior = problem.posterior(truth, prior=prior, dtype=F64)
    seen = posterior.noise.weights(posterior.y).flatten() > 0
    A = dense(posterior.operator, (1, 12, 12))[seen]
    law = prior.given(A, 0.1, posterior.y.flatten()[seen])
    result = inverse.solve(posterior, inverse.get_method("mmps", steps=25), samples=150, seed=1)
    variance = 0.25 * law.covariance.diagonal()
    found = result.samples[0].double().flatten(1)
    z = (found.mean(0) - prior.decode(law.mean).flatten()) / (variance / 150).sqrt()
    assert float(z.abs().max()) < 5  # of 144 standard normals
    assert float((found.var(0) / variance).mean()) == pytest.approx(1, abs=0.1)


def test_maps_are_those_of_sigpy(measured):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mri = pytest.importorskip("sigpy.mri")
        kspace = measured[0]
        app = mri.app.EspiritCalib(kspace, calib_width=12, show_pbar=False, max_iter=300)
        expected = app.run()
    ours = espirit(kspace, (12, 12))
    assert np.array_equal(ours.any(0), expected.any(0))
    np.testing.assert_allclose(ours, expected, atol=2e-3)


def test_maps_are_those_of_the_simulation_where_there_is_signal(measured):
    kspace, image = measured
    maps, true = espirit(kspace, (64, 13), crop=0.0), simulated_maps(4, 64, 48)
    overlap = np.abs((maps.conj() * true).sum(0))
    assert overlap[image > 0.3].min() > 0.99


def test_the_phase_of_the_slice_is_found(measured):
    kspace, image = measured
    found = smooth_phase(sense(simulated_maps(4, 64, 48), kspace, kspace.any(0)))
    error = np.angle(found / phase(64, 48))
    assert np.abs(error[image > 0.3]).max() < 0.1


@pytest.mark.parametrize(("height", "width"), [(24, 24), (8, 30), (5, 1)])
def test_the_fully_sampled_centre_is_found(height, width):
    sampled = np.zeros((61, 48), dtype=bool)
    sampled[30 - height // 2 : 30 - height // 2 + height, 24 - width // 2 :][:, :width] = True
    sampled[0, 0] = sampled[60, 47] = True
    found = calibration_centre(sampled)
    assert found == (height, width)


def test_noise_and_its_covariance_are_found():
    mixing = np.array([[1, 0.5j], [0, 0.8]])
    noise = mixing @ (as_complex(normal(4, 60, 50)).numpy().reshape(2, -1))
    data, sampled = 0.1 * noise.reshape(2, 60, 50), np.ones((60, 50), dtype=bool)
    white = np.einsum("cd,dhw->chw", whitening(data.reshape(2, -1)), data).reshape(2, -1)
    covariance = white @ white.conj().T / white.shape[1]
    np.testing.assert_allclose(covariance / covariance[0, 0], np.eye(2), atol=1e-9)
    alone = 0.1 * as_complex(normal(2, 60, 50)).numpy()
    quiet = outer(alone[:, sampled], grid_radius(sampled), 0.5)
    assert noise_level(quiet) == pytest.approx(0.1, rel=0.05)


# --- baselines ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(16, 24), (32, 8)])
def test_the_wavelet_transform_is_orthonormal(sides):
    x = normal(2, 3, *sides)
    coarse, details = analysis(x, 2)
    torch.testing.assert_close(synthesis(coarse, details), x)
    energy = coarse.square().sum() + sum(d.square().sum() for d in details)
    torch.testing.assert_close(energy, x.square().sum())
    ramp = (torch.arange(16.0, dtype=F64)[:, None] + 2 * torch.arange(24.0, dtype=F64))[None, None]
    inside = analysis(ramp, 1)[1][0][..., :7, :11]  # two vanishing moments
    torch.testing.assert_close(inside, torch.zeros_like(inside))


def test_shrinkage_solves_the_denoising_problem():
    """x = argmin |y - x|^2 / 2 + t |W x|_1: y - x is t times a subgradient."""
    y, t = normal(1, 1, 16, 16), 0.4
    x = shrunk(y, t, 2)
    residual, coefficients = (analysis(v, 2) for v in (y - x, x))
    assert float(residual[0].abs().max()) < 1e-12
    for r, c in zip(residual[1], coefficients[1], strict=True):
        assert float(r.abs().max()) < t + 1e-12
        torch.testing.assert_close(r[c.abs() > 1e-9], t * c[c.abs() > 1e-9].sign())


def test_sense_is_damped_least_squares():
    A, shape = normal(40, 24), (1, 4, 6)
    prior = inverse.FlatPrior((1, None, None), shift=0.5, scale=0.5)
    y = normal(1, 40)
    posterior = inverse.Posterior(
        prior, matrix_operator(A, shape), y, inverse.GaussianNoise(0.1), shape=shape, dtype=F64
    )
    answer = inverse.solve(posterior, inverse.get_method("sense", steps=100, damping=0.01)).mean
    norm = torch.linalg.matrix_norm(A, 2) ** 2
    expected = torch.linalg.solve(A.T @ A + 0.01 * norm * torch.eye(24, dtype=F64), A.T @ y[0])
    torch.testing.assert_close(answer.flatten().double(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("method", ["zero-filled", "sense", "l1-wavelet"])
def test_a_fully_sampled_slice_is_recovered(method):
    options = {"zero-filled": {}, "sense": {"damping": 0.0}, "l1-wavelet": {"lambda": 1e-6}}[method]
    problem = inverse.get_problem("mri", coils=3, acceleration=1, sigma_y=1e-6)
    truth = torch.from_numpy(head(22, 30))[None]
    prior = inverse.FlatPrior((1, None, None), shift=0.5, scale=0.5)
    posterior = problem.posterior(truth, prior=prior, dtype=F64)
    answer = inverse.solve(posterior, inverse.get_method(method, **options)).mean[0]
    torch.testing.assert_close(answer.double(), truth, rtol=0, atol=1e-3)


# --- files --------------------------------------------------------------------------------------


@pytest.fixture
def grey(tmp_path) -> Path:
    """An untrained grey prior on disk."""
    prior = inverse.NetworkPrior.unet(UNetConfig(1, (8, 16), (1, 1), 16), shift=0.5, scale=0.5)
    save_prior(prior, tmp_path / "grey.safetensors")
    return tmp_path / "grey.safetensors"


@pytest.fixture
def mri(command, grey):
    """Run `inverse solve --problem mri --measurement FILE` with the untrained prior."""

    def run(file, *arguments, method="sense", **options):
        stated = [part for n, v in options.items() for part in ("--problem-option", f"{n}={v}")]
        given = ("solve", "--problem", "mri", "--method", method, "--prior", grey)
        return command(*given, "--measurement", file, *arguments, *stated)

    return run


def loaded(outcome) -> inverse.Result:
    assert outcome.code == 0, outcome.err
    return inverse.Result.load(outcome.path / "result.h5")


def test_k_space_of_several_coils_is_solved(mri, measured, tmp_path):
    kspace, image = measured
    np.save(tmp_path / "k.npy", kspace)
    outcome = mri("k.npy")
    result = loaded(outcome)
    assert "4 coils, 62.5% sampled" in outcome.out
    assert "maps of 4 coils by ESPIRiT from 32x13 frequencies" in outcome.out
    assert result.y.shape == (1, 8, 64, 48)
    error = result.mean[0, 0].numpy() - image
    assert np.sqrt((error**2).mean()) < 0.03
    assert float(result.misfit.mean()) == pytest.approx(1, abs=0.6)


FORMS = {
    "corner": lambda k: np.fft.ifftshift(k, axes=(-2, -1)),
    "scanner units": lambda k: 3e-6 * k,
    "half a field of view": lambda k: k * (-1.0) ** np.add.outer(np.arange(64), np.arange(48)),
    "a volume": lambda k: np.stack([0 * k + 1, k, 0 * k + 1]),
}


@pytest.mark.parametrize("form", FORMS)
def test_conventions_of_k_space_are_found(mri, measured, tmp_path, form):
    kspace, _ = measured
    np.save(tmp_path / "a.npy", kspace)
    np.save(tmp_path / "b.npy", FORMS[form](kspace).astype(np.complex64))
    a, b = loaded(mri("a.npy", "--out", "a")), mri("b.npy", "--out", "b")
    torch.testing.assert_close(
        loaded(b).mean / loaded(b).mean.max(), a.mean / a.mean.max(), rtol=0, atol=0.02
    )
    said = {
        "corner": "zero frequency found in the corner",
        "scanner units": "intensity 1 is",
        "half a field of view": "half a field of view, to the middle",
        "a volume": "slice 1 of 3",
    }
    assert said[form] in b.out


def test_a_file_of_fastmri_is_solved(mri, measured, tmp_path):
    """`kspace` (slices, coils, H, W), `mask` (W,) and the header's size of the picture."""
    kspace, _ = measured
    lines = kspace.any((0, 1))
    header = (
        "<ismrmrdHeader><encoding><encodedSpace><matrixSize><x>64</x><y>48</y></matrixSize>"
        "</encodedSpace><reconSpace><matrixSize><x>32</x><y>40</y><z>1</z></matrixSize>"
        "</reconSpace></encoding></ismrmrdHeader>"
    )
    full = kspace + 0.1 * ~lines  # what is not sampled is not zero in every file
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = np.stack([full, full, full]).astype(np.complex64)
        file["mask"] = lines
        file["ismrmrd_header"] = header
    np.save(tmp_path / "a.npy", kspace)
    a, b = loaded(mri("a.npy", "--out", "a")), mri("a.h5", "--out", "b")
    torch.testing.assert_close(loaded(b).samples, a.samples)
    with Image.open(b.path / "reconstruction.png") as picture:
        assert picture.size == (40, 32)


def test_every_slice_of_a_volume_is_solved(mri, measured, tmp_path):
    """As fastMRI writes reconstructions: `reconstruction` (slices, H, W), in units of the file."""
    kspace, image = measured
    header = "<h><encoding><reconSpace><matrixSize><x>60</x><y>40</y></matrixSize></reconSpace>"
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = np.stack([kspace, 3 * kspace])
        file["ismrmrd_header"] = header + "</encoding></h>"
    outcome = mri("a.h5", slice="all")
    assert outcome.code == 0, outcome.err
    with h5py.File(outcome.path, "r") as file:
        slices = file["reconstruction"][()]
    assert slices.shape == (2, 60, 40)
    assert np.sqrt(((slices[0] - image[2:-2, 4:-4]) ** 2).mean()) < 0.03
    np.testing.assert_allclose(slices[1], 3 * slices[0], atol=0.05)


def test_complex_numbers_as_compounds_and_as_real_parts(mri, measured, tmp_path):
    kspace, _ = measured
    pairs = np.empty(kspace.shape, dtype=[("r", "f4"), ("i", "f4")])
    pairs["r"], pairs["i"] = kspace.real, kspace.imag
    with h5py.File(tmp_path / "pairs.h5", "w") as file:
        file["y"] = pairs
    parts = as_parts(torch.from_numpy(kspace)).numpy()
    np.save(tmp_path / "parts.npy", parts)
    a, b = (loaded(mri(f, "--out", f[:5])) for f in ("pairs.h5", "parts.npy"))
    assert torch.equal(a.samples, b.samples)


def test_maps_of_a_file_are_used(mri, measured, tmp_path):
    kspace, image = measured
    np.save(tmp_path / "k.npy", kspace)
    np.save(tmp_path / "maps.npy", simulated_maps(4, 64, 48))
    outcome = mri("k.npy", maps="maps.npy")
    assert "ESPIRiT" not in outcome.out
    error = loaded(outcome).mean[0, 0].numpy() - image
    assert np.sqrt((error**2).mean()) < 0.03
    whitened = mri("k.npy", maps="maps.npy", whiten="true")
    assert "coils made white" in whitened.out


# --- bad input ----------------------------------------------------------------------------------


def test_bad_k_space_and_maps_are_refused(mri, measured, tmp_path):
    kspace, _ = measured

    def refuse(array, *words, **options):
        np.save(tmp_path / "k.npy", array)
        before = sorted(tmp_path.rglob("*"))
        mri("k.npy", **options).refused(*words)
        assert sorted(tmp_path.rglob("*")) == before

    refuse(np.abs(kspace[0]), "k-space is complex, found real numbers of shape (64, 48)")
    refuse(np.abs(kspace[:3]), "found real numbers of shape (3, 64, 48)")
    refuse(0 * kspace, "k-space is zero everywhere")
    refuse(kspace * np.nan, "NaN or infinity")
    refuse(kspace[None, None], "complex numbers of shape (1, 1, 4, 64, 48); expected")
    refuse(np.stack([kspace] * 2), "slice 5 does not exist; there are 2", slice=5)
    comb = kspace * (np.arange(48) % 3 == 0)
    refuse(comb, "the fully sampled centre of k-space has", "state maps=FILE")

    maps = simulated_maps(4, 64, 48)
    for array, words in (
        (maps[:3], "maps of shape (3, 64, 48), k-space (coils, height, width) is (4, 64, 48)"),
        (3 * maps, "sum to 9 to 9 over the coils; divide the maps by their norm"),
        (np.abs(maps), "maps are complex, found float32"),
        (0 * maps, "the maps are zero"),
    ):
        np.save(tmp_path / "maps.npy", array)
        refuse(kspace, words, maps="maps.npy")
    refuse(kspace, "no such file", maps="lost.npy")

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file["mask"] = kspace[None], np.ones(40)
    mri("a.h5").refused("its mask has shape (40,), k-space (64, 48)")


# --- real data ----------------------------------------------------------------------------------

HEAD = Path(os.environ.get("INVERSE_DATA", ".")) / "instruments" / "mri" / "cartesian_ksp.npy"


@pytest.mark.skipif(not HEAD.is_file(), reason="needs $INVERSE_DATA/instruments/mri")
def test_the_measured_head_is_explained(mri):
    outcome = mri(HEAD)
    assert "8 coils, 12.4% sampled" in outcome.out
    assert "by ESPIRiT from 24x24 frequencies" in outcome.out
    assert 0.8 < float(loaded(outcome).misfit.mean()) < 1.6
