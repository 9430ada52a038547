"""Zero filling: the adjoint of the operator, the first look at undersampled k-space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse


@dataclass(frozen=True)
class ZeroFilled(inverse.Method):
    """A^T y / |A|^2 in physical units: what was not measured counts as zero.

    For MRI it is the inverse Fourier transform of k-space, combined over the coils.
    """

    name = "zero-filled"
    group = "baselines"
    reference = "Bernstein, King, Zhou, Handbook of MRI Pulse Sequences, 2004, section 13.1"
    equation = "x = A^T y / |A|^2"
    claim = "none"
    needs = ("linear",)

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        prior = posterior.prior
        black = prior.encode(posterior.zeros())
        step = posterior.A_adjoint(posterior.residual(black)) / posterior.norm**2
        yield black + step


@inverse.hookimpl
def inverse_methods():
    return [ZeroFilled]
