"""deepinv's own samplers as competitors: DPS, DDRM, DiffPIR, PiGDM and moment matching.

Tachella et al., DeepInverse: a Python package for solving imaging inverse problems with deep
learning, 2025, https://github.com/deepinv/deepinv. The arithmetic is deepinv's, faults included;
this module controls only the inputs and the side effects.

deepinv's images u live in [0, 1] and its diffusions in [-1, 1], which are our model units x: u =
(x + 1) / 2, with noise sigma / 2. Each run builds new deepinv objects around the posterior, so
that no change to them outlives the run. y is a copy, and the evaluations are counted. Every random
number comes from its row's stream: torch's global generator never moves, and a row does not depend
on its batch. A noise level outside the prior's range is denoised at the nearest level within it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import inverse
from inverse.deepinv_reconstructors import deepinv
from inverse.errors import OptionError
from inverse.measurement.linalg import conjugate_gradient

REFERENCE = (
    "Tachella et al., DeepInverse: a Python package for solving imaging inverse problems with "
    "deep learning, 2025, https://github.com/deepinv/deepinv"
)


@dataclass(frozen=True)
class Baseline(inverse.Method):
    """A deepinv reconstructor that runs on a posterior; a subclass builds it and calls it."""

    group = "baselines"
    reference = REFERENCE
    claim = "biased"
    bias: ClassVar[dict[str, float]] = inverse.Method.bias | {"excess": 1.0}
    limit = {}

    total = 1

    def unsupported(self, posterior):
        one_level = not posterior.gaussian or posterior.noise.sigma.ndim == 0
        return super().unsupported(posterior) or (
            None if one_level else f"{self.name} needs one sigma_y for all measurements"
        )

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        physics, y = as_physics(posterior)
        yield (2 * self.reconstruct(posterior, physics, y, generator) - 1).to(posterior.dtype)

    @abstractmethod
    def reconstruct(self, posterior, physics, y, generator):
        """u (B, *shape) in [0, 1], from deepinv's physics and a copy of y."""


# --- the prior and the randomness -----------------------------------------------------------------


class Denoiser(torch.nn.Module):
    """A posterior's prior under deepinv's convention: denoiser(u, sigma), both in [0, 1] units.

    Args:
        posterior: the posterior whose prior denoises.
        differentiable: whether autograd can differentiate the denoised image.
    """

    def __init__(self, posterior, differentiable):
        super().__init__()
        self.posterior, self.differentiable = posterior, differentiable

    def forward(self, u, sigma):
        prior, dtype = self.posterior.prior, self.posterior.dtype
        sigma = 2 * torch.as_tensor(sigma, dtype=dtype, device=u.device).flatten()
        level = sigma.clamp(prior.sigma_min, prior.sigma_max).expand(len(u))
        shrink = (prior.sigma_max / sigma).clamp(max=1).reshape(-1, *[1] * (u.ndim - 1))
        x = (2 * u.to(dtype) - 1) * shrink
        if not self.differentiable:
            return (self.posterior.denoise(x, level) + 1) / 2
        x0_hat = Tweedie.apply(x, level, SimpleNamespace(posterior=self.posterior))
        return (x0_hat + 1) / 2


class Tweedie(torch.autograd.Function):
    """`posterior.tweedie` as a node of autograd's and torch.func's graphs; it counts the VJPs."""

    @staticmethod
    def forward(x, level, call):
        x0_hat, call.vjp = call.posterior.tweedie(x, level)
        return x0_hat

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.vjp = inputs[-1].vjp

    @staticmethod
    def backward(ctx, v):
        return ctx.vjp(v), None, None


class RowStreams(TorchFunctionMode):
    """Context in which torch.randn_like draws from the rows' own streams."""

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return (
            self.generator.randn_like(*args)
            if func is torch.randn_like
            else func(*args, **(kwargs or {}))
        )


# --- the operator ---------------------------------------------------------------------------------


