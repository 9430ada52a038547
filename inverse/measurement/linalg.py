"""Batched linear solves: conjugate gradients, GMRES, functions of a decomposable operator, norms.

They replace deepinv's `prox_l2` and `A_dagger`, which change the solver settings of the operator
for every later call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from inverse.execution import CG
from inverse.rows import per_row, row_dot


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    start: Tensor | None = None,
    settings: CG | None = None,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Solve M x = b for a symmetric positive semi-definite M, row by row: b (B, *shape) -> same.

    A row that has converged is frozen, so that its result does not depend on the other rows. For a
    right-hand side in the range of a singular M, the result is the minimum-norm solution if `start`
    is zero and there is no preconditioner.

    Args:
        apply: x -> M x.
        start: first iterate (B, *shape); zero by default.
        settings: tolerance and number of iterations.
        precondition: a symmetric positive definite map close to M^-1, row by row.
    """
    settings = settings or CG()
    x = torch.zeros_like(b) if start is None else start
    r = b if start is None else b - apply(x)
    z = r if precondition is None else precondition(r)
    p, rr = z, row_dot(r, r)
    rz = rr if precondition is None else row_dot(r, z)
    goal = settings.tolerance**2 * row_dot(b, b)
    for _ in range(settings.max_iter):
        active = rr > goal
        if settings.tolerance > 0 and not bool(active.any()):
            break
        Mp = apply(p)
        curvature = row_dot(p, Mp)
        active = active & (curvature > 0)
        alpha = per_row(torch.where(active, rz / curvature, 0.0), x)
        x, r = torch.addcmul(x, alpha, p), torch.addcmul(r, alpha, Mp, value=-1)
        z = r if precondition is None else precondition(r)
        rr = torch.where(active, row_dot(r, r), 0.0)  # a frozen row stays frozen
        new = rr if precondition is None else row_dot(r, z)
        p, rz = torch.addcmul(z, per_row(torch.where(active, new / rz, 0.0), p), p), new
    return x


def gmres(apply: Callable[[Tensor], Tensor], b: Tensor, settings: CG | None = None) -> Tensor:
    """Solve M x = b for any square M by GMRES from zero, row by row: b (B, *shape) -> same.

    A row that has converged takes no part in later iterations, so that its result does not depend
    on the other rows.

    Args:
        apply: x -> M x.
        settings: tolerance and number of iterations.

    Source: Saad, Schultz, GMRES: A Generalized Minimal Residual Algorithm for Solving Nonsymmetric
        Linear Systems, SIAM J. Sci. Stat. Comput. 1986.
    """
    settings = settings or CG()
    tiny = torch.finfo(b.dtype).tiny
    length = row_dot(b, b).sqrt()
    basis, g = [b / per_row(length.clamp_min(tiny), b)], [length]
    columns: list[list[Tensor]] = []
    rotations: list[tuple[Tensor, Tensor]] = []
    for k in range(settings.max_iter):
        active = g[k].abs() > settings.tolerance * length
        if settings.tolerance > 0 and not bool(active.any()):
            break
        w, h = apply(basis[k]), [torch.zeros_like(length)] * len(basis)
        for _ in range(2):  # orthogonalise twice: after a single pass the rounding error grows
            for j, q in enumerate(basis):
                overlap = row_dot(q, w)
                h[j] = h[j] + overlap
                w = w - per_row(overlap, w) * q
        norm = row_dot(w, w).sqrt()
        for j, (c, s) in enumerate(rotations):
            h[j], h[j + 1] = c * h[j] + s * h[j + 1], c * h[j + 1] - s * h[j]
        radius = torch.hypot(h[k], norm).clamp_min(tiny)
        c, s = h[k] / radius, norm / radius
        rotations.append((c, s))
        columns.append([*h[:k], radius])
        g[k], rest = torch.where(active, c * g[k], 0.0), torch.where(active, -s * g[k], 0.0)
        g.append(rest)
        basis.append(w / per_row(norm.clamp_min(tiny), w))
    x, coefficients = torch.zeros_like(b), [torch.zeros_like(length)] * len(columns)
    for k in reversed(range(len(columns))):
        known = sum(
            (columns[j][k] * coefficients[j] for j in range(k + 1, len(columns))),
            torch.zeros_like(length),
        )
        coefficients[k] = torch.where(
            g[k] == 0, torch.zeros_like(length), (g[k] - known) / columns[k][k]
        )
        x = x + per_row(coefficients[k], x) * basis[k]
    return x


