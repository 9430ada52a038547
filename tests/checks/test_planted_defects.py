"""Defects of MMPS that leave its figures near the floor fail `inverse verify` for their reason."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

import inverse
from inverse.checks import claims
from inverse.seeding import seeded
from inverse_plugins._moment_matching import solve_moments
from inverse_plugins.mmps import MMPS


@dataclass(frozen=True)
class Late(MMPS):
    """Every step takes the denoiser at the level before it."""

    name = "late"

    def run(self, posterior, samples, generator):
        x, levels = self.begin(posterior, generator)
        before = {float(b): a for a, b in pairwise(levels)}

        def denoise(x, sigma):
            return self.denoise(posterior, x, before.get(float(sigma), sigma) + 0 * sigma)

        yield from inverse.get_sampler(self.sampler)(denoise, x, levels, generator)


@dataclass(frozen=True)
class Paired(MMPS):
    """Two neighbours share their noise."""

    name = "paired"

    def begin(self, posterior, generator):
        x, levels = super().begin(posterior, generator)
        return x[::2].repeat_interleave(2, 0), levels


@dataclass(frozen=True)
class Gain(MMPS):
    """A^T is 5 % too large."""

    name = "gain"

    def denoise(self, posterior, x, sigma):
        x0_hat, vjp = posterior.tweedie(x, sigma)
        r = posterior.residual(x0_hat)
        v = solve_moments(posterior, r, sigma, vjp, self.solver, self.iterations, self.tolerance)
        return x0_hat + sigma**2 * vjp(1.05 * posterior.A_adjoint(v))


def test_mmps_keeps_its_claim():
    verdict = inverse.verify(MMPS(), cases=("random",))
    assert verdict.failures == []
    assert verdict.independence < 5
    assert [error < 0.005 for error, _ in verdict.response.values()] == [True, True]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Late(), "but its sampler heun has order 2"),
        (Paired(), "samples at a fixed distance in the batch are correlated"),
        (Gain(), "the mean follows a change of y with an error of 0.02"),
    ],
)
def test_a_defect_near_the_floor_fails_for_its_reason(method, words):
    (failure,) = inverse.verify(method, cases=("random",)).failures
    assert words in failure


@pytest.mark.parametrize("distance", [1, 7, 500])
def test_shared_noise_shows_at_its_distance(distance):
    x = torch.randn(1000, 4, generator=seeded("independent"), dtype=torch.float64)
    assert claims.independence(x) < 5
    assert claims.independence(x + 0.6 * x.roll(distance, 0)) > 10
    assert claims.independence(torch.ones(1000, 4, dtype=torch.float64)) is None
