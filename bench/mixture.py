"""The nine cells of the Gaussian-mixture experiment: every method against the exact posterior, by sliced W1.

    python bench/mixture.py --cells 8,1 --methods dps mmps --instances 2        print a few rows
    python bench/mixture.py --records records.jsonl --write docs/mixture        run all and write docs/mixture.md and .json

Finished runs are kept in --records, one line each, and not repeated: an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from conjugate import Ledger
from torch import Tensor

import inverse
from inverse.analytic import MixturePrior
from inverse.distances import wasserstein_1d
from inverse.engine import versions
from inverse.options import options, values
from inverse.plugins import registry
from inverse.referee import sample

CELLS = [(d, d_y) for d in (8, 80, 800) for d_y in (1, 2, 4)]
STEPS = (20, 100)
CURVE = (10, 20, 50, 100, 200)
CURVE_CELL = (80, 2)
CURVE_INSTANCES = 5
SLICES = 100
BASIS_DEPENDENT = {
    "red-diff": "Adam scales each coordinate",
    "sitcom": "likewise",
    "tmpd": "row sums of the Jacobian",
}
"""Methods whose law in d dimensions is not that in a rotated subspace; they run in all d dimensions."""
SLOW = {"sitcom": 2}
"""Instances of a cell for methods whose every step is an optimisation."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dps, published step": ("dps", {"zeta": 0.1}),
    "dps, step of a score": ("dps", {"step": "score"}),
    "smc-mmps, wide": ("smc-mmps", {"schedule": "log-uniform", "sigma_min": 0.01, "sigma_max": lambda d: 5 * math.sqrt(d)}),
}
"""More rows: DPS with the experiment's step, and with one that its default weight fits; smc-mmps from five standard deviations of the whole prior
(model units of the problem), where the published first level lies within the prior's spread for d = 80 and 800. A callable is given d."""
ABOUT = """# The mixture experiment

Made by `{command}`.

The problem `mixture` with its published settings: 25 Gaussians of unit covariance in d dimensions, seen through d_y noisy
projections; {samples} samples of each of {instances} instances of a cell (fewer where a row says so); sliced W1 to as many exact posterior
samples, the mean over {slices} random directions, in the units of x (the means are 8 apart), and its 95 % confidence interval over the
instances, 1.96 std / sqrt(n). Floor: exact draws against exact draws; prior: draws that ignore y. The prior's denoiser is exact, so that all
error is the method's. `steps` is the option of that name, everything else a default; NFE and VJP are per sample.

Model units are x / {unit:.4g}, the problem's own, in which the prior has unit variance per coordinate. Schedules start at the published 157 (in
the units of x), less than the mixture spreads in its plane for d = 800, which costs every method there; `smc-mmps, wide` starts at five
times the prior's whole standard deviation, with levels uniform in log sigma down to 0.01.

Means and rows of A span at most six dimensions; outside of them the prior is white and y says nothing. Chains that look the same in every
orthonormal basis are run in that span and one more direction, which stands for all others, and sliced by the directions' coordinates
there: exact. Checked with `--direct`, all dimensions, d = 80, d_y = 2, three instances, 100 steps: mmps 2.14 for 2.10, dps 3.55 for 3.57, ddrm
6.27 for 6.28, tds 0.43 for 0.41, lgd 1.40 for 1.41. In all d dimensions run {dependent}.
Everything is in float32.
"""


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


@functools.lru_cache(4)
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
    small = MixturePrior(law.weights, law.decode(law.means) @ Q / unit, law.scale**2 * law.variances[:1, 0] / unit**2, **units)
    exact = small.given(A @ Q, problem.sigma_y, y.flatten())
    operator = inverse.operators.dense(A @ Q, (Q.shape[1],))
    posterior = inverse.Posterior(copy.deepcopy(small).float(), operator, y.float(), problem.noise((Q.shape[1],)), shape=(Q.shape[1],))
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
    at, stream = instance(d, d_y, index, False, 1.0), inverse.seeded("mixture", "reference", d, d_y, index)
    return {
        "floor": at.distance(at.exact.sample(samples, stream), at.exact.sample(samples, stream)),
        "prior": at.distance(at.law.sample(samples, stream), at.exact.sample(samples, stream)),
    }


