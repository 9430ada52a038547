"""The kernel of a blurred picture as the posterior of image and kernel has it, by EM in gradients.

    y = k * x + n,   n ~ N(0, sigma^2),   x ~ prod sum_j pi_j N(0, s_j^2),   k ~ N(0, 1 / w)

y and x are the gradients of the blurred and of the sharp picture, taken as independent. The E step
holds k and finds the posterior of x, so that not its maximum but its second moments enter the M
step, which is closed form:

    E   x | y, k ~ N(m, diag c)              mean by conjugate gradients, diagonal covariance
    M   k = argmin E |y - k * x|^2 / sigma^2 + w |k|^2,  k >= 0;  then sum 1

A maximum over x and k together prefers no blur; the maximum over k alone, which EM climbs, does
not (Levin et al., CVPR 2011). Gradients of y beyond the frame and near clipped pixels are missing:
the E step fills them in as it does x.

Sources: Levin, Weiss, Durand, Freeman, Efficient Marginal Likelihood Optimization in Blind
Deconvolution, CVPR 2011 (EM, the mixture, the diagonal covariance); Louis, Finding the Observed
Information Matrix when Using the EM Algorithm, JRSS B 1982 (the spread of the kernel).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as F

from inverse.execution import CG
from inverse.measurement.linalg import conjugate_gradient, norm_squared

SHARES = (0.390, 0.435, 0.175)
"""pi_j: shares of the mixture of gradients, fitted to 1.8 million of BSDS500 train."""
SCALES = (0.0066, 0.0374, 0.1542)
"""s_j: standard deviations of the mixture (intensity)."""
ROUNDS = 16
"""Alternations; more change little."""
CG_STEPS = 15
"""Steps of conjugate gradients in an E step, which starts from the last one."""
SMALLEST_SHARE = 0.01
"""Smallest share of the information of a known image that is taken to be left."""
PARTS = 8
"""Parts of the picture along each side whose scores are compared."""


@dataclass(frozen=True)
class Mixture:
    """Zero-mean mixture of Gaussians, the law of a gradient.

    Args:
        shares, scales: (J,), the shares of sum 1 and the standard deviations.
    """

    shares: Tensor
    scales: Tensor

    def precision(self, second: Tensor) -> Tensor:
        """Expected 1 / s_j^2 of gradients with these second moments, of the shape of `second`."""
        j = (-1, *[1] * second.ndim)
        scales, shares = self.scales.reshape(j), self.shares.reshape(j)
        share = (shares.log() - scales.log() - second / (2 * scales**2)).softmax(0)
        return (share / scales**2).sum(0)


GRADIENTS = Mixture(torch.tensor(SHARES), torch.tensor(SCALES))


class Frame:
    """Gradients of a picture inside its frame, and convolution on the periodic plane around it.

    The plane is larger than the frame by the reach of the kernel, so that nothing wraps into it.

    Args:
        y: (D, H, W), gradients in D directions.
        usable: (H, W), 1 where y counts, otherwise 0.
        window: sides (h, w) of the kernel, odd.
    """

    def __init__(self, y: Tensor, usable: Tensor, window: tuple[int, int]) -> None:
        self.window = window
        margins = [n // 2 for n in window]
        self.size = [
            next_fast_len(n + 2 * r, real=True) if n > 1 or r else 1
            for n, r in zip(y.shape[-2:], margins, strict=True)
        ]
        more = [have - n for have, n in zip(self.size, y.shape[-2:], strict=True)]
        around = [margins[1], more[1] - margins[1], margins[0], more[0] - margins[0]]
        self.seen = F.pad(usable.expand_as(y).to(y), around)
        self.y = F.pad(y * usable, around)
        self.inside = tuple(slice(r, r + n) for r, n in zip(margins, y.shape[-2:], strict=True))
        self.offsets = [torch.arange(n) - n // 2 for n in window]

    def transfer(self, kernel: Tensor) -> Tensor:
        """Spectrum of a kernel (h, w) whose centre is at the origin."""
        wide = F.pad(kernel, [0, self.size[1] - self.window[1], 0, self.size[0] - self.window[0]])
        return torch.fft.rfft2(wide.roll([-(n // 2) for n in self.window], (0, 1)))

    def filtered(self, x: Tensor, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * spectrum, s=self.size)

    def correlation(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum over pixels and directions of x(p - o) y(p), at every offset o of the plane."""
        spectra = torch.fft.rfft2(x).conj() * torch.fft.rfft2(y)
        return torch.fft.irfft2(spectra.sum(-3), s=self.size)

    def in_window(self, correlation: Tensor) -> Tensor:
        """The values at the offsets of the kernel, (..., h, w)."""
        rows, columns = (o % n for o, n in zip(self.offsets, self.size, strict=True))
        return correlation[..., rows, :][..., columns]


