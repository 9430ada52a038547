r"""Compare analyses of held-out hours by priors, guidances, modalities and classical methods.

    python bench/atmosphere.py --fields "$INVERSE_DATA/atmosphere/era5_t2m_uk_2019-03.nc" \
        --out docs/atmosphere-scores

Writes records, tables and figures. Results already in OUT.json are not measured again; delete the
file to measure everything. Every method receives the same measurements of the same hours of 25 to
31 March 2019, and none has access to the truth. Kriging needs pykrige.
"""

from __future__ import annotations

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
from options import new_parser
from output import in_results, write_json
from timing import timed
from torch import Tensor

import inverse
from inverse.analytic_start import fitted_amplitude
from inverse.io.files import write_text
from inverse.measurement.operators import clone
from inverse.priors.analytic import LowRankPrior
from inverse_problems.atmosphere.training_fields import load_fields

TRAIN = "2019-03-01/2019-03-21"
HOURS = [f"2019-03-{day}T{3 if day % 2 else 15:02d}" for day in range(25, 32)]
"""One analysis per held-out day, alternating before dawn and in the afternoon.

Neighbouring hours have nearly the same field.
"""

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
"""Starts from a draw of the prior's Gaussian given y at 4.6 K of noise.

Above that level a network adds little.
"""

FITTED = {"amplitude": "evidence", "inflation": 1.08}
"""Fit the amplitude of anomalies to the measurements, and inflate the spread of the members.

The inflation makes the spread equal to the error of the mean on the validation days
(`atmosphere_choices.py`).
"""

CHOSEN = "mmps, trained prior, fitted"
BOTH, ALL = ("both",), ("both", "coarse", "stations")


@dataclass(frozen=True)
class Case:
    """Measurements of several hours by one network of instruments.

    Args:
        problem: source of the measurements.
        posterior: holds the measurements in float64; its prior is not used.
        truth: (T, 1, H, W), K.
        matrix: (m, n), operator on a flattened field.
        sigma: (m,), standard deviation of the noise, K.
    """

    problem: Any
    posterior: inverse.Posterior
    truth: Tensor
    matrix: Tensor
    sigma: Tensor

    @property
    def y(self) -> Tensor:
        """Measurements (T, m), K."""
        return self.posterior.y.flatten(1)

    def part(self, name: str) -> slice:
        """Entries of y that belong to a modality."""
        return self.posterior.operator.modalities[name]

    def posterior_under(self, prior: inverse.Prior) -> inverse.Posterior:
        """The posterior of the same measurements under another prior, in its precision."""
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
    """Measure fields (T, 1, H, W) with 0.5 K of noise, withholding 40 % of the stations."""
    problem = inverse.get_problem(
        "atmosphere", sigma_y=0.5, withhold=0.4, modalities=modalities, **options
    )
    posterior = problem.posterior(truth.double(), prior=law, seed=0, dtype=torch.float64)
    n = truth[0].numel()
    operator = clone(problem.operator(tuple(truth.shape[1:])), "cpu", torch.float64)
    fields = torch.eye(n, dtype=torch.float64).reshape(n, *truth.shape[1:])
    matrix = operator.A(fields).flatten(1).T
    sigma = problem.noise(tuple(truth.shape[1:])).sigma.flatten().double()
    return Case(problem, posterior, truth.double(), matrix, sigma)


# --- analyses -----------------------------------------------------------------------------------

Analysis = Callable[[Case, int], Tensor]
"""(case, members) -> (T, members, 1, H, W), K; a single best field has one member."""


def sampled(prior: inverse.Prior, method: inverse.Method) -> Analysis:
    """Posterior samples by a method."""

    def run(c: Case, members: int) -> Tensor:
        result = inverse.solve(c.posterior_under(prior), method, samples=members, seed=1)
        return result.samples.double()

    return run


