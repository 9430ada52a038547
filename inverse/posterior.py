"""The posterior p(x | y): what a method sees, in model units, with every evaluation counted.

y = A(x) + noise,    posterior.A(x) = operator.A(prior.decode(x))
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError, UnsupportedError
from inverse.execution import Cost, Execution, check_precision
from inverse.measurement import operators
from inverse.measurement.noise import GaussianNoise, Noise, likelihood_of
from inverse.measurement.solves import LinearSolves
from inverse.priors.evaluation.evaluator import Evaluator, evaluator
from inverse.priors.evaluation.transfer import to_device
from inverse.priors.prior import Prior

Denoise = Callable[[Tensor, Tensor | float], Tensor]
"""(x (B, *shape), sigma () or (B,)) -> x0_hat (B, *shape)."""


@dataclass
class Account:
    """The evaluations of a solve: their cost, and the noise levels of the prior's evaluations.

    Only `range` reads the levels, so that no step waits for a device.
    """

    cost: Cost
    levels: list[Tensor | float] = field(default_factory=list)

    def count_prior(self, x: Tensor, sigma: Tensor | float) -> None:
        """Count one evaluation of the prior for each row of x, at noise level sigma."""
        self.cost.prior_rows += x.shape[0]
        self.levels.append(sigma)

    def range(self, device: torch.device) -> tuple[float, float] | None:
        """The least and the largest level; None before the first evaluation."""
        if not self.levels:
            return None
        flat = (
            torch.as_tensor(s, dtype=torch.float64, device=device).reshape(-1) for s in self.levels
        )
        levels = torch.cat(list(flat))
        return float(levels.min()), float(levels.max())


def _no_jacobian(x: Tensor, sigma: Tensor | float) -> Any:
    raise UnsupportedError(
        "the denoiser of this posterior was replaced and has no Jacobian; "
        "use a method that does not differentiate the denoiser"
    )


def as_batch(value: Any, what: str) -> Tensor:
    """A tensor from a tensor, a numpy array or nested lists of numbers; integers become floats.

    Args:
        what: the beginning of an error message, such as "measurement".

    Raises: InputError for anything else, or an array without values.
    """
    if not isinstance(value, Tensor):
        found = type(value).__name__
        parts = _parts(value)
        if any(isinstance(part, Tensor) for part in parts):
            raise InputError(
                f"{what}: expected a tensor, got a {found} of {len(parts)} tensors; join "
                "them with torch.stack, and operators that measure together with inverse.stack"
            )
        try:
            value = torch.from_numpy(np.array(value, dtype=np.result_type(np.array(value), "f4")))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{what}: expected a tensor, a numpy array or lists of numbers, got {found}"
            ) from error
    if value.ndim == 0 or not value.numel():
        raise InputError(f"{what}: it holds no values, its shape is {tuple(value.shape)}")
    return value if value.is_floating_point() or value.is_complex() else value.float()


def _parts(value: Any) -> list[Any]:
    """The items of a list, a tuple or deepinv's TensorList; none of anything else."""
    parts = getattr(value, "x", value)
    return list(parts) if isinstance(parts, list | tuple) else []


def check_dtype(dtype: Any) -> None:
    """Raises InputError unless dtype is a precision of torch."""
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InputError(f"dtype: expected torch.float32 or torch.float64, got {dtype!r:.80}")


