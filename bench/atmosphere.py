"""Compare analyses of held-out hours: priors, guidances, modalities and the field's classical methods. Writes records, tables and figures.

    python bench/atmosphere.py --fields "$INVERSE_DATA/atmosphere/era5_t2m_uk_2019-03.nc" --out docs/atmosphere-scores

What an interrupted or earlier run has written is not measured again; delete OUT.json to measure all. Every method sees the same
measurements of the same hours of 25 to 31 March 2019, and none sees the truth. The kriging needs pykrige.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from atmosphere_classical import interpolated, kriged, three_d_var
from atmosphere_scores import curves, maps, scores, tables
from output import in_results
from torch import Tensor

import inverse
from inverse.analytic_start import fitted_amplitude
from inverse.measurement.operators import clone
from inverse.priors.analytic import LowRankPrior
from inverse_problems.atmosphere.training_fields import load_fields

TRAIN = "2019-03-01/2019-03-21"
HOURS = [f"2019-03-{day}T{3 if day % 2 else 15:02d}" for day in range(25, 32)]
"""One analysis a held-out day, before dawn and in the afternoon by turns: neighbouring hours are nearly the same field."""

MAIN = {"factor": 8, "count": 25}
GRID = [{"factor": factor, "count": count} for factor in (4, 8) for count in (10, 25, 50)]
SAMPLER = {
    "sampler": "dpmpp-2m",
    "steps": 8,
    "sigma_max": 2.0,
    "sigma_min": 0.03,
    "analytic_start": 2.0,
    "tolerance": 1e-2,
}
"""From a draw of the prior's Gaussian given y at 4.6 K of noise: above that there is little for a network to add."""

FITTED = {"amplitude": "evidence", "inflation": 1.08}
"""Anomalies of the size that the measurements say, and members as far apart as their mean is wrong on the validation days (`atmosphere_choices.py`)."""

CHOSEN = "mmps, trained prior, fitted"


@dataclass(frozen=True)
class Case:
    """Measurements of several hours by one network of instruments.

    Args:
        problem: that made them.
        posterior: with float64 measurements; its prior is of no interest.
        truth: (T, 1, H, W), K.
        matrix: (m, n), what measures a field.
        sigma: (m,), of the noise, K.
    """

    problem: Any
    posterior: inverse.Posterior
    truth: Tensor
    matrix: Tensor
    sigma: Tensor

    @property
    def y(self) -> Tensor:
        """(T, m)."""
        return self.posterior.y.flatten(1)

    def part(self, name: str) -> slice:
        return self.posterior.modalities[name]

    def posterior_under(self, prior: inverse.Prior) -> inverse.Posterior:
        """Of the same measurements, in the precision of another prior."""
        own = self.posterior
        dtype = next(t.dtype for t in (*prior.parameters(), *prior.buffers()))
        return inverse.Posterior(
            prior, own.operator, own.y, own.noise, shape=own.shape, dtype=dtype
        )

    @property
    def scene(self) -> Any:
        return self.problem.scene()

    @property
    def grid(self) -> Any:
        return self.scene.domain.grid


def case(truth: Tensor, law: LowRankPrior, modalities: str = "both", **options: Any) -> Case:
    problem = inverse.get_problem(
        "atmosphere", sigma_y=0.5, withhold=0.4, modalities=modalities, **options
    )
    posterior = problem.posterior(truth.double(), prior=law, seed=0, dtype=torch.float64)
    n = truth[0].numel()
    matrix = (
        clone(problem.operator(tuple(truth.shape[1:])), "cpu", torch.float64)
        .A(torch.eye(n, dtype=torch.float64).reshape(n, *truth.shape[1:]))
        .flatten(1)
        .T
    )
    sigma = problem.noise(tuple(truth.shape[1:])).sigma.flatten().double()
    return Case(problem, posterior, truth.double(), matrix, sigma)


# --- analyses: (case, members) -> (T, M, 1, H, W) in K; M = 1 is a single best field -----------------------------------------


def sampled(prior: inverse.Prior, method: inverse.Method) -> Callable[[Case, int], Tensor]:
    return lambda c, members: inverse.solve(
        c.posterior_under(prior), method, samples=members, seed=1
    ).samples.double()


def optimal_interpolation(law: LowRankPrior, fitted: bool = False) -> Callable[[Case, int], Tensor]:
    """The exact posterior of the fitted Gaussian: mean + gain (y - H mean), and draws of it.

    Args:
        fitted: with the covariance times what makes y most probable.
    """

    def run(c: Case, members: int) -> Tensor:
        out = []
        scale = fitted_amplitude(c.posterior_under(law)) if fitted else torch.ones(len(c.y))
        for i, (y, s) in enumerate(zip(c.y, scale, strict=True)):
            wide = LowRankPrior(
                law.mean, law.basis, s**2 * law.variances, s**2 * law.floor, **law.units
            )
            posterior = wide.given(c.matrix, c.sigma, y)
            out.append(posterior.decode(posterior.sample(members, inverse.seeded("oi", i))))
        return torch.stack(out)

    return run


