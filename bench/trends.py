"""The twelve trends of the literature on diffusion solvers that a small prior can show: which hold here.

    python bench/trends.py --records records.jsonl --write docs/trends

Reads results/conjugate.json and results/tables/memory.json, and measures the rest on the central 64 pixels of the shipped photographs (prior
`photo-64`) and on the `gaussian` problem. Finished runs are kept in --records, one line each, and not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from conjugate import Ledger

import inverse
from inverse.metrics.shipped import METRICS

RESULTS = Path(__file__).parents[1] / "results"
ABOUT = """# Trends

Made by `{command}`, after `bench/conjugate.py` and `bench/memory.py`.

What papers on diffusion solvers report again and again, and whether it is so here: on the central 64 pixels of the four shipped photographs
with the prior `photo-64` (PSNR in dB, means over the four), and on problems whose posterior is known. A small prior trained on few
photographs, one image size and four images: a trend that does not show here may show elsewhere. There is no pretrained feature
network here, so that no FID or LPIPS is measured and what a trend says of them stays open.

| | trend | measured here | verdict |
|---|---|---|---|
"""


class Photographs:
    """Methods on the shipped photographs."""

    def __init__(self, ledger: Ledger):
        self.ledger, self.prior = ledger, inverse.load_prior("photo-64")
        photographs = inverse.get_problem("deblur").truths()
        self.truths = torch.stack([x[:, 96:160, 96:160] for x in photographs])

    def run(
        self,
        problem: str,
        settings: dict[str, Any],
        method: str,
        options: dict[str, Any] | None = None,
        samples: int = 1,
    ) -> dict[str, float]:
        """PSNR, SSIM, residual chi-square, evaluations, seconds and standard deviation over samples, intensity; means over photographs."""
        options = options or {}
        key = json.dumps([problem, settings, method, options, samples], sort_keys=True)
        return self.ledger.get(
            key,
            lambda: self._measure(
                inverse.get_problem(problem, **settings),
                inverse.get_method(method, **options),
                samples,
            ),
        )

    def dpir(self, problem: str, settings: dict[str, Any]) -> float:
        """PSNR of half-quadratic splitting with the prior as its denoiser (Zhang et al., Plug-and-Play Image Restoration with Deep Denoiser
        Prior, TPAMI 2021): 8 levels from 49 / 255 to sigma_y, lambda = 0.23."""

        def measure() -> float:
            posterior = inverse.get_problem(problem, **settings).posterior(
                self.truths, prior=self.prior
            )
            z = posterior.pseudo_inverse()
            for level in torch.logspace(
                math.log10(49 / 255), math.log10(posterior.sigma_y), 8
            ).tolist():
                s = 2 * level
                z = posterior.denoise(posterior.prox(z, s * s / 0.23), s)
            error = (self.prior.decode(z).clamp(0, 1) - self.truths).square().flatten(1).mean(1)
            return float(-10 * error.log10().mean())

        return self.ledger.get(json.dumps(["dpir", problem, settings]), measure)

    def nonlinear(self, method: str, options: dict[str, Any] | None = None) -> dict[str, float]:
        """A blur that a detector saturates: tanh(2 blur(x)), sigma_y = 0.02."""
        key = json.dumps(["saturated blur", method, options or {}], sort_keys=True)
        return self.ledger.get(
            key, lambda: self._saturated(inverse.get_method(method, **(options or {})))
        )

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

    def _measure(
        self, problem: inverse.Problem, method: inverse.Method, samples: int
    ) -> dict[str, float]:
        return self._score(
            inverse.solve(problem.posterior(self.truths, prior=self.prior), method, samples=samples)
        )

    @staticmethod
    def _score(result: inverse.Result) -> dict[str, float]:
        spread = float(result.samples.std(1).mean()) if result.samples.shape[1] > 1 else 0.0
        first = result.samples[:, 0]
        psnr = -10 * (first.clamp(0, 1) - result.truth).square().flatten(1).mean(1).log10()
        cost = {
            "nfe": result.cost.nfe,
            "vjp": result.cost.vjp,
            "seconds": result.seconds,
            "spread": spread,
        }
        return {
            "psnr": float(psnr.mean()),
            "ssim": METRICS["ssim"](result),
            "misfit": float(result.misfit.mean()),
            **cost,
        }

    def forward(self) -> float:
        """Seconds of one evaluation of the prior on the batch, no gradient."""

        def measure() -> float:
            x, sigma = (
                torch.randn(4, 3, 64, 64, generator=inverse.seeded("forward")),
                torch.tensor(1.0),
            )
            with torch.no_grad():
                self.prior(x, sigma)
                began = time.perf_counter()
                for _ in range(20):
                    self.prior(x, sigma)
            return (time.perf_counter() - began) / 20

        return self.ledger.get("forward", measure)


def averaging(ledger: Ledger, method: str) -> float:
    """Gain of the mean of 16 samples over one (dB of the mean squared error) on 100 truths of the 8x8 blur; 2.75 for an exact sampler."""

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
    """Share of 50 runs on an 8x8 field seen through magnitudes of 128 random projections that end within a fifth of its norm, up to sign."""

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
        x, x0 = (
            2 * t - 1
            for t in (
                inverse.solve(
                    posterior, inverse.get_method(method, **options), samples=10
                ).samples.flatten(2),
                truth.flatten(1)[:, None],
            )
        )
        error = torch.minimum((x - x0).norm(dim=2), (x + x0).norm(dim=2)) / x0.norm(dim=2)
        return float((error < 0.2).double().mean())

    return ledger.get(json.dumps(["phase retrieval", method, options]), measure)


def conjugate_rows() -> dict[str, list[dict[str, Any]]]:
    """Rows of results/conjugate.json, by view."""
    return json.loads((RESULTS / "conjugate.json").read_text())["results"]


# --- the trends -------------------------------------------------------------------------------------------------------

Row = tuple[str, str, str]
"""What is said, what was measured, the verdict."""


def verdict(holds: bool, otherwise: str = "does not hold") -> str:
    return "holds" if holds else otherwise


def trends(photographs: Photographs, ledger: Ledger) -> list[Row]:
    run = photographs.run
    sr = {"factor": 4, "sigma_y": 0.025}
    psnr = {
        name: run("super-resolution", sr, name, o)["psnr"]
        for name, o in (("ddrm", {}), ("dps", {}), ("daps", {"steps": 50}))
    }
    rows: list[Row] = []
    gap = psnr["ddrm"] - psnr["dps"]
    rows.append(
        (
            "DDRM in 20 evaluations beats DPS by about 2 dB on noisy super-resolution x4; DPS has the better FID",
            f"ddrm (20) {psnr['ddrm']:.2f}, dps (100, with gradients) {psnr['dps']:.2f}: {gap:+.2f} dB",
            verdict(gap > 1) + "; FID not measured",
        )
    )
    rival = max(psnr[name] for name in ("ddrm", "dps", "daps"))
    point = photographs.dpir("super-resolution", sr)
    rows.append(
        (
            "Plug-and-play without generation (DPIR) wins PSNR and loses FID by a factor of two",
            f"super-resolution x4: half-quadratic splitting (8 evaluations) {point:.2f}, "
            f"best sample of ddrm, dps and daps {rival:.2f}: {point - rival:+.2f} dB",
            verdict(point > rival) + "; FID not measured",
        )
    )
    noisy = {"kernel": "gaussian", "sigma_y": 0.1}
    dps, diffpir = run("deblur", noisy, "dps"), run("deblur", noisy, "diffpir", {"steps": 10})
    gap = diffpir["psnr"] - dps["psnr"]
    rows.append(
        (
            "On deblurring at high noise DPS is worst, DiffPIR better by 2 to 6 dB with a tenth of the evaluations",
            f"sigma_y = 0.1: diffpir (10) {diffpir['psnr']:.2f}, dps (100) {dps['psnr']:.2f}: {gap:+.2f} dB",
            verdict(gap > 1.5),
        )
    )
    gap = psnr["daps"] - psnr["dps"]
    rows.append(
        (
            "DAPS beats DPS by 4 to 5 dB on super-resolution x4, sigma_y = 0.05 on [-1, 1]",
            f"daps (50 levels of 5) {psnr['daps']:.2f}, dps (100) {psnr['dps']:.2f}: {gap:+.2f} dB; its inner draws are exact here, where the paper runs "
            "100 Langevin steps, and a sample is scored, not a mean",
            verdict(gap > 3, "weaker here" if gap > 0.5 else "does not hold"),
        )
    )
    found = {
        name: phase_retrieval(ledger, name, o)
        for name, o in (
            ("dps", {}),
            ("daps", {"steps": 50, "langevin_steps": 30}),
            ("pnp-dm", {"steps": 50}),
        )
    }
    rows.append(
        (
            "Phase retrieval: a single run of DPS mostly fails, DAPS and PnP-DM find the image in the best of four",
            "8x8 field, magnitudes of 128 random projections, share of runs within 20 % up to sign: "
            + ", ".join(f"{k} {v:.0%}" for k, v in found.items()),
            verdict(
                found["dps"] < 0.5
                and min(1 - (1 - found[k]) ** 4 for k in ("daps", "pnp-dm")) > 0.8
            ),
        )
    )
    saturated = {
        name: photographs.nonlinear(name, {"steps": 50}) for name in ("red-diff", "dps", "lgd")
    }
    box = {
        name: run("inpainting", {"mask": "box"}, name, {"steps": 50}, samples=2)["spread"]
        for name in ("red-diff", "dps", "diffpir")
    }
    best = max(saturated, key=lambda name: saturated[name]["psnr"])
    rows.append(
        (
            "RED-diff: highest PSNR of the diffusion methods on nonlinear blur, over-smooth, hardly any diversity",
            "50 steps, saturated blur: "
            + ", ".join(f"{k} {v['psnr']:.2f}" for k, v in saturated.items())
            + "; standard deviation over two seeds (intensity), box inpainting: "
            + ", ".join(f"{k} {v:.4f}" for k, v in box.items()),
            f"PSNR {verdict(best == 'red-diff')}; diversity {verdict(box['red-diff'] < 0.2 * box['dps'])}",
        )
    )
    at = {row["method"]: row for row in conjugate_rows()["blur, 8x8"]}
    low, right = (
        run("deblur", {"boundary": "circular"}, "ddnm", {"steps": 20}),
        run("deblur", {"boundary": "circular"}, "ddnm-plus", {"steps": 20}),
    )
    rows.append(
        (
            "A low residual is not quality",
            f"circular deblurring: ddnm has chi-square {low['misfit']:.3f} and {low['psnr']:.2f} dB, "
            f"ddnm-plus {right['misfit']:.3f} and {right['psnr']:.2f} dB; "
            f"where the posterior is known (blur, 8x8) ddnm fits y exactly and W2 is {at['ddnm']['W2']:.2f}, that of ignoring y {at['*prior*']['W2']:.2f}",
            verdict(low["misfit"] < right["misfit"] and low["psnr"] < right["psnr"]),
        )
    )
    lost = {}
    for name, steps in (("ddrm", 20), ("ddnm-plus", 20), ("dps", 50)):
        few, many = (
            run("inpainting", {"mask": "random", "missing": share}, name, {"steps": steps})["psnr"]
            for share in (0.95, 0.5)
        )
        lost[name] = few - many
    rows.append(
        (
            "With fewer measurements SVD methods collapse and DPS loses least",
            "random pixels, from 50 % to 5 % seen: "
            + ", ".join(f"{k} {v:+.1f} dB" for k, v in lost.items()),
            verdict(lost["dps"] == max(lost.values())),
        )
    )
    gap = low["psnr"] - right["psnr"]
    rows.append(
        (
            "PiGDM and DDNM without a noise model fail at sigma_y > 0",
            f"circular deblurring at sigma_y = 0.02: ddnm {gap:+.1f} dB against ddnm-plus; with all directions seen (blur, 8x8) W2 {at['ddnm']['W2']:.2f} "
            f"against {at['ddnm-plus']['W2']:.2f}; pigdm always has its noise term here",
            verdict(gap < -3),
        )
    )
    gains = {
        name: averaging(ledger, name)
        for name in ("mmps", "pnp-dm", "diffpir", "ddrm", "dps", "red-diff")
    }
    rows.append(
        (
            "Averaging K samples of an exact sampler gains up to 3.01 dB",
            "8x8 blur, K = 16, exact 2.75 dB: "
            + ", ".join(f"{k} {v:.2f}" for k, v in gains.items()),
            verdict(abs(gains["mmps"] - 2.75) < 0.3),
        )
    )
    covers: dict[str, list[float]] = {}
    for view in conjugate_rows().values():
        for row in view:
            if (
                "skipped" not in row
                and row["spread"] > 0.01
                and not row["method"].startswith("*")
                and "," not in row["method"]
            ):
                covers.setdefault(row["method"], []).append(row["cover 90 %"])
    means = {k: sum(v) / len(v) for k, v in covers.items()}
    under, over = (
        [k for k, v in sorted(means.items()) if test(v)]
        for test in (lambda v: v < 0.88, lambda v: v > 0.92)
    )
    rows.append(
        (
            "All methods but SMC and plug-and-play MCMC under-cover",
            f"mean coverage of central 90 % intervals over six conjugate problems: {len(under)} of {len(means)} below 88 % ({', '.join(under)}), "
            f"{len(over)} above 92 % ({', '.join(over)})",
            "most do, not all",
        )
    )
    memory = json.loads((RESULTS / "tables" / "memory.json").read_text())
    plain, gradient = (
        run("super-resolution", sr, "diffpir", {"steps": 20}),
        run("super-resolution", sr, "dps"),
    )
    per = {
        name: row["seconds"] / row["nfe"] / photographs.forward()
        for name, row in (("diffpir", plain), ("dps", gradient))
    }
    rows.append(
        (
            "A step without the network's gradient costs one evaluation, with it 2.5 times the time and 3.2 times the memory",
            f"seconds per step over seconds per evaluation: diffpir {per['diffpir']:.2f}, dps {per['dps']:.2f}; "
            f"peak memory of dps over red-diff at 2048 pixels: {memory_ratio(memory):.1f}",
            f"gradients cost {per['dps'] / per['diffpir']:.1f} times the time, on a shared machine that cannot tell 1.5 from 3; memory holds",
        )
    )
    return rows


def memory_ratio(records: list[dict[str, Any]]) -> float:
    """Peak memory of dps over red-diff on the largest image, less what was there before the solve."""
    largest = [row for row in records if row["side"] == max(r["side"] for r in records)]
    need = {row["method"]: row["peak_gib"] - row["base_gib"] for row in largest}
    return need["dps"] / need["red-diff"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", help="a file of finished runs, read and added to")
    parser.add_argument("--write", help="write this path with .md added")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ledger = Ledger(arguments.records)
    lines = [
        f"| T{i} | " + " | ".join(row) + " |"
        for i, row in enumerate(trends(Photographs(ledger), ledger), 1)
    ]
    print("\n".join(lines))
    if arguments.write:
        command = "OMP_NUM_THREADS=1 python bench/trends.py " + shlex.join(sys.argv[1:])
        Path(f"{arguments.write}.md").write_text(
            ABOUT.format(command=command) + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    main()
