"""Locality of the network, and the equality of tiles and micro-batches with whole images."""

import pytest
import torch
from conftest import normal, randomise

import inverse
from inverse.priors.evaluation.tiling import spans, tiled
from inverse.priors.networks.unet import UNetConfig, pad_to_multiple

ROUNDING = {"rtol": 0, "atol": 1e-12}
"""The order of the terms of a float64 convolution depends on the size of the image."""

CONFIGS = {
    "one-level": UNetConfig(channels=1, widths=(4,), blocks=(2,), embedding=4),
    "two-levels": UNetConfig(channels=3, widths=(4, 6), blocks=(1, 1), embedding=4),
    "uneven-blocks": UNetConfig(channels=1, widths=(4, 4), blocks=(2, 1), embedding=4),
    "three-levels": UNetConfig(channels=1, widths=(2, 3, 4), blocks=(1, 1, 1), embedding=4),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
SIGMA = torch.tensor([0.7], dtype=torch.float64)


def network(config):
    prior = inverse.NetworkPrior.unet(config, shift=0.5, scale=0.5)
    return randomise(prior).double().eval().requires_grad_(False)


# --- locality ---------------------------------------------------------------------------------


@every_config
@pytest.mark.parametrize("offset", [0, 1, 3, 7])
def test_a_pixel_changes_nothing_beyond_the_halo(config, offset):
    """Bit by bit, for any position on the stride grid; the image extends beyond the halo."""
    prior, halo = network(config), config.halo
    middle = (halo // config.stride + 1) * config.stride + offset
    x = normal(1, config.channels, 2 * middle + 8, 2 * middle + 8)
    y = x.clone()
    y[..., middle, middle] += 10
    changed = (prior(x, SIGMA) != prior(y, SIGMA)).any(1)[0]
    rows, columns = torch.nonzero(changed, as_tuple=True)
    assert (rows - middle).abs().max() <= halo
    assert (columns - middle).abs().max() <= halo


@every_config
def test_the_halo_is_not_much_larger_than_the_reach(config):
    """It adds two strides for alignment, four pixels for head and tail, and a rounding."""
    prior, halo = network(config), config.halo
    middle = 2 * halo // config.stride * config.stride
    jacobian_row = torch.zeros(
        1, config.channels, 2 * middle, 2 * middle, dtype=torch.float64, requires_grad=True
    )
    prior(jacobian_row, SIGMA)[0, 0, middle, middle].backward()
    rows = torch.nonzero(jacobian_row.grad.abs().sum((0, 1)))[:, 0]
    assert (rows - middle).abs().max() > halo - 3 * config.stride - 4


@every_config
def test_the_network_is_equivariant_to_shifts_by_its_stride(config):
    prior, s = network(config), config.stride
    x = normal(1, config.channels, 2 * config.halo + 4 * s, 2 * config.halo + 4 * s)
    inner = slice(config.halo + s, -config.halo - s)
    shifted = prior(x.roll((s, s), (2, 3)), SIGMA).roll((-s, -s), (2, 3))
    torch.testing.assert_close(
        shifted[..., inner, inner], prior(x, SIGMA)[..., inner, inner], **ROUNDING
    )


# --- tiles ------------------------------------------------------------------------------------


@every_config
@pytest.mark.parametrize("size", [(96, 64), (101, 67), (97, 35)])
def test_tiled_equals_untiled(config, size):
    """Also for sides that are no multiple of the stride, and for a last tile of one pixel."""
    prior, x = network(config), normal(2, config.channels, *size)
    sigma = torch.tensor([0.1, 3.0], dtype=torch.float64)
    torch.testing.assert_close(tiled(prior, x, sigma, 32, config.halo), prior(x, sigma), **ROUNDING)


def test_tiles_without_a_halo_have_seams():
    """The network is not pointwise, so that the equality above tests the halo."""
    config = CONFIGS["two-levels"]
    prior, x = network(config), normal(1, 3, 64, 64)
    assert (tiled(prior, x, SIGMA, 32, 0) - prior(x, SIGMA)).abs().max() > 1e-3


def test_gradient_through_tiles_equals_the_gradient_through_the_whole():
    config = CONFIGS["two-levels"]
    prior, x, v = network(config), normal(2, 3, 69, 64), normal(2, 3, 69, 64, seed=1)
    sigma = torch.tensor([0.1, 3.0], dtype=torch.float64)
    gradients = [
        torch.autograd.functional.vjp(f, x, v)[1]
        for f in (lambda x: prior(x, sigma), lambda x: tiled(prior, x, sigma, 32, config.halo))
    ]
    torch.testing.assert_close(gradients[1], gradients[0], **ROUNDING)


@pytest.mark.parametrize(("length", "tile"), [(1, 8), (8, 8), (9, 8), (64, 8)])
def test_spans_cover_every_pixel_once(length, tile):
    assert [i for start, stop in spans(length, tile) for i in range(start, stop)] == list(
        range(length)
    )


# --- executions of a posterior ----------------------------------------------------------------


def posterior(config=CONFIGS["two-levels"], size=(69, 72), images=3, **execution):
    return inverse.Posterior(
        network(config),
        inverse.physics.Denoising(),
        normal(images, config.channels, *size),
        inverse.GaussianNoise(0.1),
        dtype=torch.float64,
        execution=inverse.Execution(**execution),
    )


EXECUTIONS = {
    "tiles": {"tile": 32, "tile_above": 100},
    "tiles-off-the-stride-grid": {"tile": 30, "tile_above": 100},
    "micro-batches": {"max_pixels": 2 * 69 * 72},
    "one-row-at-a-time": {"max_pixels": 1},
    "tiles-and-micro-batches": {"tile": 32, "tile_above": 100, "max_pixels": 1},
}


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
def test_execution_does_not_change_the_denoised_image(execution):
    x, sigma = normal(3, 3, 69, 72, seed=1), torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(
        posterior(**execution).denoise(x, sigma), posterior().denoise(x, sigma), **ROUNDING
    )


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
def test_execution_does_not_change_the_vjp(execution):
    x, v = normal(3, 3, 69, 72, seed=1), normal(3, 3, 69, 72, seed=2)
    torch.testing.assert_close(
        posterior(**execution).tweedie(x, 0.5)[1](v), posterior().tweedie(x, 0.5)[1](v), **ROUNDING
    )


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
def test_execution_does_not_change_the_cost(execution):
    executed = posterior(**execution)
    executed.tweedie(normal(3, 3, 69, 72), 0.5)[1](normal(3, 3, 69, 72))
    assert (executed.cost.nfe, executed.cost.vjp) == (1, 1)


def test_a_prior_that_is_not_local_is_never_tiled(gaussian_posterior):
    tiled_by_request = gaussian_posterior(execution=inverse.Execution(tile=4, tile_above=1))
    x = normal(2, 3, 8, 8)
    assert torch.equal(tiled_by_request.denoise(x, 0.5), gaussian_posterior().denoise(x, 0.5))


def test_autocast_keeps_the_state_in_float32():
    """With 8 bits, the network's term has an error of about 1 %; the skip connection is exact."""
    prior = network(CONFIGS["two-levels"]).float()
    x = normal(3, 3, 69, 72, seed=1).float()
    y = normal(3, 3, 69, 72)
    half, full = (
        inverse.Posterior(
            prior,
            inverse.physics.Denoising(),
            y,
            inverse.GaussianNoise(0.1),
            execution=inverse.Execution(autocast=kind),
        ).denoise(x, 0.5)
        for kind in ("bf16", None)
    )
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.1


# --- padding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (5, 8), (8, 8)])
def test_padding_keeps_the_image_and_reaches_the_multiple(size):
    x = normal(1, 2, *size)
    padded = pad_to_multiple(x, 8)
    assert torch.equal(padded[..., : size[0], : size[1]], x)
    assert all(n % 8 == 0 and 0 <= n - m < 8 for n, m in zip(padded.shape[-2:], size, strict=True))


def test_padding_reflects_a_large_enough_image():
    x = normal(1, 2, 6, 8)
    assert torch.equal(pad_to_multiple(x, 8)[..., 6:, :], x[..., [4, 3], :])


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 40)])
@every_config
def test_an_image_smaller_than_the_stride_is_denoised(config, size):
    assert torch.isfinite(network(config)(normal(1, config.channels, *size), SIGMA)).all()
