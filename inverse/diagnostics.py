"""Reference-free diagnostics of posterior samplers: what held-out truths alone say about samples.

If x* ~ prior and y = A(x*) + noise, an exact sampler's x_1, ..., x_m given y are exchangeable with x*: nobody who sees y can tell
which of the m + 1 is the truth. Every test here is a consequence. Tensors are samples (images, m, *shape) and truth
(images, *shape), one image for each independent pair (x*, y); scores and coverages are one number per image.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError

# --- scores -----------------------------------------------------------------------------------------------------------


def fair_crps(samples: Tensor, truth: Tensor) -> Tensor:
    """mean_j |x_j - x*| - sum_jk |x_j - x_k| / (2 m (m - 1)) averaged over entries: (images,), units of x, smaller is better.

    Unbiased: its expectation is that of the law's CRPS for every m.

    Source: Ferro, Fair scores for ensemble forecasts, QJRMS 2014.
    """
    x, m = _checked(samples, truth), samples.shape[1]
    error = (x[:, 1:] - x[:, :1]).abs().mean(1)
    weight = 2 * torch.arange(m, dtype=x.dtype, device=x.device) - (m - 1)
    spread = (weight[:, None] * x[:, 1:].sort(1).values).sum(1) / (m * (m - 1))
    return (error - spread).mean(1)


def energy_score(samples: Tensor, truth: Tensor) -> Tensor:
    """mean_j |x_j - x*| - sum_jk |x_j - x_k| / (2 m (m - 1)) with Euclidean norms: (images,), units of x, smaller is better.

    Source: Gneiting, Raftery, Strictly proper scoring rules, JASA 2007, in its unbiased form.
    """
    m = samples.shape[1]
    distance = _distances(_checked(samples, truth))
    return distance[:, 0].sum(1) / m - distance[:, 1:, 1:].sum((1, 2)) / (2 * m * (m - 1))


def interval_coverage(samples: Tensor, truth: Tensor, level: float) -> Tensor:
    """Fraction of the entries of x* within the central interval of their m samples: (images,).

    The limits are the order statistics at p (m + 1), p = (1 -+ level) / 2, interpolated (Hyndman and Fan's type 6), which
    makes the expectation `level` for uniform samples at every m, where quantiles of the samples are too narrow.

    Raises: InputError where m is less than 2 / (1 - level) - 1, too few for such an interval.
    """
    x, m = _checked(samples, truth), samples.shape[1]
    position = (1 - level) / 2 * (m + 1)
    if not 0 < level < 1 or position < 1 - 1e-9:
        raise InputError(f"coverage: an interval at level {level:g} needs a level within (0, 1) and at least {2 / (1 - level) - 1:.0f} samples, got {m}")
    ordered = x[:, 1:].sort(1).values
    k = min(int(position + 1e-9), m - 1)
    low = torch.lerp(ordered[:, k - 1], ordered[:, k], position - k)
    high = torch.lerp(ordered[:, m - k], ordered[:, m - 1 - k], position - k)
    return ((low <= x[:, 0]) & (x[:, 0] <= high)).to(x.dtype).mean(1)


# --- exchangeability --------------------------------------------------------------------------------------------------


def ranks(values: Tensor, generator: torch.Generator) -> Tensor:
    """Rank of member 0 among members 1, ..., m, in 0, ..., m, ties broken at random: (images, m + 1, ...) -> (images, ...), integers.

    Uniform for an exact sampler: simulation-based calibration where the values are a test quantity f(x), TARP where they are
    distances to a reference point.

    Sources: Talts, Betancourt, Simpson, Vehtari, Gelman, Validating Bayesian Inference Algorithms with Simulation-Based
    Calibration, 2018, https://arxiv.org/abs/1804.06788; Lemos, Coogan, Hezaveh, Perreault-Levasseur, Sampling-Based Accuracy
    Testing of Posterior Estimators for General Inference, ICML 2023, https://arxiv.org/abs/2302.03026.
    """
    first, others = values[:, :1], values[:, 1:]
    below, ties = (others < first).sum(1), (others == first).sum(1)
    u = torch.rand(ties.shape, generator=generator, dtype=torch.float64, device=values.device)
    return below + (u * (ties + 1)).long()


def members_ranks(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rank of every member among the others, per entry, ties broken at random: (images, M, n) -> (images, M, n), 0 to M - 1."""
    shuffle = torch.stack([torch.randperm(x.shape[1], generator=generator, device=x.device) for _ in range(len(x))])
    return torch.stack([one[order].argsort(dim=0, stable=True).argsort(dim=0)[order.argsort()] for one, order in zip(x, shuffle, strict=True)])


def randomisation_p_value(table: Tensor, generator: torch.Generator, draws: int = 1999) -> float:
    """Whether the truths' statistics stand out from those of the samples in the truth's place; exact in every sample size.

    table[i, k] (images, M, c) holds c statistics of image i with member k cast as the truth (0 is the truth). For an exact sampler
    the role is uniform over members, so that the mean over images has a known null law, from which `draws` are taken. The
    statistic is the squared distance of the mean from its expectation, each of the c in units of its null deviation.
    """
    images, members, _ = table.shape
    table = table - table.mean(1, keepdim=True)
    variance = table.square().mean(1).sum(0)
    table = table / variance.clamp_min(torch.finfo(table.dtype).tiny).sqrt()
    observed = table[:, 0].sum(0).square().sum()
    rows = torch.arange(images, device=table.device)
    exceeded = 0
    for begin in range(0, draws, 100):
        roles = torch.randint(members, (min(100, draws - begin), images), generator=generator, device=table.device)
        exceeded += int((table[rows, roles].sum(1).square().sum(1) >= observed * (1 - 1e-9)).sum())
    return (1 + exceeded) / (1 + draws)


def three_decibel_table(x: Tensor) -> tuple[Tensor, Tensor]:
    """mean_j |x_j - x_k|^2 and |mean_j x_j - x_k|^2 over the members j other than k: (images, M, n) -> (images, M) twice."""
    m = x.shape[1] - 1
    squared = _distances(x).square()
    total = squared.sum(2)
    among_others = total.sum(1, keepdim=True) - 2 * total
    return total / m, (total / m - among_others / (2 * m * m)).clamp_min(0)


def jackknife_ratio(numerator: Tensor, denominator: Tensor) -> tuple[float, float, float]:
    """mean(numerator) / mean(denominator) over images and its 95 % interval, by the jackknife of its logarithm; NaN for 0 / 0."""
    from scipy.special import stdtrit

    n = len(numerator)
    a, b = numerator.sum(), denominator.sum()
    logs = ((a - numerator) / (b - denominator)).log()
    reach = float(stdtrit(n - 1, 0.975)) * float(((n - 1) / n * (logs - logs.mean()).square().sum()).sqrt())
    ratio = float(a / b)
    return ratio, ratio * math.exp(-reach), ratio * math.exp(reach)


# --- uniform laws -----------------------------------------------------------------------------------------------------


def chi_square_ks(chi_square: Tensor, degrees: int) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of |y - A x|^2 / sigma^2 (images,), one x for each image, from chi^2 with `degrees`, and its p-value.

    Several samples of one image share its y: taking more than one each would make the test reject an exact sampler.
    """
    from scipy.special import chdtr
    from scipy.stats import kstest

    found = kstest(chdtr(degrees, chi_square.double().cpu().numpy()), "uniform")
    return float(found.statistic), float(found.pvalue)


def rank_chi_square(r: Tensor, m: int) -> tuple[float, float]:
    """Pearson's chi^2 of ranks (images,) in 0, ..., m against the uniform law, and its p-value; bins hold at least 5 expected ranks."""
    from scipy.special import chdtrc

    bins = max(2, min(m + 1, len(r) // 5))
    width = torch.bincount(torch.arange(m + 1) * bins // (m + 1), minlength=bins).double()
    count, expected = torch.bincount(r.cpu() * bins // (m + 1), minlength=bins).double(), len(r) * width / (m + 1)
    statistic = float(((count - expected).square() / expected).sum())
    return statistic, float(chdtrc(bins - 1, statistic))


def ecdf_p_value(r: Tensor, m: int) -> float:
    """Exact p-value of ranks (images,) in 0, ..., m against the uniform law, by the largest pointwise departure of their ECDF.

    gamma = 2 min_k min(P(B_k <= c_k), P(B_k >= c_k)), c_k the number of ranks up to k and B_k ~ Bin(images, (k + 1) / (m + 1));
    its law under uniformity follows from the recursion over k of the probability that an ECDF stays within its bands.

    Source: Sailynoja, Burkner, Vehtari, Graphical test for discrete uniformity and its applications in goodness-of-fit
    evaluation and multiple sample comparison, Statistics and Computing 2022, https://arxiv.org/abs/2103.10522 (sections 2, 3.1).
    """
    counts, (points, z) = torch.bincount(r.cpu(), minlength=m + 1).cumsum(0).numpy(), _points(m)
    at_most, at_least = _tails(len(r), m)
    rows, c = np.arange(len(z)), counts[points]
    return _escape(len(r), m, float(2 * np.minimum(at_most[rows, c], at_least[rows, c]).min()))


@functools.cache
def ecdf_band(images: int, m: int, level: float) -> tuple[list[float], list[float], list[float]]:
    """z, lower and upper: limits within which the ECDF of uniform ranks lies at all z at once with probability `level` or more, sharply.

    Source: as `ecdf_p_value`, whose p-value is at most 1 - level exactly when the ECDF leaves the band.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _escape(images, m, middle) <= 1 - level else (low, middle)
    lower, upper = _limits(images, m, low)
    return _points(m)[1].tolist(), (lower / images).tolist(), (upper / images).tolist()


def _points(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks k, at most 100 of them, and the probabilities (k + 1) / (m + 1) at which an ECDF of ranks is compared."""
    k = np.unique(np.linspace(0, m - 1, min(m, 100)).round().astype(int))
    return k, (k + 1) / (m + 1)


@functools.lru_cache(maxsize=8)
def _tails(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """P(B <= c) and P(B >= c) for B ~ Bin(n, z), at every z and c = 0, ..., n: (K, n + 1) each."""
    from scipy.special import bdtr, bdtrc

    z, c = _points(m)[1][:, None], np.arange(n + 1.0)
    return bdtr(c, n, z), np.where(c > 0, bdtrc(np.maximum(c - 1, 0), n, z), 1.0)


def _limits(n: int, m: int, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest count at each z with both tails above gamma / 2."""
    at_most, at_least = _tails(n, m)
    floor = gamma / 2 * (1 + 1e-9)
    return (at_most <= floor).sum(1), (at_least > floor).sum(1) - 1


@functools.lru_cache(maxsize=4096)
def _escape(n: int, m: int, gamma: float) -> float:
    """Probability that n uniform ranks have a pointwise tail of gamma / 2 or less at some z."""
    lower, upper = _limits(n, m, gamma)
    if (lower > upper).any():
        return 1.0
    factorial = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])
    state, probability, before = np.array([0]), np.array([1.0]), 0.0
    for z, low, high in zip(_points(m)[1], lower, upper, strict=True):
        target, p = np.arange(low, high + 1), (z - before) / (1 - before)
        gained, left = target[:, None] - state, n - state
        k = np.clip(gained, 0, left)
        log_pmf = factorial[left] - factorial[k] - factorial[left - k] + k * math.log(p) + (left - k) * math.log1p(-p)
        probability = np.where(gained == k, np.exp(log_pmf), 0.0) @ probability
        state, before = target, z
    return float(min(1.0, max(0.0, 1 - probability.sum())))


def _checked(samples: Tensor, truth: Tensor) -> Tensor:
    """Truth and samples as members 0 and 1, ..., m, in float64: (images, m + 1, n)."""
    if samples.shape[:1] + samples.shape[2:] != truth.shape:
        raise InputError(f"diagnostics: samples {tuple(samples.shape)} do not fit truths {tuple(truth.shape)}; want (images, m, *shape) and (images, *shape)")
    if samples.shape[1] < 2:
        raise InputError(f"diagnostics: at least 2 samples of each posterior are needed, got {samples.shape[1]}")
    return torch.cat([truth[:, None], samples], 1).flatten(2).double()


def _distances(x: Tensor) -> Tensor:
    """|x_j - x_k| of all members: (images, M, n) -> (images, M, M)."""
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


# --- test quantities --------------------------------------------------------------------------------------------------


def linear_quantities(shape: tuple[int, ...], generator: torch.Generator, pixels: int = 6, projections: int = 6) -> dict[str, Tensor]:
    """Rows w of test quantities w . x for x of this shape: spread entries, the mean, means of halves or quadrants, random directions; each (n,)."""
    index = torch.arange(torch.Size(shape).numel()).reshape(shape)
    n = index.numel()
    sets = {f"entry {i}": torch.tensor([i]) for i in sorted({round((j + 0.5) * n / pixels - 0.5) for j in range(pixels)})}
    if n > 1:
        sets["mean"] = index.flatten()
    if n > 3:
        wide = [side for side in range(max(len(shape) - 2, 0), len(shape)) if shape[side] > 1]
        parts: dict[str, Tensor] = {"": index}
        for side in wide:
            parts = {f"{name}{j + 1}": half for name, part in parts.items() for j, half in enumerate(part.tensor_split(2, side))}
        sets |= {f"mean of part {name}": part.flatten() for name, part in parts.items() if name}
    rows = {name: torch.zeros(n, dtype=torch.float64).index_fill(0, which, 1 / len(which)) for name, which in sets.items()}
    directions = torch.randn(projections if n > 1 else 0, n, generator=generator, dtype=torch.float64)
    return rows | {f"projection {j}": w / w.norm() for j, w in enumerate(directions)}


# --- the report -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Simulations:
    """Independent pairs of truth and measurement, each with the samples that a sampler drew from the measurement.

    Args:
        samples: (images, m, *shape).
        truth: (images, *shape).
        chi_square: |y - A x|^2 / sigma^2 of every sample (images, m), for Gaussian noise.
        degrees: number of measurements in y, the degrees of freedom of `chi_square`.
        log_likelihood: log p(y | x) of the truth and of every sample (images, m + 1), up to terms in y.
        references: points for TARP (images, *shape) by name, independent of the truth given y.
        batch_difference: root mean square change of the samples of an image that is solved alone with the same random streams,
            in units of their root mean square error.
        skipped: why something above is missing, by the name of the test that it was for.
    """

    samples: Tensor
    truth: Tensor
    chi_square: Tensor | None = None
    degrees: int = 0
    log_likelihood: Tensor | None = None
    references: dict[str, Tensor] = field(default_factory=dict)
    batch_difference: float | None = None
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One test: a statistic, what an exact sampler gives, a 95 % interval where there is one, and the p-value.

    Args:
        adjusted: p-value after Holm's correction over the report's checks.
        detail: which quantity, or why there is no p-value.
    """

    name: str
    statistic: float | None = None
    expected: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    adjusted: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """What the diagnostics say together.

    Args:
        checks: every test, with p-values where it could be made.
        scores: mean and standard error over images of the scores, smaller is better; for comparing samplers, no test.
        curves: rank counts by test quantity and reference, the band of their ECDF, the histogram of PIT values.
        images, samples: how many truths, and samples of each posterior.
        level: of the verdict: the probability that an exact sampler is called not calibrated is at most this.
    """

    checks: tuple[Check, ...]
    scores: dict[str, tuple[float, float]]
    curves: dict[str, Any]
    images: int
    samples: int
    level: float

    @property
    def calibrated(self) -> bool:
        """Whether no check objects at `level` after Holm's correction."""
        return not self.objections

    @property
    def objections(self) -> tuple[str, ...]:
        """Names of the checks that do."""
        return tuple(c.name for c in self.checks if c.adjusted is not None and c.adjusted < self.level)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries only."""
        return {"verdict": "calibrated" if self.calibrated else "not calibrated", "objections": list(self.objections), **asdict(self)}


BATCH_TOLERANCE = 0.01
MIN_IMAGES = 10


def report(simulations: Simulations, level: float = 0.05, generator: torch.Generator | None = None) -> Report:
    """Every check that the simulations allow.

    Args:
        level: of the verdict, family-wise over the checks; each of the two SBC checks is Bonferroni's over its test quantities.
        generator: for ties, random directions and randomisation; by default one of a fixed seed.

    Raises: InputError for fewer than 10 images or 2 samples, or values that are not finite.
    """
    generator = generator or torch.Generator().manual_seed(0)
    x, m, images = _checked(simulations.samples, simulations.truth).cpu(), simulations.samples.shape[1], len(simulations.truth)
    if images < MIN_IMAGES:
        raise InputError(f"diagnostics: at least {MIN_IMAGES} truths with their samples are needed, got {images}")
    if not 0 < level < 1:
        raise InputError(f"diagnostics: the level must lie within (0, 1), got {level:g}")
    if not bool(x.isfinite().all()):
        raise InputError("diagnostics: samples or truths hold NaN or infinity")
    curves: dict[str, Any] = {}
    checks = [_batch(simulations), _residual(simulations)]
    checks += _moments(x, generator)
    checks += _per_entry(x, generator, curves)
    checks += _sbc(x, simulations, generator, curves)
    checks += [_tarp(name, x, point.cpu(), generator, curves) for name, point in simulations.references.items()]
    checks += [Check(name, detail=f"skipped: {reason}") for name, reason in simulations.skipped.items() if name not in {c.name for c in checks}]
    scores = {}
    for name, score in (("fair CRPS", fair_crps), ("energy score", energy_score)):
        values = score(simulations.samples, simulations.truth)
        scores[name] = (float(values.mean()), float(values.std() / math.sqrt(images)))
    curves["ecdf band"] = dict(zip(("z", "lower", "upper"), ecdf_band(images, m, 0.95), strict=True))
    return Report(holm(checks), scores, curves, images, m, level)


def holm(checks: list[Check]) -> tuple[Check, ...]:
    """The checks with their adjusted p-values: step-down Bonferroni, valid under any dependence (Holm 1979)."""
    tested = sorted((c for c in checks if c.p_value is not None), key=lambda c: c.p_value or 0.0)
    adjusted, worst = {}, 0.0
    for k, check in enumerate(tested):
        worst = max(worst, min(1.0, (len(tested) - k) * (check.p_value or 0.0)))
        adjusted[check.name] = worst
    return tuple(Check(**{**vars(c), "adjusted": adjusted.get(c.name)}) for c in checks)


def _batch(s: Simulations) -> Check:
    """A deterministic check: an exact sampler never fails it, so that its p-value is 0 or 1."""
    name = "batch independence"
    if s.batch_difference is None:
        return Check(name, detail=f"skipped: {s.skipped.get(name, 'no image was solved alone')}")
    independent = s.batch_difference <= BATCH_TOLERANCE
    return Check(name, s.batch_difference, 0.0, p_value=float(independent), detail="change of a sample that is solved in another batch / its error")


def _residual(s: Simulations) -> Check:
    name = "residual chi-square"
    if s.chi_square is None:
        return Check(name, detail=f"skipped: {s.skipped.get(name, 'no residuals were given')}")
    statistic, p = chi_square_ks(s.chi_square[:, 0], s.degrees)
    mean = float(s.chi_square.double().mean() / s.degrees)
    return Check(name, mean, 1.0, p_value=p, detail=f"mean over {s.degrees} measurements; KS distance {statistic:.3f}")


def _moments(x: Tensor, generator: torch.Generator) -> list[Check]:
    m = x.shape[1] - 1
    pair, of_mean = three_decibel_table(x)
    if float(of_mean[:, 0].sum()) == 0:
        return [Check("3 dB ratio", detail="skipped: every posterior mean is the truth itself")]
    target = 2 * m / (m + 1)
    ratio, low, high = jackknife_ratio(pair[:, 0], of_mean[:, 0])
    p = randomisation_p_value((pair - target * of_mean)[..., None], generator)
    spread, skill_low, skill_high = (math.sqrt(max(0.0, q - 1) * (m + 1) / (m - 1)) for q in (ratio, low, high))
    return [
        Check("3 dB ratio", ratio, target, (low, high), p, detail="E|x_1 - x*|^2 / E|mean - x*|^2"),
        Check("spread / skill", spread, 1.0, (skill_low, skill_high), detail="the same evidence as the 3 dB ratio"),
    ]


def _per_entry(x: Tensor, generator: torch.Generator, curves: dict[str, Any]) -> list[Check]:
    """Coverage and PIT over all entries at once; entries of an image are dependent, images are not."""
    images, members, _ = x.shape
    frequency = torch.cat([_rank_frequency(part, generator) for part in x.split(max(1, (1 << 22) // x[0].numel()))])
    checks = []
    for nominal in (0.5, 0.9):
        k = max(1, round(members * (1 - nominal) / 2))
        if 2 * k >= members:
            checks.append(Check(f"coverage {nominal:.0%}", detail=f"skipped: {members - 1} samples have no such interval"))
            continue
        inside = frequency[..., k : members - k].sum(2)
        mean, reach = float(inside[:, 0].mean()), 1.96 * float(inside[:, 0].std()) / math.sqrt(images)
        p = randomisation_p_value(inside[..., None], generator)
        detail = f"between samples {k} and {members - k} of {members - 1} in order"
        checks.append(Check(f"coverage {nominal:.0%}", mean, (members - 2 * k) / members, (mean - reach, mean + reach), p, detail=detail))
    bins = min(10, members)
    of = torch.nn.functional.one_hot(torch.arange(members) * bins // members, bins).double()
    histogram, expected = frequency @ of, of.mean(0)
    departure = float((histogram[:, 0].mean(0) - expected).abs().sum() / 2)
    curves["pit"] = {"frequency": histogram[:, 0].mean(0).tolist(), "expected": expected.tolist()}
    checks.append(Check("PIT", departure, p_value=randomisation_p_value(histogram, generator), detail="total variation of the histogram from uniform"))
    return checks


def _rank_frequency(x: Tensor, generator: torch.Generator) -> Tensor:
    """How often each member takes each rank among the members, over entries: (images, M, n) -> (images, M, M)."""
    images, members, n = x.shape
    slot = torch.arange(images * members).reshape(images, members, 1) * members
    return torch.bincount((members_ranks(x, generator) + slot).flatten(), minlength=images * members**2).reshape(images, members, members).double() / n


def _sbc(x: Tensor, s: Simulations, generator: torch.Generator, curves: dict[str, Any]) -> list[Check]:
    m = x.shape[1] - 1
    linear = linear_quantities(tuple(s.truth.shape[1:]), generator)
    values = dict(zip(linear, (x @ torch.stack(list(linear.values())).T).unbind(2), strict=True))
    values["|x|^2"] = x.square().sum(2)
    if s.log_likelihood is not None:
        values["log-likelihood"] = s.log_likelihood.double().cpu()
    r = {name: ranks(value, generator) for name, value in values.items()}
    curves["sbc"] = {name: torch.bincount(one, minlength=m + 1).tolist() for name, one in r.items()}
    bands = {name: ecdf_p_value(one, m) for name, one in r.items()}
    squares = {name: rank_chi_square(one, m) for name, one in r.items()}
    worst, odd = min(bands, key=lambda q: bands[q]), min(squares, key=lambda q: squares[q][1])
    missing = f"; no log-likelihood: {s.skipped['log-likelihood']}" if s.log_likelihood is None and "log-likelihood" in s.skipped else ""
    where = f"of {len(r)} test quantities{missing}"
    departure = _departure(r[worst], m)
    return [
        Check("SBC ECDF", departure, p_value=min(1.0, len(r) * bands[worst]), detail=f"largest departure, {worst}, {where}"),
        Check("SBC chi-square", squares[odd][0], p_value=min(1.0, len(r) * squares[odd][1]), detail=f"{odd}, {where}"),
    ]


def _tarp(name: str, x: Tensor, points: Tensor, generator: torch.Generator, curves: dict[str, Any]) -> Check:
    m = x.shape[1] - 1
    r = ranks((x - points.double().flatten(1)[:, None]).norm(dim=2), generator)
    curves.setdefault("tarp", {})[name] = torch.bincount(r, minlength=m + 1).tolist()
    return Check(f"TARP, {name}", _departure(r, m), p_value=ecdf_p_value(r, m), detail="largest |ECP(alpha) - alpha|")


def _departure(r: Tensor, m: int) -> float:
    """Largest distance of the ECDF of ranks from the uniform one: TARP's |ECP(alpha) - alpha| where the ranks are of distances."""
    ecdf = torch.bincount(r, minlength=m + 1).cumsum(0).double() / len(r)
    return float((ecdf - torch.arange(1, m + 2, dtype=torch.float64) / (m + 1)).abs().max())
