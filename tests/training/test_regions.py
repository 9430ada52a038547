"""Maps that weigh the loss: the closed-form optimum, and files that do not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cli_fixtures import write_picture

import inverse
from inverse.io.region_maps import load_weighted
from inverse.priors.networks.unet import UNetConfig
from inverse.priors.prior import NetworkPrior
from inverse.training.loop import TrainConfig, Training

pytest_plugins = "cli_fixtures"

SIGMA = 0.7


class Pointwise(NetworkPrior):
    """A denoiser with a free value for each of a few intervals of x: a table."""

    def __init__(self, edges):
        super().__init__(torch.nn.Identity(), (1, 1, 1), 1.0)
        self.edges, self.table = edges, torch.nn.Parameter(torch.zeros(len(edges) + 1).double())

    def forward(self, x, sigma):
        return self.table[torch.bucketize(x.contiguous(), self.edges)]


def test_the_best_denoiser_is_the_weighted_conditional_mean():
    """x0 is -1 or 1, weighted 1 and 3: D = E[w x0 | x] / E[w | x] = tanh(x / s^2 + log(3) / 2).

    At D the gradient of the loss is zero: of its expectation, computed on a grid of x, to rounding.
    """
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    density = [torch.exp(-((x - v) ** 2) / (2 * SIGMA**2)) for v in (-1.0, 1.0)]
    best = torch.tanh(x / SIGMA**2 + np.log(3) / 2)

    class Free(NetworkPrior):
        def __init__(self):
            super().__init__(torch.nn.Identity(), (1, 1, len(x)), 1.0)
            self.value = torch.nn.Parameter(best.clone())

        def forward(self, noisy, sigma):
            return self.value.expand(noisy.shape)

    prior = Free()
    total = 0.0
    for v, w, p in zip((-1.0, 1.0), (1.0, 3.0), density, strict=True):
        x0 = torch.full((1, 1, 1, len(x)), v, dtype=torch.float64)
        region = (w * p).reshape(x0.shape)  # the weight of the pixel and the density of x
        noise = (x - v).reshape(x0.shape) / SIGMA
        total = total + prior.loss(x0, torch.tensor([SIGMA]).double(), noise, region)
    total.backward()
    assert float(prior.value.grad.abs().max()) < 1e-15


def test_a_trained_table_approaches_the_weighted_mean():
    """The same law by draws: six intervals, each of whose values is a weighted mean."""
    n, g = 40_000, inverse.seeded("two points")
    x0 = torch.where(torch.rand(n, generator=g) < 0.5, -1.0, 1.0).double().reshape(n, 1, 1, 1)
    region, noise = 2 + x0, torch.randn(x0.shape, generator=g).double()
    edges = torch.linspace(-2, 2, 5).double()
    prior = Pointwise(edges)
    optimiser = torch.optim.LBFGS(prior.parameters(), max_iter=30, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = prior.loss(x0, torch.full((n,), SIGMA).double(), noise, region)
        loss.backward()
        return loss

    optimiser.step(closure)
    cell = torch.bucketize((x0 + SIGMA * noise).flatten(), edges)
    for k in range(6):
        inside, w = cell == k, region.flatten()
        mean = (w * x0.flatten())[inside].sum() / w[inside].sum()
        assert float(prior.table[k].detach()) == pytest.approx(float(mean), abs=1e-4)


@pytest.fixture
def folders(tmp_path):
    """Three pictures of 20 x 26 pixels, and maps that are white on the left."""
    left = np.zeros((20, 26, 1), np.uint8)
    left[:, :13] = 255
    for i, name in enumerate("abc"):
        rng = np.random.default_rng(i)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "maps").mkdir(exist_ok=True)
        pixels = rng.integers(0, 255, (20, 26, 3), dtype=np.uint8)
        write_picture(tmp_path / "images" / f"{name}.png", pixels)
        write_picture(tmp_path / "maps" / f"{name}.png", left)
    return tmp_path / "images", tmp_path / "maps"


def test_maps_follow_their_crops_and_have_mean_one(folders, tmp_path):
    sources = [load_weighted(*folders, 16, 3)]
    assert sources[0][0].shape == (20, 26, 4)
    network = UNetConfig(channels=3, widths=(8, 16), blocks=(1, 1), embedding=16)
    config = TrainConfig(size=16, steps=2, batch=64, network=network)
    training = Training(sources, config, tmp_path / "c.safetensors")
    pixels, region = training.split(training.draw_batch(inverse.seeded("crops")))
    assert pixels.shape == (64, 3, 16, 16)
    assert set(region.unique().tolist()) == {0.0, 2.0}
    assert torch.isfinite(training.take_step())


def test_the_command_trains_with_maps_and_notes_them(command, folders, tmp_path):
    images, maps = folders
    outcome = command(
        *("train", "--images", images, "--weights", maps, "--size", 16, "--steps", 2),
        *("--widths", "8,16", "--blocks", "1,1", "--batch", 2, "--out", "own.safetensors"),
    )
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "own.json").read_text())["training"]["regions"] == "maps"


def test_maps_that_do_not_fit_are_one_line(command, folders, tmp_path):
    images, maps = folders
    given = ("train", "--images", images, "--size", 16, "--out", "own.safetensors", "--weights")
    command(*given, maps, "--weights", maps).refused("once for each --images, got 2 for 1")
    write_picture(maps / "b.png", np.zeros((10, 12, 1), np.uint8))
    command(*given, maps).refused("map of b.png has 10x12 pixels, its image 20x26")
    (maps / "b.png").unlink()
    command(*given, maps).refused("no map for the image b.png")
    for name in "abc":
        write_picture(maps / f"{name}.png", np.zeros((20, 26, 1), np.uint8))
    command(*given, maps).refused("black everywhere")
