"""Problems: a forward operator, a noise model and ground truths, which make a posterior."""

from __future__ import annotations

import hashlib
import importlib.resources
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from inverse.errors import InputError, UnsupportedError
from inverse.execution import Execution
from inverse.io.devices import check_device
from inverse.measurement import operators
from inverse.measurement.jpeg_blocks import has_jpeg_blocks
from inverse.measurement.noise import GaussianNoise, Noise
from inverse.posterior import Posterior, as_batch, check_dtype
from inverse.priors.loading import load_prior
from inverse.priors.prior import Prior
from inverse.registry.defaults import default
from inverse.registry.options import check_options, values
from inverse.registry.types import NonNegative
from inverse.seeding import as_seed, indices, seeded

if TYPE_CHECKING:
    from inverse.result import Result


@dataclass(frozen=True)
class Problem(ABC):
    """Base of every problem: a frozen dataclass whose fields are its options.

    Class attributes:
        name: kebab-case name of the problem.
        summary: one line for the list of problems.
        reference: paper or settings that the problem follows.
        prior: name of the default prior.
        exports: names of the files that `export` writes.
        when_restoring: option -> value for a measurement of the user who states none, where the
            default of a simulation would be a guess.
        cases: name -> options under which `inverse verify` checks methods against `exact`.
        photographic: whether the law has the spectrum of photographs; `inverse verify` holds biased
            methods to their `bias` on it.
        thorough: whether `inverse verify` runs the cases with `--thorough` only.

    Args:
        sigma_y: standard deviation of the measurement noise, in the units of y.

    Raises: OptionError if sigma_y is negative or not finite.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    prior: ClassVar[str] = default("problem", "prior")
    cases: ClassVar[dict[str, dict[str, Any]]] = {}
    exports: ClassVar[tuple[str, ...]] = ("reconstruction.png", "panel.png")
    when_restoring: ClassVar[dict[str, Any]] = {}
    photographic: ClassVar[bool] = False
    thorough: ClassVar[bool] = False

    sigma_y: NonNegative = 0.02

    def __post_init__(self) -> None:
        check_options(self)

    @abstractmethod
    def operator(self, shape: tuple[int, ...]) -> Any:
        """The forward operator for a truth of this shape (*shape): a deepinv physics object.

        Every call returns the same operator.
        """

    @abstractmethod
    def truths(self) -> list[Tensor]:
        """Ground truths shipped with the problem, each (*shape) in physical units."""

    def noise(self, shape: tuple[int, ...]) -> Noise:
        """The noise model for a truth of this shape (*shape), in the units of y.

        The default is white Gaussian noise of standard deviation sigma_y.
        """
        return GaussianNoise(self.sigma_y)

    def prepare(self, truth: Tensor) -> Tensor:
        """A truth (*shape) cropped to a size that the operator accepts; unchanged by default."""
        return truth

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the unknown image for a measurement of shape y_shape; the default is y_shape."""
        return y_shape

    def measure(self, truth: Tensor, generator: torch.Generator, operator: Any = None) -> Tensor:
        """Noisy measurements of a batch of truths: (B, *shape) -> y (B, *out_shape).

        Args:
            truth: physical units.
            generator: source of the noise of all B measurements.
            operator: result of `self.operator(shape)`, if the caller already has it.
        """
        shape = tuple(truth.shape[1:])
        physics = operators.clone(
            self.operator(shape) if operator is None else operator, truth.device, truth.dtype
        )
        return self.noise(shape).sample(physics.A(truth), generator)

    def open(self, file: Path, prior: Prior, measured: bool) -> tuple[Problem, Tensor, list[str]]:
        """The problem that a file poses, its truth or measurement, and notes for the user.

        The default returns this problem and reads an array. A problem whose operator depends on the
        file returns another problem.

        Args:
            file: path to read.
            prior: prior that the problem will be solved with.
            measured: whether the file holds a measurement rather than a truth.

        Raises: InputError if the file cannot be used.
        """
        from inverse.io.images import read_array

        return self, read_array(file), []

    def parts(self, file: Path) -> list[Problem]:
        """The problems of the slices that a measured file holds, if the options ask for all.

        Each opens the file again and takes its own slice. None by default: a file is one input.

        Raises: InputError if the file cannot be used.
        """
        return []

    def put_together(self, file: Path, results: Iterable[Result], folder: Path) -> Path:
        """Write the results of all `parts` of a file as one file into a folder; its path.

        Args:
            results: in the order of the parts; each may be dropped once it is read.

        Raises: OSError; UnsupportedError by default.
        """
        raise UnsupportedError(f"{self.name} divides a file into parts, but has no put_together")

    def file_notes(self) -> list[str]:
        """Notes for the user from reading the files that options name; none by default.

        Raises: InputError if such a file cannot be used.
        """
        return []

    def prior_notes(self, prior: Prior) -> list[str]:
        """Notes for the user on how far a prior suits this problem; none by default."""
        return []

    def doubt(self, y: Tensor) -> str | None:
        """What makes it doubtful that a measurement y (*out_shape) is meant as stated, or None.

        The user is asked to confirm it before the measurement is restored.
        """
        return None

    def checks(self, y: Tensor) -> list[str]:
        """What in a measurement y (*out_shape) contradicts the problem, each in words.

        Unlike a doubt, it is reported with the result. Pictures are examined for blocks of JPEG.
        """
        return []

    def informed_by(self, y: Tensor) -> Problem:
        """The problem with what it estimates from a measurement y (*out_shape); self by default.

        Raises: InputError if y does not tell.
        """
        return self

    def estimated_sigma_y(self, y: Tensor) -> float | None:
        """Standard deviation of the noise in a measurement y (*out_shape), found from y alone.

        None where y does not tell, the default. A problem whose measurement is a picture with white
        noise returns `noise_estimate.noise_level(y)`.
        """
        return None

    def export(self, result: Result, folder: Path) -> None:
        """Write the files that a user opens first, beside result.h5.

        The default writes reconstruction.png and panel.png if x has one or three channels.
        """
        from inverse.io.images import write_png
        from inverse.panel import panel

        if result.samples.ndim != 5 or result.samples.shape[2] not in (1, 3):
            return
        operator = operators.clone(
            self.operator(tuple(result.samples.shape[2:])), torch.device("cpu"), result.y.dtype
        )
        residual = result.y - operator.A(result.mean.to(result.y.dtype))
        shown = self.with_holes(self.as_pictures(result.y, operator))
        left = self.as_pictures(residual, operator)
        write_png(folder / "reconstruction.png", result.mean[0])
        write_png(folder / "panel.png", panel(replace(result, y=shown), residual=left))

    def as_pictures(self, y: Tensor, operator: Any) -> Tensor:
        """Measurements or residuals as the panel shows them: (B, *out_shape) -> the same y.

        A problem whose measurements are not pictures returns, for example, A^T y.

        Args:
            operator: of this problem, on the device and in the dtype of y.
        """
        return y

    def with_holes(self, y: Tensor) -> Tensor:
        """Pictures of measurements (B, C, H, W) with their holes marked; unchanged by default."""
        return y

    def exact(self, y: Tensor) -> Any:
        """The exact posterior of y (*out_shape), physical units, or None without a closed form."""
        return None

    def make_prior(self) -> Prior:
        """The problem's own prior, by default the card named `prior`.

        A problem with a known law returns that law, in float64.
        """
        return load_prior(self.prior)

    def resolve_prior(
        self,
        prior: Prior | str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Prior:
        """The prior to use: an object unchanged, or one loaded by name or path.

        Args:
            prior: object, name or path; None is the problem's own prior.
            device, dtype: of a loaded prior; an object keeps its own.

        Raises: UnknownNameError or InputError if the prior cannot be loaded; OptionError for a
            device that this machine lacks.
        """
        device = check_device(device)
        if isinstance(prior, Prior):
            return prior
        check_dtype(dtype)
        return (load_prior(prior) if prior else self.make_prior()).to(device, dtype)

    @torch.inference_mode(False)
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
        """The posterior of a measurement, simulated from a truth or given.

        Args:
            truth: (*shape) or (B, *shape) in physical units, or the index of a shipped truth. Each
                image is measured with its own noise stream (seed, index).
            y: real measurement (*out_shape) or (B, *out_shape), in place of a truth.
            prior: object, name or path; by default the problem's own prior.
            seed: random seed of the measurement noise.
            device: device of a loaded prior.
            dtype: precision of x and the operator.
            execution: how the prior is evaluated.
            first_image: index of the first image, or the index of each image, when a larger set is
                measured in parts.

        Raises: InputError if the index of the truth does not exist, or for a truth beside y.
        """
        seed = as_seed(seed)
        if y is not None and not (isinstance(truth, int) and truth == 0):
            raise InputError(
                "posterior: pass a truth, whose measurement is simulated, or y, a measurement; "
                "got both"
            )
        prior = self.resolve_prior(prior, device, dtype)
        truth, y = getattr(truth, "pixels", truth), getattr(y, "pixels", y)  # of `read_image`
        x: Tensor | None = None
        if y is None:
            x = (
                self._shipped_truth(truth, prior)
                if isinstance(truth, int)
                else as_batch(truth, "truth")
            )
            x = _batched(x, prior).to(dtype)
            shape = tuple(x.shape[1:])
            operator = self.operator(shape)
            streams = [seeded(seed, "measurement", i) for i in indices(first_image, len(x))]
            y = torch.cat(
                [
                    self.measure(image[None], stream, operator)
                    for image, stream in zip(x, streams, strict=True)
                ]
            )
        else:
            y = _batched(as_batch(y, "measurement"), prior).to(dtype)
            posed = self.informed_by(y[0])
            if posed is not self:
                if len(y) > 1:
                    raise InputError(
                        f"{self.name}: what is unknown is estimated from one measurement at a "
                        f"time; got a batch of {len(y)}"
                    )
                return posed.posterior(
                    y=y,
                    prior=prior,
                    seed=seed,
                    device=device,
                    dtype=dtype,
                    execution=execution,
                    first_image=first_image,
                )
            shape = self.signal_shape(tuple(y.shape[1:]))
            operator = self.operator(shape)
        provenance: dict[str, Any] = {
            "problem": {"name": self.name, "options": values(self)},
            "prior": getattr(prior, "name", type(prior).__name__),
            "measurement_sha256": measurement_sha256(y),
            "measurement_seed": None if x is None else as_seed(seed),
        }
        return Posterior(
            prior,
            operator,
            y,
            self.noise(shape),
            shape=shape,
            dtype=dtype,
            truth=x,
            execution=execution,
            provenance=provenance,
        )

    def truths_for(self, prior: Prior) -> list[Tensor]:
        """The shipped truths that suit a prior, each (*shape); all of them by default."""
        return self.truths()

    def _shipped_truth(self, index: int, prior: Prior) -> Tensor:
        truths = self.truths_for(prior)
        if not 0 <= index < len(truths):
            raise InputError(
                f"{self.name}: truth {index} does not exist; "
                f"there are {len(truths)}, counted from 0"
            )
        return self.prepare(truths[index])


@dataclass(frozen=True)
class ImageProblem(Problem):
    """Base of the problems on photographs: truths are colour images in [0, 1].

    A subclass implements `operator` only. One whose measurements are not intensities sets
    `measured_role` to "numbers".
    """

    measured_role: ClassVar[Literal["picture", "numbers"]] = "picture"

    def open(self, file: Path, prior: Prior, measured: bool) -> tuple[Problem, Tensor, list[str]]:
        """Read a picture or array: this problem, its pixels (C, H, W), and notes for the user.

        The number of channels is that of the prior.

        Raises: InputError if the file cannot be read.
        """
        from inverse.io.images import read_image

        channels = prior.shape[0] or 3
        if measured:
            picture = read_image(file, channels, self.measured_role, max(0.5, 5 * self.sigma_y))
        else:
            picture = read_image(file, channels)
        return self, picture.pixels, list(picture.notes)

    def checks(self, y: Tensor) -> list[str]:
        if self.measured_role != "picture" or y.ndim != 3 or not has_jpeg_blocks(y):
            return []
        return [
            "the measurement shows the 8 x 8 blocks of JPEG, which are no white noise; use the "
            "uncompressed picture, or a larger sigma_y"
        ]

    def pictures(self, prior: Prior | None = None) -> list[Path]:
        """Files of the shipped truths in the order of their names; see `shipped_images`."""
        return shipped_images(prior)

    def truths(self) -> list[Tensor]:
        """The shipped photographs, (3, 256, 256) each, intensities, in the order of their names."""
        from inverse.io.images import read_image

        return [read_image(path).pixels for path in self.pictures()]

    def truths_for(self, prior: Prior) -> list[Tensor]:
        """The images shipped for a prior, (C, H, W) each: one channel if the prior has one."""
        from inverse.io.images import read_image

        return [
            read_image(path, 1 if prior.shape[0] == 1 else 3).pixels
            for path in self.pictures(prior)
        ]


def shipped_images(prior: Prior | None = None) -> list[Path]:
    """Paths of shipped images in the order of their names.

    A prior's images are in `data/images/<name of the prior>`. Without a prior, or for a prior
    without images, they are the photographs in `data/images`.
    """
    folder = Path(str(importlib.resources.files("inverse_data"))) / "images"
    name = getattr(prior, "name", "")
    images = sorted((folder / name).glob("*.png")) if name else []
    return images or sorted(folder.glob("*.png"))


def measurement_sha256(y: Tensor) -> str:
    """SHA-256 of the bytes of a measurement on the CPU, "" on another device (no transfer)."""
    if y.device.type != "cpu":
        return ""
    return hashlib.sha256(y.contiguous().numpy().tobytes()).hexdigest()


def _batched(x: Tensor, prior: Prior) -> Tensor:
    """A batch of one if x has no batch dimension."""
    return x if x.ndim == len(prior.shape) + 1 else x[None]
