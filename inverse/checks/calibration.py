"""Diagnose a method on a problem: draw truths, measure them, sample, and ask whether the truths stand out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inverse.checks.diagnostics import MIN_IMAGES, Report, Simulations, report
from inverse.engine import solve, versions
from inverse.errors import InputError, NoiseError, OptionError
from inverse.io.devices import check_device
from inverse.io.files import check_writable, strict_json, write_text
from inverse.io.images import input_files
from inverse.measurement.noise import GaussianNoise
from inverse.method import Method
from inverse.posterior import Posterior
from inverse.priors.prior import Prior
from inverse.problem import Problem
from inverse.registry.discovery import get_method, get_problem
from inverse.registry.options import values
from inverse.seeding import seeded

if TYPE_CHECKING:
    from rich.table import Table

MAX_ENTRIES = 1 << 22
HELD_OUT = "the truths are held out, not drawn from the prior: every check speaks about prior and sampler together, and may object to the prior"
FROM_PRIOR = "the truths are drawn from the prior, so that an exact sampler passes"


@dataclass(frozen=True)
class Diagnosis:
    """A report with where it came from.

    Args:
        report: the tests and scores.
        provenance: names, options, seeds and versions: what it takes to do it again.
        exact_prior: whether the truths are draws from the prior that the method was given.
    """

    report: Report
    provenance: dict[str, Any]
    exact_prior: bool

    @property
    def calibrated(self) -> bool:
        """The report's verdict."""
        return self.report.calibrated

    @property
    def notes(self) -> list[str]:
        """What the verdict is about."""
        return [FROM_PRIOR if self.exact_prior else HELD_OUT]

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries only."""
        return {
            **self.report.to_dict(),
            "exact_prior": self.exact_prior,
            "notes": self.notes,
            "provenance": self.provenance,
        }

    def json(self) -> str:
        """One line of JSON, in which NaN and infinity are null."""
        return strict_json(self.to_dict())

    def save(self, path: str | Path) -> None:
        """Write JSON, under a temporary name and renamed."""
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
    """Test a method's samples against truths, without knowing the posterior.

    Args:
        problem, method: instances, or registered names with their default options.
        simulations: truths; by default 200 from a prior that can be sampled, otherwise all that there are.
        samples: of each posterior; 19 make 50 and 90 % intervals of whole order statistics.
        seed: of truths, noise, method and tests.
        truths: held-out ones, each (*shape), physical units; by default draws from the prior where it is a known law, otherwise
            those that ship with the problem.
        prior: object, name or path; by default the problem's own.
        level: most probability with which an exact sampler is called not calibrated.
        observe: called as observe(done, simulations) after each batch.

    Raises: InputError for too few truths or samples, OptionError for impossible numbers, UnsupportedError if the method cannot run.
    """
    problem = get_problem(problem) if isinstance(problem, str) else problem
    method = (
        get_method(method)
        if isinstance(method, str)
        else method()
        if isinstance(method, type)
        else method
    )
    if samples < 2:
        raise OptionError(
            f"diagnose: samples must be at least 2 (a rank needs company; 19 is the default), got {samples}"
        )
    if simulations is not None and simulations < MIN_IMAGES:
        raise OptionError(
            f"diagnose: simulations must be at least {MIN_IMAGES} (200 find the common defects), got {simulations}"
        )
    if not 0 < level < 1:
        raise OptionError(f"diagnose: level must lie within (0, 1), got {level:g}")
    law = problem.resolve_prior(prior, device, dtype)
    if sampled := truths is None and law.exact and hasattr(law, "sample"):
        x, references = _draw(problem, law, 2 * (simulations or 200), seed).chunk(2)
    else:
        x = _held_out(problem, truths, simulations)
        references = x.roll(1, 0)
    found, skipped = _simulate(problem, method, law, x.to(device, dtype), samples, seed, observe)
    found["references"] = {"another truth": references.cpu(), **found["references"]}
    generator = seeded(seed, "diagnostics")
    outcome = report(Simulations(**found, skipped=skipped), level, generator)
    about = {
        "problem": {"name": problem.name, "options": values(problem)},
        "method": {"name": method.name, "options": values(method)},
        "prior": getattr(law, "name", type(law).__name__),
        "seed": seed,
        "dtype": str(dtype).removeprefix("torch."),
        "versions": versions(),
    }
    return Diagnosis(outcome, about, sampled)


def _draw(problem: Problem, law: Any, count: int, seed: int) -> Tensor:
    """Draws from a law, of the size of the problem's own truths where it has any size, physical units: (count, *shape)."""
    if None in law.shape and hasattr(law, "sized"):
        law = law.sized(*problem.truths()[0].shape[-2:])
    return law.decode(
        law.sample(count, seeded(seed, "truths", device=law.device or torch.device("cpu")))
    )


def _held_out(problem: Problem, truths: Iterable[Tensor] | None, simulations: int | None) -> Tensor:
    """Given or shipped truths, prepared and stacked: (count, *shape)."""
    shipped = truths is None
    found = [problem.prepare(truth) for truth in (problem.truths() if shipped else truths or ())]
    count = len(found) if simulations is None else simulations
    if len(found) < max(count, MIN_IMAGES):
        there = (
            f"{problem.name} ships {len(found)} and its prior is no law to draw from"
            if shipped
            else f"{len(found)} were given"
        )
        raise InputError(
            f"diagnose: {max(count, MIN_IMAGES)} truths are needed, {there}; pass held-out ones (--input FILES on the command line)"
        )
    shapes = sorted({tuple(truth.shape) for truth in found[:count]})
    if len(shapes) > 1:
        raise InputError(
            f"diagnose: truths must share one shape, found {' and '.join(map(str, shapes[:3]))}; crop them first"
        )
    return torch.stack(found[:count])


