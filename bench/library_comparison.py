"""Compare methods with those of deepinv and azula: same weights, operator and evaluations.

    python bench/library_comparison.py --batches 1 --repeats 5 --out results/tables/side-by-side

The problem is `deblur` with periodic edges, whose operator is deepinv's `BlurFFT`. deepinv and
azula run as their documentation describes: the network as loaded, contiguous, in float32, with
weights that require gradients. Our methods run through the engine, in float32 and in bf16
(--dtype bf16). To separate overhead from the network, deepinv and azula run a second time with
the network as the engine prepares it (channels last, frozen weights, float32). Each package uses
its own defaults. Runs are interleaved. Times are medians of processor time, ratios medians over
the repeats. Memory is the peak size of tensors allocated in a run of two steps, without weights.
PSNR is the mean over the batch. Rows already in OUT.json are not measured again.
"""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from images import psnr
from options import add_out, new_parser
from output import markdown_table, write_json
from timing import timed
from torch import Tensor

import inverse
from inverse.arena.bank import square
from inverse.deepinv_reconstructors import deepinv
from inverse.io.files import write_text
from inverse.priors.evaluation.memory import peak_bytes

Run = Callable[[inverse.Posterior, int], Tensor]


def ours(name: str, **options: object) -> Run:
    def run(posterior: inverse.Posterior, steps: int) -> Tensor:
        method = inverse.get_method(name, steps=steps, **options)
        return inverse.solve(posterior, method).samples[:, 0]

    return run


class Denoiser(torch.nn.Module):
    """The network under deepinv's convention: images and noise levels in units of [0, 1].

    Model units are twice as large.
    """

    def __init__(self, prior: inverse.Prior):
        super().__init__()
        self.prior = prior

    def forward(self, u: Tensor, sigma: Tensor | float, **_: object) -> Tensor:
        level = 2 * torch.as_tensor(sigma).float().flatten()
        level = level.clamp(self.prior.sigma_min, self.prior.sigma_max)
        return (self.prior(2 * u.float() - 1, level.expand(len(u))) + 1) / 2


def deepinv_ddrm(posterior: inverse.Posterior, steps: int) -> Tensor:
    sigmas = torch.linspace(1, 0, steps, dtype=torch.float64).tolist()
    model = deepinv("sampling").DDRM(Denoiser(posterior.prior), sigmas=sigmas)
    with torch.no_grad():
        return model(posterior.y, deepinv_physics(posterior))


def deepinv_diffpir(posterior: inverse.Posterior, steps: int) -> Tensor:
    model = deepinv("sampling").DiffPIR(
        Denoiser(posterior.prior),
        deepinv("optim.data_fidelity").L2(),
        sigma=posterior.sigma_y,
        max_iter=steps,
    )
    with torch.no_grad():
        return model(posterior.y, deepinv_physics(posterior))


def deepinv_dps(posterior: inverse.Posterior, steps: int) -> Tensor:
    sampling = deepinv("sampling")
    model = sampling.DPS(
        Denoiser(posterior.prior),
        solver=sampling.DDPMSolver(torch.linspace(1, 0, steps + 1, dtype=torch.float64)),
    )
    return model(posterior.y, deepinv_physics(posterior)).float()


def deepinv_physics(posterior: inverse.Posterior) -> object:
    """The posterior's operator, with the noise level where deepinv expects it."""
    physics = deepinv("physics").BlurFFT(
        img_size=posterior.shape, filter=posterior.operator.filter[:, :1]
    )
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


def azula(
    posterior: inverse.Posterior,
    steps: int,
    build: Callable[[object, Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]],
) -> Tensor:
    """Samples of the azula sampler that `build` returns for a denoiser and an operator."""
    prior = posterior.prior
    sampler = build(azula_denoiser(prior), lambda x: posterior.operator.A(prior.decode(x)))
    return prior.decode(sampler(sampler.init((len(posterior), *posterior.shape))))


def azula_dps(posterior: inverse.Posterior, steps: int) -> Tensor:
    from azula.guidance.dps import DPSSampler

    return azula(
        posterior,
        steps,
        lambda denoiser, A: DPSSampler(denoiser, posterior.y, A, steps=steps, silent=True),
    )


def azula_mmps(posterior: inverse.Posterior, steps: int) -> Tensor:
    from azula.guidance.mmps import MMPSDenoiser
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDIMSampler

    noise = IsotropicCovariance(torch.tensor(posterior.sigma_y**2))
    return azula(
        posterior,
        steps,
        lambda denoiser, A: DDIMSampler(
            MMPSDenoiser(denoiser, posterior.y, A, noise), steps=steps, silent=True
        ),
    )


PAIRS: dict[str, tuple[Run, Run]] = {
    "DDRM, deepinv": (ours("ddrm"), deepinv_ddrm),
    "DiffPIR, deepinv": (ours("diffpir"), deepinv_diffpir),
    "DPS, deepinv": (ours("dps"), deepinv_dps),
    "DPS, azula": (ours("dps"), azula_dps),
    "MMPS, azula": (ours("mmps", iterations=1, sampler="ddim"), azula_mmps),
}
"""Our implementation and theirs, by method and package."""


