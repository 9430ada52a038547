"""Our samplers against diffusers' schedulers and azula's samplers, if those are installed.

    pip install diffusers azula
    python -m pytest tests/sampling/test_parity_with_other_libraries.py

Independent implementations agree step by step on an exact denoiser. No other code needs these
packages.
"""

from __future__ import annotations

import pytest
import torch

from inverse.priors.analytic import MixturePrior
from inverse.sampling.integrator import Rule, multistep
from inverse.sampling.samplers import SAMPLERS
from inverse.sampling.schedules import log_uniform, schedule

F64 = torch.float64
LAW = MixturePrior(
    torch.tensor([0.4, 0.6], dtype=F64),
    torch.tensor([[0.8, 0.3], [-1.0, 0.5]], dtype=F64),
    torch.tensor([0.16, 0.3], dtype=F64),
)
START = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=F64)


def ours(sampler, sigmas: torch.Tensor, **options) -> torch.Tensor:
    *_, x = sampler(LAW, sigmas[0] * START, sigmas, None, **options)
    return x


# --- diffusers --------------------------------------------------------------------------------


def theirs(scheduler, sigmas: torch.Tensor, variance_preserving: bool) -> torch.Tensor:
    """A scheduler over our levels, with a "model" that predicts x0.

    For variance-preserving schedulers x is divided by sqrt(1 + sigma^2).
    """
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas, scheduler.timesteps = sigmas, torch.arange(len(sigmas) - 1.0)
    scheduler.set_begin_index(0)
    scale = (1 + sigmas**2).rsqrt() if variance_preserving else torch.ones_like(sigmas)
    x = sigmas[0] * START * scale[0]
    for t, sigma, alpha in zip(scheduler.timesteps, sigmas, scale, strict=False):
        x = scheduler.step(LAW(x / alpha, sigma), t, x).prev_sample
    return x / scale[-1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("final", [True, False], ids=["to 0", "to sigma_min"])
@pytest.mark.parametrize(
    ("name", "scheduler", "options"),
    [
        ("ddim", "DPMSolverMultistepScheduler", {"solver_order": 1}),
        ("dpmpp-2m", "DPMSolverMultistepScheduler", {"solver_order": 2}),
        (
            "dpmpp-3m-compat",
            "DPMSolverMultistepScheduler",
            {"solver_order": 3, "lower_order_final": True},
        ),
        ("unipc", "UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}),
        ("unipc-3", "UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh2"}),
    ],
)
def test_multistep_samplers_are_those_of_diffusers(name, scheduler, options, final):
    """1e-5, because diffusers computes some coefficients in single precision.

    Below 15 steps it lowers the last orders, as our lower_order_final does.
    """
    diffusers = pytest.importorskip("diffusers")
    sigmas = schedule("log-uniform", 12, 0.05, 20.0)[: None if final else -1]
    ending = {"final_sigmas_type": "zero" if final else "sigma_min"}
    made = getattr(diffusers, scheduler)(
        prediction_type="sample", **{"lower_order_final": True, **options}, **ending
    )
    lower = {} if name == "ddim" else {"lower_order_final": True}
    torch.testing.assert_close(
        ours(SAMPLERS[name], sigmas, **lower), theirs(made, sigmas, True).to(F64), rtol=0, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore")
def test_euler_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    sigmas = schedule("karras", 20, 0.05, 20.0)
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type="sample")
    torch.testing.assert_close(
        ours(SAMPLERS["euler"], sigmas), theirs(scheduler, sigmas, False).to(F64), rtol=0, atol=1e-5
    )


# --- azula ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sampler", "options"),
    [
        ("ddim", "DDIMSampler", {}),
        ("euler", "EulerSampler", {}),
        ("heun", "HeunSampler", {}),
        ("dpmpp-3m", "xEABSampler", {"order": 3}),
        ("2m, exact", "xEABSampler", {"order": 2}),
        ("rho-ab", "zABSampler", {"order": 4}),
        ("3, noise", "zEABSampler", {"order": 3}),
    ],
)
def test_samplers_are_those_of_azula(name, sampler, options):
    """Its multistep samplers integrate the same polynomial exactly: equal up to rounding."""
    sample = pytest.importorskip("azula.sample")
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VESchedule

    class Exact(Denoiser):
        schedule = VESchedule(0.05, 20.0)

        def forward(self, x_t, t, **kwargs):
            return DiracPosterior(mean=LAW(x_t, self.schedule.sigma(t)))

    steps = 12
    sigmas = log_uniform(steps + 1, 0.05, 20.0)
    double = type(
        sampler,
        (getattr(sample, sampler),),
        {"timesteps": torch.linspace(1, 0, steps + 1, dtype=F64)},
    )
    made = double(Exact(), steps=steps, silent=True, **options)
    exact = {"2m, exact": (2, Rule()), "3, noise": (3, Rule("noise"))}
    chosen = SAMPLERS.get(name) or (lambda *arguments: multistep(*arguments, *exact[name]))
    plain = {"single_start": False} if name in ("dpmpp-3m", "rho-ab") else {}
    torch.testing.assert_close(
        ours(chosen, sigmas, **plain), made(sigmas[0] * START), rtol=0, atol=1e-9
    )
