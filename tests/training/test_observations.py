"""Learning from masked measurements in one training: the loss, its minimiser, the command."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cli_fixtures import tiny_network
from conftest import normal

import inverse
from inverse.priors.loading import load_prior
from inverse.priors.networks.unet import UNetConfig
from inverse.priors.prior import NetworkPrior
from inverse.training.measurements import simulate, write_measurements
from inverse.training.observations import observation_loss, observed_masks

pytest_plugins = "cli_fixtures"

D, SIGMA = 4, 0.6
SEEN = torch.tensor([1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 1, D)


class Linear:
    """A denoiser of one mask: x0_hat = W (seen pixels) + b."""

    sigma_data = 1.0

    def __init__(self):
        self.W = torch.zeros(D, D, dtype=torch.float64, requires_grad=True)
        self.b = torch.zeros(D, dtype=torch.float64, requires_grad=True)

    def seeing(self, x, sigma, seen):
        return ((x * seen).flatten(1) @ self.W.T + self.b).reshape(x.shape)


def test_the_minimiser_is_the_conditional_mean_of_signals_that_were_never_seen():
    """x ~ N(m, C); every pixel is in half of the M; W and b are those of E[x0 | seen pixels]."""
    n = 60_000
    lag = (torch.arange(D)[:, None] - torch.arange(D)).abs().double()
    C, m = 0.8**lag, torch.linspace(-1, 1, D).double()
    g = inverse.seeded("linear")
    x = m + torch.randn(n, D, generator=g).double() @ torch.linalg.cholesky(C).T
    observed = torch.maximum(SEEN.expand(n, 1, 1, D), (torch.rand(n, 1, 1, D, generator=g) < 0.5))
    x, observed = x.reshape(n, 1, 1, D), observed.double()
    y = x * observed  # noiseless measurements, so that the target is x itself
    noise = SIGMA * torch.randn(n, 1, 1, D, generator=g).double()
    model, seen = Linear(), SEEN.double().expand_as(observed)
    optimiser = torch.optim.LBFGS([model.W, model.b], line_search_fn="strong_wolfe", max_iter=60)

    def closure():
        optimiser.zero_grad()
        loss = observation_loss(model, y, observed, seen, torch.full((n,), SIGMA), noise)
        loss.backward()
        return loss

    optimiser.step(closure)
    on = SEEN.flatten() > 0
    gain = torch.linalg.solve(C[on][:, on] + SIGMA**2 * torch.eye(2).double(), C[on]).T
    # a coefficient of a regression over n / 2 pairs has a standard error of about 1 / sqrt(n / 2)
    torch.testing.assert_close(model.W.detach()[:, on], gain, rtol=0, atol=5 / (n / 2) ** 0.5)
    torch.testing.assert_close(model.b.detach(), m - gain @ m[on], rtol=0, atol=5 / (n / 2) ** 0.5)


def told() -> NetworkPrior:
    return tiny_network(UNetConfig(channels=1, widths=(8, 16), blocks=(1, 1), extra=1))


def test_a_finished_prior_is_told_that_it_sees_every_pixel():
    prior, x, sigma = told(), normal(2, 1, 8, 8).float(), torch.tensor([0.3, 2.0])
    torch.testing.assert_close(prior(x, sigma), prior.seeing(x, sigma, torch.ones(2, 1, 8, 8)))


def test_unseen_pixels_have_no_influence():
    prior, sigma = told(), torch.tensor([0.3, 2.0])
    seen = (normal(2, 1, 8, 8) > 0).float()
    x, other = normal(2, 1, 8, 8, seed=1).float(), normal(2, 1, 8, 8, seed=2).float()
    mixed = x * seen + other * (1 - seen)
    torch.testing.assert_close(prior.seeing(x, sigma, seen), prior.seeing(mixed, sigma, seen))


def test_masks_of_measurements_are_found_and_other_operators_refused():
    task = inverse.get_problem("inpainting", mask="random", missing=0.5, sigma_y=0.05)
    x = torch.rand(4, 1, 8, 8)
    masks = observed_masks(simulate(task, x, mask_seed=[0, 1, 0, 1]))
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[1])
    with pytest.raises(inverse.InverseError, match="measurements of single pixels"):
        observed_masks(simulate(inverse.get_problem("deblur"), torch.rand(2, 3, 16, 16)))


def test_the_command_trains_in_the_form_of_observations(command, tmp_path):
    task = inverse.get_problem("inpainting", mask="random", missing=0.5, sigma_y=0.05)
    data = simulate(task, torch.rand(6, 1, 8, 8), mask_seed=[0, 1, 2] * 2)
    write_measurements(tmp_path / "m.npz", data, {"mask_seed": [0, 1, 2] * 2})
    outcome = command(
        *("train", "--from-measurements", "m.npz", "--problem", "inpainting"),
        *("--problem-option", "mask=random", "--problem-option", "sigma_y=0.05"),
        *("--form", "observations", "--widths", "8,16", "--blocks", "1,1", "--batch", "4"),
        *("--steps", "3", "--out", "own.safetensors"),
    )
    assert outcome.code == 0, outcome.err
    prior = load_prior("own.safetensors")
    assert prior.told_what_is_seen
    assert np.isfinite(float(prior(torch.zeros(1, 1, 8, 8), torch.tensor(1.0)).sum()))
