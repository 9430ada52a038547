"""Scores of ensembles against held-out fields, with tables and figures. For `atmosphere.py`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from output import markdown_table
from torch import Tensor

import inverse
from inverse.checks.diagnostics import fair_crps, rank_chi_square, ranks
from inverse.measurement.operators import clone


def scores(c: Any, x: Tensor) -> dict[str, Any]:
    """Scores of an ensemble (T, M, 1, H, W), K: lists over hours, and scores over all hours."""
    members, height = x.shape[1], x.shape[-2]
    area = c.grid.row_areas()
    area = area / area.sum()

    def weighted(rows: Tensor) -> Tensor:
        """Area-weighted means: (T, H, W) or (T, H) -> (T,)."""
        return (rows if rows.ndim == 2 else rows.mean(2)) @ area

    mean = x.mean(1)
    square = weighted((mean - c.truth).square()[:, 0])
    figures: dict[str, Any] = {"rmse": square.sqrt().tolist(), "mse": square.tolist()}
    if c.scene.withheld is not None:
        stations = clone(c.scene.at(c.scene.withheld), "cpu", torch.float64)
        error = stations.A(mean) - stations.A(c.truth)
        figures["withheld"] = error.square().flatten(1).mean(1).sqrt().tolist()
    power, true = (_zonal_power(field.flatten(0, -3)) for field in (x, c.truth))
    ratio = (power / true).log10()
    figures["spectrum"] = float(ratio.abs().mean())
    figures["spectrum_short"] = float(ratio[len(ratio) // 2 :].mean())
    figures["power_ratio"] = (power / true).tolist()
    if members == 1:
        figures["crps"] = weighted((mean - c.truth).abs()[:, 0]).tolist()
        return figures
    rows = torch.stack([fair_crps(x[..., i, :], c.truth[..., i, :]) for i in range(height)], 1)
    figures["crps"] = weighted(rows).tolist()
    spread = weighted(x.var(1)[:, 0])
    figures["spread_skill"] = float(
        ((members + 1) / members * spread.mean() / square.mean()).sqrt()
    )
    points = torch.cat([c.truth[:, None], x], 1)[:, :, 0, 2::7, 3::7].flatten(2)
    r = ranks(points, inverse.seeded("ranks"))
    figures["ranks"] = torch.bincount(r.flatten(), minlength=members + 1).tolist()
    statistic, _ = rank_chi_square(r.flatten(), members)
    figures["rank_chi2_per_dof"] = statistic / members
    generator = inverse.seeded("one point an hour")
    point = torch.randint(r.shape[1], (len(r),), generator=generator)
    figures["rank_p"] = rank_chi_square(r[torch.arange(len(r)), point], members)[1]
    return figures


def _zonal_power(fields: Tensor) -> Tensor:
    """Mean power of wavenumbers 1, 2, ... along the rows of fields (N, H, W).

    A regional window is not periodic; a linear trend is therefore removed and a Hann window
    applied.
    """
    width = fields.shape[-1]
    t = torch.linspace(-1, 1, width, dtype=fields.dtype)
    centred = fields - fields.mean(-1, keepdim=True)
    slope = (centred * t).sum(-1, keepdim=True) / t.square().sum()
    window = torch.hann_window(width, periodic=False, dtype=fields.dtype)
    return torch.fft.rfft((centred - slope * t) * window).abs().square().mean((0, 1))[1:]


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t) over days (T,)."""
    from scipy.special import stdtrit

    days = np.asarray(values)
    quantile = stdtrit(len(days) - 1, 0.975)
    return float(days.mean()), float(quantile * days.std(ddof=1) / math.sqrt(len(days)))


Records = list[dict[str, Any]]


def tables(
    records: Records, setting: dict[str, int], settings: list[dict[str, int]], chosen: str
) -> list[str]:
    """Captions and Markdown tables: all analyses in one setting, some in all, and differences."""
    parts = []
    for modalities, title in (
        ("both", "Coarse field and stations"),
        ("coarse", "Coarse field alone"),
        ("stations", "Stations alone"),
    ):
        rows = [r for r in selected(records, setting) if r["modalities"] == modalities]
        caption = f"**{title}**, factor {setting['factor']}, {setting['count']} stations"
        parts += [caption, score_table(rows)]
    both = [r for r in records if r["modalities"] == "both"]
    parts += ["**Both modalities**", grid_table(both, setting, settings)]
    in_setting = selected(records, setting)
    main = [r for r in in_setting if r["method"] == chosen and r["modalities"] == "both"]
    if main:
        others = [r for r in in_setting if r is not main[-1]]
        parts.append(f"**{chosen}, both modalities, less the other** (paired over days, 95 %)")
        parts.append(difference_table(main[-1], others))
    return parts


