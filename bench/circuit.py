"""Inpainting with most pixels missing: a diffusion sampler alone, steered by a circuit, and twisted by one.

python bench/circuit.py --data "$INVERSE_DATA"                                              measure everything and print the tables
python bench/circuit.py --data "$INVERSE_DATA" --parts photographs --write docs/circuit     and write docs/circuit.md, its pictures and results/circuit.json

The page is written from the records of all parts, of which only those asked for are measured again; its reading, below the tables, is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from output import in_results
from torch import Tensor

import inverse
from inverse.engine import versions
from inverse.io.images import grid, write_png
from inverse.problem import shipped_images
from inverse_plugins.circuits.cards import CircuitCard
from inverse_plugins.optimal_bc.search import loss_by, photographs, sha256

STEERED, READING = "tractable-steering", "## Reading\n"
IMAGES = 20
STUDENT = 2.093  # 97.5 % of Student's law with 19 degrees of freedom


@dataclass(frozen=True)
class Part:
    """One table: a prior, images, and cases as (base case or "", method, options).

    Args:
        title, about: of the section.
        prior: by name.
        circuit: of the steered cases that name none.
        steps, samples, sigma_y: of every case.
        cases: by name.
        shown: the cases in the picture, of the image `example` of the twenty.
    """

    title: str
    about: str
    prior: str
    circuit: str
    steps: int
    samples: int
    sigma_y: float
    cases: dict[str, tuple[str, str, dict]]
    shown: tuple[str, ...]
    example: int


STEPS_75 = {"fraction": 0.75}
PARTS = {
    "digits": Part(
        "Digits, a circuit over pixels",
        "20 digits of the MNIST test set, two of each class, 28 x 28 pixels, never seen in training; they ship with `digits-28`. **Class**: how many "
        "completions the nearest of 10 000 training digits gives the true class.",
        "digits-28",
        "circuit-digits",
        30,
        1,
        0.0,
        {
            "ddnm": ("", "ddnm", {}),
            "steered, 10 % of the steps": ("ddnm", STEERED, {"fraction": 0.1}),
            "steered, 75 %": ("ddnm", STEERED, STEPS_75),
            "steered, 75 %, Tweedie": (
                "ddnm",
                STEERED,
                {**STEPS_75, "variance": "tweedie", "probes": 1},
            ),
            "circuit alone (a = 0)": ("ddnm", STEERED, {"fraction": 1.0, "a0": 0.0, "a1": 0.0}),
            "diffpir": ("", "diffpir", {}),
            "diffpir, steered, 75 %": ("diffpir", STEERED, {**STEPS_75, "base": "diffpir"}),
        },
        ("ddnm", "steered, 10 % of the steps", "steered, 75 %", "circuit alone (a = 0)", "diffpir"),
        6,
    ),
    "photographs": Part(
        "Photographs, a circuit over codes",
        "Central 64-pixel crops of the 20 photographs of the BSDS500 test set whose hashes come first, which neither the prior nor the codec nor the "
        "circuit has seen.",
        "photo-64",
        "circuit-photo-64",
        25,
        1,
        0.0,
        {
            "ddnm": ("", "ddnm", {}),
            "steered, 10 % of the steps": ("ddnm", STEERED, {"fraction": 0.1}),
            "steered, 75 %": ("ddnm", STEERED, STEPS_75),
            "steered, 75 %, joint draws": ("ddnm", STEERED, {**STEPS_75, "drawn": "joint"}),
            "diffpir": ("", "diffpir", {}),
            "diffpir, steered, 75 %": (
                "diffpir",
                STEERED,
                {**STEPS_75, "base": "diffpir", "drawn": "joint"},
            ),
        },
        (
            "ddnm",
            "steered, 10 % of the steps",
            "steered, 75 %",
            "steered, 75 %, joint draws",
            "diffpir",
        ),
        7,
    ),
    "published": Part(
        "Photographs, the published share of the published steps",
        "The same photographs, with the authors' number of steps and the share of them that is steered.",
        "photo-64",
        "circuit-photo-64",
        250,
        1,
        0.0,
        {
            "ddnm": ("", "ddnm", {}),
            "steered, 10 % of the steps": ("ddnm", STEERED, {"fraction": 0.1}),
        },
        ("ddnm", "steered, 10 % of the steps"),
        7,
    ),
    "particles": Part(
        "Digits, a circuit as the twist of a particle sampler",
        "The same digits, seen with noise of 0.05, 8 particles for each, of which a sample is drawn by weight.",
        "digits-28",
        "circuit-digits",
        20,
        1,
        0.05,
        {
            "ddnm-plus": ("", "ddnm-plus", {}),
            "steered, 75 %": ("ddnm-plus", STEERED, {**STEPS_75, "base": "ddnm-plus"}),
            "tractable-smc": ("ddnm-plus", "tractable-smc", {"particles": 8}),
            "tds": ("ddnm-plus", "tds", {"particles": 8}),
        },
        ("ddnm-plus", "steered, 75 %", "tractable-smc", "tds"),
        6,
    ),
}


def masks(side: int) -> dict[str, Tensor]:
    """What is seen: boolean (side, side). Expansion sees a central square of a half (1) or a quarter (2) of the side, strips a quarter of it."""
    half, quarter = side // 4, (3 * side) // 8
    middle, narrow = slice(half, side - half), slice(quarter, side - quarter)
    seen = {
        name: torch.zeros(side, side, dtype=torch.bool)
        for name in ("left", "top", "expand 1", "expand 2", "vertical strip", "horizontal strip")
    }
    seen["left"][:, : side // 2] = True
    seen["top"][: side // 2] = True
    seen["expand 1"][middle, middle] = True
    seen["expand 2"][narrow, narrow] = True
    seen["vertical strip"][:, narrow] = True
    seen["horizontal strip"][narrow] = True
    seen["wide"] = inverse.get_problem("inpainting", mask="free-form", missing=0.6).observed(
        side, side
    )
    return seen


def truths(part: Part, prior: inverse.Prior, data: Path) -> Tensor:
    """Twenty images (20, C, H, W) in [0, 1]."""
    if part.prior == "digits-28":
        return torch.stack([inverse.read_image(path, 1).pixels for path in shipped_images(prior)])
    crops = {sha256(crop): crop for crop in photographs(data / "bsds500" / "test", 64, 3)}
    return torch.stack([crops[key] for key in sorted(crops)[:IMAGES]])


def neighbours(data: Path) -> tuple[Tensor, Tensor]:
    """10 000 training digits (N, 784) and their classes."""
    archive = np.load(data / "mnist_train.npz")
    chosen = torch.randperm(len(archive["labels"]), generator=inverse.seeded("digits"))[
        :10_000
    ]  # the file is sorted by class
    return torch.from_numpy(archive["images"])[chosen].flatten(1).float() / 255, torch.from_numpy(
        archive["labels"].astype(np.int64)
    )[chosen]


def solve(
    part: Part, case: str, prior: inverse.Prior, truth: Tensor, seen: Tensor
) -> tuple[Tensor, float]:
    """Samples (20, samples, C, H, W), and processor seconds."""
    _, method, options = part.cases[case]
    if method in (STEERED, "tractable-smc"):
        options = {"circuit": part.circuit, **options}
    operator = inverse.physics.Inpainting(
        img_size=tuple(truth.shape[1:]), mask=seen.float().expand(truth.shape[1:]).clone()
    )
    noise = inverse.GaussianNoise(part.sigma_y, observed=seen)
    y, execution = (
        noise.sample(truth * seen, inverse.seeded("noise")) * seen,
        inverse.Execution(autocast="bf16"),
    )
    posterior = inverse.Posterior(
        prior, operator, y, noise, shape=tuple(truth.shape[1:]), execution=execution
    )
    chosen = inverse.get_method(method, steps=part.steps, **options)
    start = time.process_time()
    samples = inverse.solve(
        posterior, chosen, samples=part.samples, seed=1
    ).samples  # fewer than the particles: drawn by weight
    return samples, time.process_time() - start


def measure(part: Part, data: Path) -> tuple[dict[str, dict[str, dict]], Tensor]:
    """Records of every case and mask, and the picture."""
    prior = inverse.load_prior(part.prior)
    truth = truths(part, prior, data)
    digits = neighbours(data) if part.prior == "digits-28" else None
    rows: dict[str, dict[str, dict]] = {name: {} for name in part.cases}
    tiles: list[Tensor] = []
    haarpsi = loss_by("haarpsi")
    for name, seen in masks(truth.shape[-1]).items():
        tiles += [truth[part.example], torch.where(seen, truth[part.example], 0.5)]
        for case in part.cases:
            drawn, seconds = solve(part, case, prior, truth, seen)
            drawn = torch.where(seen, truth[:, None], drawn.clamp(0, 1))
            found = {
                "rmse": (drawn - truth[:, None])
                .square()[..., ~seen]
                .flatten(2)
                .mean(2)
                .sqrt()
                .mean(1)
                .tolist(),
                "seconds": seconds,
            }
            if digits:
                nearest = torch.cdist(drawn.flatten(0, 1).flatten(1), digits[0]).argmin(1)
                found["class"] = float(
                    (digits[1][nearest] == torch.arange(10).repeat_interleave(2 * part.samples))
                    .float()
                    .mean()
                )
            else:
                found["haarpsi"] = [
                    -statistics.mean(haarpsi(x, t) for x in xs)
                    for xs, t in zip(drawn, truth, strict=True)
                ]
            rows[case][name] = found
            if case in part.shown:
                tiles.append(drawn[part.example, 0])
            print(
                f"{name:18s} {case:28s} rmse {statistics.mean(found['rmse']):.4f}  {seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    enlarged = torch.stack(tiles).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return rows, grid(enlarged, columns=2 + len(part.shown), gap=4)


def overhead(data: Path, steps: int = 50, turns: int = 3) -> dict[str, float]:
    """Processor time of ddnm with 10 % of its steps steered over that without, one photograph of 64 x 64 pixels in float32, least of `turns` each, in turn."""
    part, prior = PARTS["photographs"], inverse.load_prior("photo-64")
    truth, seen = truths(part, prior, data)[:1], masks(64)["left"]
    operator = inverse.physics.Inpainting(
        img_size=(3, 64, 64), mask=seen.float().expand(3, 64, 64).clone()
    )
    posterior = inverse.Posterior(
        prior, operator, truth * seen, inverse.GaussianNoise(0.0, observed=seen), shape=(3, 64, 64)
    )
    circuits = ("circuit-photo-64", "circuit-photo-8")
    methods = [
        inverse.get_method("ddnm", steps=steps),
        *(inverse.get_method(STEERED, steps=steps, circuit=c) for c in circuits),
    ]
    taken: list[list[float]] = [[] for _ in methods]
    for _ in range(turns):
        for method, times in zip(methods, taken, strict=True):
            start = time.process_time()
            inverse.solve(posterior, method)
            times.append(time.process_time() - start)
    return {
        circuit: round(min(times) / min(taken[0]), 3)
        for circuit, times in zip(circuits, taken[1:], strict=True)
    }


def interval(mine: list[float], base: list[float]) -> str:
    """Mean paired difference and half width of its 95 % interval."""
    values = [a - b for a, b in zip(mine, base, strict=True)]
    return f"{statistics.mean(values):+.3f} +- {STUDENT * statistics.stdev(values) / math.sqrt(len(values)):.3f}"


def table(part: Part, rows: dict[str, dict[str, dict]]) -> str:
    """One line for each case, one column for each mask."""
    names = list(rows[next(iter(rows))])
    last = "class" if part.prior == "digits-28" else "HaarPSI"
    lines = [f"| | {' | '.join(names)} | {last} | time |", "|---" * (len(names) + 3) + "|"]
    for case, (base, _, _) in part.cases.items():
        cells, known = rows[case], rows[base] if base else None
        texts = []
        for name in names:
            gain = f" ({interval(cells[name]['rmse'], known[name]['rmse'])})" if known else ""
            texts.append(f"{statistics.mean(cells[name]['rmse']):.3f}{gain}")
        if last == "class":
            score = f"{statistics.mean(cells[name]['class'] for name in names):.2f}"
        else:
            mine, other = (
                [statistics.mean(row[name]["haarpsi"][i] for name in names) for i in range(IMAGES)]
                for row in (cells, known or cells)
            )
            score = f"{statistics.mean(mine):.3f}" + (
                f" ({interval(mine, other)})" if known else ""
            )
        seconds = sum(cells[name]["seconds"] for name in names)
        ratio = seconds / sum((known or cells)[name]["seconds"] for name in names)
        lines.append(f"| {case} | {' | '.join(texts)} | {score} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def write(page: Path, records: dict[str, dict]) -> None:
    """The page from all records; what stands below "Reading" is kept."""
    bits = {
        name: CircuitCard.read(name)
        for name in ("circuit-digits", "circuit-photo-8", "circuit-photo-64")
    }
    size = {
        name: CircuitCard.find(name).with_name(card.file).stat().st_size // 1024
        for name, card in bits.items()
    }
    lines = [
        ABOUT.format(
            circuits="; ".join(
                f"`{n}` {c.bits['held out']:.3f} bits a variable held out, {size[n]} kB"
                for n, c in bits.items()
            )
        )
    ]
    for name, part in PARTS.items():
        if name not in records:
            continue
        record, shown = records[name], "; ".join(part.shown)
        lines.append(
            f"## {part.title}\n\n{part.about} {part.steps} steps, {part.samples} sample{'s' * (part.samples > 1)} an image.\n"
        )
        lines.append(
            f"Made by `{record['command']}` in {record['minutes']:.0f} minutes of a share of one core.\n\n{table(part, record['rows'])}"
        )
        lines.append(
            f"![completions](images/{page.stem}-{name}.png)\n\nRows: {', '.join(record['rows'][part.shown[0]])}. Columns: truth; seen; {shown}.\n"
        )
    if "overhead" in records:
        found = "; ".join(
            f"`{circuit}` {ratio:.2f}" for circuit, ratio in records["overhead"]["ratios"].items()
        )
        lines.append(
            f"## Overhead\n\n{OVERHEAD} {found}.\n\nMade by `{records['overhead']['command']}`.\n"
        )
    page = page.with_suffix(".md")
    reading = READING + page.read_text().partition(READING)[2] if page.exists() else READING
    page.write_text("\n".join(lines) + "\n" + reading)
    in_results(page.with_suffix(".json")).write_text(json.dumps(records, indent=1) + "\n")


ABOUT = """# Circuits, and steering by them

