"""Diagnose the calibration of a method on a problem from ground truths.

The ground truths are measured, the method samples from each measurement, and `diagnostics` tests
whether the ground truth can be told from the samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inverse.checks.diagnostics import MIN_IMAGES, Report, Simulations, report
from inverse.engine import method_instance, solve, versions
from inverse.errors import InputError, NoiseError, OptionError
from inverse.io.files import strict_json, write_text
from inverse.measurement.noise import GaussianNoise
from inverse.method import Method
from inverse.posterior import Posterior
from inverse.priors.prior import Prior
from inverse.problem import Problem
from inverse.registry.discovery import get_problem
from inverse.registry.options import values
from inverse.seeding import seeded

if TYPE_CHECKING:
    pass

MAX_ENTRIES = 1 << 22
"""Largest number of entries of the samples of one batch."""

HELD_OUT = (
    "the ground truths are held out, not drawn from the prior: "
    "the checks test the prior and the sampler together, and may object to the prior"
)
FROM_PRIOR = "the ground truths are drawn from the prior, so an exact sampler passes"


@dataclass(frozen=True)
class Diagnosis:
    """A report and its provenance.

    Args:
        report: the tests and scores.
        provenance: names, options, seeds and versions that reproduce the report.
        exact_prior: whether the ground truths are draws from the prior that the method uses.
    """

    report: Report
    provenance: dict[str, Any]
    exact_prior: bool

    @property
    def calibrated(self) -> bool:
        """Whether no check objects at the report's level."""
        return self.report.calibrated

    @property
    def notes(self) -> list[str]:
        """What the verdict tests: the sampler alone, or the prior and the sampler."""
        return [FROM_PRIOR if self.exact_prior else HELD_OUT]

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as numbers, strings, lists and dictionaries."""
        return {
            **self.report.to_dict(),
            "exact_prior": self.exact_prior,
            "notes": self.notes,
            "provenance": self.provenance,
        }

    def json(self) -> str:
        """The diagnosis as one line of JSON, with null for NaN and infinity."""
        return strict_json(self.to_dict())

    def save(self, path: str | Path) -> None:
        """Write the diagnosis as JSON, under a temporary name first.

        Raises: InputError if the file cannot be written.
        """
        write_text(Path(path), json.dumps(json.loads(self.json()), indent=1) + "\n")


def diagnose(
    problem: Problem | str,
    method: Method | type[Method] | str,
    simulations: int | None = None,
    samples: int = 19,
    seed: int = 0,
    *,
    truths: Iterable[Tensor] | None = None,
    prior: Prior | str | Path | None = None,
    level: float = 0.05,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    observe: Callable[[int, int], object] | None = None,
) -> Diagnosis:
    """Test the calibration of a method from ground truths; the posterior need not be known.

    Args:
        problem, method: instances, or registered names with their default options.
        simulations: number of ground truths; by default 200 draws from a prior that can be sampled,
            otherwise all held-out ground truths.
        samples: samples of each posterior; with 19, the limits of the 50 % and 90 % intervals are
            order statistics.
        seed: random seed for the ground truths, the noise, the method and the tests.
        truths: held-out ground truths, each (*shape), physical units; by default draws from the
            prior if it is a known law, otherwise those that ship with the problem.
        prior: an object, a name or a path; by default the problem's prior.
        level: largest probability of calling an exact sampler not calibrated.
        device, dtype: where and in what precision the method runs.
        observe: called as observe(done, simulations) after each batch.

    Raises: InputError for too few ground truths or ground truths of several shapes; OptionError for
        impossible numbers; UnsupportedError if the method cannot run on the problem.
    """
    problem = get_problem(problem) if isinstance(problem, str) else problem
    method = method_instance(method)
    if samples < 2:
        raise OptionError(
            f"diagnose: samples must be at least 2 to rank a ground truth, got {samples}; "
            "the default is 19"
        )
    if simulations is not None and simulations < MIN_IMAGES:
        raise OptionError(
            f"diagnose: simulations must be at least {MIN_IMAGES}, got {simulations}; "
            "200 find the common defects"
        )
    if not 0 < level < 1:
        raise OptionError(f"diagnose: level must lie within (0, 1), got {level:g}")
    law = problem.resolve_prior(prior, device, dtype)
    if sampled := truths is None and law.exact and hasattr(law, "sample"):
        x, references = _draw(problem, law, 2 * (simulations or 200), seed).chunk(2)
    else:
        x = _held_out(problem, truths, simulations)
        references = x.roll(1, 0)
    fields, skipped = _simulate(problem, method, law, x.to(device, dtype), samples, seed, observe)
    fields["references"] = {"another truth": references.cpu(), **fields["references"]}
    generator = seeded(seed, "diagnostics")
    outcome = report(Simulations(**fields, skipped=skipped), level, generator)
    provenance = {
        "problem": {"name": problem.name, "options": values(problem)},
        "method": {"name": method.name, "options": values(method)},
        "prior": getattr(law, "name", type(law).__name__),
        "seed": seed,
        "dtype": str(dtype).removeprefix("torch."),
        "versions": versions(),
    }
    return Diagnosis(outcome, provenance, sampled)


def _draw(problem: Problem, law: Any, count: int, seed: int) -> Tensor:
    """Draws from a law, physical units: (count, *shape).

    A law of any size takes the size of the problem's ground truths.
    """
    if None in law.shape and hasattr(law, "sized"):
        law = law.sized(*problem.truths()[0].shape[-2:])
    return law.decode(
        law.sample(count, seeded(seed, "truths", device=law.device or torch.device("cpu")))
    )


def _held_out(problem: Problem, truths: Iterable[Tensor] | None, simulations: int | None) -> Tensor:
    """Given or shipped ground truths, prepared and stacked: (count, *shape)."""
    shipped = truths is None
    images = [problem.prepare(truth) for truth in (problem.truths() if shipped else truths or ())]
    count = len(images) if simulations is None else simulations
    needed = max(count, MIN_IMAGES)
    if len(images) < needed:
        available = (
            f"{problem.name} ships {len(images)} and its prior cannot be sampled exactly"
            if shipped
            else f"{len(images)} were given"
        )
        raise InputError(
            f"diagnose: {needed} ground truths are needed, {available}; "
            "pass held-out ground truths (--input FILES on the command line)"
        )
    shapes = sorted({tuple(image.shape) for image in images[:count]})
    if len(shapes) > 1:
        raise InputError(
            "diagnose: ground truths must share one shape, "
            f"got {' and '.join(map(str, shapes[:3]))}; crop them first"
        )
    return torch.stack(images[:count])


def _simulate(
    problem: Problem,
    method: Method,
    law: Prior,
    x: Tensor,
    samples: int,
    seed: int,
    observe: Callable[[int, int], object] | None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of `Simulations`, and the reasons for missing fields."""
    batch = max(1, MAX_ENTRIES // (samples * x[0].numel()))
    parts: list[dict[str, Tensor]] = []
    fields: dict[str, Any] = {"truth": x.cpu()}
    skipped = {"batch independence": "one image fills a batch"}
    for first in range(0, len(x), batch):
        part = x[first : first + batch]
        posterior = problem.posterior(
            part, prior=law, seed=seed, device=x.device, dtype=x.dtype, first_image=first
        )
        result = solve(posterior, method, samples, seed, first_image=first)
        if first == 0 and len(part) > 1:
            alone = problem.posterior(
                part[:1], prior=law, seed=seed, device=x.device, dtype=x.dtype
            )
            fields["batch_difference"] = _relative_change(
                solve(alone, method, samples, seed).samples[0], result.samples[0], part[0].cpu()
            )
            del skipped["batch independence"]
        drawn = result.samples if result.log_weights is None else result.draw(samples, seed + first)
        with torch.no_grad():
            values, missing = _likelihood(posterior, part, drawn)
            if posterior.linear and posterior.gaussian:
                values["A^+ y"] = posterior.prior.decode(posterior.pseudo_inverse()).cpu()
            else:
                missing["TARP, A^+ y"] = (
                    "a pseudo-inverse needs a linear operator and Gaussian noise"
                )
        skipped |= missing
        parts.append({"samples": drawn, **values})
        if observe is not None:
            observe(first + len(part), len(x))
    fields |= {
        name: torch.cat([values[name] for values in parts])
        for name in parts[0]
        if all(name in values for values in parts)
    }
    fields["references"] = {name: fields.pop(name) for name in ("A^+ y",) if name in fields}
    if isinstance(posterior.noise, GaussianNoise):
        observed, y = posterior.noise.observed, posterior.y[0]
        fields["degrees"] = y.numel() if observed is None else int(observed.expand(y.shape).sum())
        if "chi_square" in fields:
            fields["chi_square"] = fields["degrees"] * fields["chi_square"]
    return fields, skipped


def _relative_change(alone: Tensor, together: Tensor, truth: Tensor) -> float:
    """RMS difference of the samples of one image (m, *shape), in units of their RMS error."""
    change = (alone - together).square().mean().sqrt()
    error = (together - truth).square().mean().sqrt()
    return float(change / error) if change > 0 else 0.0


def _likelihood(
    posterior: Posterior, truth: Tensor, samples: Tensor
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Fields `chi_square` (images, m) and `log_likelihood` (images, m + 1), or reasons why not.

    `chi_square` is divided by the number of measurements; member 0 of `log_likelihood` is the
    ground truth.
    """
    noise, images, members = posterior.noise, len(truth), 1 + samples.shape[1]
    if isinstance(noise, GaussianNoise) and noise.noiseless:
        return {}, dict.fromkeys(("residual chi-square", "log-likelihood"), "sigma_y is 0")
    values, missing = {}, {}
    rows = posterior.y.repeat_interleave(members, 0)
    clean = posterior.operator.A(torch.cat([truth[:, None], samples.to(truth)], 1).flatten(0, 1))
    if isinstance(noise, GaussianNoise):
        values["chi_square"] = (
            noise.chi_square(rows, clean).unflatten(0, (images, members))[:, 1:].cpu()
        )
    else:
        missing["residual chi-square"] = f"the noise is {noise!r}, not Gaussian"
    try:
        values["log_likelihood"] = noise.log_prob(rows, clean).unflatten(0, (images, members)).cpu()
    except NoiseError as error:
        missing["log-likelihood"] = str(error)
    return values, missing
