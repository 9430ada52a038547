"""Check twelve trends of the literature on diffusion solvers with a small prior.

    python bench/literature_trends.py --records records.jsonl --write docs/trends

Reads results/conjugate.json and results/tables/memory.json, and measures the rest on the central 64
pixels of the shipped photographs (prior `photo-64`) and on the `gaussian` problem. Finished runs
are stored in --records, one per line, and not repeated.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from images import centre_crop, psnr
from ledger import Ledger
from options import new_parser
from output import command_line, markdown_table

import inverse
from inverse.metrics.shipped import METRICS

RESULTS = Path(__file__).parents[1] / "results"
ABOUT = """# Trends

This page checks trends of the literature, for readers of papers on diffusion solvers.

Written by `{command}`, after `bench/conjugate.py` and `bench/memory.py`.

The table lists trends that papers on diffusion solvers report repeatedly, and whether they hold in
two settings: on the central 64 pixels of the four shipped photographs with the prior `photo-64`
(PSNR in dB, means over the four), and on problems whose posterior is known. The prior is small and
was trained on few photographs, and there are one image size and four images; a trend that does not
appear in this table may hold elsewhere. FID and LPIPS are not measured, because no pretrained
feature network is available.

"""
HEADS = ["", "trend", "measured", "verdict"]


class Photographs:
    """Scores of methods on the shipped photographs, taken from the ledger where it has them."""

    def __init__(self, ledger: Ledger):
        self.ledger, self.prior = ledger, inverse.load_prior("photo-64")
        photographs = inverse.get_problem("deblur").truths()
        self.truths = torch.stack([centre_crop(x, 64) for x in photographs])

    def run(
        self,
        problem: str,
        settings: dict[str, Any],
        method: str,
        options: dict[str, Any] | None = None,
        samples: int = 1,
    ) -> dict[str, float]:
        """Means over photographs of PSNR, SSIM, residual chi-square, cost and spread of samples."""
        options = options or {}
        key = json.dumps([problem, settings, method, options, samples], sort_keys=True)

        def measure() -> dict[str, float]:
            posed = inverse.get_problem(problem, **settings)
            posterior = posed.posterior(self.truths, prior=self.prior)
            solver = inverse.get_method(method, **options)
            return self._score(inverse.solve(posterior, solver, samples=samples))

        return self.ledger.get(key, measure)

    def dpir(self, problem: str, settings: dict[str, Any]) -> float:
        """PSNR of half-quadratic splitting with the prior as its denoiser.

        8 levels from 49 / 255 to sigma_y, lambda = 0.23.
        Source: Zhang et al., Plug-and-Play Image Restoration with Deep Denoiser Prior, TPAMI 2021.
        """

        def measure() -> float:
            posterior = inverse.get_problem(problem, **settings).posterior(
                self.truths, prior=self.prior
            )
            z = posterior.pseudo_inverse()
            levels = torch.logspace(math.log10(49 / 255), math.log10(posterior.sigma_y), 8)
            for level in levels.tolist():
                s = 2 * level
                z = posterior.denoise(posterior.prox(z, s * s / 0.23), s)
            return float(psnr(self.prior.decode(z).clamp(0, 1), self.truths).mean())

        return self.ledger.get(json.dumps(["dpir", problem, settings]), measure)

    def saturated(self, method: str, options: dict[str, Any]) -> dict[str, float]:
        """Scores on a blur with a saturating detector: tanh(2 blur(x)), sigma_y = 0.02."""
        key = json.dumps(["saturated blur", method, options], sort_keys=True)
        return self.ledger.get(key, lambda: self._saturated(inverse.get_method(method, **options)))

    def _saturated(self, method: inverse.Method) -> dict[str, float]:
        blur = inverse.get_problem("deblur", boundary="circular").operator((3, 64, 64))
        operator = inverse.operator(
            lambda x: (2 * blur.A(x)).tanh(), shape=(3, 64, 64), linear=False
        )
        noise = inverse.GaussianNoise(0.02)
        y = noise.sample(operator.A(self.truths), inverse.seeded(0, "trends"))
        posterior = inverse.Posterior(
            self.prior, operator, y, noise, shape=(3, 64, 64), truth=self.truths
        )
        return self._score(inverse.solve(posterior, method))

    @staticmethod
    def _score(result: inverse.Result) -> dict[str, float]:
        spread = float(result.samples.std(1).mean()) if result.samples.shape[1] > 1 else 0.0
        first = result.samples[:, 0].clamp(0, 1)
        return {
            "psnr": float(psnr(first, result.truth).mean()),
            "ssim": METRICS["ssim"](result),
            "misfit": float(result.misfit.mean()),
            "nfe": result.cost.nfe,
            "vjp": result.cost.vjp,
            "seconds": result.seconds,
            "spread": spread,
        }

    def seconds_per_evaluation(self) -> float:
        """Wall-clock seconds of one evaluation of the prior on the batch, without gradient."""

        def measure() -> float:
            x = torch.randn(4, 3, 64, 64, generator=inverse.seeded("forward"))
            sigma = torch.tensor(1.0)
            with torch.no_grad():
                self.prior(x, sigma)
                start = time.perf_counter()
                for _ in range(20):
                    self.prior(x, sigma)
            return (time.perf_counter() - start) / 20

        return self.ledger.get("forward", measure)


def averaging(ledger: Ledger, method: str) -> float:
    """Gain (dB) in mean squared error of the mean of 16 samples over a single sample.

    The problem is the 8x8 blur with 100 truths. An exact sampler gains 2.75 dB.
    """

    def measure() -> float:
        problem = inverse.get_problem("gaussian", side=8, view="blur")
        law = problem.law()
        truths = law.decode(law.sample(100, inverse.seeded("averaging")))
        result = inverse.solve(problem.posterior(truths, dtype=torch.float64), method, samples=16)
        single, mean = (
            (x - truths).square().mean() for x in (result.samples[:, 0], result.samples.mean(1))
        )
        return float(10 * (single / mean).log10())

    return ledger.get(f"averaging {method}", measure)


def phase_retrieval(ledger: Ledger, method: str, options: dict[str, Any]) -> float:
    """Share of 50 runs that end within 20 % of the truth's norm from the truth, up to sign.

    An 8x8 field is measured through the magnitudes of 128 random projections.
    """

    def measure() -> float:
        law = inverse.get_problem("gaussian", side=8).law()
        M = torch.randn(128, 64, generator=inverse.seeded("phase"), dtype=torch.float64)
        M /= torch.linalg.matrix_norm(M, 2)
        operator = inverse.operator(
            lambda u: ((2 * u - 1).flatten(1) @ M.T).abs(), shape=(1, 8, 8), linear=False
        )
        truth = law.decode(law.sample(5, inverse.seeded("phase truths")))
        noise = inverse.GaussianNoise(0.005)
        y = noise.sample(operator.A(truth), inverse.seeded("phase noise"))
        posterior = inverse.Posterior(law, operator, y, noise, shape=(1, 8, 8), dtype=torch.float64)
        result = inverse.solve(posterior, inverse.get_method(method, **options), samples=10)
        x, x0 = 2 * result.samples.flatten(2) - 1, 2 * truth.flatten(1)[:, None] - 1
        error = torch.minimum((x - x0).norm(dim=2), (x + x0).norm(dim=2)) / x0.norm(dim=2)
        return float((error < 0.2).double().mean())

    return ledger.get(json.dumps(["phase retrieval", method, options]), measure)


def conjugate_rows() -> dict[str, list[dict[str, Any]]]:
    """Rows of the results of `bench/conjugate.py`, by view."""
    return json.loads((RESULTS / "conjugate.json").read_text())["results"]


# --- the trends ---------------------------------------------------------------------------------

Row = tuple[str, str, str]
"""The trend, the measured values and the verdict."""


def verdict(holds: bool, otherwise: str = "does not hold") -> str:
    return "holds" if holds else otherwise


SUPER_RESOLUTION = {"factor": 4, "sigma_y": 0.025}


def super_resolution_psnr(photographs: Photographs, method: str) -> float:
    options = {"daps": {"steps": 50}}.get(method, {})
    return photographs.run("super-resolution", SUPER_RESOLUTION, method, options)["psnr"]


def ddrm_against_dps(photographs: Photographs) -> Row:
    ddrm, dps = (super_resolution_psnr(photographs, name) for name in ("ddrm", "dps"))
    return (
        "DDRM in 20 evaluations beats DPS by about 2 dB on noisy super-resolution x4; "
        "DPS has the better FID",
        f"ddrm (20) {ddrm:.2f}, dps (100, with gradients) {dps:.2f}: {ddrm - dps:+.2f} dB",
        verdict(ddrm - dps > 1) + "; FID not measured",
    )


def dpir_against_samplers(photographs: Photographs) -> Row:
    best = max(super_resolution_psnr(photographs, name) for name in ("ddrm", "dps", "daps"))
    dpir = photographs.dpir("super-resolution", SUPER_RESOLUTION)
    return (
        "Plug-and-play without generation (DPIR) wins PSNR and loses FID by a factor of two",
        f"super-resolution x4: half-quadratic splitting (8 evaluations) {dpir:.2f}, "
        f"best sample of ddrm, dps and daps {best:.2f}: {dpir - best:+.2f} dB",
        verdict(dpir > best) + "; FID not measured",
    )


def diffpir_against_dps(photographs: Photographs) -> Row:
    noisy = {"kernel": "gaussian", "sigma_y": 0.1}
    dps = photographs.run("deblur", noisy, "dps")["psnr"]
    diffpir = photographs.run("deblur", noisy, "diffpir", {"steps": 10})["psnr"]
    gap = diffpir - dps
    return (
        "On deblurring at high noise DPS is worst, DiffPIR better by 2 to 6 dB with a tenth of the "
        "evaluations",
        f"sigma_y = 0.1: diffpir (10) {diffpir:.2f}, dps (100) {dps:.2f}: {gap:+.2f} dB",
        verdict(gap > 1.5),
    )


def daps_against_dps(photographs: Photographs) -> Row:
    daps, dps = (super_resolution_psnr(photographs, name) for name in ("daps", "dps"))
    gap = daps - dps
    return (
        "DAPS beats DPS by 4 to 5 dB on super-resolution x4, sigma_y = 0.05 on [-1, 1]",
        f"daps (50 levels of 5) {daps:.2f}, dps (100) {dps:.2f}: {gap:+.2f} dB; a sample is "
        "scored, not a mean",
        verdict(gap > 3, "weaker" if gap > 0.5 else "does not hold"),
    )


def phase_retrieval_success(photographs: Photographs) -> Row:
    released = {"lr": 5e-5, "tau": 0.02}  # for nonlinear operators; this y is in model units
    options = {"dps": {}, "daps": {"steps": 50, **released}, "pnp-dm": {"steps": 50}}
    shares = {name: phase_retrieval(photographs.ledger, name, o) for name, o in options.items()}
    best_of_four = min(1 - (1 - shares[name]) ** 4 for name in ("daps", "pnp-dm"))
    return (
        "Phase retrieval: a single run of DPS mostly fails, DAPS and PnP-DM find the image in the "
        "best of four",
        "8x8 field, magnitudes of 128 random projections, share of runs within 20 % up to sign: "
        + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()),
        verdict(shares["dps"] < 0.5 and best_of_four > 0.8),
    )


def red_diff_diversity(photographs: Photographs) -> Row:
    steps = {"steps": 50}
    psnrs = {
        name: photographs.saturated(name, steps)["psnr"] for name in ("red-diff", "dps", "lgd")
    }
    spreads = {
        name: photographs.run("inpainting", {"mask": "box"}, name, steps, samples=2)["spread"]
        for name in ("red-diff", "dps", "diffpir")
    }
    wins = max(psnrs, key=lambda name: psnrs[name]) == "red-diff"
    narrow = spreads["red-diff"] < 0.2 * spreads["dps"]
    return (
        "RED-diff: highest PSNR of the diffusion methods on nonlinear blur, over-smooth, hardly "
        "any diversity",
        f"50 steps, saturated blur: {listed(psnrs, '.2f')}; standard deviation over two seeds "
        f"(intensity), box inpainting: {listed(spreads, '.4f')}",
        f"PSNR {verdict(wins)}; diversity {verdict(narrow)}",
    )


def listed(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def circular_deblurring(photographs: Photographs, method: str) -> dict[str, float]:
    return photographs.run("deblur", {"boundary": "circular"}, method, {"steps": 20})


def blur_distances() -> dict[str, float]:
    """W2 by method on the 8x8 blur."""
    rows = conjugate_rows()["blur, 8x8"]
    return {row["method"]: row["W2"] for row in rows if "W2" in row}


def residual_and_quality(photographs: Photographs) -> Row:
    ddnm, plus = (circular_deblurring(photographs, name) for name in ("ddnm", "ddnm-plus"))
    w2 = blur_distances()
    return (
        "A low residual is not quality",
        f"circular deblurring: ddnm has chi-square {ddnm['misfit']:.3f} and {ddnm['psnr']:.2f} dB, "
        f"ddnm-plus {plus['misfit']:.3f} and {plus['psnr']:.2f} dB; where the posterior is known "
        f"(blur, 8x8) ddnm fits y exactly and has W2 {w2['ddnm']:.2f}, "
        f"the prior {w2['*prior*']:.2f}",
        verdict(ddnm["misfit"] < plus["misfit"] and ddnm["psnr"] < plus["psnr"]),
    )


def fewer_measurements(photographs: Photographs) -> Row:
    losses = {}
    for name, steps in (("ddrm", 20), ("ddnm-plus", 20), ("dps", 50)):
        few, many = (
            photographs.run(
                "inpainting", {"mask": "random", "missing": share}, name, {"steps": steps}
            )
            for share in (0.95, 0.5)
        )
        losses[name] = few["psnr"] - many["psnr"]
    return (
        "With fewer measurements SVD methods collapse and DPS loses least",
        "random pixels, from 50 % to 5 % observed: "
        + ", ".join(f"{name} {loss:+.1f} dB" for name, loss in losses.items()),
        verdict(losses["dps"] == max(losses.values())),
    )


def missing_noise_model(photographs: Photographs) -> Row:
    ddnm, plus = (circular_deblurring(photographs, name)["psnr"] for name in ("ddnm", "ddnm-plus"))
    gap, w2 = ddnm - plus, blur_distances()
    return (
        "PiGDM and DDNM without a noise model fail at sigma_y > 0",
        f"circular deblurring at sigma_y = 0.02: ddnm {gap:+.1f} dB against ddnm-plus; with all "
        f"directions observed (blur, 8x8) W2 {w2['ddnm']:.2f} against {w2['ddnm-plus']:.2f}; "
        "this pigdm always has its noise term",
        verdict(gap < -3),
    )


def averaging_samples(photographs: Photographs) -> Row:
    names = ("mmps", "pnp-dm", "diffpir", "ddrm", "dps", "red-diff")
    gains = {name: averaging(photographs.ledger, name) for name in names}
    return (
        "Averaging K samples of an exact sampler gains up to 3.01 dB",
        f"8x8 blur, K = 16, exact 2.75 dB: {listed(gains, '.2f')}",
        verdict(abs(gains["mmps"] - 2.75) < 0.3),
    )


def under_coverage(photographs: Photographs) -> Row:
    coverages: dict[str, list[float]] = {}
    for rows in conjugate_rows().values():
        for row in rows:
            name = row["method"]
            samples = "skipped" not in row and row["spread"] > 0.01
            if samples and not name.startswith("*") and "," not in name:
                coverages.setdefault(name, []).append(row["cover 90 %"])
    means = {name: sum(values) / len(values) for name, values in sorted(coverages.items())}
    under = [name for name, mean in means.items() if mean < 0.88]
    over = [name for name, mean in means.items() if mean > 0.92]
    return (
        "All methods but SMC and plug-and-play MCMC under-cover",
        "mean coverage of central 90 % intervals over six conjugate problems: "
        f"{len(under)} of {len(means)} below 88 % ({', '.join(under)}), "
        f"{len(over)} above 92 % ({', '.join(over)})",
        "holds for most, not all",
    )


def cost_of_gradients(photographs: Photographs) -> Row:
    memory = json.loads((RESULTS / "tables" / "memory.json").read_text())
    diffpir = photographs.run("super-resolution", SUPER_RESOLUTION, "diffpir", {"steps": 20})
    dps = photographs.run("super-resolution", SUPER_RESOLUTION, "dps")
    unit = photographs.seconds_per_evaluation()
    plain, gradient = (row["seconds"] / row["nfe"] / unit for row in (diffpir, dps))
    return (
        "A step without the network's gradient costs one evaluation, with it 2.5 times the time "
        "and 3.2 times the memory",
        f"seconds per step over seconds per evaluation: diffpir {plain:.2f}, dps {gradient:.2f}; "
        f"peak memory of dps over red-diff at 2048 pixels: {memory_ratio(memory):.1f}",
        f"gradients cost {gradient / plain:.1f} times the time, on a shared machine that cannot "
        "distinguish 1.5 from 3; memory holds",
    )


TRENDS = (
    ddrm_against_dps,
    dpir_against_samplers,
    diffpir_against_dps,
    daps_against_dps,
    phase_retrieval_success,
    red_diff_diversity,
    residual_and_quality,
    fewer_measurements,
    missing_noise_model,
    averaging_samples,
    under_coverage,
    cost_of_gradients,
)


def memory_ratio(records: list[dict[str, Any]]) -> float:
    """Ratio of dps to red-diff of the memory added by a solve of the largest image."""
    largest = [row for row in records if row["side"] == max(r["side"] for r in records)]
    need = {row["method"]: row["peak_gib"] - row["base_gib"] for row in largest}
    return need["dps"] / need["red-diff"]


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--records", help="file of finished runs, to read and to append to")
    parser.add_argument("--write", help="page to write (without .md)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photographs = Photographs(Ledger(arguments.records))
    rows = [[f"T{i}", *trend(photographs)] for i, trend in enumerate(TRENDS, 1)]
    table = markdown_table(HEADS, rows)
    print(table)
    if arguments.write:
        about = ABOUT.format(command=f"OMP_NUM_THREADS=1 {command_line()}")
        Path(f"{arguments.write}.md").write_text(about + table + "\n")


if __name__ == "__main__":
    main()
