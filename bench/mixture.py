"""The nine cells of the Gaussian-mixture experiment: every method against the exact posterior, by sliced W1.

    python bench/mixture.py --cells 8,1 --methods dps mmps --instances 2        run a few and print their table
    python bench/mixture.py --records records.jsonl --write docs/mixture        run all, rewrite the tables of docs/mixture.md, and docs/mixture.json

Finished runs are kept in --records, one line each, and not repeated: an interrupted benchmark goes on where it was. All methods run
on an instance of every cell before any runs on the next instance, so that an early end leaves a balanced table; particle methods come first.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import math
import shlex
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from conjugate import Ledger
from pages import put
from torch import Tensor

import inverse
from inverse.checks.distances import wasserstein_1d
from inverse.checks.referee import sample
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
    "sitcom": "likewise",
    "tmpd": "row sums of the Jacobian",
}
"""Methods whose law in d dimensions is not that in a rotated subspace; they run in all d dimensions."""
SLOW = {("sitcom", 80): 5, ("sitcom", 800): 1}
"""Instances of a cell for what is slow in all d dimensions."""
SAME = {"multimodal": "with one modality it is `mmps`"}
"""Methods that are another one here."""


@dataclass(frozen=True)
class Row:
    """A row of the tables.

    Args:
        method: registered name.
        changed: options that are no defaults; a callable is given d.
        cost: prior evaluations of a step; the row has as many fewer steps.
    """

    method: str
    changed: dict[str, Any] = field(default_factory=dict)
    cost: int = 1

    def options(self, d: int, steps: int | None) -> dict[str, Any]:
        changed = {
            key: value(d) if callable(value) else value for key, value in self.changed.items()
        }
        return changed | ({} if steps is None else {"steps": steps // self.cost})

    @property
    def steps(self) -> tuple[int | None, ...]:
        """The numbers of steps it is run with; one run where its method has no such option."""
        return (
            STEPS
            if "steps" in {o.name for o in options(registry().find("inverse_methods", self.method))}
            else (None,)
        )

    @property
    def particles(self) -> bool:
        return issubclass(registry().find("inverse_methods", self.method), ParticleMethod)


LEVELS: dict[str, Any] = {"sigma_min": 0.01, "sigma_max": lambda d: 5 * math.sqrt(d)}
WIDE = LEVELS | {"schedule": "log-uniform"}
"""From five standard deviations of the whole prior (model units of the problem), where the published first level lies within the prior's spread for d = 800."""
VARIANTS = {
    "dps, published step": Row("dps", {"zeta": 0.1}),
    "dps, step of a score": Row("dps", {"step": "score"}),
    "afdps sde": Row("afdps", {"variant": "sde"}),
    "smc-mmps, wide": Row("smc-mmps", WIDE),
    "afdps, wide": Row("afdps", LEVELS, cost=2),
    **{f"{name}, wide": Row(name, WIDE) for name in ("fk-steering", "mcg-diff", "tds")},
}
"""More rows: DPS with the experiment's step, and with one that its default weight fits; the other variant of AFDPS; particle methods that start wide."""
TWICE = {"afdps": 2}
"""Prior evaluations of a step, where they are brought to the others' number by fewer steps."""


@dataclass(frozen=True)
class Instance:
    """An instance in the subspace its methods run in.

    Args:
        posterior: in that subspace, float32.
        law: the prior's there.
        exact: the posterior's law there.
        directions: random directions of R^d as they are seen there, unit vectors (k, slices).
    """

    posterior: inverse.Posterior
    law: MixturePrior
    exact: MixturePrior
    directions: Tensor

    def distance(self, x: Tensor, y: Tensor) -> float:
        """Sliced W1 of (n, k) and (n, k)."""
        return float(wasserstein_1d((x @ self.directions).T, (y @ self.directions).T).mean())


@functools.lru_cache(2)
def instance(d: int, d_y: int, index: int, direct: bool, unit: float) -> Instance:
    """An instance with model units x / unit."""
    problem = inverse.get_problem("mixture", d=d, d_y=d_y, instance=index)
    law, A = problem.law(), problem.matrix()
    y = problem.posterior(0, dtype=torch.float64).y
    stream = inverse.seeded("mixture", "slices", d, d_y, index)
    theta = torch.randn(d, SLICES, generator=stream, dtype=torch.float64)
    theta /= theta.norm(dim=0)
    Q = torch.eye(d, dtype=torch.float64) if direct else span(torch.cat([law.means, A]))
    inside = Q.T @ theta
    if not direct:
        Q, rest = with_another(Q), (1 - inside.square().sum(0)).clamp_min(0).sqrt()
        inside = torch.cat([inside, rest[None]])
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
    """An orthonormal basis (d, k) of what rows (n, d) span."""
    Vh = torch.linalg.svd(rows, full_matrices=False).Vh
    return Vh[: int(torch.linalg.matrix_rank(rows))].T


