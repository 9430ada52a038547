"""Digits with most of their pixels missing: a diffusion sampler alone, and steered by a circuit.

python bench/circuit.py --data ../shared/data                        print the tables
python bench/circuit.py --data ../shared/data --write docs/circuit   and write docs/circuit.md, .json and docs/images/circuit.png; the reading is kept
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import inverse
from inverse.circuit_run import read_circuit_card, shipped_circuits
from inverse.engine import versions
from inverse.images import grid, write_png

SIDE, STEPS, COMPONENTS = 14, 50, 30
STEERED = "tractable-steering"
CASES = {
    "ddnm": ("ddnm", {}),
    "steered, 10 % of the steps": (STEERED, {"fraction": 0.1}),
    "steered, 50 %": (STEERED, {"fraction": 0.5}),
    "steered, 75 %": (STEERED, {"fraction": 0.75}),
    "steered, 75 %, Tweedie": (STEERED, {"fraction": 0.75, "variance": "tweedie"}),
    "circuit alone (a = 0)": (STEERED, {"fraction": 1.0, "a0": 0.0, "a1": 0.0}),
    "diffpir": ("diffpir", {}),
    "diffpir, steered, 75 %": (STEERED, {"base": "diffpir", "fraction": 0.75}),
}
BASES = {name: "diffpir" if "diffpir" in name else "ddnm" for name in CASES}
SHOWN = ("ddnm", "steered, 10 % of the steps", "steered, 75 %", "circuit alone (a = 0)", "exact, mixture")
READING = "## Reading\n"
ABOUT = """# Circuits, and steering by them

Made by `{command}` in {minutes:.0f} minutes of a share of one core.

20 test digits (two of each class, never seen in training) of 14 x 14 pixels, seven masks, no noise, {samples} samples a digit. The
diffusion prior is a stand-in: the exact denoiser of a mixture of {components} Gaussians with full covariances, fitted to {images} training digits by EM,
so that its own exact posterior can be drawn (*exact, mixture*). The circuit is `circuit-digits` ({bits:.3f} bits a pixel on test digits,
16 levels, half-precision file of {kilobytes} kB). {steps} steps; other options by default. **RMSE** over the missing pixels, intensities in [0, 1], mean
over digits; in brackets the mean paired difference from the base and its 95 % interval (Student, 20 digits). **Class**: how many
completions the nearest of 10 000 training digits gives the true class. **Time**: processor time over the base's.
"""


def digits(path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 14, 14) in [0, 1], and labels."""
    archive = np.load(path)
    images = torch.from_numpy(archive["images"]).float()[:, None] / 255
    order = torch.randperm(len(images), generator=inverse.seeded("digits"))  # the file is sorted by class
    return torch.nn.functional.avg_pool2d(images, 2)[order], torch.from_numpy(archive["labels"].astype(np.int64))[order]


def fit_mixture(x: Tensor, components: int, iterations: int = 8, floor: float = 0.01) -> inverse.MixturePrior:
    """EM from k-means in model units; covariances (n, n) shrunk by `floor` I, which is also the noise of quantised digits that it cannot tell."""
    flat = (2 * x - 1).flatten(1)
    generator = torch.Generator().manual_seed(0)
    means = flat[torch.randperm(len(flat), generator=generator)[:components]]
    for _ in range(10):
        r = torch.nn.functional.one_hot(torch.cdist(flat, means).argmin(1), components).float()
        means = (r.T @ flat) / r.sum(0).clamp_min(1)[:, None]
    for iteration in range(iterations):
        weights = r.sum(0) / len(flat)
        means = (r.T @ flat) / r.sum(0)[:, None]
        covariances = torch.stack([((flat - m).T * r[:, k]) @ (flat - m) / r[:, k].sum() for k, m in enumerate(means)])
        covariances += floor * torch.eye(flat.shape[1])
        if iteration < iterations - 1:
            laws = [torch.distributions.MultivariateNormal(m, c) for m, c in zip(means, covariances, strict=True)]
            r = (weights.log() + torch.stack([law.log_prob(flat) for law in laws], 1)).softmax(1)
    units = {"shift": 0.5, "scale": 0.5, "sigma_min": 0.01, "sigma_max": 80.0}
    return inverse.MixturePrior(weights.double(), means.double().reshape(-1, 1, SIDE, SIDE), covariances.double(), **units)


