"""Priors from measurements alone: exact Gaussian cases, coverage of the operators, the command."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch

import inverse
from inverse.priors.loading import PriorCard, load_prior
from inverse.training.expectation import draw_all, plausible
from inverse.training.gaussian_em import GaussianFit, gaussian_draws, gaussian_em
from inverse.training.measurements import coverage, simulate, write_measurements

pytest_plugins = "cli_fixtures"

SHAPE = (1, 2, 4)
D = 8


def law() -> GaussianFit:
    """A correlated Gaussian over eight pixels."""
    lag = (torch.arange(D)[:, None] - torch.arange(D)).abs().double()
    return GaussianFit(torch.linspace(0.2, 0.8, D).double(), 0.04 * 0.8**lag)


def signals(count: int, seed: int = 0) -> torch.Tensor:
    fit = law()
    white = torch.randn(count, D, generator=inverse.seeded("signals", seed)).double()
    root = torch.linalg.cholesky(fit.covariance)
    return (fit.mean + white @ root.T).reshape(count, *SHAPE).float()


HALF = inverse.get_problem("inpainting", mask="random", missing=0.5, sigma_y=0.02)


@functools.cache
def usable_seeds(count: int) -> list[int]:
    """Seeds of masks that leave a pixel."""
    seen = (s for s in range(1000) if bool((rand_mask(s) >= 0.5).any()))
    return list(itertools.islice(seen, count))


def rand_mask(seed: int) -> torch.Tensor:
    return torch.rand(2, 4, generator=inverse.seeded(seed, "random mask"))


def masked(count: int, seed: int = 0, masks: int = 40):
    """Signals under random masks that hide half of the pixels on average."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(np.arange(count) % masks).tolist()
    usable = usable_seeds(masks)
    return simulate(HALF, signals(count, seed), seed, mask_seed=[usable[s] for s in chosen])


def test_a_gaussian_is_recovered_from_random_masks_at_the_parametric_rate():
    """|C_n - C| falls as n^-1/2: over a factor of 16 in n by 4, within the spread of six runs."""
    errors = {}
    for n in (200, 3200):
        fits = [gaussian_em(masked(n, seed, 16), 30) for seed in range(6)]
        errors[n] = np.mean([float((f.covariance - law().covariance).norm()) for f in fits])
    assert errors[3200] < 0.06 * float(law().covariance.norm())
    assert 2.5 < errors[200] / errors[3200] < 7


def test_the_mean_is_recovered_within_its_standard_errors():
    """Seen directly, each pixel's mean has an error of sqrt(C_ii / (n / 2))."""
    fit = gaussian_em(masked(3200), 60)
    deviation = (law().covariance.diag() / 1600).sqrt()
    assert float(((fit.mean - law().mean) / deviation).abs().max()) < 4.5


def test_posterior_draws_leave_the_fixed_point_unchanged():
    """At the maximum, mean and covariance of the draws are those of the fit (stochastic EM)."""
    data = masked(3200)
    fit = gaussian_em(data, 80)
    drawn = gaussian_draws(data, fit, 0).flatten(1)
    # C has entries of 0.04; their standard error over 3200 draws is 0.04 sqrt(2 / 3200) = 0.001
    assert float((drawn.T.cov() - fit.covariance).abs().max()) < 5e-3
    assert float((drawn.mean(0) - fit.mean).abs().max()) < 0.02


def test_every_direction_is_seen_by_random_masks():
    found = coverage(masked(400))
    assert found.unseen < 1e-6
    assert found.warning() is None


def test_a_fixed_mask_names_the_part_that_was_never_seen():
    data = simulate(HALF, signals(50))
    hidden = ~HALF.observed(2, 4)
    found = coverage(data)
    assert found.unseen == pytest.approx(float(hidden.float().mean()), abs=0.25)
    assert torch.equal(found.picture[0] > 1e-6, hidden)
    assert "was never measured" in found.warning()


def test_a_blur_that_removes_frequencies_is_not_called_complete():
    """A mean over two pixels, repeated: four of eight dimensions are lost in a full null space."""
    problem = inverse.get_problem("super-resolution", factor=2, sigma_y=0.02)
    x = torch.rand(6, 3, 8, 8)
    found = coverage(simulate(problem, x))
    assert found.unseen == pytest.approx(0.75, abs=0.1)


