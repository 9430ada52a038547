"""RED-diff where its answer is known: a Gaussian prior in the plane and one linear measurement.

The expected gradient is linear in mu, so that the mean over many rows obeys an exact recursion
with the fixed point

    mu* = m + (A^T A + R)^-1 A^T (y - A m),    R = lambda E_t[w(s) s (C + s^2)^-1].

At falling levels without noise in y, mu tracks the mode of the smoothed prior under A mu = y.
"""

import itertools
from typing import get_args, get_type_hints

import pytest
import torch
from conftest import matrix_operator, normal

import inverse
from inverse.registry.discovery import registry
from inverse.sampling.schedules import vp_levels

REDDiff = registry().find("inverse_methods", "red-diff")
F64 = torch.float64
WEIGHTS = {
    "linear": lambda s: s,
    "sqrt": lambda s: s.sqrt(),
    "square": lambda s: s**2,
    "log": lambda s: (1 + s).log(),
    "trunc-linear": lambda s: torch.minimum(s, torch.ones_like(s)),
    "power2over3": lambda s: s ** (2 / 3),
    "const": torch.ones_like,
}
ORDERS = ("descending", "ascending", "random")


class Stream(inverse.Generators):
    """One stream for all rows: thousands of them at the price of one."""

    def __init__(self, rows):
        super().__init__([inverse.seeded("rows")] * rows)

    def randn_like(self, x):
        return torch.randn(x.shape, generator=self.rows[0], dtype=x.dtype)


def posterior(variances, A, y, mean=(0.0, 0.0), sigma_y=0.0):
    prior = inverse.GaussianPrior(
        torch.tensor(mean, dtype=F64), torch.diag(torch.tensor(variances, dtype=F64))
    )
    operator = matrix_operator(torch.tensor([A], dtype=F64), (2,))
    return inverse.Posterior(
        prior, operator, torch.tensor([[y]], dtype=F64), inverse.GaussianNoise(sigma_y), dtype=F64
    )


def answers(p, rows, **options):
    """The last mu of so many independent runs: (rows, 2)."""
    with torch.no_grad():
        *_, mu = inverse.get_method("red-diff", **options).run(p.rows(rows), rows, Stream(rows))
    return mu


def fixed_point(p, lam, weight):
    """mu* with the method's levels: those of the VP process, clipped to the prior's range."""
    s = vp_levels().clamp(p.prior.sigma_min, p.prior.sigma_max)[:, None]
    C, m = p.prior.covariance.diagonal(), p.prior.mean
    R = torch.diag((lam * WEIGHTS[weight](s) * s / (C + s**2)).mean(0))
    A = p.operator.A(torch.eye(2, dtype=F64)).T
    return m + torch.linalg.solve(A.T @ A + R, A.T @ (p.y[0] - A @ m))


# --- random order, plain gradient steps -------------------------------------------------------


RANDOM = {"steps": 400, "lr": 0.3, "order": "random", "optimizer": "sgd", "normalise": "sum"}


def test_random_order_ends_at_the_published_fixed_point():
    """(0.5059, 0.4025), to 4 standard errors of 800 runs; clipped levels change its fifth digit."""
    p = posterior((1.0, 0.05), (1.0, 1.0), 1.0)
    mu = answers(p, 800, lambda_=0.25, weight="linear", **RANDOM)
    published = torch.tensor([0.5059, 0.4025], dtype=F64)
    torch.testing.assert_close(fixed_point(p, 0.25, "linear"), published, rtol=0, atol=1e-4)
    assert ((mu.mean(0) - published).abs() < 4 * mu.std(0) / 800**0.5 + 1e-3).all()


STABLE = ("linear", "trunc-linear", "log", "const")
"""Weights with which steps of this length do not diverge, and whose fixed points differ."""


@pytest.mark.parametrize("weight", STABLE)
def test_the_mean_of_random_order_gradient_descent_is_the_fixed_point(weight):
    """400 steps of 0.3 forget the start (log: (1 - 0.3 0.075)^400 = 1e-4).

    The rest is Monte Carlo error: 4 standard errors of 4000 rows. No other weight's fixed point
    lies within it.
    """
    p = posterior((1.0, 0.05), (1.0, 1.0), 1.0, mean=(0.3, -0.1))
    mu = answers(p, 4000, lambda_=0.25, weight=weight, **RANDOM)
    bound = 4 * mu.std(0) / 4000**0.5 + 1e-3
    errors = {other: (mu.mean(0) - fixed_point(p, 0.25, other)).abs() for other in STABLE}
    assert [other for other, error in errors.items() if (error < bound).all()] == [weight]


