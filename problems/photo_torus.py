"""A Gaussian image of 64x64 pixels with the spectrum of photographs; closed-form posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import InputError, OptionError
from inverse.measurement.noise import GaussianNoise
from inverse.measurement.operators import separable
from inverse.priors.analytic import Exact
from inverse.priors.field import FieldPrior, MeasuredField
from inverse_problems._conjugate import photographic_spectrum


@dataclass(frozen=True)
class PhotoTorus(inverse.Problem):
    """The law of `photo-field` at the size of an image, without a covariance matrix.

    Fourier transforms evaluate the denoiser, and the posterior is known by its mean, its draws and
    the variance of each frequency.

    Args:
        side: side of the image (pixels), a multiple of 4.
        view: reduction (means of 4x4 pixels), blur (5x5 mean on a torus) or pixels (a fifth of the
            pixels, chosen at random; y is an image with zeros for the others).

    Raises: OptionError if side is not 8, 12, ..., 128.
    """

    name = "photo-torus"
    summary = (
        "64x64 Gaussian image with the spectrum of photographs, closed-form posterior: "
        "x4 reduction, a blur or a fifth of the pixels"
    )
    prior: ClassVar[str] = ""
    cases: ClassVar[dict[str, dict[str, Any]]] = {
        f"64 px {view}": {"view": view} for view in ("reduction", "blur", "pixels")
    }
    photographic: ClassVar[bool] = True
    thorough: ClassVar[bool] = True

    sigma_y: inverse.Positive = 0.05
    side: Annotated[int, inverse.Range(8, 128)] = 64
    view: Literal["reduction", "blur", "pixels"] = "reduction"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side % 4:
            raise OptionError(f"{self.name}: side must be a multiple of 4, got {self.side}")

    def make_prior(self) -> FieldPrior:
        """The field of images (1, side, side), float64."""
        zero = torch.zeros(1, self.side, self.side, dtype=torch.float64)
        spectrum = photographic_spectrum(self.side)
        return FieldPrior(
            zero, lambda height, width: spectrum, tuple(zero.shape), shift=0.5, scale=0.5
        )

    def operator(self, shape: tuple[int, ...]) -> Any:
        """The operator of images (1, side, side)."""
        if self.view == "pixels":
            return inverse.physics.Inpainting(img_size=shape, mask=self._observed().double())
        if self.view == "blur":
            kernel = torch.full((1, 1, 5, 5), 1 / 25, dtype=torch.float64)
            return inverse.physics.BlurFFT(img_size=shape, filter=kernel)
        return separable(self._means(), self._means())

    def noise(self, shape: tuple[int, ...]) -> GaussianNoise:
        """White Gaussian noise of the observed entries."""
        observed = self._observed() if self.view == "pixels" else None
        return GaussianNoise(self.sigma_y, observed=observed)

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of x: (1, side, side)."""
        return (1, self.side, self.side)

    def truths(self) -> list[Tensor]:
        """Four draws of the field with a fixed seed, (1, side, side) each, intensities."""
        law = self.make_prior()
        return list(law.decode(law.sample(4, inverse.seeded(self.name, "truths"))))

    def exact(self, y: Tensor) -> Exact:
        """The posterior of one measurement y (1, h, w) or (1, 1, h, w), and its evidence.

        Raises: InputError if y has another number of entries.
        """
        law, y = self.make_prior(), y.double().cpu().flatten()
        m = {"reduction": self.side**2 // 16}.get(self.view, self.side**2)
        if len(y) != m:
            raise InputError(
                f"{self.name}: a measurement has {m} entries, got {len(y)}; pass one measurement"
            )
        if self.view == "blur":
            offset = torch.zeros(self.side, dtype=torch.float64)
            offset[[-2, -1, 0, 1, 2]] = 1 / 5
            transfer = torch.fft.fft2(torch.outer(offset, offset))
            y = y.reshape(1, self.side, self.side)
            evidence = float(law.log_evidence(transfer, self.sigma_y, y))
            return Exact(law.given(transfer, self.sigma_y, y), evidence)
        A = torch.kron(self._means(), self._means())
        if self.view == "pixels":
            seen = self._observed().flatten()
            A, y = torch.eye(len(seen), dtype=torch.float64)[seen], y[seen]
        measured = MeasuredField(law, A, self.sigma_y, y)
        return Exact(measured, measured.log_evidence)

    def _means(self) -> Tensor:
        """Means of 4 neighbours: (side / 4, side)."""
        return torch.eye(self.side // 4, dtype=torch.float64).repeat_interleave(4, 1) / 4

    def _observed(self) -> Tensor:
        """The pixels that are observed, a fifth: boolean (1, side, side)."""
        n = self.side**2
        order = torch.randperm(n, generator=inverse.seeded(self.name, "pixels"))
        return (order.argsort() < n // 5).reshape(1, self.side, self.side)


@inverse.hookimpl
def inverse_problems():
    return [PhotoTorus]