def optimal_interpolation(law: LowRankPrior, fitted: bool = False) -> Analysis:
    """Samples of the exact posterior of a Gaussian, with mean m + gain (y - H m).

    Args:
        fitted: scale the covariance by the factor that makes y most probable.
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


# --- the experiments ----------------------------------------------------------------------------


def guided(**options: Any) -> inverse.Method:
    return inverse.get_method("multimodal", **options)


def analyses(
    law: LowRankPrior, trained: inverse.Prior | None, train: Tensor
) -> dict[str, tuple[Analysis, tuple[str, ...]]]:
    """Every analysis by name, with the sets of modalities on which it runs."""
    gaussian = inverse.load_prior("era5-uk-t2m-gaussian")
    table: dict[str, tuple[Analysis, tuple[str, ...]]] = {}
    for label, prior in (("trained", trained), ("Gaussian", gaussian)):
        for guidance in ("mmps", "pigdm", "sda", "dps") if prior is not None else ():
            method = guided(guidance=guidance, **SAMPLER)
            table[f"{guidance}, {label} prior"] = (sampled(prior, method), ALL)
    if trained is not None:
        whole = guided(sampler="dpmpp-2m", steps=30, sigma_min=0.03, tolerance=1e-2)
        scaled = guided(**SAMPLER, amplitude="evidence")
        table["mmps, trained prior, 30 steps from sigma 80"] = (sampled(trained, whole), BOTH)
        table["mmps, trained prior, fitted amplitude"] = (sampled(trained, scaled), BOTH)
        for guidance, modalities in (("mmps", ALL), ("sda", BOTH)):
            method = guided(guidance=guidance, **SAMPLER, **FITTED)
            table[f"{guidance}, trained prior, fitted"] = (sampled(trained, method), modalities)
    return table | {
        "optimal interpolation": (optimal_interpolation(law), ALL),
        "optimal interpolation, fitted amplitude": (optimal_interpolation(law, True), ALL),
        "3D-Var": (three_d_var(train), ALL),
        "kriging of the bilinear field's residuals": (kriged(train, True), BOTH),
        "ordinary kriging": (kriged(train, False), ("stations",)),
        "bilinear": (interpolated("linear"), ("coarse",)),
        "bicubic": (interpolated("cubic"), ("coarse",)),
    }


def measure(c: Case, analysis: Analysis, members: int) -> dict[str, Any]:
    """Scores, and processor seconds per hour for 32 members (or a single field)."""
    x, seconds = timed(lambda: analysis(c, members))
    factor = 32 / x.shape[1] if x.shape[1] > 1 else 1
    return scores(c, x) | {"members": x.shape[1], "cpu_seconds": seconds / len(c.truth) * factor}


def cells_to_measure(
    table: dict[str, tuple[Analysis, tuple[str, ...]]],
) -> list[tuple[dict[str, int], str, str]]:
    """Network of instruments, modalities and analysis of each cell; classical analyses first."""
    cells = [
        (MAIN, "both", name) for name, (_, modalities) in table.items() if "both" in modalities
    ]
    cells += [
        (MAIN, single, name)
        for single in ("coarse", "stations")
        for name, (_, modalities) in table.items()
        if single in modalities and name[:3] not in ("sda", "dps", "pig")
    ]
    on_grid = (
        "sda, trained prior, fitted",
        "optimal interpolation, fitted amplitude",
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
        for name in on_grid
        if name in table
    ]
    return sorted(cells, key=lambda cell: ("trained" in cell[2], cell[0] != MAIN))


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--fields", type=Path, required=True, help="NetCDF file of hourly fields")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="prefix of the output: records in results/, figures in images/ beside it",
    )
    parser.add_argument(
        "--prior", default="era5-uk-t2m", help="trained prior; none for the Gaussian alone"
    )
    parser.add_argument("--members", type=int, default=32, help="members of an ensemble")
    parser.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        help="processor seconds after which no further analysis starts",
    )
    arguments = parser.parse_args()
    started_at = time.process_time()
    law = inverse.load_prior("era5-uk-t2m-gaussian").double()
    trained = None if arguments.prior == "none" else inverse.load_prior(arguments.prior)
    truth = torch.cat(
        [load_fields(arguments.fields, ["t2m"], f"{hour}/{hour}").values for hour in HOURS]
    )
    table = analyses(law, trained, load_fields(arguments.fields, ["t2m"], TRAIN).values)
    main_name = CHOSEN if trained is not None else "mmps, Gaussian prior"

    records, balance = read(arguments.out)
    keys = ("factor", "count", "modalities", "method")
    done = {tuple(record[key] for key in keys) for record in records}
    cases: dict[tuple, Case] = {}
    for options, modalities, name in cells_to_measure(table):
        key = (*options.values(), modalities)
        if (*key, name) in done:
            continue
        if time.process_time() - started_at > arguments.budget:
            print(f"budget spent; not measured: {options} {modalities} {name}", flush=True)
            continue
        if key not in cases:
            cases[key] = case(truth, law, modalities, **options)
        figures = measure(cases[key], table[name][0], arguments.members)
        records.append({**options, "modalities": modalities, "method": name, **figures})
        errors = f"rmse {np.mean(figures['rmse']):.3f} crps {np.mean(figures['crps']):.3f}"
        print(*options.values(), modalities, name, errors, flush=True)
        write(arguments.out, records, balance)
    balance = balance or measure_balance(truth[1:2], law, trained)
    write(arguments.out, records, balance)
    example = case(truth[1:2], law, "both", **MAIN)
    maps(arguments.out, example, table[main_name][0](example, arguments.members))
    curves(arguments.out, records, balance)
    print(f"{time.process_time() - started_at:.0f} s")


def read(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Records and balance of an earlier run with the same settings."""
    path = in_results(out.with_suffix(".json"))
    earlier = json.loads(path.read_text()) if path.is_file() else {"about": {}}
    about = earlier["about"]
    same = about.get("sampler") == SAMPLER and about.get("fitted", FITTED) == FITTED
    return (earlier["records"], earlier["balance"]) if same else ([], None)