def test_unseen_directions_keep_the_variance_of_the_start():
    data = simulate(HALF, signals(200))
    fit = gaussian_em(data, 10)
    hidden = (~HALF.observed(2, 4)).flatten()
    torch.testing.assert_close(
        fit.covariance[hidden][:, hidden], torch.eye(int(hidden.sum())).double() / 4
    )


# --- networks and the command -----------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    """Twelve grey pictures of 8 x 8 pixels under three random masks."""
    problem = inverse.get_problem("inpainting", mask="random", missing=0.5, sigma_y=0.05)
    x = torch.rand(12, 1, 8, 8, generator=inverse.seeded("pictures"))
    seeds = [i % 3 for i in range(12)]
    data = simulate(problem, x, mask_seed=seeds)
    write_measurements(tmp_path / "m.npz", data, {"mask_seed": seeds})
    return tmp_path / "m.npz"


OPTIONS = (
    *("--problem", "inpainting", "--problem-option", "mask=random"),
    *("--problem-option", "sigma_y=0.05", "--out", "own.safetensors"),
    *("--widths", "8,16", "--blocks", "1,1", "--batch", "4", "--steps", "3", "--rounds", "2"),
    *("--set", "steps=12"),
)


def test_the_command_writes_a_prior_that_says_what_it_saw(command, file, tmp_path):
    outcome = command("train", "--from-measurements", file, *OPTIONS)
    assert outcome.code == 0, outcome.err
    card = PriorCard.read("own.safetensors")
    assert card.training["operators"] == 3
    assert card.training["rounds"] == 2
    assert 0 <= card.training["unseen"] < 0.5
    assert load_prior("own.safetensors").shape == (1, None, None)
    left = sorted(path.name for path in tmp_path.glob("own*"))
    expected = ["own.json", "own.safetensors", "own.samples.png"]
    assert [name for name in left if name != "own.unseen.png"] == expected


def test_a_fixed_mask_is_warned_about_and_pictured(command, file, tmp_path):
    data = dict(np.load(file))
    np.savez(tmp_path / "fixed.npz", y=data["y"][:4])
    outcome = command("train", "--from-measurements", "fixed.npz", *OPTIONS)
    assert outcome.code == 0, outcome.err
    assert "of the space of signals" in outcome.err
    assert (tmp_path / "own.unseen.png").is_file()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((3, 1, 8, 8))}, "it holds no array y, found x"),
        ({"y": np.full((3, 1, 8, 8), np.nan)}, "y must hold finite numbers"),
        ({"y": np.zeros((3, 1, 8, 8)), "mask_sed": np.zeros(3)}, "did you mean 'mask_seed'?"),
        ({"y": np.zeros((3, 1, 8, 8)), "mask_seed": np.zeros(4)}, "one value for each of the 3"),
        ({"y": np.zeros((3, 2, 8, 8))}, "signals must be images"),
    ],
)
def test_bad_measurements_are_one_line(command, tmp_path, arrays, words):
    np.savez(tmp_path / "bad.npz", **arrays)
    command("train", "--from-measurements", "bad.npz", *OPTIONS).refused(words)


def test_noiseless_and_missing_measurements_are_refused(command, file):
    command("train", "--from-measurements", "none.npz", *OPTIONS).refused("none.npz")
    noiseless = [o.replace("sigma_y=0.05", "sigma_y=0") for o in OPTIONS]
    command("train", "--from-measurements", file, *noiseless).refused("sigma_y > 0")


def test_draws_of_a_method_have_the_law_of_the_exact_posterior():
    """Under the exact Gaussian prior, second moments of the draws are those of the closed form."""
    data = masked(320, masks=4)
    fit = law()
    prior = fit.prior(SHAPE)
    drawn = draw_all(data, prior, inverse.get_method("mmps", steps=20), 0).flatten(1)
    exact = gaussian_draws(data, fit, 1).flatten(1)
    # entries of the second moments have a standard error of about 0.3 / sqrt(320) = 0.017
    assert float((drawn.T @ drawn / 320 - exact.T @ exact / 320).abs().max()) < 0.07


def test_draws_that_diverged_are_left_out_and_counted():
    x, lines = torch.rand(6, 1, 8, 8), []
    x[2, 0, 3, 3] = 40.0
    assert torch.equal(plausible(x, lines.append), x[[0, 1, 3, 4, 5]])
    assert lines == ["inverse: 1 of 6 draws diverged and are left out"]
    with pytest.raises(inverse.InverseError, match="4 of 6 draws of the method diverged"):
        plausible(torch.where(torch.arange(6)[:, None, None, None] < 4, 9.0, x), print)
