"""The metrics that the package registers, in the order of reports and tables."""

from __future__ import annotations

from inverse.metrics.fidelity import area_weighted_rmse, haarpsi, ms_ssim, psnr, rmse, ssim
from inverse.metrics.metric import Metric
from inverse.metrics.perceptual import dists, lpips
from inverse.metrics.residual import misfit
from inverse.metrics.uncertainty import coverage, crps, energy_score, spread_skill

SIMILAR = (0.01, 0.03, 0.1)
"""Distances to the best similarity or perceptual distance that count as solved."""
NEAR = (0.05, 0.1, 0.5)
"""The same for errors, as fractions of the smallest."""

METRICS: dict[str, Metric] = {
    "psnr": Metric(psnr, "PSNR", "higher", (0.5, 1.0, 3.0), unit="dB", digits=2, shown="pictures"),
    "ssim": Metric(ssim, "SSIM", "higher", SIMILAR, shown="pictures", shown_digits=4),
    "ms-ssim": Metric(ms_ssim, "MS-SSIM", "higher", SIMILAR, cost="high"),
    "haarpsi": Metric(haarpsi, "HaarPSI", "higher", SIMILAR, cost="high"),
    "lpips": Metric(lpips, "LPIPS", "lower", SIMILAR, cost="high"),
    "dists": Metric(dists, "DISTS", "lower", SIMILAR, cost="high"),
    "rmse": Metric(rmse, "RMSE", "lower", NEAR, relative=True, digits=4, shown="fields"),
    "area-rmse": Metric(
        area_weighted_rmse, "area-weighted RMSE", "lower", NEAR, relative=True, digits=4
    ),
    "crps": Metric(crps, "CRPS", "lower", NEAR, relative=True, digits=4, shown="fields"),
    "energy-score": Metric(energy_score, "energy score", "lower", NEAR, relative=True, digits=4),
    "misfit": Metric(misfit, "residual χ²", 1.0, (0.05, 0.1, 0.3), shown=True),
    "coverage": Metric(coverage, "80 % coverage", 0.8, (0.05, 0.1, 0.2)),
    "spread-skill": Metric(spread_skill, "spread/skill", 1.0, (0.05, 0.1, 0.3)),
}
