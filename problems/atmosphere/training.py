"""Training of a prior of weather fields: a Gaussian, and a network that corrects it."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from inverse.errors import InputError, OptionError
from inverse.io.devices import check_device
from inverse.io.files import strict_json
from inverse.priors.analytic import FieldLaw
from inverse.priors.loading import PriorCard, save_prior
from inverse.priors.networks.corrected import CorrectedPrior
from inverse.training.loop import Progress, TrainConfig, Training
from inverse.training.progress import check_weights_path, train_to_end, training_facts
from inverse_problems.atmosphere.field_evaluation import error_ratio, field_table
from inverse_problems.atmosphere.law_fit import fit_law, in_decametres
from inverse_problems.atmosphere.training_fields import TrainingFields, load_fields


class FieldTraining(Training):
    """Training of a network that corrects the Gaussian of fields.

    Args:
        fields: training fields.
        law: Gaussian of the fields.
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
        """The network that corrects the Gaussian, untrained."""
        return CorrectedPrior(self.law, self.config.network)

    def draw_batch(self, generator: torch.Generator) -> Tensor:
        """Training fields (batch, C, H, W), physical units."""
        return self.fields.batch(self.config.batch, generator, self.config.mix)


def train_field_prior(
    source: Path,
    variables: list[str],
    periods: tuple[str, str, str],
    out: Path,
    rank: int,
    config: TrainConfig | None,
    device: str,
    terms: dict[str, str],
    hours: int = 1,
) -> bool:
    """Fit a Gaussian to weather fields, train a network that corrects it, and write both to `out`.

    The validation period selects the taper and inflation of the Gaussian, and the weights: `out`
    and its card are written whenever the validation error improves. The test period is used only
    for the card's table.

    Args:
        source: NetCDF file or Zarr store.
        variables: variables of the channels, see `load_fields`.
        periods: training, validation and test period, disjoint.
        out: file of the weights (.safetensors).
        rank: rank of the Gaussian.
        config: training of the network; None to write the Gaussian without a network.
        device: device of the training.
        terms: licence and limits for the card.
        hours: consecutive hours in a sample.

    Returns: whether the training finished; false if it was interrupted.

    Raises: InputError or OptionError if a file or option cannot be used, or the network does not
        improve on the Gaussian.
    """
    check_weights_path("train", out)
    training_device = check_device(device)
    parts = [load_fields(source, variables, period) for period in periods]
    check_disjoint(parts)
    missing = sum(part.skipped for part in parts)
    skipped = f", {missing} skipped because values are missing" if missing else ""
    training_count, validation_count, test_count = map(len, parts)
    _report(
        f"{training_count} training fields, {validation_count} validation fields, "
        f"{test_count} test fields{skipped}"
    )
    if parts[0].grid.periodic:
        parts = [in_decametres(part) for part in parts]
    law, law_entry = fit_law(parts[0], parts[1], rank, hours)
    fields, validation, test = (part.windows(hours) for part in parts)
    periods_of_card = {"validation": list(validation.period), "test": list(test.period)}
    entries = {
        "law": law_entry,
        "extra": fields.card_fields() | periods_of_card | {"skipped": missing},
        **terms,
        "units": ", ".join(fields.units),
    }
    if config is None:
        table: dict[str, object] = {"fields": "test", "rmse": field_table(law, law, test)}
        facts: dict[str, object] = {
            "data": source.name,
            "command": " ".join(["inverse", *sys.argv[1:]]),
            "torch": torch.__version__,
        }
        _print_card(out, save_prior(law, out, training=facts, denoising=table, **entries))
        return True
    law = law.float()
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    training = FieldTraining(fields, law, config, checkpoint, training_device)
    if training.step:
        _report(f"resuming at step {training.step} of {config.steps}")
    started_at, best = time.monotonic(), _best_ratio(out) if training.step else 1.0
    interval = 20 * max(1, config.steps // 300)

    def save_if_better(progress: Progress) -> None:
        nonlocal best
        if progress.step % interval and progress.step < config.steps:
            return
        prior = training.averaged()
        table = field_table(prior, law, validation, 24)
        ratio = error_ratio(table)
        _report(
            f"step {progress.step}: mean square error on the validation fields is "
            f"{ratio:.4f} of the Gaussian's"
        )
        if ratio < best:
            best = ratio
            tables = {
                "fields": "test",
                "rmse": field_table(prior, law, test),
                "validation": table,
                "validation_ratio": round(ratio, 5),
            }
            seconds = time.monotonic() - started_at
            facts = {
                "data": source.name,
                "kept_step": progress.step,
                **training_facts(config, progress.loss, seconds, training_device),
            }
            save_prior(prior, out, training=facts, denoising=tables, **entries)

    if train_to_end(training, save_if_better) is None:
        return False
    if best == 1.0:
        raise InputError(
            f"train: after {config.steps} steps the network denoises the validation fields "
            "no better than the Gaussian; write the Gaussian alone (--steps 0)"
        )
    _print_card(out, PriorCard.read(out.with_suffix(".json")))
    return True


def _report(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _print_card(out: Path, card: PriorCard) -> None:
    summary = {"prior": str(out), "sha256": card.sha256, "denoising": card.denoising}
    print(strict_json(summary))


def _best_ratio(out: Path) -> float:
    """The validation ratio of an interrupted training, 1 if it wrote no weights."""
    card = out.with_suffix(".json")
    return PriorCard.read(card).denoising.get("validation_ratio", 1.0) if card.is_file() else 1.0


def check_disjoint(parts: list[TrainingFields]) -> None:
    """Check that the periods of sets of fields are disjoint; nearby hours are nearly equal fields.

    Raises: OptionError if two periods overlap.
    """
    spans = sorted(part.period for part in parts)
    for before, after in itertools.pairwise(spans):
        if not after[0] > before[1]:
            raise OptionError(
                f"train: the periods {'/'.join(before)} and {'/'.join(after)} overlap; "
                "training, validation and test periods must be disjoint"
            )