def test_the_fixed_point_is_not_the_posterior_mode():
    """R saturates at lambda, and the prior's precision is 1 / variance, within the tolerance."""
    p = posterior((1.0, 0.05), (1.0, 1.0), 1.0, sigma_y=1.0)
    mode, _ = p.prior.posterior(torch.ones(1, 2, dtype=F64), 1.0, p.y[0])
    assert (fixed_point(p, 1.0, "linear") - mode).abs().max() > 0.1


# --- descending order -------------------------------------------------------------------------

CASE = {"variances": (1.0, 0.3), "A": (1.0, 0.5), "y": 0.7}
MODE = torch.tensor([0.6512, 0.0977], dtype=F64)
TRACKING = {"lambda_": 0.25, "steps": 1000, "lr": 0.05, "normalise": "sum"}


def distance(**options):
    return float((answers(posterior(**CASE), 64, **TRACKING, **options).mean(0) - MODE).norm())


def test_the_constrained_mode_is_the_specifications():
    p = posterior(**CASE)
    C, A = p.prior.covariance, torch.tensor([CASE["A"]], dtype=F64)
    torch.testing.assert_close(
        C @ A.T @ torch.linalg.solve(A @ C @ A.T, p.y[0]), MODE, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("weight", WEIGHTS)
def test_descending_order_ends_at_the_constrained_mode_with_every_weight(weight):
    """Up to the bias (0.02) and the spread of a mean of 64 runs (0.04); random order does not."""
    assert distance(weight=weight) < 0.06


def test_ascending_and_random_order_do_not():
    """They end at (0.47, 0.23) and (0.50, 0.22): late large levels pull towards the mean."""
    descending, ascending, random = (distance(order=order) for order in ORDERS)
    assert descending < 0.05
    assert ascending > 0.2
    assert 0.1 < random < ascending


def test_a_noiseless_measurement_is_met():
    """A mu = y at the end of a descending run, where the prior's weight vanishes.

    The mean misfit is below Adam's step.
    """
    mu = answers(posterior(**CASE), 64, **TRACKING)
    assert (mu @ torch.tensor(CASE["A"], dtype=F64) - CASE["y"]).abs().mean() < 0.05


# --- options ----------------------------------------------------------------------------------


def short(**options):
    return answers(posterior(**CASE), 3, **{"steps": 12, "lambda_": 0.25, **options})


def test_the_weights_are_the_published_ones():
    assert set(WEIGHTS) == set(get_args(get_type_hints(REDDiff)["weight"]))


@pytest.mark.parametrize("order", ORDERS)
def test_any_two_weights_differ(order):
    results = [short(weight=weight, order=order) for weight in WEIGHTS]
    assert min(float((a - b).abs().max()) for a, b in itertools.combinations(results, 2)) > 1e-4


@pytest.mark.parametrize("weight", WEIGHTS)
def test_any_two_orders_differ(weight):
    results = [short(weight=weight, order=order) for order in ORDERS]
    assert min(float((a - b).abs().max()) for a, b in itertools.combinations(results, 2)) > 1e-3


@pytest.mark.parametrize("steps", [1, 7, 50, 300, 600, 1000])
def test_descending_levels_are_evenly_spaced_from_the_top_to_the_bottom(steps):
    """600 steps must not stop at t = 400, where s = 2."""
    t = torch.tensor(REDDiff(steps=steps)._order(None))
    assert len(t) == steps
    assert t[0] == 999
    assert 0 <= t[-1] < 1000 / steps
    if steps > 1:
        assert (t[:-1] - t[1:]).max() - (t[:-1] - t[1:]).min() <= 1


@pytest.mark.parametrize("steps", [50, 100, 1000])
def test_steps_that_divide_1000_visit_the_authors_levels(steps):
    assert REDDiff(steps=steps)._order(None) == list(range(999, -1, -(1000 // steps)))


def test_ascending_is_descending_backwards():
    assert REDDiff(order="ascending", steps=30)._order(None) == REDDiff(steps=30)._order(None)[::-1]


def image_posterior():
    """192 unknowns, 48 measurements: m / n = 1 / 4."""
    operator = inverse.get_problem("super-resolution", factor=2, filter="area").operator((3, 8, 8))
    prior = inverse.GaussianPrior(normal(3, 8, 8), torch.eye(192, dtype=F64), shift=0.5, scale=0.5)
    return inverse.Posterior(
        prior, operator, normal(1, 3, 4, 4), inverse.GaussianNoise(0.1), dtype=F64
    )


def test_mean_normalisation_is_sum_with_lambda_times_m_over_n():
    """Gradient steps: the common factor n / m goes into the step."""
    p = image_posterior()
    by_mean = inverse.solve(
        p, REDDiff(steps=20, lr=0.01, lambda_=0.2, normalise="mean", optimizer="sgd")
    ).samples
    by_sum = inverse.solve(
        p, REDDiff(steps=20, lr=0.04, lambda_=0.05, normalise="sum", optimizer="sgd")
    ).samples
    torch.testing.assert_close(by_mean, by_sum, rtol=0, atol=1e-12)


def test_lambda_eff_is_the_weight_without_normalisation():
    p = image_posterior()
    assert REDDiff(lambda_=0.2).derived(p)["lambda_eff"] == pytest.approx(0.05)
    assert REDDiff(lambda_=0.2, normalise="sum").derived(p)["lambda_eff"] == 0.2


def test_the_gain_rule_multiplies_lambda_by_the_fourth_root_of_the_mean_over_the_largest_gain():
    """A diagonal A with squared gains 1, 1/4, 1/4, 1/4: 7/16 in the mean."""
    A = torch.block_diag(*(torch.eye(64, dtype=F64) * g for g in (1, 0.5, 0.5, 0.5)))
    prior = inverse.GaussianPrior(normal(256), torch.eye(256, dtype=F64), scale=0.5)
    p = inverse.Posterior(
        prior, matrix_operator(A, (256,)), normal(1, 256), inverse.GaussianNoise(0.1), dtype=F64
    )
    noise, gain = (REDDiff(auto=rule).derived(p)["lambda"] for rule in ("noise", "gain"))
    assert noise == pytest.approx(0.25 * 16)
    assert gain / noise == pytest.approx((7 / 16) ** 0.25, rel=0.05)
    assert REDDiff(auto="gain", lambda_=0.3).derived(p)["lambda"] == 0.3


@pytest.mark.parametrize(("linear", "lr"), [(True, 0.1), (False, 0.5)])
def test_the_step_is_the_published_one_for_the_kind_of_operator(linear, lr):
    half = inverse.operator(lambda x: 0.5 * x, shape=(256,), linear=linear)
    prior = inverse.GaussianPrior(normal(256), torch.eye(256, dtype=F64), scale=0.5)
    p = inverse.Posterior(
        prior, half, normal(1, 256), inverse.GaussianNoise(0.1), shape=(256,), dtype=F64
    )
    assert REDDiff().derived(p)["lr"] == lr
    auto, stated = (answers(p, 2, steps=3, lambda_=0.25, **o) for o in ({}, {"lr": lr}))
    assert torch.equal(auto, stated)


def test_without_a_prior_term_it_is_gradient_descent_on_the_misfit():
    """lambda = 0, one step: mu - lr A^T (A mu - y), images and measurements in model units."""
    p = image_posterior()
    start, lr = p.pseudo_inverse(), 0.1
    expected = start + lr * p.A_adjoint(p.residual(start)) / p.prior.scale**2
    found = inverse.solve(
        p, REDDiff(steps=1, lr=lr, lambda_=0.0, normalise="sum", optimizer="sgd")
    ).samples[0]
    torch.testing.assert_close(found, p.prior.decode(expected), rtol=0, atol=1e-12)


def test_adam_is_torchs_adam():
    """With lambda = 0 the method minimises |y - A mu|^2 / 2."""
    p = image_posterior()
    mu = p.pseudo_inverse().requires_grad_()
    adam = torch.optim.Adam([mu], lr=0.05, betas=(0.9, 0.99))
    for _ in range(20):
        adam.zero_grad()
        (0.5 * p.residual(mu).square().sum() / p.prior.scale**2).backward()
        adam.step()
    found = inverse.solve(p, REDDiff(steps=20, lr=0.05, lambda_=0.0, normalise="sum")).samples[0]
    torch.testing.assert_close(found, p.prior.decode(mu.detach()), rtol=0, atol=1e-9)