def run(name: str, changed: dict[str, Any], d: int, d_y: int, index: int, samples: int, direct: bool, unit: float) -> dict[str, Any]:
    """One method on one instance, or why it does not run."""
    at = instance(d, d_y, index, direct, unit)
    try:
        x, cost, seconds = sample(inverse.get_method(name, **changed), at.posterior, samples, index)
    except inverse.InverseError as error:
        return {"skipped": str(error)}
    truth = at.exact.decode(at.exact.sample(samples, inverse.seeded("mixture", "truth", d, d_y, index)))
    return {"W1": at.distance(x, truth), "NFE": cost.nfe, "VJP": cost.vjp, "seconds": seconds}


def interval(found: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % confidence interval."""
    t = torch.tensor(found, dtype=torch.float64)
    return float(t.mean()), 1.96 * float(t.std()) / math.sqrt(len(t)) if len(t) > 1 else math.nan


class Bench:
    """The runs of one command line."""

    def __init__(self, ledger: Ledger, samples: int, instances: int, direct: bool, known: bool, unit: float):
        self.ledger, self.samples, self.instances, self.direct, self.known, self.unit = ledger, samples, instances, direct, known, unit

    def count(self, name: str, d: int) -> int:
        """Instances of a cell that a method gets."""
        if d > 100 and name in BASIS_DEPENDENT:
            return 0 if name in SLOW else min(self.instances, 3)
        return min(self.instances, SLOW.get(name, self.instances))

    def rows(self, label: str, d: int, d_y: int, steps: int | None, instances: int) -> list[dict[str, Any]]:
        name, changed = VARIANTS.get(label, (label, {}))
        changed = {key: value(d) if callable(value) else value for key, value in changed.items()} | ({} if steps is None else {"steps": steps})
        direct = self.direct or d < 10 or name in BASIS_DEPENDENT
        found = []
        for i in range(instances):
            key = json.dumps([d, d_y, i, name, values(inverse.get_method(name, **changed)), self.samples, direct, self.unit], sort_keys=True, default=str)
            if self.known and key not in self.ledger.known:
                break
            found.append(self.ledger.get(key, lambda i=i: run(name, changed, d, d_y, i, self.samples, direct, self.unit)))
            if "skipped" in found[-1]:
                break
        return found

    def references(self, d: int, d_y: int) -> list[dict[str, float]]:
        keys = [json.dumps([d, d_y, i, "reference", self.samples]) for i in range(self.instances)]
        return [self.ledger.get(key, lambda i=i: reference(d, d_y, i, self.samples)) for i, key in enumerate(keys)]


def steps_of(name: str) -> tuple[int | None, ...]:
    """The numbers of steps a row is run with; one run where its method has no such option."""
    found = registry().find("inverse_methods", VARIANTS.get(name, (name,))[0])
    return STEPS if "steps" in {o.name for o in options(found)} else (None,)


def cell(found: list[dict[str, Any]], of: int) -> str:
    """One entry of a table."""
    if not found:
        return "not run"
    if "skipped" in found[-1]:
        return "diverged" if "diverged" in found[-1]["skipped"] else "-"
    mean, half = interval([row["W1"] for row in found])
    return f"{mean:.2f} ± {half:.2f}" + ("" if len(found) == of else f" (n={len(found)})")


def write(path: str, bench: Bench, cells: list[tuple[int, int]], names: list[str], command: str) -> None:
    """path.md and path.json, from what is in the ledger."""
    about = {"command": command, "samples": bench.samples, "instances": bench.instances, "slices": SLICES, "unit": bench.unit}
    dependent = " and ".join(f"`{name}` ({reason})" for name, reason in BASIS_DEPENDENT.items())
    lines, record = [ABOUT.format(**about, dependent=dependent)], {**about, "versions": versions(), "cells": {}}
    heads = [f"d = {d}, d_y = {d_y}" for d, d_y in cells]
    columns = {(d, d_y): {(n, s): bench.rows(n, d, d_y, s, bench.count(n, d)) for n in names for s in steps_of(n)} for d, d_y in cells}
    references = {at: bench.references(*at) for at in cells}
    for steps in STEPS:
        rows: list[tuple[float, str]] = []
        for name in names:
            key = (name, steps if steps_of(name) == STEPS else None)
            entries = [cell(columns[at][key], bench.instances) for at in cells]
            ran = [columns[at][key] for at in cells if columns[at][key] and "skipped" not in columns[at][key][-1]]
            if not ran:
                continue
            cost = f"{ran[0][0]['NFE']:.0f} / {ran[0][0]['VJP']:.0f}"
            means = [interval([row["W1"] for row in found])[0] for found in ran]
            rows.append((sum(means) / len(means), f"| {name} | " + " | ".join(entries) + f" | {cost} |"))
        lines += [f"\n## {steps} steps\n", "| method | " + " | ".join(heads) + " | NFE / VJP |", "|---" * (len(cells) + 2) + "|"]
        for kind in ("floor", "prior"):
            shown = (interval([r[kind] for r in references[at]]) for at in cells)
            lines.append(f"| *{kind}* | " + " | ".join(f"{mean:.2f} ± {half:.2f}" for mean, half in shown) + " | |")
        lines += [row for _, row in sorted(rows)]
    reasons = {name: next((r["skipped"] for r in columns[cells[0]][name, steps_of(name)[0]] if "skipped" in r), None) for name in names}
    if left := {name: reason for name, reason in reasons.items() if reason and "diverged" not in reason}:
        lines += ["\nNot here: " + "; ".join(left.values()) + "."]
    if CURVE_CELL in cells:
        d, d_y = CURVE_CELL
        few = min(CURVE_INSTANCES, bench.instances)
        lines += [f"\n## Curves over steps, d = {d}, d_y = {d_y}, {few} instances\n"]
        lines += ["| method | " + " | ".join(map(str, CURVE)) + " |", "|---" * (len(CURVE) + 1) + "|"]
        for name in names:
            if steps_of(name) == STEPS and not left.get(name) and bench.count(name, d) >= few:
                shown = [cell(bench.rows(name, d, d_y, s, few), few) for s in CURVE]
                lines.append(f"| {name} | " + " | ".join(shown) + " |")
    for (d, d_y), found in columns.items():
        record["cells"][f"{d},{d_y}"] = {
            "references": references[d, d_y],
            **{f"{n} {s}" if s else n: [round(r["W1"], 4) for r in rows] for (n, s), rows in found.items() if rows and "skipped" not in rows[-1]},
        }
    Path(f"{path}.md").write_text("\n".join(lines) + "\n")
    Path(f"{path}.json").write_text(json.dumps(record) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=[f"{d},{d_y}" for d, d_y in CELLS], help="d,d_y; default all nine")
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--methods", nargs="+", default=sorted(registry().table("inverse_methods")), help="registered names; default all")
    parser.add_argument("--unit", type=float, default=math.sqrt(129), help="of x; the problem's own by default")
    parser.add_argument("--direct", action="store_true", help="run in all d dimensions")
    parser.add_argument("--known", action="store_true", help="run no method, show what is in --records")
    parser.add_argument("--records", help="a file of finished runs, read and added to")
    parser.add_argument("--write", help="write this path with .md and .json added")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells = [(int(d), int(d_y)) for d, d_y in (text.split(",") for text in arguments.cells)]
    names = [*arguments.methods, *(label for label, (name, _) in VARIANTS.items() if name in arguments.methods)]
    bench = Bench(Ledger(arguments.records), arguments.samples, arguments.instances, arguments.direct, arguments.known, arguments.unit)
    for d, d_y in cells:
        floor, prior = (interval([row[kind] for row in bench.references(d, d_y)])[0] for kind in ("floor", "prior"))
        print(f"\nd = {d}, d_y = {d_y}: floor {floor:.2f}, prior {prior:.2f}", flush=True)
        for name in names:
            shown = []
            for steps in steps_of(name):
                found = bench.rows(name, d, d_y, steps, bench.count(name, d))
                shown.append(cell(found, bench.instances))
            seconds = sum(row.get("seconds", 0.0) for row in found)  # of the last number of steps
            print(f"  {name:24s} {'   '.join(shown)}   {seconds:.0f} s", flush=True)
    if arguments.write:
        write(arguments.write, bench, cells, names, "OMP_NUM_THREADS=1 python bench/mixture.py " + shlex.join(sys.argv[1:]))


if __name__ == "__main__":
    main()
