"""Walks with independent increments (sampled Levy processes): an exact denoiser, and a Gibbs sampler of any linear posterior.

    x_t = u_1 + ... + u_t,    u_t i.i.d. and symmetric,    u | w ~ N(0, w) or u = 0

The walk is a Markov chain, so that denoising it is forward-backward message passing in one dimension. Given linear
measurements the increments are Gaussian once their variances w (and, where they have an atom at 0, their indicators) are
known, which is the Gibbs sampler.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from inverse.prior import Prior


@dataclass(frozen=True)
class Increments(ABC):
    """A symmetric law of one increment u, a scale mixture of Gaussians.

    Args:
        scale: of u, > 0.
    """

    scale: float = 1.0

    @property
    def std(self) -> float:
        """Standard deviation of u; infinite where it does not exist."""
        return self.scale

    @property
    def spike(self) -> float:
        """P(u = 0)."""
        return 0.0

    @property
    def jumps(self) -> bool:
        """Whether u now and then dwarfs its neighbours, so that chains must be helped to move a jump in time."""
        return False

    @abstractmethod
    def density(self, u: Tensor) -> Tensor:
        """p(u), given that u is not the spike: any shape -> same."""

    @abstractmethod
    def prior_variances(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of w in the shape and dtype of a tensor."""

    @abstractmethod
    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of w given u: any shape -> same."""

    def scaled(self, factor: float) -> Increments:
        """The law of factor u."""
        return replace(self, scale=factor * self.scale)

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Independent increments in the shape and dtype of a tensor."""
        u = self.prior_variances(like, generator).sqrt() * _normal(like, generator)
        return torch.where(_uniform(like, generator) < self.spike, torch.zeros_like(u), u) if self.spike else u