def image_posterior(
    frame: Frame,
    kernel: Tensor,
    precision: Tensor,
    sigma: float,
    start: Tensor,
    generator: torch.Generator | None = None,
    steps: int = CG_STEPS,
) -> Tensor:
    """Mean of x given y and k for a Gaussian prior, or samples; (S, D, *plane).

    A sample solves the normal equations with a perturbed right-hand side, so that its law is exact.

    Args:
        precision: 1 / variance of the prior of each gradient, (D, *plane).
        start: first iterates, (S, D, *plane).
        generator: draws a sample in every row; None gives the mean.
    """
    k = frame.transfer(kernel)
    diagonal = 1 / (_coverage(frame, kernel) / sigma**2 + precision)

    def normal(x: Tensor) -> Tensor:
        blurred = frame.filtered(x, k) * frame.seen
        return frame.filtered(blurred, k.conj()) / sigma**2 + precision * x

    data, pull = frame.y.expand_as(start), torch.zeros_like(start)
    if generator is not None:
        noise = [torch.randn(start.shape, generator=generator, dtype=start.dtype) for _ in "yx"]
        data, pull = data + sigma * frame.seen * noise[0], precision.sqrt() * noise[1]
    target = frame.filtered(data, k.conj()) / sigma**2 + pull
    settings = CG(max_iter=steps, tolerance=1e-6)
    return conjugate_gradient(normal, target, start, settings, lambda r: diagonal * r)


def _coverage(frame: Frame, kernel: Tensor) -> Tensor:
    """Diagonal of K^T K inside the frame: the sum of k^2 over the pixels of y that see x."""
    return frame.filtered(frame.seen, frame.transfer(kernel**2).conj()).clamp_min(0)


