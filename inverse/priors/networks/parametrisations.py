"""Networks of other libraries as priors, each turned into x0_hat = E[x0 | x0 + sigma n = x].

    VP        x_t = sqrt(abar_t) (x0 + sigma_t n),  sigma_t = sqrt(1 / abar_t - 1)
              eps network: x0 = x - sigma eps
              v network: v = sqrt(abar) eps - sqrt(1 - abar) x0
    flow      x_t = (1 - t) x0 + t n,  t = sigma / (1 + sigma),  v = n - x0,  x0 = x_t - t v
    denoiser  D(x, sigma), in its own units

Nothing is downloaded, and pickled weights are refused. `inverse.priors.networks.pipelines` reads
diffusers folders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inverse.errors import OptionError, PriorError
from inverse.priors.prior import Prior, RescaledPrior
from inverse.rows import like

Prediction = Literal["epsilon", "v_prediction", "sample"]
IMAGES = {"shift": 0.5, "scale": 0.5}
"""Units of networks trained on [-1, 1]: physical units are intensities in [0, 1]."""


class VPPrior(Prior):
    """A network of a variance-preserving process with discrete times, such as DDPM.

    Between two trained times, the network is evaluated at a fractional time, linear in log sigma.

    Args:
        network: (B, C, H, W) and times (B,) -> its prediction, or an object with the prediction as
            `.sample`. Channels beyond C (a learned variance) are dropped.
        alphas_cumprod: abar_t (T,), decreasing.
        prediction: epsilon, v_prediction or sample.
        shape: shape of one sample.

    Raises: PriorError for an unknown prediction, or abar that does not decrease from below 1.
    """

    def __init__(
        self,
        network: nn.Module,
        alphas_cumprod: Tensor,
        prediction: Prediction = "epsilon",
        shape: tuple[int | None, ...] = (3, None, None),
        **units: float,
    ):
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise PriorError(
                "VP network: prediction must be epsilon, v_prediction or sample, "
                f"got '{prediction}'"
            )
        sigmas = (1 / alphas_cumprod.double() - 1).sqrt()
        if not bool((sigmas.diff() > 0).all() and sigmas[0] > 0):
            raise PriorError("VP network: alphas_cumprod must decrease strictly from below 1")
        super().__init__(
            shape, sigma_min=float(sigmas[0]), sigma_max=float(sigmas[-1]), **(IMAGES | units)
        )
        self.network, self.prediction = network, prediction
        self.register_buffer("log_sigmas", sigmas.log().float())

    log_sigmas: Tensor

    def time(self, sigma: Tensor) -> Tensor:
        """The fractional time of a noise level, clamped to the trained times: (B,) -> (B,)."""
        log = sigma.log().to(self.log_sigmas)
        right = torch.searchsorted(self.log_sigmas, log).clamp(1, len(self.log_sigmas) - 1)
        low, high = self.log_sigmas[right - 1], self.log_sigmas[right]
        return (right - 1 + ((log - low) / (high - low)).clamp(0, 1)).to(sigma)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        s = like(sigma, x)
        x_t = x * (1 + s**2).rsqrt()
        out = self.network(x_t, self.time(sigma))
        out = getattr(out, "sample", out)[:, : x.shape[1]].to(x.dtype)
        if self.prediction == "epsilon":
            return x - s * out
        if self.prediction == "v_prediction":
            return (x_t - s * out) * (1 + s**2).rsqrt()
        return out


class FlowPrior(Prior):
    """A velocity network of straight paths between data and noise.

    Examples are rectified flow, stochastic interpolants and flow matching.

    Args:
        velocity: (B, *shape) and times (B,) -> (B, *shape).
        shape: shape of one sample.
        noise_at: the time of pure noise, 1 for x_t = (1 - t) x0 + t n and v = n - x0, or 0 for
            x_t = t x0 + (1 - t) n and v = x0 - n.

    Raises: PriorError for another `noise_at`.
    """

    def __init__(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        shape: tuple[int | None, ...] = (3, None, None),
        noise_at: int = 1,
        **units: float,
    ):
        if noise_at not in (0, 1):
            raise PriorError(f"flow network: noise_at must be 0 or 1, got {noise_at}")
        super().__init__(shape, **(IMAGES | units))
        self.velocity, self.noise_at = velocity, noise_at

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        t = sigma / (1 + sigma)
        x_t = x * like(1 - t, x)
        if self.noise_at == 1:
            return x_t - like(t, x) * self.velocity(x_t, t)
        return x_t + like(t, x) * self.velocity(x_t, 1 - t)


class DenoiserPrior(Prior):
    """Any function (x, sigma) -> x0_hat in its own units, e.g. a deepinv denoiser.

    Args:
        denoiser: (B, *shape) and noise levels (B,) -> (B, *shape).
        shape: shape of one sample.
    """

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        shape: tuple[int | None, ...] = (3, None, None),
        **units: float,
    ):
        super().__init__(shape, **units)
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.denoiser(
            x, torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        )


class ConsistencyPrior(Prior):
    """The network of a consistency model, which returns its input at sigma_min:

        x0 = c_skip x + c_out F(x / sqrt(sigma^2 + d^2), 250 log sigma)
        c_skip = d^2 / (m^2 + d^2),    c_out = m d / sqrt(sigma^2 + d^2)
        m = sigma - sigma_min,    d = sigma_data

    It returns a sample of x0 rather than the mean, so that methods that need the mean are
    approximate.

    Args:
        network: F, called with (B, C, H, W) and (B,).
        shape: shape of one sample.
        sigma_data: standard deviation of the training data, model units.

    Source: Song et al., Consistency Models, ICML 2023, https://arxiv.org/abs/2303.01469,
        appendix C.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int | None, ...] = (3, None, None),
        sigma_data: float = 0.5,
        **units: float,
    ):
        super().__init__(shape, **(IMAGES | units))
        self.network, self.sigma_data = network, float(sigma_data)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        s, d = like(sigma, x), self.sigma_data
        m, total = s - self.sigma_min, s**2 + d**2
        raw = self.network(x * total.rsqrt(), 250 * sigma.log())
        return x * (d**2 / (m**2 + d**2)) + raw * (m * d * total.rsqrt())


