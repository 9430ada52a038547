"""Linear solves with a posterior's operator: (A S A^T + R)^-1, proximal maps, the pseudo-inverse.

`Posterior` inherits them, with spectral filters and the operator norm. They are closed-form for a
decomposable operator and iterative (`linalg`) otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from inverse.errors import OperatorError, UnsupportedError
from inverse.execution import CG, Cost, Execution
from inverse.measurement.linalg import (
    conjugate_gradient,
    eigenvalues,
    functional_calculus,
    norm_squared,
    spectral_filter,
)
from inverse.measurement.noise import GaussianNoise, Noise
from inverse.measurement.spectrum import Spectrum, approximate_spectrum
from inverse.rows import like
from inverse.sampling.langevin import langevin
from inverse.seeding import Generators


class ModelUnits(Protocol):
    """The affine map from model units to physical units: physical = scale * model + shift."""

    scale: float

    def decode_adjoint(self, v: Tensor) -> Tensor:
        """scale * v, the adjoint of the linear part of the map."""


class LinearSolves(ABC):
    """The linear algebra of a posterior, in model units.

    The solves need a linear operator and Gaussian noise. Errors: UnsupportedError otherwise.
    """

    prior: ModelUnits
    operator: Any
    noise: Noise
    execution: Execution
    y: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    linear: bool
    decomposable: bool
    gaussian: bool

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """What was evaluated so far."""

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """The clean measurement of x: (B, *shape) -> (B, *out_shape), units of y."""

    @abstractmethod
    def A_adjoint(self, v: Tensor) -> Tensor:
        """Adjoint of the linear part of A: (B, *out_shape) -> (B, *shape)."""

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """y - A(x), units of y."""

    def zeros(self) -> Tensor:
        """Zeros (B, *shape): mid-grey in model units; a black image once encoded."""
        return torch.zeros(len(self.y), *self.shape, dtype=self.dtype, device=self.device)

    @abstractmethod
    def likelihood_score(self, x: Tensor) -> Tensor:
        """grad_x log p(y | x): (B, *shape) -> (B, *shape)."""

    @property
    @abstractmethod
    def sigma_y(self) -> float:
        """Standard deviation of Gaussian noise, units of y."""

    def solve_normal(
        self,
        v: Tensor,
        signal: Tensor | float | Callable[[Tensor], Tensor] = 1.0,
        solve: Callable[..., Tensor] = conjugate_gradient,
        settings: CG | None = None,
    ) -> Tensor:
        """(A S A^T + R)^-1 v, with R the noise covariance: v (B, *out_shape) -> same.

        The solve is exact for a decomposable operator with a single sigma_y and a scalar signal
        (or one scalar per row), and iterative otherwise. For a singular matrix (no noise) it
        applies the pseudo-inverse.

        Args:
            signal: S: a scalar () or (B,), a diagonal (B, *shape) >= 0, or a map x -> S x.
            solve: `conjugate_gradient`, or `gmres` for an S that need not be symmetric.
            settings: settings of the iteration; by default those of `execution`.

        Raises: UnsupportedError for a nonlinear operator or non-Gaussian noise.
        """
        self._need_linear_gaussian("solve_normal")
        assert isinstance(self.noise, GaussianNoise)
        variance = self.noise.variance(v)
        if self._closed_form and not callable(signal) and _is_scalar(signal):
            return functional_calculus(
                self.operator, v, partial(self._inverse, signal), self._gains
            )
        covariance = (
            signal
            if callable(signal)
            else lambda x: (like(signal, x) if _is_scalar(signal) else signal) * x
        )
        settings = settings or self.execution.solver
        if variance.ndim == 0 or self.noise.noiseless:
            if solve is conjugate_gradient and not callable(signal):
                solve = partial(solve, precondition=self._near_inverse(signal, variance))
            return solve(
                lambda u: self._A_linear(covariance(self.A_adjoint(u))) + variance * u,
                v,
                settings=settings,
            )
        # Whiten y: a noisy entry's residual would otherwise hide the others from the iteration.
        white = variance.rsqrt()
        return white * solve(
            lambda u: white * self._A_linear(covariance(self.A_adjoint(white * u))) + u,
            white * v,
            settings=settings,
        )

    @property
    def _closed_form(self) -> bool:
        """Whether a function of A A^T + R is a function of the singular values of A."""
        return (
            self.decomposable
            and isinstance(self.noise, GaussianNoise)
            and self.noise.variance(self.y).ndim == 0
        )

    @cached_property
    def _gains(self) -> Tensor:
        """Eigenvalues of A A^T (model units), broadcastable to coefficients in the basis of A."""
        return self.prior.scale**2 * eigenvalues(self.operator, self.y)

    def _inverse(self, signal: Tensor | float, gains: Tensor, coefficients: Tensor) -> Tensor:
        """1 / (signal gains + sigma_y^2), or 0 where singular; broadcasts to coefficients."""
        assert isinstance(self.noise, GaussianNoise)
        weight = like(signal, coefficients)
        total = weight * gains + self.noise.variance(self.y)
        if not self.noise.noiseless:
            return 1 / total
        small = total <= torch.finfo(coefficients.dtype).eps * weight
        return torch.where(
            small, torch.zeros_like(total), 1 / torch.where(small, torch.ones_like(total), total)
        )

    def _filtered_adjoint(self, v: Tensor, f: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """f(A^T A) A^T v = V s f(s^2) U^T v for a decomposable operator, counted as one A^T.

        v (B, *out_shape) -> (B, *shape).
        """
        self.cost.A_adjoint_rows += v.shape[0]
        coefficients = self.operator.U_adjoint(v)
        s = torch.as_tensor(self.operator.mask, device=v.device)
        return self.operator.V(
            self.prior.scale * s.conj() * f(self._gains, coefficients) * coefficients
        )

    def _backprojection(self, v: Tensor, signal: Tensor | float) -> Tensor:
        """A^T (A A^T signal + R)^-1 v: (B, *out_shape) -> (B, *shape)."""
        if self._closed_form:
            return self._filtered_adjoint(v, partial(self._inverse, signal))
        return self.A_adjoint(self.solve_normal(v, signal))

    def prox(self, z: Tensor, variance: Tensor | float) -> Tensor:
        """argmin_x -log p(y | x) + |x - z|^2 / (2 variance): z (B, *shape) -> same.

        This is the mean of x ~ N(z, variance I) given y.

        Args:
            variance: () or (B,), model units squared.

        Raises: UnsupportedError for a nonlinear operator or non-Gaussian noise.
        """
        self._need_linear_gaussian("prox")
        return z + like(variance, z) * self._backprojection(self.residual(z), variance)

    def prox_sample(self, z: Tensor, variance: Tensor | float, generator: Generators) -> Tensor:
        """A draw of x ~ N(z, variance I) given y: z (B, *shape) -> same; exact up to the solve.

        Args:
            variance: () or (B,), model units squared.

        Raises: UnsupportedError for a nonlinear operator or non-Gaussian noise.
        """
        self._need_linear_gaussian("prox_sample")
        x = z + like(variance, z).sqrt() * generator.randn_like(z)
        return self.corrected_draw(
            x, lambda r: like(variance, z) * self._backprojection(r, variance), generator
        )

    def corrected_draw(
        self,
        x: Tensor,
        gain: Callable[[Tensor], Tensor],
        generator: Generators,
        power: float = 1.0,
    ) -> Tensor:
        """x + K (y + n - A x), n ~ N(0, R / power): draws of N(m, C) p(y | x)^power, (B, *shape).

        Args:
            x: draws of N(m, C), (B, *shape).
            gain: r -> K r, with K = C A^T (A C A^T + R / power)^-1: (B, *out_shape) -> (B, *shape).
            power: of the likelihood, positive.

        Source: Papandreou, Yuille, Gaussian Sampling by Local Perturbations, NIPS 2010.
        """
        assert isinstance(self.noise, GaussianNoise)
        variance = self.noise.variance(self.y) / power
        r = self.residual(x) + variance.sqrt() * generator.randn_like(self.y)
        return x + gain(r)

    def prox_langevin(
        self, z: Tensor, variance: Tensor | float, generator: Generators, steps: int, rate: float
    ) -> Tensor:
        """An approximate draw of x ~ N(z, variance I) given y: z (B, *shape) -> same.

        Unadjusted Langevin steps from z, for any differentiable likelihood.

        Args:
            variance: () or (B,), model units squared.
            steps: number of Langevin steps.
            rate: step as a fraction of 1 / (1 / variance + h), where h is the curvature of the
                likelihood for an operator of norm 1 (1 / sigma_y^2 in model units; 1e4 for noise
                without sigma_y).
        """
        curvature = (
            (self.prior.scale / self.sigma_y) ** 2 if self.gaussian and self.sigma_y > 0 else 1e4
        )
        step = rate / (1 / like(variance, z) + curvature)
        return langevin(
            z,
            step,
            steps,
            score=lambda x: (z - x) / like(variance, z),
            gradient=self.likelihood_score,
            generator=generator,
        )

    def A_dagger(self, v: Tensor) -> Tensor:
        """A^+ v, the pseudo-inverse of the linear part of A: (B, *out_shape) -> (B, *shape).

        Closed form for a decomposable operator, conjugate gradients otherwise.
        """
        if self.decomposable:
            return self._filtered_adjoint(
                v, lambda gains, _: torch.where(self._eigenvalues > 0, 1 / gains, 0.0)
            )
        return conjugate_gradient(
            lambda u: self.A_adjoint(self._A_linear(u)),
            self.A_adjoint(v),
            settings=self.execution.solver,
        )

    def filter(
        self,
        x: Tensor,
        f: Callable[[Tensor], Tensor],
        *more: tuple[Tensor, Callable[[Tensor], Tensor]],
    ) -> Tensor:
        """f(A^T A) x for a decomposable operator: (B, *shape) -> same.

        Singular values below 1e-5 of the largest count as zero.

        Args:
            f: function of the eigenvalues of A^T A (squared singular values, model units).
            more: further pairs (x, f); their terms are added and share one transform back.

        Raises: UnsupportedError for an operator without known singular values.
        """
        if not self.decomposable:
            raise UnsupportedError(
                "filter needs an operator with known singular values, "
                f"this posterior has {type(self.operator).__name__}"
            )
        return spectral_filter(self.operator, [(x, f), *more], self._eigenvalues)

    @cached_property
    def _eigenvalues(self) -> Tensor:
        """Eigenvalues of A^T A: `_gains` with rounding errors set to zero."""
        return torch.where(self._gains > 1e-10 * self._gains.max(), self._gains, 0.0)

    def pseudo_inverse(self) -> Tensor:
        """A^T (A A^T + R)^-1 (y - A(0)), the pseudo-inverse of y damped at the noise level.

        Zero for a nonlinear operator or non-Gaussian noise; (B, *shape).
        """
        zero = self.zeros()
        return self.prox(zero, 1.0) if self.linear and self.gaussian else zero

    @cached_property
    def norm_squared(self) -> float:
        """Largest eigenvalue of A^T A in model units (power iteration from a fixed start).

        For a nonlinear operator, that of the map to physical units alone.
        """
        if not self.linear:
            return self.prior.scale**2
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(1, *self.shape, generator=generator).to(self.device, self.dtype)
        return float(
            norm_squared(
                lambda u: self.prior.decode_adjoint(
                    self.operator.A_adjoint(self.operator.A(self.prior.scale * u))
                ),
                start,
            )
        )

    @property
    def norm(self) -> float:
        """The root of `norm_squared`, by which steps are divided.

        Raises: OperatorError if it is zero: such an operator measures nothing.
        """
        if self.norm_squared == 0:
            raise OperatorError(
                f"{type(self.operator).__name__}: A maps every image to zero, so y says nothing "
                "about x; check the mask or the kernel of the operator"
            )
        return self.norm_squared**0.5

    def _near_inverse(
        self, signal: Tensor | float, variance: Tensor
    ) -> Callable[[Tensor], Tensor] | None:
        """An approximation of v -> (A S A^T + R)^-1 v as preconditioner, or None.

        S and R > 0 are multiples of I; a diagonal S is replaced by its mean. It exists in closed
        form and for operators close to a convolution.
        """
        assert isinstance(self.noise, GaussianNoise)
        if variance.ndim or self.noise.noiseless:
            return None
        mean: Any = signal
        if not _is_scalar(signal):
            mean = signal.flatten(1).mean(1)  # type: ignore[union-attr]
        if self._closed_form:
            return lambda v: functional_calculus(
                self.operator, v, partial(self._inverse, mean), self._gains
            )
        if self.y.ndim != 4 or (spectrum := self._spectrum) is None:
            return None
        return lambda v: spectrum.apply(lambda lam: 1 / (like(mean, v) * lam + variance), v)

    @cached_property
    def _spectrum(self) -> Spectrum | None:
        """Approximate spectrum of A A^T in model units; its two evaluations are not counted."""
        return approximate_spectrum(
            lambda v: self.prior.scale**2 * self.operator.A(self.operator.A_adjoint(v)), self.y
        )

    def _A_linear(self, x: Tensor) -> Tensor:
        """The linear part of A."""
        self.cost.A_rows += x.shape[0]
        return self.operator.A(self.prior.scale * x)

    def _need_linear_gaussian(self, name: str) -> None:
        if not (self.linear and self.gaussian):
            raise UnsupportedError(
                f"{name} needs a linear operator with Gaussian noise, "
                f"this posterior has {type(self.operator).__name__} with {self.noise!r}"
            )


def _is_scalar(signal: Tensor | float) -> bool:
    """Whether `signal` is a scalar, or has a single scalar for each row."""
    return not torch.is_tensor(signal) or signal.ndim <= 1 or signal[0].numel() == 1
