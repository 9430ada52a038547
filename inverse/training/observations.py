"""A prior of images from masked measurements, by denoising what was observed, in one training:

    y = M x0 + n.  A second mask K hides more. The network sees K M (x0 + sigma n) and K M itself,
    and predicts x0; only the pixels M of its prediction are compared, with y.

The minimiser is E[x0 | seen pixels] wherever some M observes a pixel. The finished prior is told
that it sees every pixel, which is more than any training example showed: there the network
extrapolates. It denoises an observation through a second operator, as Tewari et al., Diffusion with
Forward Models, NeurIPS 2023, https://arxiv.org/abs/2306.11719, without their context images; for
masks it is Daras et al., Ambient Diffusion, NeurIPS 2023, https://arxiv.org/abs/2305.19256.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.errors import OptionError
from inverse.measurement import operators
from inverse.measurement.noise import GaussianNoise
from inverse.priors.prior import NetworkPrior
from inverse.rows import like
from inverse.training.loop import TrainConfig, Training
from inverse.training.measurements import Measurements


def observed_masks(data: Measurements) -> Tensor:
    """The mask of each measurement: (N, 1, H, W), zeros and ones.

    Raises: OptionError unless every operator multiplies with a mask that is equal in all channels.
    """
    masks = torch.empty(len(data.y), 1, *data.shape[1:])
    ones = torch.ones(1, *data.shape)
    for group in data.groups:
        physics = operators.clone(
            group.problem.operator(data.shape), torch.device("cpu"), torch.float32
        )
        mask = physics.A(ones)
        probe = torch.rand(1, *data.shape, generator=torch.Generator().manual_seed(0))
        pixelwise = mask.shape == ones.shape and torch.equal(physics.A(probe), mask * probe)
        binary = pixelwise and bool(((mask == 0) | (mask == 1)).all())
        if not binary or not torch.equal(mask, mask[:, :1].expand_as(mask)):
            raise OptionError(
                "train: --form observations needs measurements of single pixels (inpainting); "
                f"{group.problem.name} measures something else; use --form signals"
            )
        masks[group.members] = mask[:, :1]
    return masks


def observation_loss(
    prior: Any, y: Tensor, observed: Tensor, seen: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Mean square error of the prediction on the observed pixels, weighted to unit size: ().

    Args:
        prior: has `seeing` and `sigma_data`.
        y: measurements in model units, with their own noise (B, C, H, W).
        observed, seen: masks M and K M (B, 1, H, W).
        sigma: total noise level of the seen pixels (B,), model units.
        noise: what is added to y (B, C, H, W).
    """
    s, d = like(sigma, y), prior.sigma_data
    error = observed * (prior.seeing((y + noise) * seen, sigma, seen) - y)
    weight = seen * (s**2 + d**2) / (s * d) ** 2 + (1 - seen) / d**2
    return (weight * error.square()).sum() / (observed.sum() * y.shape[1])


class ObservationTraining(Training):
    """A training on masked images.

    Args:
        data: measurements of single pixels.
        least: smallest share of the observed pixels that the network sees; the share is uniform
            from there to 1.
    """

    def __init__(
        self, data: Measurements, config: TrainConfig, checkpoint: Path, least: float = 0.5
    ):
        self.masks, self.y, self.least = observed_masks(data), data.y.float(), least
        noise = data.groups[0].problem.noise(data.shape)
        assert isinstance(noise, GaussianNoise)
        self.sigma_y = float(noise.sigma.max()) / 0.5  # model units
        network = replace(config.network, extra=1)
        super().__init__([], replace(config, network=network), checkpoint)

    def initial_model(self) -> NetworkPrior:
        seen = self.masks.expand_as(self.y) > 0
        spread = float(((self.y[seen] - 0.5) / 0.5).std())
        return NetworkPrior.unet(self.config.network, sigma_data=spread, shift=0.5, scale=0.5)

    def batch_loss(self, generator: torch.Generator) -> Tensor:
        config = self.config
        chosen = torch.randint(len(self.y), (config.batch,), generator=generator)
        observed, y = self.masks[chosen], self.prior.encode(self.y[chosen])
        share = self.least + (1 - self.least) * torch.rand(
            config.batch, 1, 1, 1, generator=generator
        )
        seen = observed * (torch.rand(observed.shape, generator=generator) < share)
        sigma = self.noise_levels(generator).clamp_min(self.sigma_y)  # y has noise already
        added = (sigma**2 - self.sigma_y**2).clamp_min(0).sqrt()
        noise = like(added, y) * torch.randn(y.shape, generator=generator)
        return observation_loss(self.prior, y, observed, seen, sigma, noise)
