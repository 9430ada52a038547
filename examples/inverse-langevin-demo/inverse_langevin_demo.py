"""Annealed Langevin dynamics as a separate distribution: this module and a pyproject.toml."""

from dataclasses import dataclass

import inverse


@dataclass(frozen=True)
class LangevinDemo(inverse.Method):
    """Langevin steps on p_sigma(x) N(y; A x, sigma_y^2 + sigma^2 |A|^2) while sigma falls.

    Args:
        steps: noise levels, uniform in log sigma.
        inner: Langevin steps at each level.
        eta: step size; at 1 one step forgets the stiffest direction.
    """

    name = "langevin-demo"
    reference = "Jalal et al., NeurIPS 2021, https://arxiv.org/abs/2108.01368"
    equation = "x' = x + h (score + A^T (y - A x) / (sigma_y^2 + sigma^2 |A|^2)) + sqrt(2 h) z"
    claim = "exact in the limit"
    needs = ("linear", "gaussian")

    steps: int = 100
    inner: int = 5
    eta: float = 0.2

    def run(self, posterior, samples, generator):
        sigmas = inverse.noise_levels(posterior, "log-uniform", self.steps)[:-1]
        x = sigmas[0] * inverse.standard_normal(posterior, generator)
        for sigma in sigmas:
            h = self.eta * sigma**2 / 2
            variance = posterior.sigma_y**2 + sigma**2 * posterior.norm_squared
            for _ in range(self.inner):
                prior_score = (posterior.denoise(x, sigma) - x) / sigma**2
                likelihood_score = posterior.A_adjoint(posterior.residual(x)) / variance
                z = generator.randn_like(x)
                x = x + h * (prior_score + likelihood_score) + (2 * h).sqrt() * z
            yield x


@inverse.hookimpl
def inverse_methods():
    return [LangevinDemo]
