"""A problem: an operator, a noise model and some truths; with a measurement it makes a posterior."""

from __future__ import annotations

import hashlib
import importlib.resources
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from inverse.errors import InputError, OptionError
from inverse.execution import Execution
from inverse.measurement import operators
from inverse.measurement.noise import GaussianNoise, Noise
from inverse.posterior import Posterior
from inverse.priors.loading import load_prior
from inverse.priors.prior import Prior
from inverse.registry.defaults import default
from inverse.registry.options import values
from inverse.seeding import indices, seeded

if TYPE_CHECKING:
    from inverse.result import Result


@dataclass(frozen=True)
class Problem(ABC):
    """Base of every problem: a frozen dataclass whose fields are its options.

    Class attributes: `name` (kebab-case), `summary` (one line), `reference`, `prior` (default prior's name), and `cases` (options
    under which `exact` holds `inverse verify`'s methods to their claims, by the name of the case).

    Args:
        sigma_y: standard deviation of the measurement noise, in the units of y.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    prior: ClassVar[str] = default("problem", "prior")
    cases: ClassVar[dict[str, dict[str, Any]]] = {}

    sigma_y: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_y < float("inf"):
            raise OptionError(
                f"{self.name}: sigma_y must be at least 0 and finite, got {self.sigma_y}"
            )

    @abstractmethod
    def operator(self, shape: tuple[int, ...]) -> Any:
        """The forward operator (a deepinv physics object) for a truth of this shape; the same at every call."""

    @abstractmethod
    def truths(self) -> list[Tensor]:
        """Truths that ship with the problem, each (*shape), physical units."""

    def noise(self, shape: tuple[int, ...]) -> Noise:
        """White Gaussian noise of standard deviation sigma_y, for a truth of this shape; override for another law."""
        return GaussianNoise(self.sigma_y)

    def prepare(self, truth: Tensor) -> Tensor:
        """Crop a truth (*shape) to a size the operator can take; unchanged, unless a problem says otherwise."""
        return truth

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the unknown behind a measurement of shape y_shape; equal, unless a problem says otherwise."""
        return y_shape

    def measure(self, truth: Tensor, generator: torch.Generator, operator: Any = None) -> Tensor:
        """y for a batch of truths (B, *shape), each with its own draw from one generator -> (B, *out_shape).

        Args:
            operator: of this shape, where somebody has made it already.
        """
        made = self.operator(tuple(truth.shape[1:])) if operator is None else operator
        physics = operators.clone(made, truth.device, truth.dtype)
        return self.noise(tuple(truth.shape[1:])).sample(physics.A(truth), generator)

    def open(self, file: Path, prior: Prior, measured: bool) -> tuple[Problem, Tensor, list[str]]:
        """The problem that a file poses, the truth or the measurement in it, and notes for the user; by default this problem, and an array.

        Args:
            prior: that will be used with it.
            measured: whether the file holds a measurement.

        Raises: InputError if the file cannot be used.
        """
        from inverse.io.images import read_array

        return self, read_array(file), []

    def export(self, result: Result, folder: Path) -> None:
        """Write what somebody would open first, beside result.h5: by default reconstruction.png and panel.png where x is a picture."""
        from inverse.io.images import write_png
        from inverse.panel import panel

        if result.samples.ndim == 5 and result.samples.shape[2] in (1, 3):
            write_png(folder / "reconstruction.png", result.mean[0])
            write_png(folder / "panel.png", panel(result))

    def exact(self, y: Tensor) -> Any:
        """The exact posterior of y where a closed form exists, else None."""
        return None

    def make_prior(self) -> Prior:
        """The problem's own prior: the card named `prior`; a problem whose law is known returns that law, in float64."""
        return load_prior(self.prior)

    def resolve_prior(
        self,
        prior: Prior | str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Prior:
        """An object as it is; a prior by name or path, or else the problem's own, on a device and in a precision."""
        if isinstance(prior, Prior):
            return prior
        return (load_prior(prior) if prior else self.make_prior()).to(device, dtype)

    def posterior(
        self,
        truth: Tensor | int = 0,
        *,
        y: Tensor | None = None,
        prior: Prior | str | Path | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        execution: Execution | None = None,
        first_image: int | Sequence[int] = 0,
    ) -> Posterior:
        """The posterior of a measurement.

        Args:
            truth: (*shape) or (B, *shape) in physical units, or the index of a shipped one, from which y is drawn; each image
                gets the noise of its own (seed, index).
            y: a real measurement (*out_shape) or (B, *out_shape); `truth` is then ignored.
            prior: object, name or path; by default the problem's own.
            seed: of the measurement noise.
            dtype: of x and the operator.
            first_image: index of the first truth, or of each, where a larger set is measured in parts.
        """
        prior = self.resolve_prior(prior, device, dtype)
        if y is None:
            x = self.prepare(self._shipped(truth, prior)) if isinstance(truth, int) else truth
            x = (x if x.ndim == len(prior.shape) + 1 else x[None]).to(dtype)
            known: Tensor | None = x
            shape = tuple(x.shape[1:])
            operator = self.operator(shape)
            streams = (seeded(seed, "measurement", i) for i in indices(first_image, len(x)))
            y = torch.cat(
                [
                    self.measure(one[None], stream, operator)
                    for one, stream in zip(x, streams, strict=True)
                ]
            )
        else:
            y = (y if y.ndim == len(prior.shape) + 1 else y[None]).to(dtype)
            known, shape = None, self.signal_shape(tuple(y.shape[1:]))
            operator = self.operator(shape)
        about: dict[str, Any] = {
            "problem": {"name": self.name, "options": values(self)},
            "prior": _label(prior),
        }
        about |= {
            "measurement_sha256": measurement_sha256(y),
            "measurement_seed": None if known is None else seed,
        }
        return Posterior(
            prior,
            operator,
            y,
            self.noise(shape),
            shape=shape,
            dtype=dtype,
            truth=known,
            execution=execution,
            provenance=about,
        )

    def truths_for(self, prior: Prior) -> list[Tensor]:
        """Truths that suit a prior; by default all."""
        return self.truths()

    def _shipped(self, index: int, prior: Prior) -> Tensor:
        truths = self.truths_for(prior)
        if not 0 <= index < len(truths):
            raise InputError(
                f"{self.name}: truth {index} does not exist; there are {len(truths)}, counted from 0"
            )
        return truths[index]


@dataclass(frozen=True)
class ImageProblem(Problem):
    """A problem on photographs: truths are colour images in [0, 1]; a subclass implements `operator` alone."""

    def open(self, file: Path, prior: Prior, measured: bool) -> tuple[Problem, Tensor, list[str]]:
        from inverse.io.images import read_image

        picture = read_image(file, prior.shape[0] or 3)
        return self, picture.pixels, list(picture.notes)

    def pictures(self, prior: Prior | None = None) -> list[Path]:
        """Files of the shipped truths, by name; for a prior, those that ship for it."""
        return shipped_images(prior)

    def truths(self) -> list[Tensor]:
        """The shipped photographs, (3, 256, 256) each, in the order of their names."""
        from inverse.io.images import read_image

        return [read_image(path).pixels for path in self.pictures()]

    def truths_for(self, prior: Prior) -> list[Tensor]:
        """The images that ship for this prior, in one channel if it has one."""
        from inverse.io.images import read_image

        return [
            read_image(path, 1 if prior.shape[0] == 1 else 3).pixels
            for path in self.pictures(prior)
        ]


def shipped_images(prior: Prior | None = None) -> list[Path]:
    """Paths of the images that ship, by name: those of a prior, in `data/images/<its name>`, or else the photographs in `data/images`."""
    folder = Path(str(importlib.resources.files("inverse_data"))) / "images"
    name = getattr(prior, "name", "")
    own = sorted((folder / name).glob("*.png")) if name else []
    return own or sorted(folder.glob("*.png"))


def measurement_sha256(y: Tensor) -> str:
    """Of the bytes of a measurement on the CPU; of another "", since it would have to be fetched."""
    return (
        hashlib.sha256(y.contiguous().numpy().tobytes()).hexdigest()
        if y.device.type == "cpu"
        else ""
    )


def _label(prior: Prior) -> str:
    return getattr(prior, "name", type(prior).__name__)
