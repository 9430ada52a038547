"""Emission tomography: the law of the counts, expectation maximisation, files and refusals."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import dense, matrix_operator, normal, smooth_covariance

import inverse
from inverse.measurement.operators import adjoint_error, clone
from inverse.priors.loading import save_prior
from inverse.priors.networks.unet import UNetConfig

pytest_plugins = "cli_fixtures"
F64 = torch.float64
FLAT = {"shift": 0.5, "scale": 0.5}


def blob(size: int) -> torch.Tensor:
    """A smooth slice with a hot spot, (1, size, size)."""
    t = torch.arange(size, dtype=F64) - size // 2
    r = (t[:, None] ** 2 + t**2).sqrt() / (size / 2)
    spot = torch.exp(-((t[:, None] - size / 8) ** 2 + t**2) / size)
    return (0.4 / (1 + ((r - 0.7) * 20).exp()) + 0.5 * spot)[None]


def test_the_adjoint_is_exact_and_the_background_is_added():
    problem = inverse.get_problem("pet", views=9)
    operator = clone(problem.operator((1, 16, 16)), "cpu", F64)
    assert adjoint_error(operator, (1, 16, 16)) < 1e-13
    prompts = inverse.get_problem("pet", views=9, likelihood="poisson").operator((1, 16, 16))
    x = blob(16)[None]
    scan = problem.scan((1, 16, 16))
    torch.testing.assert_close(prompts.A(x), operator.A(x) + scan.background)
    torch.testing.assert_close(prompts.A(-x), scan.background.expand_as(prompts.A(x)))


def test_counts_have_the_variance_that_is_stated():
    problem = inverse.get_problem("pet", views=40, total=2e6)
    prior = inverse.FlatPrior((1, None, None), **FLAT)
    truth = blob(48)
    posterior = problem.posterior(truth, prior=prior, dtype=F64)
    clean = posterior.operator.A(problem.prepare(truth)[None])
    z = (posterior.y - clean) / posterior.noise.sigma
    assert float(z.square().mean()) == pytest.approx(1, abs=0.1)
    with pytest.raises(inverse.InverseError, match="solve them one by one"):
        problem.posterior(torch.stack([truth, truth]), prior=prior)


def test_the_score_of_the_counts_is_its_derivative():
    problem = inverse.get_problem("pet", views=5, likelihood="poisson")
    prior = inverse.FlatPrior((1, None, None), **FLAT)
    posterior = problem.posterior(blob(12), prior=prior, dtype=F64)
    x = prior.encode(blob(12)[None] + 0.05)
    A = dense(
        clone(inverse.get_problem("pet", views=5).operator((1, 12, 12)), "cpu", F64), (1, 12, 12)
    )
    ratio = posterior.y / posterior.operator.A(prior.decode(x)) - 1
    inside = posterior.prior.decode(torch.ones(1, 1, 12, 12, dtype=F64)) > 0
    expected = 0.5 * (A.T @ ratio.flatten()) * inside.flatten()
    torch.testing.assert_close(posterior.likelihood_score(x).flatten(), expected)


def test_the_posterior_mean_of_a_gaussian_slice_is_exact():
    """Weighted counts: the mean by Bayes' rule with the dense matrix, within the circle's prior."""
    covariance = smooth_covariance(1, 12, 12)
    mean = torch.full((1, 12, 12), -0.2, dtype=F64)
    prior = inverse.GaussianPrior(mean, covariance, **FLAT, sigma_min=0.01, sigma_max=20.0)
    posterior = inverse.get_problem("pet", views=9, total=2e4).posterior(
        blob(12), prior=prior, dtype=F64
    )
    posterior = posterior.replaced(prior=prior)
    A = dense(posterior.operator, (1, 12, 12))
    law = prior.given(A, posterior.noise.sigma.flatten(), posterior.y.flatten())
    r = posterior.residual(mean[None])
    step = (
        covariance
        @ posterior.A_adjoint(
            posterior.solve_normal(r, lambda x: (covariance @ x.flatten()).reshape(x.shape))
        ).flatten()
    )
    torch.testing.assert_close(mean.flatten() + step, law.mean.flatten(), rtol=1e-3, atol=1e-3)


@pytest.fixture
def counted():
    """A linear operator of positive numbers with Poisson counts, and its matrix."""
    A, shape = normal(30, 12).abs(), (1, 3, 4)
    prior = inverse.FlatPrior((1, None, None), **FLAT)
    y = torch.poisson(20 * A.sum(1), generator=inverse.seeded("counts"))[None]
    noise = inverse.PoissonNoise(1.0)
    operator = matrix_operator(A, shape)
    return inverse.Posterior(prior, operator, y, noise, shape=shape, dtype=F64), A


def test_expectation_maximisation_raises_the_likelihood_and_keeps_the_total(counted):
    posterior, _ = counted
    values = []

    def observe(index, total, x, misfit, nfe):
        values.append(float(posterior.log_likelihood(x)))
        expected = posterior.operator.A(posterior.prior.decode(x))
        torch.testing.assert_close(expected.sum(), posterior.y.sum())
        assert float(posterior.prior.decode(x).min()) >= 0

    inverse.solve(posterior, inverse.get_method("richardson-lucy", steps=30), observers=[observe])
    assert all(b >= a - 1e-9 for a, b in pairwise(values))


def test_one_subset_is_richardson_lucy():
    problem = inverse.get_problem("pet", views=12, likelihood="poisson")
    prior = inverse.FlatPrior((1, None, None), **FLAT)
    posterior = problem.posterior(blob(24), prior=prior, dtype=F64)
    answers = {}
    for name, options in (
        ("richardson-lucy", {"steps": 12}),
        ("osem", {"steps": 12, "subsets": 1}),
        ("subsets", {"steps": 4, "subsets": 3}),
    ):
        method = inverse.get_method("osem" if name == "subsets" else name, **options)
        answers[name] = inverse.solve(posterior, method).mean
    assert torch.equal(answers["osem"], answers["richardson-lucy"])
    # three passes of three subsets are near twelve iterations of all views
    gap = (answers["subsets"] - answers["osem"]).norm() / answers["osem"].norm()
    assert float(gap) < 0.1
    assert float(answers["osem"].min()) >= 0


def test_expectation_maximisation_needs_counts():
    prior = inverse.FlatPrior((3, None, None), **FLAT)
    posterior = inverse.get_problem("denoise").posterior(torch.rand(3, 8, 8), prior=prior)
    with pytest.raises(inverse.InverseError, match="osem needs Poisson noise"):
        inverse.solve(posterior, "osem")


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def pet(command, tmp_path):
    """Run `inverse solve --problem pet --measurement FILE` with an untrained prior."""
    prior = inverse.NetworkPrior.unet(UNetConfig(1, (8, 16), (1, 1), 16), **FLAT)
    save_prior(prior, tmp_path / "grey.safetensors")

    def run(file, *arguments, method="fbp", **options):
        stated = [part for n, v in options.items() for part in ("--problem-option", f"{n}={v}")]
        given = ("solve", "--problem", "pet", "--method", method, "--prior", "grey.safetensors")
        return command(*given, "--measurement", file, *arguments, *stated)

    return run


@pytest.fixture
def counts(tmp_path):
    """Counts (views, detectors) with attenuation, randoms and angles (degree) in an .npz."""
    problem = inverse.get_problem("pet", views=20, total=3e6)
    scan = problem.scan((1, 32, 32))
    drawn = torch.poisson(scan.expected(blob(32)[None]), generator=inverse.seeded("pet"))[0, 0]
    arrays = {
        "data": drawn.numpy(),
        "attenuation": scan.factors[0].numpy(),
        "randoms": scan.background[0].numpy(),
        "theta": np.arange(20) * 9.0,
    }
    np.savez(tmp_path / "counts.npz", **arrays)
    return arrays


@pytest.mark.parametrize(("method", "likelihood"), [("fbp", "gaussian"), ("osem", "poisson")])
def test_counts_of_a_file_are_reconstructed(pet, counts, method, likelihood):
    outcome = pet("counts.npz", method=method, likelihood=likelihood)
    assert outcome.code == 0, outcome.err
    found = inverse.Result.load(outcome.path / "result.h5").mean[0, 0]
    truth = blob(32)[0].float()
    correlation = torch.corrcoef(torch.stack([found.flatten(), truth.flatten()]))[0, 1]
    assert float(correlation) > 0.9


def test_bad_counts_are_refused(pet, counts, tmp_path):
    def refuse(says, changed, **options):
        np.savez(tmp_path / "bad.npz", **(counts | changed))
        before = sorted(tmp_path.rglob("*"))
        pet("bad.npz", **options).refused(says)
        assert sorted(tmp_path.rglob("*")) == before

    refuse("counts are negative", {"data": -counts["data"]})
    refuse("attenuation of shape (19, 32), counts of (20, 32)", {"attenuation": np.ones((19, 32))})
    refuse("the part that leaves the body, from 0 to 1", {"attenuation": 3 * np.ones((20, 32))})
    refuse("the background is negative", {"randoms": -np.ones((20, 32))})
    refuse("background of shape (2,)", {"randoms": np.ones(2)})
    refuse("counts do not exceed the background", {"randoms": 1e9 * np.ones((20, 32))})
    refuse("give one angle for each projection", {"theta": np.arange(7.0)})
    refuse("a range in radians", {"theta": np.deg2rad(counts["theta"])})
    refuse("values are NaN", {"data": counts["data"] * np.nan})
