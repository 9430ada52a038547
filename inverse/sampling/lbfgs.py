"""L-BFGS on many rows at once, each with a history and a line search of its own.

Source: Nocedal, Wright, Numerical Optimization, 2006, algorithms 3.1 and 7.4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from inverse.rows import per_row, row_dot

HALVINGS = 10
"""Of a step that does not decrease f; a row that still does not is left where it is."""


def lbfgs(
    f: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, history: int = 100
) -> Iterator[Tensor]:
    """Minimise f row by row: x (B, *shape); yields x after each iteration until no row moves.

    A row stays where a step no longer lowers its value by more than rounding.

    A step is halved until Armijo's condition holds with factor 1e-4. Pairs of no positive curvature
    are left out.

    Args:
        f: x -> values (B,) and gradients like x; a row depends on that row of x alone.
        history: number of pairs that approximate the inverse Hessian.
    """
    pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=history)
    value, g = f(x)
    scale = 1 / g.abs().flatten(1).sum(1).clamp_min(1)
    moving = torch.ones_like(value, dtype=torch.bool)
    while True:
        d = -_inverse_hessian(pairs, scale, g)
        slope = row_dot(g, d)
        step, todo = torch.ones_like(value), moving
        new, new_value, new_g = x, value, g
        for _ in range(HALVINGS):
            trial = x + per_row(step, x) * d
            trial_value, trial_g = f(trial)
            found = todo & (trial_value <= value + 1e-4 * step * slope)
            new_value = torch.where(found, trial_value, new_value)
            new, new_g = (
                torch.where(per_row(found, x), a, b) for a, b in ((trial, new), (trial_g, new_g))
            )
            todo = todo & ~found
            if not bool(todo.any()):
                break
            step = torch.where(todo, step / 2, step)
        rounding = 4 * torch.finfo(value.dtype).eps * value.abs()
        moving = moving & ~todo & (value - new_value > rounding)
        if not bool(moving.any()):
            return
        s, y = new - x, new_g - g
        curvature = row_dot(s, y)
        bent = curvature > 1e-10 * row_dot(y, y).clamp_min(torch.finfo(x.dtype).tiny)
        pairs.append((s, y, torch.where(bent, 1 / curvature, 0.0)))
        scale = torch.where(bent, curvature / row_dot(y, y), scale)
        x, value, g = new, new_value, new_g
        yield x


def _inverse_hessian(
    pairs: deque[tuple[Tensor, Tensor, Tensor]], scale: Tensor, g: Tensor
) -> Tensor:
    """The two-loop recursion: H g for each row."""
    weights = []
    for s, y, rho in reversed(pairs):
        weights.append(rho * row_dot(s, g))
        g = g - per_row(weights[-1], y) * y
    r = per_row(scale, g) * g
    for (s, y, rho), weight in zip(pairs, reversed(weights), strict=True):
        r = r + per_row(weight - rho * row_dot(y, r), s) * s
    return r
