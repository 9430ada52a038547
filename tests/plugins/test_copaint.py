"""CoPaint: its levels in closed form on a Gaussian prior, its released steps, its refusals."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from conftest import matrix_operator, normal, smooth_covariance

import inverse
from inverse.errors import OptionError, UnsupportedError

SHAPE, N, SCALE, SHIFT = (1, 2, 4), 8, 0.5, 0.4
H = normal(3, N, seed=1) / 2
MEAN, C = 0.3 * normal(N, seed=2), smooth_covariance(*SHAPE, variance=0.3)
Y = normal(1, 3, seed=3)


def posterior(noise: inverse.Noise | None = None) -> inverse.Posterior:
    """Three projections of eight Gaussian pixels."""
    prior = inverse.GaussianPrior(
        MEAN.reshape(SHAPE), C, shift=SHIFT, scale=SCALE, sigma_min=0.1, sigma_max=4.0
    )
    return inverse.Posterior(
        prior,
        matrix_operator(H, SHAPE),
        Y,
        noise or inverse.GaussianNoise(0.05),
        shape=SHAPE,
        dtype=torch.float64,
    )


def first(p: inverse.Posterior, s: float) -> torch.Tensor:
    return s * inverse.standard_normal(p, inverse.Generators.for_samples(0, 1, 1)).flatten()


def run(p: inverse.Posterior, method: inverse.Method) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(method.run(p, 1, inverse.Generators.for_samples(0, 1, 1)))


def gain(s: float) -> torch.Tensor:
    return C @ torch.linalg.inv(C + s * s * torch.eye(N, dtype=torch.float64))


def derivative(x: torch.Tensor, start: torch.Tensor, s: float, c: float) -> torch.Tensor:
    """Of |y - A x0_hat(x)|^2 in units of [-1, 1] plus c |x - x_prior|^2 / (1 + s^2)."""
    J = gain(s)
    x0_hat = MEAN + J @ (x - MEAN)
    r = (Y[0] - H @ (SCALE * x0_hat + SHIFT)) / SCALE
    return 2 * (c / (1 + s * s) * (x - start) - J.T @ H.T @ r)


def test_many_gradient_steps_reach_the_optimum_of_every_level():
    """The objective is quadratic; the optimum solves a linear system; DDIM steps between."""
    p = posterior().rows(1)
    method = inverse.get_method(
        "copaint", steps=4, iterations=4000, lr=0.1, lr_growth=1.0, reg=0.2, reg_growth=1.0
    )
    levels = inverse.noise_levels(p, "vp", 4).tolist()
    x = first(p, levels[0])
    for (s, t), found in zip(pairwise(levels), run(p, method), strict=True):
        zero = torch.zeros_like(x)
        at_zero = derivative(zero, x, s, 0.2)
        eye = torch.eye(N, dtype=torch.float64)
        hessian = torch.stack([derivative(e, x, s, 0.2) - at_zero for e in eye], 1)
        x = torch.linalg.solve(hessian, -at_zero)
        x0_hat = MEAN + gain(s) @ (x - MEAN)
        x = x0_hat + t / s * (x - x0_hat)
        torch.testing.assert_close(found.flatten(), x, rtol=0, atol=1e-6)


def test_released_steps_in_the_coordinate_of_the_paper():
    """Two gradient steps of lr sqrt(alpha_bar) on x sqrt(alpha_bar), short enough to be taken."""
    p = posterior().rows(1)
    levels = inverse.noise_levels(p, "vp", 5).tolist()
    x = first(p, levels[0])
    found = run(p, inverse.get_method("copaint", steps=5))
    for i, (s, t) in enumerate(pairwise(levels)):
        root = (1 + s * s) ** -0.5  # sqrt(alpha_bar)
        lr, c, start = 0.02 * 1.012 ** (50 * i) * root, 1e-4 * 1.01 ** (50 * i), x
        for _ in range(2):
            x = (x * root - lr * derivative(x, start, s, c) / root) / root
        x0_hat = MEAN + gain(s) @ (x - MEAN)
        x = x0_hat + t / s * (x - x0_hat)
        torch.testing.assert_close(found[i].flatten(), x, rtol=0, atol=1e-10)


def test_step_that_is_too_long_is_shortened_until_the_objective_does_not_rise():
    """The one level of a run returns x0_hat; its residual was larger before the gradient steps."""
    p = posterior().rows(1)
    s = float(inverse.noise_levels(p, "vp", 1)[0])
    before = (MEAN + gain(s) @ (first(p, s) - MEAN)).reshape(1, *SHAPE)
    (after,) = run(p, inverse.get_method("copaint", steps=1, lr=1e3))
    assert p.residual(after).norm() < p.residual(before).norm()


def test_time_travel_adds_the_noise_of_the_jump():
    method = inverse.get_method("copaint", steps=9, jump_length=3, repeats=2)
    assert method.walk() == [9, 8, 7, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0]
    iterates = run(posterior().rows(1), method)
    assert len(iterates) == method.total == 21
    assert torch.isfinite(iterates[-1]).all()


def test_noise_that_is_not_white_and_gaussian_is_refused():
    for noise in (inverse.PoissonNoise(0.01), inverse.GaussianNoise(torch.tensor([0.1, 0.2, 0.3]))):
        with pytest.raises(UnsupportedError, match="copaint needs"):
            inverse.solve(posterior(noise), inverse.get_method("copaint"))


def test_denoiser_without_a_jacobian_is_refused():
    p = posterior().rows(1).replaced(denoise=lambda x, sigma: x)
    with pytest.raises(UnsupportedError, match="no Jacobian"):
        run(p, inverse.get_method("copaint", steps=2))


@pytest.mark.parametrize(
    "options", [{"iterations": 0}, {"repeats": 0}, {"lr": 0.0}, {"reg": -1.0}, {"steps": 0}]
)
def test_invalid_options_are_refused(options):
    with pytest.raises(OptionError, match="copaint"):
        inverse.get_method("copaint", **options)
