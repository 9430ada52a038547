"""Our methods beside those of deepinv and azula: the same network weights, the same operator, the same number of prior evaluations.

    python bench/side_by_side.py --batches 1 --repeats 5 --out docs/tables/side-by-side        # then 4 and 16; what the record has is kept

The problem is `deblur` with periodic edges, whose operator is deepinv's own `BlurFFT`. deepinv and azula run as their documentation has it: the
network as it is loaded, contiguous, in float32, with weights that ask for gradients. Ours run through the engine, in float32 and in bf16 (--dtype bf16). So
that overhead can be told from the network, theirs run a second time with the network as the engine has it (channels last, frozen weights, float32).
Runs are interleaved; seconds are medians of the processor's time of this process, ratios medians over the repeats. Memory is the
most that tensors made in a run held at once, over two steps, weights not counted. PSNR is the mean over the batch; each package's options are its own defaults.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import inverse
from inverse.arena.bank import square
from inverse.deepinv_reconstructors import deepinv
from inverse.io.files import write_text
from inverse.priors.evaluation.memory import peak_bytes

Run = Callable[[inverse.Posterior, int], Tensor]


def ours(name: str, **options: object) -> Run:
    def run(posterior: inverse.Posterior, steps: int) -> Tensor:
        return inverse.solve(posterior, inverse.get_method(name, steps=steps, **options)).samples[
            :, 0
        ]

    return run


class Denoiser(torch.nn.Module):
    """The network under deepinv's convention: images and noise levels in [0, 1] units, which are half of ours."""

    def __init__(self, prior: inverse.Prior):
        super().__init__()
        self.prior = prior

    def forward(self, u: Tensor, sigma: Tensor | float, **_: object) -> Tensor:
        level = (2 * torch.as_tensor(sigma).float().flatten()).clamp(
            self.prior.sigma_min, self.prior.sigma_max
        )
        return (self.prior(2 * u.float() - 1, level.expand(len(u))) + 1) / 2


def deepinv_ddrm(posterior: inverse.Posterior, steps: int) -> Tensor:
    sigmas = torch.linspace(1, 0, steps, dtype=torch.float64).tolist()
    with torch.no_grad():
        return deepinv("sampling").DDRM(Denoiser(posterior.prior), sigmas=sigmas)(
            posterior.y, theirs(posterior)
        )


def deepinv_diffpir(posterior: inverse.Posterior, steps: int) -> Tensor:
    model = deepinv("sampling").DiffPIR(
        Denoiser(posterior.prior),
        deepinv("optim.data_fidelity").L2(),
        sigma=posterior.sigma_y,
        max_iter=steps,
    )
    with torch.no_grad():
        return model(posterior.y, theirs(posterior))


def deepinv_dps(posterior: inverse.Posterior, steps: int) -> Tensor:
    sampling = deepinv("sampling")
    model = sampling.DPS(
        Denoiser(posterior.prior),
        solver=sampling.DDPMSolver(torch.linspace(1, 0, steps + 1, dtype=torch.float64)),
    )
    return model(posterior.y, theirs(posterior)).float()


def theirs(posterior: inverse.Posterior) -> object:
    """The same operator with the noise level where deepinv looks for it."""
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
    """Sampled from noise in model units."""
    prior = posterior.prior
    sampler = build(azula_denoiser(prior), lambda x: posterior.operator.A(prior.decode(x)))
    return prior.decode(sampler(sampler.init((len(posterior), *posterior.shape))))  # type: ignore[attr-defined]


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


SIDES = ("ours", "ours in bf16", "theirs", "theirs, our layout")


def as_loaded(prior: inverse.Prior) -> inverse.Prior:
    """The network as `load_state_dict` leaves it."""
    return copy.deepcopy(prior).to(memory_format=torch.contiguous_format).requires_grad_()  # type: ignore[call-overload]


