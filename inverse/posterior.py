"""The posterior p(x | y): all that a method sees, in model units, with every evaluation counted.

y = A(x) + noise,    posterior.A(x) = operator.A(prior.decode(x)).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inverse.errors import InputError, UnsupportedError
from inverse.execution import Cost, Execution, check_precision
from inverse.measurement import operators
from inverse.measurement.noise import GaussianNoise, Noise
from inverse.measurement.solves import LinearSolves
from inverse.priors.evaluation.evaluator import Evaluator, evaluator
from inverse.priors.evaluation.transfer import to_device
from inverse.priors.prior import Prior

Denoise = Callable[[Tensor, Tensor | float], Tensor]


@dataclass
class Account:
    """What was evaluated: the cost, and the noise levels that the prior was asked for.

    Levels are looked at by `range` alone, so that no step waits for a device.
    """

    cost: Cost
    levels: list[Tensor | float] = field(default_factory=list)

    def asked(self, x: Tensor, sigma: Tensor | float) -> None:
        """Count one evaluation of the prior for each row of x, at these noise levels."""
        self.cost.prior_rows += x.shape[0]
        self.levels.append(sigma)

    def range(self, device: torch.device) -> tuple[float, float] | None:
        """Least and largest level, None where there is none."""
        if not self.levels:
            return None
        flat = (
            torch.as_tensor(s, dtype=torch.float64, device=device).reshape(-1) for s in self.levels
        )
        levels = torch.cat(list(flat))
        return float(levels.min()), float(levels.max())


def _no_jacobian(x: Tensor, sigma: Tensor | float) -> Any:
    raise UnsupportedError(
        "a denoiser that was replaced has no Jacobian here; use a method that does not differentiate it"
    )


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
        self.account = Account(Cost(rows=len(self.y)))
        self._check_shapes()

    @property
    def cost(self) -> Cost:
        """What this posterior and every one that `replaced` derived from it evaluated."""
        return self.account.cost

    def replaced(self, *, denoise: Denoise | None = None, **parts: Any) -> Posterior:
        """This posterior with other parts; what the new one evaluates is counted here, costs and noise levels alike.

        Args:
            denoise: (x (B, *shape), sigma) -> (B, *shape), in place of the denoiser; its own evaluations
                of this posterior are counted, and it has no Jacobian.
            parts: y (B, *out_shape), noise, operator, prior (in the same model units), truth, or
                `account`, to be counted on another one.
        """
        if parts.keys() & {"prior", "operator"}:
            other = Posterior(
                parts.pop("prior", self.prior),
                parts.pop("operator", self.operator),
                parts.pop("y", self.y),
                parts.pop("noise", self.noise),
                shape=self.shape,
                dtype=self.dtype,
                truth=self.truth,
                execution=self.execution,
                provenance=self.provenance,
            )
            other.account = self.account
        else:
            other = copy.copy(self)
        if denoise is not None:
            other.denoise = denoise  # type: ignore[assignment, method-assign]
            other.tweedie = _no_jacobian  # type: ignore[method-assign]
        other.__dict__.update(parts)
        return other

    def rows(self, samples: int) -> Posterior:
        """The posterior a method receives: each measurement repeated `samples` times in a row, a fresh account, no truth."""
        y = self.y.repeat_interleave(samples, dim=0)
        return self.replaced(y=y, truth=None, account=Account(Cost(rows=len(y))))

    def tempered(self, weights: Tensor) -> Posterior:
        """p(x) times the likelihood of each entry of y to a power, for Gaussian noise: its variance is R / weights.

        Args:
            weights: (*out_shape), positive.

        Raises: UnsupportedError for noise that is not Gaussian.
        """
        if not isinstance(self.noise, GaussianNoise):
            raise UnsupportedError(
                f"tempered needs Gaussian noise, this posterior has {self.noise!r}"
            )
        sigma = self.noise.sigma.cpu() / weights.cpu().double().sqrt()
        return self.replaced(noise=GaussianNoise(sigma, self.noise.observed))

    def __len__(self) -> int:
        return len(self.y)

    # --- the prior ---------------------------------------------------------------------------------------------------

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x0_hat = E[x0 | x] at noise level sigma: x (B, *shape), sigma () or (B,) -> (B, *shape)."""
        self.account.asked(x, self.prior.asked_levels(sigma))
        return self._evaluator.denoise(x, sigma)

    def tweedie(
        self, x: Tensor, sigma: Tensor | float
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """x0_hat and v -> (d x0_hat / d x)^T v; the vjp may be called more than once."""
        self.account.asked(x, self.prior.asked_levels(sigma))
        x0_hat, pull = self._evaluator.tweedie(x, sigma)

        def vjp(v: Tensor) -> Tensor:
            self.cost.vjp_rows += v.shape[0]
            return pull(v)

        return x0_hat, vjp

    @property
    def levels_asked(self) -> tuple[float, float] | None:
        """Least and largest noise level that the prior was asked for; None before it was asked."""
        return self.account.range(self.device)

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
