"""Parameters of an operator: the maximum of the exact evidence, and its curvature."""

import math
from dataclasses import dataclass

import pytest
import torch

import inverse
from inverse.errors import OptionError

SIDE, SIGMA = 12, 0.1


def prior():
    t = torch.arange(SIDE, dtype=torch.float64)
    line = torch.exp(-0.5 * ((t[:, None] - t) / 1.5) ** 2) + 1e-3 * torch.eye(SIDE).double()
    return inverse.GaussianPrior(torch.zeros(1, SIDE, SIDE).double(), torch.kron(line, line))


def matrix(width):
    """Circular Gaussian blur of one side."""
    t = torch.arange(SIDE, dtype=torch.float64)
    d = (t[:, None] - t + SIDE // 2) % SIDE - SIDE // 2
    k = torch.exp(-0.5 * (d / width) ** 2)
    return k / k.sum(1, keepdim=True)


def blur(width):
    if torch.as_tensor(width).detach() <= 0:
        raise ValueError("the width must be positive")
    return inverse.operator(
        lambda x: matrix(width).to(x) @ x @ matrix(width).to(x).T, shape=(1, SIDE, SIDE)
    )


def measurement(width=1.2, seed=0):
    generator = inverse.seeded(seed, "fit")
    law = prior()
    x = law.decode(law.sample(1, generator))
    y = blur(width).A(x)
    return y + SIGMA * torch.randn(y.shape, generator=generator, dtype=torch.float64)


def exact_fit(y):
    """The maximum of the exact log-evidence over a grid, and its standard error."""
    law = prior()
    grid = torch.linspace(0.5, 2.5, 401, dtype=torch.float64)
    values = torch.tensor(
        [
            float(law.log_evidence(torch.kron(matrix(w), matrix(w)), SIGMA, y.flatten()))
            for w in grid
        ]
    )
    best = int(values.argmax())
    h = float(grid[1] - grid[0]) * 10
    curvature = (values[best - 10] - 2 * values[best] + values[best + 10]) / h**2
    return float(grid[best]), 1 / math.sqrt(-float(curvature))


def posterior(y):
    return inverse.Posterior(
        prior(), blur(1.0), y, inverse.GaussianNoise(SIGMA), dtype=torch.float64
    )


@dataclass(frozen=True)
class Draws(inverse.Method):
    """Draws from the posterior of the Gaussian prior."""

    name = "draws"

    def run(self, posterior, samples, generator):
        eye = torch.eye(SIDE**2, dtype=torch.float64).reshape(-1, 1, SIDE, SIDE)
        A = posterior.A(eye).flatten(1).T
        law = prior().given(A, SIGMA, posterior.y[0].flatten())
        spread = torch.linalg.cholesky(law.covariance.double())
        noise = generator.randn_like(posterior.y).flatten(1)
        yield (law.mean.flatten() + noise @ spread.T).reshape_as(posterior.y)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_fit_is_the_maximum_of_the_exact_evidence(seed):
    """With 64 samples the fit scatters by 0.2 standard errors around the exact maximum."""
    y = measurement(seed=seed)
    width, std = exact_fit(y)
    fit = inverse.fit_operator(posterior(y), blur, {"width": 0.8}, method=Draws(), samples=64)
    assert fit.parameters["width"] == pytest.approx(width, abs=std)
    assert std / 2 < fit.std["width"] < 2 * std
    assert len(fit.rounds) == 12
    assert str(fit).startswith("width = ")


@pytest.mark.parametrize("start", [0.35, 2.0])
def test_a_far_start_is_not_lost(start):
    """A full Newton step from there can reach widths at which the gradient vanishes."""
    y = measurement()
    width, std = exact_fit(y)
    fit = inverse.fit_operator(
        posterior(y), blur, {"width": start}, method=Draws(), samples=64, rounds=24
    )
    assert fit.parameters["width"] == pytest.approx(width, abs=std)


def test_a_step_out_of_the_domain_is_halved():
    fit = inverse.fit_operator(
        posterior(measurement(0.3)), blur, {"width": 2.5}, method=Draws(), rounds=2
    )
    assert fit.parameters["width"] > 0


@pytest.mark.parametrize(
    ("operator", "start", "reason"),
    [
        (blur, {}, "names no parameter"),
        (blur, {"width": math.nan}, "give a finite number"),
        (blur, {"width": -1.0}, "the operator refuses width=-1"),
        (blur, {"radius": 1.0}, "does not take radius"),
        (
            lambda width: blur(torch.as_tensor(width).detach()),
            {"width": 1.0},
            "no gradient with respect to width",
        ),
        (lambda width, gain: blur(width), {"width": 1.0, "gain": 2.0}, "has no gradient|gain"),
    ],
)
def test_bad_input_is_one_line(operator, start, reason):
    with pytest.raises(OptionError, match=reason):
        inverse.fit_operator(
            posterior(measurement()), operator, start, method=Draws(), rounds=1, samples=2
        )
