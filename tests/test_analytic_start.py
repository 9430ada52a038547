"""The analytic start against exact posteriors: the law of its draws, without Monte Carlo error."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import matrix_operator

import inverse
from inverse.analytic_start import analytic_start, gaussian_of
from inverse.errors import InverseError, OptionError, UnsupportedError
from inverse.execution import Execution
from inverse.measurement.noise import PoissonNoise
from inverse.priors.analytic import GaussianPrior, LowRankPrior, MixturePrior
from inverse.priors.field import FieldPrior, power_law
from inverse.priors.prior import RescaledPrior
from inverse.sampling.options import sampler_options, with_common_options
from inverse.sampling.samplers import SAMPLERS

pytest_plugins = "cli_fixtures"
F64 = torch.float64
EXACT = Execution(solver=inverse.CG(1e-14, 500))
UNITS = {"shift": 0.3, "scale": 0.7, "sigma_min": 0.01, "sigma_max": 20.0}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def full() -> GaussianPrior:
    a = normal(6, 6, seed=1)
    return GaussianPrior(normal(1, 2, 3), a @ a.T / 6 + 0.01 * torch.eye(6, dtype=F64), **UNITS)


def low_rank() -> LowRankPrior:
    return LowRankPrior.factored(
        normal(1, 2, 3), normal(6, 2, seed=2), torch.tensor(0.05, dtype=F64), **UNITS
    )


def field() -> FieldPrior:
    spectrum = power_law(*(torch.tensor([v], dtype=F64) for v in (0.05, 0.1, 1.2)))
    return FieldPrior(torch.tensor(0.2, dtype=F64), spectrum, (1, None, None), **UNITS)


def mixture() -> MixturePrior:
    return MixturePrior(
        torch.tensor([0.3, 0.7], dtype=F64),
        normal(2, 1, 2, 3),
        normal(2, 6, seed=3).square() + 0.01,
        **UNITS,
    )


def moments(prior) -> GaussianPrior:
    """The dense Gaussian with the mean and covariance of a law."""
    prior = prior.sized(2, 3) if isinstance(prior, FieldPrior) else prior
    return GaussianPrior(prior.mean, prior.covariance, **UNITS)


def rescaled(prior) -> RescaledPrior:
    """The same law in other native units; the samples in physical units must not change."""
    return RescaledPrior(prior, 2.0, -0.4)


class Impulses:
    """Replaces random numbers: draw i is 1 in row i + 1 and 0 elsewhere.

    A linear map then returns the gain of each draw.
    """

    draws = 0

    def randn_like(self, x: torch.Tensor) -> torch.Tensor:
        n = x[0].numel()
        out = torch.zeros(len(x), n, dtype=x.dtype)
        out[self.draws + 1 : self.draws + 1 + n] = torch.eye(n, dtype=x.dtype)
        self.draws += n
        return out.reshape(x.shape)


MATRIX = normal(4, 6, seed=5)
Y = normal(4, seed=6)
SIGMA_Y = torch.tensor([0.3, 0.05, 0.1, 0.2], dtype=F64)


def posterior_of(prior, rows: int = 1) -> inverse.Posterior:
    """Four blurred numbers of six, each with its own noise."""
    operator = matrix_operator(MATRIX, (1, 2, 3))
    return inverse.Posterior(
        prior,
        operator,
        Y.expand(rows, 4),
        inverse.GaussianNoise(SIGMA_Y),
        shape=(1, 2, 3),
        dtype=F64,
        execution=EXACT,
    )


def law_of(draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of an affine map of standard normal numbers.

    The map takes rows and a generator.
    """
    impulses = Impulses()
    x = draw(200, impulses).flatten(1)
    assert impulses.draws < 200
    gains = x[1:] - x[0]
    return x[0], gains.T @ gains


@pytest.mark.parametrize("sigma", [0.0, 0.05, 1.0, 30.0])
@pytest.mark.parametrize("make", [full, low_rank, field, mixture])
def test_the_start_has_the_law_of_the_conditioned_gaussian(make, sigma):
    """The exact flow from the start then ends in the exact posterior, whatever the level."""
    law = moments(make()).given(MATRIX, SIGMA_Y, Y)
    mean, covariance = law_of(
        lambda rows, noise: analytic_start(posterior_of(make(), rows), sigma, noise)
    )
    eye = torch.eye(6, dtype=F64)
    assert torch.allclose(mean, law.mean.flatten(), rtol=0, atol=1e-10)
    assert torch.allclose(covariance, law.covariance + sigma**2 * eye, rtol=1e-10, atol=1e-10)
    exact = GaussianPrior(law.mean[0], law.covariances[0])
    flow = exact.spectral(eye.reshape(6, 1, 2, 3), lambda v: (v / (v + sigma**2)).sqrt()).reshape(
        6, 6
    )
    assert torch.allclose(flow @ covariance @ flow, law.covariance, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [full, field])
