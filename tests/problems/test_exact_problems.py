"""Problems with closed-form posteriors: operators, Bayes' rule, published settings, the command."""

from __future__ import annotations

import math

import pytest
import torch

import inverse
from inverse.command.request import Request
from inverse.command.solve import run
from inverse.errors import OptionError
from inverse.measurement.linalg import functional_calculus
from inverse.measurement.operators import adjoint_error, clone
from inverse.result import Result
from inverse.sampling.samplers import SAMPLERS
from inverse.sampling.schedules import schedule

F64 = torch.float64
PROBLEMS = {
    "gaussian": {},
    "gaussian blur": {"side": 4, "view": "blur"},
    "gaussian random": {"side": 4, "view": "random"},
    "mixture": {},
    "mixture 80": {"d": 80, "d_y": 4, "instance": 3},
    "bimodal": {"mass": 0.3},
    "field": {"size": 9},
    "photo-field": {"side": 8},
    "photo-field blur": {"side": 8, "view": "blur"},
    "photo-field pixels": {"side": 8, "view": "pixels"},
    "photo-patches": {"patches": 20},
    "photo-scales": {},
    "unusual-data": {"rank": 4},
    "uneven-mixture": {"d": 6},
}
NOT_GAUSSIAN = ("mixture", "bimodal", "photo-patches", "photo-scales", "uneven-mixture")


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return inverse.get_problem(request.param.split()[0], **PROBLEMS[request.param])


def test_posterior_is_complete_and_in_model_units(problem):
    posterior = problem.posterior(0, dtype=F64)
    assert posterior.linear
    assert posterior.decomposable
    assert posterior.gaussian
    assert posterior.prior.exact
    assert posterior.prior.decode(posterior.prior.encode(posterior.truth)).allclose(posterior.truth)
    assert math.isclose(posterior.sigma_y, problem.sigma_y)
    again = problem.posterior(y=posterior.y[0], dtype=F64)
    assert again.y.equal(posterior.y)
    assert again.shape == posterior.shape


def test_operator_has_its_adjoint_and_singular_values(problem):
    shape = problem.posterior(0).shape
    physics = clone(problem.operator(shape), "cpu", F64)
    v = physics.A(torch.randn(2, *shape, generator=inverse.seeded(1), dtype=F64))
    assert adjoint_error(physics, shape) < 1e-12
    assert functional_calculus(physics, v, lambda lam, like: lam + 0 * like.real).allclose(
        physics.A(physics.A_adjoint(v)), atol=1e-10
    )


def test_exact_posterior_obeys_bayes_rule(problem):
    """log p(x) + log p(y | x) - log p(x | y) = log p(y) at every x, in units of the Posterior."""
    posterior = problem.posterior(1, dtype=F64)
    exact, prior = problem.exact(posterior.y), posterior.prior
    law = prior if len(prior.shape) == 1 or prior.shape[-1] else prior.sized(*posterior.shape[-2:])
    x = law.sample(5, inverse.seeded(2))
    likelihood = problem.noise(posterior.shape).log_prob(posterior.y, posterior.A(x))
    # with inpainting C is singular to rounding, and densities do not exist
    if getattr(problem, "view", "") != "inpainting":
        assert (law.log_density(x) + likelihood - exact.law.log_density(x)).allclose(
            torch.tensor(exact.log_evidence, dtype=F64), rtol=1e-7, atol=1e-5
        )
    assert exact.mean.shape == posterior.shape


def test_truths_are_distributed_as_posterior_samples(problem):
    """The score (x - mean)^T C^-1 (x - mean) of the truth is chi-square for Gaussian posteriors."""
    if problem.name in NOT_GAUSSIAN:
        return
    scores = []
    for i, truth in enumerate(problem.truths()):
        exact = problem.exact(problem.posterior(truth, seed=i, dtype=F64).y)
        error = (truth - exact.mean).flatten()
        variance, basis = torch.linalg.eigh(exact.covariance)
        keep = variance > 1e-9 * variance.max()
        scores.append(((basis.T @ error)[keep] ** 2 / variance[keep]).mean())
    n = len(scores) * int(keep.sum())
    assert abs(float(torch.stack(scores).mean()) - 1) < 4 * math.sqrt(2 / n)


def test_uneven_noise_is_that_of_whitened_data():
    problem = inverse.get_problem("unusual-data", sigma_y=0.02, spread=25.0)
    posterior = problem.posterior(0, dtype=F64)
    sigmas = posterior.noise.sigma.flatten()
    assert math.isclose(float(sigmas[-1] / sigmas[0]), 25.0)
    white = problem.law().given(
        problem.matrix() / sigmas[:, None], 1.0, posterior.y.flatten() / sigmas
    )
    assert problem.exact(posterior.y).law.covariance.allclose(white.covariance, atol=1e-12)


def test_without_data_the_posterior_is_the_prior():
    problem = inverse.get_problem("unusual-data", rank=0)
    assert problem.matrix().abs().max() == 0
    exact = problem.exact(problem.posterior(0, dtype=F64).y)
    assert exact.law.covariance.allclose(problem.law().covariance, atol=1e-12)