def as_physics(posterior):
    """A deepinv physics u -> y of a posterior, and the measurement that belongs to it.

    An affine y loses its offset. deepinv's DDRM needs a complete V, and ours may be economic: the
    singular basis is then extended by the complement of V's range, where the singular value is
    zero. Through V such redundant coordinates have the law of orthonormal ones.
    """
    physics = deepinv("physics")
    noise = physics.GaussianNoise(posterior.sigma_y) if posterior.gaussian else None
    if not posterior.linear:
        return physics.Physics(
            A=lambda u, **_: posterior.A(2 * u.to(posterior.dtype) - 1), noise_model=noise
        ), posterior.y.clone()
    zero = torch.zeros(1, *posterior.shape, dtype=posterior.dtype, device=posterior.device)
    black = posterior.A(zero - 1)

    def A(u, **_):
        return posterior.A(2 * u.to(posterior.dtype) - 1) - black

    def A_adjoint(v, **_):
        return 2 * posterior.A_adjoint(v.to(posterior.dtype))

    y = posterior.y - black
    if not posterior.decomposable:
        linear = physics.LinearPhysics(
            A=A, A_adjoint=A_adjoint, img_size=posterior.shape, noise_model=noise
        )

        def prox(z, y, gamma):
            """Our own solve: deepinv's stops only when every row of the batch has converged."""
            return conjugate_gradient(
                lambda x: x + gamma * A_adjoint(A(x)),
                z + gamma * A_adjoint(y),
                settings=posterior.execution.solver,
            )

        linear.prox_l2 = prox
        return linear, y
    operator, k = posterior.operator, posterior.operator.V_adjoint(zero).shape[1:]
    n = k.numel()

    def coordinates(c, rest):
        return torch.cat([c.flatten(1), rest.flatten(1)], 1)

    def V(z):
        rest = z[:, n:].unflatten(1, posterior.shape)
        return rest + operator.V(z[:, :n].unflatten(1, k) - operator.V_adjoint(rest))

    def V_adjoint(x):
        c = operator.V_adjoint(x)
        return coordinates(c, x - operator.V(c))

    def U_adjoint(y):
        c = operator.U_adjoint(y)
        return coordinates(c, c.new_zeros(len(c), *posterior.shape))

    singular_values = 2 * posterior.prior.scale * torch.as_tensor(operator.mask).to(y).expand(1, *k)
    mask = coordinates(singular_values, zero)
    complete = physics.DecomposablePhysics(
        U=lambda z: operator.U(z[:, :n].unflatten(1, k)),
        U_adjoint=U_adjoint,
        V=V,
        V_adjoint=V_adjoint,
        mask=mask,
        device=posterior.device,
        noise_model=noise,
    )
    complete.A, complete.A_adjoint = A, A_adjoint
    return complete, y


# --- the methods ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DDRM(Baseline):
    """deepinv's DDRM.

    deepinv divides the noise by sqrt(2), which is right for half a Fourier spectrum; in a real
    basis the variance is too small by a factor of two.

    Args:
        steps: levels, evenly spaced from 1 to 0 in [0, 1] units; deepinv's 100.
        eta: fraction of fresh noise in unmeasured and noisier coordinates.
        eta_b: weight of the measured value in the other coordinates.
    """

    name = "deepinv-ddrm"
    equation = (
        "x'_i ~ N((1 - eta_b) x0_hat_i + eta_b y_i / s_i, (t^2 - eta_b^2 sigma_y^2 / s_i^2) / "
        "2)  where t >= sigma_y / s_i"
    )
    needs = ("decomposable", "gaussian")

    steps: inverse.Count = 100
    eta: inverse.Fraction = 0.85
    eta_b: inverse.Fraction = 1.0

    def reconstruct(self, posterior, physics, y, generator):
        sigmas = torch.linspace(1, 0, self.steps, dtype=torch.float64).tolist()
        model = deepinv("sampling").DDRM(
            Denoiser(posterior, False), sigmas=sigmas, eta=self.eta, etab=self.eta_b
        )
        with RowStreams(generator):
            return model(y, physics)


@dataclass(frozen=True)
class DiffPIR(Baseline):
    """deepinv's DiffPIR.

    It starts from A^T y, clamps to [0, 1], and returns the last iterate with its noise.

    Args:
        steps: steps of 1000 VP levels, spaced as square roots, at least 2; deepinv's 100.
        lambda_: weight of the denoised image in the proximal step; deepinv's 7.
        zeta: fraction of fresh noise; deepinv's 0.1.
    """

    name = "deepinv-diffpir"
    equation = (
        "x0 = argmin |y - A x|^2 / 2 + rho_t |x - x0_hat|^2;  "
        "x' = x0 + t (sqrt(1 - zeta) eps_hat + sqrt(zeta) z)"
    )
    needs = ("linear", "gaussian", "noisy", "image")
    units = "it starts from A^T y, which grows by the square"

    steps: inverse.Count = 100
    lambda_: inverse.Positive = 7.0
    zeta: inverse.Fraction = 0.1

    def __post_init__(self):
        super().__post_init__()
        if self.steps < 2:
            raise OptionError(f"{self.name}: steps must be at least 2, got {self.steps}")

    def reconstruct(self, posterior, physics, y, generator):
        L2 = deepinv("optim.data_fidelity").L2()
        options = {
            "sigma": posterior.sigma_y,
            "max_iter": self.steps,
            "zeta": self.zeta,
            "lambda_": self.lambda_,
        }
        model = deepinv("sampling").DiffPIR(
            Denoiser(posterior, False), L2, device=posterior.device, **options
        )
        with RowStreams(generator):
            return model(y, physics)


