"""One `inverse fit-bc`: photographs in, a table with the start that served them best out; interrupted, it resumes where it was saved."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.engine import versions
from inverse.errors import InputError, OptionError, UnsupportedError
from inverse.execution import Cost, Execution
from inverse.io.devices import DTYPES, check_device
from inverse.io.files import atomic_write, check_writable
from inverse.io.image_sets import load_images
from inverse.method import Method
from inverse.metrics.registered import find_metric
from inverse.posterior import Posterior
from inverse.priors.loading import default_side
from inverse.priors.prior import Prior
from inverse.problem import ImageProblem, Problem
from inverse.registry.options import values
from inverse.registry.source import version_of
from inverse.result import Result
from inverse_plugins.optimal_bc.halving import anova, halving, moved, rungs, tail_mean
from inverse_plugins.optimal_bc.table import Table, candidate, endpoints, fingerprint, prior_sha256

SAVE_EVERY = 20.0  # seconds


@dataclass(frozen=True)
class Fit:
    """What decides which start is found.

    Args:
        candidates: K, drawn from N(0, I).
        references: R, photographs that the last candidates are compared on.
        size: side of their central crops (pixels); by default the prior's own, or that of its training crops.
        distance: a registered metric that has a direction.
        tail: mean over this fraction of the references, the worst ones; 1 is the plain mean, less is CVaR.
        refine: moves of one block that are tried on the candidate chosen, each on all references.
        block: side of a block (pixels).
        seed: of the candidates, the measurement noise and the moves.
        dtype: float32, float64 or bf16.
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
        for name, least in {
            "candidates": 1,
            "references": 1,
            "size": 1,
            "refine": 0,
            "block": 1,
            "seed": 0,
        }.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise OptionError(f"fit-bc: {name} must be at least {least}, got {value}")
        if not 0 < self.tail <= 1:
            raise OptionError(f"fit-bc: tail must lie in (0, 1], got {self.tail:g}")
        if self.dtype not in DTYPES:
            raise OptionError(
                f"fit-bc: dtype must be one of {', '.join(DTYPES)}, got '{self.dtype}'"
            )


def fit_boundary(
    problem: Problem,
    method: Method,
    fit: Fit,
    images: list[Path],
    prior_name: str | None,
    device: str,
    out: Path,
) -> Table | None:
    """Search, or resume, and write the table `out`; None if the user interrupted."""
    if out.suffix != ".safetensors":
        raise OptionError(f"fit-bc: --out must end in .safetensors, got '{out.name}'")
    check_writable(out.parent)
    prior = problem.resolve_prior(prior_name, check_device(device), DTYPES[fit.dtype][0])
    fit = replace(fit, size=fit.size or default_side(prior))
    truths = references(problem, images, fit, prior)
    search = Search(problem, method, fit, truths, prior, out.with_suffix(".checkpoint.safetensors"))
    try:
        table = search.run()
    except KeyboardInterrupt:
        search.save()
        print(
            f"inverse: interrupted after {search.explored} solves; run the same command to resume",
            file=sys.stderr,
        )
        return None
    table.save(out)
    search.checkpoint.unlink(missing_ok=True)
    return table


def references(problem: Problem, images: list[Path], fit: Fit, prior: Prior) -> list[Tensor]:
    """The references (*shape), physical units: a choice and an order that depend on the photographs alone, not on their names or places.

    Central crops in the order of their hashes; the problem's own truths where no photographs are given.

    Raises: InputError if there are fewer than asked.
    """
    size = fit.size or default_side(prior)
    if images and not isinstance(problem, ImageProblem):
        raise OptionError(
            f"fit-bc: --images is for problems on photographs, {problem.name} has truths of its own"
        )
    crops = (
        [crop for path in images for crop in photographs(path, size, prior.shape[0] or 3)]
        if images
        else problem.truths()
    )
    if not images and isinstance(problem, ImageProblem):
        crops = [centre(truth, size) for truth in crops]
    found = sorted({sha256(crop): crop for crop in map(problem.prepare, crops)}.items())
    if len(found) < fit.references:
        raise InputError(
            f"fit-bc: asked for {fit.references} references, found {len(found)} different ones of at least {size} pixels; give more --images"
        )
    return [crop for _, crop in found[: fit.references]]


