"""Consecutive hours of a field as one unknown: a Gaussian of trajectories, and longer ones composed of the windows that a prior knows.

Fields are (hours * channels, H, W), all channels of the first hour first.

Source of the composition: Rozet, Louppe, Score-based Data Assimilation, NeurIPS 2023, https://arxiv.org/abs/2306.10574, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inverse.errors import OptionError
from inverse.priors.analytic import LOG_2PI, FieldLaw, LowRankPrior
from inverse.priors.prior import Prior


class TrajectoryPrior(FieldLaw):
    """Hours x_1, ..., x_L, each N(m, C) with C = Q diag(v - f) Q^T + f I, whose coordinates along Q are independent AR(1) processes:

        cov(q_b^T x_i, q_b^T x_j) = v_b rho_b^|i - j|,    and f rho_0^|i - j| for every direction orthogonal to Q.

    It is a Markov chain of first order. Large scales, with large rho, last longer than small ones. Denoising, density and draws are exact.

    Args:
        hour: the law of one hour, (channels, H, W).
        persistence: rho, (r + 1,), the last one that of the floor, in [0, 1).
        hours: L.
    """

    kind = "trajectory"
    single_precision = (*LowRankPrior.single_precision, "persistence")

    def __init__(self, hour: LowRankPrior, persistence: Tensor, hours: int):
        channels, *place = hour.mean.shape
        super().__init__((hours * channels, *place), **hour.units)
        self.hour, self.hours = hour, hours
        self.register_buffer("persistence", persistence.clone())
        apart = (torch.arange(hours)[:, None] - torch.arange(hours)).abs()
        shares, modes = torch.linalg.eigh(
            persistence.double()[:, None, None] ** apart
        )  # of the (L, L) correlation of each coordinate
        self.register_buffer("shares", shares.clamp_min(0).to(persistence.dtype), persistent=False)
        self.register_buffer("modes", modes.to(persistence.dtype), persistent=False)

    hour: LowRankPrior
    persistence: Tensor
    shares: Tensor
    modes: Tensor

    def over(self, hours: int) -> TrajectoryPrior:
        """The same process for another number of hours."""
        return TrajectoryPrior(self.hour, self.persistence, hours).to(self.persistence)

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return self.hour.mean.repeat(self.hours, 1, 1)

    @property
    def variances(self) -> Tensor:  # type: ignore[override]
        """Eigenvalues of the covariance, those of Q's coordinates and then of the rest: (r + 1, L)."""
        return torch.cat([self.hour.variances, self.hour.floor[None]])[:, None] * self.shares

    @property
    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """Those of the covariance, and the share of the directions that has each, (L (r + 1),) both."""
        _, share = self.hour.eigenvalues
        return self.variances.flatten(), (share[:, None] / self.hours).expand_as(
            self.variances
        ).flatten()

    @property
    def deviation(self) -> float:
        """Root mean square standard deviation of the entries of x0."""
        return self.hour.deviation

    def card_fields(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "hours": self.hours,
            "shape": list(self.shape),
            "rank": len(self.hour.variances),
        }

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each entry of x0: (*shape)."""
        return self.hour.spread.repeat(self.hours, 1, 1)

    @property
    def covariance(self) -> Tensor:
        eye = torch.eye(
            self.mean.numel(), dtype=self.persistence.dtype, device=self.persistence.device
        )
        return self.spectral(eye.reshape(-1, *self.mean.shape), lambda v: v).reshape(len(eye), -1)

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(C) x, f applied to the eigenvalues of the covariance: (B, *shape) -> same."""
        inside, outside = self._coordinates(x)
        values = f(self.variances)
        inside = (
            torch.einsum("rij,brj->bir", self.modes[:-1], values[..., :-1, :] * inside)
            @ self.hour.basis.T
        )
        outside = torch.einsum("ij,bjn->bin", self.modes[-1], values[..., -1, :, None] * outside)
        return (inside + outside).reshape(x.shape)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1) ** 2
        return self.mean + self.spectral(x - self.mean, lambda v: v / (v + s2))

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1) ** 2
        inside, outside = self._coordinates(x - self.mean)
        total, free = self.variances + s2, self.hour.mean.numel() - len(self.hour.variances)
        within, rest = total[..., :-1, :], total[..., -1, :]
        terms = (inside.square() / within + within.log()).sum((1, 2)) + (
            outside.square().sum(2) / rest + free * rest.log()
        ).sum(1)
        return -0.5 * (terms + self.mean.numel() * LOG_2PI)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        white = torch.randn(
            count,
            *self.mean.shape,
            generator=generator,
            dtype=self.persistence.dtype,
            device=self.persistence.device,
        )
        return self.mean + self.spectral(white, torch.sqrt)

    def _coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Along the eigenvectors in time: those of Q's coordinates (B, r, L), and of what is orthogonal to Q (B, L, n)."""
        flat = x.reshape(len(x), self.hours, -1)
        a = flat @ self.hour.basis
        inside = torch.einsum("rji,bjr->bri", self.modes[:-1], a)
        return inside, torch.einsum("ji,bjn->bin", self.modes[-1], flat - a @ self.hour.basis.T)


