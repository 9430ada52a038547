"""Compare analyses of held-out hours: priors, guidances, modalities and the field's classical methods. Writes records, tables and figures.

    python bench/atmosphere.py --fields ../shared/data/atmosphere/era5_t2m_uk_2019-03.nc --out docs/atmosphere-scores

Every method sees the same measurements of the same hours of 25 to 31 March 2019, and none sees the truth. The kriging needs pykrige.
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
from torch import Tensor

import inverse
from inverse.analytic import LowRankPrior
from inverse.atmosphere.gaussian import fit_gaussian
from inverse.atmosphere.grid import EARTH_RADIUS, distance
from inverse.dataset import load_fields
from inverse.exchangeability import rank_chi_square, ranks
from inverse.operators import clone
from inverse.scores import fair_crps

TRAIN = "2019-03-01/2019-03-21"
HOURS = [f"2019-03-{day}T{3 if day % 2 else 15:02d}" for day in range(25, 32)]
"""One analysis a held-out day, before dawn and in the afternoon by turns: neighbouring hours are nearly the same field."""

MAIN = {"factor": 8, "count": 25}
GRID = [{"factor": factor, "count": count} for factor in (4, 8) for count in (10, 25, 50)]
SAMPLER = {"sampler": "dpmpp-2m", "steps": 8, "sigma_max": 2.0, "sigma_min": 0.03, "analytic_start": 2.0, "tolerance": 1e-2}
"""From a draw of the prior's Gaussian given y at 4.6 K of noise: above that there is little for a network to add."""


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

    @property
    def scene(self) -> Any:
        return self.problem.scene()

    @property
    def grid(self) -> Any:
        return self.scene.domain.grid


def case(truth: Tensor, law: LowRankPrior, modalities: str = "both", **options: Any) -> Case:
    problem = inverse.get_problem("atmosphere", sigma_y=0.5, withhold=0.4, modalities=modalities, **options)
    posterior = problem.posterior(truth.double(), prior=law, seed=0, dtype=torch.float64)
    n = truth[0].numel()
    matrix = (
        clone(problem.operator(tuple(truth.shape[1:])), "cpu", torch.float64).A(torch.eye(n, dtype=torch.float64).reshape(n, *truth.shape[1:])).flatten(1).T
    )
    sigma = problem.noise(tuple(truth.shape[1:])).sigma.flatten().double()
    return Case(problem, posterior, truth.double(), matrix, sigma)


# --- analyses: (case, members) -> (T, M, 1, H, W) in K; M = 1 is a single best field -----------------------------------------


def sampled(prior: inverse.Prior, method: inverse.Method) -> Callable[[Case, int], Tensor]:
    def run(c: Case, members: int) -> Tensor:
        posterior = c.problem.posterior(c.truth.float(), prior=prior, seed=0, y=None)
        posterior.y = c.posterior.y.float()
        return inverse.solve(posterior, method, samples=members, seed=1).samples.double()

    return run


def optimal_interpolation(law: LowRankPrior) -> Callable[[Case, int], Tensor]:
    """The exact posterior of the fitted Gaussian: mean + gain (y - H mean), and draws of it."""

    def run(c: Case, members: int) -> Tensor:
        out = []
        for i, y in enumerate(c.y):
            posterior = law.given(c.matrix, c.sigma, y)
            out.append(posterior.decode(posterior.sample(members, inverse.seeded("oi", i))))
        return torch.stack(out)

    return run


def interpolated(kind: str) -> Callable[[Case, int], Tensor]:
    """The coarse field, linear or cubic between the centres of its cells, constant beyond the outermost."""

    def run(c: Case, members: int) -> Tensor:
        return torch.stack([_interpolate(c, y, kind) for y in c.y])[:, None, None]

    return run


def _interpolate(c: Case, y: Tensor, kind: str) -> Tensor:
    from scipy.interpolate import RegularGridInterpolator

    coarse = c.grid.coarsened(c.problem.factor)
    lat, lon = np.asarray(coarse.latitudes), np.asarray(coarse.longitudes)
    up = slice(None, None, -1) if lat[0] > lat[-1] else slice(None)
    values = y[c.part("coarse")].reshape(coarse.shape).numpy()[up]
    at = np.meshgrid(np.clip(c.grid.latitudes, lat.min(), lat.max()), np.clip(c.grid.longitudes, lon[0], lon[-1]), indexing="ij")
    found = RegularGridInterpolator((lat[up], lon), values, method=kind)(np.stack([a.ravel() for a in at], 1))
    return torch.from_numpy(found).reshape(c.grid.shape)


