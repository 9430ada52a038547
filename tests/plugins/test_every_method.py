"""What every registered method guarantees; a new plug-in is tested without being named in a test.

Runs are shortened: an identity that holds for six steps holds for a thousand.
"""

import dataclasses
import functools

import pytest
import torch
from conftest import draws, image_prior, normal, problems

import inverse
from inverse.measurement import operators
from inverse.method import CLAIMS, NEEDS, Weighted
from inverse.priors.prior import RescaledPrior
from inverse.registry.discovery import registry
from inverse.registry.options import options
from inverse.sampling.traits import traits
from inverse.seeding import Generators
from inverse_problems.ct.geometry import Geometry
from inverse_problems.ct.projector import Projector, integrals_operator

METHODS = {name: entry.thing for name, entry in registry().table("inverse_methods").items()}
every_method = pytest.mark.parametrize("name", METHODS)
CANDIDATES = ("blur", "blur-circular", "inpainting")
SHAPE = (3, 8, 8)
ROUNDING = {"rtol": 0, "atol": 1e-10}
"""Float64 sums have another order in another batch: 1e-16 each, amplified by the solves."""


def quick(name, **more):
    """The method with few steps of each kind."""
    limits = {
        o.name: 6 if o.name == "steps" else 3
        for o in options(METHODS[name])
        if "steps" in o.name and isinstance(o.default, int)
    }
    limits |= {o.name: 2 for o in options(METHODS[name]) if o.name in ("repeats", "draws")}
    short = {key: min(limit, getattr(METHODS[name], key)) for key, limit in limits.items()}
    if order(name) == 2:
        short["steps"] = (
            20  # in 6 steps over four decades of sigma, Heun amplifies rounding too much
        )
    return inverse.get_method(name, **{**short, **more})


def order(name):
    """The order of the method's sampler, or None if it has none."""
    sampler = getattr(METHODS[name], "sampler", None)
    declared = sampler and traits(inverse.get_sampler(sampler))
    return declared and declared.order


def posterior_for(method, truths, prior, dtype=torch.float64, **options):
    """A posterior of the first problem on which the method runs; without one, skip the test."""
    reason = None
    for candidate in CANDIDATES:
        posterior = problems()[candidate].posterior(truths, prior=prior, dtype=dtype, **options)
        reason = method.unsupported(posterior)
        if reason is None:
            return posterior
    for noise in (inverse.GaussianNoise(0.1), inverse.PoissonNoise(1.0)):
        posterior = scanned(truths, prior, dtype, noise)
        if method.unsupported(posterior) is None and not options:
            return posterior
    pytest.skip(reason)


def scanned(truths, prior, dtype, noise):
    """The posterior of line integrals of every channel, for methods of tomography and gridding."""
    projector = Projector(Geometry(torch.arange(5).double().numpy() / 2, 8, 4, 8))
    operator = integrals_operator(projector, 1.0)
    operator.__class__ = gridded(type(operator))
    y = operator.A(truths.to(dtype))
    return inverse.Posterior(prior, operator, y, noise, dtype=dtype, truth=truths)


@functools.cache
def gridded(base):
    """The operator with a stand-in for the density-compensated adjoint."""
    return type("Gridded", (base,), {"gridding": lambda self, y: self.A_adjoint(y) / self.mu**2})


@pytest.fixture(scope="module")
def prior():
    return image_prior()


@pytest.fixture(scope="module")
def truths(prior):
    return draws(prior, 16)


def decibel(error, signal):
    return -10 * torch.log10(error.square().mean() / signal.var())


# --- the batch --------------------------------------------------------------------------------


@every_method
def test_an_image_does_not_depend_on_its_batch(name, prior, truths):
    """Image 5 of 16, two samples each, against image 5 solved alone."""
    method = quick(name)
    together = inverse.solve(posterior_for(method, truths, prior), method, samples=2)
    whole = posterior_for(method, truths, prior)
    alone = inverse.Posterior(prior, whole.operator, whole.y[5:6], whole.noise, dtype=torch.float64)
    single = inverse.solve(alone, method, samples=2, first_image=5)
    torch.testing.assert_close(single.samples[0], together.samples[5], **ROUNDING)


