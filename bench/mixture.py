"""Compare every method with the exact posterior of the Gaussian-mixture problem, by sliced W1.

    python bench/mixture.py --cells 8,1 --methods dps mmps --instances 2
    python bench/mixture.py --records records.jsonl --write docs/mixture

The first command runs a few methods on a cell and prints their table; the second runs everything,
inserts the tables into docs/mixture.md and writes results/mixture.json.

A cell is a pair of dimensions d / d_y. Finished runs are stored in --records, one per line, and not
repeated: an interrupted benchmark continues where it stopped. All methods run on one instance of
every cell before the next instance starts, so that an interrupted benchmark leaves a balanced
table. Particle methods run first.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ledger import Ledger
from options import new_parser
from output import command_line, in_results, insert_tables, markdown_table
from torch import Tensor

import inverse
from inverse.checks.claims import sample
from inverse.checks.distances import wasserstein_1d
from inverse.engine import versions
from inverse.particles.cloud import ParticleMethod
from inverse.priors.analytic import MixturePrior
from inverse.registry.discovery import registry
from inverse.registry.options import options, values

CELLS = [(d, d_y) for d in (8, 80, 800) for d_y in (1, 2, 4)]
STEPS = (20, 100)
CURVE = (5, 10, 20, 50, 100)
CURVE_CELL = (80, 2)
CURVE_INSTANCES = 10
SLICES = 100
UNIT = math.sqrt(129)
BASIS_DEPENDENT = {
    "red-diff": "Adam scales each coordinate",
    "sitcom": "Adam scales each coordinate",
    "tmpd": "row sums of the Jacobian",
}
"""Methods whose law changes under rotation, and why; they run in all d dimensions."""
SLOW = {("sitcom", 80): 5, ("sitcom", 800): 1}
"""Instances of a cell for methods that are slow in all d dimensions, by method and d."""
DUPLICATES = {"multimodal": "equals `mmps` for a single modality"}
"""Methods that equal another method on this problem."""


@dataclass(frozen=True)
class Row:
    """A row of the tables.

    Args:
        method: registered name.
        changed: options other than the defaults; a callable receives d.
        cost: prior evaluations per step, by which the number of steps is divided.
    """

    method: str
    changed: dict[str, Any] = field(default_factory=dict)
    cost: int = 1

    def options(self, d: int, steps: int | None) -> dict[str, Any]:
        """Options of the method in d dimensions; `steps` counts prior evaluations."""
        changed = {
            key: value(d) if callable(value) else value for key, value in self.changed.items()
        }
        return changed | ({} if steps is None else {"steps": steps // self.cost})

    @property
    def steps(self) -> tuple[int | None, ...]:
        """Numbers of steps to run; (None,) if the method has no such option."""
        names = {o.name for o in options(registry().find("inverse_methods", self.method))}
        return STEPS if "steps" in names else (None,)

    @property
    def particles(self) -> bool:
        return issubclass(registry().find("inverse_methods", self.method), ParticleMethod)


LEVELS: dict[str, Any] = {"sigma_min": 0.01, "sigma_max": lambda d: 5 * math.sqrt(d)}
WIDE = LEVELS | {"schedule": "log-uniform"}
"""Start at five standard deviations of the whole prior (model units of the problem).

The published first level lies within the spread of the prior for d = 800.
"""
VARIANTS = {
    "dps, published step": Row("dps", {"zeta": 0.1}),
    "dps, step of a score": Row("dps", {"step": "score"}),
    "afdps sde": Row("afdps", {"variant": "sde"}),
    "smc-mmps, wide": Row("smc-mmps", WIDE),
    "afdps, wide": Row("afdps", LEVELS, cost=2),
    **{f"{name}, wide": Row(name, WIDE) for name in ("fk-steering", "mcg-diff", "tds")},
}
"""Additional rows.

