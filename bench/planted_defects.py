"""Plant defects in two methods, and count which of them `verify` and `diagnose` find.

    python bench/planted_defects.py --write docs/verify-power

Both run at their default budgets: `verify` on all its cases, `diagnose` with 200 ground truths of
`gaussian view=random side=4`, for a lost mode of `bimodal`. The controls are the methods as they
are, with other seeds. Results are stored one by one in out/planted, and an interrupted run resumes
from them. Prints the table; with --write, also writes it to the page and results/verify-power.json.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from options import new_parser
from output import command_line, in_results, insert_tables, markdown_table, write_json
from torch import Tensor

import inverse
import inverse.engine
from inverse.checks.calibration import diagnose
from inverse.checks.claims import verify
from inverse.checks.exact_cases import all_cases
from inverse.measurement.noise import GaussianNoise
from inverse.method import Method, Weighted
from inverse.particles.cloud import CloudGenerators, ParticleMethod
from inverse.priors.analytic import MixturePrior
from inverse.priors.prior import Prior
from inverse.registry.discovery import with_settings
from inverse.seeding import Generators

BASES = ("mmps", "pigdm:step=score")
DEFECTS = (
    "variance x1.1",
    "variance x1.3",
    "mean x0.98",
    "a mode lost",
    "sigma_y ignored",
    "one seed for all samples",
    "noise shared in pairs",
    "schedule shifted by one",
    "noise after the last step",
    "A^T x1.05 in the guidance",
    "null space x0.8",
    "sign of the guidance swapped at low noise",
)
RULES = {
    "daps inner=exact": ("daps", {"inner": "exact"}),
    "ddnm-plus rule=paper": ("ddnm-plus", {"rule": "paper"}),
}
FIRST = ("random", "bimodal")
"""Cases of `verify` that run first; the others run if they find nothing."""

LOW_NOISE = 0.1
"""Level (model units) below which the sign of the guidance is swapped."""

LAST_NOISE = 0.05
"""Standard deviation (model units) of the noise after the last step."""


class Late(Prior):
    """A prior evaluated at the level before the one that is asked for."""

    exact = True

    def __init__(self, prior: Prior, levels: Tensor):
        units = {"shift": prior.shift, "scale": prior.scale}
        super().__init__(prior.shape, **units, sigma_min=prior.sigma_min, sigma_max=prior.sigma_max)
        self.prior, self.levels = prior, levels

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = torch.as_tensor(sigma, dtype=x.dtype)
        i = int((self.levels - s.max()).abs().argmin())
        return self.prior(x, self.levels[max(i - 1, 0)] + 0 * s)


class Shared(Generators):
    """Streams of which rows share the first, or pairs of rows one."""

    def __init__(self, inner: Generators, pairs: bool):
        super().__init__(inner.rows)
        self.inner, self.pairs = inner, pairs

    def randn_like(self, x: Tensor) -> Tensor:
        z = self.inner.randn_like(x)
        return z[::2].repeat_interleave(2, 0)[: len(z)] if self.pairs else z[:1].expand_as(z)

    def rand_like(self, x: Tensor) -> Tensor:
        return self.inner.rand_like(x)


def planted(base: Method, defect: str) -> Method:
    """A method like `base` with a defect."""

    class Planted(type(base)):  # type: ignore[misc]
        name = f"{base.name} with {defect}"

        def run(self, posterior, samples, generator):
            before = spoilt(self, posterior, defect)
            shared = defect in ("one seed for all samples", "noise shared in pairs")
            if shared and not isinstance(self, ParticleMethod):
                generator = Shared(generator, "pairs" in defect)
            (answer,) = deque(super().run(before, samples, generator), maxlen=1)
            yield changed(answer, posterior, samples, generator, defect)

        def cloud(self, posterior, samples, generator):
            rows, cloud = super().cloud(posterior, samples, generator)
            if defect in ("one seed for all samples", "noise shared in pairs"):
                streams = CloudGenerators(cloud.generator.rows)
                cloud.generator = Shared(streams, "pairs" in defect)
                cloud.x = cloud.generator.randn_like(cloud.x)
            return rows, cloud

        def denoise(self, posterior, x, sigma):
            x0_y, scale = super().denoise(posterior, x, sigma), guidance(defect, sigma)
            if scale == 1:
                return x0_y
            x0 = posterior.denoise(x, sigma)
            return x0 + scale * (x0_y - x0)

        def twist(self, posterior, x, sigma):
            x0, x0_y, log_psi = super().twist(posterior, x, sigma)
            return x0, x0 + guidance(defect, sigma) * (x0_y - x0), log_psi

    return Planted(**{field.name: getattr(base, field.name) for field in fields(base)})


def guidance(defect: str, sigma: Tensor) -> float:
    """The factor on the guidance, linear in A^T; 1 without a defect."""
    if "sign" in defect and float(sigma.max()) <= LOW_NOISE:
        return -1.0
    return 1.05 if "A^T" in defect else 1.0


def spoilt(method: Any, posterior: inverse.Posterior, defect: str) -> inverse.Posterior:
    """The posterior as a method with the defect sees it."""
    if defect == "sigma_y ignored":
        noise = posterior.noise
        return posterior.replaced(noise=GaussianNoise(0.01 * noise.sigma, noise.observed))
    if defect == "schedule shifted by one":
        levels = inverse.noise_levels(posterior, method.schedule, method.steps)
        return posterior.replaced(prior=Late(posterior.prior, levels[:-1]))
    return posterior


def changed(answer: Any, posterior: Any, samples: int, generator: Any, defect: str) -> Any:
    """The samples as a method with the defect returns them."""
    x = answer.x if isinstance(answer, Weighted) else answer
    groups = x.unflatten(0, (-1, samples))
    weights = torch.full(groups.shape[:2], 1 / samples, dtype=x.dtype)
    if isinstance(answer, Weighted) and answer.log_weights is not None:
        weights = answer.log_weights.unflatten(0, (-1, samples)).softmax(1).to(x)
    mean = torch.einsum("is,is...->i...", weights, groups)[:, None]
    if defect.startswith("variance"):
        groups = mean + float(defect.partition("x")[2]) ** 0.5 * (groups - mean)
    elif defect == "mean x0.98":
        groups = groups - 0.02 * mean
    elif defect == "noise after the last step":
        groups = groups + LAST_NOISE * generator.randn_like(x).view_as(groups)
    elif defect == "null space x0.8":
        groups = in_null_space(x, posterior, 0.8).view_as(groups)
    elif defect == "a mode lost" and isinstance(posterior.prior, MixturePrior):
        groups = in_one_mode(groups, posterior.prior)
    x = groups.flatten(0, 1)
    if isinstance(answer, Weighted):
        return Weighted(x, answer.log_weights, answer.log_evidence, answer.trace)
    return x


def in_null_space(x: Tensor, posterior: Any, factor: float) -> Tensor:
    """x with its deviation from the prior's mean scaled where A does not see it."""
    n = x[0].numel()
    unit = torch.eye(n, dtype=x.dtype).reshape(n, *posterior.shape)
    A = posterior.operator.A(unit).flatten(1).T
    seen = torch.linalg.pinv(A, rtol=1e-9) @ A
    offset = x - posterior.prior.mean
    flat = offset.flatten(1)
    return x + ((factor - 1) * (flat - flat @ seen.T)).view_as(x)


