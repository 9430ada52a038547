"""Compare samplers alone, steered by a circuit and twisted by a circuit, on inpainting.

    python bench/circuit.py --data "$INVERSE_DATA"
    python bench/circuit.py --data "$INVERSE_DATA" --parts photographs --write docs/circuit

The first command measures everything and prints the tables. The second measures one part and
writes docs/circuit.md, its pictures and results/circuit.json. The page is written from the records
of all parts; only the parts named are measured again. Its section "Reading" is kept.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from options import new_parser
from output import command_line, in_results, markdown_table, write_json
from timing import timed
from torch import Tensor

import inverse
from inverse.engine import versions
from inverse.io.images import grid, write_png
from inverse.problem import shipped_images
from inverse_plugins.circuits.cards import CircuitCard
from inverse_plugins.optimal_bc.distance import loss_by
from inverse_plugins.optimal_bc.references import photographs, sha256

STEERED, READING = "tractable-steering", "## Reading\n"
IMAGES = 20
STUDENT = 2.093  # 97.5 % quantile of Student's t with 19 degrees of freedom


@dataclass(frozen=True)
class Part:
    """A section of the page: a prior, images and cases.

    Args:
        title, about: heading and first paragraph of the section.
        prior: name of the prior.
        circuit: circuit of the steered cases that name none.
        steps, samples, sigma_y: settings of every case.
        cases: (base case or "", method, options) by name.
        shown: cases in the picture.
        example: index of the image in the picture.
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