DPS with the published step, and with the step that suits its default weight; the other variant of
AFDPS; particle methods that start at a higher noise level.
"""
EVALUATIONS_PER_STEP = {"afdps": 2}
"""Methods with several prior evaluations per step; they run with fewer steps."""


@dataclass(frozen=True)
class Instance:
    """An instance of the problem in the subspace in which its methods run.

    Args:
        posterior: of the methods, float32.
        law: the prior.
        exact: the exact posterior.
        directions: random unit vectors of R^d projected onto the subspace, (k, slices).
    """

    posterior: inverse.Posterior
    law: MixturePrior
    exact: MixturePrior
    directions: Tensor

    def distance(self, x: Tensor, y: Tensor) -> float:
        """Sliced W1 of samples (n, k) and (n, k)."""
        return float(wasserstein_1d((x @ self.directions).T, (y @ self.directions).T).mean())


@functools.lru_cache(2)
def instance(d: int, d_y: int, index: int, direct: bool, unit: float) -> Instance:
    """An instance in model units x / unit; `direct` keeps all d dimensions."""
    problem = inverse.get_problem("mixture", d=d, d_y=d_y, instance=index)
    law, A = problem.law(), problem.matrix()
    y = problem.posterior(0, dtype=torch.float64).y
    stream = inverse.seeded("mixture", "slices", d, d_y, index)
    theta = torch.randn(d, SLICES, generator=stream, dtype=torch.float64)
    theta /= theta.norm(dim=0)
    Q = torch.eye(d, dtype=torch.float64) if direct else span(torch.cat([law.means, A]))
    inside = Q.T @ theta
    if not direct:
        outside = (1 - inside.square().sum(0)).clamp_min(0).sqrt()
        Q, inside = with_orthogonal(Q), torch.cat([inside, outside[None]])
    units = {"scale": unit, "sigma_min": 0.01 / unit, "sigma_max": 157.4 / unit}
    small = MixturePrior(
        law.weights,
        law.decode(law.means) @ Q / unit,
        law.scale**2 * law.variances[:1, 0] / unit**2,
        **units,
    )
    exact = small.given(A @ Q, problem.sigma_y, y.flatten())
    operator = inverse.measurement.operators.dense(A @ Q, (Q.shape[1],))
    posterior = inverse.Posterior(
        copy.deepcopy(small).float(),
        operator,
        y.float(),
        problem.noise((Q.shape[1],)),
        shape=(Q.shape[1],),
    )
    return Instance(posterior, small, exact, inside)


def span(rows: Tensor) -> Tensor:
    """An orthonormal basis (d, k) of the span of rows (n, d)."""
    Vh = torch.linalg.svd(rows, full_matrices=False).Vh
    return Vh[: int(torch.linalg.matrix_rank(rows))].T


def with_orthogonal(Q: Tensor) -> Tensor:
    """The basis (d, k), k < d, extended by one orthogonal direction: (d, k + 1)."""
    v = torch.randn(len(Q), generator=inverse.seeded("another direction"), dtype=Q.dtype)
    v -= Q @ (Q.T @ v)
    return torch.cat([Q, (v / v.norm())[:, None]], 1)


def reference(d: int, d_y: int, index: int, samples: int) -> dict[str, float]:
    """Sliced W1 of exact posterior samples (floor) and of prior samples from the posterior."""
    case = instance(d, d_y, index, False, 1.0)
    stream = inverse.seeded("mixture", "reference", d, d_y, index)
    exact, law = case.exact, case.law
    return {
        "floor": case.distance(exact.sample(samples, stream), exact.sample(samples, stream)),
        "prior": case.distance(law.sample(samples, stream), exact.sample(samples, stream)),
    }


def run(
    method: inverse.Method, d: int, d_y: int, index: int, samples: int, direct: bool, unit: float
) -> dict[str, Any]:
    """Score and cost of a method on an instance, or the reason why it does not run."""
    case = instance(d, d_y, index, direct, unit)
    try:
        x, cost, seconds = sample(method, case.posterior, samples, index)
    except inverse.InverseError as error:
        return {"skipped": str(error)}
    stream = inverse.seeded("mixture", "truth", d, d_y, index)
    exact = case.exact.decode(case.exact.sample(samples, stream))
    return {"W1": case.distance(x, exact), "NFE": cost.nfe, "VJP": cost.vjp, "seconds": seconds}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % confidence interval (NaN for a single value)."""
    t = torch.tensor(values, dtype=torch.float64)
    return float(t.mean()), 1.96 * float(t.std()) / math.sqrt(len(t)) if len(t) > 1 else math.nan


def interval_text(values: list[float]) -> str:
    mean, half_width = interval(values)
    return f"{mean:.2f}" if math.isnan(half_width) else f"{mean:.2f} ± {half_width:.2f}"