class LatentPrior(Prior):
    """A prior of the codes of an autoencoder: methods sample codes, operators act on images.

    Args:
        codes: the prior of the codes.
        decode: the decoder, differentiable: codes (B, *codes.shape) -> images (B, C, H, W),
            intensities in [0, 1].
    """

    affine = False

    def __init__(self, codes: Prior, decode: Callable[[Tensor], Tensor]):
        super().__init__(codes.shape, sigma_min=codes.sigma_min, sigma_max=codes.sigma_max)
        self.codes, self._decode = codes, decode

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.codes(x, sigma)

    def decode(self, x: Tensor) -> Tensor:
        """Codes -> images: (B, *codes.shape) -> (B, C, H, W), intensities in [0, 1]."""
        return self._decode(x)


def from_deepinv(
    denoiser: Any,
    shape: tuple[int | None, ...] = (3, None, None),
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Prior:
    """A deepinv denoiser (DRUNet, `ScoreModelWrapper`, ...) as a prior.

    The denoiser works on intensities in [0, 1]; the model units are [-1, 1].

    Args:
        shape: shape of one sample.
        sigma_min, sigma_max: smallest and largest trusted noise level, model units (twice
            deepinv's).
    """
    native = DenoiserPrior(
        lambda x, sigma: denoiser(x, like(sigma, x)),
        shape,
        sigma_min=sigma_min / 2,
        sigma_max=sigma_max / 2,
    )
    if isinstance(denoiser, nn.Module):
        native.network = denoiser  # a submodule moves with the prior
    return RescaledPrior(native, 0.5, 0.5)


def edm(
    network: nn.Module,
    shape: tuple[int | None, ...] = (3, None, None),
    sigma_data: float = 0.5,
    weights: Path | None = None,
    **units: float,
) -> Prior:
    """A network F(c_in x, log(sigma) / 4) under the preconditioning of EDM.

    Args:
        network: F, called with (B, C, H, W) and (B,).
        shape: shape of one sample.
        sigma_data: standard deviation of the training data, model units, > 0.
        weights: a .safetensors file with the weights; None to keep those of `network`.

    Raises: PriorError if the file is no safetensors file or does not fit the network, OptionError
        for a `sigma_data` that is not positive.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from inverse.priors.prior import NetworkPrior

    if not sigma_data > 0:
        raise OptionError(f"edm: sigma_data must be positive, got {sigma_data:g}")
    if weights is not None:
        try:
            network.load_state_dict(load_file(weights))
        except (SafetensorError, OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise PriorError(
                f"prior weights {weights}: not safetensors that fit the network ({reason})"
            ) from error
    return NetworkPrior(network, shape, sigma_data, **(IMAGES | units)).eval().requires_grad_(False)
