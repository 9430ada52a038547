"""Search for the start of a deterministic solver on reference images; a checkpoint resumes it."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.engine import versions
from inverse.errors import OptionError, UnsupportedError
from inverse.execution import Execution
from inverse.io.devices import DTYPES
from inverse.method import Method
from inverse.metrics.registered import find_metric
from inverse.posterior import Posterior
from inverse.priors.prior import Prior
from inverse.problem import Problem
from inverse.registry.options import values
from inverse.registry.source import version_of
from inverse_plugins.optimal_bc.deterministic_solver import candidate, endpoints
from inverse_plugins.optimal_bc.distance import loss_by
from inverse_plugins.optimal_bc.expected_gain import anova
from inverse_plugins.optimal_bc.references import sha256
from inverse_plugins.optimal_bc.search_state import SearchState
from inverse_plugins.optimal_bc.successive_halving import (
    halving,
    rounds,
    tail_mean,
    with_new_block,
)
from inverse_plugins.optimal_bc.table import Table, fingerprint, prior_sha256

SAVE_EVERY = 20.0  # seconds
PIXELS_AT_ONCE = 65536
MINIMA = {"candidates": 1, "references": 1, "size": 1, "refine": 0, "block": 1, "seed": 0}


@dataclass(frozen=True)
class FitConfig:
    """Settings of `inverse fit-bc`.

    Args:
        candidates: number K of candidates, drawn from N(0, I).
        references: number R of images on which the last candidates are compared.
        size: side of their central crops (pixels); by default that of the prior's training crops.
        distance: a registered metric with a direction.
        tail: fraction of the references, the worst ones, over which the loss is averaged; 1 is the
            plain mean, less is the conditional value at risk.
        refine: number of one-block moves tried on the chosen candidate, each on all references.
        block: side of a block (pixels).
        seed: random seed for the candidates, the measurement noise and the moves.
        dtype: float32, float64 or bf16.

    Raises: OptionError for a value out of range.
    """

    candidates: int = 256
    references: int = 32
    size: int | None = None
    distance: str = "haarpsi"
    tail: float = 1.0
    refine: int = 0
    block: int = 16
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        for name, minimum in MINIMA.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise OptionError(f"fit-bc: {name} must be at least {minimum}, got {value}")
        if not 0 < self.tail <= 1:
            raise OptionError(f"fit-bc: tail must lie in (0, 1], got {self.tail:g}")
        if self.dtype not in DTYPES:
            raise OptionError(
                f"fit-bc: dtype must be one of {', '.join(DTYPES)}, got '{self.dtype}'"
            )


class Search:
    """Successive halving over candidates, then refinement of the best one.

    Args:
        problem: measures each reference, with noise from the seed of the config.
        method: solver that is deterministic given its start.
        config: settings.
        truths: references (*shape), physical units.
        prior: prior of the posteriors.
        checkpoint: file for the state; an existing one with the same settings is resumed.

    Raises: InputError if the checkpoint has other settings; UnsupportedError if the method cannot
        run on the problem; OptionError or InputError for an unsuitable distance, see `loss_by`.
    """

    def __init__(
        self,
        problem: Problem,
        method: Method,
        config: FitConfig,
        truths: list[Tensor],
        prior: Prior,
        checkpoint: Path,
    ):
        self.method, self.config, self.truths, self.checkpoint = method, config, truths, checkpoint
        self.posteriors = _posteriors(problem, config, truths, prior)
        if reason := method.unsupported(self.posteriors[0]):
            raise UnsupportedError(f"fit-bc: {reason}")
        self.shape, self.loss = self.posteriors[0].shape, loss_by(config.distance)
        self.batch = max(1, PIXELS_AT_ONCE // math.prod(self.shape[-2:]))
        self.fitted_for = {
            "method": {"name": method.name, "options": values(method)},
            "probe": fingerprint(method),
            "prior": {
                "name": str(getattr(prior, "name", type(prior).__name__)),
                "sha256": prior_sha256(prior),
            },
            "problem": self.posteriors[0].provenance["problem"],
        }
        self.distance_version = find_metric(config.distance).version  # weights of LPIPS, DISTS
        self.hashes = [sha256(truth) for truth in truths]
        settings = {**asdict(config), "refine": None}
        self.identity = json.dumps(
            [self.fitted_for, settings, self.distance_version, self.hashes], default=str
        )
        self.state, self.saved_at = (
            SearchState.empty(config.candidates, len(truths)),
            time.monotonic(),
        )
        self.stopping = False
        if checkpoint.exists():
            self.state = SearchState.load(checkpoint, self.identity)
            print(f"resuming after {self.state.solves} solves", file=sys.stderr)

    def run(self) -> Table:
        """Explore the candidates, choose one, refine it."""
        config, state = self.config, self.state
        best, losses = halving(self.explore, config.candidates, len(self.truths), config.tail)
        if not len(state.refined):
            state.refined = candidate(config.seed, best, self.shape)
            state.refined_losses = losses[best].clone()
        self.refine()
        first_round = losses[:, : rounds(config.candidates, len(self.truths))[0][1]]
        about = {
            **asdict(config),
            "distance_version": self.distance_version,
            "candidate": best,
            "loss": float(tail_mean(state.refined_losses, config.tail)),
            "loss_before_refinement": float(tail_mean(losses[best], config.tail)),
            "loss_of_candidate_0": float(tail_mean(losses[0], config.tail)),
            "moves_accepted": state.accepted,
            "solves": state.solves,
            "anova_of_the_first_round": (
                asdict(anova(first_round)) if min(first_round.shape) > 1 else None
            ),
            "references_sha256": self.hashes,
            "set_sha256": hashlib.sha256("".join(self.hashes).encode()).hexdigest(),
            "source": version_of(type(self.method)),
            "versions": versions(),
        }
        return Table(state.refined, state.losses, **self.fitted_for, about=about)

    def explore(self, candidates: list[int], images: int) -> Tensor:
        """Losses (K, R), with every missing loss of these candidates on the first images added."""
        losses = self.state.losses
        for i in range(images):
            missing = [k for k in candidates if losses[k, i].isnan()]
            for first in range(0, len(missing), self.batch):
                part = missing[first : first + self.batch]
                starts = [candidate(self.config.seed, k, self.shape) for k in part]
                losses[part, i] = torch.tensor(self.measure(torch.stack(starts), i))
                self._save_if_due(f"{len(candidates)} candidates, reference {i + 1} of {images}")
        return losses

    def refine(self) -> None:
        """Try the remaining moves and keep those that lower the loss."""
        config, state = self.config, self.state
        for index in range(state.moves, config.refine):
            trial = with_new_block(state.refined, config.seed, index, config.block)
            losses = torch.tensor(
                [self.measure(trial[None], i)[0] for i in range(len(self.truths))]
            )
            if tail_mean(losses, config.tail) < tail_mean(state.refined_losses, config.tail):
                state.refined, state.refined_losses = trial, losses
                state.accepted += 1
            state.moves = index + 1
            self._save_if_due(f"move {state.moves} of {config.refine}")

    def measure(self, starts: Tensor, image: int) -> list[float]:
        """Loss of each start (K, *shape) on one reference."""
        posterior = self.posteriors[image]
        answers = endpoints(self.method, posterior, starts.to(posterior.device))[0]
        return [self.loss(x, self.truths[image].to(x.dtype)) for x in answers]

    def save(self) -> None:
        """Write the checkpoint."""
        self.state.save(self.checkpoint, self.identity)
        self.saved_at = time.monotonic()

    def _save_if_due(self, progress: str) -> None:
        """Save what is measured, if the last time is long ago.

        Raises: KeyboardInterrupt after a signal; see `stops_at_signals`.
        """
        if self.stopping:
            raise KeyboardInterrupt
        if time.monotonic() - self.saved_at > SAVE_EVERY:
            self.save()
            print(f"{progress}, {self.state.solves} solves", file=sys.stderr, flush=True)


def _posteriors(
    problem: Problem, config: FitConfig, truths: list[Tensor], prior: Prior
) -> list[Posterior]:
    """One posterior for each reference, on the device of the prior."""
    dtype, autocast = DTYPES[config.dtype]
    tensors = (*prior.parameters(), *prior.buffers())
    settings: dict[str, Any] = {
        "prior": prior,
        "seed": config.seed,
        "device": tensors[0].device if tensors else torch.device("cpu"),
        "dtype": dtype,
        "execution": Execution(autocast=autocast),
    }
    return [problem.posterior(truth, first_image=i, **settings) for i, truth in enumerate(truths)]
