"""The exact laws, compared with their density, with dense algebra and with quadrature."""

from __future__ import annotations

import math

import pytest
import torch

from inverse.priors.analytic import Exact, GaussianPrior, LowRankPrior, MixturePrior
from inverse.priors.field import FieldPrior, fit_power_law, matern, power_law, power_law_field

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spd(n: int, *batch: int, seed: int = 0) -> torch.Tensor:
    a = torch.randn(*batch, n, n, generator=generator(seed), dtype=F64)
    return a @ a.mT / n + 0.05 * torch.eye(n, dtype=F64)


def mixture(kind: str, n: int = 3, k: int = 4) -> MixturePrior:
    g = generator(1)
    weights = torch.rand(k, generator=g, dtype=F64) + 0.2
    means = 2 * torch.randn(k, n, generator=g, dtype=F64)
    covariances = {
        "full": spd(n, k),
        "shared": spd(n, 1),
        "diagonal": torch.rand(k, n, generator=g, dtype=F64) + 0.1,
        "isotropic": torch.rand(k, generator=g, dtype=F64) + 0.1,
    }[kind]
    return MixturePrior(weights, means, covariances, shift=0.3, scale=0.7)


def field() -> FieldPrior:
    return FieldPrior(torch.tensor(0.2, dtype=F64), matern(0.5, 2.0), shift=0.1, scale=0.5).sized(
        4, 5
    )


def colour_field(height: int = 4, width: int = 3) -> FieldPrior:
    colours = torch.linalg.qr(torch.randn(3, 3, generator=generator(6), dtype=F64))[0]
    spectrum = power_law(
        *(
            torch.tensor(v, dtype=F64)
            for v in ([0.02, 0.01, 0.004], [0.03, 0.06, 0.1], [1.2, 1.0, 0.8])
        )
    )
    mean = torch.tensor([0.1, -0.2, 0.3], dtype=F64)[:, None, None]
    return FieldPrior(mean, spectrum, (3, None, None), colours, shift=0.1, scale=0.5).sized(
        height, width
    )


def low_rank(floor: float = 0.2) -> LowRankPrior:
    factor = torch.randn(6, 2, generator=generator(3), dtype=F64)
    return LowRankPrior.factored(
        torch.randn(2, 3, generator=generator(2), dtype=F64),
        factor,
        torch.tensor(floor, dtype=F64),
        shift=0.3,
        scale=0.7,
    )


LAWS = {
    **{
        kind: lambda kind=kind: mixture(kind)
        for kind in ("full", "shared", "diagonal", "isotropic")
    },
    "gaussian": lambda: GaussianPrior(torch.randn(2, 3, generator=generator(2), dtype=F64), spd(6)),
    "field": field,
    "colour field": colour_field,
    "low rank": low_rank,
}


@pytest.fixture(params=LAWS)
def law(request):
    return LAWS[request.param]()


@pytest.mark.parametrize("sigma", [1e-3, 0.3, 5.0, 300.0, "per row"])
def test_denoiser_is_tweedie_of_the_density(law, sigma):
    level = (
        torch.tensor([0.05, 0.5, 5.0], dtype=F64)
        if sigma == "per row"
        else torch.tensor(sigma, dtype=F64)
    )
    rows = level.reshape(-1, *[1] * len(law.shape))
    x0 = law.sample(3, generator(3))
    x = (x0 + rows * torch.randn(x0.shape, generator=generator(4), dtype=F64)).requires_grad_()
    (score,) = torch.autograd.grad(law.log_density(x, level).sum(), x)
    assert torch.allclose(law(x, level), x + rows**2 * score, rtol=1e-10, atol=1e-10)


def test_denoiser_is_finite_where_every_component_underflows():
    law = mixture("full").float()
    x = torch.full((2, 3), 1e4)
    far = law(x, torch.tensor(1e-2))
    assert bool(far.isfinite().all())
    assert torch.allclose(far, x, rtol=1e-3)


def test_density_integrates_to_one():
    law = MixturePrior(
        torch.tensor([0.3, 0.7], dtype=F64),
        torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=F64),
        spd(2, 2),
    )
    t = torch.linspace(-12, 12, 801, dtype=F64)
    grid = torch.cartesian_prod(t, t)
    assert math.isclose(
        float(law.log_density(grid, 0.4).exp().sum()) * (24 / 800) ** 2, 1.0, abs_tol=1e-10
    )


