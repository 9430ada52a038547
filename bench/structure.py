"""Measure the accuracy of the structure networks and the gain of deblurring methods that use them.

    python bench/structure.py --data "$INVERSE_DATA" --out docs/structure

Photographs are central crops of the BSDS500 test set, on which no prior or network was trained or
fitted. Results already in OUT.json are not measured again. OUT.md is rewritten, except its section
"Reading".
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import h5py
import torch
from images import photographs
from options import add_out, new_parser
from output import in_results, markdown_table, write_json
from timing import timed
from torch import Tensor

import inverse
from inverse.arena.estimate import estimate
from inverse.engine import versions
from inverse.io.files import write_text
from inverse.io.image_sets import load_images
from inverse.io.images import grid, write_png
from inverse.measurement.kernels import disk_kernel
from inverse.measurement.operators import motion_kernel
from inverse.per_image import image_by_image
from inverse_plugins.optimal_bc.distance import loss_by
from inverse_plugins.structure.blurs import MAKERS, MARGIN, BlurCorpus, embedded
from inverse_plugins.structure.cards import StructureCard, load_structure
from inverse_plugins.structure.coarse_pictures import averaged, grey_of
from inverse_plugins.structure.pseudo_measurements import with_structure

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
"""The contestant with which each is compared, photograph by photograph."""
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
COMMAND = "python bench/structure.py --data $INVERSE_DATA --out {out} --count {count}"
ABOUT = """# Coarse structure for deblurring

This page measures `structure-prior` and `structure-icdpm`, for users who restore blurry pictures.

Written by `{command}`. The networks were trained by the commands on their cards,
`data/structure/structure-blur.json` and `data/structure/structure-icdpm.json`.

