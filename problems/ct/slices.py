"""What the problems of tomography share: grey square slices with nothing outside a circle."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.io.image_sets import read_slices
from inverse_problems.ct.circle import InCircle
from inverse_problems.ct.geometry import circle_mask


@dataclass(frozen=True)
class SliceProblem(inverse.ImageProblem):
    """Base of the problems of tomography. A subclass names its `kind` of slices.

    Args:
        slices: ground truths in place of the shipped one: a folder, .npz or .h5 file of images.
    """

    prior = "mri-96"
    kind: ClassVar[str] = ""
    measured_role: ClassVar[Literal["picture", "numbers"]] = "numbers"

    slices: Path | None = None

    @property
    def in_circle(self) -> bool:
        """Whether a slice is empty outside the circle that every view sees."""
        return True

    def resolve_prior(
        self,
        prior: inverse.Prior | str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> inverse.Prior:
        """As `Problem.resolve_prior`; the slice is empty outside the circle, see `InCircle`."""
        found = super().resolve_prior(prior, device, dtype)
        if not self.in_circle or isinstance(found, InCircle) or len(found.shape) != 3:
            return found
        return InCircle(found)

    def prior_notes(self, prior: inverse.Prior) -> list[str]:
        """That no prior of such slices ships."""
        name = getattr(prior, "name", type(prior).__name__)
        if name != self.prior:
            return []
        return [
            f"no prior of {self.kind} slices ships; {name} is a prior of brain MRI and may invent "
            "what belongs there; not for diagnosis"
        ]

    def prepare(self, truth: Tensor) -> Tensor:
        """The central square of a truth (..., H, W), empty outside the circle."""
        side = min(truth.shape[-2:])
        top, left = ((n - side) // 2 for n in truth.shape[-2:])
        square = truth[..., top : top + side, left : left + side]
        if not self.in_circle:
            return square
        inside = torch.from_numpy(circle_mask(side)).to(square.device)
        return torch.where(inside, square, 0.0)

    def pictures(self, prior: inverse.Prior | None = None) -> list[Path]:
        """A slice of an average brain, as a stand-in; no slice of this kind ships."""
        images = Path(str(importlib.resources.files("inverse_data"))) / "images"
        return [images / "mri-96" / "slice.png"]

    def truths(self) -> list[Tensor]:
        """The shipped slice, (1, 96, 96), or those of `slices`, intensities."""
        if self.slices is not None:
            return [self.prepare(image) for image in read_slices(self.slices)]
        read = (inverse.read_image(path, channels=1).pixels for path in self.pictures())
        return [self.prepare(image) for image in read]

    def truths_for(self, prior: inverse.Prior) -> list[Tensor]:
        """The truths, for every prior."""
        return self.truths()

    def side(self, shape: tuple[int, ...]) -> int:
        """Side of a slice (1, N, N).

        Raises: OptionError if it is not grey or not square.
        """
        if len(shape) != 3 or shape[0] != 1 or shape[1] != shape[2]:
            raise OptionError(
                f"{self.name}: a slice is grey and square, (1, N, N), got {tuple(shape)}; "
                "use a grey prior, e.g. --prior mri-96, and a square slice"
            )
        return shape[1]
