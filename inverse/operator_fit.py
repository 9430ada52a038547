"""Parameters of a forward operator, from the measurement: blur width, rotation centre, shift, gain.

The evidence p(y | theta) = int p(y | x, theta) p(x) dx has gradient and curvature as averages over
posterior samples x_1 ... x_S (Fisher's and Louis' identities),

    g = mean_s grad log p(y | x_s, theta),
    I = -mean_s grad^2 log p(y | x_s, theta) - cov_s grad log p(y | x_s, theta),

and each round takes the Newton step theta + I^-1 g, halved until the samples' own estimate of the
evidence, p(y | theta') / p(y | theta) = mean_s p(y | x_s, theta') / p(y | x_s, theta), does not
fall. Averaging over samples keeps the uncertainty of
the image in the fit, which a maximum over image and parameters together ignores.

Source: Louis, Finding the observed information matrix when using the EM algorithm, J. R. Stat.
Soc. B 1982.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inverse.engine import solve
from inverse.errors import InverseError, OptionError
from inverse.method import Method
from inverse.posterior import Posterior

LEAST_SHARE = 0.05
"""Smallest share of the complete information (the first term of I) that a step assumes.

The second term is an average over few samples, so that I may come out too small, or negative.
"""
HALVINGS = 20
"""How often a step that leaves the operator's domain or lowers the evidence is halved."""


@dataclass(frozen=True)
class OperatorFit:
    """Fitted parameters of an operator.

    Args:
        parameters: name -> value: the mean of the second half of the rounds.
        std: name -> standard error, from the curvature of the evidence in the second half of the
            rounds and, in quadrature, from their scatter.
        rounds: the parameters after each round.
    """

    parameters: dict[str, float]
    std: dict[str, float]
    rounds: list[dict[str, float]]

    def __str__(self) -> str:
        return ", ".join(
            f"{name} = {value:.4g} +- {self.std[name]:.2g}"
            for name, value in self.parameters.items()
        )


