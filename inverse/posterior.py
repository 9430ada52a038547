"""The posterior p(x | y): all that a method sees, in model units, with every evaluation counted.

    y = A(x) + noise,    posterior.A(x) = operator.A(prior.decode(x)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from inverse import operators
from inverse.errors import InputError, OptionError, UnsupportedError
from inverse.linalg import CG, conjugate_gradient, functional_calculus, norm_squared, spectral_filter
from inverse.noise import GaussianNoise, Noise
from inverse.prior import Prior, like
from inverse.seeding import Generators
from inverse.tiling import tiled


@dataclass
class Cost:
    """What a solve evaluated, counted in rows of its batch; the properties divide by the rows, giving evaluations per sample."""

    rows: int = 1
    prior_rows: int = 0
    vjp_rows: int = 0
    A_rows: int = 0
    A_adjoint_rows: int = 0

    @property
    def nfe(self) -> float:
        """Prior (network) evaluations per sample."""
        return self.prior_rows / self.rows

    @property
    def vjp(self) -> float:
        """Vector-Jacobian products of the prior per sample."""
        return self.vjp_rows / self.rows

    @property
    def A(self) -> float:
        """Operator evaluations per sample."""
        return self.A_rows / self.rows

    @property
    def A_adjoint(self) -> float:
        """Adjoint (or operator-VJP) evaluations per sample."""
        return self.A_adjoint_rows / self.rows


@dataclass(frozen=True)
class Execution:
    """How evaluations are carried out; no method's code depends on it.

    Args:
        autocast: "bf16" or "fp16" to run the prior in that precision with float32 state; None for the prior's own.
        tile: side of the tiles (pixels, rounded down to the prior's stride) in which a local prior denoises images larger than `tile_above`.
        tile_above: pixels of an image above which it is tiled.
        max_pixels: rows x pixels in one prior call; larger batches go through in parts.
        solver: conjugate-gradient settings of `solve_normal`.
    """

    autocast: str | None = None
    tile: int = 1024
    tile_above: int = 1024 * 1536
    max_pixels: int = 1 << 22
    solver: CG = field(default_factory=CG)


class Posterior:
    """p(x | y) of a prior, an operator, a noise model and a batch of measurements.

    Args:
        prior: the denoiser; used as it is, on its own device.
        operator: a deepinv physics object in physical units; cloned here, never changed.
        noise: the law of y given A(x); by default the operator's own noise model.
        y: measurements (B, *out_shape).
        shape: of one x; by default the prior's, where that is fully known, or that of A^T y.
        dtype: of x and of the operator's arithmetic.
        truth: the images (B, *shape) behind y in physical units, where known. It is dropped by `rows`: a method never sees it.
        execution: how evaluations are carried out.
        provenance: what the measurement and the prior came from; carried into the result.

    Raises: InputError if y holds NaN or infinity, or does not fit the operator and the shape.
    """

    def __init__(
        self,
        prior: Prior,
        operator: Any,
        y: Tensor,
        noise: Noise | None = None,
        *,
        shape: tuple[int, ...] | None = None,
        dtype: torch.dtype = torch.float32,
        truth: Tensor | None = None,
        execution: Execution | None = None,
        provenance: dict[str, Any] | None = None,
    ):
        from inverse.noise import likelihood_of

        self.device = next((t.device for t in (*prior.parameters(), *prior.buffers())), y.device)
        self.dtype, self.prior, self.execution = dtype, prior, execution or Execution()
        self.noise = likelihood_of(operator.noise_model) if noise is None else likelihood_of(noise)
        self.operator = operators.clone(operator, self.device, dtype)
        if not bool(torch.isfinite(y).all()):
            bad = int((~torch.isfinite(y)).sum())
            raise InputError(f"measurement: {bad} of {y.numel()} values are NaN or infinite; mask them out or remove them")
        self.y = y.detach().to(self.device, dtype, copy=True)
        self.linear = operators.is_linear(operator) and prior.affine
        self.decomposable = self.linear and operators.is_decomposable(operator)
        self.gaussian = isinstance(self.noise, GaussianNoise)
        self.shape = tuple(shape) if shape is not None else self._infer_shape()
        self.truth, self.provenance = truth, provenance or {}
        self.cost = Cost(rows=len(self.y))
        self._check_shapes()

    def rows(self, samples: int) -> Posterior:
        """The posterior a method receives: each measurement repeated `samples` times in a row, a fresh count, no truth."""
        copy = object.__new__(Posterior)
        copy.__dict__.update(self.__dict__)
        copy.y = self.y.repeat_interleave(samples, dim=0)
        copy.truth, copy.cost = None, Cost(rows=len(copy.y))
        return copy

    def tempered(self, weights: Tensor) -> Posterior:
        """p(x) times the likelihood of each entry of y to a power, for Gaussian noise: its variance is R / weights; the count is shared.

        Args:
            weights: (*out_shape), positive.
        """
        if not isinstance(self.noise, GaussianNoise):
            raise UnsupportedError(f"tempered needs Gaussian noise, this posterior has {self.noise!r}")
        copy = object.__new__(Posterior)
        copy.__dict__.update(self.__dict__)
        copy.noise = GaussianNoise(self.noise.sigma.cpu() / weights.cpu().double().sqrt(), self.noise.observed)
        return copy

    def denoised_by(self, denoise: Callable[[Tensor, Tensor | float], Tensor]) -> Posterior:
        """This posterior with another denoiser, for a method that asks for `denoise` alone; what that evaluates of this one is counted here.

        Args:
            denoise: x (B, *shape), sigma () or (B,) -> (B, *shape).
        """

        def tweedie(x: Tensor, sigma: Tensor | float) -> Any:
            raise UnsupportedError("a denoiser that was replaced has no Jacobian here; use a method that does not differentiate it")

        copy = object.__new__(Posterior)
        copy.__dict__.update(self.__dict__, denoise=denoise, tweedie=tweedie)
        return copy

    @property
    def modalities(self) -> dict[str, slice]:
        """Which entries of the last dimension of y each instrument measured, by the names given to `inverse.stack`; otherwise all are y's."""
        return getattr(self.operator, "modalities", {"y": slice(None)})

    def per_modality(self, values: dict[str, float], default: float = 1.0) -> Tensor:
        """A number for each modality, laid out on the entries of y: (*out_shape).

        Raises: OptionError for a name that is no modality.
        """
        entries = torch.full(tuple(self.y.shape[1:]), default, dtype=self.y.dtype, device=self.y.device)
        for name, value in values.items():
            if name not in self.modalities:
                raise OptionError(f"modality '{name}' is not measured here; measured: {', '.join(self.modalities)}")
            entries[..., self.modalities[name]] = value
        return entries

    def __len__(self) -> int:
        return len(self.y)

    # --- the prior ---------------------------------------------------------------------------------------------------

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x0_hat = E[x0 | x] at noise level sigma: x (B, *shape), sigma () or (B,) -> (B, *shape)."""
        self.cost.prior_rows += len(x)
        with torch.no_grad():
            return self._denoise(x, sigma)

    def tweedie(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """x0_hat and v -> (d x0_hat / d x)^T v; the vjp may be called more than once."""
        self.cost.prior_rows += len(x)
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            x0_hat = self._denoise(x, sigma)

        def vjp(v: Tensor) -> Tensor:
            self.cost.vjp_rows += len(v)
            return torch.autograd.grad(x0_hat, x, v, retain_graph=True)[0]

        return x0_hat.detach(), vjp

    def _denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        dtype, execution = self._prior_dtype, self.execution
        level = torch.as_tensor(sigma, dtype=dtype, device=x.device).reshape(-1).expand(len(x))
        pixels = x[0].numel() // x.shape[1] if x.ndim == 4 else x[0].numel()
        tile = self.prior.halo is not None and x.ndim == 4 and pixels > execution.tile_above
        step = max(1, execution.max_pixels // pixels)
        if not tile and step >= len(x) and execution.autocast is None:
            return self.prior(x.to(dtype), level).to(x.dtype)
        parts = [self._call(part, s, tile) for part, s in zip(x.to(dtype).split(step), level.split(step), strict=True)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(x.dtype)

    def _call(self, x: Tensor, level: Tensor, tile: bool) -> Tensor:
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.execution.autocast or "")
        with torch.autocast(x.device.type, half or torch.bfloat16, enabled=half is not None):
            if tile:
                assert self.prior.halo is not None
                side = max(self.execution.tile // self.prior.stride, 1) * self.prior.stride
                return tiled(self.prior, x, level, side, self.prior.halo)
            return self.prior(x, level)

    @cached_property
    def _prior_dtype(self) -> torch.dtype:
        floating = (t.dtype for t in (*self.prior.parameters(), *self.prior.buffers()) if t.is_floating_point())
        return next(floating, self.dtype)

    # --- the operator ------------------------------------------------------------------------------------------------

    def A(self, x: Tensor) -> Tensor:
        """The clean measurement of x: (B, *shape) -> (B, *out_shape), units of y."""
        self.cost.A_rows += len(x)
        return self.operator.A(self.prior.decode(x))

    def A_adjoint(self, v: Tensor) -> Tensor:
        """Adjoint of the linear part of A: (B, *out_shape) -> (B, *shape)."""
        self.cost.A_adjoint_rows += len(v)
        return self.prior.decode_adjoint(self.operator.A_adjoint(v))

    def A_vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """J_A(x)^T v for any differentiable A; the adjoint when A is linear."""
        if self.linear:
            return self.A_adjoint(v)
        self.cost.A_adjoint_rows += len(v)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.operator.A(self.prior.decode(x)), x, v)[0]

    def residual(self, x: Tensor) -> Tensor:
        """y - A(x), units of y."""
        return self.y - self.A(x)

    @property
    def sigma_y(self) -> float:
        """Standard deviation of Gaussian noise, units of y (root mean square where it varies); raises for other noise."""
        if not isinstance(self.noise, GaussianNoise):
            raise UnsupportedError(f"sigma_y is defined for Gaussian noise, this posterior has {self.noise!r}")
        return float(self.noise.sigma.square().mean().sqrt())

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(y | x) in nats: (B, *shape) -> (B,)."""
        return self.noise.log_prob(self.y, self.A(x))

    def likelihood_score(self, x: Tensor) -> Tensor:
        """grad_x log p(y | x): (B, *shape) -> (B, *shape)."""
        if isinstance(self.noise, GaussianNoise):
            return self.A_vjp(x, self.residual(x) / self.noise.variance(self.y))
        self.cost.A_rows += len(x)
        self.cost.A_adjoint_rows += len(x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self.noise.log_prob(self.y, self.operator.A(self.prior.decode(x)))
            return torch.autograd.grad(value.sum(), x)[0]

    # --- linear solves ----------------------------------------------------------------------------------------------

    def solve_normal(
        self,
        v: Tensor,
        signal: Tensor | float | Callable[[Tensor], Tensor] = 1.0,
        solve: Callable[..., Tensor] = conjugate_gradient,
        settings: CG | None = None,
    ) -> Tensor:
        """(A S A^T + R)^-1 v, R the noise covariance, S = signal I or x -> S x: v (B, *out_shape) -> (B, *out_shape).

        Exact for a decomposable operator with one sigma_y and a number (or one per row) as signal, iterative otherwise. Where the
        matrix is singular (no noise) the pseudo-inverse is meant.

        Args:
            solve: `conjugate_gradient`, or `gmres` for an S that need not be symmetric.
            settings: of the iteration; by default those of `execution`.
        """
        self._need_linear_gaussian("solve_normal")
        assert isinstance(self.noise, GaussianNoise)
        variance = self.noise.variance(v)
        if self.decomposable and variance.ndim == 0 and not callable(signal):
            gain = self.prior.scale**2

            def inverse(lam: Tensor, at: Tensor) -> Tensor:
                weight = like(signal, at) * gain
                total = weight * lam + variance
                small = total <= torch.finfo(v.dtype).eps * weight * (variance == 0)
                return torch.where(small, torch.zeros_like(total), 1 / torch.where(small, torch.ones_like(total), total))

            return functional_calculus(self.operator, v, inverse)
        covariance = signal if callable(signal) else lambda x: like(signal, x) * x
        settings = settings or self.execution.solver
        if variance.ndim == 0 or bool((variance == 0).any()):
            return solve(lambda u: self._A_linear(covariance(self.A_adjoint(u))) + variance * u, v, settings=settings)
        white = variance.rsqrt()  # entries of unequal noise are solved for in units of it: a large one would else hide the others from the iteration
        return white * solve(lambda u: white * self._A_linear(covariance(self.A_adjoint(white * u))) + u, white * v, settings=settings)

    def prox(self, z: Tensor, variance: Tensor | float) -> Tensor:
        """argmin_x -log p(y | x) + |x - z|^2 / (2 variance): the mean of x ~ N(z, variance I) given y; (B, *shape) -> same."""
        return z + like(variance, z) * self.A_adjoint(self.solve_normal(self.residual(z), variance))

    def prox_sample(self, z: Tensor, variance: Tensor | float, generator: Generators) -> Tensor:
        """A draw of x ~ N(z, variance I) given y, exact up to the linear solve: the proximal point of perturbed z and y; (B, *shape) -> same.

        Source: Papandreou, Yuille, Gaussian Sampling by Local Perturbations, NIPS 2010.
        """
        self._need_linear_gaussian("prox_sample")
        assert isinstance(self.noise, GaussianNoise)
        x = z + like(variance, z).sqrt() * generator.randn_like(z)
        r = self.residual(x) + self.noise.variance(self.y).sqrt() * generator.randn_like(self.y)
        return x + like(variance, z) * self.A_adjoint(self.solve_normal(r, variance))

    def prox_langevin(self, z: Tensor, variance: Tensor | float, generator: Generators, steps: int, rate: float) -> Tensor:
        """About the same draw for any differentiable likelihood: unadjusted Langevin steps from z; (B, *shape) -> same.

        Args:
            rate: step as a fraction of 1 / (1 / variance + h), h the curvature of the likelihood for an operator of norm 1
                (1 / sigma_y^2 in model units; 1e4 where the noise has no sigma_y).
        """
        curvature = (self.prior.scale / self.sigma_y) ** 2 if self.gaussian and self.sigma_y > 0 else 1e4
        step = rate / (1 / like(variance, z) + curvature)
        x = z
        for _ in range(steps):
            drift = self.likelihood_score(x) + (z - x) / like(variance, z)
            x = x + step * drift + (2 * step).sqrt() * generator.randn_like(x)
        return x

    def A_dagger(self, v: Tensor) -> Tensor:
        """A^+ v, the pseudo-inverse of the linear part, closed form for a decomposable operator: (B, *out_shape) -> (B, *shape)."""
        if self.decomposable:
            return self.filter(self.A_adjoint(v), lambda lam: torch.where(lam > 0, 1 / lam, 0.0))
        return conjugate_gradient(lambda u: self.A_adjoint(self._A_linear(u)), self.A_adjoint(v), settings=self.execution.solver)

    def filter(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(A^T A) x for a decomposable operator, f applied to the eigenvalues (squared singular values, model units): (B, *shape) -> same.

        Singular values below 1e-5 of the largest count as zero.
        """
        if not self.decomposable:
            raise UnsupportedError(f"filter needs an operator with known singular values, this posterior has {type(self.operator).__name__}")
        largest = torch.as_tensor(self.operator.mask).abs().max() ** 2
        return spectral_filter(self.operator, x, lambda lam, _: f(torch.where(lam > 1e-10 * largest, self.prior.scale**2 * lam, torch.zeros_like(lam))))

    def pseudo_inverse(self) -> Tensor:
        """A^+ y for a linear operator, damped at the noise level: A^T (A A^T + R)^-1 (y - A(0)); for other operators zero."""
        zero = torch.zeros(len(self), *self.shape, dtype=self.dtype, device=self.device)
        return self.prox(zero, 1.0) if self.linear and self.gaussian else zero

    @cached_property
    def norm_squared(self) -> float:
        """Largest eigenvalue of A^T A in model units (power iteration from a fixed start)."""
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(1, *self.shape, generator=generator).to(self.device, self.dtype)
        return float(norm_squared(lambda u: self.prior.decode_adjoint(self.operator.A_adjoint(self.operator.A(self.prior.scale * u))), start))

    def _A_linear(self, x: Tensor) -> Tensor:
        """The linear part of A."""
        self.cost.A_rows += len(x)
        return self.operator.A(self.prior.scale * x)

    # --- checks -------------------------------------------------------------------------------------------------------

    def _need_linear_gaussian(self, what: str) -> None:
        if not (self.linear and self.gaussian):
            raise UnsupportedError(f"{what} needs a linear operator with Gaussian noise, this posterior has {type(self.operator).__name__} with {self.noise!r}")

    def _infer_shape(self) -> tuple[int, ...]:
        known = tuple(n for n in self.prior.shape if n is not None)
        if len(known) == len(self.prior.shape):
            return known
        if operators.is_linear(self.operator):
            try:
                return tuple(self.operator.A_adjoint(self.y[:1]).shape[1:])
            except RuntimeError as error:  # y does not fit: the shape that the operator was built for lets the check below say what would
                if size := getattr(self.operator, "img_size", None):
                    return tuple(size)
                raise InputError(f"measurement: the operator does not take its shape {tuple(self.y.shape[1:])} ({str(error).splitlines()[0]})") from error
        raise InputError("posterior: the prior takes any size and the operator is not linear; pass shape=(channels, height, width)")

    def _check_shapes(self) -> None:
        if not self.prior.fits(self.shape):
            want = " x ".join("any" if n is None else str(n) for n in self.prior.shape)
            raise InputError(f"the prior denoises {want}, the unknown has shape {' x '.join(map(str, self.shape))}")
        probe = torch.zeros(1, *self.shape, dtype=self.dtype, device=self.device)
        try:
            with torch.no_grad():
                expected = tuple(self.operator.A(self.prior.decode(probe)).shape[1:])
        except RuntimeError as error:
            raise InputError(f"the operator does not take an image of shape {self.shape} ({str(error).splitlines()[0]})") from error
        if expected != tuple(self.y.shape[1:]):
            raise InputError(f"measurement: its shape is {tuple(self.y.shape[1:])}, the operator expects {expected} for an image of shape {self.shape}")
