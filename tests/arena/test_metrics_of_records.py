"""Metrics against closed forms and their definitions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import inverse
from inverse.arena.budget import fit
from inverse.execution import Cost
from inverse.metrics.shipped import METRICS
from inverse.result import Result


def result(samples: torch.Tensor, truth: torch.Tensor | None) -> Result:
    """Samples (images, m, *shape) and truths (images, *shape)."""
    return Result(
        samples, torch.zeros(len(samples), 1), torch.ones(samples.shape[:2]), Cost(), 0.0, truth
    )


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    from inverse.io.images import read_image
    from inverse.problem import shipped_images

    return read_image(shipped_images()[1]).pixels[None]


def test_an_exact_sampler_has_the_scores_of_its_law():
    """The truth and nine samples are independent standard normals.

    CRPS 1/sqrt(pi), coverage 0.8 and spread over skill 1, each within 4 standard errors.
    """
    n = 40_000
    found = result(draws(1, 9, n), draws(1, n, seed=1))
    assert METRICS["crps"](found) == pytest.approx(
        1 / math.sqrt(math.pi), abs=4 * 0.7 / math.sqrt(n)
    )
    assert METRICS["coverage"](found) == pytest.approx(0.8, abs=4 * 0.4 / math.sqrt(n))
    assert METRICS["spread-skill"](found) == pytest.approx(1, abs=4 / math.sqrt(n))
    assert METRICS["rmse"](found) == pytest.approx(math.sqrt(1 + 1 / 9), abs=4 / math.sqrt(n))


def test_a_sampler_of_half_the_spread_is_overconfident():
    n = 40_000
    found = result(0.5 * draws(1, 9, n), draws(1, n, seed=1))
    assert METRICS["spread-skill"](found) == pytest.approx(
        math.sqrt(10 / 9) * 0.5 / math.sqrt(1 + 0.25 / 9), abs=0.02
    )
    assert METRICS["coverage"](found) < 0.6


def test_energy_score_of_two_samples_is_the_definition():
    found = result(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.tensor([[3.0, 0.0]]))
    assert METRICS["energy-score"](found) == pytest.approx((3 + 4) / 2 - 2 * 5 / (2 * 2 * 1))


def test_area_weighting_is_that_of_the_sphere():
    """An error on a band of latitude counts by its share of the area, up to the midpoint rule."""
    truth = torch.zeros(1, 1, 90, 4)
    answer = truth.clone()
    answer[..., :30, :] = (
        1  # from the pole to 30 degrees of latitude: (1 - sin 30) / 2 of the sphere
    )
    assert METRICS["area-rmse"](result(answer[:, None], truth)) == pytest.approx(
        math.sqrt(0.25), rel=1e-3
    )
    assert METRICS["rmse"](result(answer[:, None], truth)) == pytest.approx(math.sqrt(1 / 3))


@pytest.mark.parametrize("name", ["haarpsi", "ms-ssim"])
def test_perceptual_similarity_is_one_for_the_truth_and_falls_with_noise(photograph, name):
    noise = draws(*photograph.shape).float()
    scores = [
        METRICS[name](result((photograph + sigma * noise)[:, None], photograph))
        for sigma in (0, 0.05, 0.2)
    ]
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert scores[0] > scores[1] > scores[2] > 0


def test_a_metric_that_does_not_apply_is_none():
    points = result(draws(2, 1, 5), draws(2, 5, seed=1))
    assert {name for name, metric in METRICS.items() if metric(points) is not None} == {
        "rmse",
        "misfit",
    }
    blind = result(draws(2, 20, 3, 16, 16), None)
    assert {name for name, metric in METRICS.items() if metric(blind) is not None} == {"misfit"}
    kelvins = result(280 + draws(1, 1, 1, 200, 200), 280 + draws(1, 1, 200, 200, seed=1))
    assert {name for name, metric in METRICS.items() if metric(kelvins) is not None} == {
        "rmse",
        "area-rmse",
        "misfit",
    }
    small = result(draws(2, 20, 3, 12, 12), draws(2, 3, 12, 12, seed=1))
    assert {name for name, metric in METRICS.items() if metric(small) is None} == {
        "dists",
        "haarpsi",
        "lpips",
        "ms-ssim",
    }


def test_an_ensemble_is_scored_by_its_weights():
    """Half of the particles are far away and have weight zero."""
    problem = inverse.get_problem("gaussian", side=4)
    posterior = problem.posterior(0, dtype=torch.float64)
    good = inverse.solve(posterior, "mmps", samples=40)
    far = torch.cat([good.samples, good.samples + 3], 1)
    log_weights = torch.cat([torch.zeros(1, 40), torch.full((1, 40), -torch.inf)], 1).log_softmax(1)
    weighted = replace(good, samples=far, log_weights=log_weights)
    blind = replace(good, samples=far)
    for name in ("crps", "energy-score"):
        assert METRICS[name](weighted) == pytest.approx(METRICS[name](good), rel=0.2)
        assert METRICS[name](blind) > 3 * METRICS[name](good)
    assert METRICS["spread-skill"](weighted) == pytest.approx(
        METRICS["spread-skill"](good), rel=0.05
    )


def test_the_budget_of_a_particle_method_covers_its_whole_cloud():
    """64 samples are a cloud of 64 particles, which take one evaluation each per step."""
    posterior = inverse.get_problem("gaussian", side=4).posterior(0, dtype=torch.float64)
    assert fit(
        posterior, inverse.get_method("fk-steering"), {"nfe": 100}, 64, False
    ).steps == pytest.approx(100, abs=1)