def evaluations_per_step(run: Run, posterior: inverse.Posterior) -> float:
    """Prior evaluations per step and image, counted over ten steps."""
    rows: list[int] = []
    hook = posterior.prior.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    run(posterior, 10)
    hook.remove()
    return sum(rows) / 10 / len(posterior)


SIDES = ("ours", "ours in bf16", "theirs", "theirs, our layout")


def as_loaded(prior: inverse.Prior) -> inverse.Prior:
    """The network as `load_state_dict` leaves it: contiguous, with gradients required."""
    return copy.deepcopy(prior).to(memory_format=torch.contiguous_format).requires_grad_()


def compare(
    pair: tuple[Run, Run],
    problem: inverse.Problem,
    truths: Tensor,
    prior: inverse.Prior,
    steps: int,
    repeats: int,
) -> dict[str, dict[str, Any]]:
    """Seconds of each repeat, peak memory (MiB) and PSNR (dB) of each of SIDES."""
    ours, theirs = pair
    execution = inverse.Execution(autocast="bf16")
    float32 = problem.posterior(truths, prior=prior)
    bf16 = problem.posterior(truths, prior=prior, execution=execution)
    loaded = problem.posterior(truths, prior=as_loaded(prior))
    runs = [(ours, float32), (ours, bf16), (theirs, loaded), (theirs, float32)]
    figures: dict[str, dict[str, Any]] = {}
    for side, (run, posterior) in zip(SIDES, runs, strict=True):
        run(posterior, 2)
        peak = peak_bytes(partial(run, posterior, 2))
        figures[side] = {"mib": peak / 2**20, "seconds": []}
    for _ in range(repeats):
        for side, (run, posterior) in zip(SIDES, runs, strict=True):
            estimate, seconds = timed(partial(run, posterior, steps))
            figures[side]["seconds"].append(seconds)
            figures[side]["psnr"] = float(psnr(estimate.clamp(0, 1), truths).mean())
    return figures


def ratio(row: dict[str, Any], numerator: str, denominator: str) -> float:
    """Ratio of the seconds of two sides, median over the repeats."""
    pairs = zip(row[numerator]["seconds"], row[denominator]["seconds"], strict=True)
    return statistics.median(a / b for a, b in pairs)


def table(rows: list[dict[str, Any]]) -> str:
    heads = ["method, against", "batch", "evaluations a step, ours / theirs"]
    heads += ["seconds: ours", "bf16", "theirs", "theirs / ours", "theirs / bf16"]
    heads += ["overhead alone: theirs / ours", "MiB: ours", "bf16", "theirs"]
    heads += ["PSNR: ours", "bf16", "theirs"]
    return markdown_table(heads, map(table_row, rows))


def table_row(row: dict[str, Any]) -> list[str]:
    sides = [row[side] for side in SIDES[:3]]
    ours, theirs = row["evaluations"]
    return [
        row["pair"],
        str(row["batch"]),
        f"{ours:g} / {theirs:g}",
        *(f"{statistics.median(side['seconds']):.2f}" for side in sides),
        f"{ratio(row, 'theirs', 'ours'):.2f}",
        f"{ratio(row, 'theirs', 'ours in bf16'):.2f}",
        f"{ratio(row, 'theirs, our layout', 'ours'):.2f}",
        *(f"{side['mib']:.0f}" for side in sides),
        *(f"{side['psnr']:.2f}" for side in sides),
    ]


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--size", type=int, default=64, help="side of the image squares (pixels)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS))
    add_out(parser)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    problem = inverse.get_problem("deblur", boundary="circular")
    prior, photographs = inverse.load_prior("photo-64"), problem.truths()
    squares = [square(truth, arguments.size, i) for i in range(16) for truth in photographs]
    truths = torch.stack([image for image in squares if image is not None])
    about = {
        "size": arguments.size,
        "steps": arguments.steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "clock": "cpu",
    }
    record = arguments.out.with_suffix(".json") if arguments.out else None
    earlier = json.loads(record.read_text()) if record and record.exists() else {}
    rows = earlier["rows"] if earlier.get("about") == about else []
    small = problem.posterior(truths[:1, :, :16, :16], prior=prior)
    for batch in arguments.batches:
        for name in arguments.pairs:
            if any((row["pair"], row["batch"]) == (name, batch) for row in rows):
                continue
            counts = [evaluations_per_step(run, small) for run in PAIRS[name]]
            figures = compare(
                PAIRS[name], problem, truths[:batch], prior, arguments.steps, arguments.repeats
            )
            rows.append({"pair": name, "batch": batch, "evaluations": counts, **figures})
            print(" | ".join(table_row(rows[-1])), flush=True)
            if record:
                write_json(record, {"about": about, "rows": rows})
    rows.sort(key=lambda row: (row["batch"], list(PAIRS).index(row["pair"])))
    print(table(rows))
    if arguments.out:
        write_text(arguments.out.with_suffix(".md"), table(rows) + "\n")


if __name__ == "__main__":
    main()