def normal_equations(
    frame: Frame, x: Tensor, kernel: Tensor, variance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """G (n, n) and b (n,), n = h w, of the M step: E |y - k * x|^2 = k' G k - 2 b' k + constant.

    Args:
        x: (S, D, *plane), samples of x, or its mean with S = 1.
        kernel: (h, w), the kernel of the E step, by which missing gradients of y are filled in.
        variance: (D, *plane), diagonal covariance to add to that of the samples.
    """
    missing = 1 - frame.seen
    filled = frame.y + missing * frame.filtered(x, frame.transfer(kernel))
    power, cross = frame.correlation(x, x).mean(0), frame.correlation(x, filled).mean(0)
    rows, columns = ((o[:, None] - o) % n for o, n in zip(frame.offsets, frame.size, strict=True))
    count = kernel.numel()
    gram = power[rows][:, :, columns].permute(0, 2, 1, 3).reshape(count, count)
    b = frame.in_window(cross)
    if variance is not None:
        gram = gram + variance.sum() * torch.eye(count, dtype=gram.dtype)
        b = b + kernel * frame.in_window(frame.correlation(variance, missing))
    return gram, b.flatten()


def nonnegative(gram: Tensor, b: Tensor, start: Tensor, steps: int = 300) -> Tensor:
    """argmin k' G k - 2 b' k over k >= 0: accelerated projected gradients with restarts.

    Source: Beck, Teboulle, SIAM J. Imaging Sci. 2009; O'Donoghue, Candes, FoCM 2015 (restarts).
    """
    largest = norm_squared(lambda v: v @ gram, torch.ones_like(b)[None], 50)
    lipschitz = 1.05 * float(largest)  # the power iteration comes from below
    k = z = start
    t = 1.0
    for _ in range(steps):
        moved = (z - (gram @ z - b) / lipschitz).clamp_min(0)
        after = (1 + math.sqrt(1 + 4 * t * t)) / 2
        z = moved + (t - 1) / after * (moved - k)
        if float((z - moved) @ (moved - k)) < 0:
            z, after = moved, 1.0
        k, t = moved, after
    return k


class Sharp:
    """What the E steps know of the sharp gradients of one picture.

    Args:
        frame: the blurred ones.
        sigma: standard deviation of the noise of a gradient (intensity).
        prior: law of a gradient.
    """

    def __init__(self, frame: Frame, sigma: float, prior: Mixture = GRADIENTS) -> None:
        self.frame, self.sigma, self.prior = frame, sigma, prior
        self.mean, self.variance = frame.y, torch.zeros_like(frame.y)
        self.precision = self.variance

    def given(self, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """The E step: the normal equations of the kernel, over the variance of the noise."""
        frame, sigma = self.frame, self.sigma
        self.precision = self.prior.precision(self.mean.square() + self.variance)
        mean = image_posterior(frame, kernel, self.precision, sigma, self.mean[None])
        self.mean = mean[0]
        self.variance = 1 / (_coverage(frame, kernel) / sigma**2 + self.precision)
        gram, b = normal_equations(frame, mean, kernel, self.variance)
        return gram / sigma**2, b / sigma**2


def expectation_maximization(
    pictures: Sequence[Sharp], kernel: Tensor, ridge: float = 0.0, rounds: int = ROUNDS
) -> Tensor:
    """The kernel (h, w) of sum 1 that pictures share, and of one picture its own.

    Args:
        pictures: left as the last E step has them.
        kernel: (h, w), the start.
        ridge: 1 / variance of the Gaussian prior of each entry.
    """
    for _ in range(rounds):
        equations = [each.given(kernel) for each in pictures]
        gram = sum(g for g, _ in equations) + ridge * torch.eye(kernel.numel(), dtype=kernel.dtype)
        b = torch.stack([b for _, b in equations]).sum(0)
        kernel = nonnegative(gram, b, kernel.flatten()).reshape(kernel.shape)
        kernel = kernel / kernel.sum()
    return kernel


def kernel_information(
    picture: Sharp, kernel: Tensor, generator: torch.Generator, samples: int = 16, steps: int = 40
) -> Tensor:
    """Observed information (n, n) on the entries of k in y; its inverse is their covariance.

    That is the information of a known image less what is lost since the image is uncertain: the
    covariance of the score over image samples (Louis). With fewer samples than entries, the lost
    share is drawn to its mean over all directions.

    Args:
        samples: number of image samples.
    """
    frame, sigma, precision = picture.frame, picture.sigma, picture.precision
    start = torch.zeros(samples, *frame.y.shape, dtype=frame.y.dtype)
    x = image_posterior(frame, kernel, precision, sigma, start, generator, steps)
    unseen = sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    fit = frame.seen * frame.filtered(x, frame.transfer(kernel))
    residual = frame.y - fit + (1 - frame.seen) * unseen
    scores = frame.in_window(frame.correlation(x, residual)).flatten(1).double() / sigma**2
    gram, _ = normal_equations(frame, x, kernel)
    one = torch.eye(kernel.numel(), dtype=torch.float64)
    root = torch.linalg.cholesky(gram.double() / sigma**2)
    deviations = (scores - scores.mean(0)).T
    whitened = torch.linalg.solve_triangular(root, deviations, upper=False)
    lost = whitened @ whitened.T / (samples - 1)
    lost = (samples * lost + lost.trace() * one) / (samples + len(one))
    values, vectors = torch.linalg.eigh(lost)
    kept = (1 - values).clamp_min(SMALLEST_SHARE)
    half = root @ vectors
    return (half * kept) @ half.T


def scores_of_parts(picture: Sharp, kernel: Tensor) -> Tensor:
    """Score of k, d log p(y | k) / d k, from each of `PARTS` x `PARTS` parts; (parts, n)."""
    frame, sigma, mean, variance = picture.frame, picture.sigma, picture.mean, picture.variance
    residual = frame.y - frame.seen * frame.filtered(mean, frame.transfer(kernel))
    height, width = frame.y.shape[-2:]
    rows, columns = (torch.arange(n) * PARTS // n for n in (height, width))
    scores = []
    for part in range(PARTS**2):
        inside = ((rows[:, None] * PARTS + columns) == part).to(mean.dtype)
        pull = frame.in_window(frame.correlation(variance, frame.seen * inside))
        g = frame.in_window(frame.correlation(mean, residual * inside)) - kernel * pull
        scores.append(g.flatten().double() / sigma**2)
    return torch.stack(scores)


def robust_std(pictures: Sequence[Sharp], kernel: Tensor, generator: torch.Generator) -> Tensor:
    """Standard deviation (h, w) of the entries, from what parts of the pictures say differently.

    Gradients of photographs are not independent, so that the inverse of the information I is too
    small by far. The scores g of parts scatter by as much as the model really errs; the standard
    deviation is that of the sandwich I^-1 (sum g g') I^-1.

    Source: White, Maximum Likelihood Estimation of Misspecified Models, Econometrica 1982.
    """
    information = torch.stack([kernel_information(p, kernel, generator) for p in pictures]).sum(0)
    g = torch.cat([scores_of_parts(p, kernel) for p in pictures])
    influence = torch.linalg.solve(information, (g - g.mean(0)).T)
    return influence.square().sum(1).sqrt().reshape(kernel.shape).to(kernel.dtype)
