"""Scores of ensembles against held-out fields, and what is told of them: tables and figures. Used by `atmosphere.py`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import inverse
from inverse.checks.diagnostics import fair_crps, rank_chi_square, ranks
from inverse.measurement.operators import clone


def scores(c: Any, x: Tensor) -> dict[str, Any]:
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
    found["spectrum"], found["spectrum_short"] = (
        float(ratio.abs().mean()),
        float(ratio[len(ratio) // 2 :].mean()),
    )
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
    one = r[
        torch.arange(len(r)),
        torch.randint(r.shape[1], (len(r),), generator=inverse.seeded("one point an hour")),
    ]
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
    return float(days.mean()), float(
        stdtrit(len(days) - 1, 0.975) * days.std(ddof=1) / math.sqrt(len(days))
    )


def tables(
    records: list[dict[str, Any]],
    setting: dict[str, int],
    settings: list[dict[str, int]],
    chosen: str,
) -> list[str]:
    """Markdown: every analysis under one setting, some under all, and the chosen one less each other, paired over days."""
    lines = []
    for kind, title in (
        ("both", "Coarse field and stations"),
        ("coarse", "Coarse field alone"),
        ("stations", "Stations alone"),
    ):
        rows = [
            r for r in records if {k: r[k] for k in setting} == setting and r["modalities"] == kind
        ]
        head = "| analysis | RMSE (K) | CRPS (K) | at withheld stations (K) | spread / skill | rank chi2 / dof | p, a point an hour | power, all | short | s |"
        body = [head, "|" + "---|" * 10]
        for r in rows:
            cells = [
                r["method"],
                *(f"{m:.3f} ± {h:.3f}" for m, h in (interval(r["rmse"]), interval(r["crps"]))),
            ]
            cells += [f"{np.mean(r['withheld']):.3f}" if "withheld" in r else ""]
            cells += [
                f"{r[k]:.2f}" if k in r else ""
                for k in ("spread_skill", "rank_chi2_per_dof", "rank_p")
            ]
            body.append(
                "| "
                + " | ".join(
                    [
                        *cells,
                        f"{r['spectrum']:.2f}",
                        f"{r['spectrum_short']:+.2f}",
                        f"{r['cpu_seconds']:.1f}",
                    ]
                )
                + " |"
            )
        lines += [
            f"**{title}**, factor {setting['factor']}, {setting['count']} stations",
            "\n".join(body),
        ]
    names = list(
        dict.fromkeys(
            r["method"]
            for r in records
            if r["modalities"] == "both" and {k: r[k] for k in setting} != setting
        )
    )
    body = [
        "| factor | stations | "
        + " | ".join(f"{name}: RMSE / CRPS / spread" for name in names)
        + " |",
        "|" + "---|" * (2 + len(names)),
    ]
    for options in settings:
        found = {
            r["method"]: r
            for r in records
            if r["modalities"] == "both" and {k: r[k] for k in options} == options
        }
        figures = {
            n: [
                np.mean(r["rmse"]),
                np.mean(r["crps"]),
                *([r["spread_skill"]] if "spread_skill" in r else []),
            ]
            for n, r in found.items()
        }
        cells = [
            " / ".join(
                f"{v:.2f}" if i == 2 else f"{v:.3f}" for i, v in enumerate(figures.get(n, []))
            )
            for n in names
        ]
        body.append(
            "| " + " | ".join([str(options["factor"]), str(options["count"]), *cells]) + " |"
        )
    lines += ["**Both modalities**", "\n".join(body)]
    main = {
        r["modalities"]: r
        for r in records
        if {k: r[k] for k in setting} == setting and r["method"] == chosen
    }
    rivals = {
        f"{r['method']} ({r['modalities']})": r
        for r in records
        if {k: r[k] for k in setting} == setting and r is not main.get("both")
    }
    if "both" in main:
        body = ["| against | RMSE difference (K) | CRPS difference (K) |", "|---|---|---|"]
        for name, r in rivals.items():
            cells = [
                interval(np.asarray(main["both"][k]) - np.asarray(r[k])) for k in ("rmse", "crps")
            ]
            body.append(f"| {name} | " + " | ".join(f"{m:+.3f} ± {h:.3f}" for m, h in cells) + " |")
        lines += [
            f"**{chosen}, both modalities, less the other** (paired over days, 95 %)",
            "\n".join(body),
        ]
    return lines


def maps(out: Path, c: Any, x: Tensor) -> None:
    """Truth, what was observed, mean, a member, spread and error of a case of one hour."""
    plt, folder = _plotting(out)
    truth, mean, spread = c.truth[0, 0], x[0].mean(0)[0], x[0].std(0)[0]
    extent = (
        c.grid.longitudes[0],
        c.grid.longitudes[-1],
        c.grid.latitudes[-1],
        c.grid.latitudes[0],
    )
    coarse = c.y[0, c.part("coarse")].reshape(c.grid.coarsened(c.problem.factor).shape)
    low, high = float(truth.min()), float(truth.max())
    panels = [
        ("truth", truth, low, high, "RdYlBu_r"),
        ("coarse field and stations", coarse, low, high, "RdYlBu_r"),
        ("mean of members", mean, low, high, "RdYlBu_r"),
        ("one member", x[0, 0, 0], low, high, "RdYlBu_r"),
        ("spread", spread, 0, 1.2, "viridis"),
        ("mean - truth", mean - truth, -2.5, 2.5, "RdBu_r"),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 6), constrained_layout=True)
    lat, lon = c.scene.used.places
    for axis, (title, field, a, b, colours) in zip(axes.flat, panels, strict=True):
        image = axis.imshow(field, extent=extent, vmin=a, vmax=b, cmap=colours, aspect="auto")
        if title.startswith("coarse"):
            axis.scatter(
                lon,
                lat,
                c=c.y[0, c.part("stations")],
                vmin=a,
                vmax=b,
                cmap=colours,
                edgecolors="black",
                s=40,
            )
        axis.set_title(title)
        figure.colorbar(image, ax=axis, label="K")
    figure.savefig(folder / f"{out.name}-maps.png", dpi=70)


def curves(out: Path, records: list[dict[str, Any]], balance: dict[str, Any]) -> None:
    """How the modalities share the say; rank histograms and power ratios of what has an ensemble."""
    plt, folder = _plotting(out)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), constrained_layout=True, sharey=True)
    for axis, varied in zip(axes, ("coarse", "stations"), strict=True):
        for label, values in balance.items():
            if label.endswith(f", {varied}"):
                axis.semilogx(
                    balance["levels"], values, marker="o", label=label.removesuffix(f", {varied}")
                )
        axis.set_xlabel(f"noise claimed for the {varied} (K)")
        axis.axvline(0.5, color="grey", linewidth=0.5)
    axes[0].set_ylabel("weight of the stations")
    axes[0].legend()
    figure.savefig(folder / f"{out.name}-balance.png", dpi=70)

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    names = (
        "mmps, trained prior",
        "mmps, trained prior, fitted",
        "optimal interpolation",
        "kriging of the bilinear field's residuals",
    )
    for r in records:
        if r["method"] in names and (r["factor"], r["count"], r["modalities"]) == (8, 25, "both"):
            share = np.asarray(r["ranks"]) / np.sum(r["ranks"])
            axes[0].step(np.arange(len(share)), share * len(share), where="mid", label=r["method"])
            axes[1].semilogy(
                np.arange(1, len(r["power_ratio"]) + 1), r["power_ratio"], label=r["method"]
            )
    axes[0].set_xlabel("rank of the truth among the members")
    axes[0].set_ylabel("frequency / uniform")
    axes[1].set_xlabel("zonal wavenumber of the window")
    axes[1].set_ylabel("power of members / of the truth")
    for axis in axes:
        axis.axhline(1, color="grey", linewidth=0.5)
    axes[1].legend(fontsize=7)
    figure.savefig(folder / f"{out.name}-ranks.png", dpi=70)


def _plotting(out: Path) -> tuple[Any, Path]:
    """pyplot without a display, and the folder of figures."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder = out.parent / "images"
    folder.mkdir(exist_ok=True)
    return plt, folder