Two methods share an idea: the coarse grey levels of a sharp picture can be estimated from the
blurry picture, and unfamiliar blurs change these grey levels least (Ren et al., ICCV 2023,
https://arxiv.org/abs/2212.01789).

`structure-prior` runs another method on y and on the estimates of three small networks: the sharp
grey picture at 1/2, 1/4 and 1/8 of its size, with a standard deviation for every pixel. The
networks are not trained with the prior or the problem, and `blind=true` drops the operator.
`structure-icdpm` is the method of the paper: a diffusion network receives the blurry picture, with
the features of its own structure networks added inside the blocks of its encoder. It receives no
kernel.

```
inverse solve --problem deblur --problem-option kernel=motion --method structure-prior
inverse solve --measurement blurred.png --problem deblur --method structure-prior --set blind=true
inverse solve --measurement blurred.png --problem deblur --method structure-icdpm --samples 4
inverse train-structure --help
```

![deblurring](images/{stem}.png)

One photograph. Rows: {rows}. Columns: {columns}; truth.

## The networks alone

Each family of blurs has 64 crops of 96 pixels of BSDS500 test photographs, kernels of another seed
than in training, and noise up to 0.05. Errors are root mean squares over all crops, with
intensities in [0, 1]; y is the blurry picture, averaged like the target. The gain is that of the
pooled error, with a bootstrap interval over crops. The last column is 1 for a correct tau.

{networks}
Figures on BSDS500 validation photographs follow. Fitted beta: {beta}. CRPS of the Gaussian
posterior (intensity): {crps}. Denoising loss of the diffusion network (1 without a network):
{guided} guided, {unguided} unguided, {shuffled} guided by the structure of another crop.

## Deblurring

{count} photographs (central crops of {size} pixels, BSDS500 test), each with its own kernel,
reflected edges, sigma_y = {sigma}, one sample. *Motion*: random trajectories of 15 to 23 pixels, on
which both kinds of networks were trained, with other seeds. *Defocus*: disks of radius 1.5 to 5;
`structure-blur` was trained on some, `structure-icdpm` on none. *Measured shake*: the kernels of
Levin et al. (2009), on which no network was trained.

Brackets give the mean paired difference and its 95 % bootstrap interval over photographs. chi2 is
|y - A x|^2 / (m sigma_y^2), about 1 for a sample that explains y. s is processor seconds per
picture. Wiener and Richardson-Lucy are those of scikit-image, with the setting (in brackets after
the name) that is best on these photographs, which favours them. The other methods use their
defaults, except for their steps: {steps}. *Shuffled* receives the structure of another photograph;
it was run on *Motion* only. All methods except *blurry*, *blind* and *icdpm* know the kernel.
"""


def kernels(data: Path, case: str, count: int) -> list[Tensor]:
    """One kernel (k, k) for each photograph."""
    if case == "motion":
        return [motion_kernel(15 + 2 * (i % 5), 1000 + i) for i in range(count)]
    if case == "defocus":
        return [embedded(disk_kernel(1.5 + 0.5 * i, MARGIN)) for i in range(count)]
    with h5py.File(data / "kernels" / "Levin09.mat") as file:
        measured = [torch.from_numpy(file[ref][()].T).float() for ref in file["kernels"][:, 0]]
    return [embedded(measured[i % len(measured)]) for i in range(count)]


def posterior_of(
    truth: Tensor, kernel: Tensor, prior: inverse.Prior, index: int
) -> inverse.Posterior:
    """The posterior of y = k * x + n with reflected edges; linear solves stop at 1e-3."""
    operator = inverse.physics.Blur(filter=kernel[None, None], padding="reflect", use_fft=True)
    noise = inverse.GaussianNoise(SIGMA_Y)
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
    """Reconstructions by scikit-image for each setting, on a picture padded by reflection."""
    from skimage.restoration import richardson_lucy, wiener

    wide = torch.nn.functional.pad(y, [24] * 4, mode="reflect")[0].double().clamp(0, 1).numpy()
    psf = kernel.double().numpy()
    reconstructions = {}
    for setting in BALANCES if name == "wiener" else ITERATIONS:
        deconvolve: Callable = wiener if name == "wiener" else richardson_lucy
        x = torch.stack([torch.from_numpy(deconvolve(c, psf, setting).copy()) for c in wide])
        reconstructions[f"{setting:g}"] = x[:, 24:-24, 24:-24].float()
    return reconstructions


class Shuffled(inverse.Method):
    """diffpir with the structure of another photograph, whose measurement is `other`."""

    name = "shuffled"

    def __init__(self, other: Tensor):
        object.__setattr__(self, "other", other)

    def run(self, posterior, samples, generator):
        method = inverse.get_method("structure-prior", base="diffpir", steps=25)
        estimates = load_structure(method.net)(self.other)
        yield from image_by_image(
            posterior,
            samples,
            generator,
            lambda image, n, g: method.solver.run(
                with_structure(image, estimates, method.tempering()), n, g
            ),
        )


def reconstruct(
    name: str, posterior: inverse.Posterior, kernel: Tensor, other: Tensor
) -> tuple[dict[str, Tensor], float]:
    """Pictures (3, H, W) of a contestant by setting, and processor seconds."""

    def run() -> dict[str, Tensor]:
        if name == "blurry":
            return {"": posterior.y[0]}
        if name in ("wiener", "richardson-lucy"):
            return classical(name, posterior.y, kernel)
        base, options = METHODS.get(name.removesuffix(", mean of 4"), ("", {}))
        shuffled = name == "diffpir + shuffled"
        method = Shuffled(other) if shuffled else inverse.get_method(base, **options)
        samples = 4 if name.endswith("mean of 4") else 1
        return {"": inverse.solve(posterior, method, samples=samples, seed=0).mean[0]}

    return timed(run)


def scores(x: Tensor, truth: Tensor) -> dict[str, float]:
    return {metric: -loss_by(metric)(x.clamp(0, 1), truth) for metric in METRICS}


def measure_networks(data: Path, count: int = 64, size: int = 96) -> dict[str, dict[str, dict]]:
    """Errors of the networks and of y, and the gain with its interval, by blur and scale."""
    network, rows = load_structure("structure-blur"), {}
    sources = [load_images(data / "bsds500" / "test", size + 30, 3)]
    for family in MAKERS:
        sharp, y = BlurCorpus((family,), kernels=count, seed=7).batch(
            sources, size, count, inverse.seeded("structure benchmark", family)
        )
        with torch.no_grad():
            structures = network(y)
        for scale, structure in structures.items():
            truth, coarse_y = averaged(grey_of(sharp), scale), averaged(grey_of(y), scale)
            error, blurry = (
                (truth - image).square().mean((1, 2, 3)) for image in (structure.mean, coarse_y)
            )
            standardised = (truth - structure.mean) / structure.log_tau.exp()
            rows.setdefault(family, {})[str(scale)] = {
                "rmse": float(error.mean().sqrt()),
                "blurry": float(blurry.mean().sqrt()),
                "chi": float(standardised.square().mean().sqrt()),
                "gain": pooled_gain(error, blurry),
            }
    return rows


def pooled_gain(error: Tensor, blurry: Tensor) -> dict[str, float]:
    """Gain (dB) of the pooled squared error (count,), with a 95 % bootstrap interval."""
    count = len(error)
    chosen = torch.randint(count, (4000, count), generator=inverse.seeded("bootstrap"))
    gains = 10 * (blurry[chosen].sum(1) / error[chosen].sum(1)).log10()
    low, high = gains.quantile(torch.tensor([0.025, 0.975])).tolist()
    mean = 10 * math.log10(float(blurry.sum() / error.sum()))
    return {"mean": mean, "low": low, "high": high}


def measure(arguments: argparse.Namespace, record: dict, save: Callable[[], None]) -> None:
    """Measure the cells that the record lacks."""
    prior = inverse.load_prior("photo-64")
    done = {(cell["case"], cell["photograph"], cell["name"]) for cell in record["cells"]}
    truths = photographs(arguments.data / "bsds500" / "test", arguments.count, arguments.size)
    for index, case in itertools.product(range(len(truths)), arguments.cases):
        bank, next_index = kernels(arguments.data, case, len(truths)), (index + 1) % len(truths)
        posterior = posterior_of(truths[index], bank[index], prior, index)
        other = posterior_of(truths[next_index], bank[next_index], prior, next_index).y
        for name in arguments.names:
            if (case, index, name) in done or (name == "diffpir + shuffled" and case != "motion"):
                continue
            pictures, seconds = reconstruct(name, posterior, bank[index], other)
            for setting, x in pictures.items():
                chi2 = posterior.noise.chi_square(posterior.y, posterior.operator.A(x[None]))
                cell = {"case": case, "photograph": index, "name": name, "setting": setting}
                cell |= {"chi2": float(chi2), "seconds": seconds, **scores(x, truths[index])}
                record["cells"].append(cell)
                if index == arguments.shown:
                    write_png(arguments.pictures / f"{case}-{name}{setting}.png", x.clamp(0, 1))
            save()
            score = record["cells"][-1]["psnr"]
            print(f"{case:10s} {index} {name:24s} {score:.2f} dB  {seconds:.1f} s", flush=True)


def mean(cells: list[dict], key: str) -> float:
    return sum(cell[key] for cell in cells) / len(cells)


def best_setting(cells: list[dict], name: str) -> list[dict]:
    """Cells of a contestant with the setting of best mean PSNR."""
    by_setting: dict[str, list[dict]] = {}
    for cell in cells:
        if cell["name"] == name:
            by_setting.setdefault(cell["setting"], []).append(cell)
    return max(by_setting.values(), key=lambda chosen: mean(chosen, "psnr"), default=[])


def case_table(cells: list[dict]) -> str:
    heads = ["", "PSNR (dB)", "SSIM", "HaarPSI", "chi2", "s", "against", "PSNR", "SSIM", "HaarPSI"]
    chosen = {name: best_setting(cells, name) for name in (*BLIND, *KNOWN)}
    rows = []
    for name, own in chosen.items():
        if own:
            base = chosen.get(PAIRS.get(name, ""), [])
            setting = f" ({own[0]['setting']})" if own[0]["setting"] else ""
            rows.append(
                [
                    name + setting,
                    f"{mean(own, 'psnr'):.2f}",
                    f"{mean(own, 'ssim'):.3f}",
                    f"{mean(own, 'haarpsi'):.3f}",
                    f"{mean(own, 'chi2'):.2f}",
                    f"{mean(own, 'seconds'):.1f}",
                    PAIRS.get(name, ""),
                    *(difference(own, base, metric) for metric in METRICS),
                ]
            )
    return markdown_table(heads, rows) + "\n"


def difference(cells: list[dict], base: list[dict], metric: str) -> str:
    """Mean difference from the base, paired over photographs, with its interval."""
    if not base:
        return ""
    values = {cell["photograph"]: cell[metric] for cell in base}
    pairs = [(c[metric], values[c["photograph"]]) for c in cells if c["photograph"] in values]
    return interval(asdict(estimate([a - b for a, b in pairs])), 2 if metric == "psnr" else 3)


def interval(mean: dict[str, float], digits: int) -> str:
    return f"{mean['mean']:+.{digits}f} [{mean['low']:+.{digits}f}, {mean['high']:+.{digits}f}]"


def network_table(rows: dict[str, dict[str, dict]]) -> str:
    lines = [
        [
            family,
            f"1/{scale}",
            f"{row['blurry']:.4f}",
            f"{row['rmse']:.4f}",
            interval(row["gain"], 2),
            f"{row['chi']:.2f}",
        ]
        for family, scales in rows.items()
        for scale, row in scales.items()
    ]
    heads = ["blur", "scale", "error of y", "of the network", "gain (dB)", "error / tau"]
    return markdown_table(heads, lines) + "\n"


def figure(arguments: argparse.Namespace, record: dict) -> Tensor:
    """One photograph: a row for each blur, a column for each of SHOWN and the truth."""
    folder, pictures = arguments.data / "bsds500" / "test", []
    truth = photographs(folder, arguments.count, arguments.size)[arguments.shown]
    for case in CASES:
        cells = [c for c in record["cells"] if c["case"] == case]
        for name in SHOWN:
            setting = best_setting(cells, name)[0]["setting"]
            file = arguments.pictures / f"{case}-{name}{setting}.png"
            pictures.append(inverse.read_image(file).pixels)
        pictures.append(truth)
    enlarged = torch.stack(pictures).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return grid(enlarged, columns=len(SHOWN) + 1, gap=4)


def listed(table: dict[str, dict[str, float]]) -> str:
    """A nested table as text: "mode: name value, ...; mode: ..."."""
    return "; ".join(
        f"{mode}: " + ", ".join(f"{name} {value:g}" for name, value in row.items())
        for mode, row in table.items()
    )


def page(arguments: argparse.Namespace, record: dict) -> str:
    """The page, with its section "Reading" kept."""
    file = arguments.out.with_suffix(".md")
    reading = READING + file.read_text().partition(READING)[2] if file.exists() else READING
    tables = []
    for case, title in CASES.items():
        cells = [c for c in record["cells"] if c["case"] == case]
        tables.append(f"### {title}\n\n{case_table(cells)}")
    blur, diffusion = (StructureCard.read(name) for name in ("structure-blur", "structure-icdpm"))
    count = len({c["photograph"] for c in record["cells"]})
    about = ABOUT.format(
        command=COMMAND.format(out=arguments.out, count=count),
        count=count,
        size=arguments.size,
        sigma=SIGMA_Y,
        rows=", ".join(CASES.values()),
        columns="; ".join(SHOWN),
        stem=arguments.out.stem,
        networks=network_table(record["networks"]),
        beta=listed(blur.beta),
        crps=listed(blur.crps),
        steps=", ".join(f"{name} {options['steps']}" for name, (_, options) in METHODS.items()),
        **{name: f"{loss:.3f}" for name, loss in diffusion.denoising.items()},
    )
    return f"{about}\n" + "\n".join(tables) + f"\n{reading}"


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of bsds500/test and kernels/Levin09.mat"
    )
    parser.add_argument("--count", type=int, default=6, help="number of photographs")
    parser.add_argument("--size", type=int, default=96, help="side of the central crop (pixels)")
    parser.add_argument(
        "--cases", nargs="*", default=list(CASES), choices=list(CASES), help="kinds of blur"
    )
    parser.add_argument(
        "--names", nargs="*", default=[*BLIND, *KNOWN], help="contestants to measure"
    )
    parser.add_argument(
        "--shown", type=int, default=0, help="index of the photograph in the figure"
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        default=Path("out/structure"),
        help="folder of the pictures for the figure",
    )
    add_out(parser, required=True)
    arguments = parser.parse_args()
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    file = in_results(arguments.out.with_suffix(".json"))
    record = (
        json.loads(file.read_text()) if file.exists() else {"cells": [], "versions": versions()}
    )

    def save() -> None:
        write_json(file, record)

    if "networks" not in record:
        record["networks"] = measure_networks(arguments.data)
        save()
    print(network_table(record["networks"]))
    measure(arguments, record, save)
    for case in CASES:
        print(case, case_table([c for c in record["cells"] if c["case"] == case]), sep="\n")
    measured = {(cell["case"], cell["name"]) for cell in record["cells"]}
    if measured >= set(itertools.product(CASES, SHOWN)):
        write_text(arguments.out.with_suffix(".md"), page(arguments, record))
        write_png(
            arguments.out.parent / "images" / f"{arguments.out.stem}.png", figure(arguments, record)
        )


if __name__ == "__main__":
    main()