@every_method
def test_an_image_does_not_depend_on_its_batch_with_a_network_in_float32(name, network_prior):
    """At least 50 dB: 1e-7 of single precision, amplified by the steps of a random network.

    `deepinv-moment-matching` amplifies it most, to 59.8 dB on a processor without bf16.
    """
    method, truths = quick(name), torch.rand(4, *SHAPE, generator=inverse.seeded("truths"))
    whole = posterior_for(method, truths, network_prior, torch.float32)
    together = inverse.solve(whole, method).samples[2]
    alone = inverse.Posterior(network_prior, whole.operator, whole.y[2:3], whole.noise, shape=SHAPE)
    single = inverse.solve(alone, method, first_image=2).samples[0]
    assert decibel(single - together, together) > 50


ONCE_PER_BATCH = 3 * 2
"""Rows that a batch of four saves by evaluating an operator twice on one row for all of them."""


@every_method
def test_the_cost_of_a_sample_does_not_depend_on_the_batch(name, prior, truths):
    """Copies of one image stop together: a batch of four costs four times what one of them costs.

    An evaluation of the operator on one row for the whole batch, such as a norm, is counted once.
    """
    method = quick(name)
    batch, one = (
        inverse.solve(
            posterior_for(
                method, truths[:1].expand(n, *truths.shape[1:]), prior, first_image=[0] * n
            ),
            method,
            first_image=[0] * n,
        ).cost
        for n in (4, 1)
    )
    assert (batch.rows, batch.nfe, batch.vjp) == (4 * one.rows, one.nfe, one.vjp)
    for count in ("A_rows", "A_adjoint_rows"):
        assert 0 <= 4 * getattr(one, count) - getattr(batch, count) <= ONCE_PER_BATCH


# --- seeds ------------------------------------------------------------------------------------


@every_method
def test_the_same_seed_gives_the_same_bits(name, prior, truths):
    method = quick(name)
    posterior = posterior_for(method, truths[:2], prior)
    first, second = (inverse.solve(posterior, method, samples=2, seed=3).samples for _ in range(2))
    assert torch.equal(first, second)


@every_method
def test_seeds_0_and_1_differ_where_samples_do(name, prior, truths):
    """Seeds differ where two samples of one run do; 0 is a seed like any other."""
    method = quick(name)
    posterior = posterior_for(method, truths[:1], prior)
    zero, one = (inverse.solve(posterior, method, samples=2, seed=s).samples[0] for s in (0, 1))
    if torch.allclose(zero, one, rtol=0, atol=1e-9):
        assert torch.allclose(zero[0], zero[1], rtol=0, atol=1e-9)
        assert METHODS[name].claim in ("point estimate", "none")


# --- no side effects -----------------------------------------------------------------------


@every_method
@pytest.mark.usefixtures("unchanged_randomness")
def test_the_callers_tensors_are_bit_equal_after_a_run(name, prior, truths):
    """y, truth, the operator's parameters and the prior's weights; and torch's global generator."""
    method = quick(name)
    chosen = posterior_for(method, truths[:2], prior)
    operator = operators.clone(chosen.operator, "cpu", torch.float64)
    y = chosen.y.clone()
    truth = chosen.truth.clone()
    posterior = inverse.Posterior(
        prior, operator, y, chosen.noise, truth=truth, dtype=torch.float64
    )
    kept = {
        "y": y,
        "own y": posterior.y,
        "truth": truth,
        **{f"operator.{k}": v for k, v in operator.state_dict().items()},
        **prior.state_dict(),
    }
    before = {k: v.clone() for k, v in kept.items()}
    inverse.solve(posterior, method, samples=2)
    assert [k for k, v in kept.items() if not torch.equal(v, before[k])] == []
    assert not any(p.grad is not None for p in prior.parameters())