def compare(
    pair: tuple[Run, Run],
    problem: inverse.Problem,
    truths: Tensor,
    prior: inverse.Prior,
    steps: int,
    repeats: int,
) -> dict[str, dict[str, Any]]:
    """Seconds of each repeat, MiB and PSNR of each side."""
    execution = inverse.Execution(autocast="bf16")
    here, half, loaded = (
        problem.posterior(truths, prior=p, execution=e)
        for p, e in ((prior, None), (prior, execution), (as_loaded(prior), None))
    )
    runs = dict(
        zip(
            SIDES,
            ((pair[0], here), (pair[0], half), (pair[1], loaded), (pair[1], here)),
            strict=True,
        )
    )
    found: dict[str, dict[str, Any]] = {}
    for side, (run, posterior) in runs.items():
        run(posterior, 2)
        found[side] = {
            "mib": peak_bytes(lambda run=run, posterior=posterior: run(posterior, 2)) / 2**20,
            "seconds": [],
        }  # type: ignore[misc]
    for _ in range(repeats):
        for side, (run, posterior) in runs.items():
            start = time.process_time()
            answer = run(posterior, steps)
            found[side]["seconds"].append(time.process_time() - start)
            found[side]["psnr"] = psnr(answer, truths)
    return found


def ratio(row: dict[str, Any], other: str, one: str) -> float:
    """Of their seconds, median over the repeats."""
    return statistics.median(
        a / b for a, b in zip(row[other]["seconds"], row[one]["seconds"], strict=True)
    )


def table(rows: list[dict[str, Any]]) -> list[str]:
    heads = [
        "method, against",
        "batch",
        "evaluations a step, ours / theirs",
        "seconds: ours",
        "bf16",
        "theirs",
        "theirs / ours",
        "theirs / bf16",
    ]
    heads += [
        "overhead alone: theirs / ours",
        "MiB: ours",
        "bf16",
        "theirs",
        "PSNR: ours",
        "bf16",
        "theirs",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        shown = [row[side] for side in SIDES[:3]]
        cells = [
            row["pair"],
            str(row["batch"]),
            f"{row['evaluations'][0]:g} / {row['evaluations'][1]:g}",
        ]
        cells += [f"{statistics.median(side['seconds']):.2f}" for side in shown]
        cells += [
            f"{ratio(row, *sides):.2f}"
            for sides in (
                ("theirs", "ours"),
                ("theirs", "ours in bf16"),
                ("theirs, our layout", "ours"),
            )
        ]
        cells += [f"{side['mib']:.0f}" for side in shown] + [
            f"{side['psnr']:.2f}" for side in shown
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS))
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    problem, prior = (
        inverse.get_problem("deblur", boundary="circular"),
        inverse.load_prior("photo-64"),
    )
    truths = torch.stack(
        [
            tile
            for i in range(16)
            for truth in problem.truths()
            if (tile := square(truth, arguments.size, i)) is not None
        ]
    )
    about = {
        "size": arguments.size,
        "steps": arguments.steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "clock": "cpu",
    }
    record = arguments.out.with_suffix(".json") if arguments.out else None
    kept = json.loads(record.read_text()) if record and record.exists() else {}
    rows = kept["rows"] if kept.get("about") == about else []
    small = problem.posterior(truths[:1, :, :16, :16], prior=prior)
    for batch in arguments.batches:
        for name in arguments.pairs:
            if any((row["pair"], row["batch"]) == (name, batch) for row in rows):
                continue
            counts = [evaluations(run, small) for run in PAIRS[name]]
            compared = compare(
                PAIRS[name], problem, truths[:batch], prior, arguments.steps, arguments.repeats
            )
            rows.append({"pair": name, "batch": batch, "evaluations": counts, **compared})
            print(table(rows[-1:])[-1], flush=True)
            if record:
                write_text(record, json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    rows.sort(key=lambda row: (row["batch"], list(PAIRS).index(row["pair"])))
    print("\n".join(table(rows)))
    if arguments.out:
        write_text(arguments.out.with_suffix(".md"), "\n".join(table(rows)) + "\n")


if __name__ == "__main__":
    main()