@dataclass(frozen=True)
class GuidedDiffusion(Baseline):
    """deepinv's reverse VP diffusion with a guided score; a subclass defines the guidance.

    deepinv counts time points, one more than steps. Its state is float64, the input of the prior
    float32. Its conjugate gradients run all their iterations, because deepinv would otherwise stop
    them when every row of the batch has converged.
    """

    steps: inverse.Count = 100
    weight: inverse.NonNegative = 1.0

    def reconstruct(self, posterior, physics, y, generator):
        model = self.model(
            Denoiser(posterior, True),
            torch.linspace(1, 0, self.steps + 1, dtype=torch.float64, device=posterior.device),
        )
        model.solver.randn_like = lambda x: generator.randn_like(x)
        start = (
            inverse.standard_normal(posterior, generator).double()
            * model.sde.sigma_t(1.0)
            * model.sde.scale_t(1.0)
        )
        return model(y, physics, x_init=start)

    @abstractmethod
    def model(self, denoiser, times):
        """The deepinv reconstructor over these times."""

    def guided_by(self, data_fidelity, times):
        sampling, device = deepinv("sampling"), times.device
        sde = sampling.VariancePreservingDiffusion(alpha=1.0, device=device)
        return sampling.PosteriorDiffusion(
            data_fidelity, data_fidelity.denoiser, sde, sampling.DDPMSolver(times), device=device
        )


@dataclass(frozen=True)
class DPS(GuidedDiffusion):
    """deepinv's DPS.

    The gradient of weight |y - A(x0_hat)| enters as a score; at weight 1 it is too small to matter.

    Args:
        steps: steps of the DDPM solver; deepinv's 1000.
        weight: weight of the likelihood's gradient; deepinv's 1.
        guidance: norm, the norm of the residual as in the paper; or annealed, the Gaussian
            likelihood with variance sigma_y^2 + sigma^2.
    """

    name = "deepinv-dps"
    equation = "score + weight grad_x -|y - A(x0_hat(x))|"
    needs = ("image",)
    bias: ClassVar[dict[str, float]] = Baseline.bias | {"marginal W2": 2.0}
    units = "it weighs |y - A x| as it is, without 1 / sigma_y"

    steps: inverse.Count = 1000
    guidance: Literal["norm", "annealed"] = "norm"

    def model(self, denoiser, times):
        return deepinv("sampling").DPS(
            denoiser,
            solver=deepinv("sampling").DDPMSolver(times),
            weight=self.weight,
            guidance=self.guidance,
            device=times.device,
        )


@dataclass(frozen=True)
class PiGDM(GuidedDiffusion):
    """deepinv's PiGDM data term in its VP diffusion, in closed form for a decomposable operator.

    Args:
        steps: steps of the DDPM solver; deepinv has no default.
        weight: weight of the likelihood's gradient; deepinv's 1.
        iterations: conjugate-gradient iterations for other operators; deepinv's 3.
    """

    name = "deepinv-pigdm"
    equation = (
        "score + J^T A^T (r_t^2 A A^T + sigma_y^2 I)^-1 (y - A x0_hat),  "
        "r_t^2 = sigma^2 / (1 + sigma^2)"
    )
    needs = ("linear", "gaussian", "noisy")

    iterations: inverse.Count = 3

    def model(self, denoiser, times):
        return self.guided_by(
            deepinv("sampling").PiGDMDataFidelity(
                denoiser, self.weight, cg_max_iter=self.iterations, cg_tol=0.0
            ),
            times,
        )


@dataclass(frozen=True)
class MomentMatching(GuidedDiffusion):
    """deepinv's moment-matching data term (MMPS) in its VP diffusion.

    Args:
        steps: steps of the DDPM solver; deepinv has no default.
        weight: weight of the likelihood's gradient; deepinv's 1.
        iterations: conjugate-gradient iterations, one VJP each; deepinv's 3.
    """

    name = "deepinv-moment-matching"
    equation = "score + J^T A^T (sigma^2 A J A^T + sigma_y^2 I)^-1 (y - A x0_hat)"
    needs = ("linear", "gaussian", "noisy")

    iterations: inverse.Count = 3

    def model(self, denoiser, times):
        return self.guided_by(
            deepinv("sampling").MomentMatchingDataFidelity(
                denoiser, self.weight, cg_max_iter=self.iterations, cg_tol=0.0
            ),
            times,
        )


@inverse.hookimpl
def inverse_methods():
    return [DPS, DDRM, DiffPIR, PiGDM, MomentMatching]
