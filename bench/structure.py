"""Coarse structure for deblurring: what the networks add to the blurry picture, and what that adds to a method, known kernel or none.

    python bench/structure.py --data "$INVERSE_DATA" --out docs/structure

Photographs are central crops of the BSDS500 test set, which nothing here was trained or fitted on. Run again, it measures only what is missing
from OUT.json; OUT.md is written anew but for its reading.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import torch
from output import in_results
from photo import photographs
from torch import Tensor

import inverse
from inverse.arena.estimate import estimate
from inverse.engine import versions
from inverse.io.files import write_text
from inverse.io.image_sets import load_images
from inverse.io.images import grid, write_png
from inverse.measurement.kernels import disk_kernel
from inverse.measurement.operators import motion_kernel
from inverse_plugins.optimal_bc.search import loss_by
from inverse_plugins.structure.blurs import MAKERS, MARGIN, BlurCorpus, embedded
from inverse_plugins.structure.card import StructureCard, load_structure
from inverse_plugins.structure.measurements import guided
from inverse_plugins.structure.network import averaged, grey_of
from inverse_plugins.structure.per_image import one_by_one

SIGMA_Y = 0.02
METRICS = ("psnr", "ssim", "haarpsi")
CASES = {"motion": "Motion", "defocus": "Defocus", "levin": "Measured shake"}
KNOWN = (
    "wiener",
    "richardson-lucy",
    "red-diff",
    "diffpir",
    "diffpir + structure",
    "diffpir + shuffled",
    "dpir",
    "dpir + structure",
)
BLIND = (
    "blurry",
    "structure-prior, blind",
    "icdpm, unguided",
    "icdpm, guided",
    "icdpm, unguided, mean of 4",
    "icdpm, guided, mean of 4",
)
SHOWN = (
    "blurry",
    "wiener",
    "diffpir",
    "diffpir + structure",
    "dpir",
    "structure-prior, blind",
    "icdpm, guided",
    "icdpm, guided, mean of 4",
)
PAIRS = {
    "diffpir + structure": "diffpir",
    "diffpir + shuffled": "diffpir",
    "dpir + structure": "dpir",
    "structure-prior, blind": "blurry",
    "icdpm, unguided": "blurry",
    "icdpm, guided": "icdpm, unguided",
    "icdpm, unguided, mean of 4": "blurry",
    "icdpm, guided, mean of 4": "icdpm, unguided, mean of 4",
}
"""What each is compared with, photograph by photograph."""
METHODS = {
    "red-diff": ("red-diff", {"steps": 30}),
    "diffpir": ("diffpir", {"steps": 25}),
    "diffpir + structure": ("structure-prior", {"base": "diffpir", "steps": 25}),
    "dpir": ("dpir", {"steps": 8}),
    "dpir + structure": ("structure-prior", {"base": "dpir", "steps": 8}),
    "structure-prior, blind": ("structure-prior", {"base": "diffpir", "steps": 25, "blind": True}),
    "icdpm, unguided": ("structure-icdpm", {"steps": 20, "guidance": 0.0}),
    "icdpm, guided": ("structure-icdpm", {"steps": 20}),
}
BALANCES, ITERATIONS = (0.003, 0.01, 0.03, 0.1), (3, 10, 30)
READING = "## Reading\n"
ABOUT = """# Coarse structure for deblurring

Made by `{command}`; networks trained by the commands on their cards, `data/structure/structure-blur.json` and `data/structure/structure-icdpm.json`.

