"""Inpainting: the reconstruction of unobserved pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

import inverse
from inverse.errors import InputError, suggestion
from inverse.io.picture_notes import SYNTHETIC, read_note, write_note
from inverse.measurement.noise_estimate import noise_level

PAINTED = "red:"
"""What precedes the file of a painted picture in the option `mask`."""

TOLERANCE = 0.25
"""How far the channels of painted damage may lie from pure red (intensity)."""

MANY = 0.6
"""Fraction of holes above which a mask file is doubted."""

HOLE = (1.0, 0.0, 1.0)
"""Colour of holes in the panel."""


@dataclass(frozen=True)
class Inpainting(inverse.ImageProblem):
    """Missing pixels, the same in every channel; y is zero where nothing was observed.

    Args:
        mask: box (centred), random (single pixels), free-form (brush strokes), the path of a
            mask picture of the image's size (white, or opaque if it has transparency, is observed),
            red (holes are painted red on the image itself) or red:FILE (on a copy of it). Red is at
            least 0.75 red and at most 0.25 green and blue; a hole is one pixel wider.
        invert: whether white, or opaque, is a hole instead.
        missing: fraction of missing pixels of random and free-form, in (0, 1).
        box: side of the box as a fraction of the image's shorter side, in (0, 1).
        mask_seed: random seed of random and free-form.

    Raises: OptionError if missing or box is not in (0, 1).
    """

    name = "inpainting"
    summary = "missing pixels: box, random, free-form or a mask file"
    reference = (
        "box and random as in Chung et al., ICLR 2023; "
        "strokes after Yu et al., Free-Form Image Inpainting, ICCV 2019"
    )

    mask: str = "box"
    missing: Annotated[float, inverse.Range(above=0, below=1)] = 0.5
    box: Annotated[float, inverse.Range(above=0, below=1)] = 0.25
    mask_seed: inverse.Seed = 0
    invert: bool = False

    def observed(self, height: int, width: int) -> Tensor:
        """The mask: boolean (height, width), true where a pixel is observed.

        Raises: InputError if the mask is unknown, has another size or observes no pixel.
        """
        makers = {"box": self._box, "random": self._random, "free-form": self._free_form}
        if self.mask == "red":
            raise InputError(
                "inpainting: mask=red needs a painted picture; give it with --restore, or as "
                "mask=red:FILE"
            )
        if self.mask.startswith(PAINTED):
            makers[self.mask] = self._from_paint
        if self.mask not in makers and not Path(self.mask).exists():
            raise InputError(
                f"inpainting: mask '{self.mask}' is neither a file nor a known mask; "
                f"{suggestion(self.mask, [*makers, 'red'])}"
            )
        mask = makers.get(self.mask, self._from_file)(height, width) ^ self.invert
        if not bool(mask.any()):
            raise InputError("inpainting: the mask leaves no pixel observed; use another mask")
        return mask

    def open(self, file: Path, prior: inverse.Prior, measured: bool):
        """Read a picture or array, whose pixels in holes may be NaN, and say how much is missing.

        Raises: InputError if the file or the mask cannot be used.
        """
        _, values, notes = super().open(file, prior, measured)
        problem = replace(self, mask=f"{PAINTED}{file}") if self.mask == "red" else self
        observed = problem.observed(*values.shape[-2:])
        if measured:
            values = torch.where(observed, values, torch.zeros_like(values))
        share = 1 - float(observed.double().mean())
        return problem, values, [*notes, f"{share:.1%} of the pixels will be filled"]

    def file_notes(self) -> list[str]:
        """The notes from reading the mask file."""
        if not Path(self.mask).is_file():
            return []
        return [f"mask: {note}" for note in inverse.read_mask(self.mask)[1]]

    def doubt(self, y: Tensor) -> str | None:
        """That a mask of a file leaves less than two fifths of the pixels."""
        if self.mask in ("box", "random", "free-form"):
            return None
        share = 1 - float(self.observed(*y.shape[-2:]).double().mean())
        if share <= MANY:
            return None
        return (
            f"mask {self.mask} marks {share:.1%} of the pixels as holes; if it is meant the "
            f"other way round, state --problem-option invert={str(not self.invert).lower()}"
        )

    def with_holes(self, y: Tensor) -> Tensor:
        """Holes in magenta, for the panel."""
        observed = self.observed(*y.shape[-2:])
        return torch.where(observed, y, y.new_tensor(HOLE)[:, None, None])

    def export(self, result: inverse.Result, folder: Path) -> None:
        """Write the usual files; the reconstruction inherits the note of a synthetic mask."""
        super().export(result, folder)
        note = read_note(Path(self.mask))
        if note.startswith(SYNTHETIC) and (folder / "reconstruction.png").is_file():
            write_note(folder / "reconstruction.png", note)

    def estimated_sigma_y(self, y: Tensor) -> float | None:
        """The noise level of the observed pixels; see `noise_level`."""
        return noise_level(y, self.observed(*y.shape[-2:]))

    def operator(self, shape: tuple[int, ...]):
        """The product of an image (C, H, W) with the mask."""
        mask = self.observed(*shape[-2:]).float()
        return inverse.physics.Inpainting(img_size=shape, mask=mask.expand(shape).clone())

    def noise(self, shape: tuple[int, ...]):
        """White Gaussian noise of the observed pixels."""
        return inverse.GaussianNoise(self.sigma_y, observed=self.observed(*shape[-2:]))

    def _box(self, height: int, width: int) -> Tensor:
        side = max(1, round(self.box * min(height, width)))
        top, left = (height - side) // 2, (width - side) // 2
        observed = torch.ones(height, width, dtype=torch.bool)
        observed[top : top + side, left : left + side] = False
        return observed

    def _random(self, height: int, width: int) -> Tensor:
        generator = inverse.seeded(self.mask_seed, "random mask")
        return torch.rand(height, width, generator=generator, dtype=torch.float32) >= self.missing

    def _free_form(self, height: int, width: int) -> Tensor:
        """Strokes of connected segments with round ends, drawn until `missing` is reached."""
        generator = inverse.seeded(self.mask_seed, "free-form mask")
        size = min(height, width)
        corner = torch.tensor([height - 1.0, width - 1.0])
        observed = torch.ones(height, width, dtype=torch.bool)
        while 1 - observed.float().mean() < self.missing:
            u = torch.rand(4, generator=generator, dtype=torch.float32)
            start, angle = u[:2] * torch.tensor([height, width]), float(u[2]) * 2 * math.pi
            radius = size * (0.02 + 0.03 * float(u[3]))
            draws = torch.rand(6, 2, generator=generator, dtype=torch.float32)
            for turn, length in draws.tolist():
                angle += (turn - 0.5) * math.pi / 1.5
                direction = torch.tensor([math.sin(angle), math.cos(angle)])
                step = size * (0.05 + 0.15 * length) * direction
                observed &= _distance_to_segment(height, width, start, step) > radius
                start = (start + step).clamp(torch.zeros(2), corner)
        return observed

    def _from_file(self, height: int, width: int) -> Tensor:
        return self._of_size(inverse.read_mask(self.mask)[0], height, width)

    def _from_paint(self, height: int, width: int) -> Tensor:
        file = self.mask.removeprefix(PAINTED)
        red, *others = inverse.read_image(file).pixels
        painted = (red >= 1 - TOLERANCE) & (torch.maximum(*others) <= TOLERANCE)
        if not bool(painted.any()):
            raise InputError(
                f"inpainting: no pixel of {file} is red (red at least {1 - TOLERANCE:g}, green and "
                f"blue at most {TOLERANCE:g}); paint the damage with pure red"
            )
        wider = torch.nn.functional.max_pool2d(painted[None].float(), 3, 1, 1)[0] > 0
        return self._of_size(~wider, height, width)

    def _of_size(self, mask: Tensor, height: int, width: int) -> Tensor:
        if mask.shape != (height, width):
            raise InputError(
                f"inpainting: mask {self.mask} has {mask.shape[0]}x{mask.shape[1]} pixels, "
                f"the image {height}x{width}; resize the mask"
            )
        return mask


def _distance_to_segment(height: int, width: int, start: Tensor, step: Tensor) -> Tensor:
    """Distance (pixels) of every pixel from the segment [start, start + step]: (H, W)."""
    rows, columns = torch.meshgrid(
        torch.arange(height).float(), torch.arange(width).float(), indexing="ij"
    )
    along = ((rows - start[0]) * step[0] + (columns - start[1]) * step[1]) / step.square().sum()
    along = along.clamp(0, 1)
    return torch.hypot(rows - start[0] - along * step[0], columns - start[1] - along * step[1])


@inverse.hookimpl
def inverse_problems():
    return [Inpainting]