def with_another(Q: Tensor) -> Tensor:
    """The basis and one more direction, orthogonal to it, where there is one."""
    v = torch.randn(len(Q), generator=inverse.seeded("another direction"), dtype=Q.dtype)
    v -= Q @ (Q.T @ v)
    return torch.cat([Q, (v / v.norm())[:, None]], 1)


def reference(d: int, d_y: int, index: int, samples: int) -> dict[str, float]:
    """Floor and prior rows."""
    at, stream = (
        instance(d, d_y, index, False, 1.0),
        inverse.seeded("mixture", "reference", d, d_y, index),
    )
    return {
        "floor": at.distance(at.exact.sample(samples, stream), at.exact.sample(samples, stream)),
        "prior": at.distance(at.law.sample(samples, stream), at.exact.sample(samples, stream)),
    }


def run(
    method: inverse.Method, d: int, d_y: int, index: int, samples: int, direct: bool, unit: float
) -> dict[str, Any]:
    """One method on one instance, or why it does not run."""
    at = instance(d, d_y, index, direct, unit)
    try:
        x, cost, seconds = sample(method, at.posterior, samples, index)
    except inverse.InverseError as error:
        return {"skipped": str(error)}
    truth = at.exact.decode(
        at.exact.sample(samples, inverse.seeded("mixture", "truth", d, d_y, index))
    )
    return {"W1": at.distance(x, truth), "NFE": cost.nfe, "VJP": cost.vjp, "seconds": seconds}


