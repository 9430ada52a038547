"""Our methods beside those of deepinv and azula: the same network weights, the same operator, the same number of prior evaluations.

    python bench/side_by_side.py --size 64 --steps 10 --batches 1 4 16 --repeats 3 --out docs/tables/side-by-side

The problem is `deblur` with periodic edges, whose operator is deepinv's own `BlurFFT`. deepinv and azula run as their documentation has it, with
the network as their denoiser; neither counts, seeds by row, nor checks what it is given. Runs are interleaved and medians are taken of the
processor's time of this process, which does not say how busy the machine is. Memory is the most that tensors made in a run held at
once, counted over two steps. PSNR is the mean over the batch; each package's options are its own defaults.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import inverse
from inverse.arena.bank import square
from inverse.bridge import deepinv
from inverse.files import write_text
from inverse.memory import peak_bytes

Run = Callable[[inverse.Posterior, int], Tensor]


def ours(name: str, **options: object) -> Run:
    def run(posterior: inverse.Posterior, steps: int) -> Tensor:
        return inverse.solve(posterior, inverse.get_method(name, steps=steps, **options)).samples[:, 0]

    return run


class Denoiser(torch.nn.Module):
    """The network under deepinv's convention: images and noise levels in [0, 1] units, which are half of ours."""

    def __init__(self, prior: inverse.Prior):
        super().__init__()
        self.prior = prior

    def forward(self, u: Tensor, sigma: Tensor | float, **_: object) -> Tensor:
        level = (2 * torch.as_tensor(sigma).float().flatten()).clamp(self.prior.sigma_min, self.prior.sigma_max)
        return (self.prior(2 * u.float() - 1, level.expand(len(u))) + 1) / 2


def deepinv_ddrm(posterior: inverse.Posterior, steps: int) -> Tensor:
    sigmas = torch.linspace(1, 0, steps, dtype=torch.float64).tolist()
    with torch.no_grad():
        return deepinv("sampling").DDRM(Denoiser(posterior.prior), sigmas=sigmas)(posterior.y, theirs(posterior))


def deepinv_diffpir(posterior: inverse.Posterior, steps: int) -> Tensor:
    model = deepinv("sampling").DiffPIR(Denoiser(posterior.prior), deepinv("optim.data_fidelity").L2(), sigma=posterior.sigma_y, max_iter=steps)
    with torch.no_grad():
        return model(posterior.y, theirs(posterior))


def deepinv_dps(posterior: inverse.Posterior, steps: int) -> Tensor:
    sampling = deepinv("sampling")
    model = sampling.DPS(Denoiser(posterior.prior), solver=sampling.DDPMSolver(torch.linspace(1, 0, steps + 1, dtype=torch.float64)))
    return model(posterior.y, theirs(posterior)).float()


def theirs(posterior: inverse.Posterior) -> object:
    """The same operator with the noise level where deepinv looks for it."""
    physics = deepinv("physics").BlurFFT(img_size=posterior.shape, filter=posterior.operator.filter[:, :1])
    physics.noise_model = deepinv("physics").GaussianNoise(posterior.sigma_y)
    return physics


def azula_denoiser(prior: inverse.Prior) -> object:
    from azula.denoise import Denoiser as Base
    from azula.denoise import DiracPosterior
    from azula.noise import VESchedule

    class Wrapped(Base):
        schedule = VESchedule(prior.sigma_min, prior.sigma_max)

        def forward(self, x_t: Tensor, t: Tensor, **_: object) -> DiracPosterior:
            return DiracPosterior(prior(x_t, self.schedule.sigma(t).expand(len(x_t))))

    return Wrapped()