@every_method
def test_a_network_is_left_as_it_was(name, network_prior):
    method = quick(name)
    before = {k: v.clone() for k, v in network_prior.state_dict().items()}
    inverse.solve(
        posterior_for(
            method, torch.rand(1, *SHAPE, generator=inverse.seeded(0)), network_prior, torch.float32
        ),
        method,
    )
    assert all(torch.equal(v, before[k]) for k, v in network_prior.state_dict().items())
    assert not any(p.grad is not None or p.requires_grad for p in network_prior.parameters())


@every_method
def test_two_runs_on_one_posterior_do_not_influence_each_other(name, prior, truths):
    method = quick(name)
    posterior = posterior_for(method, truths[:1], prior)
    expected = inverse.solve(posterior, method, seed=1).samples
    inverse.solve(posterior, method, samples=3, seed=2)
    assert torch.equal(inverse.solve(posterior, method, seed=1).samples, expected)


# --- the answer -------------------------------------------------------------------------------


@every_method
def test_the_last_iterate_is_the_result(name, prior, truths):
    method = quick(name)
    posterior = posterior_for(method, truths[:2], prior)
    with torch.no_grad():
        *_, last = method.run(posterior.rows(2), 2, Generators.for_samples(4, 2, 2))
    x = last.x if isinstance(last, Weighted) else last
    assert torch.equal(
        inverse.solve(posterior, method, samples=2, seed=4).samples.flatten(0, 1), prior.decode(x)
    )


@every_method
def test_iterates_are_finite_and_of_the_unknowns_shape(name, prior, truths):
    method = quick(name)
    rows = posterior_for(method, truths[:2], prior).rows(2)
    with torch.no_grad():
        for iterate in method.run(rows, 2, Generators.for_samples(0, 2, 2)):
            x = iterate.x if isinstance(iterate, Weighted) else iterate
            assert x.shape == (4, *SHAPE)
            assert x.dtype == torch.float64
            assert torch.isfinite(x).all()


@every_method
def test_iterates_are_not_written_into_later(name, prior, truths):
    """An observer that keeps iterates must not see them change."""
    method = quick(name)
    rows, kept = posterior_for(method, truths[:1], prior).rows(1), []
    with torch.no_grad():
        for iterate in method.run(rows, 1, Generators.for_samples(0, 1, 1)):
            x = iterate.x if isinstance(iterate, Weighted) else iterate
            kept.append((x, x.clone()))
    assert all(torch.equal(x, copy) for x, copy in kept)


@every_method
def test_total_is_the_number_of_iterates(name, prior, truths):
    method = quick(name)
    if method.total is None:
        pytest.skip("unknown beforehand")
    rows = posterior_for(method, truths[:1], prior).rows(1)
    with torch.no_grad():
        assert len(list(method.run(rows, 1, Generators.for_samples(0, 1, 1)))) == method.total


@every_method
def test_one_step_is_enough_to_run(name, prior, truths):
    if "steps" not in {o.name for o in options(METHODS[name])}:
        pytest.skip("no steps")
    try:
        method = quick(name, steps=1)
    except inverse.InverseError as refusal:
        pytest.skip(str(refusal))
    assert torch.isfinite(
        inverse.solve(posterior_for(method, truths[:1], prior), method).samples
    ).all()


@every_method
def test_a_nonlinear_operator_is_solved_or_refused(name, prior, truths):
    """A saturating detector, whose slope is bounded: no explicit step may diverge."""
    method, saturating = quick(name), inverse.operator(torch.tanh, shape=SHAPE, linear=False)
    y = truths[:2].tanh() + 0.05 * normal(2, *SHAPE)
    posterior = inverse.Posterior(
        prior, saturating, y, inverse.GaussianNoise(0.05), dtype=torch.float64
    )
    if reason := method.unsupported(posterior):
        pytest.skip(reason)
    assert torch.isfinite(inverse.solve(posterior, method).samples).all()


