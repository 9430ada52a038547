"""Priors of consecutive hours: a Gaussian of trajectories, and compositions of shorter windows.

Fields are (hours * channels, H, W); all channels of the first hour come first.
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
    """The Gaussian of hours x_1, ..., x_L, whose coordinates along Q are AR(1) processes.

    Each hour is N(m, C) with C = Q diag(v - f) Q^T + f I. The coordinates are independent:

        cov(q_b^T x_i, q_b^T x_j) = v_b rho_b^|i - j|,

    and f rho_0^|i - j| for every direction orthogonal to Q. This is a Markov chain of first order.
    Large scales, with large rho, persist longer than small scales. Denoising, density and sampling
    are exact.

    Args:
        hour: law of an hour, (channels, H, W).
        persistence: rho, (r + 1,) in [0, 1); the last entry is rho_0.
        hours: L.
    """

    kind = "trajectory"
    single_precision = (*LowRankPrior.single_precision, "persistence")

    def __init__(self, hour: LowRankPrior, persistence: Tensor, hours: int):
        channels, *place = hour.mean.shape
        super().__init__((hours * channels, *place), **hour.units)
        self.hour, self.hours = hour, hours
        self.register_buffer("persistence", persistence.clone())
        lags = (torch.arange(hours)[:, None] - torch.arange(hours)).abs()
        # the (L, L) correlation of each coordinate
        shares, modes = torch.linalg.eigh(persistence.double()[:, None, None] ** lags)
        self.register_buffer("shares", shares.clamp_min(0).to(persistence.dtype), persistent=False)
        self.register_buffer("modes", modes.to(persistence.dtype), persistent=False)

    hour: LowRankPrior
    persistence: Tensor
    shares: Tensor
    modes: Tensor

    def over(self, hours: int) -> TrajectoryPrior:
        """The same process over another number of hours."""
        return TrajectoryPrior(self.hour, self.persistence, hours).to(self.persistence)

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """(hours * channels, H, W), model units."""
        return self.hour.mean.repeat(self.hours, 1, 1)

    @property
    def variances(self) -> Tensor:  # type: ignore[override]
        """Eigenvalues of the covariance: (r + 1, L), the directions orthogonal to Q last."""
        return torch.cat([self.hour.variances, self.hour.floor[None]])[:, None] * self.shares

    @property
    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of the covariance and the fraction of directions of each, (L (r + 1),)."""
        _, share = self.hour.eigenvalues
        shares = (share[:, None] / self.hours).expand_as(self.variances)
        return self.variances.flatten(), shares.flatten()

    @property
    def deviation(self) -> float:
        """Root mean square standard deviation of the entries of x0."""
        return self.hour.deviation

    def card_fields(self) -> dict[str, Any]:
        """Entries of the card of the prior."""
        return {
            "kind": self.kind,
            "hours": self.hours,
            "shape": list(self.shape),
            "rank": len(self.hour.variances),
        }

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each entry of x0: (*shape), model units."""
        return self.hour.spread.repeat(self.hours, 1, 1)

    @property
    def covariance(self) -> Tensor:
        """Dense covariance (n, n), model units."""
        like = self.persistence
        eye = torch.eye(self.mean.numel(), dtype=like.dtype, device=like.device)
        return self.spectral(eye.reshape(-1, *self.mean.shape), lambda v: v).reshape(len(eye), -1)

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(C) x, with f applied to the eigenvalues of the covariance: (B, *shape) -> same."""
        inside, outside = self._coordinates(x)
        values = f(self.variances)
        inside = torch.einsum("rij,brj->bir", self.modes[:-1], values[..., :-1, :] * inside)
        inside = inside @ self.hour.basis.T
        outside = torch.einsum("ij,bjn->bin", self.modes[-1], values[..., -1, :, None] * outside)
        return (inside + outside).reshape(x.shape)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x], exact: x (B, *shape), sigma () or (B,) -> (B, *shape)."""
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1) ** 2
        return self.mean + self.spectral(x - self.mean, lambda v: v / (v + s2))

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Log density of x0 + sigma n at x, nats: (B, *shape) -> (B,)."""
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1) ** 2
        inside, outside = self._coordinates(x - self.mean)
        total, free = self.variances + s2, self.hour.mean.numel() - len(self.hour.variances)
        within, rest = total[..., :-1, :], total[..., -1, :]
        along_q = (inside.square() / within + within.log()).sum((1, 2))
        orthogonal = (outside.square().sum(2) / rest + free * rest.log()).sum(1)
        return -0.5 * (along_q + orthogonal + self.mean.numel() * LOG_2PI)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent trajectories: (count, *shape), model units."""
        shape, like = (count, *self.mean.shape), self.persistence
        white = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        return self.mean + self.spectral(white, torch.sqrt)

    def _coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of x along the eigenvectors in time.

        Returns: of the coordinates along Q (B, r, L), and of the part orthogonal to Q (B, L, n).
        """
        flat = x.reshape(len(x), self.hours, -1)
        a = flat @ self.hour.basis
        inside = torch.einsum("rji,bjr->bri", self.modes[:-1], a)
        return inside, torch.einsum("ji,bjn->bin", self.modes[-1], flat - a @ self.hour.basis.T)


