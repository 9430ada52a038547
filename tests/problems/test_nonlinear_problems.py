"""The nonlinear problems of photographs: what their operators keep and lose."""

import pytest
import torch

import inverse

SHAPE = (3, 8, 8)


def image(seed=0):
    return torch.rand(1, *SHAPE, generator=inverse.seeded("image", seed), dtype=torch.float64)


def test_hdr_is_the_papers_clip_in_units_of_plus_and_minus_one():
    x = image()
    y = inverse.get_problem("hdr").operator(SHAPE).A(x)
    torch.testing.assert_close(2 * y - 1, (2 * (2 * x - 1)).clamp(-1, 1), rtol=0, atol=1e-12)


def test_hdr_without_gain_is_the_identity():
    x = image()
    torch.testing.assert_close(inverse.get_problem("hdr", gain=1.0).operator(SHAPE).A(x), x)


def test_a_modulus_keeps_the_energy_and_loses_flips_and_shifts():
    A, x = inverse.get_problem("phase-retrieval").operator(SHAPE).A, image()
    y = A(x)
    assert y.shape == (1, 3, 12, 12)
    torch.testing.assert_close(y.square().sum(), x.square().sum())
    torch.testing.assert_close(A(x.flip(-1, -2)), y)
    torch.testing.assert_close(A(-x), y)


@pytest.mark.parametrize("name", ["hdr", "phase-retrieval"])
def test_the_vjp_is_the_derivative(name):
    p = inverse.get_problem(name, sigma_y=0.1).posterior(
        image()[0], prior=inverse.FlatPrior(SHAPE), dtype=torch.float64
    )
    x, d, v = image(1), image(2), torch.ones_like(p.y)
    step = 1e-6
    change = (p.A(x + step * d) - p.A(x - step * d)) / (2 * step)
    torch.testing.assert_close((p.A_vjp(x, v) * d).sum(), (v * change).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("hdr", {"gain": 0.5}, "gain must be at least 1, got 0.5"),
        ("phase-retrieval", {"oversampling": -1.0}, "oversampling must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(name, options, words):
    with pytest.raises(inverse.InverseError, match=words):
        inverse.get_problem(name, **options)
