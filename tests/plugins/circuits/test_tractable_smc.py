"""The twist of a circuit: exact by enumeration, for the circuit of the law and for others."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import image_prior

import inverse
from inverse.errors import OptionError, UnsupportedError
from inverse_plugins.circuits.cards import load_circuit, save_circuit
from inverse_plugins.circuits.circuit import Circuit
from inverse_plugins.circuits.expectation_maximisation import log_likelihoods
from inverse_plugins.circuits.graph import RegionGraph
from inverse_plugins.circuits.pixel_circuit import CircuitPrior, pixel_moments

pytest_plugins = "cli_fixtures"

SIGMA_Y, Y = 0.3, (0.9, 0.2)
SEEN = torch.tensor([False, True, False, True]).reshape(1, 1, 4)


def chain(path: Path, seed: int, sharp: int = 4) -> Path:
    """A circuit over four strongly dependent pixels of three levels."""
    generator = inverse.seeded("chain", seed)
    circuit = Circuit(RegionGraph.tree([-1, 0, 1, 2]), 4, 3, generator=generator)
    circuit.table.copy_(torch.eye(3)[[0, 1, 2, 1]] + 0.02)
    for i in range(1, 4):
        circuit.weight(i).copy_(torch.rand(1, 4, 4, generator=generator) ** sharp + 0.01)
    save_circuit(circuit, path)
    return path


def posterior(law: Path) -> inverse.Posterior:
    """Pixels 1 and 3 measured in noise that does not separate neighbouring levels."""
    prior = CircuitPrior(
        load_circuit(law).double(), 1, shift=0.5, scale=0.5, sigma_min=0.05, sigma_max=80.0
    )
    y = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    y[..., SEEN[0]] = torch.tensor(Y, dtype=torch.float64)
    operator = inverse.physics.Inpainting(img_size=(1, 1, 4), mask=SEEN.double())
    return inverse.Posterior(
        prior,
        operator,
        y,
        inverse.GaussianNoise(SIGMA_Y, observed=SEEN),
        shape=(1, 1, 4),
        dtype=torch.float64,
    )


def enumerated(law: Path) -> tuple[torch.Tensor, float]:
    """p(x | y) of all 81 pictures, and log p(y), by summation."""
    x = torch.cartesian_prod(*[torch.arange(3)] * 4)
    log_joint = log_likelihoods(load_circuit(law).double(), x)
    for pixel, y in zip((1, 3), Y, strict=True):
        log_joint = (
            log_joint
            - 0.5 * ((y - x[:, pixel] / 2) / SIGMA_Y) ** 2
            - 0.5 * math.log(2 * math.pi * SIGMA_Y**2)
        )
    return log_joint.softmax(0), float(log_joint.logsumexp(0))


def frequencies(result: inverse.Result) -> torch.Tensor:
    """Weighted frequencies of the 81 pictures, mean over measurements."""
    values = (result.samples.flatten(2).clamp(0, 1) * 2).round().long() @ torch.tensor(
        [27, 9, 3, 1]
    )
    weights = result.log_weights.softmax(1) / len(values)
    return torch.zeros(81, dtype=torch.float64).index_add(0, values.flatten(), weights.flatten())


@pytest.mark.parametrize("twist", ["the law itself", "another law", "half its power"])
def test_samples_are_the_enumerated_posterior_for_every_circuit(tmp_path, twist):
    """Total variation from enumeration, and the evidence.

    The bound is 1.5 times the mean for as many independent draws as the smallest effective sample
    size, plus 0.02 for the steps. The prior without y is far off.
    """
    law = chain(tmp_path / "law.safetensors", 0)
    other = chain(tmp_path / "other.safetensors", 5, sharp=1)
    options = {
        "circuit": str(other if twist == "another law" else law),
        "power": 0.5 if twist == "half its power" else 1.0,
    }
    p, rows = posterior(law), 1500
    method = inverse.get_method("tractable-smc", steps=60, particles=rows, **options)
    result = inverse.solve(p, method, samples=rows)
    expected, log_evidence = enumerated(law)
    drawn = min(entry["ess"][0] for entry in result.provenance["trace"])
    floor = 0.5 * float((expected * (1 - expected) / drawn).sqrt().sum() * math.sqrt(2 / math.pi))
    assert float((frequencies(result) - expected).abs().sum() / 2) < 1.5 * floor + 0.02
    assert float(result.log_evidence) == pytest.approx(log_evidence, abs=0.1)
    prior = log_likelihoods(
        load_circuit(law).double(), torch.cartesian_prod(*[torch.arange(3)] * 4)
    ).exp()
    assert float((prior - expected).abs().sum() / 2) > 0.2


def test_circuit_of_the_law_keeps_the_weights_nearly_equal(tmp_path):
    """Its twist is p(y | x) up to the error of the steps; the circuit of another law loses more."""
    law = chain(tmp_path / "law.safetensors", 0)
    other = chain(tmp_path / "other.safetensors", 5, sharp=1)

    def smallest_effective_share(circuit: Path) -> float:
        method = inverse.get_method(
            "tractable-smc", steps=80, particles=400, circuit=str(circuit), ess_threshold=0.01
        )
        return (
            min(
                entry["ess"][0]
                for entry in inverse.solve(posterior(law), method, samples=400).provenance["trace"]
            )
            / 400
        )

    assert smallest_effective_share(law) > 0.8
    assert smallest_effective_share(other) < 0.78


def test_twist_is_the_log_probability_of_y_and_its_gradient(tmp_path):
    """log p(y | x) by direct sums, up to a constant, and s^2 times its gradient by autograd."""
    circuit = load_circuit(chain(tmp_path / "law.safetensors", 0)).double()
    u = torch.rand(5, 1, 1, 4, dtype=torch.float64, generator=inverse.seeded("u")).requires_grad_()
    y = torch.rand(1, 1, 4, dtype=torch.float64, generator=inverse.seeded("y"))
    noise = torch.where(SEEN, SIGMA_Y**2, torch.inf).double()
    variance, nothing = torch.tensor(0.4).double(), torch.tensor(torch.inf).double()
    x = torch.cartesian_prod(*[torch.arange(3)] * 4)
    pictures, prior = x.double() / 2, log_likelihoods(circuit, x)
    near = prior - 0.5 * (u.reshape(5, 1, 4) - pictures).square().sum(-1) / variance
    seen = -0.5 * ((y.reshape(4) - pictures).square() / noise.reshape(4)).sum(-1)
    expected = (near + seen).logsumexp(1) - near.logsumexp(1)
    given = pixel_moments(circuit, u.detach(), variance, y, noise)
    alone = pixel_moments(circuit, u.detach(), variance, y, nothing)
    twist = given.log_likelihood - alone.log_likelihood
    torch.testing.assert_close(
        twist - twist[0], (expected - expected[0]).detach(), rtol=0, atol=1e-9
    )
    (gradient,) = torch.autograd.grad(expected.sum(), u)
    torch.testing.assert_close(given.mean - alone.mean, variance * gradient, rtol=0, atol=1e-9)


# --- refusals ---------------------------------------------------------------------------------


def test_circuit_that_does_not_tile_the_image_is_refused_in_one_line(command, tmp_path):
    save_circuit(
        Circuit(RegionGraph.quad_split(3, 5), 2, 2, shape=(3, 5)), tmp_path / "odd.safetensors"
    )
    outcome = command(
        "solve",
        "--problem",
        "inpainting",
        "--method",
        "tractable-smc",
        "--set",
        f"circuit={tmp_path / 'odd.safetensors'}",
    )
    outcome.refused("15 variables", "3 x 5 pixels", "multiples")


def test_other_operators_and_a_power_of_zero_are_refused():
    p = inverse.get_problem("denoise").posterior(
        torch.zeros(3, 8, 8), prior=image_prior(), dtype=torch.float64
    )
    with pytest.raises(UnsupportedError, match="inpainting operator"):
        inverse.solve(p, inverse.get_method("tractable-smc"))
    with pytest.raises(OptionError, match="power must be positive and at most 1"):
        inverse.get_method("tractable-smc", power=0.0)
