"""Measure the order of the samplers on the grids of practice, for the table of docs/samplers.md.

    python bench/sampler_orders.py

The reference is the probability-flow ODE of a mixture of three Gaussians in the plane, solved to
1e-12. Every grid has N steps from sigma 20 to 0.08, and no step into 0. VP is uniform in the time
of the linear VP process; the schedule `vp` rounds it to the levels of a trained model. The order is
the slope of the error from 160 to 320 steps; the table also states the error at 20 steps.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from options import new_parser
from output import markdown_table
from scipy.integrate import solve_ivp
from torch import Tensor

from inverse.priors.analytic import MixturePrior
from inverse.sampling.integrator import vp_time
from inverse.sampling.options import get_sampler
from inverse.sampling.schedules import schedule

HIGH, LOW, COUNT = 20.0, 0.08, 64
GRIDS = {"log-SNR": "log-uniform", "cosine": "cosine", "VP": "", "EDM": "karras"}
SAMPLERS = (
    *("dpmpp-2m", "dpmpp-3m:single_start=false", "dpmpp-3m", "unipc", "unipc-3"),
    *("deis-tab1", "deis-tab1:log_snr=true"),
    *("deis-tab2:single_start=false", "deis-tab2", "deis-tab2:log_snr=true"),
    *("deis-tab3:single_start=false", "deis-tab3", "deis-tab3:log_snr=true"),
    *("rho-ab:single_start=false", "rho-ab"),
)


def mixture() -> MixturePrior:
    """Three Gaussians in the plane."""
    means = torch.tensor([[1.5, 0.3], [-1.0, 1.2], [-0.2, -1.4]], dtype=torch.float64)
    weights = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)
    return MixturePrior(weights, means, torch.tensor([0.16, 0.26, 0.19], dtype=torch.float64))


def flow(law: MixturePrior) -> tuple[Tensor, Tensor]:
    """Starts at HIGH and their ends at LOW: (COUNT, 2) each."""
    generator = torch.Generator().manual_seed(0)
    x = HIGH * torch.randn(COUNT, 2, generator=generator, dtype=torch.float64)

    def slope(at: float, flat: np.ndarray) -> np.ndarray:
        x = torch.tensor(flat).reshape(COUNT, 2)
        return (law(x, torch.tensor(math.exp(-at), dtype=torch.float64)) - x).numpy().ravel()

    span = (-math.log(HIGH), -math.log(LOW))
    end = solve_ivp(slope, span, x.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-12)
    return x, torch.tensor(end.y[:, -1]).reshape(COUNT, 2)


def vp_grid(steps: int, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    """Levels uniform in the time of the linear VP process, from HIGH to LOW: (steps + 1,)."""
    first, last = vp_time(np.array([HIGH, LOW]))
    t = torch.linspace(float(first), float(last), steps + 1, dtype=torch.float64)
    return torch.expm1(beta_min * t + (beta_max - beta_min) * t * t / 2).sqrt()


def error(name: str, grid: str, steps: int, law: MixturePrior, x: Tensor, end: Tensor) -> float:
    """Root mean square error of a sampler with this number of steps."""
    named = GRIDS[grid]
    sigmas = schedule(named, steps + 1, LOW, HIGH)[:-1] if named else vp_grid(steps)
    *_, last = get_sampler(name)(law, x, sigmas, None)
    return float((last - end).square().mean().sqrt())


def main() -> None:
    new_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    law = mixture()
    x, end = flow(law)
    rows = []
    for name in SAMPLERS:
        row = [f"`{name}`"]
        for grid in GRIDS:
            few, before, after = (error(name, grid, n, law, x, end) for n in (20, 160, 320))
            row += [f"{math.log2(before / after):.2f}", f"{few:.1e}"]
        rows.append(row)
        print(*row, flush=True)
    heads = [words for grid in GRIDS for words in (f"{grid}: order", "error at 20")]
    print(markdown_table(["sampler", *heads], rows))


if __name__ == "__main__":
    main()
