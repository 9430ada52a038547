"""Deblurring with a kernel that is estimated from the picture."""

import h5py
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import inverse
from inverse.errors import InputError
from inverse.io.images import write_png
from inverse.measurement.operators import motion_kernel
from inverse.problem import shipped_images
from inverse.result import Result
from inverse_problems.deblur.gamma import to_light, to_picture
from inverse_problems.deblur.kernel_estimation import (
    KernelEstimate,
    _normal_equations,
    cartoon,
    centred,
    estimate_kernel,
    likeness,
    pruned,
)

pytest_plugins = "cli_fixtures"


def photograph(index: int = 0, side: int = 256) -> torch.Tensor:
    return inverse.read_image(shipped_images()[index]).pixels[:, :side, :side]


def blurred(x: torch.Tensor, kernel: torch.Tensor, sigma: float = 0.005) -> torch.Tensor:
    """k * x inside the picture, with noise."""
    inside = F.conv2d(x[:, None], kernel.flip(0, 1)[None, None])[:, 0]
    return inside + sigma * torch.randn(inside.shape, generator=inverse.seeded(0, "noise"))


# --- the steps --------------------------------------------------------------------------------


def test_the_kernel_step_recovers_the_kernel_from_the_sharp_picture():
    kernel = motion_kernel(15, 3)
    x = torch.zeros(1, 160, 160)
    x[:, 20:-20, 20:-20] = photograph().mean(0)[None, :120, :120]  # nothing crosses the edges
    y = F.conv2d(x[:, None], kernel.flip(0, 1)[None, None], padding=7)[0, 0]
    gram, b = _normal_equations(x[0], y, torch.ones_like(y), 15)
    found = torch.linalg.solve(gram.double(), b.double()).reshape(15, 15)
    torch.testing.assert_close(found.float(), kernel, atol=2e-4, rtol=0)


def test_a_cartoon_is_its_own_cartoon():
    x = torch.full((64, 64), 0.2)
    x[20:40, 20:44] = 0.8
    delta = torch.zeros(5, 5)
    delta[2, 2] = 1
    torch.testing.assert_close(cartoon(x, delta, 0.01), x, atol=1e-3, rtol=0)


def test_pruning_removes_negative_faint_and_isolated_entries():
    kernel = torch.zeros(9, 9)
    kernel[4, 2:7] = 0.2
    expected = kernel.clone()
    kernel[0, 0], kernel[8, 8], kernel[3, 4] = 0.04, -0.5, 0.001
    torch.testing.assert_close(pruned(kernel), expected)


def test_a_kernel_is_centred_by_whole_pixels():
    kernel = torch.zeros(9, 9)
    kernel[1:4, 2] = 1 / 3
    moved = centred(kernel)
    assert moved[3:6, 4].tolist() == pytest.approx([1 / 3] * 3)
    assert float(moved.sum()) == pytest.approx(1)


# --- the estimate -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 3])
def test_camera_shake_is_found_without_knowing_its_size(seed):
    kernel = motion_kernel(17, seed)
    estimate = estimate_kernel(blurred(photograph(), kernel), 25)
    assert likeness(estimate.kernel, kernel) > 0.75
    assert not estimate.sharp
    assert float(estimate.kernel.sum()) == pytest.approx(1, abs=1e-5)
    assert bool((estimate.kernel >= 0).all())


def test_no_blur_is_invented_on_a_sharp_picture():
    estimate = estimate_kernel(photograph(), 25)
    assert estimate.sharp
    assert estimate.kernel[12, 12] == 1 == estimate.kernel.sum()


def test_an_estimate_survives_its_record():
    estimate = estimate_kernel(blurred(photograph(), motion_kernel(9, 0)), 11)
    again = KernelEstimate.from_record(estimate.record())
    torch.testing.assert_close(again.kernel, estimate.kernel, atol=1e-5, rtol=1e-4)
    assert again.extent == estimate.extent


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "reason"),
    [
        (torch.rand(1, 40, 40), "it needs 50 pixels on each side"),
        (torch.full((3, 99, 99), 0.5), "flat"),
        (torch.ones(3, 99, 99) - torch.rand(3, 99, 99) * 0.02, "clipped"),
    ],
    ids=["small", "flat", "clipped"],
)
def test_a_picture_that_cannot_tell_its_kernel_is_refused(y, reason):
    with pytest.raises(InputError, match=reason):
        estimate_kernel(y, 25)


def test_isolated_clipped_pixels_are_noise():
    y = blurred(photograph(side=160), motion_kernel(9, 3))
    bright = y.clone()
    bright[:, ::12, ::12] = 1.0  # everywhere within reach of the kernel
    found, plain = (estimate_kernel(x, 15).kernel for x in (bright, y))
    assert likeness(found, plain) > 0.9


def test_between_lights_a_smaller_window_serves():
    y = blurred(photograph(side=192), motion_kernel(9, 3))
    for top in range(10, 170, 24):
        for left in range(10, 170, 24):
            y[:, top : top + 3, left : left + 3] = 1.0
    with pytest.raises(InputError, match="clipped"):
        estimate_kernel(y, 31)
    assert len(estimate_kernel(y).kernel) < 31