class ComposedPrior(Prior):
    """A trajectory denoised hour by hour, each from the k hours before and after it: the middle of a window of 2k + 1, and at the ends
    what the first and the last window say there.

    With the pseudo-blanket k a Markov chain's score is exact as sigma -> 0 and, as every denoiser, as sigma -> infinity; between them
    the noised chain is no Markov chain, and the error falls as k grows.

    Args:
        window: a prior of 2k + 1 hours, (2k + 1) * channels in its first dimension.
        channels: of one hour.
        hours: of the trajectory, at least 2k + 1.

    Raises: OptionError for a window of an even number of hours, or one longer than the trajectory.
    """

    def __init__(self, window: Prior, channels: int, hours: int):
        wide, left = divmod(window.shape[0] or 0, channels)
        if left or wide % 2 == 0 or wide > hours:
            raise OptionError(
                f"composition: needs windows of an odd number of hours, at most {hours}; this prior has {window.shape[0]} / {channels}"
            )
        units = {
            "scale": window.scale,
            "shift": window.shift,
            "sigma_min": window.sigma_min,
            "sigma_max": window.sigma_max,
        }
        super().__init__((hours * channels, *window.shape[1:]), **units)
        self.window, self.channels, self.hours, self.k = window, channels, hours, wide // 2

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        count, k = self.hours - 2 * self.k, self.k
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        frames = x.unflatten(1, (self.hours, self.channels))
        windows = torch.stack([frames[:, i : i + 2 * k + 1] for i in range(count)], 1).flatten(0, 1)
        found = self.window(windows.flatten(1, 2), sigma.repeat_interleave(count)).reshape(
            len(x), count, 2 * k + 1, *frames.shape[2:]
        )
        return torch.cat([found[:, 0, :k], found[:, :, k], found[:, -1, k + 1 :]], 1).flatten(1, 2)


def over_hours(prior: Any, hours: int) -> Any:
    """A prior of so many consecutive hours: one that is, a trajectory of another length, or what the windows of a prior compose to.

    Raises: OptionError for a prior of single hours, or of windows that do not compose.
    """
    if hours == 1 and not isinstance(prior, TrajectoryPrior):
        return prior
    channels = len(prior.extra["variables"])
    if prior.shape[0] == hours * channels:
        return prior
    if prior.shape[0] == channels and not isinstance(prior, TrajectoryPrior):
        name = getattr(prior, "name", type(prior).__name__)
        raise OptionError(
            f"prior {name}: knows single hours; a window of {hours} needs one of consecutive hours, such as era5-uk-t2m-hours"
        )
    longer: Any = (
        prior.over(hours)
        if isinstance(prior, TrajectoryPrior)
        else ComposedPrior(prior, channels, hours)
    )
    longer.extra, longer.name = prior.extra, getattr(prior, "name", type(prior).__name__)
    return longer.eval().requires_grad_(False)


def fit_persistence(law: LowRankPrior, before: Tensor, after: Tensor) -> Tensor:
    """rho of each of a law's directions and of the rest, (r + 1,): correlations of fields an hour apart, (N, channels, H, W), physical units."""
    a, b = ((law.encode(fields.to(law.mean)) - law.mean).flatten(1) for fields in (before, after))
    inside = [x @ law.basis for x in (a, b)]
    outside = [x - y @ law.basis.T for x, y in zip((a, b), inside, strict=True)]
    along = (inside[0] * inside[1]).sum(0) / (
        inside[0].square().sum(0) * inside[1].square().sum(0)
    ).sqrt()
    rest = (outside[0] * outside[1]).sum() / (
        outside[0].square().sum() * outside[1].square().sum()
    ).sqrt()
    return torch.cat([along, rest[None]]).clamp(0, 0.999)