def interval(found: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % confidence interval."""
    t = torch.tensor(found, dtype=torch.float64)
    return float(t.mean()), 1.96 * float(t.std()) / math.sqrt(len(t)) if len(t) > 1 else math.nan


def plain(found: list[float]) -> str:
    mean, half = interval(found)
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} ± {half:.2f}"


class Bench:
    """The runs of one command line, by row, cell, steps and instance."""

    def __init__(
        self,
        rows: dict[str, Row],
        cells: list[tuple[int, int]],
        ledger: Ledger,
        settings: argparse.Namespace,
    ):
        self.rows, self.cells, self.ledger, self.settings = rows, cells, ledger, settings

    def run(self, label: str, d: int, d_y: int, steps: int | None, i: int) -> dict[str, Any] | None:
        """A run, from the ledger if it is there; None if only what is there is asked for."""
        row, at = self.rows[label], self.settings
        direct = at.direct or d < 10 or row.method in BASIS_DEPENDENT
        method = inverse.get_method(row.method, **row.options(d, steps))
        samples = at.samples[not row.particles]
        key = json.dumps(
            [d, d_y, i, row.method, values(method), samples, direct, at.unit],
            sort_keys=True,
            default=str,
        )
        if at.known and key not in self.ledger.known:
            return None
        return self.ledger.get(key, lambda: run(method, d, d_y, i, samples, direct, at.unit))

    def reference(self, d: int, d_y: int, i: int, samples: int) -> dict[str, float]:
        key = json.dumps([d, d_y, i, "reference", samples])
        return self.ledger.get(key, lambda: reference(d, d_y, i, samples))

    def count(self, label: str, d: int) -> int:
        row = self.rows[label]
        most = self.settings.instances[not row.particles]
        return min(most, SLOW.get((row.method, d), most))

    def all(self, label: str, d: int, d_y: int, steps: int | None) -> list[dict[str, Any]]:
        return self.first(label, d, d_y, steps, self.count(label, d))

    def first(
        self, label: str, d: int, d_y: int, steps: int | None, count: int
    ) -> list[dict[str, Any]]:
        """The first instances of a cell, up to one that is not known."""
        found = (self.run(label, d, d_y, steps, i) for i in range(count))
        return list(itertools.takewhile(lambda row: row is not None, found))  # type: ignore[arg-type]

    def references(self, d: int, d_y: int, kind: str, particles: bool) -> list[float]:
        samples, instances = (
            self.settings.samples[not particles],
            self.settings.instances[not particles],
        )
        return [self.reference(d, d_y, i, samples)[kind] for i in range(instances)]

    def curve(self, label: str, steps: int) -> list[dict[str, Any]]:
        return self.first(
            label, *CURVE_CELL, steps, min(self.count(label, CURVE_CELL[0]), CURVE_INSTANCES)
        )

    def common(self, found: dict[str, list[list[dict[str, Any]]]]) -> int:
        """Instances that every row has in every cell, but for slow methods and additional rows."""
        slow = {name for name, _ in SLOW}
        main = [row for label, row in found.items() if self.rows[label].method not in slow]
        return min(len(at) for row in main or found.values() for at in row)

    def fill(self) -> None:
        """Run everything that the tables need, instance by instance: particle methods with most steps, then the other methods, then the rest."""
        first = {label: row for label, row in self.rows.items() if row.particles}
        others = {label: row for label, row in self.rows.items() if not row.particles}
        for what, chosen, wanted in (
            ("particle methods", first, STEPS[-1:]),
            ("other methods", others, STEPS),
            ("all", self.rows, STEPS),
        ):
            for i in range(max(self.settings.instances)):
                for d, d_y in self.cells:
                    for label, row in chosen.items():
                        for steps in row.steps if i < self.count(label, d) else ():
                            if steps is None or steps in wanted:
                                self.run(label, d, d_y, steps, i)
                print(f"{what}: instance {i} done", flush=True)


def skipped(found: list[dict[str, Any]]) -> str | None:
    """Why a row has no figures at all: what its method lacks here."""
    return next(
        (row["skipped"] for row in found if "skipped" in row and "diverged" not in row["skipped"]),
        None,
    )


def distances(found: list[dict[str, Any]]) -> list[float]:
    return [row["W1"] for row in found if "W1" in row]


def cell(found: list[dict[str, Any]]) -> str:
    """One entry of a table."""
    ran, lost = distances(found), sum("diverged" in row.get("skipped", "") for row in found)
    if not ran:
        return "diverged" if lost else "not run"
    return plain(ran) + (f" (diverged {lost} times)" if lost else "")


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows])


def ratios(bench: Bench, labels: list[str]) -> str:
    """Each particle method of at most so many evaluations a path: its mean over that of exact draws, and the median of its seconds."""
    heads, rows = (
        [
            "method",
            *(f"{d} / {d_y}" for d, d_y in bench.cells),
            "worst",
            "NFE / VJP",
            "seconds",
            "instances",
        ],
        [],
    )
    for label in labels:
        found = [bench.all(label, d, d_y, STEPS[-1]) for d, d_y in bench.cells]
        every = [row for at in found for row in at if "W1" in row]
        if not all(map(distances, found)) or any(row["NFE"] > STEPS[-1] for row in every):
            continue
        floors = [bench.references(*where, "floor", True) for where in bench.cells]
        times = [ratio(at, floor) for at, floor in zip(found, floors, strict=True)]
        line = [
            *(f"{t:.1f}" for t in times),
            f"{max(times):.1f}",
            spent(every),
            f"{seconds(every):.1f}",
            shown(map(len, found)),
        ]
        rows.append((max(times), [label, *line]))
    return markdown(heads, [row for _, row in sorted(rows)])


def ratio(found: list[dict[str, Any]], floors: list[float]) -> float:
    """Mean distance over that of exact draws of the same instances."""
    pairs = [(row["W1"], floor) for row, floor in zip(found, floors, strict=False) if "W1" in row]
    return sum(w for w, _ in pairs) / sum(floor for _, floor in pairs)


def shown(numbers: Iterable[float]) -> str:
    """A number, or the least and the most of several."""
    found = sorted(numbers)
    return "-".join(dict.fromkeys((f"{found[0]:.0f}", f"{found[-1]:.0f}")))


def spent(found: list[dict[str, Any]]) -> str:
    """Evaluations and VJPs of a sample."""
    return " / ".join(shown(row[k] for row in found) for k in ("NFE", "VJP"))


def seconds(found: list[dict[str, Any]]) -> float:
    return statistics.median(row["seconds"] for row in found if row["seconds"])


def table(bench: Bench, labels: list[str], steps: int) -> str:
    """Rows of one kind with so many steps, best first, floor and prior before them; all but slow ones on the same instances."""
    particles = bench.rows[labels[0]].particles
    found = {
        label: [
            bench.all(label, d, d_y, steps if bench.rows[label].steps == STEPS else None)
            for d, d_y in bench.cells
        ]
        for label in labels
    }
    common = bench.common(found)
    rows = []
    for label in labels:
        cells = [at[:common] for at in found[label]]
        ran = [row for at in cells for row in at if "W1" in row]
        if ran:
            means = [interval(distances(at))[0] for at in cells if distances(at)]
            rows.append(
                (
                    statistics.fmean(means),
                    [
                        label,
                        *map(cell, cells),
                        spent(ran),
                        f"{seconds(ran):.1f}",
                        shown(map(len, cells)),
                    ],
                )
            )
    first = [
        [
            f"*{kind}*",
            *(plain(bench.references(*at, kind, particles)[:common]) for at in bench.cells),
            "",
            "",
            f"{common}",
        ]
        for kind in ("floor", "prior")
    ]
    heads = [
        "method",
        *(f"{d} / {d_y}" for d, d_y in bench.cells),
        "NFE / VJP",
        "seconds",
        "instances",
    ]
    return markdown(heads, first + [row for _, row in sorted(rows)])


def curves(bench: Bench, labels: list[str]) -> str:
    """Rows over steps, all on the same instances."""
    found = {label: [bench.curve(label, s) for s in CURVE] for label in labels}
    common = bench.common(found)
    return (
        markdown(
            ["method", *map(str, CURVE)],
            [
                [label, *(cell(at[:common]) for at in row)]
                for label, row in found.items()
                if all(row)
            ],
        )
        + f"\n\n{common} instances."
    )


def page(bench: Bench, command: str) -> str:
    """All tables."""
    reasons = {
        label: reason
        for label in bench.rows
        if (reason := skipped(bench.all(label, *bench.cells[0], bench.rows[label].steps[0])))
    }
    here = [label for label in bench.rows if label not in reasons]
    kinds = {
        "Particle methods": [label for label in here if bench.rows[label].particles],
        "All other methods": [label for label in here if not bench.rows[label].particles],
    }
    lines = [f"`{command}`"]
    if kinds["Particle methods"]:
        lines += [
            f"\n## Particle methods, at most {STEPS[-1]} evaluations a path: W1 in floors\n",
            ratios(bench, kinds["Particle methods"]),
        ]
    for i, (kind, labels) in enumerate(kinds.items()):
        about = (
            f"Sliced W1 of {bench.settings.samples[i]} samples; d / d_y at the head of a column."
        )
        for steps in reversed(STEPS) if labels else ():
            lines += [f"\n## {kind}, {steps} steps\n", about + "\n", table(bench, labels, steps)]
    if CURVE_CELL in bench.cells:
        lines += [f"\n## Curves over steps, d / d_y = {CURVE_CELL[0]} / {CURVE_CELL[1]}\n"]
        lines += [curves(bench, [label for label in here if bench.rows[label].steps == STEPS])]
    left = {label: reason.split(";")[0] for label, reason in reasons.items()}
    lines += [
        "\n## Not here\n",
        *(f"- {reason}" for reason in left.values()),
        *(f"- `{name}`: {reason}" for name, reason in SAME.items()),
    ]
    lines += [
        f"- {name}, d = {d}: a run in all d dimensions takes minutes"
        for (name, d), count in SLOW.items()
        if not count
    ]
    return "\n".join(lines) + "\n"


def record(bench: Bench, command: str) -> dict[str, Any]:
    """Every figure of the tables."""
    at = bench.settings
    found: dict[str, Any] = {
        "command": command,
        "samples": at.samples,
        "instances": at.instances,
        "slices": SLICES,
        "unit": at.unit,
        "versions": versions(),
    }
    for d, d_y in bench.cells:
        rows = {
            f"{label} {s}" if s else label: bench.all(label, d, d_y, s)
            for label, row in bench.rows.items()
            for s in row.steps
        }
        references = {
            f"{kind} {at.samples[not p]}": [round(v, 4) for v in bench.references(d, d_y, kind, p)]
            for kind in ("floor", "prior")
            for p in (True, False)
        }
        found[f"{d},{d_y}"] = references | {
            k: [round(v, 4) for v in distances(runs)] for k, runs in rows.items() if distances(runs)
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cells",
        nargs="+",
        default=[f"{d},{d_y}" for d, d_y in CELLS],
        help="d,d_y; default all nine",
    )
    parser.add_argument(
        "--instances",
        type=int,
        nargs=2,
        default=[20, 20],
        help="of a cell, for particle methods and for all others",
    )
    parser.add_argument(
        "--samples",
        type=int,
        nargs=2,
        default=[2000, 500],
        help="of an instance, for particle methods and for all others",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=sorted(set(registry().table("inverse_methods")) - set(SAME)),
        help="registered names; default all",
    )
    parser.add_argument(
        "--unit", type=float, default=UNIT, help="of x; the problem's own by default"
    )
    parser.add_argument("--direct", action="store_true", help="run in all d dimensions")
    parser.add_argument(
        "--known", action="store_true", help="run nothing, show what is in --records"
    )
    parser.add_argument("--records", help="a file of finished runs, read and added to")
    parser.add_argument(
        "--write",
        help="put the tables into this path with .md added, and write it with .json added",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells = [(int(d), int(d_y)) for d, d_y in (text.split(",") for text in arguments.cells)]
    rows = {name: Row(name, cost=TWICE.get(name, 1)) for name in arguments.methods}
    rows |= {label: row for label, row in VARIANTS.items() if row.method in arguments.methods}
    bench = Bench(rows, cells, Ledger(arguments.records), arguments)
    if not arguments.known:
        bench.fill()
    command = "OMP_NUM_THREADS=1 python bench/mixture.py " + shlex.join(sys.argv[1:])
    text = page(bench, command)
    print(text)
    if arguments.write:
        put(Path(f"{arguments.write}.md"), text)
        Path(f"{arguments.write}.json").write_text(json.dumps(record(bench, command)) + "\n")


if __name__ == "__main__":
    main()