def fit_operator(
    posterior: Posterior,
    operator: Callable[..., Any],
    start: dict[str, float],
    *,
    method: Method | type[Method] | str,
    samples: int = 16,
    rounds: int = 12,
    seed: int = 0,
) -> OperatorFit:
    """Parameters of the forward operator of largest evidence, with standard errors.

        def blur(width):
            k = gaussian_kernel(width, reach=8)
            return inverse.operator(lambda x: convolved(x, k), shape=(3, 64, 64))

        fit = inverse.fit_operator(posterior, blur, {"width": 1.0}, method="mmps")

    Args:
        posterior: of one or more measurements that share the parameters; its operator is not used.
        operator: parameters by keyword -> operator, physical units. Its A is differentiable with
            respect to them; they arrive as numbers, or as 0-dimensional tensors for the gradient.
        start: name -> first value.
        method: draws the samples; the fit is as good as its law.
        samples: for each measurement and round, at least 2.
        rounds: Newton steps.
        seed: random seed of the first round; every round has its own.

    Raises:
        OptionError: no parameter, too few samples or rounds, a value that the operator refuses, or
            a parameter on which A does not depend through a gradient.
        UnsupportedError: the method cannot run on this posterior.
    """
    names = list(start)
    if not names:
        raise OptionError("fit_operator: start names no parameter; give at least one with a value")
    if samples < 2 or rounds < 1:
        raise OptionError(
            f"fit_operator: need at least 2 samples and 1 round, got {samples} and {rounds}"
        )
    if unusable := [n for n in names if not _finite(start[n])]:
        raise OptionError(
            f"fit_operator: {unusable[0]} starts at {start[unusable[0]]!r}; give a finite number"
        )
    theta = torch.tensor([float(start[n]) for n in names], dtype=torch.float64)
    path: list[Tensor] = []
    curvatures: list[tuple[Tensor, Tensor]] = []
    for index in range(rounds):
        there = posterior.replaced(operator=_built(operator, names, theta))
        x = solve(there, method, samples, seed + index).samples
        log_likelihood = _log_likelihood(posterior, operator, names, x)
        here, gradients, curvature = _derivatives(log_likelihood, names, theta)
        missing = torch.cov(gradients.T).reshape(len(names), -1)
        curvatures.append((curvature - missing, curvature))
        information = _bounded(*curvatures[-1])
        step = torch.linalg.solve(information, gradients.mean(0))
        theta = _uphill(log_likelihood, theta, here, step)
        path.append(theta)
    later = torch.stack(path[len(path) // 2 :])
    scatter = later.var(0) / len(later) if len(later) > 1 else torch.zeros(len(names))
    late = curvatures[len(path) // 2 :]
    pooled = _bounded(*(sum(each) / len(late) for each in zip(*late, strict=True)))
    observed = torch.linalg.inv(pooled).diagonal()
    std = (observed + scatter).clamp_min(0).sqrt()
    return OperatorFit(
        dict(zip(names, later.mean(0).tolist(), strict=True)),
        dict(zip(names, std.tolist(), strict=True)),
        [dict(zip(names, values.tolist(), strict=True)) for values in path],
    )


def _log_likelihood(
    posterior: Posterior, operator: Callable[..., Any], names: list[str], x: Tensor
) -> Callable[[Tensor], Tensor]:
    """theta (d,) -> log p(y | x_s, theta) (S,), summed over images, for samples x (B, S, ...).

    The function raises OptionError if the operator refuses theta.
    """
    images, samples = x.shape[:2]
    y, x = posterior.y.cpu().double(), x.double()
    rows = y.repeat_interleave(samples, 0)

    def log_likelihood(theta: Tensor) -> Tensor:
        clean = _built(operator, names, theta).A(x.flatten(0, 1)).double()
        return posterior.noise.log_prob(rows, clean).reshape(images, samples).sum(0)

    return log_likelihood


def _derivatives(
    log_likelihood: Callable[[Tensor], Tensor], names: list[str], theta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """log p(y | x_s, theta) (S,), its gradients (S, d), and its -mean Hessian (d, d)."""
    with torch.enable_grad():
        values = theta.clone().requires_grad_()
        total = log_likelihood(values)
        if not total.requires_grad:
            raise OptionError(
                f"fit_operator: the output of the operator has no gradient with respect to "
                f"{', '.join(names)}; build it from torch functions of the parameters"
            )
        gradients = []
        for each in total:
            (g,) = torch.autograd.grad(each, values, retain_graph=True)
            gradients.append(g)
        if constant := [
            n for n, g in zip(names, torch.stack(gradients).T, strict=True) if not g.any()
        ]:
            raise OptionError(
                f"fit_operator: the operator's output does not depend on {constant[0]} "
                "through a gradient"
            )
        hessian = torch.autograd.functional.hessian(lambda v: log_likelihood(v).mean(), theta)
    return total.detach(), torch.stack(gradients), -hessian


def _bounded(information: Tensor, complete: Tensor) -> Tensor:
    """I, raised to at least `LEAST_SHARE` of the complete information in every direction."""
    scale, basis = torch.linalg.eigh((complete + complete.T) / 2)
    root = basis * scale.abs().clamp_min(1e-12).sqrt()  # complete = root root^T
    inverse_root = torch.linalg.inv(root)
    share, turned = torch.linalg.eigh(inverse_root @ information @ inverse_root.T)
    half = root @ turned
    return half @ torch.diag(share.clamp(LEAST_SHARE, 1)) @ half.T


def _uphill(
    log_likelihood: Callable[[Tensor], Tensor], theta: Tensor, here: Tensor, step: Tensor
) -> Tensor:
    """theta + step, halved until the operator accepts it and the evidence does not fall.

    Args:
        here: log_likelihood(theta), (S,).
    """
    for _ in range(HALVINGS):
        try:
            gain = torch.logsumexp(log_likelihood(theta + step) - here, 0) - math.log(len(here))
        except OptionError:
            gain = torch.tensor(-math.inf)
        if gain >= 0:
            return theta + step
        step = step / 2
    return theta


def _built(operator: Callable[..., Any], names: list[str], theta: Tensor) -> Any:
    """The operator at theta, which it gets as numbers, or as tensors where a gradient is taken.

    Raises: OptionError if it refuses them.
    """
    values = theta.unbind() if theta.requires_grad else theta.tolist()
    try:
        return operator(**dict(zip(names, values, strict=True)))
    except (InverseError, ValueError, ArithmeticError) as error:
        said = ", ".join(
            f"{name}={value:.4g}" for name, value in zip(names, theta.tolist(), strict=True)
        )
        raise OptionError(f"fit_operator: the operator refuses {said}: {error}") from error
    except TypeError as error:
        raise OptionError(
            f"fit_operator: the operator does not take {', '.join(names)}: {error}"
        ) from error


def _finite(value: object) -> bool:
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
