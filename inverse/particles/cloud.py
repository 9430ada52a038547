"""Sequential Monte Carlo: weighted clouds of particles, one for each image.

    W'_i ~ W_i u_i,    Z' = Z sum_i W_i u_i,    ESS = 1 / sum_i W_i^2

where u are the increments of the weights and sum_i W_i = 1. Log-weights are float64 and
normalised, (clouds, particles); a cloud is one island of one image. The rows of a batch are all
particles of the first cloud, then all of the second, and so on.

Source: Del Moral, Doucet, Jasra, Sequential Monte Carlo samplers, JRSS B 2006; Chopin,
Papaspiliopoulos, An Introduction to Sequential Monte Carlo, 2020.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from inverse.errors import InputError, OptionError
from inverse.method import Method, Weighted
from inverse.posterior import Posterior
from inverse.registry.types import Range
from inverse.rows import per_row
from inverse.seeding import Generators

Scheme = Literal["systematic", "stratified", "residual", "multinomial"]

# --- weights ----------------------------------------------------------------------------------


def effective_size(log_weights: Tensor) -> Tensor:
    """ESS = 1 / sum W^2 of each cloud: (clouds, particles) -> (clouds,), from 1 to particles.

    The log-weights need not be normalised.
    """
    return 1 / log_weights.softmax(1).square().sum(1)


def conditional_effective_size(log_weights: Tensor, log_increments: Tensor) -> Tensor:
    """N (sum W u)^2 / sum W u^2, at most particles: (clouds, particles) twice -> (clouds,).

    It measures how well the weights W represent W u.
    Source: Zhou, Johansen, Aston, Toward Automatic Model Comparison, JCGS 2016, eq. 12.
    """
    W = log_weights.log_softmax(1)
    log_ratio = 2 * (W + log_increments).logsumexp(1) - (W + 2 * log_increments).logsumexp(1)
    return log_weights.shape[1] * log_ratio.exp()


def next_temperature(
    log_weights: Tensor,
    log_likelihood: Tensor,
    temperature: Tensor,
    target: float,
    iterations: int = 50,
) -> Tensor:
    """The largest b' in (b, 1] that keeps a conditional ESS of target N, by bisection: (clouds,).

    The increments are those of a move from likelihood^b to likelihood^b'.

    Args:
        log_weights, log_likelihood: (clouds, particles).
        temperature: b, (clouds,).
        target: fraction of the particles, in (0, 1).
    """

    def enough(b: Tensor) -> Tensor:
        return (
            conditional_effective_size(log_weights, (b - temperature)[:, None] * log_likelihood)
            >= target * log_weights.shape[1]
        )

    low, high = temperature, torch.ones_like(temperature)
    for _ in range(iterations):
        middle = (low + high) / 2
        low = torch.where(enough(middle), middle, low)
        high = torch.where(enough(middle), high, middle)
    return torch.where(enough(torch.ones_like(low)), torch.ones_like(low), low)


# --- resampling -------------------------------------------------------------------------------


def ancestors(
    log_weights: Tensor,
    generator: Generators,
    count: int | None = None,
    scheme: Scheme = "systematic",
) -> Tensor:
    """Indices (clouds, count) of surviving particles; weight W is chosen count W times on average.

    Args:
        log_weights: (clouds, particles), float64; a particle of weight zero is never chosen.
        generator: one stream for each cloud.
        count: number of draws; by default the number of particles.

    Source: Douc, Cappe, Moulines, Comparison of resampling schemes for particle filtering, ISPA
    2005.
    """
    W, n = log_weights.softmax(1), count or log_weights.shape[1]
    u = generator.rand_like(W.new_empty(len(W), 1 if scheme == "systematic" else n))
    if scheme == "multinomial":
        return _inverse_cdf(W, u.sort(1).values)
    if scheme != "residual":
        return _inverse_cdf(W, (torch.arange(n, dtype=W.dtype, device=W.device) + u) / n)
    copies = (n * W + 1e-9).floor()
    kept = copies.cumsum(1)
    slot = torch.arange(n, dtype=W.dtype, device=W.device).expand(len(W), n).contiguous()
    rest = (n * W - copies).clamp_min(0) + torch.where(kept[:, -1:] >= n, W, 0.0)
    return torch.where(
        slot < kept[:, -1:],
        torch.searchsorted(kept, slot, right=True).clamp(max=W.shape[1] - 1),
        _inverse_cdf(rest, u),
    )


def _inverse_cdf(W: Tensor, u: Tensor) -> Tensor:
    """The particle whose interval of [0, 1) contains u."""
    cumulative = W.cumsum(1)
    return torch.searchsorted(
        cumulative / cumulative[:, -1:], u.clamp(max=1 - 2.0**-53).contiguous(), right=True
    )


# --- the cloud --------------------------------------------------------------------------------


class CloudGenerators(Generators):
    """One stream for each image, from which each draw for a whole cloud comes at once.

    The rows of a batch are ordered as in a cloud.
    """

    def randn_like(self, x: Tensor) -> Tensor:
        return super().randn_like(x.unflatten(0, (len(self), -1))).flatten(0, 1)

    def rand_like(self, x: Tensor) -> Tensor:
        return super().rand_like(x.unflatten(0, (len(self), -1))).flatten(0, 1)


class Cloud:
    """The particles of every image, their weights and their history.

    A method moves `x`, calls `reweight` with the increments, then `resample`.

    Args:
        x: particles (images * particles, *shape), all of weight 1 / particles.
        generator: one stream for each image.
        islands: independent clouds into which the particles of an image are divided.
        ess_threshold: resample a cloud when its ESS falls below this fraction of its particles; 0
            for never.
        scheme: resampling scheme.

    Attributes:
        log_weights: (clouds, particles of a cloud), float64, normalised.
        log_evidence: log of the estimate of the normaliser, the product of mean increments
            (clouds,); unbiased before the logarithm.
        roots: (images * particles,), index within its image of each particle's ancestor in the
            first cloud.
        quarantined: number of particles that have lost their weight to NaN.
        trace: an entry for each `reweight`: sigma, quarantined, and lists over images of ess,
            survivors (distinct roots) and log_evidence.
    """

    def __init__(
        self,
        x: Tensor,
        generator: Generators,
        islands: int = 1,
        ess_threshold: float = 0.5,
        scheme: Scheme = "systematic",
    ):
        self.x, self.generator = x, generator
        self.ess_threshold, self.scheme = ess_threshold, scheme
        self.images, self.islands = len(generator), islands
        clouds, particles = self.images * islands, len(x) // (self.images * islands)
        self.log_weights = torch.full(
            (clouds, particles), 1 / particles, dtype=torch.float64, device=x.device
        ).log()
        self.log_evidence = torch.zeros(clouds, dtype=torch.float64, device=x.device)
        self.roots = torch.arange(particles * islands, device=x.device).repeat(self.images)
        self.quarantined = 0
        self.trace: list[dict] = []

    def reweight(self, log_increments: Tensor, sigma: Tensor | float) -> None:
        """Multiply the weights: log_increments (B,), nats.

        A particle with NaN gets weight zero and the position of its cloud's heaviest particle.

        Args:
            sigma: the noise level, for the trace and the error message.

        Raises: InputError if a cloud loses all its particles.
        """
        increments = log_increments.double().view_as(self.log_weights)
        bad = (
            torch.isnan(increments)
            | (increments == torch.inf)
            | ~torch.isfinite(self.x).flatten(1).all(1).view_as(increments)
        )
        log_weights = self.log_weights + increments.masked_fill(bad, -torch.inf)
        total = log_weights.logsumexp(1)
        if bool((total == -torch.inf).any()):
            self._fail(total, bad, float(sigma))
        self.log_weights, self.log_evidence = (
            log_weights - total[:, None],
            self.log_evidence + total,
        )
        if bool(bad.any()):
            self._quarantine(bad, float(sigma))
        self._record(float(sigma))

    def resample(self, power: float = 1.0) -> Tensor:
        """Resample every cloud whose ESS is below the threshold; return each parent's row (B,).

        Args:
            power: choose by W^power and keep the rest, W^(1 - power), as weights. 1 is plain
                resampling; a smaller power keeps more ancestors.
        """
        clouds, particles = self.log_weights.shape
        same = torch.arange(particles, device=self.x.device).expand(clouds, particles)
        chances = (power * self.log_weights).log_softmax(1)
        chosen = ancestors(chances, self._per_cloud(), scheme=self.scheme)
        low = effective_size(self.log_weights)[:, None] < self.ess_threshold * particles
        rows = (
            torch.where(low, chosen, same)
            + particles * torch.arange(clouds, device=self.x.device)[:, None]
        ).flatten()
        if bool(low.any()):
            self.x, self.roots = self.x[rows], self.roots[rows]
            kept = (self.log_weights - chances).gather(1, chosen) - math.log(particles)
            total = kept.logsumexp(1, keepdim=True)
            self.log_evidence = self.log_evidence + torch.where(low, total, 0.0)[:, 0]
            self.log_weights = torch.where(low, kept - total, self.log_weights)
        return rows

    def weighted(self, samples: int) -> Weighted:
        """The cloud with its weights if it has `samples` particles, else draws from it.

        Islands count in proportion to their evidence; the evidence of the image is the mean of
        theirs.
        """
        log_weights, log_evidence = self._of_images()
        trace = [
            *self.trace[:-1],
            *({**t, "distinct": self._distinct(log_weights)} for t in self.trace[-1:]),
        ]
        if samples == log_weights.shape[1]:
            return Weighted(self.x, log_weights.flatten(), log_evidence, trace)
        first = log_weights.shape[1] * torch.arange(self.images, device=self.x.device)[:, None]
        rows = (ancestors(log_weights, self.generator, samples) + first).flatten()
        return Weighted(self.x[rows], log_weights.new_zeros(len(rows)), log_evidence, trace)

    @property
    def best(self) -> Tensor:
        """The heaviest particle of each image: (images, *shape)."""
        log_weights, _ = self._of_images()
        return self.x.unflatten(0, log_weights.shape)[
            torch.arange(self.images, device=self.x.device), log_weights.argmax(1)
        ]

    def _distinct(self, log_weights: Tensor) -> list[float]:
        """Effective number of different particles of each image: copies share their weight.

        Copies are told by the sum of their entries.
        """
        sums = self.x.flatten(1).double().sum(1).view_as(log_weights)
        found = []
        for row, weights in zip(sums, log_weights.exp(), strict=True):
            _, copy = row.unique(return_inverse=True)
            shared = weights.new_zeros(len(row)).index_add_(0, copy, weights)
            found.append(1 / float(shared.square().sum()))
        return found

    def _of_images(self) -> tuple[Tensor, Tensor]:
        """Normalised log-weights (images, particles) and log-evidence (images,), all islands."""
        Z = self.log_evidence.view(self.images, self.islands)
        log_weights = (
            self.log_weights.view(self.images, self.islands, -1) + Z.log_softmax(1)[..., None]
        ).flatten(1)
        return log_weights, Z.logsumexp(1) - torch.tensor(float(self.islands), dtype=Z.dtype).log()

    def _per_cloud(self) -> Generators:
        return Generators(g for g in self.generator.rows for _ in range(self.islands))

    def _record(self, sigma: float) -> None:
        log_weights, log_evidence = self._of_images()
        survivors = [len(roots.unique()) for roots in self.roots.view(self.images, -1)]
        ess = effective_size(log_weights)
        entry = {
            "sigma": sigma,
            "ess": ess.tolist(),
            "survivors": survivors,
            "log_evidence": log_evidence.tolist(),
            "quarantined": self.quarantined,
        }
        self.trace.append(entry)

    def _quarantine(self, bad: Tensor, sigma: float) -> None:
        if not self.quarantined:
            warnings.warn(
                f"{int(bad.sum())} of {bad.numel()} particles have NaN at noise level sigma = "
                f"{sigma:.4g}: they get weight zero",
                stacklevel=3,
            )
        self.quarantined += int(bad.sum())
        first = self.log_weights.shape[1] * torch.arange(len(bad), device=bad.device)
        heaviest = (self.log_weights.argmax(1) + first)[:, None].expand_as(bad).flatten()
        self.x = torch.where(per_row(bad.flatten(), self.x), self.x[heaviest], self.x)

    def _fail(self, total: Tensor, bad: Tensor, sigma: float) -> None:
        cloud = int((total == -torch.inf).int().argmax())
        reason = (
            "have NaN or infinity" if bool(bad[cloud].all()) else "have probability zero or NaN"
        )
        hint = "does the operator return NaN, or is sigma_y too small for the steps?"
        raise InputError(
            f"all {bad.shape[1]} particles of measurement {cloud // self.islands} {reason} at "
            "noise "
            f"level sigma = {sigma:.4g}; {hint}"
        )


def metropolis(cloud: Cloud, sweeps: int = 100) -> None:
    """Give every particle the weight 1 / particles by an independence Metropolis chain.

    The chain proposes a particle of the cloud and accepts it with probability min(1, W' / W).
    Because the particles are weighted draws of a proposal, the chain leaves their law invariant
    (Tierney, Markov Chains for Exploring Posterior Distributions, 1994).
    """
    clouds, particles = cloud.log_weights.shape
    generator, device = cloud._per_cloud(), cloud.x.device
    current = torch.arange(particles, device=device).expand(clouds, particles)
    for _ in range(sweeps):
        proposal = (generator.rand_like(cloud.log_weights) * particles).long()
        ratio = cloud.log_weights.gather(1, proposal) - cloud.log_weights.gather(1, current)
        current = torch.where(generator.rand_like(ratio).log() < ratio, proposal, current)
    rows = (current + particles * torch.arange(clouds, device=device)[:, None]).flatten()
    cloud.x, cloud.roots = cloud.x[rows], cloud.roots[rows]
    cloud.log_weights = torch.full_like(cloud.log_weights, -math.log(particles))


@dataclass(frozen=True)
class ParticleMethod(Method):
    """Methods that move a weighted cloud of particles; their `run` begins with `cloud`.

    The cloud of an image has `particles` particles, or `samples` if that is more. If there are as
    many samples as particles, the samples are the cloud with its weights; fewer are drawn from it.
    Evaluations are counted for each sample, so that `samples=1, particles=64` costs 64 times its
    steps. All randomness of an image comes from the stream of its first sample.

    Args:
        particles: particles of each image, at least 2; as many as the samples if those are more.
        ess_threshold: resample when the effective sample size falls below this fraction of the
            particles, in (0, 1].
        resampling: systematic, stratified, residual or multinomial.
        islands: clouds of each image that do not interact until the end; they divide the particles.
    """

    group: ClassVar[str] = "particles"
    needs: ClassVar[tuple[str, ...]] = ("noisy",)

    particles: Annotated[int, Range(2, 10**6)] = 16
    ess_threshold: Annotated[float, Range(above=0, high=1)] = 0.5
    resampling: Scheme = "systematic"
    islands: Annotated[int, Range(1, 10**6)] = 1

    def cloud(
        self, posterior: Posterior, samples: int, generator: Generators
    ) -> tuple[Posterior, Cloud]:
        """The posterior whose rows are the particles, and N(0, I) particles with equal weights."""
        particles = max(self.particles, samples)
        if particles % self.islands or particles == self.islands:
            raise OptionError(
                f"{self.name}: islands must divide the {particles} particles into clouds of at "
                f"least 2, got {self.islands}"
            )
        rows = posterior.replaced(y=posterior.y[::samples].repeat_interleave(particles, dim=0))
        streams = CloudGenerators(generator.rows[::samples])
        x = streams.randn_like(
            torch.empty(len(rows), *rows.shape, dtype=rows.dtype, device=rows.device)
        )
        return rows, Cloud(x, streams, self.islands, self.ess_threshold, self.resampling)


def in_parts(
    posterior: Posterior, evaluate: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
) -> tuple[Tensor, ...]:
    """Evaluate parts of the rows one after the other and concatenate the results.

    The memory of a VJP then does not grow with the number of particles. A part has at most
    `execution.max_pixels` / 8 pixels, since the graph of a prior is larger than its output.

    Args:
        posterior: posterior whose rows are the first dimension of `tensors`; a part is a posterior
            of some of them.
        evaluate: (part, *tensors of the part) -> tensors with a row for each row of the part; it
            may call `tweedie`.
    """
    step = max(1, posterior.execution.max_pixels // 8 // torch.Size(posterior.shape[-2:]).numel())
    results = []
    for start in range(0, len(posterior), step):
        part = posterior.replaced(y=posterior.y[start : start + step])
        results.append(evaluate(part, *(t[start : start + step] for t in tensors)))
    return tuple(torch.cat(columns) for columns in zip(*results, strict=True))