def kriged(train: Tensor, residual: bool) -> Callable[[Case, int], Tensor]:
    """Ordinary kriging of the stations; or of what they leave of the bilinear coarse field, added to it. The exponential variogram is that of
    every third training hour (its residuals, likewise), and the nugget the noise of the stations: 25 noisy points do not give a variogram."""

    def run(c: Case, members: int) -> Tensor:
        from pykrige.ok import OrdinaryKriging

        lat, lon = (p.numpy() for p in c.scene.used.places)
        index, weight, _ = c.grid.locate(*c.scene.used.places)
        fields = train[::3, 0].double()
        if residual:
            coarse = fields.flatten(1) @ c.matrix[c.part("coarse")].T
            fields = fields - torch.stack([_interpolate(c, y, "linear") for y in coarse])
        sill, reach = _variogram(fields.flatten(1), c)
        out = []
        for i, y in enumerate(c.y):
            base = _interpolate(c, y, "linear") if residual else torch.zeros(c.grid.shape, dtype=torch.float64)
            values = y[c.part("stations")] - (base.flatten()[index] * weight).sum(1)
            given = {"psill": sill, "range": reach, "nugget": float(c.sigma[c.part("stations")].square().mean())}
            settings = {"variogram_model": "exponential", "variogram_parameters": given, "coordinates_type": "geographic", "exact_values": False}
            mean, variance = OrdinaryKriging(lon, lat, values.numpy(), **settings).execute("grid", np.asarray(c.grid.longitudes), np.asarray(c.grid.latitudes))
            noise = torch.randn(members, *c.grid.shape, generator=inverse.seeded("kriging", i), dtype=torch.float64)
            spread = (torch.from_numpy(np.asarray(variance)) - given["nugget"]).clamp_min(0).sqrt()
            out.append((base + torch.from_numpy(np.asarray(mean)) + spread * noise)[:, None])
        return torch.stack(out)

    return run


def _variogram(fields: Tensor, c: Case) -> tuple[float, float]:
    """Partial sill and range (degrees of arc) of the exponential variogram closest to that of fields (N, n) between 300 points."""
    from scipy.optimize import curve_fit

    lat, lon = torch.meshgrid(torch.tensor(c.grid.latitudes), torch.tensor(c.grid.longitudes), indexing="ij")
    pick = torch.randperm(fields.shape[1], generator=inverse.seeded("variogram"))[:300]
    places = (lat.flatten()[pick], lon.flatten()[pick])
    degrees = torch.rad2deg(distance(places, places) / EARTH_RADIUS)
    x = fields[:, pick]
    gamma = 0.5 * (x.square().mean(0)[:, None] + x.square().mean(0) - 2 * x.T @ x / len(x))
    rows, columns = torch.triu_indices(300, 300, 1)
    d, g = degrees[rows, columns].numpy(), gamma[rows, columns].numpy()
    (sill, reach), _ = curve_fit(lambda d, sill, reach: sill * (1 - np.exp(-3 * d / reach)), d, g, p0=(g.max(), 3.0), bounds=(1e-6, 1e3))
    return float(sill), float(reach)


def three_d_var(train: Tensor, iterations: int = 100) -> Callable[[Case, int], Tensor]:
    """argmin of the variational cost in v, x = mean + B^1/2 v, by conjugate gradients: B has the training fields' variances and one
    second-order autoregressive correlation in distance, (1 + d / L) exp(-d / L), whose length fits their correlations best."""
    flat = train.double().flatten(1)
    mean, spread = flat.mean(0), flat.std(0)

    def root(c: Case) -> Tensor:
        lat, lon = torch.meshgrid(torch.tensor(c.grid.latitudes), torch.tensor(c.grid.longitudes), indexing="ij")
        km = distance((lat.flatten(), lon.flatten()), (lat.flatten(), lon.flatten()))
        pick = torch.randperm(len(km), generator=inverse.seeded("3d-var"))[:300]
        white = (flat - mean)[:, pick] / spread[pick]
        found, d = white.T @ white / (len(flat) - 1), km[pick][:, pick]
        lengths = torch.linspace(20, 600, 59)
        L = min(lengths, key=lambda L: float(((1 + d / L) * torch.exp(-d / L) - found).square().mean()))
        w, V = torch.linalg.eigh((1 + km / L) * torch.exp(-km / L))
        return spread[:, None] * (V * w.clamp_min(0).sqrt()) @ V.T

    def run(c: Case, members: int) -> Tensor:
        half = root(c)
        H = c.matrix @ half / c.sigma[:, None]
        v = torch.zeros(len(c.y), len(mean), dtype=torch.float64)
        r = ((c.y - c.matrix @ mean) / c.sigma) @ H
        p, rho = r.clone(), r.square().sum(1, keepdim=True)
        for _ in range(iterations):
            q = p + (p @ H.T) @ H
            step = rho / (p * q).sum(1, keepdim=True).clamp_min(1e-300)
            v, r = v + step * p, r - step * q
            rho, before = r.square().sum(1, keepdim=True), rho
            p = r + rho / before.clamp_min(1e-300) * p
        return (mean + v @ half.T).reshape(-1, 1, *c.truth.shape[1:])

    return run


