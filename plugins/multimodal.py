"""Multimodal guidance: several instruments, each with its own noise and tempering weight.

Chakraborty, Guan, Stock, Arcomano, Cervone, Maulik, Multimodal Atmospheric Super-Resolution With
Deep Generative Models, 2025, https://arxiv.org/abs/2506.22780 (sampler and guidance as in the
authors' code), with the guidance of Rozet, Louppe, Score-based Data Assimilation, NeurIPS 2023,
https://arxiv.org/abs/2306.10574 (sda).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

import inverse
from inverse.analytic_start import amplified, fitted_amplitude, unmet_requirement
from inverse.errors import OptionError
from inverse.measurement.modalities import per_modality
from inverse.per_image import image_by_image
from inverse_plugins._moment_matching import Solver, solve_moments

PUBLISHED = {
    "guidance": "sda",
    "corrected": True,
    "steps": 60,
    "sigma_max": 80.0,
    "sigma_min": 0.001,
    "weights": ("0.25", "coarse:1"),
    "std": ("5e-4", "coarse:0.1"),
    "gamma": ("2e-6", "coarse:5e-3"),
    "average": ("1", "coarse:0"),
}
"""The authors' settings: one for the coarse field; all other modalities use that of radiosondes."""


@dataclass(frozen=True)
class Multimodal(inverse.Guidance):
    """Add the likelihood scores of all modalities: prod_k p(y_k | x)^lambda_k.

    `mmps` and `pigdm` condition on all modalities jointly, with noise R_k / lambda_k; for one
    modality they equal the methods of those names (`pigdm` with step=score). `sda` adds the
    published scores, with variance R_k + gamma_k sigma^2 (in model units). `dps` descends
    |R_k^-1/2 r_k|, scaled to equal the likelihood's score where the residual has the size that
    the noise predicts.

    A value per modality is written "name:value"; a value without a name applies to all others.
    preset=published replaces every option left at its default by the authors' setting. Departures:
    the authors' clamp is off by default, and the operator decides which rows of the coarse
    residual count.

    Args:
        guidance: approximation of log p(y | x) at a noise level.
        weights: tempering weight lambda of each modality, positive, e.g. stations:0.25; by default
            1.
        gamma: for sda, share of sigma^2 added to the noise variance; the paper's is 1e-2.
        std: for sda, noise of each modality in model units; by default the problem's.
        average: for sda, 1 for modalities whose squared residuals are averaged, as in the authors'
            code, instead of summed.
        sigma_data: for pigdm, standard deviation of the data, model units.
        solver: for mmps, gmres or cg.
        iterations: for mmps, largest number of solver iterations.
        tolerance: for mmps, relative residual at which the solver stops.
        corrected: whether to step as the authors do: Heun's step on the prior alone, plus the full
            likelihood score at the start of the step.
        clamp: bound on each entry of the likelihood's gradient, model units; auto is none, the
            authors' is 1. The trace records the saturated fraction.
        amplitude: evidence scales the prior's anomalies so that y is most probable under its
            Gaussian; see `inverse.analytic_start.fitted_amplitude`.
        inflation: factor on the distance of the members from their ensemble's mean after the last
            step, for an overconfident prior.
        preset: published for the authors' settings.
    """

    name = "multimodal"
    reference = (
        "Chakraborty, Guan, Stock, Arcomano, Cervone, Maulik, Multimodal Atmospheric "
        "Super-Resolution With Deep Generative Models, 2025, "
        "https://arxiv.org/abs/2506.22780; "
        "sda: Rozet, Louppe, Score-based Data Assimilation, NeurIPS 2023, "
        "https://arxiv.org/abs/2306.10574"
    )
    equation = (
        "E[x0|x,y] = x0_hat + sigma^2 sum_k lambda_k grad_x log p(y_k | x),  "
        "p(y_k | x) ~ N(A_k x0_hat, R_k + A_k V A_k^T)"
    )
    claim = "exact in the limit"
    needs = ("gaussian",)

    steps: inverse.Count = 50
    sampler: str = "heun"
    guidance: Literal["mmps", "pigdm", "sda", "dps"] = "mmps"
    weights: tuple[str, ...] = ()
    gamma: tuple[str, ...] = ("1e-2",)
    std: tuple[str, ...] = ()
    average: tuple[str, ...] = ()
    sigma_data: inverse.Positive = 1.0
    solver: Solver = "gmres"
    iterations: inverse.Count = 20
    tolerance: inverse.NonNegative = 1e-3
    corrected: bool = False
    clamp: inverse.Positive | None = None
    amplitude: Literal["prior", "evidence"] = "prior"
    inflation: inverse.Positive = 1.0
    preset: Literal["none", "published"] = "none"

    def __post_init__(self):
        if self.preset == "published":
            for field, value in PUBLISHED.items():
                if getattr(self, field) == getattr(type(self), field):
                    object.__setattr__(self, field, value)
        super().__post_init__()
        bounds = {"weights": 0, "std": 0, "gamma": None, "average": None}
        for field, bound in bounds.items():
            for value in _values(field, getattr(self, field)).values():
                if not (value > bound if bound is not None else value >= 0):
                    raise OptionError(
                        f"multimodal: {field} must be "
                        f"{'positive' if bound is not None else 'at least 0'}, got {value:g}"
                    )

    def unsupported(self, posterior):
        if reason := super().unsupported(posterior):
            return reason
        if self.guidance in ("mmps", "pigdm") and not posterior.linear:
            found = type(posterior.operator).__name__
            return (
                f"multimodal needs a linear operator for guidance={self.guidance}, this "
                f"posterior has {found}; sda and dps do not"
            )
        if self.guidance == "dps" and posterior.noise.noiseless:
            return "multimodal needs sigma_y > 0 for guidance=dps"
        if self.amplitude == "evidence" and (reason := unmet_requirement(posterior)):
            return f"multimodal needs for amplitude=evidence {reason}"
        for field in ("weights", "std", "gamma", "average"):
            self._entries(posterior, field, 1.0)
        return None

    def derived(self, posterior):
        weights = self._entries(posterior, "weights", 1.0)
        settings = {
            f"weight_{name}": float(weights[..., part].flatten()[0])
            for name, part in posterior.operator.modalities.items()
        }
        if self.amplitude == "evidence":
            settings["amplitude"] = float(fitted_amplitude(posterior).mean())
        return settings

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        if self.amplitude == "prior":
            return self._run(posterior, samples, generator)
        return image_by_image(
            posterior, samples, generator, lambda one, n, g: self._run(amplified(one), n, g)
        )

    def _run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        x, sigmas = self.begin(posterior, generator)
        trace: list[dict[str, float]] = []
        if self.corrected:
            iterates = self._corrected_heun(posterior, x, sigmas, trace)
        else:
            iterates = inverse.get_sampler(self.sampler)(
                lambda x, sigma: self.denoise(posterior, x, sigma, trace), x, sigmas, generator
            )
        for x in iterates:
            yield x if self.clamp is None else inverse.Weighted(x, None, trace=trace)
        if self.inflation != 1:
            members = x.unflatten(0, (-1, samples))
            mean = members.mean(1, keepdim=True)
            x = (mean + self.inflation * (members - mean)).flatten(0, 1)
            yield x if self.clamp is None else inverse.Weighted(x, None, trace=trace)

    def denoise(
        self,
        posterior: inverse.Posterior,
        x: Tensor,
        sigma: Tensor,
        trace: list[dict[str, float]] | None = None,
    ) -> Tensor:
        x0_hat, score = self.likelihood(posterior, x, sigma, trace)
        return x0_hat + sigma**2 * score

    def likelihood(self, posterior, x, sigma, trace=None):
        """x0_hat and sum_k lambda_k grad_x log p(y_k | x), clamped: (B, *shape) each."""
        x0_hat, vjp = posterior.tweedie(x, sigma)
        score = vjp(
            posterior.A_vjp(
                x0_hat,
                getattr(self, f"_{self.guidance}")(
                    posterior, posterior.residual(x0_hat), sigma, vjp
                ),
            )
        )
        if self.clamp is None:
            return x0_hat, score
        if trace is not None:
            trace.append(
                {
                    "sigma": float(torch.as_tensor(sigma).max()),
                    "saturated": float((score.abs() > self.clamp).double().mean()),
                }
            )
        return x0_hat, score.clamp(-self.clamp, self.clamp)

    def _mmps(self, posterior, r, sigma, vjp):
        tempered = self._tempered(posterior)
        return solve_moments(tempered, r, sigma, vjp, self.solver, self.iterations, self.tolerance)

    def _pigdm(self, posterior, r, sigma, vjp):
        return self._tempered(posterior).solve_normal(
            r, sigma**2 * self.sigma_data**2 / (sigma**2 + self.sigma_data**2)
        )

    def _sda(self, posterior, r, sigma, vjp):
        gain = posterior.prior.scale**2
        R = (
            gain * self._entries(posterior, "std", 1.0) ** 2
            if self.std
            else posterior.noise.variance(r)
        )
        size = torch.where(
            self._entries(posterior, "average", 0.0) > 0, _sizes(posterior), torch.ones_like(r[0])
        )
        return (
            self._entries(posterior, "weights", 1.0)
            * r
            / (size * (R + self._entries(posterior, "gamma", 0.0) * gain * sigma**2))
        )

    def _dps(self, posterior, r, sigma, vjp):
        R, v = posterior.noise.variance(r), torch.zeros_like(r)
        for part in posterior.operator.modalities.values():
            white = (r / R.sqrt() * posterior.noise.weights(r))[..., part]
            norm = white.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, *[1] * (r.ndim - 1))
            v[..., part] = white * (white[0].numel() ** 0.5 / norm)
        return self._entries(posterior, "weights", 1.0) * v / R.sqrt()

    def _corrected_heun(self, posterior, x, sigmas, trace):
        """x' = x + (t - s) [(d + d') / 2 - s grad_x log p(y | x)], d and d' the prior's slopes.

        The last step, into 0, is the prior's alone.
        """
        for s, t in pairwise(sigmas):
            if t == 0:
                x = posterior.denoise(x, s)
            else:
                x0_hat, score = self.likelihood(posterior, x, s, trace)
                d = (x - x0_hat) / s
                ahead = x + (t - s) * d
                x = x + (t - s) * (
                    0.5 * d + 0.5 * (ahead - posterior.denoise(ahead, t)) / t - s * score
                )
            yield x

    def _tempered(self, posterior):
        return (
            posterior.tempered(self._entries(posterior, "weights", 1.0))
            if self.weights
            else posterior
        )

    def _entries(self, posterior, field, default):
        """The option's value for each entry of y.

        The authors name two modalities, either of which may be absent, and weight a modality only
        beside others.
        """
        values = _values(field, getattr(self, field))
        published = getattr(self, field) == PUBLISHED.get(field)
        if published:
            values = {
                name: value
                for name, value in values.items()
                if name in ("", *posterior.operator.modalities)
            }
            values = (
                {} if field == "weights" and len(posterior.operator.modalities) == 1 else values
            )
        return per_modality(
            posterior.operator,
            posterior.y,
            {name: value for name, value in values.items() if name},
            values.get("", default),
        )


def _values(field, texts):
    """("0.25", "coarse:1") as {"": 0.25, "coarse": 1.0}."""
    values = {}
    for text in texts:
        name, _, value = text.rpartition(":")
        try:
            values[name] = float(value)
        except ValueError as error:
            raise OptionError(
                f"multimodal: {field} takes numbers, or name:number for one modality, got '{text}'"
            ) from error
    return values


def _sizes(posterior):
    """Number of entries in the modality of each entry of y: (*out_shape)."""
    counts = {
        name: posterior.y[0][..., part].numel()
        for name, part in posterior.operator.modalities.items()
    }
    return per_modality(posterior.operator, posterior.y, counts)


@inverse.hookimpl
def inverse_methods():
    return [Multimodal]