def test_samples_have_the_mean_and_covariance(law):
    count = 40_000
    x = law.sample(count, generator(5)).flatten(1)
    C = law.covariance
    standard_error = (C.diagonal() / count).sqrt()
    assert bool(((x.mean(0) - law.mean.flatten()).abs() < 4.5 * standard_error).all())
    spread = torch.outer(
        C.diagonal(), C.diagonal()
    ).sqrt()  # standard errors are at most sqrt(kurtosis) spread / sqrt(count)
    assert bool(((x.T.cov() - C).abs() < 4.5 * math.sqrt(3 / count) * spread).all())


def test_samples_of_a_mixture_come_in_random_order():
    law = MixturePrior(
        torch.tensor([0.5, 0.5]), torch.tensor([[-9.0], [9.0]]), torch.tensor([[[1.0]], [[2.0]]])
    )
    signs = law.sample(2000, generator(6))[:, 0].sign()
    assert (signs[1:] * signs[:-1]).mean().abs() < 0.1  # 4.5 standard errors of independent signs


def dense_conditioning(mean, C, law, matrix, sigma_y, y):
    """Conditioning of the joint Gaussian of (x, y): an independent form of Bayes' rule."""
    n, m = len(mean), len(matrix)
    lift = torch.cat([torch.eye(n, dtype=F64), matrix * law.scale])
    joint = lift @ C @ lift.T + torch.block_diag(
        torch.zeros(n, n, dtype=F64), sigma_y**2 * torch.eye(m, dtype=F64)
    )
    precision = torch.linalg.inv(joint + 1e-13 * torch.eye(n + m, dtype=F64))
    covariance = torch.linalg.inv(precision[:n, :n])
    return mean - covariance @ precision[:n, n:] @ (
        y - matrix @ (mean * law.scale + law.shift)
    ), covariance


@pytest.mark.parametrize("kind", ["full", "shared", "diagonal", "isotropic"])
def test_each_component_is_conditioned_as_a_dense_gaussian(kind):
    law = mixture(kind)
    matrix = torch.randn(2, 3, generator=generator(7), dtype=F64)
    y = torch.tensor([0.4, -1.0], dtype=F64)
    given = law.given(matrix, 0.3, y)
    for k, (mean, C) in enumerate(zip(law.means, law.covariances.expand(4, 3, 3), strict=True)):
        expected = dense_conditioning(mean, C, law, matrix, 0.3, y)
        assert torch.allclose(given.means[k], expected[0], atol=1e-9)
        assert torch.allclose(given.covariances.expand(4, 3, 3)[k], expected[1], atol=1e-9)


def test_bayes_rule_holds_pointwise():
    """log p(x | y) = log p(x) + log p(y | x) - log p(y) at any x.

    It tests weights, means, covariances and evidence together.
    """
    for kind in ("full", "shared", "diagonal", "isotropic"):
        law = mixture(kind)
        matrix = torch.randn(2, 3, generator=generator(8), dtype=F64)
        y = torch.tensor([0.4, -1.0], dtype=F64)
        sigma_y = 0.3
        x = law.sample(10, generator(9))
        r = (y - law.decode(x) @ matrix.T) / sigma_y
        likelihood = -0.5 * (r.square() + math.log(2 * math.pi * sigma_y**2)).sum(1)
        expected = law.log_density(x) + likelihood - law.log_evidence(matrix, sigma_y, y)
        assert torch.allclose(law.given(matrix, sigma_y, y).log_density(x), expected, atol=1e-9)


def test_components_excluded_by_the_data_keep_their_density():
    means = torch.tensor([[-50.0], [50.0]], dtype=F64)
    law = MixturePrior(torch.ones(2, dtype=F64), means, torch.ones(1, dtype=F64)).given(
        torch.ones(1, 1, dtype=F64), 1.0, torch.tensor([50.0], dtype=F64)
    )
    assert math.isclose(float(law.log_weights[0]), -(100.0**2) / 4, rel_tol=1e-12)
    assert bool(law.log_density(means).isfinite().all())