class Bench:
    """The runs of a command, by row, cell, steps and instance."""

    def __init__(
        self,
        rows: dict[str, Row],
        cells: list[tuple[int, int]],
        ledger: Ledger,
        settings: argparse.Namespace,
    ):
        self.rows, self.cells, self.ledger, self.settings = rows, cells, ledger, settings

    def run(self, label: str, d: int, d_y: int, steps: int | None, i: int) -> dict[str, Any] | None:
        """A run, from the ledger if it has it; None if --known excludes new runs."""
        row, settings = self.rows[label], self.settings
        direct = settings.direct or d < 10 or row.method in BASIS_DEPENDENT
        method = inverse.get_method(row.method, **row.options(d, steps))
        samples = settings.samples[not row.particles]
        key = json.dumps(
            [d, d_y, i, row.method, values(method), samples, direct, settings.unit],
            sort_keys=True,
            default=str,
        )
        if settings.known and key not in self.ledger.known:
            return None
        return self.ledger.get(key, lambda: run(method, d, d_y, i, samples, direct, settings.unit))

    def reference(self, d: int, d_y: int, i: int, samples: int) -> dict[str, float]:
        key = json.dumps([d, d_y, i, "reference", samples])
        return self.ledger.get(key, lambda: reference(d, d_y, i, samples))

    def count(self, label: str, d: int) -> int:
        """Instances of a row in d dimensions."""
        row = self.rows[label]
        instances = self.settings.instances[not row.particles]
        return min(instances, SLOW.get((row.method, d), instances))

    def all(self, label: str, d: int, d_y: int, steps: int | None) -> list[dict[str, Any]]:
        """The runs of a row in a cell, up to the first that is not known."""
        return self.first(label, d, d_y, steps, self.count(label, d))

    def first(
        self, label: str, d: int, d_y: int, steps: int | None, count: int
    ) -> list[dict[str, Any]]:
        """The runs of the first `count` instances, up to the first that is not known."""
        runs = (self.run(label, d, d_y, steps, i) for i in range(count))
        return list(itertools.takewhile(lambda row: row is not None, runs))

    def references(self, d: int, d_y: int, name: str, particles: bool) -> list[float]:
        """The floor or the prior's distance of every instance, with as many samples as the rows."""
        samples = self.settings.samples[not particles]
        instances = self.settings.instances[not particles]
        return [self.reference(d, d_y, i, samples)[name] for i in range(instances)]

    def curve(self, label: str, steps: int) -> list[dict[str, Any]]:
        count = min(self.count(label, CURVE_CELL[0]), CURVE_INSTANCES)
        return self.first(label, *CURVE_CELL, steps, count)

    def common(self, runs: dict[str, list[list[dict[str, Any]]]]) -> int:
        """The number of instances that every row has in every cell, slow methods excepted.

        Args:
            runs: by label, then by cell or number of steps.
        """
        slow = {name for name, _ in SLOW}
        main = [row for label, row in runs.items() if self.rows[label].method not in slow]
        return min(len(cell) for row in main or runs.values() for cell in row)

    def fill(self) -> None:
        """Run all that the tables need, instance by instance.

        Particle methods with the most steps come first, then other methods, then the rest.
        """
        first = {label: row for label, row in self.rows.items() if row.particles}
        others = {label: row for label, row in self.rows.items() if not row.particles}
        for title, rows, numbers in (
            ("particle methods", first, STEPS[-1:]),
            ("other methods", others, STEPS),
            ("all", self.rows, STEPS),
        ):
            for i in range(max(self.settings.instances)):
                for d, d_y in self.cells:
                    for label, row in rows.items():
                        for steps in row.steps if i < self.count(label, d) else ():
                            if steps is None or steps in numbers:
                                self.run(label, d, d_y, steps, i)
                print(f"{title}: instance {i} done", flush=True)


def skip_reason(runs: list[dict[str, Any]]) -> str | None:
    """The reason why a method cannot run on the problem; None if it can (even if it diverges)."""
    reasons = (run["skipped"] for run in runs if "skipped" in run)
    return next((reason for reason in reasons if "diverged" not in reason), None)


def distances(runs: list[dict[str, Any]]) -> list[float]:
    return [run["W1"] for run in runs if "W1" in run]