STEPS_10 = {"fraction": 0.1, "base": "ddnm"}
STEPS_75 = {"fraction": 0.75, "base": "ddnm"}
PARTS = {
    "digits": Part(
        "Digits, a circuit over pixels",
        "20 digits of the MNIST test set, two of each class, 28 x 28 pixels, not used in training; "
        "they ship with `digits-28`. **Class**: share of the completions whose nearest neighbour "
        "among 10 000 training digits has the true class.",
        "digits-28",
        "circuit-digits",
        30,
        1,
        0.0,
        {
            "ddnm": ("", "ddnm", {}),
            "steered, 10 % of the steps": ("ddnm", STEERED, STEPS_10),
            "steered, 75 %": ("ddnm", STEERED, STEPS_75),
            "steered, 75 %, Tweedie": (
                "ddnm",
                STEERED,
                {**STEPS_75, "variance": "tweedie", "probes": 1},
            ),
            "circuit alone (a = 0)": (
                "ddnm",
                STEERED,
                {**STEPS_10, "fraction": 1.0, "a0": 0.0, "a1": 0.0},
            ),
            "diffpir": ("", "diffpir", {}),
            "diffpir, steered, 75 %": ("diffpir", STEERED, {**STEPS_75, "base": "diffpir"}),
        },
        ("ddnm", "steered, 10 % of the steps", "steered, 75 %", "circuit alone (a = 0)", "diffpir"),
        6,
    ),
    "photographs": Part(
        "Photographs, a circuit over codes",
        "Central 64-pixel crops of 20 photographs of the BSDS500 test set (the first by hash), on "
        "which neither the prior nor the codec nor the circuit was trained.",
        "photo-64",
        "circuit-photo-64",
        25,
        1,
        0.0,
        {
            "ddnm": ("", "ddnm", {}),
            "steered, 10 % of the steps": ("ddnm", STEERED, STEPS_10),
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
        "The same photographs, with the number of steps and the share of steered steps of the "
        "publication.",
        "photo-64",
        "circuit-photo-64",
        250,
        1,
        0.0,
        {
            "ddnm": ("", "ddnm", {}),
            "steered, 10 % of the steps": ("ddnm", STEERED, STEPS_10),
        },
        ("ddnm", "steered, 10 % of the steps"),
        7,
    ),
    "particles": Part(
        "Digits, a circuit as the twist of a particle sampler",
        "The same digits, measured with noise of 0.05. Each has 8 particles, from which one sample "
        "is drawn by weight.",
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
    """Observed pixels by name of the mask: boolean (side, side).

    "expand" observes a central square of half (1) or a quarter (2) of the side; the strips are a
    quarter of the side wide.
    """
    half, quarter = (slice(n, side - n) for n in (side // 4, (3 * side) // 8))
    seen = {
        name: torch.zeros(side, side, dtype=torch.bool)
        for name in ("left", "top", "expand 1", "expand 2", "vertical strip", "horizontal strip")
    }
    seen["left"][:, : side // 2] = True
    seen["top"][: side // 2] = True
    seen["expand 1"][half, half] = True
    seen["expand 2"][quarter, quarter] = True
    seen["vertical strip"][:, quarter] = True
    seen["horizontal strip"][quarter] = True
    wide = inverse.get_problem("inpainting", mask="free-form", missing=0.6)
    return seen | {"wide": wide.observed(side, side)}


def truths(part: Part, prior: inverse.Prior, data: Path) -> Tensor:
    """Twenty images (20, C, H, W) in [0, 1]."""
    if part.prior == "digits-28":
        return torch.stack([inverse.read_image(path, 1).pixels for path in shipped_images(prior)])
    crops = {sha256(crop): crop for crop in photographs(data / "bsds500" / "test", 64, 3)}
    return torch.stack([crops[key] for key in sorted(crops)[:IMAGES]])


def training_digits(data: Path) -> tuple[Tensor, Tensor]:
    """10 000 training digits (N, 784) in [0, 1] and their classes (N,)."""
    archive = np.load(data / "mnist_train.npz")
    images = torch.from_numpy(archive["images"])
    classes = torch.from_numpy(archive["labels"].astype(np.int64))
    order = torch.randperm(len(classes), generator=inverse.seeded("digits"))
    chosen = order[:10_000]  # the file is sorted by class
    return images[chosen].flatten(1).float() / 255, classes[chosen]


def accuracy(drawn: Tensor, digits: tuple[Tensor, Tensor]) -> float:
    """Share of samples (20, n, 1, H, W) whose nearest training digit has the true class.

    The images are two of each class, in order.
    """
    images, classes = digits
    nearest = torch.cdist(drawn.flatten(0, 1).flatten(1), images).argmin(1)
    truth = torch.arange(10).repeat_interleave(2 * drawn.shape[1])
    return float((classes[nearest] == truth).float().mean())


def solve(
    part: Part, case: str, prior: inverse.Prior, truth: Tensor, seen: Tensor
) -> tuple[Tensor, float]:
    """Samples (20, samples, C, H, W), drawn from particles by weight, and processor seconds."""
    _, method_name, options = part.cases[case]
    if method_name in (STEERED, "tractable-smc"):
        options = {"circuit": part.circuit, **options}
    operator = inverse.physics.Inpainting(
        img_size=tuple(truth.shape[1:]), mask=seen.float().expand(truth.shape[1:]).clone()
    )
    noise = inverse.GaussianNoise(part.sigma_y, observed=seen)
    y = noise.sample(truth * seen, inverse.seeded("noise")) * seen
    execution = inverse.Execution(autocast="bf16")
    posterior = inverse.Posterior(
        prior, operator, y, noise, shape=tuple(truth.shape[1:]), execution=execution
    )
    method = inverse.get_method(method_name, steps=part.steps, **options)
    run = partial(inverse.solve, posterior, method, samples=part.samples, seed=1)
    result, seconds = timed(run)
    return result.samples, seconds


def measure(part: Part, data: Path) -> tuple[dict[str, dict[str, dict]], Tensor]:
    """Scores of every case and mask, and the picture."""
    prior = inverse.load_prior(part.prior)
    truth = truths(part, prior, data)
    digits = training_digits(data) if part.prior == "digits-28" else None
    rows: dict[str, dict[str, dict]] = {name: {} for name in part.cases}
    tiles: list[Tensor] = []
    haarpsi = loss_by("haarpsi")
    for name, seen in masks(truth.shape[-1]).items():
        tiles += [truth[part.example], torch.where(seen, truth[part.example], 0.5)]
        for case in part.cases:
            drawn, seconds = solve(part, case, prior, truth, seen)
            drawn = torch.where(seen, truth[:, None], drawn.clamp(0, 1))
            squared = (drawn - truth[:, None]).square()[..., ~seen].flatten(2).mean(2)
            scores = {"rmse": squared.sqrt().mean(1).tolist(), "seconds": seconds}
            if digits:
                scores["class"] = accuracy(drawn, digits)
            else:
                scores["haarpsi"] = [
                    -statistics.mean(haarpsi(x, t) for x in xs)
                    for xs, t in zip(drawn, truth, strict=True)
                ]
            rows[case][name] = scores
            if case in part.shown:
                tiles.append(drawn[part.example, 0])
            rmse = statistics.mean(scores["rmse"])
            line = f"{name:18s} {case:28s} rmse {rmse:.4f}  {seconds:.1f} s"
            print(line, file=sys.stderr, flush=True)
    enlarged = torch.stack(tiles).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return rows, grid(enlarged, columns=2 + len(part.shown), gap=4)


def overhead(data: Path, steps: int = 50, turns: int = 3) -> dict[str, float]:
    """Ratio of the processor time of ddnm with 10 % of its steps steered to that of ddnm alone.

    One photograph of 64 x 64 pixels in float32; times are the least of interleaved turns.
    """
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
        *(inverse.get_method(STEERED, steps=steps, circuit=c, base="ddnm") for c in circuits),
    ]
    seconds: list[list[float]] = [[] for _ in methods]
    for _ in range(turns):
        for method, times in zip(methods, seconds, strict=True):
            times.append(timed(partial(inverse.solve, posterior, method))[1])
    alone, *steered = map(min, seconds)
    return {name: round(s / alone, 3) for name, s in zip(circuits, steered, strict=True)}


def interval(mine: list[float], base: list[float]) -> str:
    """Mean paired difference and half width of its 95 % interval."""
    values = [a - b for a, b in zip(mine, base, strict=True)]
    half_width = STUDENT * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):+.3f} +- {half_width:.3f}"


def table(part: Part, rows: dict[str, dict[str, dict]]) -> str:
    """A row for each case, a column for each mask."""
    names = list(rows[next(iter(rows))])
    last = "class" if part.prior == "digits-28" else "HaarPSI"
    lines = []
    for case, (base, _, _) in part.cases.items():
        cells, base_cells = rows[case], rows[base] if base else None
        texts = [
            with_gain(cells[name]["rmse"], base_cells and base_cells[name]["rmse"])
            for name in names
        ]
        if last == "class":
            texts.append(f"{statistics.mean(cells[name]['class'] for name in names):.2f}")
        else:
            texts.append(with_gain(mean_haarpsi(cells), base_cells and mean_haarpsi(base_cells)))
        seconds, base_seconds = (
            sum(row[name]["seconds"] for name in names) for row in (cells, base_cells or cells)
        )
        lines.append([case, *texts, f"{seconds / base_seconds:.2f}"])
    return markdown_table(["", *names, last, "time"], lines) + "\n"


def with_gain(values: list[float], base: list[float] | None) -> str:
    """The mean, and the mean paired difference from the base where there is one."""
    gain = f" ({interval(values, base)})" if base else ""
    return f"{statistics.mean(values):.3f}{gain}"


def mean_haarpsi(cells: dict[str, dict]) -> list[float]:
    """Means over the masks, for each image."""
    return [statistics.mean(cell["haarpsi"][i] for cell in cells.values()) for i in range(IMAGES)]


def write(page: Path, records: dict[str, dict]) -> None:
    """Write the page and its record; keep the page's section "Reading"."""
    names = ("circuit-digits", "circuit-photo-8", "circuit-photo-64")
    lines = [ABOUT.format(circuits="\n".join(map(circuit_line, names)))]
    for name, part in PARTS.items():
        if name not in records:
            continue
        record, shown = records[name], "; ".join(part.shown)
        masks_shown = ", ".join(record["rows"][part.shown[0]])
        samples = f"{part.samples} sample{'s' * (part.samples > 1)} per image"
        duration = f"{record['minutes']:.0f} minutes of a share of one core"
        lines += [
            f"## {part.title}\n\n{part.about} {part.steps} steps, {samples}.\n",
            f"Written by `{record['command']}` in {duration}.\n",
            table(part, record["rows"]),
            f"![completions](images/{page.stem}-{name}.png)\n",
            f"Rows: {masks_shown}. Columns: truth; observed; {shown}.\n",
        ]
    if "overhead" in records:
        record = records["overhead"]
        ratios = "; ".join(f"`{name}` {ratio:.2f}" for name, ratio in record["ratios"].items())
        lines.append(f"## Overhead\n\n{OVERHEAD} {ratios}.\n")
        lines.append(f"Written by `{record['command']}`.\n")
    page = page.with_suffix(".md")
    reading = READING + page.read_text().partition(READING)[2] if page.exists() else READING
    page.write_text("\n".join(lines) + "\n" + reading)
    write_json(in_results(page.with_suffix(".json")), records)


def circuit_line(name: str) -> str:
    card = CircuitCard.read(name)
    size = CircuitCard.find(name).with_name(card.file).stat().st_size // 1024
    bits = card.bits["held out"]
    return f"- `{name}`: {bits:.3f} bits per variable on held-out data, {size} kB"


ABOUT = """# Circuits, and steering by them

This page measures inpainting guided by probabilistic circuits, for users of `tractable-steering`
and `tractable-smc`.

**RMSE** is taken over the missing pixels, with intensities in [0, 1], and averaged over 20 images.
Brackets give the mean paired difference from the base (the first row, or the row of the same name
without steering) and its 95 % interval (Student's t, 20 images). **Time** is processor time over
that of the base. There are seven masks: *left* and *top* observe that half; *expand* observes a
central square of half (1) or a quarter (2) of the side; the strips are a quarter of the side wide;
*wide* is a free-form mask of 60 %. The prior runs in bf16. Options that the name of a case does not
mention are defaults of the method; the base is `ddnm` with its defaults. The circuits:

{circuits}
"""


def measure_part(name: str, data: Path, out: Path | None) -> dict:
    """The record of a part. Prints its table or ratios and writes its picture."""
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


OVERHEAD = """Processor time of `ddnm` with 50 steps, of which the published 10 % are steered, over
that of `ddnm` alone: one photograph of 64 x 64 pixels with `photo-64` in float32, the least of
three interleaved runs on one thread of a shared machine:"""


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of mnist_train.npz and bsds500"
    )
    parser.add_argument(
        "--parts",
        nargs="*",
        default=[*PARTS, "overhead"],
        choices=[*PARTS, "overhead"],
        help="parts to measure",
    )
    parser.add_argument("--write", type=Path, default=None)
    arguments = parser.parse_args()
    for name in arguments.parts:
        record = measure_part(name, arguments.data, arguments.write)
        record |= {"command": command_line(), "versions": versions()}
        if arguments.write:
            file = in_results(arguments.write.with_suffix(".json"))
            records = json.loads(file.read_text()) if file.exists() else {}
            write(arguments.write, {**records, name: record})


if __name__ == "__main__":
    main()
