"""EM over image and kernel, against marginals on a grid and the identities of EM."""

import math
from itertools import pairwise

import pytest
import torch

import inverse
from inverse_problems.deblur.image_and_kernel import (
    Frame,
    Mixture,
    Sharp,
    image_posterior,
    kernel_information,
    nonnegative,
    normal_equations,
)

LENGTH, SIGMA, SPREAD, RIDGE = 24, 0.3, 1.0, 5.0
GAUSSIAN = Mixture(torch.ones(1).double(), torch.full((1,), SPREAD).double())


def kernel_of(a: float, b: float) -> torch.Tensor:
    return torch.tensor([[a, 1 - a - b, b]], dtype=torch.float64)


def signal(kernel: torch.Tensor) -> Frame:
    """y = k * x + n in one dimension, a Gaussian x, and a gap in y."""
    g = inverse.seeded(4, "signal")
    x = SPREAD * torch.randn(1, 1, LENGTH + 2, generator=g, dtype=torch.float64)
    y = torch.nn.functional.conv2d(x[None], kernel.flip(-1)[None, None])[0]
    y = y + SIGMA * torch.randn(y.shape, generator=g, dtype=torch.float64)
    usable = torch.ones(1, LENGTH, dtype=torch.float64)
    usable[0, 9:11] = 0
    return Frame(y, usable, (1, 3))


def matrix(frame: Frame, kernel: torch.Tensor) -> torch.Tensor:
    """Convolution on the plane, one row for each usable y."""
    unit = torch.eye(frame.size[1], dtype=torch.float64)[:, None, None]
    full = frame.filtered(unit, frame.transfer(kernel))[:, 0, 0].T
    return full[frame.seen[0, 0] > 0]


def log_posterior(frame: Frame, kernel: torch.Tensor) -> float:
    """log p(y | k) + log p(k) with x integrated out, up to a constant."""
    K = matrix(frame, kernel)
    y = frame.y[0, 0][frame.seen[0, 0] > 0]
    covariance = SPREAD**2 * K @ K.T + SIGMA**2 * torch.eye(len(y), dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance)
    return float(law.log_prob(y)) - RIDGE * float(kernel.square().sum()) / 2


def sigma_points(frame: Frame, kernel: torch.Tensor) -> torch.Tensor:
    """Points whose second moments are those of x given y and k."""
    K = matrix(frame, kernel)
    n = K.shape[1]
    information = K.T @ K / SIGMA**2 + torch.eye(n, dtype=torch.float64) / SPREAD**2
    root = torch.linalg.cholesky(torch.linalg.inv(information)) * math.sqrt(n)
    y = frame.y[0, 0][frame.seen[0, 0] > 0]
    mean = torch.linalg.solve(information, K.T @ y / SIGMA**2)
    return torch.cat([mean + root.T, mean - root.T])[:, None, None]


def em_step(frame: Frame, kernel: torch.Tensor) -> torch.Tensor:
    """The maximum over kernels of three taps, sum free."""
    gram, b = normal_equations(frame, sigma_points(frame, kernel), kernel)
    gram = gram + RIDGE * SIGMA**2 * torch.eye(3, dtype=torch.float64)
    return torch.linalg.solve(gram, b).reshape(1, 3)


def test_em_never_lowers_the_evidence_and_ends_at_its_maximum():
    frame = signal(kernel_of(0.5, 0.2))
    kernel = kernel_of(0.2, 0.1)
    values = [log_posterior(frame, kernel)]
    for _ in range(200):
        kernel = em_step(frame, kernel)
        values.append(log_posterior(frame, kernel))
    assert all(after >= before - 1e-9 for before, after in pairwise(values))
    step = 1e-3  # the marginal on a grid around the end
    for direction in torch.eye(3, dtype=torch.float64):
        for sign in (-1, 1):
            assert log_posterior(frame, kernel + sign * step * direction) < values[-1]


def test_the_spread_of_the_kernel_is_that_of_its_marginal():
    frame = signal(kernel_of(0.5, 0.2))
    kernel = kernel_of(0.5, 0.2)
    for _ in range(200):
        kernel = em_step(frame, kernel)
    picture = Sharp(frame, SIGMA, GAUSSIAN)
    picture.precision = torch.full_like(frame.y, SPREAD**-2)
    information = kernel_information(picture, kernel, inverse.seeded(0, "scores"), 4000, 100)
    found = torch.linalg.inv(information + RIDGE * torch.eye(3).double())
    h, unit = 1e-3, torch.eye(3, dtype=torch.float64)
    curvature = torch.zeros(3, 3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            for s in (-1, 1):
                for t in (-1, 1):
                    shifted = kernel + h * (s * unit[i] + t * unit[j])
                    curvature[i, j] -= s * t * log_posterior(frame, shifted) / (4 * h * h)
    expected = torch.linalg.inv(curvature)
    # the sampled covariance of the score has a relative error of sqrt(2 / 4000) = 2 %
    torch.testing.assert_close(found, expected, rtol=0.15, atol=0.1 * float(expected.max()))


def test_a_known_image_leaves_the_regression_of_y_on_it():
    frame = signal(kernel_of(0.5, 0.2))
    g = inverse.seeded(1, "image")
    x = torch.randn(frame.y.shape, generator=g, dtype=torch.float64)
    truth = kernel_of(0.3, 0.6)
    frame.y = frame.seen * frame.filtered(x, frame.transfer(truth))
    kernel = kernel_of(0.0, 0.0)
    for _ in range(60):  # missing entries of y are filled in by the kernel
        gram, b = normal_equations(frame, x[None], kernel)
        kernel = torch.linalg.solve(gram, b).reshape(1, 3)
    torch.testing.assert_close(kernel, truth, atol=1e-6, rtol=0)


def test_samples_of_the_image_have_its_posterior_mean_and_covariance():
    frame, kernel = signal(kernel_of(0.5, 0.2)), kernel_of(0.5, 0.2)
    points = sigma_points(frame, kernel)[:, 0, 0]
    start, precision = torch.zeros(3000, *frame.y.shape).double(), 0 * frame.y + SPREAD**-2
    g = inverse.seeded(0, "samples")
    draws = image_posterior(frame, kernel, precision, SIGMA, start, g, 100)[:, 0, 0]
    error = (points.T.cov(correction=0).diagonal() / len(draws)).sqrt()
    assert bool(((draws.mean(0) - points.mean(0)).abs() < 5 * error).all())
    expected, found = points.T.cov(correction=0).diagonal(), draws.T.cov().diagonal()
    assert bool((found / expected - 1).abs().max() < 6 * math.sqrt(2 / len(draws)))


@pytest.mark.parametrize("n", [5, 40])
def test_the_nonnegative_solution_satisfies_its_optimality_conditions(n):
    g = inverse.seeded(n, "gram")
    factor = torch.randn(3 * n, n, generator=g, dtype=torch.float64)
    gram, b = factor.T @ factor, torch.randn(n, generator=g, dtype=torch.float64) * n
    k = nonnegative(gram, b, torch.ones_like(b), 2000)
    slope = gram @ k - b
    assert bool((k >= 0).all())
    assert bool((slope[k > 0].abs() < 1e-6).all())
    assert bool((slope[k == 0] > -1e-6).all())