Two methods share an idea: the coarse greys of a sharp picture can be guessed from the blurry one, and blurs that nobody trained on change them least
(Ren et al., ICCV 2023, https://arxiv.org/abs/2212.01789).

`structure-prior` runs another method on y and on what three small networks make of it: the sharp grey picture at 1/2, 1/4 and 1/8 of its size, with a
standard deviation for every pixel. Nothing is trained with the prior or the problem, and `blind=true` leaves the operator out.
`structure-icdpm` is the paper's: a diffusion network that is given the blurry picture, with the features of its own structure networks added
inside the blocks of its encoder. It never sees a kernel.

```
inverse solve --problem deblur --problem-option kernel=motion --method structure-prior
inverse solve --measurement blurred.png --problem deblur --method structure-prior --set blind=true
inverse solve --measurement blurred.png --problem deblur --method structure-icdpm --samples 4
inverse train-structure --help
```

![deblurring](images/{stem}.png)

One photograph; rows: {rows}; columns: {columns}, truth.

## The networks alone

64 crops of 96 pixels of BSDS500 test photographs for each family, with kernels of another seed than those of training, noise up to 0.05. Errors are root mean
squares over all crops, intensities in [0, 1]; y is the blurry picture averaged as the target is. The gain is that of the pooled error. The last
column would be 1 if tau were right. The interval is a bootstrap over crops.

{networks}
beta, fitted on BSDS500 validation photographs: {beta}. CRPS of the Gaussian posterior there, intensities: {crps}.
The diffusion network's denoising loss there (1 is what no network at all would have): {guided} guided, {unguided} unguided, {shuffled} guided by the
structure of another crop.

## Deblurring

{count} photographs (central crops of {size} pixels, BSDS500 test), each with a kernel of its own, reflected edges, sigma_y = {sigma}, one sample.
*Motion*: random trajectories of 15 to 23 pixels, which both kinds of networks were trained on, with other seeds. *Defocus*: disks of radius 1.5 to 5;
`structure-blur` was trained on some, `structure-icdpm` on none. *Measured shake*: the kernels of Levin et al. (2009), which nothing here was trained
on. Brackets: mean paired difference and its 95 % bootstrap interval over photographs. chi2 is |y - A x|^2 / (m sigma_y^2), about 1 for a sample that
explains y. s: processor seconds for one picture. Wiener and Richardson-Lucy are scikit-image's, with the setting (in brackets after the name) that is
best on these very photographs, which favours them; the others are at their defaults but for their steps: {steps}.
*Shuffled* is told the structure of another photograph, on *Motion* alone. All but *blurry*, *blind* and *icdpm* know the kernel.
"""


def kernels(data: Path, case: str, count: int) -> list[Tensor]:
    """One kernel (k, k) for each photograph."""
    if case == "motion":
        return [motion_kernel(15 + 2 * (i % 5), 1000 + i) for i in range(count)]
    if case == "defocus":
        return [embedded(disk_kernel(1.5 + 0.5 * i, MARGIN)) for i in range(count)]
    with h5py.File(data / "kernels" / "Levin09.mat") as file:
        found = [
            torch.from_numpy(file[reference][()].T).float() for reference in file["kernels"][:, 0]
        ]
    return [embedded(found[i % len(found)]) for i in range(count)]


def posterior_of(
    truth: Tensor, kernel: Tensor, prior: inverse.Prior, index: int
) -> inverse.Posterior:
    """y = k * x + n with reflected edges; linear solves stop at 1e-3, for every method."""
    operator, noise = (
        inverse.physics.Blur(filter=kernel[None, None], padding="reflect", use_fft=True),
        inverse.GaussianNoise(SIGMA_Y),
    )
    y = noise.sample(operator.A(truth[None]), inverse.seeded("structure benchmark", index))
    return inverse.Posterior(
        prior,
        operator,
        y,
        noise,
        truth=truth[None],
        execution=inverse.Execution(solver=inverse.CG(1e-3, 40)),
    )


def classical(name: str, y: Tensor, kernel: Tensor) -> dict[str, Tensor]:
    """scikit-image's answers for each setting, on a picture widened by reflection."""
    from skimage.restoration import richardson_lucy, wiener

    wide = torch.nn.functional.pad(y, [24] * 4, mode="reflect")[0].double().clamp(0, 1).numpy()
    psf = kernel.double().numpy()
    answers = {}
    for setting in BALANCES if name == "wiener" else ITERATIONS:
        deconvolve: Callable = wiener if name == "wiener" else richardson_lucy
        x = torch.stack([torch.from_numpy(deconvolve(c, psf, setting).copy()) for c in wide])
        answers[f"{setting:g}"] = x[:, 24:-24, 24:-24].float()
    return answers


class Shuffled(inverse.Method):
    """diffpir with the structure of another photograph."""

    name = "shuffled"

    def __init__(self, other: Tensor):
        object.__setattr__(self, "other", other)

    def run(self, posterior, samples, generator):
        method = inverse.get_method("structure-prior", base="diffpir", steps=25)
        estimates = load_structure(method.net)(self.other)
        yield from one_by_one(
            posterior,
            samples,
            generator,
            lambda one, n, g: method.solver.run(guided(one, estimates, method.tempering()), n, g),
        )


def answers(
    name: str, posterior: inverse.Posterior, kernel: Tensor, other: Tensor
) -> tuple[dict[str, Tensor], float]:
    """A contestant's pictures (3, H, W) by setting, and processor seconds."""
    start = time.process_time()
    if name == "blurry":
        found = {"": posterior.y[0]}
    elif name in ("wiener", "richardson-lucy"):
        found = classical(name, posterior.y, kernel)
    else:
        base, options = METHODS.get(name.removesuffix(", mean of 4"), ("", {}))
        method = (
            Shuffled(other) if name == "diffpir + shuffled" else inverse.get_method(base, **options)
        )
        found = {
            "": inverse.solve(
                posterior, method, samples=4 if name.endswith("mean of 4") else 1, seed=0
            ).mean[0]
        }
    return found, time.process_time() - start


def scores(x: Tensor, truth: Tensor) -> dict[str, float]:
    return {metric: -loss_by(metric)(x.clamp(0, 1), truth) for metric in METRICS}


def networks(data: Path, count: int = 64, size: int = 96) -> dict[str, dict[str, dict]]:
    """By family of blurs, by scale, on crops of test photographs with kernels of another seed: error of the networks and of y, gain with its interval."""
    net, sources, rows = (
        load_structure("structure-blur"),
        [load_images(data / "bsds500" / "test", size + 30, 3)],
        {},
    )
    for family in MAKERS:
        sharp, y = BlurCorpus((family,), kernels=count, seed=7).batch(
            sources, size, count, inverse.seeded("structure benchmark", family)
        )
        with torch.no_grad():
            estimates = net(y)
        for s, estimate_ in estimates.items():
            truth, before = averaged(grey_of(sharp), s), averaged(grey_of(y), s)
            error, blurry = (
                (truth - guess).square().mean((1, 2, 3)) for guess in (estimate_.mean, before)
            )
            chi = float(((truth - estimate_.mean) / estimate_.log_tau.exp()).square().mean().sqrt())
            gain = 10 * math.log10(float(blurry.sum() / error.sum()))
            again = torch.randint(count, (4000, count), generator=inverse.seeded("bootstrap"))
            low, high = (
                (10 * (blurry[again].sum(1) / error[again].sum(1)).log10())
                .quantile(torch.tensor([0.025, 0.975]))
                .tolist()
            )
            row = {
                "rmse": float(error.mean().sqrt()),
                "blurry": float(blurry.mean().sqrt()),
                "chi": chi,
                "gain": {"mean": gain, "low": low, "high": high},
            }
            rows.setdefault(family, {})[str(s)] = row
    return rows


def measure(arguments: argparse.Namespace, record: dict, save: Callable[[], None]) -> None:
    """Add what is missing to the record's cells."""
    prior, done = (
        inverse.load_prior("photo-64"),
        {(r["case"], r["photograph"], r["name"]) for r in record["cells"]},
    )
    truths = photographs(arguments.data / "bsds500" / "test", arguments.count, arguments.size)
    for index, case in itertools.product(range(len(truths)), arguments.cases):
        bank, another = kernels(arguments.data, case, len(truths)), (index + 1) % len(truths)
        posterior = posterior_of(truths[index], bank[index], prior, index)
        for name in arguments.names:
            if (case, index, name) in done or (name == "diffpir + shuffled" and case != "motion"):
                continue
            found, seconds = answers(
                name,
                posterior,
                bank[index],
                posterior_of(truths[another], bank[another], prior, another).y,
            )
            for setting, x in found.items():
                chi2 = float(
                    inverse.GaussianNoise(SIGMA_Y).chi_square(
                        posterior.y, posterior.operator.A(x[None])
                    )
                )
                record["cells"].append(
                    {
                        "case": case,
                        "photograph": index,
                        "name": name,
                        "setting": setting,
                        "chi2": chi2,
                        "seconds": seconds,
                    }
                )
                record["cells"][-1] |= scores(x, truths[index])
                if index == arguments.shown:
                    write_png(arguments.pictures / f"{case}-{name}{setting}.png", x.clamp(0, 1))
            save()
            print(
                f"{case:10s} {index} {name:24s} {record['cells'][-1]['psnr']:.2f} dB  {seconds:.1f} s",
                flush=True,
            )


def best_settings(cells: list[dict], name: str) -> list[dict]:
    """Of a contestant with settings, the cells of the one with the best mean PSNR."""
    by_setting: dict[str, list[dict]] = {}
    for cell in cells:
        if cell["name"] == name:
            by_setting.setdefault(cell["setting"], []).append(cell)
    return max(
        by_setting.values(),
        key=lambda found: sum(c["psnr"] for c in found) / len(found),
        default=[],
    )


def case_table(cells: list[dict]) -> str:
    lines = [
        "| | PSNR (dB) | SSIM | HaarPSI | chi2 | s | against | PSNR | SSIM | HaarPSI |",
        "|---" * 10 + "|",
    ]
    chosen = {name: best_settings(cells, name) for name in (*BLIND, *KNOWN)}
    for name, found in chosen.items():
        if not found:
            continue
        mean = {
            key: sum(c[key] for c in found) / len(found) for key in (*METRICS, "chi2", "seconds")
        }
        setting = f" ({found[0]['setting']})" if found[0]["setting"] else ""
        base, differences = chosen.get(PAIRS.get(name, ""), []), [""] * 3
        if base:
            values = {c["photograph"]: c for c in base}
            differences = [
                interval(
                    [c[m] - values[c["photograph"]][m] for c in found if c["photograph"] in values],
                    2 if m == "psnr" else 3,
                )
                for m in METRICS
            ]
        own = [
            f"{mean['psnr']:.2f}",
            f"{mean['ssim']:.3f}",
            f"{mean['haarpsi']:.3f}",
            f"{mean['chi2']:.2f}",
            f"{mean['seconds']:.1f}",
        ]
        lines.append(
            "| " + " | ".join([name + setting, *own, PAIRS.get(name, ""), *differences]) + " |"
        )
    return "\n".join(lines) + "\n"


def interval(values: list[float], digits: int) -> str:
    found = estimate(values)
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def network_table(rows: dict[str, dict[str, dict]]) -> str:
    lines = [
        "| blur | scale | error of y | of the network | gain (dB) | error / tau |",
        "|---" * 6 + "|",
    ]
    for family, scales in rows.items():
        for s, row in scales.items():
            gain = f"{row['gain']['mean']:+.2f} [{row['gain']['low']:+.2f}, {row['gain']['high']:+.2f}]"
            lines.append(
                f"| {family} | 1/{s} | {row['blurry']:.4f} | {row['rmse']:.4f} | {gain} | {row['chi']:.2f} |"
            )
    return "\n".join(lines) + "\n"


def sheet(arguments: argparse.Namespace, record: dict) -> Tensor:
    """One photograph: a row for each blur, a column for each of SHOWN, and the truth."""
    truth, pictures = (
        photographs(arguments.data / "bsds500" / "test", arguments.count, arguments.size)[
            arguments.shown
        ],
        [],
    )
    for case in CASES:
        cells = [c for c in record["cells"] if c["case"] == case]
        for name in SHOWN:
            found = best_settings(cells, name)
            pictures.append(
                inverse.read_image(
                    arguments.pictures / f"{case}-{name}{found[0]['setting']}.png"
                ).pixels
            )
        pictures.append(truth)
    return grid(
        torch.stack(pictures).repeat_interleave(2, 2).repeat_interleave(2, 3),
        columns=len(SHOWN) + 1,
        gap=4,
    )


def words(table: dict[str, dict[str, float]]) -> str:
    return "; ".join(
        f"{mode}: " + ", ".join(f"{name} {value:g}" for name, value in row.items())
        for mode, row in table.items()
    )


def page(arguments: argparse.Namespace, record: dict) -> str:
    """The page, its reading kept."""
    file = arguments.out.with_suffix(".md")
    reading = READING + file.read_text().partition(READING)[2] if file.exists() else READING
    tables = []
    for case, title in CASES.items():
        cells = [c for c in record["cells"] if c["case"] == case]
        tables.append(f"### {title}\n\n{case_table(cells)}")
    blur, cond = (StructureCard.read(name) for name in ("structure-blur", "structure-icdpm"))
    count = len({c["photograph"] for c in record["cells"]})
    about = ABOUT.format(
        command=f"python bench/structure.py --data $INVERSE_DATA --out {arguments.out} --count {count}",
        count=count,
        size=arguments.size,
        sigma=SIGMA_Y,
        rows=", ".join(CASES.values()),
        columns=", ".join(SHOWN),
        stem=arguments.out.stem,
        networks=network_table(record["networks"]),
        beta=words(blur.beta),
        crps=words(blur.crps),
        steps=", ".join(f"{name} {options['steps']}" for name, (_, options) in METHODS.items()),
        **{name: f"{loss:.3f}" for name, loss in cond.denoising.items()},
    )
    return f"{about}\n" + "\n".join(tables) + f"\n{reading}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with bsds500/test and kernels/Levin09.mat"
    )
    parser.add_argument("--count", type=int, default=6, help="photographs")
    parser.add_argument("--size", type=int, default=96, help="side of the central crop (pixels)")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument(
        "--names", nargs="*", default=[*BLIND, *KNOWN], help="contestants to measure"
    )
    parser.add_argument("--shown", type=int, default=0, help="photograph of the figure")
    parser.add_argument(
        "--pictures",
        type=Path,
        default=Path("out/structure"),
        help="where the figure's parts are kept",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="stem of the .md and .json to write"
    )
    arguments = parser.parse_args()
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    file = in_results(arguments.out.with_suffix(".json"))
    record = (
        json.loads(file.read_text()) if file.exists() else {"cells": [], "versions": versions()}
    )

    def save() -> None:
        write_text(file, json.dumps(record, indent=1) + "\n")

    if "networks" not in record:
        record["networks"] = networks(arguments.data)
        save()
    print(network_table(record["networks"]))
    measure(arguments, record, save)
    for case in CASES:
        print(case, case_table([c for c in record["cells"] if c["case"] == case]), sep="\n")
    if all(
        any((c["case"], c["name"]) == (case, name) for c in record["cells"])
        for case in CASES
        for name in SHOWN
    ):
        write_text(arguments.out.with_suffix(".md"), page(arguments, record))
        write_png(
            arguments.out.parent / "images" / f"{arguments.out.stem}.png", sheet(arguments, record)
        )


if __name__ == "__main__":
    main()