def test_posterior_and_evidence_of_a_mixture_by_quadrature():
    law = MixturePrior(
        torch.tensor([0.3, 0.7], dtype=F64),
        torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=F64),
        spd(2, 2),
        shift=0.2,
        scale=2.0,
    )
    matrix, y, sigma_y = torch.tensor([[1.0, -0.5]], dtype=F64), torch.tensor([0.7], dtype=F64), 0.6
    t = torch.linspace(-9, 9, 1201, dtype=F64)
    grid, cell = torch.cartesian_prod(t, t), (18 / 1200) ** 2
    r = (y - law.decode(grid) @ matrix.T)[:, 0] / sigma_y
    joint = (
        (law.log_density(grid) - 0.5 * r.square()).exp() / (sigma_y * math.sqrt(2 * math.pi)) * cell
    )
    given = law.given(matrix, sigma_y, y)
    mean = joint @ grid / joint.sum()
    centred = grid - mean
    assert math.isclose(
        float(joint.sum().log()), float(law.log_evidence(matrix, sigma_y, y)), abs_tol=1e-10
    )
    assert torch.allclose(given.mean, mean, atol=1e-10)
    assert torch.allclose(
        given.covariance, (joint[:, None] * centred).T @ centred / joint.sum(), atol=1e-10
    )


def test_gaussian_posterior_equals_that_of_a_one_component_mixture():
    law = GaussianPrior(
        torch.randn(2, 3, generator=generator(2), dtype=F64), spd(6), shift=0.5, scale=0.5
    )
    matrix = torch.randn(3, 6, generator=generator(1), dtype=F64)
    y = torch.randn(3, generator=generator(2), dtype=F64)
    mean, covariance = law.posterior(matrix, 0.2, y)
    expected = dense_conditioning(law.mean.flatten(), law.covariance, law, matrix, 0.2, y)
    assert torch.allclose(mean, expected[0], atol=1e-9)
    assert torch.allclose(covariance, expected[1], atol=1e-9)


@pytest.mark.parametrize("make", [field, colour_field])
def test_field_equals_its_dense_gaussian(make):
    law = make()
    y, n = torch.randn(*law.shape, generator=generator(1), dtype=F64), law.mean.numel()
    dense = GaussianPrior(law.mean, law.covariance, **law.units)
    kernel = torch.rand(*law.shape[1:], generator=generator(2), dtype=F64)
    transfer = torch.fft.fft2(kernel)
    unit = torch.eye(n, dtype=F64).reshape(n, *law.shape)
    matrix = torch.fft.ifft2(torch.fft.fft2(unit) * transfer).real.reshape(n, n).T
    given, expected = law.given(transfer, 0.1, y), dense.given(matrix, 0.1, y.flatten())
    x = law.sample(2, generator(3))
    assert torch.allclose(given.mean, expected.mean, atol=1e-10)
    assert torch.allclose(given.covariance, expected.covariance, atol=1e-10)
    assert torch.allclose(given(x, torch.tensor(0.3)), expected(x, torch.tensor(0.3)), atol=1e-10)
    assert torch.allclose(
        law.log_evidence(transfer, 0.1, y), dense.log_evidence(matrix, 0.1, y.flatten()), atol=1e-9
    )


@pytest.mark.parametrize("m", [2, 5])
def test_low_rank_equals_its_dense_gaussian(m):
    """Given 2 numbers, the posterior has rank 4 of 6; given 5, it has full rank."""
    law = low_rank()
    dense = GaussianPrior(law.mean, law.covariance, **law.units)
    matrix = torch.randn(m, 6, generator=generator(1), dtype=F64)
    y = torch.randn(m, generator=generator(4), dtype=F64)
    sigma_y = torch.linspace(0.1, 0.5, m, dtype=F64)
    given, expected = law.given(matrix, sigma_y, y), dense.given(matrix, sigma_y, y)
    x, level = law.sample(3, generator(3)), torch.tensor([0.1, 1.0, 10.0], dtype=F64)
    assert given.basis.shape == (6, min(6, 2 + m))
    for ours, theirs in ((law, dense), (given, expected)):
        assert torch.allclose(ours.mean, theirs.mean, atol=1e-12)
        assert torch.allclose(ours.covariance, theirs.covariance, atol=1e-12)
        assert torch.allclose(ours(x, level), theirs(x, level), atol=1e-12)
        assert torch.allclose(ours.log_density(x, level), theirs.log_density(x, level), atol=1e-11)
    assert torch.allclose(
        law.log_evidence(matrix, sigma_y, y), dense.log_evidence(matrix, sigma_y, y), atol=1e-11
    )