@pytest.mark.parametrize("view", ["reduction", "blur", "pixels"])
def test_the_large_field_agrees_with_its_covariance_matrix(view):
    """Draws have the variances within 5 standard errors, in each of 64 Fourier coefficients."""
    problem = inverse.get_problem("photo-torus", side=8, view=view)
    posterior = problem.posterior(0, dtype=F64)
    assert adjoint_error(clone(problem.operator((1, 8, 8)), "cpu", F64), (1, 8, 8)) < 1e-12
    unit = torch.eye(64, dtype=F64).reshape(64, 1, 8, 8)
    A = posterior.operator.A(unit).flatten(1).T
    seen = A.abs().sum(1) > 0
    dense = inverse.get_problem("photo-field", side=8).law()
    y = posterior.y.flatten()[seen]
    law, exact = dense.given(A[seen], problem.sigma_y, y), problem.exact(posterior.y[0])
    assert exact.mean.allclose(law.decode(law.mean), atol=1e-10)
    evidence = float(dense.log_evidence(A[seen], problem.sigma_y, y))
    assert math.isclose(exact.log_evidence, evidence, rel_tol=1e-8)
    F = torch.fft.fft2(unit, norm="ortho").flatten(1)
    variances = (F.mT.conj() @ law.covariance.to(F.dtype) @ F).diagonal().real
    spectrum = exact.law.spectrum(8, 8).flatten()
    assert spectrum.allclose(variances, atol=1e-10)
    x = torch.fft.fft2(exact.law.sample(4000, inverse.seeded("torus")), norm="ortho").flatten(1)
    assert ((x.var(0) / spectrum - 1).abs() < 5 * math.sqrt(2 / 4000)).all()


def test_octaves_with_random_contrast_have_heavy_tails_and_the_variance_of_photographs():
    """A coefficient's kurtosis is 3 times that of a Gaussian: E s^4 with E s^2 = 1."""
    law = inverse.get_problem("photo-scales").law()
    gaussian = inverse.get_problem("photo-field", side=8).law()
    assert law.covariance.allclose(gaussian.covariance, atol=1e-12)
    ratio = law.variances[:, -1] / (law.weights @ law.variances[:, -1])
    assert math.isclose(float(law.weights @ ratio**2), 0.2 * 16 + 0.8 * 0.25**2, rel_tol=1e-9)


def test_a_sampler_with_many_steps_draws_from_the_posterior():
    problem = inverse.get_problem("bimodal", mass=0.3)
    exact = problem.exact(torch.tensor([0.2]))
    x = 40 * torch.randn(4000, 2, generator=inverse.seeded(3), dtype=F64)
    *_, x = SAMPLERS["dpmpp-3m"](exact.law, x, schedule("karras", 60, 0.002, 40.0), None)
    n = len(x)
    assert abs(float((x[:, 0] > 0).double().mean()) - 0.3) < 4 * math.sqrt(0.21 / n)
    assert ((x.mean(0) - exact.mean).abs() < 4 * (exact.covariance.diagonal() / n).sqrt()).all()
    assert x.T.cov().allclose(exact.covariance, atol=4 * math.sqrt(2 / n))


@pytest.mark.parametrize("y", [-0.5, 0.0, 0.9])
def test_a_measurement_moves_the_modes_and_keeps_their_masses(y):
    problem = inverse.get_problem("bimodal", mass=0.3)
    law = problem.exact(torch.tensor([y])).law
    gain = problem.correlation * problem.std**2 / (problem.std**2 + problem.sigma_y**2)
    assert law.weights.allclose(torch.tensor([0.3, 0.7], dtype=F64), atol=1e-12)
    assert law.means[:, 0].allclose(torch.tensor([1 + gain * y, -1 - gain * y], dtype=F64))


@pytest.mark.parametrize(("d", "d_y"), [(8, 1), (80, 2), (800, 4)])
def test_mixture_has_its_published_settings(d, d_y):
    problem = inverse.get_problem("mixture", d=d, d_y=d_y)
    law, A = problem.law(), problem.matrix()
    s = torch.linalg.svdvals(A)
    assert law.means.shape == (25, d)
    assert (law.means * law.scale).abs().max() == 16
    assert (law.variances * law.scale**2).allclose(torch.ones(1, d, dtype=F64))
    assert A.shape == (d_y, d)
    assert (s <= 1).all()
    assert 0 < problem.sigma_y < s.max()
    assert inverse.get_problem("mixture", d=d, d_y=d_y, instance=1).sigma_y != problem.sigma_y
    exact = problem.exact(problem.posterior(0, dtype=F64).y)
    assert exact.sample(3, inverse.seeded(0)).shape == (3, d)


def test_field_is_the_same_law_at_any_size():
    problem = inverse.get_problem("field")
    for shape in [(1, 32, 48), (1, 33, 17)]:
        posterior = problem.posterior(torch.rand(shape, generator=inverse.seeded(0)))
        assert problem.exact(posterior.y).mean.shape == shape


IMPOSSIBLE = [
    ("gaussian", {"side": 1000}),
    ("mixture", {"d": 7}),
    ("bimodal", {"sigma_y": 0.0}),
    ("field", {"width": -1.0}),
]


@pytest.mark.parametrize(("name", "options"), IMPOSSIBLE)
def test_impossible_options_are_refused(name, options):
    with pytest.raises(OptionError, match=name):
        inverse.get_problem(name, **options)


def test_prior_has_the_requested_precision():
    problem = inverse.get_problem("bimodal")
    for dtype in (torch.float32, F64):
        posterior = problem.posterior(0, dtype=dtype)
        assert posterior.prior.means.dtype == dtype
        assert posterior.denoise(torch.zeros(1, 2, dtype=dtype), 0.5).dtype == dtype


def test_bimodal_runs_from_the_command(tmp_path, capsys):
    run(Request("bimodal", "dps", steps=20, samples=8, out=tmp_path))
    result = Result.load(tmp_path / "result.h5")
    assert result.samples.shape == (1, 8, 2)
    assert result.provenance["prior"] == "MixturePrior"
    assert capsys.readouterr().out.strip().endswith(str(tmp_path))
