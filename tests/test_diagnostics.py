"""Diagnostics against closed forms: a Gaussian's scores, uniform p-values and bands, and the defects they are for."""

from __future__ import annotations

import math

import pytest
import torch

import inverse
from inverse import diagnostics
from inverse.errors import InputError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=inverse.seeded("diagnostics", seed), dtype=torch.float64)


# --- scores -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [2, 5])
def test_fair_crps_is_the_formula_and_unbiased_for_every_m(m):
    samples, truth = 1.5 * normal(20000, m, 2) + 0.3, normal(20000, 2, seed=1)
    pairs = sum((samples[:, j] - samples[:, k]).abs() for j in range(m) for k in range(m))
    brute = ((samples - truth[:, None]).abs().mean(1) - pairs / (2 * m * (m - 1))).mean(1)
    score = diagnostics.fair_crps(samples, truth)
    torch.testing.assert_close(score, brute)
    # E|N(0.3, 1.5^2 + 1)| - E|N(0, 2 * 1.5^2)| / 2
    s, z = math.sqrt(3.25), 0.3 / math.sqrt(3.25)
    folded = s * math.sqrt(2 / math.pi) * math.exp(-z * z / 2) + 0.3 * math.erf(z / math.sqrt(2))
    expected = folded - 1.5 / math.sqrt(math.pi)
    assert abs(float(score.mean()) - expected) < 4 * float(score.std()) / math.sqrt(20000)


def test_energy_score_is_the_formula_and_unbiased():
    m, d = 3, 4
    samples, truth = 1.5 * normal(20000, m, 2, 2), normal(20000, 2, 2, seed=1)
    pairs = sum((samples[:, j] - samples[:, k]).flatten(1).norm(dim=1) for j in range(m) for k in range(m))
    brute = (samples - truth[:, None]).flatten(2).norm(dim=2).mean(1) - pairs / (2 * m * (m - 1))
    score = diagnostics.energy_score(samples, truth)
    torch.testing.assert_close(score, brute)
    chi = math.sqrt(2) * math.gamma((d + 1) / 2) / math.gamma(d / 2)  # E|N(0, I_d)|
    expected = chi * (math.sqrt(3.25) - 1.5 / math.sqrt(2))
    assert abs(float(score.mean()) - expected) < 4 * float(score.std()) / math.sqrt(20000)


def test_energy_score_of_one_entry_is_the_crps():
    samples, truth = normal(50, 7, 1), normal(50, 1, seed=1)
    torch.testing.assert_close(diagnostics.energy_score(samples, truth), diagnostics.fair_crps(samples, truth))


@pytest.mark.parametrize(("m", "level"), [(19, 0.9), (24, 0.9), (4, 0.5), (10, 0.5)])
def test_interval_coverage_is_nominal_for_uniform_samples(m, level):
    x = torch.rand(40000, m + 1, 1, generator=inverse.seeded("coverage", m), dtype=torch.float64)
    covered = diagnostics.interval_coverage(x[:, 1:], x[:, 0], level)
    assert abs(float(covered.mean()) - level) < 4 * math.sqrt(level * (1 - level) / 40000)


def test_interval_coverage_between_order_statistics_is_exact_for_any_law():
    x = normal(40000, 20, 1).exp()  # 19 samples: the 90 % interval lies between the smallest and the largest
    covered = diagnostics.interval_coverage(x[:, 1:], x[:, 0], 0.9)
    inside = (x[:, 1:].amin(1) <= x[:, 0]) & (x[:, 0] <= x[:, 1:].amax(1))
    assert torch.equal(covered, inside[:, 0].double())


def test_interval_coverage_refuses_too_few_samples():
    with pytest.raises(InputError, match="at least 19 samples, got 18"):
        diagnostics.interval_coverage(normal(3, 18, 2), normal(3, 2), 0.9)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        diagnostics.fair_crps(normal(3, 5, 2), normal(3, 1))
    with pytest.raises(InputError, match="at least 2 samples"):
        diagnostics.fair_crps(normal(3, 1, 2), normal(3, 2))