def measure_balance(
    truth: Tensor, law: LowRankPrior, trained: inverse.Prior | None
) -> dict[str, Any]:
    """Weight of the stations in the analysis, as the claimed noise of one modality varies.

    At the stations, with a the analysis and a_c, a_s those of the coarse field and of the stations
    alone, the weight is <a - a_c, a_s - a_c> / |a_s - a_c|^2.
    """
    levels = [0.05, 0.2, 0.5, 1.5, 5.0]
    priors = {"Gaussian, exact": None} | ({"trained, mmps": trained} if trained is not None else {})
    weights: dict[str, Any] = {"levels": levels}
    base = case(truth, law, "both", **MAIN)
    stations = base.matrix[base.part("stations")]
    for label, prior in priors.items():
        for varied in ("coarse", "stations"):
            weight = []
            for level in levels:
                sigma = base.sigma.clone()
                sigma[base.part(varied)] = level
                analysed = []
                for modalities in ALL:
                    s = sigma.clone()
                    for other in (
                        {"coarse", "stations"} - {modalities} if modalities != "both" else ()
                    ):
                        s[base.part(other)] = 1e4
                    analysed.append(stations @ _mean(base, law, prior, s).flatten())
                a, a_c, a_s = analysed
                weight.append(float((a - a_c) @ (a_s - a_c) / (a_s - a_c).square().sum()))
            weights[f"{label}, {varied}"] = weight
    return weights


def _mean(c: Case, law: LowRankPrior, prior: inverse.Prior | None, sigma: Tensor) -> Tensor:
    """The mean analysis (H, W) under noise of claimed standard deviations sigma (m,)."""
    if prior is None:
        return law.decode(law.given(c.matrix, sigma, c.y[0]).mean)[0]
    noise = inverse.GaussianNoise(sigma.reshape(c.posterior.y.shape[1:]))
    posterior = inverse.Posterior(
        prior, c.posterior.operator, c.posterior.y[:1], noise, shape=c.posterior.shape
    )
    samples = inverse.solve(posterior, guided(**SAMPLER), samples=8, seed=2).samples
    return samples.double().mean((0, 1))[0]


def write(out: Path, records: list[dict[str, Any]], balance: dict[str, Any] | None = None) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"hours": HOURS, "sampler": SAMPLER, "fitted": FITTED, "torch": torch.__version__}
    rounded = json.loads(json.dumps(records), parse_float=lambda text: float(f"{float(text):.5g}"))
    record = {"about": about, "balance": balance, "records": rounded}
    write_json(in_results(out.with_suffix(".json")), record)
    text = "\n\n".join(tables(records, MAIN, GRID, CHOSEN)) + "\n"
    write_text(in_results(out.with_name(out.name + "-tables.md")), text)


if __name__ == "__main__":
    main()