# --- scores --------------------------------------------------------------------------------------------------------------------


def scores(c: Case, x: Tensor) -> dict[str, Any]:
    """Per hour (T,) lists, and what needs all hours, of an ensemble (T, M, 1, H, W)."""
    members, height = x.shape[1], x.shape[-2]
    area = c.grid.row_areas()
    area = area / area.sum()

    def weighted(rows: Tensor) -> Tensor:
        """(T, H, W) or (T, H) -> (T,)."""
        return (rows if rows.ndim == 2 else rows.mean(2)) @ area

    mean = x.mean(1)
    square = weighted((mean - c.truth).square()[:, 0])
    found: dict[str, Any] = {"rmse": square.sqrt().tolist(), "mse": square.tolist()}
    at = c.scene.at(c.scene.withheld) if c.scene.withheld is not None else None
    if at is not None:
        at = clone(at, "cpu", torch.float64)
        found["withheld"] = (at.A(mean) - at.A(c.truth)).square().flatten(1).mean(1).sqrt().tolist()
    power, true = (_zonal_power(field.flatten(0, -3)) for field in (x, c.truth))
    ratio = (power / true).log10()
    found["spectrum"], found["spectrum_short"] = float(ratio.abs().mean()), float(ratio[len(ratio) // 2 :].mean())
    found["power_ratio"] = (power / true).tolist()
    if members == 1:
        found["crps"] = weighted((mean - c.truth).abs()[:, 0]).tolist()
        return found
    rows = torch.stack([fair_crps(x[..., i, :], c.truth[..., i, :]) for i in range(height)], 1)
    found["crps"] = weighted(rows).tolist()
    spread = weighted(x.var(1)[:, 0])
    found["spread_skill"] = float(((members + 1) / members * spread.mean() / square.mean()).sqrt())
    points = torch.cat([c.truth[:, None], x], 1)[:, :, 0, 2::7, 3::7].flatten(2)
    r = ranks(points, inverse.seeded("ranks"))
    found["ranks"] = torch.bincount(r.flatten(), minlength=members + 1).tolist()
    statistic, _ = rank_chi_square(r.flatten(), members)
    found["rank_chi2_per_dof"] = statistic / members
    one = r[torch.arange(len(r)), torch.randint(r.shape[1], (len(r),), generator=inverse.seeded("one point an hour"))]
    found["rank_p"] = rank_chi_square(one, members)[1]
    return found


def _zonal_power(fields: Tensor) -> Tensor:
    """Mean power of wavenumbers 1, 2, ... along rows (N, H, W), linear trend removed and Hann window: a window over a country is not periodic."""
    width = fields.shape[-1]
    t = torch.linspace(-1, 1, width, dtype=fields.dtype)
    centred = fields - fields.mean(-1, keepdim=True)
    slope = (centred * t).sum(-1, keepdim=True) / t.square().sum()
    window = torch.hann_window(width, periodic=False, dtype=fields.dtype)
    return torch.fft.rfft((centred - slope * t) * window).abs().square().mean((0, 1))[1:]


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval over the days: (T,)."""
    from scipy.special import stdtrit

    days = np.asarray(values)
    return float(days.mean()), float(stdtrit(len(days) - 1, 0.975) * days.std(ddof=1) / math.sqrt(len(days)))


# --- the experiments -----------------------------------------------------------------------------------------------------------


def analyses(law: LowRankPrior, trained: inverse.Prior | None, train: Tensor) -> dict[str, tuple[Callable[[Case, int], Tensor], tuple[str, ...]]]:
    """Every analysis by name, and the modalities it can do without: of the trained prior and of the Gaussian, then the classical ones."""
    guided = {f"{g}": inverse.get_method("multimodal", guidance=g, **SAMPLER) for g in ("mmps", "pigdm", "sda", "dps")}
    found: dict[str, tuple[Callable[[Case, int], Tensor], tuple[str, ...]]] = {}
    for label, prior in (("trained", trained), ("Gaussian", inverse.load_prior("era5-uk-t2m-gaussian"))):
        if prior is not None:
            found |= {f"{name}, {label} prior": (sampled(prior, method), ("both", "coarse", "stations")) for name, method in guided.items()}
    if trained is not None:
        whole = inverse.get_method("multimodal", sampler="dpmpp-2m", steps=30, sigma_min=0.03, tolerance=1e-2)
        found["mmps, trained prior, 30 steps from sigma 80"] = (sampled(trained, whole), ("both",))
    return found | {
        "optimal interpolation": (optimal_interpolation(law), ("both", "coarse", "stations")),
        "3D-Var": (three_d_var(train), ("both", "coarse", "stations")),
        "kriging of the bilinear field's residuals": (kriged(train, True), ("both",)),
        "ordinary kriging": (kriged(train, False), ("stations",)),
        "bilinear": (interpolated("linear"), ("coarse",)),
        "bicubic": (interpolated("cubic"), ("coarse",)),
    }


def measured(c: Case, run: Callable[[Case, int], Tensor], members: int) -> tuple[dict[str, Any], Tensor]:
    start = time.process_time()
    x = run(c, members)
    seconds = (time.process_time() - start) / len(c.truth) * (32 / x.shape[1] if x.shape[1] > 1 else 1)
    return scores(c, x) | {"members": x.shape[1], "cpu_seconds": seconds}, x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="prefix of what is written: OUT.json, OUT-tables.md, and figures in images/ beside it")
    parser.add_argument("--prior", default="era5-uk-t2m", help="the trained prior")
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--budget", type=float, default=900.0, help="CPU seconds after which no further cell is begun")
    parser.add_argument("--facts", action="store_true", help="print what the hour of the day explains and what the taper is worth, and stop")
    arguments = parser.parse_args()
    if arguments.facts:
        facts(arguments.fields)
        return

    begun = time.process_time()
    law = inverse.load_prior("era5-uk-t2m-gaussian").double()
    trained = None if arguments.prior == "none" else inverse.load_prior(arguments.prior)
    truth = torch.cat([load_fields(arguments.fields, ["t2m"], f"{hour}/{hour}").values for hour in HOURS])
    table = analyses(law, trained, load_fields(arguments.fields, ["t2m"], TRAIN).values)
    main_name = f"mmps, {'trained' if trained is not None else 'Gaussian'} prior"

    cells = [(MAIN, "both", name) for name, (_, can) in table.items() if "both" in can]
    cells += [
        (MAIN, kind, name) for kind in ("coarse", "stations") for name, (_, can) in table.items() if kind in can and name[:3] not in ("sda", "dps", "pig")
    ]
    few = ("mmps, trained prior", "mmps, Gaussian prior", "optimal interpolation", "3D-Var", "kriging of the bilinear field's residuals")
    cells += [(options, "both", name) for options in GRID if options != MAIN for name in few if name in table]
    cells.sort(key=lambda cell: ("trained" in cell[2], cell[0] != MAIN))

    records = read(arguments.out)
    kept: dict[str, Tensor] = {}
    made: dict[tuple, Case] = {}
    for options, kind, name in cells:
        key = (*options.values(), kind)
        if any((r["factor"], r["count"], r["modalities"], r["method"]) == (*key, name) for r in records) and not (options == MAIN and name == main_name):
            continue
        if time.process_time() - begun > arguments.budget:
            print(f"budget spent; not measured: {options} {kind} {name}", flush=True)
            continue
        c = made.setdefault(key, case(truth, law, kind, **options))
        found, x = measured(c, table[name][0], arguments.members)
        if options == MAIN and name == main_name:
            kept[kind] = x
        records = [r for r in records if (r["factor"], r["count"], r["modalities"], r["method"]) != (*key, name)]
        records.append({**options, "modalities": kind, "method": name, **found})
        print(f"{options['factor']}x {options['count']:2d} {kind:8s} {name:42s} rmse {np.mean(found['rmse']):.3f} crps {np.mean(found['crps']):.3f} "
              f"spread/skill {found.get('spread_skill', float('nan')):.2f} {found['cpu_seconds']:.1f} s", flush=True)  # fmt: skip
        write(arguments.out, records)
    balance = balanced(truth[1:2], law, trained)
    write(arguments.out, records, balance)
    figures(arguments.out, made[(*MAIN.values(), "both")], kept["both"], balance)
    print(f"{time.process_time() - begun:.0f} s")


def facts(path: Path) -> None:
    """Variance (K2) of held-out fields around the training mean, and around it with two harmonics of the day; log density of the
    validation fields (nats a point, standardised) under sample covariances of several ranks without a taper."""
    parts = [load_fields(path, ["t2m"], period) for period in (TRAIN, "2019-03-22/2019-03-24", "2019-03-25/2019-03-31")]
    train, *held_out = (part.values.double().flatten(1) for part in parts)

    def harmonics(fields: Tensor) -> Tensor:
        hour = 2 * math.pi * torch.arange(len(fields), dtype=torch.float64) / 24
        return torch.stack([torch.ones_like(hour), *(f(k * hour) for k in (1, 2) for f in (torch.cos, torch.sin))], 1)

    daily = torch.linalg.lstsq(harmonics(train), train).solution
    for name, fields in zip(("validation", "test"), held_out, strict=True):
        print(f"{name}: {(fields - train.mean(0)).square().mean():.2f} K2, with the hour {(fields - harmonics(fields) @ daily).square().mean():.2f} K2")
    law = inverse.load_prior("era5-uk-t2m-gaussian")
    for rank in (20, 40, 80, 160, 400):
        plain = fit_gaussian(parts[0].values, parts[1].values, parts[0].grid, rank, (1e9,), (1.0,), shift=law.shift, scale=law.scale)
        print(f"rank {rank}, no taper: {plain.held_out:.2f} nats a point")


def read(out: Path) -> list[dict[str, Any]]:
    """Records of an earlier, interrupted run with the same sampler; what they measured is not measured again."""
    path = out.with_suffix(".json")
    if not path.is_file():
        return []
    found = json.loads(path.read_text())
    return found["records"] if found["about"]["sampler"] == SAMPLER else []


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
                share.append(float((a - coarse) @ (points - coarse) / (points - coarse).square().sum()))
            found[f"{label}, {varied}"] = share
    return found


def _mean(c: Case, law: LowRankPrior, prior: inverse.Prior | None, sigma: Tensor) -> Tensor:
    """The analysis (H, W) when the noise is claimed to be sigma (m,)."""
    if prior is None:
        return law.decode(law.given(c.matrix, sigma, c.y[0]).mean)[0]
    noise = inverse.GaussianNoise(sigma.reshape(c.posterior.y.shape[1:]))
    posterior = inverse.Posterior(prior, c.problem.operator(tuple(c.truth.shape[1:])), c.posterior.y[:1].float(), noise, shape=tuple(c.truth.shape[1:]))
    return inverse.solve(posterior, inverse.get_method("multimodal", **SAMPLER), samples=8, seed=2).samples.double().mean((0, 1))[0]


def write(out: Path, records: list[dict[str, Any]], balance: dict[str, Any] | None = None) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"hours": HOURS, "sampler": SAMPLER, "torch": torch.__version__}
    rounded = json.loads(json.dumps(records), parse_float=lambda text: float(f"{float(text):.5g}"))
    out.with_suffix(".json").write_text(json.dumps({"about": about, "balance": balance, "records": rounded}, indent=1) + "\n")
    out.with_name(out.name + "-tables.md").write_text("\n\n".join(tables(records)) + "\n")


def tables(records: list[dict[str, Any]]) -> list[str]:
    lines = []
    for kind, title in (("both", "Coarse field and stations"), ("coarse", "Coarse field alone"), ("stations", "Stations alone")):
        rows = [r for r in records if {k: r[k] for k in MAIN} == MAIN and r["modalities"] == kind]
        head = "| analysis | RMSE (K) | CRPS (K) | at withheld stations (K) | spread / skill | rank chi2 / dof | p, a point an hour | power, all | short | s |"
        body = [head, "|" + "---|" * 10]
        for r in rows:
            cells = [r["method"], *(f"{m:.3f} ± {h:.3f}" for m, h in (interval(r["rmse"]), interval(r["crps"])))]
            cells += [f"{np.mean(r['withheld']):.3f}" if "withheld" in r else ""]
            cells += [f"{r[k]:.2f}" if k in r else "" for k in ("spread_skill", "rank_chi2_per_dof", "rank_p")]
            body.append("| " + " | ".join([*cells, f"{r['spectrum']:.2f}", f"{r['spectrum_short']:+.2f}", f"{r['cpu_seconds']:.1f}"]) + " |")
        lines += [f"**{title}**, factor {MAIN['factor']}, {MAIN['count']} stations", "\n".join(body)]
    names = list(dict.fromkeys(r["method"] for r in records if r["modalities"] == "both" and {k: r[k] for k in MAIN} != MAIN))
    body = ["| factor | stations | " + " | ".join(f"{name}: RMSE / CRPS / spread" for name in names) + " |", "|" + "---|" * (2 + len(names))]
    for options in GRID:
        found = {r["method"]: r for r in records if r["modalities"] == "both" and {k: r[k] for k in options} == options}
        figures = {n: [np.mean(r["rmse"]), np.mean(r["crps"]), *([r["spread_skill"]] if "spread_skill" in r else [])] for n, r in found.items()}
        cells = [" / ".join(f"{v:.2f}" if i == 2 else f"{v:.3f}" for i, v in enumerate(figures.get(n, []))) for n in names]
        body.append("| " + " | ".join([str(options["factor"]), str(options["count"]), *cells]) + " |")
    lines += ["**Both modalities**", "\n".join(body)]
    main = {r["modalities"]: r for r in records if {k: r[k] for k in MAIN} == MAIN and r["method"] == "mmps, trained prior"}
    rivals = {f"{r['method']} ({r['modalities']})": r for r in records if {k: r[k] for k in MAIN} == MAIN and r is not main.get("both")}
    if "both" in main:
        body = ["| against | RMSE difference (K) | CRPS difference (K) |", "|---|---|---|"]
        for name, r in rivals.items():
            cells = [interval(np.asarray(main["both"][k]) - np.asarray(r[k])) for k in ("rmse", "crps")]
            body.append(f"| {name} | " + " | ".join(f"{m:+.3f} ± {h:.3f}" for m, h in cells) + " |")
        lines += ["**mmps with the trained prior and both modalities, less the other** (paired over days, 95 %)", "\n".join(body)]
    return lines


def figures(out: Path, c: Case, x: Tensor, balance: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder = out.parent / "images"
    folder.mkdir(exist_ok=True)
    hour = 1
    truth, mean, spread = c.truth[hour, 0], x[hour].mean(0)[0], x[hour].std(0)[0]
    extent = (c.grid.longitudes[0], c.grid.longitudes[-1], c.grid.latitudes[-1], c.grid.latitudes[0])
    coarse = c.y[hour, c.part("coarse")].reshape(c.grid.coarsened(c.problem.factor).shape)
    low, high = float(truth.min()), float(truth.max())
    panels = [
        ("truth", truth, low, high, "RdYlBu_r"),
        ("coarse field and stations", coarse, low, high, "RdYlBu_r"),
        ("mean of members", mean, low, high, "RdYlBu_r"),
        ("one member", x[hour, 0, 0], low, high, "RdYlBu_r"),
        ("spread", spread, 0, 1.2, "viridis"),
        ("mean - truth", mean - truth, -2.5, 2.5, "RdBu_r"),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 6), constrained_layout=True)
    lat, lon = c.scene.used.places
    for axis, (title, field, a, b, colours) in zip(axes.flat, panels, strict=True):
        image = axis.imshow(field, extent=extent, vmin=a, vmax=b, cmap=colours, aspect="auto")
        if title.startswith("coarse"):
            axis.scatter(lon, lat, c=c.y[hour, c.part("stations")], vmin=a, vmax=b, cmap=colours, edgecolors="black", s=40)
        axis.set_title(title)
        figure.colorbar(image, ax=axis, label="K")
    figure.savefig(folder / f"{out.name}-maps.png", dpi=70)

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), constrained_layout=True, sharey=True)
    for axis, varied in zip(axes, ("coarse", "stations"), strict=True):
        for label, values in balance.items():
            if label.endswith(f", {varied}"):
                axis.semilogx(balance["levels"], values, marker="o", label=label.removesuffix(f", {varied}"))
        axis.set_xlabel(f"noise claimed for the {varied} (K)")
        axis.axvline(0.5, color="grey", linewidth=0.5)
    axes[0].set_ylabel("weight of the stations")
    axes[0].legend()
    figure.savefig(folder / f"{out.name}-balance.png", dpi=70)


if __name__ == "__main__":
    main()