class ComposedPrior(Prior):
    """A trajectory denoised hour by hour, each hour from a window of 2k + 1 hours around it.

    The first k hours come from the first window, the last k hours from the last window. For a
    Markov chain the score is exact as sigma -> 0 and as sigma -> infinity. Between them the noised
    chain is not Markov; the error falls as k grows.

    Args:
        window: prior of 2k + 1 hours, (2k + 1) * channels in its first dimension.
        channels: channels of an hour.
        hours: hours of the trajectory, at least 2k + 1.

    Raises: OptionError for a window of an even number of hours, or longer than the trajectory.

    Source: Rozet, Louppe, Score-based Data Assimilation, NeurIPS 2023,
    https://arxiv.org/abs/2306.10574, section 3.1.
    """

    def __init__(self, window: Prior, channels: int, hours: int):
        length, remainder = divmod(window.shape[0] or 0, channels)
        if remainder or length % 2 == 0 or length > hours:
            raise OptionError(
                f"composition: needs windows of an odd number of hours, at most {hours}; "
                f"this prior has {window.shape[0]} / {channels}"
            )
        units = {
            "scale": window.scale,
            "shift": window.shift,
            "sigma_min": window.sigma_min,
            "sigma_max": window.sigma_max,
        }
        super().__init__((hours * channels, *window.shape[1:]), **units)
        self.window, self.channels, self.hours, self.k = window, channels, hours, length // 2

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] composed of windows: x (B, *shape), sigma () or (B,) -> (B, *shape)."""
        count, k = self.hours - 2 * self.k, self.k
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        frames = x.unflatten(1, (self.hours, self.channels))
        windows = torch.stack([frames[:, i : i + 2 * k + 1] for i in range(count)], 1).flatten(0, 1)
        denoised = self.window(windows.flatten(1, 2), sigma.repeat_interleave(count))
        denoised = denoised.reshape(len(x), count, 2 * k + 1, *frames.shape[2:])
        first, middle, last = denoised[:, 0, :k], denoised[:, :, k], denoised[:, -1, k + 1 :]
        return torch.cat([first, middle, last], 1).flatten(1, 2)


def over_hours(prior: Any, hours: int) -> Any:
    """A prior of `hours` consecutive hours, made from a prior of weather fields.

    A prior of this length is returned unchanged. A `TrajectoryPrior` changes its length; another
    prior of several hours becomes a `ComposedPrior`.

    Raises: OptionError for a prior of single hours, or of windows that cannot be composed.
    """
    if hours == 1 and not isinstance(prior, TrajectoryPrior):
        return prior
    channels = len(prior.extra["variables"])
    if prior.shape[0] == hours * channels:
        return prior
    if prior.shape[0] == channels and not isinstance(prior, TrajectoryPrior):
        name = getattr(prior, "name", type(prior).__name__)
        raise OptionError(
            f"prior {name}: is of single hours; a window of {hours} hours needs a prior of "
            "consecutive hours, such as era5-uk-t2m-hours"
        )
    longer: Any = (
        prior.over(hours)
        if isinstance(prior, TrajectoryPrior)
        else ComposedPrior(prior, channels, hours)
    )
    longer.extra, longer.name = prior.extra, getattr(prior, "name", type(prior).__name__)
    return longer.eval().requires_grad_(False)


def fit_persistence(law: LowRankPrior, before: Tensor, after: Tensor) -> Tensor:
    """The persistence rho of each direction of a law, and of the rest: (r + 1,).

    It is the correlation of fields an hour apart.

    Args:
        law: law of an hour, model units.
        before, after: (N, channels, H, W), physical units; `after` is an hour later.
    """
    a, b = ((law.encode(fields.to(law.mean)) - law.mean).flatten(1) for fields in (before, after))
    inside_a, inside_b = a @ law.basis, b @ law.basis
    outside_a, outside_b = a - inside_a @ law.basis.T, b - inside_b @ law.basis.T
    power = inside_a.square().sum(0) * inside_b.square().sum(0)
    along = (inside_a * inside_b).sum(0) / power.sqrt()
    power = outside_a.square().sum() * outside_b.square().sum()
    rest = (outside_a * outside_b).sum() / power.sqrt()
    return torch.cat([along, rest[None]]).clamp(0, 0.999)
