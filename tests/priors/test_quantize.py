"""Eight-bit priors: rounding errors, integer convolutions, calibration, and the quantised file."""

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
    calibration_pairs,
    calibration_times,
    equalising_factors,
    fit_range,
    fit_scale,
    quantize,
    rounded,
)
from inverse.priors.networks.reconstruction import reconstruct, units

pytest_plugins = "cli_fixtures"


def test_rounding_changes_at_most_half_a_step_and_is_idempotent():
    x = normal(5, 300)
    scale = x.abs().amax(1, keepdim=True) / 127
    q = scale * rounded(x, scale)
    assert bool(((x - q).abs() <= scale / 2 * (1 + 1e-12)).all())
    assert torch.equal(scale * rounded(q, scale), q)


def test_each_bit_quarters_the_mean_square_error():
    """For uniform numbers it is step^2 / 12, within two per cent for this many numbers."""
    x = 2 * torch.rand(1, 100_000, generator=inverse.seeded(0), dtype=torch.float64) - 1
    for bits in (4, 6, 8):
        step = torch.tensor([[1 / (2 ** (bits - 1) - 1)]], dtype=torch.float64)
        error = float((x - step * rounded(x, step, bits)).square().mean())
        assert error == pytest.approx(float(step) ** 2 / 12, rel=0.02)


def test_a_fitted_scale_clips_outliers_to_reduce_the_error():
    x = torch.cat([normal(2, 10_000), torch.tensor([[0.0], [9.0]])], 1)
    full = x.abs().amax(1, keepdim=True) / 7
    fitted = fit_scale(x, bits=4)
    assert float(fitted[1]) < 0.9 * float(full[1])
    for row in range(2):
        error, full_range_error = (
            (x[row] - s * rounded(x[row], s, 4)).abs().pow(2.4).sum()
            for s in (fitted[row], full[row])
        )
        assert error <= full_range_error


def test_zero_is_representable_in_quantised_inputs():
    """The padding of an image is therefore exact."""
    for x in (normal(1000), normal(1000).abs(), torch.nn.functional.silu(4 * normal(1000))):
        step, zero = fit_range(x)
        assert 0 <= zero <= 255
        quantized = step * ((x / step).round() + zero).clamp(0, 255).sub(zero)
        assert float((x - quantized).abs().mean()) < step


def test_integer_and_float_convolutions_agree_and_gradients_ignore_the_rounding():
    """float32 sums of 72 products, hence 1e-4."""
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
        for integers in (layer, copy.deepcopy(layer)):  # in floats where integers are not exact
            torch.testing.assert_close(integers(x), as_floats.detach(), rtol=0, atol=1e-4)
        plain = conv(x)
    assert float((as_floats.detach() - plain).norm() / plain.norm()) < 0.03
    y = torch.zeros_like(x, requires_grad=True)
    out = nn.functional.conv2d(y, layer.dequantized(y), padding=1)
    torch.testing.assert_close(gradient, torch.autograd.grad(out.sum(), y)[0])


def test_calibration_draws_have_the_variance_of_their_noise_level():
    """The tiny network is nearly the denoiser of N(0, 0.5^2), so x has variance sigma^2 + 0.25.

    Each x has 768 entries; 0.25 is five standard errors and the error of thirty Heun steps.
    """
    x, sigma = calibration_pairs(tiny_network(), 40, 16, steps=30)
    ratio = x.square().flatten(1).mean(1) / (sigma**2 + 0.25)
    assert len(sigma.unique()) > 5
    assert float((ratio - 1).abs().max()) < 0.25


def test_calibration_times_have_the_mean_of_a_truncated_normal():
    """N(0.4, 0.4^2) on [0, 1]: 0.4 + 0.4 (phi(-1) - phi(1.5)) / (Phi(1.5) - Phi(-1)) = 0.4582."""
    times = calibration_times(20_000)
    assert float(times.min()) >= 0
    assert float(times.max()) <= 1
    assert float(times.mean()) == pytest.approx(0.4582, abs=4 * 0.26 / 20_000**0.5)


@pytest.mark.parametrize("inputs", [True, False])
def test_a_quantised_prior_denoises_nearly_the_same(inputs):
    """Each layer has an error of 1 / 127 of its largest value; they add up to less than 0.02."""
    full, prior = tiny_network(), tiny_network()
    quantize(prior, calibration_pairs(full, 8, 16, steps=4) if inputs else None)
    x = normal(2, 3, 20, 26).float()
    for level in (0.1, 0.5, 3.0):
        sigma = torch.tensor(level)
        with torch.no_grad():
            expected = full(x, sigma)
            assert float((prior(x, sigma) - expected).norm() / expected.norm()) < 0.02


def test_the_command_writes_a_smaller_prior_that_loads_as_usual(command, tiny_prior, solve):
    options = ("--out", "small.safetensors", "--samples", 4, "--side", 16, "--iterations", 10)
    outcome = command("prior", "quantize", tiny_prior, *options)
    assert outcome.code == 0, outcome.err
    weights = load_file("small.safetensors")
    int8 = {name: value for name, value in weights.items() if value.dtype == torch.int8}
    assert set(int8) == {name for name in weights if name.endswith(".weight")}
    numbers = sum(v.numel() for v in load_file(tiny_prior).values())
    assert sum(v.numel() for v in int8.values()) > 0.9 * numbers
    card = PriorCard.read(outcome.path.with_suffix(".json"))
    assert card.quantization["sha256"] == sha256(tiny_prior)
    x, sigma = normal(1, 3, 12, 12).float(), torch.tensor(0.5)
    small, full = (load_prior(path)(x, sigma) for path in ("small.safetensors", tiny_prior))
    torch.testing.assert_close(small, full, rtol=0, atol=0.02)
    assert "bits: 8" in command("prior", "info", "small.safetensors").out
    options = ("--prior", "small.safetensors", "--method", "dps", "--steps", 2)
    for dtype in ("float32", "float64"):
        assert solve(*options, "--dtype", dtype).code == 0


