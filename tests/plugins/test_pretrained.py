"""Pretrained reconstruction networks as point methods, with weights by path."""

from __future__ import annotations

import pytest
import torch
from cli_fixtures import tiny_network

import inverse
from inverse.errors import PriorError, UnsupportedError
from inverse.measurement.deepinv_import import deepinv
from inverse_plugins._rrdb import RRDBNet

pytest_plugins = "cli_fixtures"


@pytest.fixture
def enlarger(tmp_path):
    """A small RRDBNet with random weights for factor 4, saved as Real-ESRGAN's releases are."""
    torch.manual_seed(0)
    network = RRDBNet(3, 3, 8, 4, 2)
    torch.save({"params_ema": network.state_dict()}, tmp_path / "RealESRGAN_x4.pth")
    return network.eval(), tmp_path / "RealESRGAN_x4.pth"


def enlargement(side=8, factor=4):
    problem = inverse.get_problem("super-resolution", factor=factor)
    truth = torch.rand(1, 3, side * factor, side * factor)
    return problem.posterior(truth, prior=tiny_network())


def test_esrgan_returns_its_network_on_the_measurement(enlarger):
    network, path = enlarger
    posterior = enlargement()
    result = inverse.solve(posterior, inverse.get_method("esrgan", weights=path), samples=1)
    expected = network.double()(posterior.y.double())
    torch.testing.assert_close(result.mean.double(), expected, rtol=1e-4, atol=1e-5)
    assert result.cost.nfe == 0


@pytest.mark.parametrize(("inputs", "factor"), [(12, 2), (48, 1)])
def test_smaller_factors_unshuffle_their_input(inputs, factor):
    network = RRDBNet(3, inputs, 8, 4, 1)
    assert network(torch.rand(1, 3, 8, 12)).shape == (1, 3, 8 * factor, 12 * factor)


def test_rrdb_equals_another_implementation():
    spandrel = pytest.importorskip("spandrel")
    network = RRDBNet(3, 3, 16, 32, 1)
    other = spandrel.ModelLoader().load_from_state_dict(network.state_dict()).model
    y = torch.rand(1, 3, 9, 11)
    torch.testing.assert_close(network(y), other(y))


def test_esrgan_refuses_another_factor_and_other_weights(enlarger, tmp_path):
    _, path = enlarger
    with pytest.raises(UnsupportedError, match="enlarge 4 times"):
        inverse.solve(enlargement(16, 2), inverse.get_method("esrgan", weights=path))
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(PriorError, match="no RRDBNet of BasicSR"):
        inverse.solve(enlargement(), inverse.get_method("esrgan", weights=tmp_path / "other.pth"))


@pytest.mark.parametrize("name", ["esrgan", "ram"])
def test_weights_are_asked_for_in_one_line(solve, name):
    arguments = ("--problem", "super-resolution", "--method", name)
    solve(*arguments).refused(f"{name} needs --set weights=FILE")
    solve(*arguments, "--set", "weights=none.pth").refused("none.pth: no such file")


def test_ram_receives_the_operator_and_the_noise_level(tmp_path):
    """Its output on a blurred image is that of deepinv's model called by hand."""
    torch.manual_seed(0)
    model = deepinv("models").RAM(pretrained=False).eval()
    torch.save(model.state_dict(), tmp_path / "ram.pth.tar")
    problem = inverse.get_problem("inpainting", sigma_y=0.05)
    posterior = problem.posterior(torch.rand(1, 3, 16, 16), prior=tiny_network())
    method = inverse.get_method("ram", weights=tmp_path / "ram.pth.tar")
    result = inverse.solve(posterior, method, samples=1)
    physics = posterior.operator
    with torch.no_grad():
        expected = model(
            posterior.y.float(), physics.to(torch.float32), sigma=0.05, img_size=(3, 16, 16)
        )
    torch.testing.assert_close(result.mean.float(), expected, rtol=1e-3, atol=1e-4)
