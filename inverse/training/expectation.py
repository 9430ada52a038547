"""A prior from measurements alone, by expectation maximisation with a diffusion model:

    E: x_i ~ q_k(x | y_i, A_i), drawn by a method        M: q_k+1 trained on the x_i

q_0 is the Gaussian of `gaussian_em`, or a given prior. Rozet, Andry, Lanusse, Louppe, Learning
Diffusion Priors from Observations by Expectation Maximization, NeurIPS 2024,
https://arxiv.org/abs/2405.13712. Departures: a round of training continues the last one's weights
for a fixed number of steps; q_0 is the exact maximum-likelihood Gaussian.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.engine import solve
from inverse.errors import InputError
from inverse.io.files import atomic_write, strict_json
from inverse.io.images import write_png
from inverse.method import Method
from inverse.priors.loading import PriorCard, save_prior
from inverse.priors.prior import NetworkPrior, Prior
from inverse.seeding import seeded
from inverse.training.gaussian_em import gaussian_draws, gaussian_em
from inverse.training.loop import TrainConfig, Training
from inverse.training.measurements import Coverage, Measurements, check_linear, coverage
from inverse.training.observations import ObservationTraining
from inverse.training.prior import sample_grid
from inverse.training.progress import check_weights_path, train_to_end, training_facts


@dataclass(frozen=True)
class Rounds:
    """How a prior is learnt from measurements.

    Args:
        method: draws x_i given y_i under the current prior; None for one training on the
            observations themselves, see `observations`.
        rounds: trainings of a network, each on new draws.
        gaussian: iterations of EM for the first prior, a Gaussian; none with a `start`.
        seed: random seed of the draws.
    """

    method: Method | None
    rounds: int = 3
    gaussian: int = 12
    seed: int = 0


class SampleTraining(Training):
    """A training on draws x (N, C, H, W) in intensities, whole and without mirroring.

    Args:
        draws: the signals of this round.
        start: the network of the round before, or None.
    """

    def __init__(
        self, draws: Tensor, config: TrainConfig, checkpoint: Path, start: Any, **rest: Any
    ):
        self.draws = draws.float()
        super().__init__([], config, checkpoint, start=start, **rest)

    def initial_model(self) -> NetworkPrior:
        spread = float(((self.draws - 0.5) / 0.5).std())
        return NetworkPrior.unet(self.config.network, sigma_data=spread, shift=0.5, scale=0.5)

    def draw_batch(self, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self.draws), (self.config.batch,), generator=generator)
        return self.draws[chosen]


def draw_all(data: Measurements, prior: Prior, method: Method, seed: int) -> Tensor:
    """One posterior draw of each signal: (N, *shape), physical units.

    Raises: UnsupportedError if the method cannot run on these posteriors.
    """
    x = torch.empty(len(data.y), *data.shape)
    for members, posterior in data.posteriors(prior):
        result = solve(posterior, method, samples=1, seed=_seed(seed, int(members[0])))
        x[members] = result.samples[:, 0].float()
    return x


def train_from_measurements(
    data: Measurements,
    out: Path,
    rounds: Rounds,
    config: TrainConfig,
    card_text: dict[str, str],
    facts: dict[str, Any],
    start: Prior | None = None,
    report: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    after_round: Callable[[int, NetworkPrior], None] = lambda k, prior: None,
) -> bool:
    """Learn a prior from measurements; write `out`, its card and `<name>.samples.png`.

    A picture of the part of the space that was never measured, if there is one, goes to
    `<name>.unseen.png`. The draws of each round are kept beside `out` until the end, so that the
    same command resumes an interrupted run.

    Args:
        config: of the training in each round, with `steps` of one round.
        card_text: `licence` and `limits` of the card.
        facts: entries of the card's `training`.
        start: the first prior; by default the Gaussian of `gaussian_em`.
        report: called with lines for the user.
        after_round: called with the number of a round, from 1, and its prior.

    Returns: whether the training reached its end; False if the user interrupted it.
    """
    check_weights_path("train", out)
    check_images(data)
    check_linear(data)
    found = coverage(data)
    if text := found.warning():
        report(f"inverse: {text}")
        write_png(out.with_suffix(".unseen.png"), found.picture[:1].float().clamp(0, 1))
    began, prior, loss = time.monotonic(), start, float("nan")
    training: Training
    if rounds.method is None:
        training = ObservationTraining(data, config, out.with_suffix(".checkpoint.safetensors"))
        if (last := train_to_end(training)) is None:
            return False
        loss, prior = last, training.averaged()
    for k in range(rounds.rounds if rounds.method else 0):
        draws = _draws(data, prior, rounds, k, out, report)
        checkpoint = out.with_suffix(f".round-{k}.checkpoint.safetensors")
        settings = replace(config, seed=_seed(config.seed, k))
        previous = prior if isinstance(prior, NetworkPrior) else None
        training = SampleTraining(draws, settings, checkpoint, previous)
        if (last := train_to_end(training)) is None:
            return False
        loss, prior = last, training.averaged().requires_grad_(False)
        after_round(k + 1, prior)
    assert isinstance(prior, NetworkPrior)
    _write(prior, out, config, loss, time.monotonic() - began, found, card_text, facts)
    for k in range(rounds.rounds):
        for suffix in ("draws", "checkpoint"):
            out.with_suffix(f".round-{k}.{suffix}.safetensors").unlink(missing_ok=True)
    return True


def plausible(draws: Tensor, report: Callable[[str], None]) -> Tensor:
    """Draws without those that diverged: a value below -1 or above 2, where intensities are [0, 1].

    One such draw among thousands ruins a training by squares.

    Args:
        report: called with a line that says how many were dropped, if any.

    Raises: InputError if fewer than half are left.
    """
    good = (draws.amin((1, 2, 3)) >= -1) & (draws.amax((1, 2, 3)) <= 2)
    bad = int((~good).sum())
    if 2 * bad > len(draws):
        raise InputError(
            f"train: {bad} of {len(draws)} draws of the method diverged; try more steps or another "
            "solver with --set, or another --method"
        )
    if bad:
        report(f"inverse: {bad} of {len(draws)} draws diverged and are left out")
    return draws[good]


def _seed(*key: int | str) -> int:
    """A seed of 31 bits for a key."""
    return seeded(*key).initial_seed() % 2**31


def check_images(data: Measurements) -> None:
    """Raises InputError unless the signals are images (1 or 3 channels, 8 pixels or more)."""
    shape = data.shape
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < 8:
        raise InputError(
            f"train: signals must be images (1 or 3, height, width) of at least 8 pixels, "
            f"these measurements are of {shape}"
        )


def _draws(
    data: Measurements,
    prior: Prior | None,
    rounds: Rounds,
    k: int,
    out: Path,
    report: Callable[[str], None],
) -> Tensor:
    """The draws of round k, from their file if it exists."""
    from safetensors.torch import load_file, save_file

    path = out.with_suffix(f".round-{k}.draws.safetensors")
    if path.is_file():
        return load_file(path)["x"]
    began = time.monotonic()
    if prior is None:
        x = gaussian_draws(data, gaussian_em(data, rounds.gaussian), rounds.seed).float()
    else:
        assert rounds.method is not None
        x = draw_all(data, prior, rounds.method, _seed(rounds.seed, "round", k))
    report(f"round {k + 1}: {len(x)} draws in {time.monotonic() - began:.0f} s")
    x = plausible(x, report)
    with atomic_write(path) as temporary:
        save_file({"x": x.contiguous()}, temporary)
    return x


def _write(
    prior: NetworkPrior,
    out: Path,
    config: TrainConfig,
    loss: float,
    seconds: float,
    found: Coverage,
    card_text: dict[str, str],
    facts: dict[str, Any],
) -> None:
    side = min(prior.shape[1] or config.size, config.size)
    write_png(out.with_suffix(".samples.png"), sample_grid(prior, side))
    training = {
        "crop": config.size,
        **facts,
        "unseen": round(found.unseen, 4),
        **training_facts(config, loss, seconds, torch.device("cpu")),
    }
    card: PriorCard = save_prior(prior, out, training=training, **card_text)
    summary = {"prior": str(out), "sha256": card.sha256, "unseen": training["unseen"]}
    print(strict_json(summary))
