"""One `inverse train`: images in, weights, card and a sheet of samples out; interrupted, it resumes where it was saved."""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inverse.assets import read_card, save_prior
from inverse.atmosphere.units import GRAVITY
from inverse.corrected import FieldLaw
from inverse.dataset import Fields, load_fields, load_images
from inverse.errors import InputError, OptionError
from inverse.images import grid, write_png
from inverse.network import UNetConfig
from inverse.prior import NetworkPrior, Prior
from inverse.run import check_device, check_writable
from inverse.sampler import heun
from inverse.schedule import schedule
from inverse.seeding import Generators, seeded
from inverse.train import Progress, TrainConfig, Training

FIELD_LEVELS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0, 4.0, 10.0)
"""Noise levels of a field prior's denoising table, model units."""

ZONAL_TAPERS = (500.0, 700.0, 1000.0, 1500.0, 2000.0, 4000.0)
"""Half-widths in km of the taper between latitudes that are tried."""

LEVELS = (5, 10, 15, 25, 35, 50, 75, 100)
"""Noise levels of the card's denoising table, of 255."""


def train_prior(
    sources: list[Path], out: Path, network: UNetConfig, config: TrainConfig, device: str, about: dict[str, str], validation: Path | None = None
) -> bool:
    """Train, or resume, and write `out`, its card and `<name>.samples.png`; false if the user interrupted.

    Args:
        sources: see `dataset.load_images`; all are drawn equally often.
        out: the weights, `.safetensors`.
        about: `licence` and `limits` for the card.
        validation: images on which the card's denoising table is measured; by default the first source's.
    """
    if out.suffix != ".safetensors":
        raise OptionError(f"train: --out must end in .safetensors, got '{out.name}'")
    check_writable(out.parent)
    where = check_device(device)
    images = [load_images(path, config.size, network.channels) for path in sources]
    held_out = load_images(validation, config.size, network.channels) if validation else images[0]
    print(f"{sum(map(len, images))} images from {len(images)} sources", file=sys.stderr)
    training = Training(images, config, out.with_suffix(".checkpoint.safetensors"), where)
    if training.step:
        print(f"resuming at step {training.step} of {config.steps}", file=sys.stderr)
    sheet = out.with_suffix(".samples.png")
    start, loss = time.monotonic(), float("nan")
    try:
        with reporting(config.steps) as report:
            last_sheet = time.monotonic()
            for progress in training.run():
                loss = progress.loss
                report(progress)
                if time.monotonic() - last_sheet > 1200:
                    write_png(sheet, sample_grid(training.averaged(), config.size))
                    last_sheet = time.monotonic()
    except KeyboardInterrupt:
        training.save()
        print(f"inverse: interrupted at step {training.step}; run the same command to resume", file=sys.stderr)
        return False
    prior = training.averaged()
    write_png(sheet, sample_grid(prior, config.size))
    facts = {
        "data": ", ".join(path.name for path in sources),
        "images": sum(map(len, images)),
        "crop": config.size,
        **run_facts(config, loss, time.monotonic() - start, where),
    }
    table = {"images": validation.name if validation else f"{sources[0].name} (training images)", "psnr": denoising_table(prior, held_out, config.size)}
    card = save_prior(prior, out, training=facts, denoising=table, **about)
    print(json.dumps({"prior": str(out), "sha256": card.sha256, "denoising": table}))
    return True