def in_one_mode(groups: Tensor, law: MixturePrior) -> Tensor:
    """Samples of a mixture's most frequent component, in place of those of the others."""
    kept = []
    for x in groups:
        component = law.responsibilities(x).argmax(0)
        own = (component == component.mode().values).nonzero()[:, 0]
        kept.append(x[own[torch.arange(len(x)) % len(own)]])
    return torch.stack(kept)


def outcome(method: Method, defect: str, seed: int) -> dict[str, Any]:
    """What `verify` and `diagnose` say about a method."""
    torch.set_num_threads(1)
    verdict = verify(method, seed=seed, cases=FIRST)
    if not verdict.failures:  # the other cases of the default
        rest = [case.name for case in all_cases() if not case.thorough and case.name not in FIRST]
        verdict = verify(method, seed=seed, cases=rest)
    problem = (
        inverse.get_problem("bimodal")
        if defect == "a mode lost"
        else inverse.get_problem("gaussian", view="random", side=4)
    )
    found = diagnose(problem, method, seed=seed, dtype=torch.float64)
    return {"verify": verdict.failures, "diagnose": list(found.report.objections)}


REASONS = {
    "correlated": "independence",
    "other images": "batch",
    "rotated": "adjoint",
    "converges with order": "order",
    "follows a change": "response",
    "rises": "limit",
    "does not fall": "limit",
    "whitened": "whitened figures",
}
"""Words of a failure of `verify`, and the rule."""