def test_a_rescaled_prior_starts_from_the_same_image(make):
    mean, covariance = law_of(
        lambda rows, noise: (
            2 * analytic_start(posterior_of(rescaled(make()), rows), 0.5, noise) - 0.4
        )
    )
    expected = law_of(lambda rows, noise: analytic_start(posterior_of(make(), rows), 1.0, noise))
    assert torch.allclose(mean, expected[0], rtol=0, atol=1e-9)
    assert torch.allclose(covariance, expected[1], rtol=0, atol=1e-9)


def test_rows_are_independent():
    prior = full()
    streams = lambda: [torch.Generator().manual_seed(i) for i in range(3)]  # noqa: E731
    together = analytic_start(posterior_of(prior, 3), 0.5, inverse.Generators(streams()))
    alone = analytic_start(posterior_of(prior, 1), 0.5, inverse.Generators(streams()[1:2]))
    assert torch.allclose(together[1:2], alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("level", [0.2, 1.0, 5.0])
def test_an_exact_guidance_stays_exact_at_less_cost(level):
    """Without the early steps `mmps` is as close to a Gaussian's posterior, at less cost."""
    law = full().given(MATRIX, SIGMA_Y, Y)

    def solved(**options) -> tuple[float, float]:
        method = inverse.get_method("mmps", steps=40, tolerance=1e-12, **options)
        posteriors = []

        def draw(rows, noise):
            posteriors.append(posterior_of(full(), rows))
            *_, x = method.run(posteriors[0], rows, noise)
            return x

        mean, covariance = law_of(draw)
        error = (mean - law.mean.flatten()).norm() / law.covariance.trace().sqrt() + (
            covariance - law.covariance
        ).norm() / law.covariance.norm()
        return float(error), posteriors[0].cost.nfe

    (error, nfe), (whole, most) = solved(analytic_start=level), solved()
    levels = inverse.noise_levels(posterior_of(full()), "karras", 40)
    assert nfe == 2 * int(((levels > 0) & (levels <= level)).sum()) - 1
    assert nfe < most
    assert error < whole
    assert whole < 0.1


def test_on_a_mixture_the_start_is_better_the_higher_it_is():
    """Total variation to the exact law of x at the level, by quadrature: from 0.4 down to 0."""
    means = torch.tensor([[[[-1.5]]], [[[1.0]]]], dtype=F64)
    variances = torch.tensor([0.1, 0.2], dtype=F64)
    prior = MixturePrior(torch.tensor([0.4, 0.6], dtype=F64), means, variances)
    y, sigma_y, one = torch.tensor([0.1], dtype=F64), 1.0, torch.ones(1, 1, dtype=F64)
    exact = prior.given(one, sigma_y, y)
    fitted = GaussianPrior(prior.mean, prior.covariance).given(one, sigma_y, y)
    x = torch.linspace(-80, 80, 40_001, dtype=F64).reshape(-1, 1, 1, 1)
    distance = [
        float((exact.log_density(x, s).exp() - fitted.log_density(x, s).exp()).abs().sum())
        * (160 / 40_000)
        / 2
        for s in (0.1, 0.5, 1.0, 3.0, 10.0)
    ]
    assert distance[0] > 0.3
    assert all(b < a / 1.5 for a, b in pairwise(distance))
    assert distance[-1] < 0.02
    generator = inverse.Generators([torch.Generator().manual_seed(0)] * 4000)
    posterior = inverse.Posterior(
        prior,
        matrix_operator(one, (1, 1, 1)),
        y.expand(4000, 1),
        inverse.GaussianNoise(sigma_y),
        shape=(1, 1, 1),
        dtype=F64,
    )
    draws = analytic_start(posterior, 1.0, generator).flatten()
    spread = float((fitted.covariance + 1).sqrt())
    assert abs(float(draws.mean() - fitted.mean)) < 4 * spread / math.sqrt(4000)
    assert abs(float(draws.std()) / spread - 1) < 4 / math.sqrt(2 * 4000)


def test_photographs_have_the_power_law_of_the_card():
    """The start on a photograph explains y, with the colours and brightness of photographs."""
    prior = inverse.load_prior("photo-64")
    problem = inverse.get_problem("deblur")
    truth = problem.truths()[0][:, 64:128, 64:128]
    posterior = problem.posterior(truth, prior=prior)
    x = prior.decode(analytic_start(posterior, 0.0, inverse.Generators.for_samples(0, 1, 1)))
    assert float((x - truth).square().mean()) < float((truth - truth.mean()).square().mean()) / 4
    assert float(posterior.noise.chi_square(posterior.y, posterior.operator.A(x))) < 2.0
    law = gaussian_of(prior, (3, 64, 64))
    white = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    grey = law.spectral(white, torch.sqrt).mean(1)
    assert float((grey[..., 1:] - grey[..., :-1]).square().mean()) < 0.2 * float(grey.var())


# --- refusals ---------------------------------------------------------------------------------


def test_a_prior_without_a_known_gaussian_is_refused(network_prior, gaussian_prior):
    truth = torch.full((1, 3, 8, 8), 0.5)
    method = inverse.get_method("pigdm", analytic_start=1.0)
    problem = inverse.get_problem("deblur", kernel="gaussian", width=0.5, kernel_size=3)
    with pytest.raises(
        UnsupportedError,
        match="analytic_start needs a prior whose mean and covariance are known; NetworkPrior",
    ):
        inverse.solve(problem.posterior(truth, prior=network_prior), method)
    noiseless = inverse.get_problem(
        "deblur", kernel="gaussian", width=0.5, kernel_size=3, sigma_y=0.0
    )
    with pytest.raises(UnsupportedError, match="of positive sigma_y"):
        inverse.solve(noiseless.posterior(truth, prior=gaussian_prior, dtype=F64), method)
    operator = matrix_operator(torch.eye(192, dtype=F64), (3, 8, 8))
    counts = inverse.Posterior(
        gaussian_prior,
        operator,
        torch.ones(1, 192, dtype=F64),
        PoissonNoise(0.1),
        shape=(3, 8, 8),
        dtype=F64,
    )
    with pytest.raises(UnsupportedError, match="linear operator with Gaussian noise"):
        analytic_start(counts, 1.0, inverse.Generators.for_samples(0, 1, 1))


@pytest.mark.parametrize(
    ("level", "reason"), [(0.005, "at least the last level"), (-1.0, "must be positive, got -1")]
)
def test_a_start_below_the_schedule_is_refused(level, reason):
    with pytest.raises(OptionError, match=reason):
        inverse.solve(posterior_of(full()), inverse.get_method("mmps", analytic_start=level))


def test_the_command_accepts_the_analytic_start_and_refuses_invalid_levels(command):
    asked = ("solve", "--problem", "gaussian", "--method", "mmps", "--steps", "4", "--set")
    assert command(*asked, "analytic_start=1").code == 0
    command(*asked, "analytic_start=high").refused("analytic_start must be", "got 'high'")
    assert issubclass(UnsupportedError, InverseError)


def test_the_docs_hold_what_the_bench_wrote(monkeypatch):
    root = Path(__file__).parents[1]
    monkeypatch.syspath_prepend(str(root / "bench"))
    from analytic_start import table

    page = (root / "docs" / "samplers.md").read_text()
    assert (
        table(
            json.loads((root / "results" / "tables" / "analytic_start.json").read_text())["records"]
        )
        in page
    )
    for name in SAMPLERS:
        assert f"`{name}`" in page or f"`{name.removeprefix('deis')}`" in page, name
    assert all(
        f"`{option}`" in page
        for sampler in (with_common_options, *SAMPLERS.values())
        for option in sampler_options(sampler)
    )


def test_the_gaussian_of_a_field_has_its_number_of_axes():
    """A field of volumes keeps its covariance."""
    field = FieldPrior(
        torch.zeros((), dtype=torch.float64), decaying_spectrum, (1, None, None, None)
    )
    law = gaussian_of(field, (1, 3, 4, 5))
    unit = torch.eye(60, dtype=torch.float64).reshape(60, 1, 3, 4, 5)
    found = law.spectral(unit, lambda v: v).reshape(60, 60)
    torch.testing.assert_close(found, field.sized(3, 4, 5).covariance)


def decaying_spectrum(*size: int) -> torch.Tensor:
    """1 / (1 + |f|^2) for whole frequencies f on a torus."""
    axes = torch.meshgrid(*(torch.fft.fftfreq(n, 1 / n) for n in size), indexing="ij")
    return 1 / (1 + sum(a.square() for a in axes))