def test_a_prior_without_a_float_network_is_refused(command, tiny_prior):
    command("prior", "quantize", tiny_prior, "--out", "small.safetensors", "--no-inputs")
    command("prior", "quantize", "small.safetensors", "--out", "again.safetensors").refused(
        "needs a float network"
    )
    command("prior", "quantize", "era5-uk-t2m-gaussian", "--out", "again.safetensors").refused(
        "got era5-uk-t2m-gaussian"
    )
    command("prior", "quantize", tiny_prior, "--out", "again.pt").refused("written as .safetensors")


def test_a_prior_never_overwrites_its_source(command, tiny_prior):
    before = tiny_prior.read_bytes()
    for verb in ("quantize", "convert"):
        command("prior", verb, tiny_prior, "--out", tiny_prior).refused(
            "is the source itself; choose another file"
        )
    assert tiny_prior.read_bytes() == before


# --- equalised channels, reconstructed blocks, guided calibration --------------------------------


def test_factors_of_channels_leave_the_product_unchanged():
    """conv(x) = (W c)(x / c); without rounding of inputs only the weights' rounding is left."""
    conv = torch.nn.Conv2d(4, 6, 3, padding=1)
    torch.nn.init.normal_(conv.weight, generator=inverse.seeded("weights"))
    x = normal(2, 4, 8, 8).float() * torch.tensor([1.0, 30.0, 0.1, 5.0])[:, None, None]
    factors = equalising_factors(x.transpose(0, 1).flatten(1), conv)
    assert float(factors.log().mean()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        layer, expected = Int8Conv(conv, 0, True, factors), conv(x)
        error = (layer(x) - expected).square().mean() / expected.square().mean()
    assert float(error) < 1e-4  # 8 bits: (1 / 127)^2 / 12 a weight, as large as 5e-6


def test_equalised_channels_round_their_inputs_better():
    """Channels of ranges from 0.1 to 30 share one step; the error of the output falls tenfold."""
    conv = torch.nn.Conv2d(4, 6, 3, padding=1)
    torch.nn.init.normal_(conv.weight, generator=inverse.seeded("weights"))
    spread = torch.tensor([1.0, 30.0, 0.1, 5.0])[:, None, None]
    x = normal(2, 4, 16, 16).float().abs() * spread
    with torch.no_grad():
        conv.weight.div_(spread[None, :, 0, 0, None, None])  # every channel matters equally
        expected, errors = conv(x), {}
        for name in ("one", "equalised"):
            flat = x.transpose(0, 1).flatten(1)
            factors = equalising_factors(flat, conv) if name == "equalised" else torch.ones(4)
            layer = Int8Conv(conv, 0, True, factors)
            step, zero = fit_range((flat / factors[:, None]).flatten())
            layer.step.fill_(step)
            layer.zero.fill_(zero)
            errors[name] = float((layer(x) - expected).square().mean())
    assert errors["equalised"] < 0.1 * errors["one"]


def test_reconstruction_lowers_the_error_of_each_block_and_of_the_prior():
    original = tiny_network()
    pairs = calibration_pairs(original, 16, 16)
    rough = quantize(tiny_network(), pairs)
    for module in rough.network.modules():  # a scale that is wrong by a tenth can be recovered
        if isinstance(module, Int8Conv):
            module.scale.mul_(1.1)
            module.packed = None

    def error(prior):
        with torch.no_grad():
            return float((prior(*pairs) - original(*pairs)).square().mean())

    before = error(rough)
    report = reconstruct(rough, original, pairs, iterations=80, rate=5e-3)
    assert [name for name, *_ in report] == units(rough.network)
    assert all(after <= first for _, first, after in report)
    assert error(rough) < 0.5 * before


def test_blocks_are_reconstructed_in_the_order_of_evaluation():
    network = quantize(tiny_network(), None).network
    called: list[str] = []
    for name in units(network):
        network.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: called.append(name)
        )
    with torch.no_grad():
        network(normal(1, 3, 16, 16).float(), torch.zeros(1))
    assert called == units(network)


def test_an_int8_file_without_factors_still_loads(tmp_path):
    prior = quantize(tiny_network(), calibration_pairs(tiny_network(), 8, 16))
    state = {k: v for k, v in prior.state_dict().items() if not k.endswith("factors")}
    other = quantize(tiny_network(), None)
    other.load_state_dict(state)
    assert all(bool((m.factors == 1).all()) for m in other.modules() if isinstance(m, Int8Conv))


def test_the_command_calibrates_on_a_guided_trajectory(command, tiny_prior):
    given = ("prior", "quantize", tiny_prior, "--out", "own-int8.safetensors", "--samples", 4)
    options = ("--side", 16, "--iterations", 2)
    outcome = command(*given, *options, "--guided", "denoise:dpir")
    assert outcome.code == 0, outcome.err
    card = PriorCard.read("own-int8.safetensors")
    assert card.quantization["inputs"]["guided"] == "denoise:dpir"
    assert torch.isfinite(load_prior("own-int8.safetensors")(*calibration_pairs(
        tiny_network(), 2, 16
    ))).all()  # fmt: skip
    command(*given, *options, "--guided", "denoise").refused("takes PROBLEM:METHOD")
    command(*given, *options, "--guided", "a:b", "--no-inputs").refused("omit --no-inputs")
    command(*given, *options, "--guided", "denoise:tikhonov").refused("evaluates the prior 0 times")