def test_windows_that_disagree_are_a_doubt():
    delta = torch.zeros(5, 5)
    delta[2, 2] = 1
    estimate = KernelEstimate(delta, delta, 0.01, False, agreement=0.4, picture=300)
    assert estimate.doubts == ["windows of different size tell different kernels"]
    assert KernelEstimate.from_record(estimate.record()).doubts == estimate.doubts
    assert KernelEstimate(delta, delta, 0.01, False, agreement=0.9, picture=300).doubts == []
    assert KernelEstimate(delta, delta, 0.01, True, agreement=0.4, picture=99).doubts == []
    assert likeness(delta, delta.roll(1, 0)) == pytest.approx(1)


def test_an_unknown_kernel_cannot_be_simulated():
    with pytest.raises(InputError, match="an unknown kernel is estimated"):
        inverse.get_problem("deblur", kernel="unknown").posterior()


def test_the_library_estimates_one_kernel_at_a_time():
    y = torch.rand(2, 3, 64, 64)
    with pytest.raises(InputError, match="one measurement at a time; got a batch of 2"):
        inverse.get_problem("deblur", kernel="unknown").posterior(y=y)


# --- as a user --------------------------------------------------------------------------------


def test_a_photograph_without_its_kernel_is_restored_and_the_kernel_used_again(solve, tmp_path):
    y = blurred(photograph(side=160), motion_kernel(15, 3))
    write_png(tmp_path / "y.png", y)
    given = ("--problem", "deblur", "--method", "tikhonov", "--restore", "y.png")
    outcome = solve(*given, "--problem-option", "kernel_size=15", "--out", "first")
    assert outcome.code == 0
    assert "estimated from the picture" in outcome.out + outcome.err
    assert "warning: a picture below 200 pixels rarely tells its kernel" in outcome.out
    pixels = inverse.read_image(tmp_path / "first" / "reconstruction.png").pixels
    assert pixels.shape == y.shape
    assert (tmp_path / "first" / "kernel.png").exists()
    kernel = "kernel=first/result.h5"
    again = solve(*given, "--problem-option", kernel, "boundary=valid", "--out", "second")
    assert again.code == 0
    first, second = (
        Result.load(tmp_path / name / "result.h5").samples.numpy() for name in ("first", "second")
    )
    np.testing.assert_allclose(first, second, atol=2e-3)
    written = (tmp_path / "first" / "result.h5").stat().st_mtime_ns
    resumed = solve(*given, "--problem-option", "kernel_size=15", "--out", "first", "--resume")
    assert resumed.code == 0
    assert (tmp_path / "first" / "result.h5").stat().st_mtime_ns == written
    bad = solve(*given, "--problem-option", "kernel=second/result.h5", "--out", "third")
    bad.refused("is not a result with an estimated kernel")


def test_a_kernel_in_plain_hdf5_is_a_stated_one(tmp_path):
    with h5py.File(tmp_path / "kernel.h5", "w") as file:
        file["kernel"] = np.full((5, 5), 0.04, np.float32)
    problem = inverse.get_problem("deblur", kernel=str(tmp_path / "kernel.h5"))
    assert not problem.kernel_is_estimated
    torch.testing.assert_close(problem.filter(), torch.full((1, 1, 5, 5), 0.04))


# --- one kernel for several pictures ----------------------------------------------------------


def test_pictures_of_one_shake_share_a_kernel_and_others_are_refused(tmp_path):
    kernel = motion_kernel(9, 3)
    for index in (1, 2):
        write_png(tmp_path / f"{index}.png", blurred(photograph(index, 160), kernel))
    problem = inverse.get_problem("deblur", kernel=str(tmp_path), kernel_size=11)
    y = inverse.read_image(tmp_path / "1.png").pixels
    posed = problem.informed_by(y)
    assert likeness(posed.filter()[0, 0], kernel) > 0.7
    assert posed.kernel_is_estimated
    with pytest.raises(InputError, match="state the kernel that a simulation uses"):
        problem.filter()
    across = torch.zeros(9, 9)
    across.fill_diagonal_(1 / 9)
    write_png(tmp_path / "0.png", blurred(photograph(0, 160), across))
    with pytest.raises(InputError, match=r"0\.png has another blur than the rest of 3"):
        problem.informed_by(y)


def test_a_folder_without_pictures_tells_no_kernel(tmp_path):
    problem = inverse.get_problem("deblur", kernel=str(tmp_path))
    with pytest.raises(InputError, match="holds no image"):
        problem.informed_by(torch.rand(3, 64, 64))


# --- linear light -----------------------------------------------------------------------------


def test_the_curve_of_srgb_is_undone_exactly_and_has_its_published_values():
    stored = torch.linspace(-0.2, 1.3, 301, dtype=torch.float64)
    torch.testing.assert_close(to_picture(to_light(stored)), stored, atol=1e-5, rtol=0)
    assert float(to_light(torch.tensor(0.5).double())) == pytest.approx(0.21404, abs=1e-5)


def test_light_is_blurred_and_pictures_are_written(solve, tmp_path):
    x = photograph(side=64)
    box = torch.full((5, 5), 0.04)
    y = to_picture(blurred(to_light(x), box, 0.0))
    write_png(tmp_path / "y.png", y)
    np.save(tmp_path / "kernel.npy", box.numpy())
    given = ("--problem", "deblur", "--method", "tikhonov", "--restore", "y.png")
    options = ("kernel=kernel.npy", "boundary=valid", "sigma_y=0.005")
    errors = {}
    for linear in ("true", "false"):
        run = ("--problem-option", *options, f"linear={linear}", "--out", linear)
        assert solve(*given, *run).code == 0
        found = inverse.read_image(tmp_path / linear / "reconstruction.png").pixels
        errors[linear] = float((found - x).square().mean())
    assert errors["true"] < errors["false"]