def cell_text(runs: list[dict[str, Any]]) -> str:
    """Mean distance with its interval, and how often the method diverged."""
    diverged = sum("diverged" in run.get("skipped", "") for run in runs)
    if not distances(runs):
        return "diverged" if diverged else "not run"
    return interval_text(distances(runs)) + (f" (diverged {diverged} times)" if diverged else "")


def cell_names(bench: Bench) -> list[str]:
    return [f"{d} / {d_y}" for d, d_y in bench.cells]


def ratios(bench: Bench, labels: list[str]) -> str:
    """Mean distance over the floor, of particle methods with at most STEPS[-1] evaluations."""
    rows = []
    for label in labels:
        cells = [bench.all(label, d, d_y, STEPS[-1]) for d, d_y in bench.cells]
        completed = [run for runs in cells for run in runs if "W1" in run]
        if not all(map(distances, cells)) or any(run["NFE"] > STEPS[-1] for run in completed):
            continue
        floors = [bench.references(d, d_y, "floor", True) for d, d_y in bench.cells]
        values = [ratio(runs, floor) for runs, floor in zip(cells, floors, strict=True)]
        texts = [*(f"{value:.1f}" for value in values), f"{max(values):.1f}"]
        rows.append((max(values), [label, *texts, *costs(completed), range_text(map(len, cells))]))
    heads = ["method", *cell_names(bench), "worst", "NFE / VJP", "seconds", "instances"]
    return markdown_table(heads, [row for _, row in sorted(rows)])


def ratio(runs: list[dict[str, Any]], floors: list[float]) -> float:
    """Mean distance over the mean floor of the same instances."""
    pairs = [(run["W1"], floor) for run, floor in zip(runs, floors, strict=False) if "W1" in run]
    return sum(w for w, _ in pairs) / sum(floor for _, floor in pairs)


def range_text(numbers: Iterable[float]) -> str:
    """The number, or the least and the greatest if they differ."""
    ordered = sorted(numbers)
    return "-".join(dict.fromkeys((f"{ordered[0]:.0f}", f"{ordered[-1]:.0f}")))


def costs(runs: list[dict[str, Any]]) -> list[str]:
    """Evaluations and VJPs per sample, and the median of the seconds."""
    evaluations = " / ".join(range_text(run[key] for run in runs) for key in ("NFE", "VJP"))
    seconds = statistics.median(run["seconds"] for run in runs if run["seconds"])
    return [evaluations, f"{seconds:.1f}"]


def table(bench: Bench, labels: list[str], steps: int) -> str:
    """Floor and prior, then the rows with this number of steps by mean distance.

    All rows but those of slow methods use the same instances.
    """
    particles = bench.rows[labels[0]].particles
    runs = {
        label: [
            bench.all(label, d, d_y, steps if bench.rows[label].steps == STEPS else None)
            for d, d_y in bench.cells
        ]
        for label in labels
    }
    common = bench.common(runs)
    rows = []
    for label in labels:
        cells = [cell[:common] for cell in runs[label]]
        if completed := [run for cell in cells for run in cell if "W1" in run]:
            mean = statistics.fmean(
                interval(distances(cell))[0] for cell in cells if distances(cell)
            )
            texts = [*map(cell_text, cells), *costs(completed), range_text(map(len, cells))]
            rows.append((mean, [label, *texts]))
    references = []
    for name in ("floor", "prior"):
        values = [bench.references(d, d_y, name, particles)[:common] for d, d_y in bench.cells]
        references.append([f"*{name}*", *map(interval_text, values), "", "", f"{common}"])
    heads = ["method", *cell_names(bench), "NFE / VJP", "seconds", "instances"]
    return markdown_table(heads, references + [row for _, row in sorted(rows)])


def curves(bench: Bench, labels: list[str]) -> str:
    """Mean distances over numbers of steps, all on the same instances."""
    runs = {label: [bench.curve(label, steps) for steps in CURVE] for label in labels}
    common = bench.common(runs)
    rows = [
        [label, *(cell_text(cell[:common]) for cell in row)]
        for label, row in runs.items()
        if all(row)
    ]
    table = markdown_table(["method", *map(str, CURVE)], rows)
    return f"{table}\n\n{common} instances."


