"""Noise models: densities compared with torch.distributions, moments of draws, error messages."""

import math

import pytest
import torch
from conftest import normal
from scipy.stats import poisson

import inverse
from inverse.errors import NoiseError
from inverse.measurement.noise import likelihood_of

ROUNDING = {"rtol": 1e-12, "atol": 1e-12}
SHAPE = (3, 4, 5)


def positive(*shape, seed=0):
    return normal(*shape, seed=seed).square() + 0.1


# --- densities --------------------------------------------------------------------------------


def test_gaussian_log_prob_is_the_normal_density():
    y, clean = normal(2, *SHAPE), normal(2, *SHAPE, seed=1)
    expected = torch.distributions.Normal(clean, 0.3).log_prob(y).flatten(1).sum(1)
    torch.testing.assert_close(inverse.GaussianNoise(0.3).log_prob(y, clean), expected, **ROUNDING)


def test_gaussian_log_prob_with_a_sigma_for_each_entry():
    y, clean, sigma = normal(2, *SHAPE), normal(2, *SHAPE, seed=1), positive(*SHAPE, seed=2)
    expected = torch.distributions.Normal(clean, sigma).log_prob(y).flatten(1).sum(1)
    torch.testing.assert_close(
        inverse.GaussianNoise(sigma).log_prob(y, clean), expected, **ROUNDING
    )


def test_unobserved_entries_carry_no_likelihood():
    y, clean, seen = normal(2, *SHAPE), normal(2, *SHAPE, seed=1), normal(4, 5, seed=2) > 0
    expected = (torch.distributions.Normal(clean, 0.3).log_prob(y) * seen).flatten(1).sum(1)
    torch.testing.assert_close(
        inverse.GaussianNoise(0.3, observed=seen).log_prob(y, clean), expected, **ROUNDING
    )


def test_unobserved_entries_carry_no_noise():
    clean, seen = normal(2, *SHAPE), normal(4, 5, seed=2) > 0
    y = inverse.GaussianNoise(0.3, observed=seen).sample(clean, inverse.seeded(0))
    assert torch.equal((y != clean), seen.expand_as(y))


def test_chi_square_is_the_mean_squared_residual_of_the_observed_entries():
    y, clean, seen = normal(2, *SHAPE), normal(2, *SHAPE, seed=1), normal(4, 5, seed=2) > 0
    expected = torch.stack([((y - clean) / 0.3)[i][:, seen].square().mean() for i in range(2)])
    torch.testing.assert_close(
        inverse.GaussianNoise(0.3, observed=seen).chi_square(y, clean), expected, **ROUNDING
    )


def test_poisson_log_prob_is_the_log_probability_of_the_photons():
    """With all terms, against SciPy, in float64."""
    gain, photons = 0.05, torch.poisson(20 * positive(2, *SHAPE), generator=inverse.seeded(0))
    clean = positive(2, *SHAPE, seed=1)
    expected = torch.from_numpy(poisson.logpmf(photons.numpy(), (clean / gain).numpy()))
    torch.testing.assert_close(
        inverse.PoissonNoise(gain).log_prob(photons * gain, clean),
        expected.flatten(1).sum(1),
        rtol=1e-10,
        atol=0,
    )


def test_poisson_probabilities_of_all_counts_sum_to_one():
    k = torch.arange(200, dtype=torch.float64)[:, None]
    log_probs = inverse.PoissonNoise(0.3).log_prob(0.3 * k, torch.full_like(k, 0.3 * 7))
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_poisson_log_prob_of_zero_photons_from_darkness_is_zero():
    dark = torch.zeros(1, *SHAPE, dtype=torch.float64)
    assert inverse.PoissonNoise(0.1).log_prob(dark, dark).item() == 0


def test_laplace_log_prob_is_the_laplace_density():
    """With its normaliser, in float64."""
    y, clean = normal(2, *SHAPE), normal(2, *SHAPE, seed=1)
    expected = torch.distributions.Laplace(clean, 0.3).log_prob(y).flatten(1).sum(1)
    torch.testing.assert_close(inverse.LaplaceNoise(0.3).log_prob(y, clean), expected, **ROUNDING)


# --- draws ------------------------------------------------------------------------------------

MODELS = {
    "gaussian": (inverse.GaussianNoise(0.3), lambda clean: torch.full_like(clean, 0.09), 3.0),
    "poisson": (inverse.PoissonNoise(0.2), lambda clean: 0.2 * clean, 3.2),
    "laplace": (inverse.LaplaceNoise(0.3), lambda clean: torch.full_like(clean, 0.18), 6.0),
}
"""Model, its variance, and a bound of its kurtosis (Poisson's is 3 + 1 / photons, 10 photons)."""


@pytest.mark.parametrize(("noise", "variance", "kurtosis"), MODELS.values(), ids=MODELS)
def test_draws_have_the_mean_and_variance_of_the_law(noise, variance, kurtosis):
    """100000 draws; both moments within 4 standard errors."""
    n = 100_000
    clean = torch.full((1, n), 2.0, dtype=torch.float64)
    error = noise.sample(clean, inverse.seeded("draws")) - clean
    v = variance(clean)[0, 0]
    assert error.mean().abs() < 4 * (v / n).sqrt()
    assert (error.square().mean() - v).abs() < 4 * v * ((kurtosis - 1) / n) ** 0.5


