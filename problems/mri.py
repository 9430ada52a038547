"""Accelerated MRI: a slice measured on some lines of its Fourier transform."""

from __future__ import annotations

import functools
import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

import inverse
from inverse.errors import InputError, OptionError
from inverse.io.arrays import datasets
from inverse.io.images import read_complex


@dataclass(frozen=True)
class MRI(inverse.ImageProblem):
    """Single-coil Cartesian sampling of a real (magnitude) slice of any size: y = M F x + noise.

    F is the centred orthonormal 2-D Fourier transform and M the mask. y has two channels (2, H, W),
    the real and the imaginary part, both zero where the mask is. A measured line is a column (a
    phase encoding); its real and imaginary parts each carry noise of standard deviation sigma_y.
    F preserves lengths, so sigma_y is in intensities too: if all lines are measured, the real part
    of the inverse transform has noise of that standard deviation.

    Args:
        mask: random or equispaced lines beside a fully measured centre, or the path of a mask
            picture (white = measured) of the slice's size.
        acceleration: ratio of all columns to measured columns, from 1 to 1000.
        centre: fraction of the columns in the fully measured centre; by default
            0.32 / acceleration, i.e. 8 % at acceleration 4 and 4 % at 8.
        mask_seed: random seed of the random lines and of the offset of equispaced lines.
        sigma_y: standard deviation of the noise of each real and imaginary part (intensities).

    Raises: OptionError if acceleration or centre is out of range.
    """

    name = "mri"
    summary = "accelerated single-coil MRI: random or equispaced Cartesian lines, or a mask file"
    reference = (
        "Zbontar et al., fastMRI, 2018, https://arxiv.org/abs/1811.08839: accelerations 4 and 8 "
        "with centres of 8 and 4 %. The paper draws each random line independently, so that their "
        "number varies; `acceleration` fixes their number."
    )
    prior = "mri-96"

    mask: str = "random"
    acceleration: Annotated[float, inverse.Range(1, 1000)] = 4.0
    centre: inverse.Fraction | None = None
    mask_seed: inverse.Seed = 0
    sigma_y: inverse.NonNegative = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self._centre * self.acceleration <= 1:
            raise OptionError(
                f"mri: centre must be from 0 to 1 / acceleration, got {self._centre:g} "
                f"at acceleration {self.acceleration:g}"
            )

    @property
    def _centre(self) -> float:
        return 0.32 / self.acceleration if self.centre is None else self.centre

    def sampled(self, height: int, width: int) -> Tensor:
        """The measured frequencies: boolean (height, width), zero frequency at (H // 2, W // 2).

        Raises: InputError if the mask is unknown, has another size or measures nothing.
        """
        if self.mask in ("random", "equispaced"):
            return self._lines(width).expand(height, width)
        if not Path(self.mask).exists():
            raise InputError(
                f"mri: mask '{self.mask}' is neither a file nor a known mask; "
                "known: random, equispaced"
            )
        mask, _ = inverse.read_mask(self.mask)
        if mask.shape != (height, width):
            raise InputError(
                f"mri: mask {self.mask} has {mask.shape[0]}x{mask.shape[1]} pixels, "
                f"the slice {height}x{width}; resize the mask"
            )
        if not bool(mask.any()):
            raise InputError(f"mri: mask {self.mask} leaves nothing measured; use another mask")
        return mask

    def _lines(self, width: int) -> Tensor:
        """The measured columns, boolean (width,): the centre, and others up to the acceleration."""
        centre = round(width * self._centre)
        lines = max(1, round(width / self.acceleration), centre)
        measured = torch.zeros(width, dtype=torch.bool)
        first = width // 2 - centre // 2
        measured[first : first + centre] = True
        rest, count = torch.nonzero(~measured).flatten(), lines - centre
        generator = inverse.seeded(self.mask_seed, "mri lines")
        if self.mask == "random":
            chosen = rest[torch.randperm(len(rest), generator=generator)[:count]]
        else:
            offset = torch.rand(1, generator=generator, dtype=torch.float64)
            chosen = rest[((torch.arange(count) + offset) * len(rest) / max(count, 1)).long()]
        measured[chosen] = True
        return measured

    def operator(self, shape: tuple[int, ...]) -> Any:
        """The masked Fourier transform of a slice (1, H, W) -> (2, H, W).

        Raises: OptionError if the image has several channels.
        """
        if len(shape) != 3 or shape[0] != 1:
            raise OptionError(
                f"mri: a slice is grey, (1, height, width), got {tuple(shape)}; "
                "use a grey prior, e.g. --prior mri-96"
            )
        return _sampled_fourier()(self.sampled(*shape[-2:]))

    def noise(self, shape: tuple[int, ...]):
        """White Gaussian noise of the measured frequencies."""
        return inverse.GaussianNoise(self.sigma_y, observed=self.sampled(*shape[-2:]))

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the slice, (1, H, W)."""
        return (1, *y_shape[1:])

    def pictures(self, prior: inverse.Prior | None = None) -> list[Path]:
        """One slice of an average brain, for every prior; `mri-96` was trained on single brains."""
        images = Path(str(importlib.resources.files("inverse_data"))) / "images"
        return [images / "mri-96" / "slice.png"]

    def truths(self) -> list[Tensor]:
        """The shipped slice, (1, 96, 96), intensities."""
        return [inverse.read_image(path, channels=1).pixels for path in self.pictures()]

    def open(self, file: Path, prior: inverse.Prior, measured: bool):
        """Read a slice or a measurement: complex (H, W) or real (2, H, W) in .npy, .npz or .h5.

        Several slices of one coil, (slices, H, W) or (slices, 1, H, W) as in fastMRI's `kspace`,
        give the middle one.

        Raises: InputError if the file is of another kind or has several coils.
        """
        if not measured:
            return super().open(file, prior, measured)
        spectrum = read_complex(file)
        if spectrum is None:
            picture = inverse.read_image(file, channels=2, role="numbers")
            return self, picture.pixels, list(picture.notes)
        notes = ["complex"]
        sides = tuple(spectrum.shape)
        if spectrum.ndim == 4 and spectrum.shape[1] == 1:
            spectrum = spectrum[:, 0]
        if spectrum.ndim == 3 and (len(spectrum) == 1 or "kspace" in datasets(file)):
            if len(spectrum) > 1:
                notes.append(f"slice {len(spectrum) // 2} of {len(spectrum)}, counted from 0")
            spectrum = spectrum[len(spectrum) // 2]
        if spectrum.ndim != 2:
            raise InputError(
                f"{file}: complex numbers of shape {sides}; this problem takes one coil and one "
                "slice, (height, width); combine the coils first"
            )
        return self, torch.view_as_real(spectrum).movedim(-1, 0), notes

    def as_pictures(self, y: Tensor, operator: Any) -> Tensor:
        """The zero-filled reconstruction A^T y: (B, 2, H, W) -> (B, 1, H, W)."""
        return operator.A_adjoint(y)


@functools.cache
def _sampled_fourier() -> Any:
    mixin, base = inverse.physics.mri.MRIMixin, inverse.physics.DecomposablePhysics

    class SampledFourier(mixin, base):  # type: ignore[valid-type, misc]
        """A = M F of a real image, x (B, 1, H, W) -> y (B, 2, H, W), and its SVD A = U s V^T.

        A^T A is a convolution with eigenvalue s_k^2 = (m_k + m_-k) / 2 at frequency k, because the
        transform of a real image at k determines its value at -k. Since s_-k = s_k, the orthonormal
        Hartley transform H = Re F - Im F, which is its own inverse, diagonalises A^T A: V = H and
        U = M F H / s.
        """

        def __init__(self, sampled: Tensor):
            m = sampled.float()[None, None]
            places = (-2, -1)
            mirrored = torch.fft.ifftshift(m, dim=places).flip(places).roll((1, 1), places)
            opposite = torch.fft.fftshift(mirrored, dim=places)
            super().__init__(mask=((m + opposite).double() / 2).sqrt())
            self.register_buffer("sampled", m)
            self.sampled: Tensor

        def A(self, x: Tensor, **_: Any) -> Tensor:
            spectrum = self.fft(torch.complex(x, torch.zeros_like(x)))[:, 0]
            return self.sampled * torch.view_as_real(spectrum).movedim(-1, 1)

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return self.ifft(self.to_torch_complex(self.sampled * y)).real[:, None]

        def V(self, c: Tensor, **_: Any) -> Tensor:
            transform = self.fft(torch.complex(c, torch.zeros_like(c)))
            return transform.real - transform.imag

        def V_adjoint(self, x: Tensor) -> Tensor:
            return self.V(x)

        def U(self, c: Tensor) -> Tensor:
            return self.A(self.V(self._whitened(c)))

        def U_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return self._whitened(self.V(self.A_adjoint(y)))

        def _whitened(self, c: Tensor) -> Tensor:
            return torch.where(self.mask > 0, c / self.mask.clamp_min(0.5), 0.0)

    return SampledFourier


@inverse.hookimpl
def inverse_problems():
    return [MRI]
