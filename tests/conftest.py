"""Small posteriors with known answers, shared by the tests; float64 unless stated otherwise."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import inverse
from inverse.priors.networks.unet import UNetConfig

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, the same in every run."""
    return torch.randn(*shape, generator=inverse.seeded("tests", seed), dtype=dtype)


def smooth_covariance(channels: int, height: int, width: int, variance: float = 0.1) -> Tensor:
    """Covariance (n, n) of a smooth image: neighbours correlate by 0.7, channels by 0.5."""
    distance = [
        (torch.arange(n)[:, None] - torch.arange(n)).abs().double() for n in (height, width)
    ]
    rows, columns = (0.7**d for d in distance)
    colours = 0.5 * torch.eye(channels, dtype=torch.float64) + 0.5
    return variance * (
        0.95 * torch.kron(colours, torch.kron(rows, columns))
        + 0.05 * torch.eye(channels * height * width, dtype=torch.float64)
    )


def image_prior(height: int = 8, width: int = 8) -> inverse.GaussianPrior:
    """A smooth Gaussian colour image in model units [-1, 1], physical units [0, 1]."""
    mean = 0.2 * normal(3, height, width, seed=7)
    return inverse.GaussianPrior(
        mean,
        smooth_covariance(3, height, width),
        shift=0.5,
        scale=0.5,
        sigma_min=0.01,
        sigma_max=20.0,
    )


def matrix_operator(matrix: Tensor, shape: tuple[int, ...]) -> Any:
    """The linear operator of a matrix (m, n) on flattened x (B, *shape); not decomposable."""
    return inverse.operator(lambda x: x.flatten(1) @ matrix.to(x).T, shape=shape)


def dense(operator: Any, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """The matrix (m, n) of a linear operator, column by column."""
    n = torch.Size(shape).numel()
    return operator.A(torch.eye(n, dtype=dtype).reshape(n, *shape)).flatten(1).T


def problems(sigma_y: float = 0.1) -> dict[str, inverse.Problem]:
    """Problems for an 8 x 8 image: closed-form solves, iterative solves, and unobserved pixels.

    The blur with iterative solves has condition number 3, because conjugate gradients amplify
    rounding errors on an ill-conditioned operator.
    """
    return {
        "denoise": inverse.get_problem("denoise", sigma_y=sigma_y),
        "blur": inverse.get_problem(
            "deblur", kernel="defocus", width=0.6, kernel_size=3, sigma_y=sigma_y
        ),
        "blur-circular": inverse.get_problem(
            "deblur",
            kernel="gaussian",
            width=1.0,
            kernel_size=5,
            boundary="circular",
            sigma_y=sigma_y,
        ),
        "area": inverse.get_problem("super-resolution", factor=2, filter="area", sigma_y=sigma_y),
        "inpainting": inverse.get_problem(
            "inpainting", mask="random", missing=0.3, sigma_y=sigma_y
        ),
    }


def draws(prior: inverse.GaussianPrior, count: int, seed: int = 0) -> Tensor:
    """Ground truths (count, *shape) drawn from a Gaussian prior, physical units."""
    return prior.decode(prior.sample(count, inverse.seeded("truths", seed)))


@pytest.fixture(scope="session")
def gaussian_prior() -> inverse.GaussianPrior:
    return image_prior()


@pytest.fixture
def gaussian_posterior(gaussian_prior: inverse.GaussianPrior) -> Callable[..., inverse.Posterior]:
    """Make posteriors of ground truths from the prior: gaussian_posterior("blur", images=2)."""

    def make(
        name: str = "blur", images: int = 2, sigma_y: float = 0.1, **options: Any
    ) -> inverse.Posterior:
        return problems(sigma_y)[name].posterior(
            draws(gaussian_prior, images), prior=gaussian_prior, dtype=torch.float64, **options
        )

    return make


@pytest.fixture
def flat_prior() -> inverse.FlatPrior:
    return inverse.FlatPrior((3, None, None), shift=0.5, scale=0.5)


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every parameter small random values; a new network's output layers are zero."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(
                normal(*parameter.shape, seed=1000 * seed + index).to(parameter.dtype) / fan_in**0.5
            )
    return module


@pytest.fixture
def network_prior() -> inverse.NetworkPrior:
    """A tiny U-Net with random weights, float32."""
    config = UNetConfig(channels=3, widths=(8, 16), blocks=(1, 1), embedding=16)
    prior = inverse.NetworkPrior.unet(config, shift=0.5, scale=0.5, sigma_min=0.01, sigma_max=20.0)
    return randomise(prior).eval().requires_grad_(False)


@contextmanager
def host_reads() -> Iterator[list[str]]:
    """Stack traces of every read of a tensor's number by the host, as in `.item()` or `bool(x)`.

    On a GPU the host waits for the device at each read.
    """
    reads: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._local_scalar_dense.default:
                reads.append("".join(traceback.format_stack(limit=6)[:-1]))
            return func(*args, **(kwargs or {}))

    with Watch():
        yield reads


@pytest.fixture
def unchanged_randomness():
    """Check that the test leaves torch's global generator unchanged."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)
