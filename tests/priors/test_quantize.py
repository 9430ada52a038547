"""Eight-bit priors: rounding does what arithmetic says, integers and floats agree, calibration pairs are pairs, and the file loads like any prior."""

from __future__ import annotations

import copy

import pytest
import torch
from cli_fixtures import tiny_network
from conftest import normal
from safetensors.torch import load_file
from torch import nn

import inverse
from inverse.priors.cards import sha256
from inverse.priors.loading import PriorCard, load_prior
from inverse.priors.networks.quantize import (
    Int8Conv,
    calibration,
    calibration_times,
    fit_range,
    quantize,
    rounded,
    scan,
)

pytest_plugins = "cli_fixtures"


def test_rounding_moves_nothing_by_more_than_half_a_step_and_only_once():
    x = normal(5, 300)
    scale = x.abs().amax(1, keepdim=True) / 127
    q = scale * rounded(x, scale)
    assert bool(((x - q).abs() <= scale / 2 * (1 + 1e-12)).all())
    assert torch.equal(scale * rounded(q, scale), q)


def test_a_bit_more_is_a_quarter_of_the_error():
    """Mean square error of uniform numbers is step^2 / 12: to two per cent with so many of them."""
    x = 2 * torch.rand(1, 100_000, generator=inverse.seeded(0), dtype=torch.float64) - 1
    for bits in (4, 6, 8):
        step = torch.tensor([[1 / (2 ** (bits - 1) - 1)]], dtype=torch.float64)
        assert float((x - step * rounded(x, step, bits)).square().mean()) == pytest.approx(
            float(step) ** 2 / 12, rel=0.02
        )


def test_the_scan_clips_outliers_where_that_pays():
    x = torch.cat([normal(2, 10_000), torch.tensor([[0.0], [9.0]])], 1)
    full = x.abs().amax(1, keepdim=True) / 7
    found = scan(x, bits=4)
    assert float(found[1]) < 0.9 * float(full[1])
    for row in range(2):
        error, plain = (
            (x[row] - s * rounded(x[row], s, 4)).abs().pow(2.4).sum()
            for s in (found[row], full[row])
        )
        assert error <= plain


def test_inputs_have_zero_among_their_values():
    """A zero stays a zero: what pads an image is exact."""
    for x in (normal(1000), normal(1000).abs(), torch.nn.functional.silu(4 * normal(1000))):
        step, zero = fit_range(x)
        assert 0 <= zero <= 255
        assert (
            float((x - step * ((x / step).round() + zero).clamp(0, 255).sub(zero)).abs().mean())
            < step
        )


def test_integers_and_floats_give_one_convolution_and_gradients_pass():
    conv = nn.Conv2d(8, 16, 3, padding=1)
    x = normal(2, 8, 9, 7).float()
    layer = Int8Conv(conv.requires_grad_(False), 0, True)
    step, zero = fit_range(x)
    layer.step.fill_(step)
    layer.zero.fill_(zero)
    leaf = x.clone().requires_grad_()
    as_floats = layer(leaf)
    (gradient,) = torch.autograd.grad(as_floats.sum(), leaf)
    with torch.no_grad():
        torch.testing.assert_close(
            layer(x), as_floats.detach(), rtol=0, atol=1e-4
        )  # float32 sums of 72 products
        torch.testing.assert_close(copy.deepcopy(layer)(x), as_floats.detach(), rtol=0, atol=1e-4)
        plain = conv(x)
    assert float((as_floats.detach() - plain).norm() / plain.norm()) < 0.03
    y = torch.zeros_like(x, requires_grad=True)
    expected = torch.autograd.grad(
        nn.functional.conv2d(y, layer.dequantized(y), padding=1).sum(), y
    )[0]
    torch.testing.assert_close(gradient, expected)


def test_a_calibration_draw_carries_the_noise_level_that_is_its_own():
    """The tiny network is nearly the denoiser of N(0, 0.5^2): x of each pair has variance sigma^2 + 0.25, at whatever time."""
    x, sigma = calibration(tiny_network(), 40, 16, steps=30)
    ratio = x.square().flatten(1).mean(1) / (sigma**2 + 0.25)
    assert len(sigma.unique()) > 5
    assert (
        float((ratio - 1).abs().max()) < 0.25
    )  # 768 numbers each: 5 standard errors, and thirty steps of Heun's method


def test_times_are_mostly_late():
    """Mean of N(0.4, 0.4^2) cut to [0, 1]: 0.4 + 0.4 (phi(-1) - phi(1.5)) / (Phi(1.5) - Phi(-1)) = 0.4582."""
    times = calibration_times(20_000)
    assert float(times.min()) >= 0
    assert float(times.max()) <= 1
    assert float(times.mean()) == pytest.approx(0.4582, abs=4 * 0.26 / 20_000**0.5)


@pytest.mark.parametrize("inputs", [True, False])
def test_a_quantised_prior_denoises_nearly_the_same(inputs):
    full, prior = tiny_network(), tiny_network()
    quantize(prior, calibration(full, 8, 16, steps=4) if inputs else None)
    x = normal(2, 3, 20, 26).float()
    for level in (0.1, 0.5, 3.0):
        sigma = torch.tensor(level)
        with torch.no_grad():
            assert (
                float((prior(x, sigma) - full(x, sigma)).norm() / full(x, sigma).norm()) < 0.02
            )  # 1 / 127 of the largest, a few times over


def test_the_command_writes_a_smaller_prior_that_loads_like_any(command, tiny_prior, solve):
    outcome = command(
        "prior", "quantize", tiny_prior, "--out", "small.safetensors", "--samples", 4, "--side", 16
    )
    assert outcome.code == 0, outcome.err
    weights, card = (
        load_file("small.safetensors"),
        PriorCard.read(outcome.path.with_suffix(".json")),
    )
    assert {name for name, value in weights.items() if value.dtype == torch.int8} == {
        name for name in weights if name.endswith(".weight")
    }
    assert sum(v.numel() for v in weights.values() if v.dtype == torch.int8) > 0.9 * sum(
        v.numel() for v in load_file(tiny_prior).values()
    )
    assert card.quantization["sha256"] == sha256(tiny_prior)
    x, sigma = normal(1, 3, 12, 12).float(), torch.tensor(0.5)
    torch.testing.assert_close(
        load_prior("small.safetensors")(x, sigma),
        load_prior(tiny_prior)(x, sigma),
        rtol=0,
        atol=0.02,
    )
    assert "bits: 8" in command("prior", "info", "small.safetensors").out
    assert solve("--prior", "small.safetensors", "--method", "dps", "--steps", 2).code == 0
    assert (
        solve(
            "--prior", "small.safetensors", "--method", "dps", "--steps", 2, "--dtype", "float64"
        ).code
        == 0
    )


def test_what_is_no_float_network_is_refused_in_a_line(command, tiny_prior):
    command("prior", "quantize", tiny_prior, "--out", "small.safetensors", "--no-inputs")
    command("prior", "quantize", "small.safetensors", "--out", "again.safetensors").refused(
        "needs a float network"
    )
    command("prior", "quantize", "era5-uk-t2m-gaussian", "--out", "again.safetensors").refused(
        "era5-uk-t2m-gaussian is none"
    )
    command("prior", "quantize", tiny_prior, "--out", "again.pt").refused("written as .safetensors")


def test_a_prior_is_not_written_over_itself(command, tiny_prior):
    before = tiny_prior.read_bytes()
    for verb in ("quantize", "convert"):
        command("prior", verb, tiny_prior, "--out", tiny_prior).refused(
            "is the source itself; name another file"
        )
    assert tiny_prior.read_bytes() == before