class Posterior(LinearSolves):
    """p(x | y) of a prior, an operator, a noise model and a batch of measurements.

    Args:
        prior: the denoiser, on its own device; it is not copied.
        operator: a deepinv physics object in physical units; the posterior works on a clone.
        y: measurements (B, *out_shape): a tensor, a numpy array or nested lists of numbers.
        noise: the law of y given A(x); by default the operator's noise model.
        shape: of one x; by default the prior's shape if it is fully known, else that of A^T y.
        dtype: of x and of the operator's arithmetic.
        truth: the images (B, *shape) behind y, physical units, if known. `rows` drops them, so that
            no method sees them.
        execution: how evaluations are carried out.
        provenance: origin of the measurement and the prior; carried into the result.

    Raises: InputError if y is empty, holds NaN or infinity, or does not fit the operator and the
        shape; or for another object than a prior or an operator.
    """

    prior: Prior

    @torch.inference_mode(False)
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
        if not isinstance(prior, Prior):
            raise InputError(
                f"prior: expected a prior, such as inverse.load_prior('photo-64'), got {prior!r}"
            )
        if not hasattr(operator, "A"):
            raise InputError(
                f"operator: expected a deepinv physics object or inverse.operator(function), "
                f"got {type(operator).__name__}"
            )
        check_dtype(dtype)
        model = operator.noise_model if noise is None else noise
        if noise is None and type(model).__name__ == "ZeroNoise":
            raise InputError(
                "noise: neither the call nor the operator names a noise model; pass "
                "noise=inverse.GaussianNoise(sigma), with sigma 0 for an exact measurement"
            )
        y = as_batch(y, "measurement")
        self.device = prior.device or y.device
        self.dtype, self.prior, self.execution = dtype, prior, execution or Execution()
        check_precision(self.device, self.execution.autocast or str(dtype).removeprefix("torch."))
        self.noise = likelihood_of(model)
        self.operator = operators.clone(operator, self.device, dtype)
        if not bool(torch.isfinite(y).all()):
            bad = int((~torch.isfinite(y)).sum())
            raise InputError(
                f"measurement: {bad} of {y.numel()} values are NaN or infinite; "
                "mask them out or remove them"
            )
        self.y = to_device(y.clone() if y.is_inference() else y, self.device, dtype)
        self.linear = operators.is_linear(operator) and prior.affine
        self.decomposable = self.linear and operators.is_decomposable(operator)
        self.gaussian = isinstance(self.noise, GaussianNoise)
        self.shape = tuple(shape) if shape is not None else self._infer_shape()
        self.truth, self.provenance = truth, provenance or {}
        self.account = Account(Cost(rows=len(self.y)))
        self._check_shapes()

    @property
    def cost(self) -> Cost:
        """Evaluations of this posterior and of every posterior that `replaced` derived from it."""
        return self.account.cost

    def replaced(self, *, denoise: Denoise | None = None, **parts: Any) -> Posterior:
        """This posterior with other parts, on the same account of cost and noise levels.

        Args:
            denoise: a function in place of the denoiser; it has no Jacobian, and what it evaluates
                of this posterior is counted.
            parts: y (B, *out_shape), noise, operator, prior (in the same model units), truth, or
                another `account`.
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
        """The posterior that a method receives: a new account, and no truth.

        Each measurement is repeated `samples` times in consecutive rows.
        """
        y = self.y.repeat_interleave(samples, dim=0)
        return self.replaced(y=y, truth=None, account=Account(Cost(rows=len(y))))

    def tempered(self, weights: Tensor) -> Posterior:
        """p(x) times a power of the likelihood of each entry of y: noise of variance R / weights.

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

    # --- the prior ----------------------------------------------------------------------------

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """E[x0 | x] at noise level sigma: x (B, *shape), sigma () or (B,) -> (B, *shape)."""
        self.account.count_prior(x, self.prior.native_sigma(sigma))
        return self._evaluator.denoise(x, sigma)

    def tweedie(
        self, x: Tensor, sigma: Tensor | float
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """E[x0 | x] and its VJP, v -> (d x0_hat / d x)^T v, which may be called repeatedly."""
        self.account.count_prior(x, self.prior.native_sigma(sigma))
        x0_hat, pull = self._evaluator.tweedie(x, sigma)

        def vjp(v: Tensor) -> Tensor:
            self.cost.vjp_rows += v.shape[0]
            return pull(v)

        return x0_hat, vjp

    @property
    def evaluated_levels(self) -> tuple[float, float] | None:
        """Least and largest noise level at which the prior was evaluated; None before that."""
        return self.account.range(self.device)

    @property
    def _evaluator(self) -> Evaluator:
        return evaluator(self.prior, self.execution)

    # --- the operator -------------------------------------------------------------------------

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
        """Standard deviation of the noise, units of y; the root mean square where it varies.

        Raises: UnsupportedError for noise that is not Gaussian.
        """
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

    # --- checks -------------------------------------------------------------------------------

    def _infer_shape(self) -> tuple[int, ...]:
        known = tuple(n for n in self.prior.shape if n is not None)
        if len(known) == len(self.prior.shape):
            return known
        if operators.is_linear(self.operator):
            try:
                return tuple(self.operator.A_adjoint(self.y[:1]).shape[1:])
            except RuntimeError as error:
                # y does not fit; with the operator's own shape, `_check_shapes` says what would
                if size := getattr(self.operator, "img_size", None):
                    return tuple(size)
                found, reason = tuple(self.y.shape[1:]), str(error).splitlines()[0]
                raise InputError(
                    f"measurement: the operator does not take its shape {found} ({reason})"
                ) from error
        raise InputError(
            "posterior: the prior takes any size and the operator is not linear; "
            "pass shape=(channels, height, width)"
        )

    def _check_shapes(self) -> None:
        if not self.prior.fits(self.shape):
            want = " x ".join("any" if n is None else str(n) for n in self.prior.shape)
            found = " x ".join(map(str, self.shape))
            raise InputError(f"the prior denoises {want}, the unknown has shape {found}")
        probe = torch.zeros(1, *self.shape, dtype=self.dtype, device=self.device)
        try:
            with torch.no_grad():
                expected = tuple(self.operator.A(self.prior.decode(probe)).shape[1:])
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the operator does not take an image of shape {self.shape} ({reason})"
            ) from error
        if expected != (measured := tuple(self.y.shape[1:])):
            raise InputError(
                f"measurement: its shape is {measured}, the operator expects {expected} "
                f"for an image of shape {self.shape}"
            )
