"""The posterior p(x | y): all that a method sees, in model units, with every evaluation counted.

y = A(x) + noise,    posterior.A(x) = operator.A(prior.decode(x)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inverse.errors import InputError, OptionError, UnsupportedError
from inverse.execution import Cost, Execution, check_precision
from inverse.measurement import operators
from inverse.measurement.noise import GaussianNoise, Noise
from inverse.measurement.solves import LinearSolves
from inverse.priors.evaluation.evaluator import Evaluator, evaluator
from inverse.priors.evaluation.transfer import to_device
from inverse.priors.prior import Prior


class Posterior(LinearSolves):
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

    prior: Prior

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
        from inverse.measurement.noise import likelihood_of

        self.device = prior.device or y.device
        self.dtype, self.prior, self.execution = dtype, prior, execution or Execution()
        check_precision(self.device, self.execution.autocast or str(dtype).removeprefix("torch."))
        self.noise = likelihood_of(operator.noise_model) if noise is None else likelihood_of(noise)
        self.operator = operators.clone(operator, self.device, dtype)
        if not bool(torch.isfinite(y).all()):
            bad = int((~torch.isfinite(y)).sum())
            raise InputError(
                f"measurement: {bad} of {y.numel()} values are NaN or infinite; mask them out or remove them"
            )
        self.y = to_device(y, self.device, dtype)
        self.linear = operators.is_linear(operator) and prior.affine
        self.decomposable = self.linear and operators.is_decomposable(operator)
        self.gaussian = isinstance(self.noise, GaussianNoise)
        self.shape = tuple(shape) if shape is not None else self._infer_shape()
        self.truth, self.provenance = truth, provenance or {}
        self.amplitude: tuple[Tensor, Tensor] | None = None
        self.cost = Cost(rows=len(self.y))
        self._levels: list[Tensor | float] = []
        self._check_shapes()

    def rows(self, samples: int) -> Posterior:
        """The posterior a method receives: each measurement repeated `samples` times in a row, a fresh count, no truth."""
        copy = object.__new__(Posterior)
        copy.__dict__.update(self.__dict__)
        copy.y = self.y.repeat_interleave(samples, dim=0)
        copy.truth, copy.cost, copy._levels = None, Cost(rows=len(copy.y)), []
        if self.amplitude is not None:
            copy.amplitude = self.amplitude[0].repeat_interleave(samples, dim=0), self.amplitude[1]
        return copy

    def tempered(self, weights: Tensor) -> Posterior:
        """p(x) times the likelihood of each entry of y to a power, for Gaussian noise: its variance is R / weights; the count is shared.

        Args:
            weights: (*out_shape), positive.
        """
        if not isinstance(self.noise, GaussianNoise):
            raise UnsupportedError(
                f"tempered needs Gaussian noise, this posterior has {self.noise!r}"
            )
        copy = object.__new__(Posterior)
        copy.__dict__.update(self.__dict__)
        copy.noise = GaussianNoise(
            self.noise.sigma.cpu() / weights.cpu().double().sqrt(), self.noise.observed
        )
        return copy

    def amplified(self, scale: Tensor, mean: Tensor) -> Posterior:
        """p(x) replaced by the law of mean + scale (x - mean), whose denoiser is mean + scale (D(mean + (x - mean) / scale, sigma / scale) - mean).

        Args:
            scale: (B,), positive.
            mean: broadcasts to one x, model units.
        """
        copy = object.__new__(Posterior)
        rows = scale.reshape(-1, *[1] * len(self.shape))
        copy.__dict__.update(self.__dict__, amplitude=(rows.to(self.y), mean.to(self.y)))
        return copy

    def denoised_by(self, denoise: Callable[[Tensor, Tensor | float], Tensor]) -> Posterior:
        """This posterior with another denoiser, for a method that asks for `denoise` alone; what that evaluates of this one is counted here.

        Args:
            denoise: x (B, *shape), sigma () or (B,) -> (B, *shape).
        """

        def tweedie(x: Tensor, sigma: Tensor | float) -> Any:
            raise UnsupportedError(
                "a denoiser that was replaced has no Jacobian here; use a method that does not differentiate it"
            )

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
        entries = torch.full(
            tuple(self.y.shape[1:]), default, dtype=self.y.dtype, device=self.y.device
        )
        for name, value in values.items():
            if name not in self.modalities:
                raise OptionError(
                    f"modality '{name}' is not measured here; measured: {', '.join(self.modalities)}"
                )
            entries[..., self.modalities[name]] = value
        return entries

    def __len__(self) -> int:
        return len(self.y)

    # --- the prior ---------------------------------------------------------------------------------------------------

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x0_hat = E[x0 | x] at noise level sigma: x (B, *shape), sigma () or (B,) -> (B, *shape)."""
        self.cost.prior_rows += x.shape[0]
        x, level, back = self._at_prior(x, sigma)
        return back(self._evaluator.denoise(x, level))

    def tweedie(
        self, x: Tensor, sigma: Tensor | float
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """x0_hat and v -> (d x0_hat / d x)^T v; the vjp may be called more than once."""
        self.cost.prior_rows += x.shape[0]
        x, level, back = self._at_prior(x, sigma)
        x0_hat, pull = self._evaluator.tweedie(x, level)

        def vjp(v: Tensor) -> Tensor:
            self.cost.vjp_rows += v.shape[0]
            return pull(v)

        return back(x0_hat), vjp

    def _at_prior(
        self, x: Tensor, sigma: Tensor | float
    ) -> tuple[Tensor, Tensor | float, Callable[[Tensor], Tensor]]:
        """What the prior is asked, and how its answer comes back; where there is an amplitude the Jacobian is the same, its scale cancels."""
        if self.amplitude is None:
            self._levels.append(sigma)
            return x, sigma, lambda x0_hat: x0_hat
        scale, mean = self.amplitude
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1) / scale.reshape(
            -1
        )
        self._levels.append(level)
        return mean + (x - mean) / scale, level, lambda x0_hat: mean + scale * (x0_hat - mean)

    @property
    def levels_asked(self) -> tuple[float, float] | None:
        """Least and largest noise level that the prior was asked for, None before it was; they are looked at here alone, so that no step waits."""
        if not self._levels:
            return None
        levels = torch.cat(
            [
                torch.as_tensor(level, dtype=torch.float64, device=self.device).reshape(-1)
                for level in self._levels
            ]
        )
        return float(levels.min()), float(levels.max())

    @property
    def _evaluator(self) -> Evaluator:
        return evaluator(self.prior, self.execution)

    # --- the operator ------------------------------------------------------------------------------------------------

    def A(self, x: Tensor) -> Tensor:
        """The clean measurement of x: (B, *shape) -> (B, *out_shape), units of y."""
        self.cost.A_rows += x.shape[0]
        return self.operator.A(self.prior.decode(x))

    def A_adjoint(self, v: Tensor) -> Tensor:
        """Adjoint of the linear part of A: (B, *out_shape) -> (B, *shape)."""
        self.cost.A_adjoint_rows += v.shape[0]
        return self.prior.decode_adjoint(self.operator.A_adjoint(v))

    def A_vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """J_A(x)^T v for any differentiable A; the adjoint when A is linear."""
        if self.linear:
            return self.A_adjoint(v)
        self.cost.A_adjoint_rows += v.shape[0]
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
            raise UnsupportedError(
                f"sigma_y is defined for Gaussian noise, this posterior has {self.noise!r}"
            )
        return self.noise.level

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(y | x) in nats: (B, *shape) -> (B,)."""
        return self.noise.log_prob(self.y, self.A(x))

    def likelihood_score(self, x: Tensor) -> Tensor:
        """grad_x log p(y | x): (B, *shape) -> (B, *shape)."""
        if isinstance(self.noise, GaussianNoise):
            return self.A_vjp(x, self.residual(x) / self.noise.variance(self.y))
        self.cost.A_rows += x.shape[0]
        self.cost.A_adjoint_rows += x.shape[0]
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self.noise.log_prob(self.y, self.operator.A(self.prior.decode(x)))
            return torch.autograd.grad(value.sum(), x)[0]

    # --- checks -------------------------------------------------------------------------------------------------------

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
                raise InputError(
                    f"measurement: the operator does not take its shape {tuple(self.y.shape[1:])} ({str(error).splitlines()[0]})"
                ) from error
        raise InputError(
            "posterior: the prior takes any size and the operator is not linear; pass shape=(channels, height, width)"
        )

    def _check_shapes(self) -> None:
        if not self.prior.fits(self.shape):
            want = " x ".join("any" if n is None else str(n) for n in self.prior.shape)
            raise InputError(
                f"the prior denoises {want}, the unknown has shape {' x '.join(map(str, self.shape))}"
            )
        probe = torch.zeros(1, *self.shape, dtype=self.dtype, device=self.device)
        try:
            with torch.no_grad():
                expected = tuple(self.operator.A(self.prior.decode(probe)).shape[1:])
        except RuntimeError as error:
            raise InputError(
                f"the operator does not take an image of shape {self.shape} ({str(error).splitlines()[0]})"
            ) from error
        if expected != tuple(self.y.shape[1:]):
            raise InputError(
                f"measurement: its shape is {tuple(self.y.shape[1:])}, the operator expects {expected} for an image of shape {self.shape}"
            )
