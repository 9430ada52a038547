"""Accelerated MRI: the operator, its decomposition, the masks and refusals.

test_operators.py tests the adjoint, batches and states of the operator for every problem.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cli_fixtures import pixels, write_picture
from conftest import dense, normal

import inverse
from inverse.priors.loading import save_prior
from inverse.priors.networks.unet import UNetConfig

pytest_plugins = "cli_fixtures"
SHAPES = [(1, 8, 8), (1, 7, 10), (1, 9, 5)]


def operator(shape, **options):
    problem = inverse.get_problem("mri", **{"acceleration": 2.5, "centre": 0.2} | options)
    return problem, inverse.measurement.operators.clone(
        problem.operator(shape), "cpu", torch.float64
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_operator_matches_deepinv_on_a_real_image(shape):
    problem, ours = operator(shape)
    theirs = inverse.physics.MRI(mask=problem.sampled(*shape[-2:]).float())
    x = normal(2, *shape)
    torch.testing.assert_close(ours.A(x), theirs.A(torch.cat([x, torch.zeros_like(x)], 1)))
    y = normal(2, 2, *shape[1:])
    torch.testing.assert_close(ours.A_adjoint(y), theirs.A_adjoint(y)[:, :1])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_decomposition_is_a_singular_value_decomposition(shape):
    """A = U s V^T, V orthonormal, U orthonormal for non-zero s; s is that of the dense matrix."""
    _, ours = operator(shape)
    x = normal(2, *shape)
    torch.testing.assert_close(ours.V(ours.V_adjoint(x)), x)
    torch.testing.assert_close(ours.U(ours.mask * ours.V_adjoint(x)), ours.A(x))
    c = x * (ours.mask > 0)
    torch.testing.assert_close(ours.U_adjoint(ours.U(c)), c)
    expected = torch.linalg.svdvals(dense(ours, shape))
    torch.testing.assert_close(
        ours.mask.flatten().sort(descending=True).values[: len(expected)],
        expected,
        rtol=0,
        atol=1e-7,
    )


@pytest.mark.parametrize("signal", [0.3, 5.0])
def test_linear_solves_match_the_dense_matrix(signal):
    shape = (1, 6, 7)
    problem, _ = operator(shape, sigma_y=0.2)
    prior = inverse.FlatPrior((1, None, None), shift=0.5, scale=0.5)
    posterior = problem.posterior(normal(*shape), prior=prior, dtype=torch.float64)
    A = dense(posterior.operator, shape) * 0.5
    v = normal(1, 2, *shape[1:]) * problem.sampled(*shape[1:])
    expected = torch.linalg.solve(
        signal * A @ A.T + 0.04 * torch.eye(len(A), dtype=torch.float64), v.flatten()
    )
    torch.testing.assert_close(posterior.solve_normal(v, signal).flatten(), expected)


@pytest.mark.parametrize("mask", ["random", "equispaced"])
@pytest.mark.parametrize(("acceleration", "centre"), [(4, 0.08), (8, 0.04)])
def test_the_mask_has_the_accelerations_number_of_lines_and_the_centre(mask, acceleration, centre):
    sampled = inverse.get_problem("mri", mask=mask, acceleration=acceleration).sampled(96, 96)
    lines = sampled[0]
    assert bool((sampled == lines).all())  # whole columns
    assert int(lines.sum()) == 96 // acceleration
    middle = round(96 * centre)
    assert bool(lines[48 - middle // 2 : 48 - middle // 2 + middle].all())
    other = inverse.get_problem("mri", mask=mask, acceleration=acceleration, mask_seed=3).sampled(
        96, 96
    )
    assert not torch.equal(sampled, other)
    gaps = torch.nonzero(lines).flatten().diff()
    # the widest gap of equispaced lines outside the centre, rounded up
    widest = -(-(96 - middle) // (96 // acceleration - middle))
    assert (int(gaps.max()) <= widest) == (mask == "equispaced")


def test_all_lines_without_noise_recover_the_slice():
    problem = inverse.get_problem("mri", acceleration=1, sigma_y=0.0)
    truth = problem.truths()[0]
    assert truth.shape == (1, 96, 96)
    y = problem.measure(truth[None], inverse.seeded(0))
    torch.testing.assert_close(
        problem.operator(tuple(truth.shape)).A_adjoint(y)[0], truth, rtol=0, atol=1e-6
    )


def test_only_measured_entries_have_noise_of_sigma_y():
    problem = inverse.get_problem("mri", sigma_y=0.3)
    truth = torch.zeros(4, 1, 96, 96)
    y, measured = problem.measure(truth, inverse.seeded(0)), problem.sampled(96, 96)
    assert not bool(y[:, :, ~measured].any())
    count = y[:, :, measured].numel()
    standard_error = 0.3 / (2 * count) ** 0.5
    assert float(y[:, :, measured].std()) == pytest.approx(0.3, abs=4 * standard_error)


@pytest.fixture
def grey(tmp_path):
    """An untrained grey prior on disk."""
    prior = inverse.NetworkPrior.unet(UNetConfig(1, (8, 16), (1, 1), 16), shift=0.5, scale=0.5)
    save_prior(prior, tmp_path / "grey.safetensors")
    return tmp_path / "grey.safetensors"


def test_the_command_takes_a_picture_and_a_complex_measurement(command, grey, tmp_path):
    write_picture(tmp_path / "slice.png", pixels(20, 24, 1))
    given = ("solve", "--problem", "mri", "--method", "diffpir", "--steps", 3, "--prior", grey)
    outcome = command(*given, "--input", "slice.png")
    assert outcome.code == 0, outcome.err
    assert (outcome.path / "panel.png").is_file()
    y = inverse.Result.load(outcome.path / "result.h5").y[0].numpy()
    np.save(tmp_path / "y.npy", (y[0] + 1j * y[1]).astype(np.complex64))
    np.save(tmp_path / "y2.npy", y)
    complex_one, real_one = (
        command(*given, "--measurement", file, "--out", file[:-4]) for file in ("y.npy", "y2.npy")
    )
    assert complex_one.code == real_one.code == 0, complex_one.err
    a, b = (inverse.Result.load(tmp_path / folder / "result.h5").samples for folder in ("y", "y2"))
    assert torch.equal(a, b)


def test_bad_masks_priors_and_measurements_are_refused(command, grey, tiny_prior, tmp_path):
    write_picture(tmp_path / "slice.png", pixels(20, 24, 1))
    write_picture(tmp_path / "black.png", 0 * pixels(20, 24, 1))
    write_picture(tmp_path / "small.png", np.uint8(255) * (pixels(8, 8, 1) > 99))
    given = (
        "solve",
        "--problem",
        "mri",
        "--method",
        "diffpir",
        "--prior",
        grey,
        "--input",
        "slice.png",
        "--problem-option",
    )
    command(*given, "acceleration=0.5").refused(
        "acceleration must be at least 1 and at most 1000, got 0.5"
    )
    command(*given, "centre=0.5").refused(
        "centre must be from 0 to 1 / acceleration, got 0.5 at acceleration 4"
    )
    command(*given, "mask=spiral").refused("neither a file nor a known mask")
    command(*given, "mask=black.png").refused("leaves nothing measured")
    command(*given, "mask=small.png").refused("has 8x8 pixels, the slice 20x24")
    colour = (
        "solve",
        "--problem",
        "mri",
        "--method",
        "diffpir",
        "--prior",
        tiny_prior,
        "--input",
        "slice.png",
    )
    command(*colour).refused("a slice is grey", "--prior mri-96")
    command(
        "solve",
        "--problem",
        "mri",
        "--method",
        "diffpir",
        "--prior",
        grey,
        "--measurement",
        "slice.png",
    ).refused("expected an array", "found a picture")


@pytest.mark.parametrize("acceleration", [4, 8])
def test_masks_of_fastmri_measure_their_share(acceleration):
    """Random lines vary in number, equispaced ones have one step; both hold the centre."""
    width = 368
    counts = {"fastmri-random": [], "fastmri-equispaced": []}
    for mask in counts:
        for seed in range(20):
            problem = inverse.get_problem(
                "mri", mask=mask, acceleration=acceleration, mask_seed=seed
            )
            lines = problem.sampled(4, width)[0]
            low = round(width * 0.32 / acceleration)
            assert bool(lines[width // 2 - low // 2 :][:low].all())
            counts[mask].append(int(lines.sum()))
    expected = width / acceleration
    deviation = expected**0.5 / 20**0.5
    assert abs(np.mean(counts["fastmri-random"]) - expected) < 5 * deviation
    assert np.std(counts["fastmri-random"]) > 1
    assert abs(np.mean(counts["fastmri-equispaced"]) - expected) < 4


def test_truths_may_come_from_a_file(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 20, 20), dtype=np.uint8)
    np.savez(tmp_path / "slices.npz", images=images)
    for name in ("mri", "ct"):
        problem = inverse.get_problem(name, slices=tmp_path / "slices.npz")
        assert len(problem.truths()) == 3
        posterior = problem.posterior(2, prior=inverse.FlatPrior((1, None, None)))
        assert posterior.truth.shape == (1, 1, 20, 20)
        assert float(posterior.truth[0, 0, 10, 10]) == pytest.approx(images[2, 10, 10] / 255)
    with pytest.raises(inverse.InverseError, match="no such file"):
        inverse.get_problem("mri", slices="lost.npz").truths()