@pytest.mark.parametrize("noise", [m[0] for m in MODELS.values()], ids=MODELS)
def test_sampling_does_not_modify_the_clean_measurement(noise):
    clean = positive(2, *SHAPE)
    before = clean.clone()
    noise.sample(clean, inverse.seeded(0))
    assert torch.equal(clean, before)


@pytest.mark.usefixtures("unchanged_randomness")
@pytest.mark.parametrize("noise", [m[0] for m in MODELS.values()], ids=MODELS)
def test_sampling_does_not_touch_the_global_generator(noise):
    noise.sample(positive(2, *SHAPE), inverse.seeded(0))


@pytest.mark.parametrize("noise", [m[0] for m in MODELS.values()], ids=MODELS)
def test_the_same_generator_gives_the_same_draw(noise):
    clean = positive(2, *SHAPE)
    assert torch.equal(
        noise.sample(clean, inverse.seeded(4)), noise.sample(clean, inverse.seeded(4))
    )


def test_laplace_draws_are_finite():
    """A uniform float32 draw is 0 once in 2^24 draws, as with this seed; its logarithm is -inf."""
    assert torch.isfinite(
        inverse.LaplaceNoise(0.3).sample(torch.zeros(1, 4_000_000), inverse.seeded(8))
    ).all()


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf])
def test_an_invalid_sigma_is_refused(sigma):
    with pytest.raises(NoiseError, match="sigma"):
        inverse.GaussianNoise(sigma)


@pytest.mark.parametrize("noise", [inverse.PoissonNoise, inverse.LaplaceNoise])
@pytest.mark.parametrize("parameter", [0.0, -1.0, math.nan])
def test_a_scale_that_is_not_positive_is_refused(noise, parameter):
    with pytest.raises(NoiseError, match="must be positive"):
        noise(parameter)


def test_noiseless_measurements_have_no_density():
    y = normal(1, *SHAPE)
    with pytest.raises(NoiseError, match="sigma = 0 has no density"):
        inverse.GaussianNoise(0.0).log_prob(y, y)


def test_a_negative_photon_rate_is_refused():
    with pytest.raises(NoiseError, match="must not be negative"):
        inverse.PoissonNoise(0.1).log_prob(
            positive(1, 4), torch.tensor([[1.0, 2.0, -0.1, 1.0]], dtype=torch.float64)
        )


def test_a_rate_negative_by_rounding_is_zero():
    zero = torch.zeros(1, 4, dtype=torch.float64)
    almost = torch.full((1, 4), -1e-9, dtype=torch.float64)
    assert torch.equal(
        inverse.PoissonNoise(0.1).log_prob(zero, almost), torch.zeros(1, dtype=torch.float64)
    )


# --- deepinv's noise models -------------------------------------------------------------------

DEEPINV = {
    "gaussian": (lambda p: p.GaussianNoise(sigma=0.3), inverse.GaussianNoise(0.3)),
    "poisson": (lambda p: p.PoissonNoise(gain=0.25), inverse.PoissonNoise(0.25)),
    "laplace": (lambda p: p.LaplaceNoise(b=0.3), inverse.LaplaceNoise(0.3)),
}


@pytest.mark.parametrize(("make", "expected"), DEEPINV.values(), ids=DEEPINV)
def test_likelihood_of_a_deepinv_model(make, expected):
    """deepinv keeps its parameters in float32, hence 1e-6."""
    y, clean = positive(2, *SHAPE), positive(2, *SHAPE, seed=1)
    torch.testing.assert_close(
        likelihood_of(make(inverse.physics)).log_prob(y, clean),
        expected.log_prob(y, clean),
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize(("make", "expected"), DEEPINV.values(), ids=DEEPINV)
def test_deepinv_draws_have_the_variance_of_the_likelihood(make, expected):
    """The variances of 200000 draws of each agree within 5 %, about 8 standard errors."""
    clean = torch.full((1, 200_000), 2.0)
    model = make(inverse.physics)
    model.rng = torch.Generator().manual_seed(1)
    theirs = (model(clean) - clean).var()
    ours = (expected.sample(clean, inverse.seeded(0)) - clean).var()
    assert abs(theirs / ours - 1) < 0.05


def test_zero_noise_is_gaussian_with_sigma_zero():
    assert likelihood_of(inverse.physics.ZeroNoise()).noiseless


def test_an_inverse_noise_model_is_returned_unchanged():
    noise = inverse.LaplaceNoise(0.1)
    assert likelihood_of(noise) is noise


@pytest.mark.parametrize("name", ["UniformNoise", "SaltPepperNoise", "LogPoissonNoise"])
def test_an_unknown_noise_model_is_named(name):
    with pytest.raises(NoiseError, match=name):
        likelihood_of(getattr(inverse.physics, name)())


def test_unnormalised_poisson_is_refused():
    with pytest.raises(NoiseError, match="normalize=True"):
        likelihood_of(inverse.physics.PoissonNoise(gain=0.1, normalize=False))