def test_low_rank_needs_no_square_matrix():
    """20 000 unknowns: the dense covariance would take 3 GB."""
    n = 20_000
    law = LowRankPrior.factored(
        torch.zeros(n), torch.randn(n, 3, generator=generator(1)) / 100, torch.tensor(0.01)
    )
    matrix = torch.zeros(2, n)
    matrix[0, :100] = matrix[1, 50:150] = 0.1
    given = law.given(matrix, 0.01, torch.tensor([1.0, -1.0]))
    x = given.sample(2, generator(2))
    assert given(x, torch.tensor(0.3)).shape == (2, n)
    assert torch.allclose((matrix @ given.mean), torch.tensor([1.0, -1.0]), atol=0.05)
    assert bool(given.log_density(x).isfinite().all())


@pytest.mark.parametrize("kind", ["gaussian", "diagonal", "low rank", "field", "colour field"])
def test_functions_of_the_covariance(kind):
    """C^1/2 applied twice is C, and C / (C + sigma^2) is the denoiser."""
    law = (
        GaussianPrior(torch.zeros(2, dtype=F64), torch.tensor([1.0, 0.3], dtype=F64))
        if kind == "diagonal"
        else LAWS[kind]()
    )
    x = torch.randn(2, *law.shape, generator=generator(1), dtype=F64)
    product = (x.flatten(1) @ law.covariance).reshape(x.shape)
    assert torch.allclose(
        law.spectral(law.spectral(x, torch.sqrt), torch.sqrt), product, atol=1e-12
    )
    assert torch.allclose(
        law.mean + law.spectral(x - law.mean, lambda v: v / (v + 0.09)),
        law(x, torch.tensor(0.3, dtype=F64)),
        atol=1e-12,
    )


def test_a_diagonal_law_stays_diagonal_if_each_entry_of_y_measures_one_entry():
    """Entries measured twice, once and never; the posterior equals that of a dense covariance."""
    law = mixture("diagonal")
    matrix = torch.tensor([[0.5, 0, 0], [2.0, 0, 0], [0, 1.0, 0]], dtype=F64)
    y, sigma_y = torch.tensor([0.4, -1.0, 0.3], dtype=F64), torch.tensor([0.3, 0.5, 0.1], dtype=F64)
    dense = MixturePrior(law.weights, law.means, law.covariances, **law.units).given(
        matrix, sigma_y, y
    )
    given = law.given(matrix, sigma_y, y)
    assert given.basis is None
    assert torch.allclose(given.covariances, dense.covariances, atol=1e-12)
    assert torch.allclose(given.means, dense.means, atol=1e-12)
    assert torch.allclose(given.log_weights, dense.log_weights, atol=1e-12)


def test_a_power_law_is_recovered_from_its_draws():
    law = colour_field(192, 192)
    fitted = fit_power_law(list(law.sample(12, generator(1))))
    field = power_law_field(fitted)
    assert torch.allclose(field.mean, law.mean[:, :1, :1], atol=0.05)
    overlap = (field.colours.T @ law.colours).abs()
    assert torch.allclose(overlap, torch.eye(3, dtype=F64), atol=0.1)
    f = torch.linspace(0.02, 0.5, 50, dtype=F64)
    for c, (a, corner, p) in enumerate(
        zip([0.02, 0.01, 0.004], [0.03, 0.06, 0.1], [1.2, 1.0, 0.8], strict=True)
    ):
        ours = fitted["power"][c] * (fitted["corner"][c] ** 2 + f**2) ** -fitted["exponent"][c]
        assert float((ours / (a * (corner**2 + f**2) ** -p)).log().abs().max()) < 0.15


def test_field_takes_any_size_with_one_pixel_variance():
    prior = FieldPrior(torch.tensor(0.0), matern(0.5, 3.0))
    for size in [(8, 8), (7, 12), (33, 16)]:
        assert prior(torch.ones(2, 1, *size), torch.tensor(0.1)).shape == (2, 1, *size)
        assert math.isclose(float(prior.spectrum(*size).mean()), 0.25, rel_tol=1e-12)


def test_exact_posterior_is_in_physical_units():
    law = mixture("full")
    exact = Exact(law, 0.0)
    x = exact.sample(20_000, generator(1))
    assert torch.allclose(exact.mean, law.mean * 0.7 + 0.3)
    assert torch.allclose(x.T.cov(), exact.covariance, atol=0.1)