# --- the experiments -----------------------------------------------------------------------------------------------------------


def analyses(
    law: LowRankPrior, trained: inverse.Prior | None, train: Tensor
) -> dict[str, tuple[Callable[[Case, int], Tensor], tuple[str, ...]]]:
    """Every analysis by name, and the modalities it can do without: of the trained prior and of the Gaussian, then the classical ones."""
    guided = {
        f"{g}": inverse.get_method("multimodal", guidance=g, **SAMPLER)
        for g in ("mmps", "pigdm", "sda", "dps")
    }
    found: dict[str, tuple[Callable[[Case, int], Tensor], tuple[str, ...]]] = {}
    for label, prior in (
        ("trained", trained),
        ("Gaussian", inverse.load_prior("era5-uk-t2m-gaussian")),
    ):
        if prior is not None:
            found |= {
                f"{name}, {label} prior": (sampled(prior, method), ("both", "coarse", "stations"))
                for name, method in guided.items()
            }
    if trained is not None:
        whole = inverse.get_method(
            "multimodal", sampler="dpmpp-2m", steps=30, sigma_min=0.03, tolerance=1e-2
        )
        found["mmps, trained prior, 30 steps from sigma 80"] = (sampled(trained, whole), ("both",))
        scaled = inverse.get_method("multimodal", **SAMPLER, amplitude="evidence")
        found["mmps, trained prior, fitted amplitude"] = (sampled(trained, scaled), ("both",))
        for guidance, can in (("mmps", ("both", "coarse", "stations")), ("sda", ("both",))):
            found[f"{guidance}, trained prior, fitted"] = (
                sampled(
                    trained,
                    inverse.get_method("multimodal", guidance=guidance, **SAMPLER, **FITTED),
                ),
                can,
            )
    return found | {
        "optimal interpolation": (optimal_interpolation(law), ("both", "coarse", "stations")),
        "optimal interpolation, fitted amplitude": (
            optimal_interpolation(law, True),
            ("both", "coarse", "stations"),
        ),
        "3D-Var": (three_d_var(train), ("both", "coarse", "stations")),
        "kriging of the bilinear field's residuals": (kriged(train, True), ("both",)),
        "ordinary kriging": (kriged(train, False), ("stations",)),
        "bilinear": (interpolated("linear"), ("coarse",)),
        "bicubic": (interpolated("cubic"), ("coarse",)),
    }


def measured(c: Case, run: Callable[[Case, int], Tensor], members: int) -> dict[str, Any]:
    start = time.process_time()
    x = run(c, members)
    seconds = (
        (time.process_time() - start) / len(c.truth) * (32 / x.shape[1] if x.shape[1] > 1 else 1)
    )
    return scores(c, x) | {"members": x.shape[1], "cpu_seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=Path, required=True)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="prefix of what is written: OUT.json, OUT-tables.md, and figures in images/ beside it",
    )
    parser.add_argument("--prior", default="era5-uk-t2m", help="the trained prior")
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        help="CPU seconds after which no further cell is begun",
    )
    arguments = parser.parse_args()
    begun = time.process_time()
    law = inverse.load_prior("era5-uk-t2m-gaussian").double()
    trained = None if arguments.prior == "none" else inverse.load_prior(arguments.prior)
    truth = torch.cat(
        [load_fields(arguments.fields, ["t2m"], f"{hour}/{hour}").values for hour in HOURS]
    )
    table = analyses(law, trained, load_fields(arguments.fields, ["t2m"], TRAIN).values)
    main_name = CHOSEN if trained is not None else "mmps, Gaussian prior"

    cells = [(MAIN, "both", name) for name, (_, can) in table.items() if "both" in can]
    cells += [
        (MAIN, kind, name)
        for kind in ("coarse", "stations")
        for name, (_, can) in table.items()
        if kind in can and name[:3] not in ("sda", "dps", "pig")
    ]
    few = ("sda, trained prior, fitted", "optimal interpolation, fitted amplitude")
    few += (
        "mmps, trained prior",
        "mmps, Gaussian prior",
        "optimal interpolation",
        "3D-Var",
        "kriging of the bilinear field's residuals",
    )
    cells += [
        (options, "both", name)
        for options in GRID
        if options != MAIN
        for name in few
        if name in table
    ]
    cells.sort(key=lambda cell: ("trained" in cell[2], cell[0] != MAIN))

    records, balance = read(arguments.out)
    made: dict[tuple, Case] = {}
    for options, kind, name in cells:
        key = (*options.values(), kind)
        if any(
            (r["factor"], r["count"], r["modalities"], r["method"]) == (*key, name) for r in records
        ):
            continue
        if time.process_time() - begun > arguments.budget:
            print(f"budget spent; not measured: {options} {kind} {name}", flush=True)
            continue
        c = made.setdefault(key, case(truth, law, kind, **options))
        found = measured(c, table[name][0], arguments.members)
        records.append({**options, "modalities": kind, "method": name, **found})
        print(
            f"{options['factor']}x {options['count']:2d} {kind:8s} {name:42s} rmse {np.mean(found['rmse']):.3f} crps {np.mean(found['crps']):.3f} "
            f"spread/skill {found.get('spread_skill', float('nan')):.2f} {found['cpu_seconds']:.1f} s",
            flush=True,
        )
        write(arguments.out, records, balance)
    balance = balance or balanced(truth[1:2], law, trained)
    write(arguments.out, records, balance)
    shown = case(truth[1:2], law, "both", **MAIN)
    maps(arguments.out, shown, table[main_name][0](shown, arguments.members))
    curves(arguments.out, records, balance)
    print(f"{time.process_time() - begun:.0f} s")