@every_method
@pytest.mark.parametrize(
    "noise",
    [inverse.PoissonNoise(0.01), inverse.LaplaceNoise(0.05), inverse.GaussianNoise(0.0)],
    ids=["poisson", "laplace", "noiseless"],
)
def test_another_noise_is_solved_or_refused(name, noise, prior, truths):
    """A method may raise NoiseError under Poisson noise, where an iterate is negative."""
    method = quick(name)
    operator = problems()["blur-circular"].operator(SHAPE)
    clean = problems(0.0)["blur-circular"].measure(truths[:2].clamp(0.05, 1), inverse.seeded(0))
    posterior = inverse.Posterior(
        prior, operator, noise.sample(clean, inverse.seeded(1)), noise, dtype=torch.float64
    )
    if reason := method.unsupported(posterior):
        pytest.skip(reason)
    try:
        assert torch.isfinite(inverse.solve(posterior, method).samples).all()
    except inverse.InverseError as error:
        assert isinstance(noise, inverse.PoissonNoise), error  # noqa: PT017


# --- units ------------------------------------------------------------------------------------


def native(prior, a, b):
    """The same law in native units a x + b, brought back to model units."""
    units = {
        "shift": prior.shift - prior.scale * b / a,
        "scale": prior.scale / a,
        "sigma_min": a * prior.sigma_min,
        "sigma_max": a * prior.sigma_max,
    }
    return RescaledPrior(
        inverse.GaussianPrior(a * prior.mean + b, a**2 * prior.covariance, **units), a, b
    )


RANGES = {
    "[-1, 1]": (1.0, 0.0),
    "[0, 1]": (0.5, 0.5),
    "standardised": (0.5 / 0.17, (0.5 - 0.43) / 0.17),
}


@every_method
def test_the_native_range_of_a_prior_does_not_matter(name, prior, truths):
    """The same network in [-1, 1], [0, 1] or standardised pixels."""
    method = quick(name)
    results = []
    for a, b in RANGES.values():
        posterior = posterior_for(method, truths[:2], native(prior, a, b))
        results.append(inverse.solve(posterior, method, samples=2).samples)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-8)


def scaled(posterior, factor):
    """The same measurement in units in which it is `factor` times as large."""
    operator = operators.clone(posterior.operator, "cpu", torch.float64)
    if hasattr(operator, "mu"):
        operator.mu *= factor
    else:
        (operator.mask if posterior.decomposable else operator.spectrum).mul_(factor)
    noise = inverse.GaussianNoise(factor * posterior.noise.sigma, observed=posterior.noise.observed)
    return inverse.Posterior(
        posterior.prior, operator, factor * posterior.y, noise, dtype=torch.float64
    )


@every_method
def test_the_units_of_y_do_not_matter(name, prior, truths):
    """y in 0..255 with sigma_y and A scaled alike."""
    method = quick(name)
    posterior = posterior_for(method, truths[:2], prior)
    if method.units:
        pytest.skip(method.units)
    in_unit_range, in_bytes = (
        inverse.solve(p, method, samples=2).samples for p in (posterior, scaled(posterior, 255.0))
    )
    torch.testing.assert_close(in_bytes, in_unit_range, rtol=0, atol=1e-5)


# --- declarations -----------------------------------------------------------------------------


@every_method
def test_a_method_declares_what_it_is(name):
    cls = METHODS[name]
    assert cls.name == name
    assert cls.claim in CLAIMS
    assert set(cls.needs) <= set(NEEDS)
    assert cls.undeclared() == []
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen


@every_method
def test_every_option_is_documented(name):
    assert [o.name for o in options(METHODS[name]) if not o.help] == []


@every_method
def test_every_method_runs_on_one_of_these_problems(name, prior, truths):
    """Otherwise the tests above would skip the method silently."""
    if any(o.name == "weights" and o.default is None for o in options(METHODS[name])):
        pytest.skip(f"{name} needs a file of weights; tests/plugins/test_pretrained.py has one")
    reasons = [
        METHODS[name]().unsupported(
            problems()[c].posterior(truths[:1], prior=prior, dtype=torch.float64)
        )
        for c in CANDIDATES
    ]
    for noise in (inverse.GaussianNoise(0.1), inverse.PoissonNoise(1.0)):
        posterior = scanned(truths[:1], prior, torch.float64, noise)
        reasons.append(METHODS[name]().unsupported(posterior))
    assert None in reasons, reasons