def page(bench: Bench, command: str) -> str:
    """All tables of the page."""
    reasons = {
        label: reason
        for label in bench.rows
        if (reason := skip_reason(bench.all(label, *bench.cells[0], bench.rows[label].steps[0])))
    }
    runnable = [label for label in bench.rows if label not in reasons]
    groups = {
        "Particle methods": [label for label in runnable if bench.rows[label].particles],
        "All other methods": [label for label in runnable if not bench.rows[label].particles],
    }
    lines = [f"`{command}`"]
    if groups["Particle methods"]:
        lines += [
            f"\n## Particle methods, at most {STEPS[-1]} evaluations a path: W1 in floors\n",
            ratios(bench, groups["Particle methods"]),
        ]
    for i, (title, labels) in enumerate(groups.items()):
        caption = f"Sliced W1 of {bench.settings.samples[i]} samples; columns are d / d_y.\n"
        for steps in reversed(STEPS) if labels else ():
            lines += [f"\n## {title}, {steps} steps\n", caption, table(bench, labels, steps)]
    if CURVE_CELL in bench.cells:
        lines += [f"\n## Curves over steps, d / d_y = {CURVE_CELL[0]} / {CURVE_CELL[1]}\n"]
        lines += [curves(bench, [label for label in runnable if bench.rows[label].steps == STEPS])]
    lines += [
        "\n## Excluded\n",
        *(f"- {reason.split(';')[0]}" for reason in reasons.values()),
        *(f"- `{name}`: {reason}" for name, reason in DUPLICATES.items()),
    ]
    lines += [
        f"- {name}, d = {d}: a run in all d dimensions takes minutes"
        for (name, d), count in SLOW.items()
        if not count
    ]
    return "\n".join(lines) + "\n"


def record(bench: Bench, command: str) -> dict[str, Any]:
    """The distances behind the tables."""
    settings = bench.settings
    results: dict[str, Any] = {
        "command": command,
        "samples": settings.samples,
        "instances": settings.instances,
        "slices": SLICES,
        "unit": settings.unit,
        "versions": versions(),
    }
    for d, d_y in bench.cells:
        rows = {
            f"{label} {s}" if s else label: bench.all(label, d, d_y, s)
            for label, row in bench.rows.items()
            for s in row.steps
        }
        values = {
            f"{name} {settings.samples[not particles]}": bench.references(d, d_y, name, particles)
            for name in ("floor", "prior")
            for particles in (True, False)
        }
        values |= {label: distances(runs) for label, runs in rows.items() if distances(runs)}
        results[f"{d},{d_y}"] = {k: [round(v, 4) for v in row] for k, row in values.items()}
    return results


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--cells",
        nargs="+",
        default=[f"{d},{d_y}" for d, d_y in CELLS],
        help="cells as d,d_y (default: all nine)",
    )
    parser.add_argument(
        "--instances",
        type=int,
        nargs=2,
        default=[20, 20],
        help="instances per cell, for particle methods and for all others",
    )
    parser.add_argument(
        "--samples",
        type=int,
        nargs=2,
        default=[2000, 500],
        help="samples per instance, for particle methods and for all others",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=sorted(set(registry().table("inverse_methods")) - set(DUPLICATES)),
        help="registered names (default: all)",
    )
    parser.add_argument(
        "--unit", type=float, default=UNIT, help="model units of x (default: those of the problem)"
    )
    parser.add_argument("--direct", action="store_true", help="run all methods in all d dimensions")
    parser.add_argument(
        "--known", action="store_true", help="run nothing, print the results in --records"
    )
    parser.add_argument("--records", help="file of finished runs, to read and to append to")
    parser.add_argument(
        "--write",
        help="page (without .md) into which to insert the tables; writes its record",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells = [(int(d), int(d_y)) for d, d_y in (text.split(",") for text in arguments.cells)]
    rows = {name: Row(name, cost=EVALUATIONS_PER_STEP.get(name, 1)) for name in arguments.methods}
    rows |= {label: row for label, row in VARIANTS.items() if row.method in arguments.methods}
    bench = Bench(rows, cells, Ledger(arguments.records), arguments)
    if not arguments.known:
        bench.fill()
    command = f"OMP_NUM_THREADS=1 {command_line()}"
    text = page(bench, command)
    print(text)
    if arguments.write:
        insert_tables(Path(f"{arguments.write}.md"), text)
        file = in_results(Path(f"{arguments.write}.json"))
        file.write_text(json.dumps(record(bench, command)) + "\n")


if __name__ == "__main__":
    main()