@dataclass(frozen=True)
class GaussianIncrements(Increments):
    """N(0, scale^2)."""

    def density(self, u: Tensor) -> Tensor:
        return torch.exp(-0.5 * (u / self.scale) ** 2) / (self.scale * math.sqrt(2 * math.pi))

    def prior_variances(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full_like(like, self.scale**2)

    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        return self.prior_variances(u, generator)


@dataclass(frozen=True)
class LaplaceIncrements(Increments):
    """p(u) = exp(-|u| / scale) / (2 scale), with w ~ Exponential of mean 2 scale^2.

    1 / w given u is inverse-Gaussian of mean 1 / (scale |u|) and shape 1 / scale^2: Park, Casella, The Bayesian Lasso, JASA 2008;
    drawn as in Michael, Schucany, Haas, Generating Random Variates Using Transformations with Multiple Roots, 1976, for w itself
    and without cancellation as u -> 0.
    """

    @property
    def std(self) -> float:
        return math.sqrt(2) * self.scale

    def density(self, u: Tensor) -> Tensor:
        return torch.exp(-u.abs() / self.scale) / (2 * self.scale)

    def prior_variances(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return -2 * self.scale**2 * torch.log1p(-_uniform(like, generator))

    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        inverse_mean, half = self.scale * u.abs(), 0.5 * self.scale**2 * _normal(u, generator) ** 2
        root = inverse_mean + half + (half * (2 * inverse_mean + half)).sqrt()
        return torch.where(_uniform(u, generator) * (root + inverse_mean) <= root, root, inverse_mean**2 / root)


@dataclass(frozen=True)
class BernoulliLaplaceIncrements(LaplaceIncrements):
    """u = 0 with probability 1 - rate, else Laplace.

    Args:
        rate: P(u != 0), in (0, 1).
    """

    rate: float = 0.1

    @property
    def std(self) -> float:
        return math.sqrt(2 * self.rate) * self.scale

    @property
    def spike(self) -> float:
        return 1 - self.rate

    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        return torch.where(u == 0, self.prior_variances(u, generator), super().variances(u, generator))


@dataclass(frozen=True)
class StudentIncrements(Increments):
    """Student's t: w = df scale^2 / chi^2_df, and given u (df scale^2 + u^2) / chi^2_(df + 1).

    Args:
        df: degrees of freedom, a positive integer.
    """

    df: int = 1

    @property
    def std(self) -> float:
        return self.scale * math.sqrt(self.df / (self.df - 2)) if self.df > 2 else math.inf

    @property
    def jumps(self) -> bool:
        return True

    def density(self, u: Tensor) -> Tensor:
        constant = math.gamma((self.df + 1) / 2) / (math.gamma(self.df / 2) * math.sqrt(self.df * math.pi) * self.scale)
        return constant * (1 + (u / self.scale) ** 2 / self.df) ** (-(self.df + 1) / 2)

    def prior_variances(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return self.df * self.scale**2 / _chi_square(like, self.df, generator)

    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        return (self.df * self.scale**2 + u**2) / _chi_square(u, self.df + 1, generator)


class WalkPrior(Prior):
    """The walk of T increments, with E[x0 | x] by forward-backward message passing on lattices, in float64 whatever the input.

    Every x0_t has its own window of the lattice h Z (h one per row), `reach` sigma around x_t: for x that the model can have
    produced, x0_t is outside with the probability that Gaussian noise exceeds `reach` standard deviations. Where the walk itself stays in a smaller range (8
    standard deviations of x0_T, for increments that have one), the window is that range. The increments' law is moved to the lattice by
    quadratic interpolation, which keeps its mean, its variance and its spike; messages are convolved by FFT. There are 64 to `points`
    lattice points, as many as a step of `step` needs: at most sigma / 4.5 where noise is small, and where it is large about a
    tenth of the walk's typical size, or sigma / 9 if that is more.

    Args:
        increments: in model units.
        length: T.
        points: most lattice points of a window, a power of 2.
        step: lattice step wanted where sigma is large (model units).
        reach: half-width of a window in units of sigma.
    """

    exact = True

    def __init__(self, increments: Increments, length: int, *, points: int = 128, step: float = 0.1, reach: float = 7.0, **units: float):
        super().__init__((length,), **units)
        self.increments, self.points, self.step, self.reach = increments, points, step, reach
        self.register_buffer("mean", torch.zeros(length, dtype=torch.float64))

    mean: Tensor

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent walks: (count, T)."""
        return self.increments.sample(self.mean.expand(count, -1), generator).cumsum(1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.moments(x, sigma)[0].to(x.dtype)

    def moments(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and variance of each x0_t given x, float64: x (B, T), sigma () or (B,) -> (B, T), (B, T)."""
        z, steps = x.double(), x.shape[1]
        s = torch.as_tensor(sigma, dtype=z.dtype, device=z.device).expand(len(z))
        half = (self.reach * s).clamp(max=8 * math.sqrt(steps) * self.increments.std)
        n = min(max(64, 2 ** math.ceil(math.log2(2 * float(half.max()) / self.step + 1))), self.points)
        h = 2 * half / (n - 1)
        centre = torch.where((half < self.reach * s)[:, None], 0.0, z.detach())
        first = torch.round(centre / h[:, None]) - n // 2  # of each window, in steps of h: (B, T)
        offsets = torch.arange(n, dtype=z.dtype, device=z.device)

        logits = -0.5 * ((z[..., None] - h[:, None, None] * (first[..., None] + offsets)) / s[:, None, None]) ** 2
        emission = (logits - logits.detach().amax(-1, keepdim=True)).clamp_min(-300).exp().unbind(1)
        ring = torch.cat([offsets, offsets - n])  # lags of a circular convolution of length 2 n
        kernel = torch.fft.rfft(self._lattice_law(first[:, 1:, None] - first[:, :-1, None] + ring, h)).unbind(1)
        start = self._lattice_law(first[:, :1] + offsets, h)

        message = torch.stack([start * emission[0], emission[-1]])
        forward, backward = [message[0]], [torch.ones_like(emission[-1])]
        for t in range(1, steps):
            both = torch.stack([kernel[t - 1], kernel[steps - 1 - t].conj()])
            predicted = torch.fft.irfft(torch.fft.rfft(message, 2 * n) * both, 2 * n)[..., :n].clamp_min(1e-30)  # no message vanishes
            message = predicted * torch.stack([emission[t], emission[steps - 1 - t]])
            message = message / message.detach().sum(-1, keepdim=True)
            forward.append(message[0])
            backward.append(predicted[1] / predicted[1].detach().sum(-1, keepdim=True))
        marginal = torch.stack(forward, 1) * torch.stack(backward[::-1], 1)
        marginal = marginal / marginal.sum(-1, keepdim=True)
        place = marginal @ offsets
        spread = (marginal * (offsets - place[..., None]) ** 2).sum(-1)
        return h[:, None] * (first + place), h[:, None] ** 2 * spread

    def _lattice_law(self, lags: Tensor, h: Tensor) -> Tensor:
        """P(u = lag h), up to a factor per last dimension, of the law on the lattice: lags (B, ..., n) of integers, h (B,) -> (B, ..., n).

        Near 0 from the moments of p in the cells around the lattice points; further out p itself, of which the former is the
        fourth-order approximation.
        """
        table = self._central_law(h)
        size = lags.abs()
        wide = h.reshape(-1, *[1] * (lags.ndim - 1))
        law = self.increments.density(size * wide).mul_((1 - self.increments.spike) * wide)
        near = (size < table.shape[1]).nonzero(as_tuple=True)
        law[near] = table[near[0], size[near].long()]
        return law.clamp_min_(1e-300).div_(law.amax(-1, keepdim=True))

    def _central_law(self, h: Tensor, cells: int = 16) -> Tensor:
        """Masses of the lattice points 0, h, ..., (cells - 1) h: h (B,) -> (B, cells).

        m_j = E[delta^j; cell], delta in (-1/2, 1/2) the place within a cell; u goes to the three points around it with the weights
        of quadratic interpolation. Gauss-Legendre nodes in arcsinh(u / scale), which resolves the law in one cell or in many.
        """
        nodes, weights = (torch.as_tensor(a, dtype=h.dtype, device=h.device) for a in np.polynomial.legendre.leggauss(24))
        index = torch.arange(cells + 1, dtype=h.dtype, device=h.device)
        low, high = ((h[:, None] * edge / self.increments.scale).asinh() for edge in ((index - 0.5).clamp_min(0), index + 0.5))
        v = low[..., None] + (high - low)[..., None] * (nodes + 1) / 2
        u = self.increments.scale * v.sinh()
        mass = self.increments.density(u) * self.increments.scale * v.cosh() * (high - low)[..., None] / 2 * weights
        mass[:, 0] *= 2
        delta = u / h[:, None, None] - index[:, None]
        m0, m1, m2 = ((mass * delta**j).sum(-1) for j in range(3))
        m1[:, 0] = 0
        inner = torch.cat([(m2 - m1)[:, 1:2], (m2 + m1)[:, :-2]], 1)  # from the cell nearer to 0; for point 0, from its mirror image
        law = (m0 - m2)[:, :-1] + 0.5 * (inner + (m2 - m1)[:, 1:])
        law = (1 - self.increments.spike) * law
        law[:, 0] += self.increments.spike
        return law


@dataclass(frozen=True)
class Gibbs:
    """A Gibbs sampler of x, its increments u = differences of x, given y = matrix x + N(0, sigma_y^2 I). One sweep:

        w | u;   indicators, or exchanges of neighbouring w, given y;   u | w, indicators, y.

    The middle step has u integrated out. An indicator could otherwise not change, since u = 0 implies it; and the variance of
    a jump could not move to its neighbour, which is tiny until it has. All of it for K independent chains at once.

    Args:
        increments: units of x.
        matrix: (m, T), float64.
        sigma_y: units of y, > 0.
    """

    increments: Increments
    matrix: Tensor
    sigma_y: float

    @cached_property
    def view(self) -> Tensor:
        """The matrix on increments, divided by sigma_y: (m, T)."""
        return self.matrix.flip(1).cumsum(1).flip(1) / self.sigma_y

    @cached_property
    def gram(self) -> Tensor:
        return self.view.T @ self.view

    def sweep(self, u: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Increments (K, T) given measurements (K, m) -> the chains' next increments."""
        pull = y / self.sigma_y @ self.view
        w = self.increments.variances(u, generator)
        if self.increments.spike:
            w = w * self._indicators((u != 0).to(w), w, pull, generator)
        elif self.increments.jumps:
            w = self._exchange(w, pull, generator)
        return self._increments(w, pull, generator)

    def run(self, y: Tensor, generator: torch.Generator, chains: int = 4, burn_in: int = 500, keep: int = 1000) -> Tensor:
        """Walks of chains from independent prior variances, all sweeps after the burn-in: y (K, m) -> (K, chains, keep, T)."""
        y = y.repeat_interleave(chains, 0)
        u = self._increments(self.increments.prior_variances(y.new_zeros(len(y), self.matrix.shape[1]), generator), y / self.sigma_y @ self.view, generator)
        kept = []
        for sweep in range(burn_in + keep):
            u = self.sweep(u, y, generator)
            if sweep >= burn_in:
                kept.append(u.cumsum(1))
        return torch.stack(kept, 1).unflatten(0, (-1, chains))

    def _increments(self, w: Tensor, pull: Tensor, generator: torch.Generator) -> Tensor:
        """u ~ N(0, diag w) given y, as u = sqrt(w) z with precision I + sqrt(w) G sqrt(w) of z: w, pull (K, T) -> (K, T)."""
        root, L = self._factor(w)
        b = torch.linalg.solve_triangular(L, (root * pull)[..., None], upper=False) + _normal(root[..., None], generator)
        return root * torch.linalg.solve_triangular(L.mT, b, upper=True)[..., 0]

    def _factor(self, w: Tensor) -> tuple[Tensor, Tensor]:
        root = w.sqrt()
        precision = root[:, :, None] * self.gram * root[:, None]
        precision.diagonal(dim1=1, dim2=2).add_(1)
        return root, torch.linalg.cholesky(precision)

    def _indicators(self, on: Tensor, w: Tensor, pull: Tensor, generator: torch.Generator) -> Tensor:
        """The indicators' conditionals p(on_i | on_others, w, y) in turn, where y ~ N(0, sigma_y^2 I + H diag(on w) H^T): (K, T) -> (K, T).

        P = H^T S^-1 H and q = H^T S^-1 y, S the covariance of y, follow every flip by a rank-one update.
        """
        root, L = self._factor(w * on)
        V = torch.linalg.solve_triangular(L, torch.cat([root[..., None] * self.gram, (root * pull)[..., None]], -1), upper=False)
        P, q = self.gram - V[..., :-1].mT @ V[..., :-1], pull - (V[..., :-1].mT @ V[..., -1:])[..., 0]
        threshold = torch.logit(_uniform(on, generator)) + math.log(self.increments.spike / (1 - self.increments.spike))
        on = on.clone()
        for i in range(on.shape[1]):
            p, wi, was = P[:, i, i], w[:, i], on[:, i].clone()
            rest = 1 - was * wi * p  # without increment i, its p and q are p / rest and q / rest
            gain = 1 + wi * p / rest
            log_ratio = 0.5 * (wi * (q[:, i] / rest) ** 2 / gain - gain.log())
            on[:, i] = (log_ratio > threshold[:, i]).to(on)
            change = (on[:, i] - was) * wi
            change = (change / (1 + change * p))[:, None]
            column = P[:, :, i].clone()
            q = q - change * column * q[:, i : i + 1]
            P = torch.baddbmm(P, -(change * column)[..., None], column[:, None])
        return on

    def _exchange(self, w: Tensor, pull: Tensor, generator: torch.Generator) -> Tensor:
        """Metropolis exchanges of w_i and w_(i+1) in turn, forwards or backwards, accepted by the ratio of p(y | w): (K, T) -> (K, T).

        C and mu, the covariance and mean of u given w and y, follow every exchange by a rank-two update.
        """
        root, L = self._factor(w)
        C = root[:, :, None] * torch.cholesky_inverse(L) * root[:, None]
        mu = (C @ pull[..., None])[..., 0]
        threshold = _uniform(w, generator).log()
        w = w.clone()
        order = range(w.shape[1] - 1)
        for i in order if torch.rand((), generator=generator) < 0.5 else reversed(order):
            tau = 1 / w[:, i + 1] - 1 / w[:, i]  # added to the precision of u_i, taken from that of u_(i+1)
            a, b, c = C[:, i, i], C[:, i, i + 1], C[:, i + 1, i + 1]
            determinant = (1 + tau * a) * (1 - tau * c) + (tau * b) ** 2
            # K = (I + T C_2)^-1 T with T = diag(tau, -tau)
            k_ii, k_ij, k_jj = tau * (1 - tau * c) / determinant, tau**2 * b / determinant, -tau * (1 + tau * a) / determinant
            m, n = mu[:, i], mu[:, i + 1]
            log_ratio = -0.5 * (determinant.log() + k_ii * m**2 + 2 * k_ij * m * n + k_jj * n**2)
            accept = (log_ratio > threshold[:, i]).to(w)
            K = accept[:, None, None] * torch.stack([k_ii, k_ij, k_ij, k_jj], -1).unflatten(-1, (2, 2))
            pair = C[:, :, i : i + 2]
            weighted = pair @ K
            mu = mu - (weighted @ mu[:, i : i + 2, None])[..., 0]
            C = torch.baddbmm(C, weighted, pair.mT.clone(), alpha=-1)
            w[:, i : i + 2] = torch.where(accept[:, None] > 0, w[:, i : i + 2].flip(1), w[:, i : i + 2])
        return w


@dataclass(frozen=True)
class Draws:
    """A posterior known by the draws of Markov chains, in physical units.

    Args:
        chains: (chains, draws, *shape).
        log_evidence: NaN, which chains do not tell.
    """

    chains: Tensor
    log_evidence: float = math.nan

    @property
    def mean(self) -> Tensor:
        """(*shape)."""
        return self.chains.flatten(0, 1).mean(0)

    @property
    def covariance(self) -> Tensor:
        """(n, n)."""
        return self.chains.flatten(2).flatten(0, 1).T.cov()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws picked at random, with replacement: (count, *shape)."""
        pooled = self.chains.flatten(0, 1)
        return pooled[torch.randint(len(pooled), (count,), generator=generator)]


def split_rhat(chains: Tensor) -> Tensor:
    """Split R-hat of Gelman et al., Bayesian Data Analysis, 3rd ed., section 11.4: (..., chains, draws, n) -> (..., n)."""
    half = chains.shape[-2] // 2
    parts = torch.cat([chains[..., :half, :], chains[..., -half:, :]], -3)
    within, between = parts.var(-2).mean(-2), parts.mean(-2).var(-2)
    return ((half - 1) / half + between / within).sqrt()


def effective_size(chains: Tensor) -> Tensor:
    """Effective number of draws of all chains together, Geyer's initial positive sequence: (..., chains, draws, n) -> (..., n).

    Source: Geyer, Practical Markov Chain Monte Carlo, Statistical Science 1992; between chains as in Bayesian Data Analysis, section 11.5;
    bounded by n log10 n as in Vehtari et al., Rank-Normalization, Folding, and Localization, Bayesian Analysis 2021.
    """
    count, draws = chains.shape[-3], chains.shape[-2]
    centred = chains - chains.mean(-2, keepdim=True)
    power = torch.fft.rfft(centred, 2 * draws, dim=-2).abs() ** 2
    within = (torch.fft.irfft(power, 2 * draws, dim=-2)[..., :draws, :] / draws).mean(-3)
    total = within[..., :1, :] + (chains.mean(-2).var(-2)[..., None, :] if count > 1 else 0)
    rho = 1 - (within[..., :1, :] - within) / total
    pairs = rho[..., : draws // 2 * 2, :].unflatten(-2, (-1, 2)).sum(-2)
    positive = (pairs > 0).cummin(-2).values
    time = (2 * (pairs * positive).sum(-2) - 1).clamp_min(1 / math.log10(count * draws))
    return count * draws / time


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _chi_square(like: Tensor, df: int, generator: torch.Generator) -> Tensor:
    """Sums of df squared normals."""
    return torch.randn(df, *like.shape, generator=generator, dtype=like.dtype, device=like.device).square().sum(0)
