"""Microscopy: point spread functions, counts, the exact posterior, files of stacks."""

import numpy as np
import pytest
import tifffile
import torch
from conftest import normal

import inverse
from inverse.errors import InputError, OptionError
from inverse.measurement.operators import fft_blur
from inverse.priors.field import FieldPrior, matern
from inverse.priors.volume import VolumePrior
from inverse_problems.microscopy.point_spread import Optics, airy_disk, measured_psf
from inverse_problems.microscopy.specimen import filaments
from inverse_problems.microscopy.stacks import Voxel, read_stack, write_stack

pytest_plugins = "cli_fixtures"
F64 = torch.float64


def gaussian_psf(sides, width=1.0):
    grids = torch.meshgrid(*(torch.arange(n) - n // 2 for n in sides), indexing="ij")
    psf = torch.exp(-0.5 * sum(g.double() ** 2 for g in grids) / width**2)
    return psf / psf.sum()


# --- laws and operators of volumes --------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["circular", "reflect", "replicate", "zeros", "valid"])
def test_the_blur_of_a_volume_is_a_sum_over_shifts_with_its_adjoint(boundary):
    x = normal(2, 1, 6, 7, 8)
    psf = torch.rand(3, 5, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    blur = fft_blur(psf, (1, 6, 7, 8), boundary)
    y = blur.A(x)
    mode = {"zeros": "constant"}.get(boundary, boundary)
    padded = x if boundary == "valid" else torch.nn.functional.pad(x, (1, 1, 2, 2, 1, 1), mode=mode)
    expected = torch.nn.functional.conv3d(padded, psf.flip(0, 1, 2)[None, None])
    torch.testing.assert_close(y, expected)
    v = normal(*y.shape, seed=1)
    assert float((y * v).sum()) == pytest.approx(float((x * blur.A_adjoint(v)).sum()))


def test_a_field_of_three_axes_is_its_dense_gaussian():
    field = FieldPrior(
        torch.tensor(0.1, dtype=F64), matern(0.5, 2.0, 1.0, (2.0, 1.0, 1.0)), (1, None, None, None)
    ).sized(3, 4, 5)
    dense = inverse.GaussianPrior(field.mean, field.covariance)
    x = normal(2, 1, 3, 4, 5)
    torch.testing.assert_close(field(x, torch.tensor(0.4)), dense(x, torch.tensor(0.4, dtype=F64)))
    torch.testing.assert_close(field.log_density(x, 0.4), dense.log_density(x, 0.4))
    assert float(field.covariance.diagonal().mean()) == pytest.approx(0.25)


def test_independent_slices_are_the_gaussian_of_their_blocks():
    c = 0.6 ** (torch.arange(4)[:, None] - torch.arange(4)).abs().to(F64)
    native = inverse.GaussianPrior(torch.full((1, 4, 4), 0.3, dtype=F64), torch.kron(c, c))
    whole = inverse.GaussianPrior(
        torch.full((1, 3, 4, 4), 0.3, dtype=F64),
        torch.kron(torch.eye(3, dtype=F64), torch.kron(c, c)),
    )
    x = normal(2, 1, 3, 4, 4)
    sigma = torch.tensor([0.3, 2.0], dtype=F64)
    volume = VolumePrior(native)
    assert volume.exact
    torch.testing.assert_close(volume(x, sigma), whole(x, sigma))
    x.requires_grad_()
    (through,) = torch.autograd.grad(volume(x, sigma).square().sum(), x)
    (direct,) = torch.autograd.grad(whole(x, sigma).square().sum(), x)
    torch.testing.assert_close(through, direct)


def test_three_planes_are_the_mean_of_their_estimates():
    """With white slices every plane says the same, as the law itself does."""
    native = inverse.GaussianPrior(torch.zeros(1, 4, 4, dtype=F64), 0.5 * torch.eye(16, dtype=F64))
    volume = VolumePrior(native, ("yx", "zx", "zy"))
    x = normal(1, 1, 4, 4, 4)
    torch.testing.assert_close(volume(x, torch.ones((), dtype=F64)), x * (0.5 / 1.5))


# --- the instrument -------------------------------------------------------------------------------


def test_the_optics_give_the_airy_disk_in_focus():
    problem = inverse.get_problem("microscopy", na=0.5, immersion=1.0, pixel=20.0)
    psf = problem.point_spread((255, 255))
    assert float(psf.sum()) == pytest.approx(1)
    middle = psf[psf.shape[0] // 2, psf.shape[1] // 2 :]
    first_dark = next(i for i in range(1, len(middle)) if middle[i + 1] > middle[i])
    assert first_dark * 20.0 == pytest.approx(0.61 * 520 / 0.5, abs=20)


def test_gibson_and_lanni_give_the_airy_disk_without_aberration():
    pytest.importorskip("psfmodels")
    stack = inverse.get_problem("microscopy", na=0.5, immersion=1.0, pixel=60.0, step=200.0)
    focal = stack.point_spread((2, 63, 63))
    focal = focal[len(focal) // 2] / focal[len(focal) // 2].sum()
    airy = airy_disk(Optics(520, 0.5, 1.0, 1.0, 0.0), 60.0, focal.shape[-1])
    assert float((focal - airy).abs().max()) < 0.02 * float(airy.max())


def test_the_optics_of_a_stack_follow_the_axial_resolution():
    pytest.importorskip("psfmodels")
    problem = inverse.get_problem("microscopy", na=0.8, immersion=1.0, pixel=60.0, step=100.0)
    psf = problem.point_spread((80, 95, 95))
    axis = psf[:, psf.shape[1] // 2, psf.shape[2] // 2]
    half = axis[len(axis) // 2 :]
    dark = next(
        i for i in range(1, len(half) - 1) if half[i] < half[i - 1] and half[i] <= half[i + 1]
    )
    exact = 520 / (1 - (1 - 0.8**2) ** 0.5) / 1000  # lambda / (n - sqrt(n^2 - na^2)), um
    assert dark * 0.1 == pytest.approx(exact, abs=0.2)


def problem_of(tmp_path, axes=2, **options):
    np.save(tmp_path / "psf.npy", gaussian_psf((5,) * axes).numpy())
    return inverse.get_problem("microscopy", psf=str(tmp_path / "psf.npy"), **options)


@pytest.mark.parametrize("axes", [2, 3])
def test_counts_have_the_stated_mean_and_variance(tmp_path, axes):
    problem = problem_of(
        tmp_path, axes, scale=40.0, background=3.0, read_noise=2.0, boundary="circular"
    )
    truth = filaments((8,) * axes)[None]
    expected = problem.operator(tuple(truth.shape)).A(truth[None])[0]
    draws = problem.measure(
        truth.expand(4000, *truth.shape), torch.Generator().manual_seed(0)
    ).double()
    error = (draws.var(0) / (expected + 3.0 + 4.0)).log().abs().max()
    assert float(error) < 6 * (2 / 4000) ** 0.5 * 1.3
    z = (draws.mean(0) - expected) / (draws.var(0) / 4000).sqrt()
    assert float(z.abs().max()) < 5


@pytest.mark.parametrize("axes", [2, 3])
def test_the_gradient_vanishes_at_the_mean_of_the_exact_posterior(tmp_path, axes):
    """Operator, adjoint, noise and units against the dense Gaussian posterior."""
    size = (9, 9) if axes == 2 else (5, 6, 7)
    problem = problem_of(tmp_path, axes, scale=50.0, boundary="zeros")
    field = FieldPrior(
        torch.tensor(0.0, dtype=F64), matern(0.4, 2.0), (1, *[None] * axes), shift=0.5, scale=0.5
    ).sized(*size)
    posterior = problem.posterior(filaments(size)[None], prior=field, dtype=F64)
    n = torch.Size(size).numel()
    A = 0.5 * posterior.operator.A(torch.eye(n, dtype=F64).reshape(n, 1, *size)).flatten(1).T
    S, R = field.covariance, posterior.noise.sigma.flatten().square().diag()
    residual = (
        posterior.y.flatten() - posterior.operator.A(field.decode(field.mean[None])).flatten()
    )
    step = S @ A.T @ torch.linalg.solve(A @ S @ A.T + R, residual)
    mean = field.mean.flatten() + step
    found = posterior.likelihood_score(mean.reshape(1, 1, *size)).flatten()
    torch.testing.assert_close(found, torch.linalg.solve(S, step), rtol=1e-6, atol=1e-8)


def test_richardson_lucy_keeps_the_light(tmp_path):
    problem = problem_of(
        tmp_path, likelihood="poisson", background=0.0, read_noise=0.0, boundary="circular"
    )
    posterior = problem.posterior(dtype=F64)
    result = inverse.solve(posterior, inverse.get_method("richardson-lucy", steps=20))
    seen = posterior.operator.A(result.mean.double()).sum()
    assert float(seen) == pytest.approx(float(posterior.y.sum()), rel=1e-6)
    blurred = (posterior.y / 200 - posterior.truth).square().mean()
    assert float((result.mean - posterior.truth).square().mean()) < 0.5 * float(blurred)


# --- files ----------------------------------------------------------------------------------------


def test_a_stack_survives_its_file_with_its_voxels(tmp_path):
    numbers, voxel = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32), Voxel(65, 250)
    write_stack(tmp_path / "stack.tif", numbers, voxel)
    found = read_stack(tmp_path / "stack.tif")
    np.testing.assert_array_equal(found.numbers, numbers)
    assert (found.voxel.pixel, found.voxel.step) == pytest.approx((65, 250), rel=1e-4)


def test_the_voxels_of_ome_files_are_read(tmp_path):
    numbers = np.zeros((3, 4, 5), np.uint16)
    about = {"axes": "ZYX", "PhysicalSizeX": 0.1, "PhysicalSizeXUnit": "µm"}
    about |= {"PhysicalSizeY": 0.1, "PhysicalSizeZ": 300, "PhysicalSizeZUnit": "nm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", numbers, ome=True, metadata=about)
    assert read_stack(tmp_path / "a.ome.tif").voxel == Voxel(100.0, 300.0)


@pytest.mark.parametrize("axes", [2, 3])
def test_counts_of_a_file_are_restored(command, tmp_path, axes):
    size = (24, 24) if axes == 2 else (4, 16, 16)
    problem = problem_of(tmp_path, axes, scale=300.0, background=10.0)
    y = problem.measure(filaments(size)[None][None], torch.Generator().manual_seed(0))[0, 0]
    counts = (2 * (y + 10) + 100).clamp_min(0).numpy().astype(np.uint16)
    write_stack(tmp_path / "counts.tif", counts, Voxel(65, 200))
    options = (f"psf={tmp_path / 'psf.npy'}", "gain=2", "offset=100", "likelihood=poisson")
    done = command(
        *(
            "solve",
            "--problem",
            "microscopy",
            "--method",
            "richardson-lucy",
            "--restore",
            "counts.tif",
        ),
        *("--steps", "5", "--problem-option", *options, "--out", "out"),
    )
    assert done.code == 0, done
    assert "voxels of 65" in done.out
    assert "photo-electrons; scale=... states it" in done.out
    written = read_stack(tmp_path / "out" / "reconstruction.tif")
    assert written.numbers.shape == size
    assert written.voxel.close_to(Voxel(65, 200), axes)
    assert (tmp_path / "out" / "panel.png").exists()


@pytest.mark.parametrize(
    ("psf", "image", "reason"),
    [
        (gaussian_psf((4, 5)), (9, 9), "odd sides, found 4x5"),
        (gaussian_psf((11, 11)), (9, 9), "of 11x11 voxels is larger than the image of 9x9"),
        (gaussian_psf((11, 11)).roll(2, 1), (15, 15), "not centred: along axis 1"),
        (-gaussian_psf((5, 5)), (9, 9), "is positive, found values from -"),
        (gaussian_psf((5, 5)), (4, 9, 9), "a stack needs a point spread function of three axes"),
    ],
)
def test_an_unusable_point_spread_function_is_refused(tmp_path, psf, image, reason):
    np.save(tmp_path / "psf.npy", psf.numpy())
    with pytest.raises(InputError, match=reason):
        measured_psf(tmp_path / "psf.npy", None, image)


def test_voxels_of_psf_and_image_must_agree(tmp_path):
    write_stack(tmp_path / "psf.tif", gaussian_psf((5, 5)).numpy(), Voxel(100, 100))
    with pytest.raises(InputError, match="its voxels are 100 x 100 x 100 nm, those of the image"):
        measured_psf(tmp_path / "psf.tif", Voxel(65, 200), (9, 9))


@pytest.mark.parametrize(
    ("numbers", "options", "words"),
    [
        (np.ones((9, 9)), (), "does not state the side of its pixels"),
        (-np.ones((9, 9)), ("pixel=65",), "counts are not negative"),
        (np.full((9, 9), np.nan), ("pixel=65",), "NaN or infinite"),
        (np.ones((2, 3, 9, 9)), ("pixel=65",), "expected a picture (y, x) or a stack"),
        (np.ones((9, 9)), ("pixel=65", "na=1.6"), "na=1.6 needs an immersion medium"),
        (np.ones((9, 9)), ("pixel=65", "offset=5"), "do not exceed offset and background"),
        (np.ones((9, 9)), ("pixel=65", "depth=4"), "depth=4 belongs to a simulated stack"),
    ],
)
def test_unusable_images_are_one_line(solve, tmp_path, numbers, options, words):
    np.save(tmp_path / "image.npy", numbers)
    given = ["--problem", "microscopy", "--method", "tv", "--restore", "image.npy"]
    given += ["--problem-option", *options] if options else []
    solve(*given).refused(words)


def test_colours_and_channels_are_refused(tmp_path):
    with pytest.raises(OptionError, match="an image has one channel"):
        problem_of(tmp_path).operator((3, 9, 9))
    tifffile.imwrite(
        tmp_path / "two.tif", np.zeros((2, 9, 9), np.uint16), imagej=True, metadata={"axes": "CYX"}
    )
    with pytest.raises(InputError, match="one channel at one time, found 2 of axis C"):
        read_stack(tmp_path / "two.tif")
