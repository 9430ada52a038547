"""The walk as a prior: a Markov chain, denoised by forward-backward message passing."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from inverse.priors.prior import Prior
from inverse_problems.levy.increments import Increments


class WalkPrior(Prior):
    """The walk of T increments; E[x0 | x] by forward-backward message passing on lattices.

    Computations are in float64 for any input. Each x0_t has its own window of the lattice h Z (one
    h per row), `reach` sigma around x_t. For an x that the model can produce, x0_t is outside with
    the probability that Gaussian noise exceeds `reach` standard deviations. If the range of the
    walk (8 standard deviations of x0_T, if they exist) is smaller, the window is that range.

    Quadratic interpolation moves the law of the increments to the lattice; it preserves mean,
    variance and spike. Messages are convolved by FFT. The number of lattice points, 64 to `points`,
    is chosen for the step `step`. The step is at most sigma / 4.5 for small noise; for large noise
    it is about a tenth of the walk's typical size or sigma / 9, whichever is larger.

    Args:
        increments: law of one increment, model units.
        length: T.
        points: largest number of lattice points of a window, a power of 2.
        step: lattice step for large sigma (model units).
        reach: half-width of a window in units of sigma.
        units: scale, shift and noise levels of the model units, see `Prior`.
    """

    exact = True

    def __init__(
        self,
        increments: Increments,
        length: int,
        *,
        points: int = 128,
        step: float = 0.1,
        reach: float = 7.0,
        **units: float,
    ):
        super().__init__((length,), **units)
        self.increments, self.points, self.step, self.reach = increments, points, step, reach
        self.register_buffer("mean", torch.zeros(length, dtype=torch.float64))

    mean: Tensor

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent walks: (count, T), model units."""
        return self.increments.sample(self.mean.expand(count, -1), generator).cumsum(1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x]: x (B, T), sigma () or (B,) -> (B, T), in the dtype of x."""
        return self.moments(x, sigma)[0].to(x.dtype)

    def moments(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and variance of each x0_t given x, float64, model units.

        x (B, T), sigma () or (B,) -> (B, T), (B, T).
        """
        z, steps = x.double(), x.shape[1]
        s = torch.as_tensor(sigma, dtype=z.dtype, device=z.device).expand(len(z))
        half = (self.reach * s).clamp(max=8 * math.sqrt(steps) * self.increments.std)
        needed = 2 ** math.ceil(math.log2(2 * float(half.max()) / self.step + 1))
        n = min(max(64, needed), self.points)
        h = 2 * half / (n - 1)
        centre = torch.where((half < self.reach * s)[:, None], 0.0, z.detach())
        first = torch.round(centre / h[:, None]) - n // 2  # first point of each window / h: (B, T)
        offsets = torch.arange(n, dtype=z.dtype, device=z.device)

        lattice = h[:, None, None] * (first[..., None] + offsets)
        logits = -0.5 * ((z[..., None] - lattice) / s[:, None, None]) ** 2
        emission = (logits - logits.detach().amax(-1, keepdim=True)).clamp_min(-300).exp().unbind(1)
        ring = torch.cat([offsets, offsets - n])  # lags of a circular convolution of length 2 n
        lags = first[:, 1:, None] - first[:, :-1, None] + ring
        kernel = torch.fft.rfft(self._lattice_law(lags, h)).unbind(1)
        start = self._lattice_law(first[:, :1] + offsets, h)

        message = torch.stack([start * emission[0], emission[-1]])
        forward, backward = [message[0]], [torch.ones_like(emission[-1])]
        for t in range(1, steps):
            both = torch.stack([kernel[t - 1], kernel[steps - 1 - t].conj()])
            predicted = torch.fft.irfft(torch.fft.rfft(message, 2 * n) * both, 2 * n)[..., :n]
            predicted = predicted.clamp_min(1e-30)  # no message vanishes
            message = predicted * torch.stack([emission[t], emission[steps - 1 - t]])
            message = message / message.detach().sum(-1, keepdim=True)
            forward.append(message[0])
            backward.append(predicted[1] / predicted[1].detach().sum(-1, keepdim=True))
        marginal = torch.stack(forward, 1) * torch.stack(backward[::-1], 1)
        marginal = marginal / marginal.sum(-1, keepdim=True)
        mean = marginal @ offsets
        variance = (marginal * (offsets - mean[..., None]) ** 2).sum(-1)
        return h[:, None] * (first + mean), h[:, None] ** 2 * variance

    def _lattice_law(self, lags: Tensor, h: Tensor) -> Tensor:
        """P(u = lag h) on the lattice, up to a factor: lags (B, ..., n), h (B,) -> (B, ..., n).

        The factor is constant along the last dimension; lags are integers. Near 0 the masses follow
        from the moments of p in the cells around the lattice points (`_central_law`). Further out
        they are p itself, which agrees with those moments to fourth order in h.
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

        Quadratic interpolation distributes u over the three points around it. The masses follow
        from the moments m_j = E[delta^j; cell], delta in (-1/2, 1/2) the position in a cell. The
        quadrature has Gauss-Legendre nodes in arcsinh(u / scale), which resolve the law both if it
        fits in one cell and if it spans many.
        """
        nodes, weights = (
            torch.as_tensor(a, dtype=h.dtype, device=h.device)
            for a in np.polynomial.legendre.leggauss(24)
        )
        index = torch.arange(cells + 1, dtype=h.dtype, device=h.device)
        low, high = (
            (h[:, None] * edge / self.increments.scale).asinh()
            for edge in ((index - 0.5).clamp_min(0), index + 0.5)
        )
        v = low[..., None] + (high - low)[..., None] * (nodes + 1) / 2
        u = self.increments.scale * v.sinh()
        mass = (
            self.increments.density(u)
            * self.increments.scale
            * v.cosh()
            * (high - low)[..., None]
            / 2
            * weights
        )
        mass[:, 0] *= 2
        delta = u / h[:, None, None] - index[:, None]
        m0, m1, m2 = ((mass * delta**j).sum(-1) for j in range(3))
        m1[:, 0] = 0
        # mass from the cell nearer to 0; for point 0, from its mirror image
        inner = torch.cat([(m2 - m1)[:, 1:2], (m2 + m1)[:, :-2]], 1)
        law = (m0 - m2)[:, :-1] + 0.5 * (inner + (m2 - m1)[:, 1:])
        law = (1 - self.increments.spike) * law
        law[:, 0] += self.increments.spike
        return law