def train_field_prior(
    source: Path,
    variables: list[str],
    periods: tuple[str, str, str],
    out: Path,
    rank: int,
    config: TrainConfig | None,
    device: str,
    about: dict[str, str],
    hours: int = 1,
) -> bool:
    """Fit a Gaussian to the fields of a NetCDF file, train a network that corrects it, and write `out` and its card; false if interrupted.

    The Gaussian's taper and inflation are chosen on the second period, and so are the weights: `out` is written whenever they have
    become better there. The third period is for the card's table alone.

    Args:
        variables: channels, see `dataset.load_fields`.
        periods: of training, validation and test, apart from one another.
        rank: of the Gaussian.
        config: of the network's training; None for the Gaussian alone.
        hours: that follow one another, in one sample.
    """
    if out.suffix != ".safetensors":
        raise OptionError(f"train: --out must end in .safetensors, got '{out.name}'")
    check_writable(out.parent)
    where = check_device(device)
    fields, validation, test = (load_fields(source, variables, period) for period in periods)
    check_disjoint([fields, validation, test])
    missing = fields.skipped + validation.skipped + test.skipped
    skipped = f", {missing} skipped because values are missing" if missing else ""
    print(f"{len(fields)} fields to train on, {len(validation)} to choose by, {len(test)} to test on{skipped}", file=sys.stderr)
    if fields.grid.periodic:
        fields, validation, test = map(in_decametres, (fields, validation, test))
    law, fitted = fit_law(fields, validation, rank, hours)
    fields, validation, test = (part.windows(hours) for part in (fields, validation, test))
    about = about | {"units": ", ".join(fields.units)}
    described = {"law": fitted, "extra": fields.facts() | {"validation": list(validation.period), "test": list(test.period), "skipped": missing}}
    if config is None:
        tables: dict[str, object] = {"fields": "test", "rmse": field_table(law, law, test)}
        facts: dict[str, object] = {"data": source.name, "command": " ".join(["inverse", *sys.argv[1:]]), "torch": torch.__version__}
        card = save_prior(law, out, training=facts, denoising=tables, **described, **about)
        print(json.dumps({"prior": str(out), "sha256": card.sha256, "denoising": tables}))
        return True
    training = Training(fields, config, out.with_suffix(".checkpoint.safetensors"), where, law := law.float())
    if training.step:
        print(f"resuming at step {training.step} of {config.steps}", file=sys.stderr)
    start, loss, best = time.monotonic(), float("nan"), _best_so_far(out) if training.step else 1.0
    every = 20 * max(1, config.steps // 300)
    try:
        with reporting(config.steps) as report:
            for progress in training.run():
                loss = progress.loss
                report(progress)
                if progress.step % every and progress.step < config.steps:
                    continue
                prior = training.averaged()
                ratio = error_ratio(table := field_table(prior, law, validation, 24))
                print(f"step {progress.step}: {ratio:.4f} of the Gaussian's mean square error on the validation fields", file=sys.stderr, flush=True)
                if ratio < best:
                    best = ratio
                    tables = {"fields": "test", "rmse": field_table(prior, law, test), "validation": table, "validation_ratio": round(ratio, 5)}
                    facts = {"data": source.name, "kept_step": progress.step, **run_facts(config, loss, time.monotonic() - start, where)}
                    save_prior(prior, out, training=facts, denoising=tables, **described, **about)
    except KeyboardInterrupt:
        training.save()
        print(f"inverse: interrupted at step {training.step}; run the same command to resume", file=sys.stderr)
        return False
    if best == 1.0:
        raise InputError(f"train: after {config.steps} steps the network denoises the validation fields no better than the Gaussian; keep that (--steps 0)")
    card = read_card(out.with_suffix(".json"))
    print(json.dumps({"prior": str(out), "sha256": card.sha256, "denoising": card.denoising}))
    return True


def fit_law(fields: Fields, validation: Fields, rank: int, hours: int = 1) -> tuple[FieldLaw, dict[str, float]]:
    """The Gaussian of fields, global or regional, of one hour or several, and how it was chosen, for the card.

    Raises: OptionError for trajectories of global fields.
    """
    from inverse.atmosphere.gaussian import fit_gaussian
    from inverse.atmosphere.trajectory import TrajectoryPrior, fit_persistence
    from inverse.atmosphere.zonal import fit_zonal

    if fields.grid.periodic and hours > 1:
        raise OptionError(f"train: of global fields there are priors of single hours alone, asked for --hours {hours}")
    if fields.grid.periodic:
        scale = round(float((fields.values - fields.values.mean((0, 3), keepdim=True)).std()), 3)
        fits = {taper: fit_zonal(fields.values, fields.grid, rank, taper, scale=scale) for taper in ZONAL_TAPERS}
        held_out = {taper: float(law.log_density(law.encode(validation.values.double())).mean()) / law.mean.numel() for taper, law in fits.items()}
        taper = max(held_out, key=held_out.__getitem__)
        return fits[taper], {"taper_km": taper, "held_out_nats_per_point": round(held_out[taper], 4)}
    shift, scale = round(float(fields.values.mean()), 2), round(float(fields.values.std()), 3)
    climate = fit_gaussian(fields.values, validation.values, fields.grid, rank, shift=shift, scale=scale)
    if hours == 1:
        return climate.law, climate.facts()
    before, after = fields.windows(2).values.chunk(2, 1)
    return TrajectoryPrior(climate.law, fit_persistence(climate.law, before, after), hours), climate.facts()


def _best_so_far(out: Path) -> float:
    """The validation ratio of an interrupted run, 1 where it wrote no weights."""
    card = out.with_suffix(".json")
    return read_card(card).denoising.get("validation_ratio", 1.0) if card.is_file() else 1.0


def error_ratio(table: dict[str, list[float]]) -> float:
    """Geometric mean over noise levels of the prior's mean square error over the Gaussian's."""
    ratios = [2 * math.log(a / b) for a, b in zip(table["prior"], table["gaussian"], strict=True)]
    return math.exp(sum(ratios) / len(ratios))


def in_decametres(fields: Fields) -> Fields:
    """Geopotential (m2 s-2) as geopotential height (dam), which varies about as much as temperature in K; other channels as they are."""
    gain = torch.tensor([1 / (10 * GRAVITY) if unit == "m2 s-2" else 1.0 for unit in fields.units])[:, None, None]
    return replace(fields, values=fields.values * gain, units=tuple("dam" if unit == "m2 s-2" else unit for unit in fields.units))


def check_disjoint(parts: list[Fields]) -> None:
    """Raises OptionError where the period of one set of fields reaches into another's: neighbouring hours are nearly the same field."""
    spans = sorted(part.period for part in parts)
    for before, after in itertools.pairwise(spans):
        if not after[0] > before[1]:
            raise OptionError(f"train: the periods {'/'.join(before)} and {'/'.join(after)} overlap; training, validation and test must lie apart in time")


def field_table(prior: Prior, law: FieldLaw, fields: Fields, count: int = 168) -> dict[str, list[float]]:
    """Noise level, and the root mean square errors there of the prior and of the Gaussian, all in physical units, on at most `count` fields."""
    chosen = fields.values[:: max(1, len(fields) // count)]
    x0 = prior.encode(chosen)
    table: dict[str, list[float]] = {"sigma": [], "prior": [], "gaussian": []}
    for i, level in enumerate(FIELD_LEVELS):
        sigma = torch.full((len(x0),), level)
        noisy = x0 + level * torch.randn(x0.shape, generator=seeded("denoising", i))
        table["sigma"].append(level * prior.scale)
        for name, denoiser in (("prior", prior), ("gaussian", law)):
            with torch.no_grad():
                table[name].append(float((denoiser(noisy, sigma) - x0).square().mean().sqrt()) * prior.scale)
    return {name: [float(f"{value:.4g}") for value in values] for name, values in table.items()}


def run_facts(config: TrainConfig, loss: float, seconds: float, where: torch.device) -> dict[str, object]:
    return {
        "command": " ".join(["inverse", *sys.argv[1:]]),
        "seed": config.seed,
        "steps": config.steps,
        "batch": config.batch,
        "precision": config.precision,
        "loss": None if loss != loss else round(loss, 5),
        "hours_of_last_run": round(seconds / 3600, 2),
        "machine": torch.cuda.get_device_name(where) if where.type == "cuda" else f"{torch.get_num_threads()} CPU threads",
        "torch": torch.__version__,
    }


def sample_grid(prior: Prior, size: int, count: int = 32, steps: int = 24, seed: int = 0) -> Tensor:
    """Unconditional samples by Heun's method on a sheet: (3, H, W)."""
    assert prior.shape[0] is not None
    sigmas = schedule("karras", steps, 0.01, min(prior.sigma_max, 80.0)).float()
    generator = Generators.for_samples(seed, count, 1)
    x = sigmas[0] * generator.randn_like(torch.empty(count, prior.shape[0], size, size))
    with torch.no_grad():
        *_, x = heun(prior, x, sigmas, generator)
    return grid(prior.decode(x).clamp(0, 1))


def denoising_table(prior: NetworkPrior, images: list[np.ndarray], size: int, count: int = 64) -> dict[str, float]:
    """Noise level of 255 -> mean PSNR (dB) of denoised central crops of `count` images, evenly spread: a set may be sorted by class."""
    chosen = images[:: max(1, len(images) // count)][:count]
    crops = torch.stack([torch.from_numpy(_centre(image, size).copy()) for image in chosen]).permute(0, 3, 1, 2).float() / 255
    x0, table = prior.encode(crops), {}
    for level in LEVELS:
        sigma = level / 255 / prior.scale
        noise = torch.randn(x0.shape, generator=seeded("denoising", level))
        with torch.no_grad():
            clean = prior.decode(prior(x0 + sigma * noise, torch.tensor(sigma))).clamp(0, 1)
        error = (clean - crops).square().flatten(1).mean(1)
        table[str(level)] = round(float((-10 * error.log10()).mean()), 2)
    return table


def completed(training: Training) -> float | None:
    """Run to the end, reporting: the last loss, NaN if no step was left to do, or None if the user interrupted, and the state is then saved."""
    loss = float("nan")
    try:
        with reporting(training.config.steps) as report:
            for progress in training.run():
                loss = progress.loss
                report(progress)
    except KeyboardInterrupt:
        training.save()
        print(f"inverse: interrupted at step {training.step}; run the same command to resume", file=sys.stderr)
        return None
    return loss


@contextmanager
def reporting(total: int) -> Iterator[Callable[[Progress], None]]:
    """Loss, throughput and time left: a live bar on a terminal, a line a minute elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        with Bar(TextColumn("step {task.completed}/{task.total}"), BarColumn(), TextColumn("{task.fields[news]}"), console=console) as bar:
            task = bar.add_task("train", total=total, news="")
            yield lambda p: bar.update(task, completed=p.step, news=_news(p))
        return
    last = 0.0

    def line(p: Progress) -> None:
        nonlocal last
        if time.monotonic() - last > 60 or p.step == total:
            last = time.monotonic()
            print(f"step {p.step}/{total}  {_news(p)}", file=sys.stderr, flush=True)

    yield line


def _news(p: Progress) -> str:
    left = int(p.seconds_left)
    return f"loss {p.loss:.4f}  {p.crops_per_second:.0f} crops/s  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"


def _centre(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]