def masks() -> dict[str, Tensor]:
    """What is seen: boolean (14, 14). Expansion sees a central square of a half (1) or a quarter (2) of the side, strips are 4 pixels wide."""
    seen = {name: torch.zeros(SIDE, SIDE, dtype=torch.bool) for name in ("left", "top", "expand 1", "expand 2", "vertical strip", "horizontal strip")}
    seen["left"][:, : SIDE // 2] = True
    seen["top"][: SIDE // 2] = True
    seen["expand 1"][3:10, 3:10] = True
    seen["expand 2"][5:9, 5:9] = True
    seen["vertical strip"][:, 5:9] = True
    seen["horizontal strip"][5:9] = True
    seen["wide"] = inverse.get_problem("inpainting", mask="free-form", missing=0.6).observed(SIDE, SIDE)
    return seen


def exact(law: inverse.MixturePrior, truth: Tensor, seen: Tensor, samples: int) -> Tensor:
    """Draws (B, samples, 1, 14, 14) of the mixture's own posterior, the known pixels seen with a deviation of 1e-3."""
    A, flat = torch.eye(SIDE * SIDE, dtype=torch.float64)[seen.flatten()], truth.flatten(1).double()
    drawn = [law.given(A, 1e-3, y[seen.flatten()]).sample(samples, inverse.seeded("exact", i)) for i, y in enumerate(flat)]
    return law.decode(torch.stack(drawn)).float()


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval, Student's with 19 degrees of freedom."""
    return statistics.mean(values), 2.093 * statistics.stdev(values) / math.sqrt(len(values))


def solve(name: str, prior: inverse.Prior, truth: Tensor, seen: Tensor, samples: int) -> tuple[Tensor, float]:
    """Samples (B, samples, 1, 14, 14), and processor seconds."""
    method, options = CASES[name]
    if method == STEERED:
        options = {"circuit": "circuit-digits", **options}
    operator = inverse.physics.Inpainting(img_size=(1, SIDE, SIDE), mask=seen.float()[None])
    posterior = inverse.Posterior(prior, operator, truth * seen, inverse.GaussianNoise(0.0, observed=seen), shape=(1, SIDE, SIDE))
    start = time.process_time()
    result = inverse.solve(posterior, inverse.get_method(method, steps=STEPS, **options), samples=samples, seed=1)
    return result.samples, time.process_time() - start


def table(rows: dict[str, dict[str, dict]]) -> str:
    """One line for each case, one column for each mask."""
    names = list(rows[next(iter(rows))])
    lines = ["| | " + " | ".join(names) + " | class | time |", "|---" * (len(names) + 3) + "|"]
    for case, cells in rows.items():
        texts = []
        for cell in cells.values():
            gain = "" if cell["difference"] is None else f" ({cell['difference'][0]:+.3f} +- {cell['difference'][1]:.3f})"
            texts.append(f"{cell['rmse']:.3f}{gain}")
        found = statistics.mean(cell["class"] for cell in cells.values())
        seconds = [cell["seconds"] for cell in cells.values()]
        base = [rows[BASES[case]][m]["seconds"] for m in names] if case in BASES else None
        ratio = "" if base is None else f"{sum(seconds) / sum(base):.2f}"
        lines.append(f"| {case} | " + " | ".join(texts) + f" | {found:.2f} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist_train.npz and mnist_test.npz")
    parser.add_argument("--images", type=int, default=20_000, help="training digits of the mixture")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--write", type=Path, default=None)
    arguments = parser.parse_args()
    start = time.monotonic()
    train, labels = digits(arguments.data / "mnist_train.npz")
    test, classes = digits(arguments.data / "mnist_test.npz")
    law = fit_mixture(train[: arguments.images], COMPONENTS)
    print(f"mixture fitted after {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    prior = fit_float(law)
    index = torch.cat([torch.where(classes == c)[0][:2] for c in range(10)])
    truth, names = test[index], classes[index].repeat_interleave(arguments.samples)
    neighbours, neighbour_labels = train[-10_000:].flatten(1), labels[-10_000:]
    rows: dict[str, dict[str, dict]] = {name: {} for name in [*arguments.cases, "exact, mixture"]}
    pictures: dict[str, list[Tensor]] = {}
    for mask, seen in masks().items():
        errors: dict[str, list[float]] = {}
        pictures[mask] = [truth[6, 0], torch.where(seen, truth[6, 0], 0.5)]
        for case in rows:
            drawn, seconds = solve(case, prior, truth, seen, arguments.samples) if case in CASES else (exact(law, truth, seen, arguments.samples), 0.0)
            drawn = torch.where(seen, truth[:, None], drawn.clamp(0, 1))
            square = (drawn - truth[:, None]).square()[..., ~seen]
            errors[case] = square.flatten(2).mean(2).sqrt().mean(1).tolist()
            nearest = torch.cdist(drawn.flatten(0, 1).flatten(1), neighbours).argmin(1)
            difference = None
            if case in BASES and case != BASES[case] and BASES[case] in errors:
                difference = interval([a - b for a, b in zip(errors[case], errors[BASES[case]], strict=True)])
            right = float((neighbour_labels[nearest] == names).float().mean())
            rows[case][mask] = {"rmse": statistics.mean(errors[case]), "difference": difference, "class": right, "seconds": seconds, "errors": errors[case]}
            if case in SHOWN:
                pictures[mask].append(drawn[6, 0, 0])
            print(f"{mask:18s} {case:28s} rmse {rows[case][mask]['rmse']:.4f}  {difference or ''}  class {right:.2f}  {seconds:.1f} s", flush=True)
    print(table(rows))
    if arguments.write:
        card = read_circuit_card(shipped_circuits()["circuit-digits"])
        size = shipped_circuits()["circuit-digits"].with_name(card.file).stat().st_size
        about = ABOUT.format(
            command=shlex.join(["python", *sys.argv]), minutes=(time.monotonic() - start) / 60, samples=arguments.samples,
            components=COMPONENTS, images=arguments.images, bits=card.bits["held out"], kilobytes=size // 1024, steps=STEPS,
        )  # fmt: skip
        page = arguments.write.with_suffix(".md")
        reading = READING + page.read_text().partition(READING)[2] if page.exists() else READING
        figure = f"![completions](images/{arguments.write.stem}.png)\n\nOne digit; rows: {', '.join(pictures)}; columns: truth, seen, {', '.join(SHOWN)}.\n"
        page.write_text(f"{about}\n{table(rows)}\n{figure}\n{reading}")
        page.with_suffix(".json").write_text(json.dumps({"rows": rows, "versions": versions()}, indent=1) + "\n")
        sheet = torch.stack([picture for line in pictures.values() for picture in line])[:, None]
        sheet = sheet.repeat_interleave(4, 2).repeat_interleave(4, 3)
        write_png(page.parent / "images" / f"{arguments.write.stem}.png", grid(sheet, columns=2 + len(SHOWN), gap=4))


def fit_float(law: inverse.MixturePrior) -> inverse.Prior:
    """The same law in single precision."""
    return law.__class__(law.weights.float(), law.means.float(), law.covariances.float(), **law.units)


if __name__ == "__main__":
    main()