**RMSE** over the missing pixels, intensities in [0, 1], mean over 20 images; in brackets the mean paired difference from the base (the first
line, or the line of the same name without steering) and its 95 % interval (Student, 20 images). **Time**: processor time over the base's. Seven
masks: *left* and *top* see that half; *expand* sees a central square of a half (1) or a quarter (2) of the side; strips are a quarter wide;
*wide* is a free-form mask of 60 %. The prior runs in bf16; options are the
defaults where the name says nothing. The circuits: {circuits}.
"""


def measured(name: str, data: Path, out: Path | None) -> dict:
    """The record of a part; its table or ratios are printed, and its picture is written."""
    start = time.monotonic()
    if name == "overhead":
        ratios = overhead(data)
        print(ratios, flush=True)
        return {"ratios": ratios}
    rows, picture = measure(PARTS[name], data)
    print(table(PARTS[name], rows), flush=True)
    if out:
        write_png(out.parent / "images" / f"{out.stem}-{name}.png", picture)
    return {"rows": rows, "minutes": (time.monotonic() - start) / 60}


OVERHEAD = """`ddnm` with 50 steps, of which the published 10 % are steered, on one photograph of 64 x 64 pixels with `photo-64` in float32: processor
time over that of `ddnm` alone, the least of three runs each, in turn, on one thread of a shared machine:"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with mnist_train.npz and bsds500"
    )
    parser.add_argument(
        "--parts", nargs="*", default=[*PARTS, "overhead"], choices=[*PARTS, "overhead"]
    )
    parser.add_argument("--write", type=Path, default=None)
    arguments = parser.parse_args()
    for name in arguments.parts:
        record = measured(name, arguments.data, arguments.write) | {
            "command": shlex.join(["python", *sys.argv]),
            "versions": versions(),
        }
        if arguments.write:
            file = in_results(arguments.write.with_suffix(".json"))
            write(
                arguments.write,
                {**(json.loads(file.read_text()) if file.exists() else {}), name: record},
            )


if __name__ == "__main__":
    main()
