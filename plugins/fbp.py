"""Filtered back-projection: the reconstruction of tomography without a prior."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

import inverse


@dataclass(frozen=True)
class FBP(inverse.Method):
    """The sum over views of the projections, filtered with a ramp and drawn back over the slice.

    Args:
        window: damping of the ramp at high frequencies; ramp is none, hann the strongest.
    """

    name = "fbp"
    group = "baselines"
    reference = (
        "Kak, Slaney, Principles of Computerized Tomographic Imaging, 1988, chapter 3; as "
        "skimage.transform.iradon"
    )
    equation = "x = sum_theta dtheta (p_theta * h)(s(theta))"
    claim = "none"

    window: Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"] = "ramp"

    def unsupported(self, posterior: inverse.Posterior) -> str | None:
        if hasattr(posterior.operator, "filtered_backprojection"):
            return super().unsupported(posterior)
        return (
            "fbp needs an operator with a filtered back-projection, as that of ct; "
            f"this posterior has {type(posterior.operator).__name__}"
        )

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        posterior.cost.A_adjoint_rows += len(posterior)
        slices = posterior.operator.filtered_backprojection(posterior.y, self.window)
        yield posterior.prior.encode(slices)


@inverse.hookimpl
def inverse_methods():
    return [FBP]
