"""One `inverse train` on fields: a NetCDF file in, a Gaussian, the network that corrects it and their card out."""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from inverse.errors import InputError, OptionError
from inverse.io.devices import check_device
from inverse.priors.analytic import FieldLaw
from inverse.priors.loading import PriorCard, save_prior
from inverse.priors.networks.corrected import CorrectedPrior
from inverse.priors.prior import Prior
from inverse.seeding import seeded
from inverse.training.loop import Progress, TrainConfig, Training
from inverse.training.progress import check_weights_path, train_to_end, training_facts
from inverse_problems.atmosphere.training_fields import TrainingFields, load_fields
from inverse_problems.atmosphere.units import GRAVITY

FIELD_LEVELS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0, 4.0, 10.0)
"""Noise levels of a field prior's denoising table, model units."""

ZONAL_TAPERS = (500.0, 700.0, 1000.0, 1500.0, 2000.0, 4000.0)
"""Half-widths in km of the taper between latitudes that are tried."""


class FieldTraining(Training):
    """Training of a network that corrects the Gaussian of fields.

    Args:
        fields: to train on.
        law: their Gaussian.
        config, checkpoint, device: see `Training`.
    """

    def __init__(
        self,
        fields: TrainingFields,
        law: FieldLaw,
        config: TrainConfig,
        checkpoint: Path,
        device: torch.device,
    ):
        self.fields, self.law = fields, law
        super().__init__([], config, checkpoint, device)

    def initial_model(self) -> nn.Module:
        return CorrectedPrior(self.law, self.config.network)

    def draw_batch(self, generator: torch.Generator) -> Tensor:
        return self.fields.batch(self.config.batch, generator, self.config.mix)


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
        variables: channels, see `load_fields`.
        periods: of training, validation and test, apart from one another.
        rank: of the Gaussian.
        config: of the network's training; None for the Gaussian alone.
        hours: that follow one another, in one sample.
    """
    check_weights_path("train", out)
    where = check_device(device)
    fields, validation, test = (load_fields(source, variables, period) for period in periods)
    check_disjoint([fields, validation, test])
    missing = fields.skipped + validation.skipped + test.skipped
    skipped = f", {missing} skipped because values are missing" if missing else ""
    print(
        f"{len(fields)} fields to train on, {len(validation)} to choose by, {len(test)} to test on{skipped}",
        file=sys.stderr,
    )
    if fields.grid.periodic:
        fields, validation, test = map(in_decametres, (fields, validation, test))
    law, fitted = fit_law(fields, validation, rank, hours)
    fields, validation, test = (part.windows(hours) for part in (fields, validation, test))
    about = about | {"units": ", ".join(fields.units)}
    described = {
        "law": fitted,
        "extra": fields.card_fields()
        | {"validation": list(validation.period), "test": list(test.period), "skipped": missing},
    }
    if config is None:
        tables: dict[str, object] = {"fields": "test", "rmse": field_table(law, law, test)}
        facts: dict[str, object] = {
            "data": source.name,
            "command": " ".join(["inverse", *sys.argv[1:]]),
            "torch": torch.__version__,
        }
        card = save_prior(law, out, training=facts, denoising=tables, **described, **about)
        print(json.dumps({"prior": str(out), "sha256": card.sha256, "denoising": tables}))
        return True
    training = FieldTraining(
        fields, law := law.float(), config, out.with_suffix(".checkpoint.safetensors"), where
    )
    if training.step:
        print(f"resuming at step {training.step} of {config.steps}", file=sys.stderr)
    start, best = time.monotonic(), _best_so_far(out) if training.step else 1.0
    every = 20 * max(1, config.steps // 300)

    def keep_the_best(progress: Progress) -> None:
        nonlocal best
        if progress.step % every and progress.step < config.steps:
            return
        prior = training.averaged()
        ratio = error_ratio(table := field_table(prior, law, validation, 24))
        print(
            f"step {progress.step}: {ratio:.4f} of the Gaussian's mean square error on the validation fields",
            file=sys.stderr,
            flush=True,
        )
        if ratio < best:
            best = ratio
            tables = {
                "fields": "test",
                "rmse": field_table(prior, law, test),
                "validation": table,
                "validation_ratio": round(ratio, 5),
            }
            facts = {
                "data": source.name,
                "kept_step": progress.step,
                **training_facts(config, progress.loss, time.monotonic() - start, where),
            }
            save_prior(prior, out, training=facts, denoising=tables, **described, **about)

    if train_to_end(training, keep_the_best) is None:
        return False
    if best == 1.0:
        raise InputError(
            f"train: after {config.steps} steps the network denoises the validation fields no better than the Gaussian; keep that (--steps 0)"
        )
    card = PriorCard.read(out.with_suffix(".json"))
    print(json.dumps({"prior": str(out), "sha256": card.sha256, "denoising": card.denoising}))
    return True


def fit_law(
    fields: TrainingFields, validation: TrainingFields, rank: int, hours: int = 1
) -> tuple[FieldLaw, dict[str, float]]:
    """The Gaussian of fields, global or regional, of one hour or several, and how it was chosen, for the card.

    Raises: OptionError for trajectories of global fields.
    """
    from inverse_problems.atmosphere.climatology import fit_gaussian
    from inverse_problems.atmosphere.trajectory import TrajectoryPrior, fit_persistence
    from inverse_problems.atmosphere.zonal import fit_zonal

    if fields.grid.periodic and hours > 1:
        raise OptionError(
            f"train: of global fields there are priors of single hours alone, asked for --hours {hours}"
        )
    if fields.grid.periodic:
        scale = round(float((fields.values - fields.values.mean((0, 3), keepdim=True)).std()), 3)
        fits = {
            taper: fit_zonal(fields.values, fields.grid, rank, taper, scale=scale)
            for taper in ZONAL_TAPERS
        }
        held_out = {
            taper: float(law.log_density(law.encode(validation.values.double())).mean())
            / law.mean.numel()
            for taper, law in fits.items()
        }
        taper = max(held_out, key=held_out.__getitem__)
        return fits[taper], {
            "taper_km": taper,
            "held_out_nats_per_point": round(held_out[taper], 4),
        }
    shift, scale = round(float(fields.values.mean()), 2), round(float(fields.values.std()), 3)
    climate = fit_gaussian(
        fields.values, validation.values, fields.grid, rank, shift=shift, scale=scale
    )
    if hours == 1:
        return climate.law, climate.card_fields()
    before, after = fields.windows(2).values.chunk(2, 1)
    return TrajectoryPrior(
        climate.law, fit_persistence(climate.law, before, after), hours
    ), climate.card_fields()


def _best_so_far(out: Path) -> float:
    """The validation ratio of an interrupted run, 1 where it wrote no weights."""
    card = out.with_suffix(".json")
    return PriorCard.read(card).denoising.get("validation_ratio", 1.0) if card.is_file() else 1.0


def error_ratio(table: dict[str, list[float]]) -> float:
    """Geometric mean over noise levels of the prior's mean square error over the Gaussian's."""
    ratios = [2 * math.log(a / b) for a, b in zip(table["prior"], table["gaussian"], strict=True)]
    return math.exp(sum(ratios) / len(ratios))


def in_decametres(fields: TrainingFields) -> TrainingFields:
    """Geopotential (m2 s-2) as geopotential height (dam), which varies about as much as temperature in K; other channels as they are."""
    gain = torch.tensor([1 / (10 * GRAVITY) if unit == "m2 s-2" else 1.0 for unit in fields.units])[
        :, None, None
    ]
    return replace(
        fields,
        values=fields.values * gain,
        units=tuple("dam" if unit == "m2 s-2" else unit for unit in fields.units),
    )


def check_disjoint(parts: list[TrainingFields]) -> None:
    """Raises OptionError where the period of one set of fields reaches into another's: neighbouring hours are nearly the same field."""
    spans = sorted(part.period for part in parts)
    for before, after in itertools.pairwise(spans):
        if not after[0] > before[1]:
            raise OptionError(
                f"train: the periods {'/'.join(before)} and {'/'.join(after)} overlap; training, validation and test must lie apart in time"
            )


def field_table(
    prior: Prior, law: FieldLaw, fields: TrainingFields, count: int = 168
) -> dict[str, list[float]]:
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
                table[name].append(
                    float((denoiser(noisy, sigma) - x0).square().mean().sqrt()) * prior.scale
                )
    return {name: [float(f"{value:.4g}") for value in values] for name, values in table.items()}
