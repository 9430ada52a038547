"""Linear solves, our own: batched conjugate gradients, the singular values of a decomposable operator, the operator norm.

deepinv's `prox_l2` and `A_dagger` change the operator's solver settings for everybody after them, so they are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CG:
    """Settings of a conjugate-gradient solve: stop a row when its residual is below `tolerance` times its right-hand side."""

    tolerance: float = 1e-5
    max_iter: int = 100


def conjugate_gradient(apply: Callable[[Tensor], Tensor], b: Tensor, start: Tensor | None = None, settings: CG | None = None) -> Tensor:
    """Solve M x = b for a symmetric positive semi-definite M, each row on its own: b (B, *shape) -> (B, *shape).

    A row that has converged is frozen, so that its result does not depend on the other rows. A right-hand side in the
    range of a singular M gives the minimum-norm solution when `start` is zero.
    """
    settings = settings or CG()
    x = torch.zeros_like(b) if start is None else start.clone()
    r = b.clone() if start is None else b - apply(x)
    p = r.clone()
    rr = row_dot(r, r)
    goal = settings.tolerance**2 * row_dot(b, b)
    for _ in range(settings.max_iter):
        active = rr > goal
        if not bool(active.any()):
            break
        Mp = apply(p)
        curvature = row_dot(p, Mp)
        active = active & (curvature > 0)
        alpha = torch.where(active, rr / curvature, 0.0)
        x = x + per_row(alpha, x) * p
        r = r - per_row(alpha, r) * Mp
        new = row_dot(r, r)
        beta = torch.where(active, new / rr, 0.0)
        p = torch.where(per_row(active, p), r + per_row(beta, p) * p, p)
        rr = torch.where(active, new, torch.where(rr > goal, torch.zeros_like(rr), rr))
    return x


def functional_calculus(physics, v: Tensor, f: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """f(A A^T) v for a decomposable operator A = U diag(s) V^T.

    Args:
        physics: a deepinv `DecomposablePhysics`.
        v: (B, *out_shape).
        f: called as f(lam, like) where lam holds eigenvalues s^2 broadcastable to `like` (B, ...) in the singular basis.
    """
    coefficients = physics.U_adjoint(v)
    s = physics.mask
    lam = (s * s.conj()).real if torch.is_complex(s) else s**2
    inside = physics.U(f(lam.to(coefficients.device), coefficients) * coefficients)
    outside = v - physics.U(coefficients)
    zero = torch.zeros((), dtype=v.dtype, device=v.device)
    return inside + f(zero, outside) * outside


def norm_squared(apply: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 30) -> Tensor:
    """Largest eigenvalue of a symmetric positive semi-definite map by power iteration, per row: start (B, *shape) -> (B,)."""
    x = start / per_row(row_dot(start, start).sqrt(), start)
    value = row_dot(x, x)
    for _ in range(iterations):
        Mx = apply(x)
        value = row_dot(Mx, Mx).sqrt()
        x = Mx / per_row(value.clamp_min(torch.finfo(x.dtype).tiny), Mx)
    return value


def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each row: (B, *shape) twice -> (B,)."""
    return (a * b).flatten(1).sum(1)


def per_row(value: Tensor, x: Tensor) -> Tensor:
    """(B,) shaped to multiply (B, *shape)."""
    return value.reshape(-1, *[1] * (x.ndim - 1))
