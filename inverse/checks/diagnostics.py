"""Diagnostics of posterior samplers from ground truths, without a reference posterior.

If x* ~ prior and y = A(x*) + noise, then the samples x_1, ..., x_m of an exact sampler given y are
exchangeable with x*: given y, each of the m + 1 is equally likely to be the ground truth. Every
test follows from this property. Samples are (images, m, *shape) and ground truths (images, *shape),
with one image for each independent pair (x*, y).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from inverse.checks.exchangeability import (
    chi_square_ks,
    ecdf_band,
    ecdf_p_value,
    jackknife_ratio,
    members_ranks,
    randomisation_p_value,
    rank_chi_square,
    ranks,
    three_decibel_table,
)
from inverse.errors import InputError
from inverse.metrics.ensemble import as_members, energy_score, fair_crps


def linear_quantities(
    shape: tuple[int, ...], generator: torch.Generator, pixels: int = 6, projections: int = 6
) -> dict[str, Tensor]:
    """Weights w of linear test quantities w . x, by name; each (n,).

    The quantities are single entries, the mean, the means of halves or quadrants, and projections
    on random directions.

    Args:
        shape: shape of x, with n entries.
        pixels: number of single entries, spread evenly.
        projections: number of random directions.
    """
    index = torch.arange(torch.Size(shape).numel()).reshape(shape)
    n = index.numel()
    sets = {
        f"entry {i}": torch.tensor([i])
        for i in sorted({round((j + 0.5) * n / pixels - 0.5) for j in range(pixels)})
    }
    if n > 1:
        sets["mean"] = index.flatten()
    if n > 3:
        sides = [side for side in range(max(len(shape) - 2, 0), len(shape)) if shape[side] > 1]
        parts: dict[str, Tensor] = {"": index}
        for side in sides:
            parts = {
                f"{name}{j + 1}": half
                for name, part in parts.items()
                for j, half in enumerate(part.tensor_split(2, side))
            }
        sets |= {f"mean of part {name}": part.flatten() for name, part in parts.items() if name}
    rows = {
        name: torch.zeros(n, dtype=torch.float64).index_fill(0, entries, 1 / len(entries))
        for name, entries in sets.items()
    }
    directions = torch.randn(
        projections if n > 1 else 0, n, generator=generator, dtype=torch.float64
    )
    return rows | {f"projection {j}": w / w.norm() for j, w in enumerate(directions)}


@dataclass(frozen=True)
class Simulations:
    """Independent pairs of ground truth and measurement, with samples given each measurement.

    Args:
        samples: (images, m, *shape).
        truth: (images, *shape).
        chi_square: |y - A x|^2 / sigma^2 of every sample (images, m), for Gaussian noise.
        degrees: number of measurements in y, the degrees of freedom of `chi_square`.
        log_likelihood: log p(y | x) of the ground truth and of every sample (images, m + 1), in
            nats, up to terms in y.
        references: reference points of TARP (images, *shape) by name, independent of the ground
            truth given y.
        batch_difference: RMS change of the samples of one image if it is solved alone with the same
            random streams, in units of their RMS error.
        skipped: why a field is missing, by the name of the test that needs it.
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
    """One test.

    Args:
        name: name of the test.
        statistic: its value.
        expected: expectation of the statistic for an exact sampler, if it is known.
        interval: 95 % interval of the statistic, if it is known.
        p_value: p-value of an exact sampler; None if the test was not made.
        adjusted: p-value after Holm's correction over the report's checks.
        detail: the quantity, or why there is no p-value.
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
    """All diagnostics of a sampler.

    Args:
        checks: every test, with a p-value if it could be made.
        scores: mean and standard error over images of each score; smaller is better. Scores compare
            samplers and test nothing.
        curves: rank counts by test quantity and reference point, the band of their ECDF, and the
            histogram of PIT values.
        images, samples: number of ground truths, and of samples for each.
        level: largest probability of calling an exact sampler not calibrated.
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
        """Names of the checks that object."""
        return tuple(
            c.name for c in self.checks if c.adjusted is not None and c.adjusted < self.level
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as numbers, strings, lists and dictionaries."""
        return {
            "verdict": "calibrated" if self.calibrated else "not calibrated",
            "objections": list(self.objections),
            **asdict(self),
        }


BATCH_TOLERANCE = 0.01
"""Largest `batch_difference` of a sampler whose samples do not depend on their batch."""

MIN_IMAGES = 10
"""Smallest number of ground truths of a report."""


def report(
    simulations: Simulations, level: float = 0.05, generator: torch.Generator | None = None
) -> Report:
    """Make every check that the simulations allow.

    Args:
        level: family-wise level of the verdict over the checks. Each of the two SBC checks applies
            Bonferroni's correction over its test quantities.
        generator: randomness of ties, directions and exchanges; by default of a fixed seed.

    Raises: InputError for fewer than 10 images or 2 samples, or for values that are not finite.
    """
    generator = generator or torch.Generator().manual_seed(0)
    x = as_members(simulations.samples, simulations.truth).cpu()
    m, images = simulations.samples.shape[1], len(simulations.truth)
    if images < MIN_IMAGES:
        raise InputError(
            f"diagnostics: at least {MIN_IMAGES} ground truths are needed, got {images}"
        )
    if not 0 < level < 1:
        raise InputError(f"diagnostics: the level must lie within (0, 1), got {level:g}")
    if not bool(x.isfinite().all()):
        raise InputError("diagnostics: samples or ground truths hold NaN or infinity")
    curves: dict[str, Any] = {}
    checks = [_batch(simulations), _residual(simulations)]
    checks += _moments(x, generator)
    checks += _per_entry(x, generator, curves)
    checks += _sbc(x, simulations, generator, curves)
    checks += [
        _tarp(name, x, point.cpu(), generator, curves)
        for name, point in simulations.references.items()
    ]
    checks += [
        Check(name, detail=f"skipped: {reason}")
        for name, reason in simulations.skipped.items()
        if name not in {c.name for c in checks}
    ]
    scores = {}
    for name, score in (("fair CRPS", fair_crps), ("energy score", energy_score)):
        values = score(simulations.samples, simulations.truth)
        scores[name] = (float(values.mean()), float(values.std() / math.sqrt(images)))
    curves["ecdf band"] = dict(
        zip(("z", "lower", "upper"), ecdf_band(images, m, 0.95), strict=True)
    )
    return Report(holm(checks), scores, curves, images, m, level)


def holm(checks: list[Check]) -> tuple[Check, ...]:
    """Adjust the p-values of checks by Holm's step-down method, valid under any dependence.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of
    Statistics 1979.
    """
    tested = sorted((c for c in checks if c.p_value is not None), key=lambda c: c.p_value or 0.0)
    adjusted, largest = {}, 0.0
    for k, check in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - k) * (check.p_value or 0.0)))
        adjusted[check.name] = largest
    return tuple(Check(**{**vars(c), "adjusted": adjusted.get(c.name)}) for c in checks)


def _batch(s: Simulations) -> Check:
    """A deterministic check with p-value 0 or 1: an exact sampler never fails it."""
    name = "batch independence"
    if s.batch_difference is None:
        return Check(name, detail=f"skipped: {s.skipped.get(name, 'no image was solved alone')}")
    independent = s.batch_difference <= BATCH_TOLERANCE
    return Check(
        name,
        s.batch_difference,
        0.0,
        p_value=float(independent),
        detail="change of a sample in another batch / its error",
    )


def _residual(s: Simulations) -> Check:
    name = "residual chi-square"
    if s.chi_square is None:
        return Check(name, detail=f"skipped: {s.skipped.get(name, 'no residuals were given')}")
    statistic, p = chi_square_ks(s.chi_square[:, 0], s.degrees)
    mean = float(s.chi_square.double().mean() / s.degrees)
    return Check(
        name,
        mean,
        1.0,
        p_value=p,
        detail=f"mean over {s.degrees} measurements; KS distance {statistic:.3f}",
    )


def _moments(x: Tensor, generator: torch.Generator) -> list[Check]:
    m = x.shape[1] - 1
    pair, of_mean = three_decibel_table(x)
    if float(of_mean[:, 0].sum()) == 0:
        return [Check("3 dB ratio", detail="skipped: every posterior mean equals its ground truth")]
    target = 2 * m / (m + 1)
    ratio, low, high = jackknife_ratio(pair[:, 0], of_mean[:, 0])
    p = randomisation_p_value((pair - target * of_mean)[..., None], generator)
    spread, skill_low, skill_high = (
        math.sqrt(max(0.0, q - 1) * (m + 1) / (m - 1)) for q in (ratio, low, high)
    )
    return [
        Check("3 dB ratio", ratio, target, (low, high), p, detail="E|x_1 - x*|^2 / E|mean - x*|^2"),
        Check(
            "spread / skill",
            spread,
            1.0,
            (skill_low, skill_high),
            detail="the same evidence as the 3 dB ratio",
        ),
    ]


def _per_entry(x: Tensor, generator: torch.Generator, curves: dict[str, Any]) -> list[Check]:
    """Coverage and PIT over all entries; images are independent, entries of an image are not."""
    images, members, _ = x.shape
    frequency = torch.cat(
        [_rank_frequency(part, generator) for part in x.split(max(1, (1 << 22) // x[0].numel()))]
    )
    checks = []
    for nominal in (0.5, 0.9):
        k = max(1, round(members * (1 - nominal) / 2))
        if 2 * k >= members:
            checks.append(
                Check(
                    f"coverage {nominal:.0%}",
                    detail=f"skipped: {members - 1} samples have no such interval",
                )
            )
            continue
        inside = frequency[..., k : members - k].sum(2)
        mean = float(inside[:, 0].mean())
        reach = 1.96 * float(inside[:, 0].std()) / math.sqrt(images)
        p = randomisation_p_value(inside[..., None], generator)
        detail = f"between order statistics {k} and {members - k} of {members - 1}"
        checks.append(
            Check(
                f"coverage {nominal:.0%}",
                mean,
                (members - 2 * k) / members,
                (mean - reach, mean + reach),
                p,
                detail=detail,
            )
        )
    bins = min(10, members)
    of = torch.nn.functional.one_hot(torch.arange(members) * bins // members, bins).double()
    histogram, expected = frequency @ of, of.mean(0)
    departure = float((histogram[:, 0].mean(0) - expected).abs().sum() / 2)
    curves["pit"] = {"frequency": histogram[:, 0].mean(0).tolist(), "expected": expected.tolist()}
    checks.append(
        Check(
            "PIT",
            departure,
            p_value=randomisation_p_value(histogram, generator),
            detail="total variation of the histogram from uniform",
        )
    )
    return checks


def _rank_frequency(x: Tensor, generator: torch.Generator) -> Tensor:
    """Share of entries at which a member has a rank: (images, M, n) -> (images, M, M)."""
    images, members, n = x.shape
    slot = torch.arange(images * members).reshape(images, members, 1) * members
    return (
        torch.bincount(
            (members_ranks(x, generator) + slot).flatten(), minlength=images * members**2
        )
        .reshape(images, members, members)
        .double()
        / n
    )


def _sbc(
    x: Tensor, s: Simulations, generator: torch.Generator, curves: dict[str, Any]
) -> list[Check]:
    m = x.shape[1] - 1
    linear = linear_quantities(tuple(s.truth.shape[1:]), generator)
    values = dict(zip(linear, (x @ torch.stack(list(linear.values())).T).unbind(2), strict=True))
    values["|x|^2"] = x.square().sum(2)
    if s.log_likelihood is not None:
        values["log-likelihood"] = s.log_likelihood.double().cpu()
    r = {name: ranks(value, generator) for name, value in values.items()}
    curves["sbc"] = {name: torch.bincount(q, minlength=m + 1).tolist() for name, q in r.items()}
    ecdf = {name: ecdf_p_value(q, m) for name, q in r.items()}
    chi_square = {name: rank_chi_square(q, m) for name, q in r.items()}
    by_ecdf = min(ecdf, key=lambda name: ecdf[name])
    by_chi_square = min(chi_square, key=lambda name: chi_square[name][1])
    missing = (
        f"; no log-likelihood: {s.skipped['log-likelihood']}"
        if s.log_likelihood is None and "log-likelihood" in s.skipped
        else ""
    )
    where = f"of {len(r)} test quantities{missing}"
    statistic, p = chi_square[by_chi_square]
    return [
        Check(
            "SBC ECDF",
            _departure(r[by_ecdf], m),
            p_value=min(1.0, len(r) * ecdf[by_ecdf]),
            detail=f"largest departure, {by_ecdf}, {where}",
        ),
        Check(
            "SBC chi-square",
            statistic,
            p_value=min(1.0, len(r) * p),
            detail=f"{by_chi_square}, {where}",
        ),
    ]


def _tarp(
    name: str, x: Tensor, points: Tensor, generator: torch.Generator, curves: dict[str, Any]
) -> Check:
    m = x.shape[1] - 1
    r = ranks((x - points.double().flatten(1)[:, None]).norm(dim=2), generator)
    curves.setdefault("tarp", {})[name] = torch.bincount(r, minlength=m + 1).tolist()
    return Check(
        f"TARP, {name}",
        _departure(r, m),
        p_value=ecdf_p_value(r, m),
        detail="largest |ECP(alpha) - alpha|",
    )


def _departure(r: Tensor, m: int) -> float:
    """Largest distance of the ECDF of ranks from the uniform ECDF.

    It is TARP's |ECP(alpha) - alpha| if the ranks are those of distances.
    """
    ecdf = torch.bincount(r, minlength=m + 1).cumsum(0).double() / len(r)
    return float((ecdf - torch.arange(1, m + 2, dtype=torch.float64) / (m + 1)).abs().max())