def read(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Records and balance of an earlier run with the same settings; what they measured is not measured again."""
    path = in_results(out.with_suffix(".json"))
    found = json.loads(path.read_text()) if path.is_file() else {"about": {}}
    same = (
        found["about"].get("sampler") == SAMPLER and found["about"].get("fitted", FITTED) == FITTED
    )
    return (found["records"], found["balance"]) if same else ([], None)


def balanced(truth: Tensor, law: LowRankPrior, trained: inverse.Prior | None) -> dict[str, Any]:
    """How far the analysis goes from the coarse field's to the stations' as the noise claimed for one of them varies: the share
    <a - a_c, a_s - a_c> / |a_s - a_c|^2 of the analysis a between the single-modality analyses a_c and a_s, at the stations."""
    levels = [0.05, 0.2, 0.5, 1.5, 5.0]
    priors = {"Gaussian, exact": None} | ({"trained, mmps": trained} if trained is not None else {})
    found: dict[str, Any] = {"levels": levels}
    base = case(truth, law, "both", **MAIN)
    stations = base.matrix[base.part("stations")]
    for label, prior in priors.items():
        for varied in ("coarse", "stations"):
            share = []
            for level in levels:
                sigma = base.sigma.clone()
                sigma[base.part(varied)] = level
                ends = []
                for kind in ("both", "coarse", "stations"):
                    s = sigma.clone()
                    for other in {"coarse", "stations"} - {kind} if kind != "both" else ():
                        s[base.part(other)] = 1e4
                    ends.append(stations @ _mean(base, law, prior, s).flatten())
                a, coarse, points = ends
                share.append(
                    float((a - coarse) @ (points - coarse) / (points - coarse).square().sum())
                )
            found[f"{label}, {varied}"] = share
    return found


def _mean(c: Case, law: LowRankPrior, prior: inverse.Prior | None, sigma: Tensor) -> Tensor:
    """The analysis (H, W) when the noise is claimed to be sigma (m,)."""
    if prior is None:
        return law.decode(law.given(c.matrix, sigma, c.y[0]).mean)[0]
    noise = inverse.GaussianNoise(sigma.reshape(c.posterior.y.shape[1:]))
    posterior = inverse.Posterior(
        prior, c.posterior.operator, c.posterior.y[:1], noise, shape=c.posterior.shape
    )
    return (
        inverse.solve(posterior, inverse.get_method("multimodal", **SAMPLER), samples=8, seed=2)
        .samples.double()
        .mean((0, 1))[0]
    )


def write(out: Path, records: list[dict[str, Any]], balance: dict[str, Any] | None = None) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"hours": HOURS, "sampler": SAMPLER, "fitted": FITTED, "torch": torch.__version__}
    rounded = json.loads(json.dumps(records), parse_float=lambda text: float(f"{float(text):.5g}"))
    in_results(out.with_suffix(".json")).write_text(
        json.dumps({"about": about, "balance": balance, "records": rounded}, indent=1) + "\n"
    )
    in_results(out.with_name(out.name + "-tables.md")).write_text(
        "\n\n".join(tables(records, MAIN, GRID, CHOSEN)) + "\n"
    )


if __name__ == "__main__":
    main()