Eigenvalues = Callable[[Tensor, Tensor], Tensor]
"""f(lam, like): lam broadcastable to `like` (B, ...) in the singular basis."""


def eigenvalues(physics, like: Tensor) -> Tensor:
    """s^2 of a decomposable operator A = U diag(s) V^T, broadcastable to coefficients in its basis.

    If s is a number, the result has the dtype and device of `like`.
    """
    s = (
        physics.mask
        if torch.is_tensor(physics.mask)
        else torch.as_tensor(physics.mask, dtype=like.dtype, device=like.device)
    )
    return (s * s.conj()).real if torch.is_complex(s) else s**2


def functional_calculus(physics, v: Tensor, f: Eigenvalues, lam: Tensor | None = None) -> Tensor:
    """f(A A^T) v for a decomposable operator A = U diag(s) V^T: v (B, *out_shape) -> same.

    The part of v outside the range of U is dropped if it is rounding error alone, because f(0) may
    be as large as 1 / sigma_y^2.

    Args:
        physics: a deepinv `DecomposablePhysics`.
        f: function of the eigenvalues of A A^T.
        lam: the result of `eigenvalues`, if known.
    """
    coefficients = physics.U_adjoint(v)
    lam = eigenvalues(physics, v) if lam is None else lam
    inside = physics.U(f(lam, coefficients) * coefficients)
    if coefficients.numel() == v.numel():  # U is a complete basis: nothing of v is outside
        return inside
    outside = v - physics.U(coefficients)
    rounding = row_dot(outside, outside) <= (64 * torch.finfo(v.dtype).eps) ** 2 * row_dot(v, v)
    outside = torch.where(per_row(rounding, outside), 0.0, outside)
    zero = torch.zeros((), dtype=v.dtype, device=v.device)
    return inside + f(zero, outside) * outside


def spectral_filter(
    physics, terms: Sequence[tuple[Tensor, Callable[[Tensor], Tensor]]], lam: Tensor
) -> Tensor:
    """The sum of f(A^T A) x over pairs (x, f), x (B, *shape) -> same, with one application of V.

    Args:
        physics: a deepinv `DecomposablePhysics`.
        lam: eigenvalues of A^T A, the argument of each f. f(0) must not be large compared with f,
            since the part of x outside the range of V is computed as a difference.
    """
    coefficients = [physics.V_adjoint(x) for x, _ in terms]
    if coefficients[0].numel() == terms[0][0].numel():
        filtered = (f(lam) * c for (_, f), c in zip(terms, coefficients, strict=True))
        return physics.V(functools.reduce(torch.add, filtered))
    at_zero = [f(torch.zeros((), dtype=x.dtype, device=x.device)) for x, f in terms]
    inside = ((f(lam) - g) * c for (_, f), g, c in zip(terms, at_zero, coefficients, strict=True))
    outside = (g * x for (x, _), g in zip(terms, at_zero, strict=True))
    return physics.V(functools.reduce(torch.add, inside)) + functools.reduce(torch.add, outside)


def norm_squared(apply: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 30) -> Tensor:
    """Largest eigenvalue of a symmetric positive semi-definite map, by power iteration.

    start (B, *shape) -> (B,), row by row.
    """
    x = start / per_row(row_dot(start, start).sqrt(), start)
    value = row_dot(x, x)
    for _ in range(iterations):
        Mx = apply(x)
        value = row_dot(Mx, Mx).sqrt()
        x = Mx / per_row(value.clamp_min(torch.finfo(x.dtype).tiny), Mx)
    return value
