r"""Train a prior of digits from 40 % of their pixels, and judge it against one trained on digits.

    python bench/from_measurements.py --digits "$INVERSE_DATA/mnist_train.npz" \
        --held-out "$INVERSE_DATA/mnist_test.npz" --work out/from-measurements \
        --out results/from-measurements.json --page docs/from-measurements.md

Observed: 4000 digits, each under one of 64 random masks that hide 60 % of the pixels, noise 0.05.
The network, its steps and its seed are those of the reference, which is trained on the 4000 digits
themselves. Everything is judged on digits of the test set: denoising, inpainting with masks that
were not trained on, and the kernel distance of samples (features of photo-64, see
prior_distance.py). Cost is processor time of one thread.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import held_out
from options import new_parser
from output import insert_tables, markdown_table, write_json
from prior_distance import features, kernel_distance, standard_error
from torch import Tensor

import inverse
from inverse.checks.denoiser_identities import own_draws
from inverse.io.images import grid, write_png
from inverse.priors.loading import load_prior, save_prior
from inverse.priors.networks.unet import UNetConfig
from inverse.training.expectation import Rounds, SampleTraining, train_from_measurements
from inverse.training.loop import TrainConfig
from inverse.training.measurements import Measurements, simulate
from inverse.training.progress import train_to_end

COUNT, MASKS, MISSING, NOISE = 4000, 64, 0.6, 0.05
ROUNDS, STEPS, GAUSSIAN = 2, 1500, 8
NETWORK = UNetConfig(channels=1, widths=(24, 48), blocks=(1, 2))
CONFIG = TrainConfig(28, STEPS, 64, 1e-3, network=NETWORK, mirror=False)
LEVELS = (15, 25, 50, 100, 150)
DRAWN_BY = ("mmps", {"steps": 20, "solver": "gmres", "iterations": 2, "sampler": "ddim"})


def problem() -> inverse.Problem:
    return inverse.get_problem("inpainting", mask="random", missing=MISSING, sigma_y=NOISE)


def observed(digits: Tensor) -> Measurements:
    return simulate(problem(), digits, mask_seed=[i % MASKS for i in range(len(digits))])


def from_measurements(digits: Tensor, work: Path) -> dict[str, float]:
    """Train in rounds; the prior of each round is kept. Returns processor seconds of each round."""
    spent: dict[str, float] = {}
    began = time.process_time()

    def keep(k: int, prior: Any) -> None:
        save_prior(prior, work / f"round-{k}.safetensors")
        spent[f"round-{k}"] = time.process_time() - began - sum(spent.values())

    rounds = Rounds(inverse.get_method(DRAWN_BY[0], **DRAWN_BY[1]), ROUNDS, GAUSSIAN)
    facts = {"data": "see bench/from_measurements.py"}
    out = work / "observed.safetensors"
    train_from_measurements(
        observed(digits), out, rounds, CONFIG, {"licence": ""}, facts, after_round=keep
    )
    return spent


def from_digits(digits: Tensor, work: Path) -> float:
    """Train the reference on the digits; processor seconds."""
    began = time.process_time()
    config = TrainConfig(28, ROUNDS * STEPS, 64, 1e-3, network=NETWORK, mirror=False)
    training = SampleTraining(digits, config, work / "clean.checkpoint.safetensors", None)
    train_to_end(training)
    save_prior(training.averaged(), work / "clean.safetensors")
    return time.process_time() - began


def from_observations(digits: Tensor, work: Path) -> float:
    """Train on the observations themselves, for the steps of one round; processor seconds."""
    began = time.process_time()
    config = TrainConfig(28, STEPS, 64, 1e-3, network=NETWORK, mirror=False)
    train_from_measurements(
        observed(digits), work / "observations.safetensors", Rounds(None), config, {}, {}
    )
    return time.process_time() - began


def denoising(prior: Any, digits: Tensor) -> dict[str, float]:
    """Mean PSNR (dB) by noise level of 255."""
    x0, table = prior.encode(digits), {}
    for level in LEVELS:
        sigma = level / 255 / prior.scale
        noise = torch.randn(x0.shape, generator=inverse.seeded("noise", level)).to(x0)
        clean = prior.decode(prior(x0 + sigma * noise, torch.tensor(sigma))).clamp(0, 1)
        table[str(level)] = round(psnr(clean, digits), 2)
    return table


def inpainting(prior: Any, digits: Tensor) -> float:
    """PSNR (dB) of the mean of four samples, under masks that no training saw."""
    scores = []
    for k, members in enumerate(torch.arange(len(digits)).split(10)):
        task = inverse.get_problem(
            "inpainting", mask="random", missing=MISSING, sigma_y=NOISE, mask_seed=1000 + k
        )
        posterior = task.posterior(digits[members], prior=prior, dtype=prior.dtype_of_draws)
        method = inverse.get_method(DRAWN_BY[0], **DRAWN_BY[1])
        result = inverse.solve(posterior, method, samples=4, seed=0)
        scores.append(psnr(result.mean.clamp(0, 1).float(), digits[members]))
    return round(float(np.mean(scores)), 2)


def psnr(x: Tensor, truth: Tensor) -> float:
    return float((-10 * (x - truth).square().flatten(1).mean(1).log10()).mean())


def distance(prior: Any, reference: Tensor, network: Any, sheet: Path) -> list[float]:
    """Kernel distance of 150 samples from the reference features, and its standard error."""
    draws = [own_draws(prior, 30, 28, 24, seed=i) for i in range(5)]
    samples = prior.decode(torch.cat(draws)).clamp(0, 1).float()
    write_png(sheet, grid(samples[:32]))
    scale = reference.std(0)
    pair = reference / scale, features(network, samples) / scale
    return [round(kernel_distance(*pair), 3), round(standard_error(*pair), 3)]


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--stages", nargs="*", default=["clean", "observations"])
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    digits = torch.stack(held_out(given.digits, COUNT, 28, 1, 15))
    tests = torch.stack(held_out(given.held_out, 100, 28, 1, 100))
    costs_file = given.work / "costs.json"
    costs = json.loads(costs_file.read_text()) if costs_file.is_file() else {}
    if f"round-{ROUNDS}" not in costs:
        costs |= from_measurements(digits, given.work)
        costs_file.write_text(json.dumps(costs))
    for name, train in {"clean": from_digits, "observations": from_observations}.items():
        if name not in costs and name in given.stages:
            costs[name] = train(digits, given.work)
            costs_file.write_text(json.dumps(costs))
    network = load_prior("photo-64")
    others = torch.stack(held_out(given.held_out, 300, 28, 1, 33))
    reference, floor = features(network, others[::2]), features(network, others[1::2])
    scale = reference.std(0)
    pair = reference / scale, floor / scale
    record: dict[str, Any] = {
        "costs": {k: round(v) for k, v in costs.items()},
        "floor": [round(kernel_distance(*pair), 3), round(standard_error(*pair), 3)],
        "priors": json.loads(given.out.read_text())["priors"] if given.out.is_file() else {},
    }
    names = [*(f"round-{k}" for k in range(1, ROUNDS + 1)), "observations", "clean"]
    priors: dict[str, Any] = {
        name: load_prior(given.work / f"{name}.safetensors")
        for name in names
        if (given.work / f"{name}.safetensors").is_file()
    }
    priors["digits-28"] = load_prior("digits-28")
    for name, prior in priors.items():
        if name in record["priors"]:  # of an earlier run of this script
            continue
        prior.dtype_of_draws = torch.float32
        with torch.no_grad():
            record["priors"][name] = {"denoising": denoising(prior, tests)}
        record["priors"][name]["inpainting"] = inpainting(prior, tests[::3])
        sheet = given.work / f"samples-{name}.png"
        record["priors"][name]["distance"] = distance(prior, reference, network, sheet)
        print(name, record["priors"][name], flush=True)
        write_json(given.out, record)
    if given.page:
        insert_tables(given.page, tables(record))


ORDER = (*(f"round-{k}" for k in range(1, ROUNDS + 1)), "observations", "clean", "digits-28")
NAMES = {
    "observations": "the same network, `--form observations`, steps of one round",
    "clean": "the same network, from the digits themselves",
    "digits-28": "`digits-28`, from 60 000 digits",
}


def tables(record: dict[str, Any]) -> str:
    """The table of the page."""
    rows = []
    for name in sorted(record["priors"], key=[*ORDER].index):
        scores = record["priors"][name]
        d, error = scores["distance"]
        label = NAMES.get(name, f"network after {name.replace('-', ' ')}, from the measurements")
        rows.append(
            [
                label,
                *(f"{scores['denoising'][str(level)]:.2f}" for level in LEVELS),
                f"{scores['inpainting']:.2f}",
                f"{d:.2f} ± {error:.2f}",
                str(record["costs"].get(name, "")),
            ]
        )
    heads = ["prior", *(f"denoise {level} (dB)" for level in LEVELS)]
    heads += ["inpaint 60 % (dB)", "kernel distance of samples", "processor seconds"]
    floor = "{:.2f} ± {:.2f}".format(*record["floor"])
    return markdown_table(heads, rows) + f"\n\nHeld-out digits have a distance of {floor}."


if __name__ == "__main__":
    main()