def azula(posterior: inverse.Posterior, steps: int, build: Callable[[object, Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]) -> Tensor:
    """Sampled from noise in model units."""
    prior = posterior.prior
    sampler = build(azula_denoiser(prior), lambda x: posterior.operator.A(prior.decode(x)))
    return prior.decode(sampler(sampler.init((len(posterior), *posterior.shape))))  # type: ignore[attr-defined]


def azula_dps(posterior: inverse.Posterior, steps: int) -> Tensor:
    from azula.guidance.dps import DPSSampler

    return azula(posterior, steps, lambda denoiser, A: DPSSampler(denoiser, posterior.y, A, steps=steps, silent=True))


def azula_mmps(posterior: inverse.Posterior, steps: int) -> Tensor:
    from azula.guidance.mmps import MMPSDenoiser
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDIMSampler

    noise = IsotropicCovariance(torch.tensor(posterior.sigma_y**2))
    return azula(posterior, steps, lambda denoiser, A: DDIMSampler(MMPSDenoiser(denoiser, posterior.y, A, noise), steps=steps, silent=True))


PAIRS: dict[str, tuple[Run, Run]] = {
    "DDRM, deepinv": (ours("ddrm"), deepinv_ddrm),
    "DiffPIR, deepinv": (ours("diffpir"), deepinv_diffpir),
    "DPS, deepinv": (ours("dps"), deepinv_dps),
    "DPS, azula": (ours("dps"), azula_dps),
    "MMPS, azula": (ours("mmps", iterations=1, sampler="ddim"), azula_mmps),
}
"""What is compared: the method and the other package; ours and theirs."""


def psnr(found: Tensor, truth: Tensor) -> float:
    return float(-10 * (found.clamp(0, 1) - truth).square().flatten(1).mean(1).log10().mean())


def evaluations(run: Run, posterior: inverse.Posterior) -> float:
    """Rows that the network saw in ten steps, over ten and the rows of the batch."""
    seen: list[int] = []
    hook = posterior.prior.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    run(posterior, 10)
    hook.remove()
    return sum(seen) / 10 / len(posterior)


def timed(run: Run, posterior: inverse.Posterior, steps: int) -> tuple[float, Tensor]:
    start = time.process_time()
    found = run(posterior, steps)
    return time.process_time() - start, found


def compare(pair: tuple[Run, Run], posterior: inverse.Posterior, steps: int, repeats: int) -> dict[str, float]:
    peaks = [peak_bytes(lambda run=run: run(posterior, 2)) / 2**20 for run in pair]
    times: list[list[float]] = [[], []]
    scores = [0.0, 0.0]
    assert posterior.truth is not None
    for _ in range(repeats):
        for side, run in enumerate(pair):
            seconds, found = timed(run, posterior, steps)
            times[side].append(seconds)
            scores[side] = psnr(found, posterior.truth)
    seconds = [statistics.median(t) for t in times]
    measured = {"seconds": seconds, "mib": peaks, "psnr": scores}
    return {f"{side}_{name}": values[i] for name, values in measured.items() for i, side in enumerate(("ours", "theirs"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS))
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    problem, prior = inverse.get_problem("deblur", boundary="circular"), inverse.load_prior("photo-64")
    truths = torch.stack([tile for truth in problem.truths() for i in range(16) if (tile := square(truth, arguments.size, i)) is not None])
    rows = []
    small = problem.posterior(truths[:1, :, :16, :16], prior=prior)
    counts = {name: [evaluations(run, small) for run in PAIRS[name]] for name in arguments.pairs}
    for batch in arguments.batches:
        posterior = problem.posterior(truths[:batch], prior=prior)
        for name in arguments.pairs:
            repeats = 1 if batch > 4 else arguments.repeats
            steps = {"ours_evaluations": counts[name][0], "theirs_evaluations": counts[name][1]}
            rows.append({"pair": name, "batch": batch, "repeats": repeats, **steps, **compare(PAIRS[name], posterior, arguments.steps, repeats)})
            print(rows[-1], flush=True)
    heads = ["method, against", "batch", "evaluations a step, ours", "theirs", "seconds, ours", "theirs", "theirs / ours"]
    heads += ["MiB, ours", "theirs", "PSNR, ours", "theirs"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for r in rows:
        times = f"{r['ours_seconds']:.2f} | {r['theirs_seconds']:.2f} | {r['theirs_seconds'] / r['ours_seconds']:.2f}"
        times = f"{r['ours_evaluations']:g} | {r['theirs_evaluations']:g} | {times}"
        lines.append(f"| {r['pair']} | {r['batch']} | {times} | {r['ours_mib']:.0f} | {r['theirs_mib']:.0f} | {r['ours_psnr']:.2f} | {r['theirs_psnr']:.2f} |")
    print("\n".join(lines))
    if arguments.out:
        about = {"size": arguments.size, "steps": arguments.steps, "threads": torch.get_num_threads(), "torch": torch.__version__, "clock": "cpu"}
        write_text(arguments.out.with_suffix(".json"), json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
        write_text(arguments.out.with_suffix(".md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