def found_by_verify(findings: list[str]) -> str:
    """The rules or the cases that object; at most three."""
    rules = [
        next((rule for words, rule in REASONS.items() if words in f), f.split(":")[0])
        for f in findings
    ]
    return ", ".join(list(dict.fromkeys(rules))[:3]) or "**no**"


def found_by_diagnose(findings: list[str]) -> str:
    return f"{len(findings)} checks" if findings else "**no**"


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--bases", nargs="+", default=BASES)
    parser.add_argument("--controls", type=int, default=5, help="seeds of each base")
    parser.add_argument("--store", type=Path, default=Path("out/planted"))
    parser.add_argument("--stored", action="store_true", help="show the stored results only")
    parser.add_argument("--write", help="page (without .md) into which to insert the table")
    arguments = parser.parse_args()
    planned: list[tuple[str, Method, str, int]] = [
        (f"{base}, {defect}", planted(with_settings(base), defect), defect, 0)
        for base in arguments.bases
        for defect in DEFECTS
    ]
    planned[len(DEFECTS) : len(DEFECTS)] = [
        (rule, inverse.get_method(name, **options), "", 0)
        for rule, (name, options) in RULES.items()
    ]
    planned += [
        (f"{base}, control {seed}", with_settings(base), "", seed)
        for seed in range(arguments.controls)
        for base in arguments.bases
    ]
    results: dict[str, dict[str, list[str]]] = {}
    for name, method, defect, seed in planned:
        path = arguments.store / f"{name.replace('^', '').replace(' ', '-')}.json"
        if not path.exists() and not arguments.stored:
            write_json(path, outcome(method, defect, seed))
        if path.exists():
            results[name] = json.loads(path.read_text())
            print(name, results[name], flush=True)
    text = table(results, arguments.bases)
    print(text)
    if arguments.write:
        insert_tables(Path(f"{arguments.write}.md"), text)
        record = {"command": command_line(), "versions": inverse.engine.versions()}
        write_json(in_results(Path(f"{arguments.write}.json")), record | {"results": results})


def table(results: dict[str, dict[str, list[str]]], bases: list[str]) -> str:
    """What finds each defect; a dash where it was not run."""

    def cells(name: str) -> list[str]:
        if name not in results:
            return ["-", "-"]
        found = results[name]
        return [found_by_verify(found["verify"]), found_by_diagnose(found["diagnose"])]

    heads = ["defect", *(f"`{base}`, {check}" for base in bases for check in CHECKS)]
    rows = [
        [defect, *(cell for base in bases for cell in cells(f"{base}, {defect}"))]
        for defect in DEFECTS
    ]
    rows += [[f"`{rule}` itself", *cells(rule), *[""] * (len(heads) - 3)] for rule in RULES]
    alarms = []
    for base in bases:
        controls = [r for name, r in results.items() if name.startswith(f"{base}, control")]
        alarms += [f"{sum(bool(r[c]) for r in controls)} of {len(controls)}" for c in CHECKS]
    return markdown_table(heads, [*rows, ["none (controls)", *alarms]])


CHECKS = ("verify", "diagnose")

if __name__ == "__main__":
    main()
