"""Graduated and plug-and-play point estimates against a Gaussian prior's known answer."""

import math

import pytest
import torch
from conftest import matrix_operator, normal

import inverse

F64 = torch.float64


@pytest.fixture(scope="module")
def gaussian():
    """Six unknowns, three measurements: the posterior, and what it is made of, in one unit."""
    root = normal(6, 6, dtype=F64)
    C = root @ root.T / 6 + 0.05 * torch.eye(6, dtype=F64)
    m = normal(6, seed=1, dtype=F64)
    A = normal(3, 6, seed=2, dtype=F64)
    y = A @ (m + root @ normal(6, seed=3, dtype=F64) / 6**0.5)
    posterior = inverse.Posterior(
        inverse.GaussianPrior(m, C),
        matrix_operator(A, (6,)),
        y[None],
        inverse.GaussianNoise(0.3),
        dtype=F64,
    )
    return posterior, C, m, A, y


def mode(C, m, A, y, sigma_y, weight=1.0):
    """argmin |y - A x|^2 / (2 sigma_y^2) + weight (x - m)^T C^-1 (x - m) / 2.

    At weight 1 it is the mean of the posterior.
    """
    return m + torch.linalg.solve(
        A.T @ A / sigma_y**2 + weight * torch.linalg.inv(C), A.T @ (y - A @ m) / sigma_y**2
    )


def test_wiener_is_the_mean_of_a_gaussian_posterior(gaussian):
    """Also with a noise level for each measurement; the tolerance is that of the linear solve."""
    posterior, C, m, A, y = gaussian
    found = inverse.solve(posterior, "wiener").mean[0]
    torch.testing.assert_close(found, mode(C, m, A, y, 0.3), atol=1e-5, rtol=0)
    sigma_y = torch.tensor([0.1, 0.3, 1.0], dtype=F64)
    uneven = posterior.replaced(noise=inverse.GaussianNoise(sigma_y))
    expected = m + torch.linalg.solve(
        A.T @ (A / sigma_y[:, None] ** 2) + torch.linalg.inv(C), A.T @ ((y - A @ m) / sigma_y**2)
    )
    torch.testing.assert_close(inverse.solve(uneven, "wiener").mean[0], expected, atol=1e-5, rtol=0)


def end_of_red_map(posterior, sigma_min, steps=600, **options):
    """Mean of 400 rows; optimiser noise gives it a standard error of 0.02 to 0.03 in total."""
    method = inverse.get_method("red-map", steps=steps, lr=0.3, sigma_min=sigma_min, **options)
    return inverse.solve(posterior, method, samples=400).samples[0].mean(0)


@pytest.mark.parametrize("strength", [1.0, 4.0])
def test_red_map_ends_in_the_mode_of_the_smoothed_posterior(gaussian, strength):
    """p_s(x)^strength p(y | x) at the last s; three standard errors are 0.09.

    The mean of the posterior is 0.2 away.
    """
    posterior, C, m, A, y = gaussian
    expected = mode(C + 0.3**2 * torch.eye(6, dtype=F64), m, A, y, 0.3, strength)
    assert (expected - mode(C, m, A, y, 0.3)).norm() > 0.19
    assert (end_of_red_map(posterior, 0.3, strength=strength) - expected).norm() < 0.09


def test_red_map_reaches_the_posterior_mean_as_the_level_falls(gaussian):
    posterior, C, m, A, y = gaussian
    assert (end_of_red_map(posterior, 0.03, steps=1500) - mode(C, m, A, y, 0.3)).norm() < 0.09


def test_dpir_is_its_recursion(gaussian):
    """Algorithm 1 with dense matrices, whose denoiser is m + C (C + sigma^2)^-1 (x - m)."""
    posterior, C, m, A, y = gaussian
    eye = torch.eye(6, dtype=F64)
    z = A.T @ torch.linalg.solve(A @ A.T + 0.09 * torch.eye(3, dtype=F64), y)
    for sigma in torch.logspace(math.log10(1.5), math.log10(0.3), 10, dtype=F64):
        alpha = 0.23 * 0.09 / sigma**2
        x = torch.linalg.solve(A.T @ A + alpha * eye, A.T @ y + alpha * z)
        z = m + C @ torch.linalg.solve(C + sigma**2 * eye, x - m)
    found = inverse.solve(
        posterior, inverse.get_method("dpir", steps=10, sigma_max=1.5, sigma_min=0.3)
    ).samples[0, 0]
    torch.testing.assert_close(
        found, z, rtol=0, atol=1e-9
    )  # the linear solves stop at a relative residual of 1e-10 or less


def test_dpir_draws_nothing(gaussian):
    posterior, *_ = gaussian
    first, second = (inverse.solve(posterior, "dpir", seed=seed).samples for seed in (0, 1))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("red-map", {"lr": 0.0}, "lr must be positive"),
        ("red-map", {"sigma_min": 2.0}, "sigma_min < sigma_max"),
        ("dpir", {"lambda": 0.0}, "lambda must be positive"),
        ("dpir", {"sigma_min": 1.0}, "sigma_min < sigma_max"),
    ],
)
def test_impossible_settings_are_refused(name, options, words):
    with pytest.raises(inverse.InverseError, match=words):
        inverse.get_method(name, **options)