def _simulate(
    problem: Problem,
    method: Method,
    law: Prior,
    x: Tensor,
    samples: int,
    seed: int,
    observe: Callable[[int, int], object] | None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of `Simulations`, and why some are missing."""
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
            found, missing = _likelihood(posterior, part, drawn)
            if posterior.linear and posterior.gaussian:
                found["A^+ y"] = posterior.prior.decode(posterior.pseudo_inverse()).cpu()
            else:
                missing["TARP, A^+ y"] = (
                    "a pseudo-inverse needs a linear operator and Gaussian noise"
                )
        skipped |= missing
        parts.append({"samples": drawn, **found})
        if observe is not None:
            observe(first + len(part), len(x))
    fields |= {
        name: torch.cat([one[name] for one in parts])
        for name in parts[0]
        if all(name in one for one in parts)
    }
    fields["references"] = {name: fields.pop(name) for name in ("A^+ y",) if name in fields}
    if isinstance(posterior.noise, GaussianNoise):
        observed, y = posterior.noise.observed, posterior.y[0]
        fields["degrees"] = y.numel() if observed is None else int(observed.expand(y.shape).sum())
        if "chi_square" in fields:
            fields["chi_square"] = fields["degrees"] * fields["chi_square"]
    return fields, skipped


def _relative_change(alone: Tensor, together: Tensor, truth: Tensor) -> float:
    """Root mean square difference of the samples of one image (m, *shape), in units of their root mean square error."""
    change, error = (
        (alone - together).square().mean().sqrt(),
        (together - truth).square().mean().sqrt(),
    )
    return float(change / error) if change > 0 else 0.0


def _likelihood(
    posterior: Posterior, truth: Tensor, samples: Tensor
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """`chi_square` of the samples (images, m), per measurement, and `log_likelihood` of truth and samples (images, m + 1); or why not."""
    noise, images, members = posterior.noise, len(truth), 1 + samples.shape[1]
    if isinstance(noise, GaussianNoise) and noise.noiseless:
        return {}, dict.fromkeys(("residual chi-square", "log-likelihood"), "sigma_y is 0")
    found, missing = {}, {}
    rows = posterior.y.repeat_interleave(members, 0)
    clean = posterior.operator.A(torch.cat([truth[:, None], samples.to(truth)], 1).flatten(0, 1))
    if isinstance(noise, GaussianNoise):
        found["chi_square"] = (
            noise.chi_square(rows, clean).unflatten(0, (images, members))[:, 1:].cpu()
        )
    else:
        missing["residual chi-square"] = f"the noise is {noise!r}, not Gaussian"
    try:
        found["log_likelihood"] = noise.log_prob(rows, clean).unflatten(0, (images, members)).cpu()
    except NoiseError as error:
        missing["log-likelihood"] = str(error)
    return found, missing


# --- the command ------------------------------------------------------------------------------------------------------


def run(
    problem: Problem,
    method: Method,
    files: list[Path],
    device: str,
    dtype: str,
    out: Path,
    **settings: Any,
) -> tuple[Diagnosis, Path]:
    """One `inverse diagnose`: read the files, diagnose with a bar on a terminal, write JSON; the diagnosis and its path."""
    from rich.console import Console
    from rich.progress import Progress

    if dtype not in ("float32", "float64"):
        raise OptionError(f"dtype must be float32 or float64, got '{dtype}'")
    where = check_device(device)
    check_writable(out)
    truths = None
    if files:
        prior = problem.resolve_prior(settings.get("prior"))
        posed = [_read(problem, file, prior) for file in input_files(files)]
        problem, truths = posed[0][0], [truth for _, truth in posed]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("diagnosing", total=None)

        def observe(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        found = diagnose(
            problem,
            method,
            truths=truths,
            device=where,
            dtype=getattr(torch, dtype),
            observe=observe,
            **settings,
        )
    path = out / "diagnosis.json"
    found.save(path)
    return found, path


def _read(problem: Problem, file: Path, prior: Prior) -> tuple[Problem, Tensor]:
    posed, truth, _ = problem.open(file, prior, measured=False)
    if not bool(torch.isfinite(truth).all()):
        raise InputError(f"{file}: holds NaN or infinity; a truth must be finite")
    return posed, truth


def table(diagnosis: Diagnosis) -> Table:
    """The checks, one a row."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("check", no_wrap=True)
    for label in ("found", "exact sampler", "95 % interval", "p", "p (Holm)"):
        shown.add_column(label, justify="right", no_wrap=True)
    shown.add_column("what", overflow="fold")
    for c in diagnosis.report.checks:
        interval = "" if c.interval is None else f"{c.interval[0]:.3g} - {c.interval[1]:.3g}"
        found, exact, p, adjusted = (
            "" if v is None else f"{v:.3g}"
            for v in (c.statistic, c.expected, c.p_value, c.adjusted)
        )
        shown.add_row(c.name, found, exact, interval, p, adjusted, c.detail)
    for name, (mean, error) in diagnosis.report.scores.items():
        shown.add_row(
            name,
            f"{mean:.4g}",
            "",
            f"{mean - 1.96 * error:.4g} - {mean + 1.96 * error:.4g}",
            "",
            "",
            "score, smaller is better",
        )
    return shown


def verdict(diagnosis: Diagnosis) -> str:
    """One line."""
    r = diagnosis.report
    scale = f"{r.images} truths, {r.samples} samples each, level {r.level:g} over all checks"
    return (
        f"calibrated: no check objects ({scale})"
        if r.calibrated
        else f"not calibrated: {', '.join(r.objections)} ({scale})"
    )