def photographs(path: Path, size: int, channels: int) -> list[Tensor]:
    """Central crops (C, size, size) in [0, 1] of every photograph that is large enough."""
    return [
        centre(torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255, size)
        for array in load_images(path, size, channels)
    ]


def centre(image: Tensor, size: int) -> Tensor:
    top, left = ((n - size) // 2 for n in image.shape[-2:])
    if min(top, left) < 0:
        raise InputError(
            f"fit-bc: a reference has {image.shape[-2]}x{image.shape[-1]} pixels, asked for crops of {size}"
        )
    return image[..., top : top + size, left : left + size]


def sha256(image: Tensor) -> str:
    return hashlib.sha256(image.float().contiguous().numpy().tobytes()).hexdigest()


def loss_by(distance: str) -> Callable[[Tensor, Tensor], float]:
    """A registered metric of one answer and its truth (*shape), physical units, turned so that less is better.

    Raises: UnknownNameError for no metric; OptionError for one without a direction; InputError where it does not apply, or lacks its weights.
    """
    metric = find_metric(distance)
    if metric.better is None:
        raise OptionError(
            f"fit-bc: nobody says whether more or less of {distance} is better; haarpsi, ms-ssim, ssim, psnr and rmse have a direction"
        )
    metric.ready()

    def loss(x: Tensor, truth: Tensor) -> float:
        found = metric(
            Result(
                x[None, None].cpu(),
                torch.zeros(1, 1),
                torch.full((1, 1), math.nan),
                Cost(),
                0.0,
                truth=truth[None].cpu(),
            )
        )
        if found is None:
            raise InputError(
                f"fit-bc: {distance} has no value for truths of shape {' x '.join(map(str, truth.shape))}; try haarpsi, ssim or rmse"
            )
        return metric.loss(found)

    return loss


class Search:
    """The exploration, with all that has been measured so far on disk.

    Args:
        checkpoint: where it is kept; an existing one of the same settings is resumed.

    Raises: InputError if it is of other settings; UnsupportedError if the method cannot run on the problem.
    """

    def __init__(
        self,
        problem: Problem,
        method: Method,
        fit: Fit,
        truths: list[Tensor],
        prior: Prior,
        checkpoint: Path,
    ):
        self.problem, self.method, self.fit, self.truths, self.checkpoint = (
            problem,
            method,
            fit,
            truths,
            checkpoint,
        )
        dtype, autocast = DTYPES[fit.dtype]
        device = next(
            (t.device for t in (*prior.parameters(), *prior.buffers())), torch.device("cpu")
        )
        settings: dict[str, Any] = {
            "prior": prior,
            "seed": fit.seed,
            "device": device,
            "dtype": dtype,
            "execution": Execution(autocast=autocast),
        }
        self.posteriors: list[Posterior] = [
            problem.posterior(truth, first_image=i, **settings) for i, truth in enumerate(truths)
        ]
        if reason := method.unsupported(self.posteriors[0]):
            raise UnsupportedError(f"fit-bc: {reason}")
        self.shape, self.loss = self.posteriors[0].shape, loss_by(fit.distance)
        self.losses = torch.full((fit.candidates, len(truths)), math.nan)
        self.refined, self.refined_losses, self.moves, self.accepted = (
            torch.empty(0),
            torch.empty(0),
            0,
            0,
        )
        self.saved, self.batch = time.monotonic(), max(1, 65536 // math.prod(self.shape[-2:]))
        self.about = {
            "method": {"name": method.name, "options": values(method)},
            "probe": fingerprint(method),
            "prior": {
                "name": str(getattr(prior, "name", type(prior).__name__)),
                "sha256": prior_sha256(prior),
            },
            "problem": self.posteriors[0].provenance["problem"],
        }
        self.measured_by = find_metric(fit.distance).version  # of the weights of LPIPS or DISTS
        self.identity = json.dumps(
            [
                self.about,
                {**asdict(fit), "refine": None},
                self.measured_by,
                [sha256(t) for t in truths],
            ],
            default=str,
        )
        if checkpoint.exists():
            self.load()

    @property
    def explored(self) -> int:
        """Solves so far."""
        return int((~self.losses.isnan()).sum()) + self.moves * len(self.truths)

    def run(self) -> Table:
        """Explore, choose, refine."""
        chosen, losses = halving(self.explore, self.fit.candidates, len(self.truths), self.fit.tail)
        if not len(self.refined):
            self.refined, self.refined_losses = (
                candidate(self.fit.seed, chosen, self.shape),
                losses[chosen].clone(),
            )
        self.refine()
        first = losses[:, : rungs(self.fit.candidates, len(self.truths))[0][1]]
        hashes = [sha256(truth) for truth in self.truths]
        about = {
            **asdict(self.fit),
            "distance_version": self.measured_by,
            "candidate": chosen,
            "loss": float(tail_mean(self.refined_losses, self.fit.tail)),
            "loss_before_refinement": float(tail_mean(losses[chosen], self.fit.tail)),
            "loss_of_candidate_0": float(tail_mean(losses[0], self.fit.tail)),
            "moves_accepted": self.accepted,
            "solves": self.explored,
            "anova_of_the_first_round": asdict(anova(first)) if min(first.shape) > 1 else None,
            "references_sha256": hashes,
            "set_sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
            "source": version_of(type(self.method)),
            "versions": versions(),
        }
        return Table(self.refined, self.losses, **self.about, about=about)

    def explore(self, alive: list[int], images: int) -> Tensor:
        """Fill in what is missing of these candidates on the first images."""
        for i in range(images):
            missing = [k for k in alive if self.losses[k, i].isnan()]
            for part in (missing[j : j + self.batch] for j in range(0, len(missing), self.batch)):
                self.losses[part, i] = torch.tensor(
                    self.measure(
                        torch.stack([candidate(self.fit.seed, k, self.shape) for k in part]), i
                    )
                )
                self.save_now_and_then(f"{len(alive)} candidates, reference {i + 1} of {images}")
        return self.losses

    def refine(self) -> None:
        """Try the moves that are left; keep those that lower the loss."""
        for index in range(self.moves, self.fit.refine):
            trial = moved(self.refined, self.fit.seed, index, self.fit.block)
            losses = torch.tensor(
                [self.measure(trial[None], i)[0] for i in range(len(self.truths))]
            )
            if tail_mean(losses, self.fit.tail) < tail_mean(self.refined_losses, self.fit.tail):
                self.refined, self.refined_losses, self.accepted = trial, losses, self.accepted + 1
            self.moves = index + 1
            self.save_now_and_then(f"move {self.moves} of {self.fit.refine}")

    def measure(self, starts: Tensor, image: int) -> list[float]:
        """Loss of each start (K, *shape) on one reference."""
        posterior = self.posteriors[image]
        answers = endpoints(self.method, posterior, starts.to(posterior.device))[0]
        return [self.loss(x, self.truths[image].to(x.dtype)) for x in answers]

    def save_now_and_then(self, where: str) -> None:
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()
            print(f"{where}, {self.explored} solves", file=sys.stderr, flush=True)

    def save(self) -> None:
        from safetensors.torch import save

        tensors = {
            "losses": self.losses,
            "refined": self.refined,
            "refined_losses": self.refined_losses,
        }
        with atomic_write(self.checkpoint) as temporary:
            temporary.write_bytes(
                save(
                    {k: v.contiguous() for k, v in tensors.items()},
                    {"identity": self.identity, "moves": f"{self.moves} {self.accepted}"},
                )
            )
        self.saved = time.monotonic()

    def load(self) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.checkpoint, "pt") as file:
                about = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(
                f"fit-bc: checkpoint {self.checkpoint} is damaged ({error}); delete it to start again"
            ) from error
        if about.get("identity") != self.identity:
            raise InputError(
                f"fit-bc: checkpoint {self.checkpoint} belongs to other settings; use the same ones, another --out, or delete it"
            )
        self.losses, self.refined, self.refined_losses = (
            tensors["losses"],
            tensors["refined"],
            tensors["refined_losses"],
        )
        self.moves, self.accepted = map(int, about["moves"].split())
        print(f"resuming after {self.explored} solves", file=sys.stderr)