def selected(records: Records, setting: dict[str, int]) -> Records:
    return [r for r in records if {key: r[key] for key in setting} == setting]


def score_table(records: Records) -> str:
    heads = ["analysis", "RMSE (K)", "CRPS (K)", "at withheld stations (K)", "spread / skill"]
    heads += ["rank chi2 / dof", "p, a point an hour", "power, all", "short", "s"]
    rows = []
    for r in records:
        calibration = ("spread_skill", "rank_chi2_per_dof", "rank_p")
        rows.append(
            [
                r["method"],
                *("{:.3f} ± {:.3f}".format(*interval(r[key])) for key in ("rmse", "crps")),
                f"{np.mean(r['withheld']):.3f}" if "withheld" in r else "",
                *(f"{r[key]:.2f}" if key in r else "" for key in calibration),
                f"{r['spectrum']:.2f}",
                f"{r['spectrum_short']:+.2f}",
                f"{r['cpu_seconds']:.1f}",
            ]
        )
    return markdown_table(heads, rows)


def grid_table(records: Records, setting: dict[str, int], settings: list[dict[str, int]]) -> str:
    """RMSE, CRPS and spread over skill of the analyses that have records in several settings."""
    elsewhere = [r for r in records if {key: r[key] for key in setting} != setting]
    names = list(dict.fromkeys(r["method"] for r in elsewhere))
    rows = []
    for options in settings:
        by_name = {r["method"]: r for r in selected(records, options)}
        cells = [summary_cell(by_name[name]) if name in by_name else "" for name in names]
        rows.append([str(options["factor"]), str(options["count"]), *cells])
    heads = ["factor", "stations", *(f"{name}: RMSE / CRPS / spread" for name in names)]
    return markdown_table(heads, rows)


def summary_cell(r: dict[str, Any]) -> str:
    spread = [f"{r['spread_skill']:.2f}"] if "spread_skill" in r else []
    return " / ".join([f"{np.mean(r['rmse']):.3f}", f"{np.mean(r['crps']):.3f}", *spread])


def difference_table(main: dict[str, Any], others: Records) -> str:
    """Differences of RMSE and CRPS between the main analysis and every other, paired over days."""
    rows = []
    for name, r in {f"{r['method']} ({r['modalities']})": r for r in others}.items():
        pairs = [np.asarray(main[key]) - np.asarray(r[key]) for key in ("rmse", "crps")]
        rows.append([name, *("{:+.3f} ± {:.3f}".format(*interval(pair)) for pair in pairs)])
    heads = ["against", "RMSE difference (K)", "CRPS difference (K)"]
    return markdown_table(heads, rows)


def maps(out: Path, c: Any, x: Tensor) -> None:
    """Plot truth, observations, mean, a member, spread and error for a case of one hour."""
    plt, folder = _plotting(out)
    truth, mean, spread = c.truth[0, 0], x[0].mean(0)[0], x[0].std(0)[0]
    longitudes, latitudes = c.grid.longitudes, c.grid.latitudes
    extent = (longitudes[0], longitudes[-1], latitudes[-1], latitudes[0])
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
            shades = {"vmin": a, "vmax": b, "cmap": colours}
            y = c.y[0, c.part("stations")]
            axis.scatter(lon, lat, c=y, edgecolors="black", s=40, **shades)
        axis.set_title(title)
        figure.colorbar(image, ax=axis, label="K")
    figure.savefig(folder / f"{out.name}-maps.png", dpi=70)


def curves(out: Path, records: list[dict[str, Any]], balance: dict[str, Any]) -> None:
    """Plot the weights of the modalities, and rank histograms and power ratios of ensembles."""
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
            wavenumbers = np.arange(1, len(r["power_ratio"]) + 1)
            axes[1].semilogy(wavenumbers, r["power_ratio"], label=r["method"])
    axes[0].set_xlabel("rank of the truth among the members")
    axes[0].set_ylabel("frequency / uniform")
    axes[1].set_xlabel("zonal wavenumber of the window")
    axes[1].set_ylabel("power of members / of the truth")
    for axis in axes:
        axis.axhline(1, color="grey", linewidth=0.5)
    axes[1].legend(fontsize=7)
    figure.savefig(folder / f"{out.name}-ranks.png", dpi=70)


def _plotting(out: Path) -> tuple[Any, Path]:
    """pyplot without a display, and the folder of the figures."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder = out.parent / "images"
    folder.mkdir(exist_ok=True)
    return plt, folder
