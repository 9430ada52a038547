"""The twist of a circuit: exact on a discrete law by enumeration, whether the circuit is that law or not; and what is refused."""

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
    """A circuit over four pixels of three levels that say much about each other."""
    generator = inverse.seeded("chain", seed)
    circuit = Circuit(RegionGraph.tree([-1, 0, 1, 2]), 4, 3, generator=generator)
    circuit.table.copy_(torch.eye(3)[[0, 1, 2, 1]] + 0.02)
    for i in range(1, 4):
        circuit.weight(i).copy_(torch.rand(1, 4, 4, generator=generator) ** sharp + 0.01)
    save_circuit(circuit, path)
    return path


def posterior(law: Path) -> inverse.Posterior:
    """Pixels 1 and 3 seen in noise that leaves neighbouring levels in doubt."""
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


def found(result: inverse.Result) -> torch.Tensor:
    """Weighted frequencies of the 81 pictures, mean over measurements."""
    values = (result.samples.flatten(2).clamp(0, 1) * 2).round().long() @ torch.tensor(
        [27, 9, 3, 1]
    )
    weights = result.log_weights.softmax(1) / len(values)
    return torch.zeros(81, dtype=torch.float64).index_add(0, values.flatten(), weights.flatten())


@pytest.mark.parametrize("twist", ["the law itself", "another law", "half its power"])
def test_the_samples_are_the_enumerated_posterior_whatever_the_circuit(tmp_path, twist):
    """Total variation from enumeration: 1.5 times the mean of as many independent draws as the least effective size on the way, and 0.02 for the
    steps; and the evidence. The prior without y is far off."""
    law, other = (
        chain(tmp_path / "law.safetensors", 0),
        chain(tmp_path / "other.safetensors", 5, sharp=1),
    )
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
    assert float((found(result) - expected).abs().sum() / 2) < 1.5 * floor + 0.02
    assert float(result.log_evidence) == pytest.approx(log_evidence, abs=0.1)
    prior = log_likelihoods(
        load_circuit(law).double(), torch.cartesian_prod(*[torch.arange(3)] * 4)
    ).exp()
    assert float((prior - expected).abs().sum() / 2) > 0.2


def test_a_circuit_that_is_the_law_keeps_the_weights_nearly_equal(tmp_path):
    """Its twist is p(y | x) itself: what is left is the error of the chain's steps. Another law's loses more."""
    law, other = (
        chain(tmp_path / "law.safetensors", 0),
        chain(tmp_path / "other.safetensors", 5, sharp=1),
    )

    def least(circuit: Path) -> float:
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

    assert least(law) > 0.8
    assert least(other) < 0.78


def test_the_twist_is_the_log_probability_of_y_and_its_gradient(tmp_path):
    """log p(y | x) by direct summation over the pictures, up to a constant, and s^2 times its gradient by autograd."""
    circuit = load_circuit(chain(tmp_path / "law.safetensors", 0)).double()
    u = torch.rand(5, 1, 1, 4, dtype=torch.float64, generator=inverse.seeded("u")).requires_grad_()
    y, noise = (
        torch.rand(1, 1, 4, dtype=torch.float64, generator=inverse.seeded("y")),
        torch.where(SEEN, SIGMA_Y**2, torch.inf).double(),
    )
    variance, nothing = torch.tensor(0.4).double(), torch.tensor(torch.inf).double()
    x = torch.cartesian_prod(*[torch.arange(3)] * 4)
    pictures, prior = x.double() / 2, log_likelihoods(circuit, x)
    near = prior - 0.5 * (u.reshape(5, 1, 4) - pictures).square().sum(-1) / variance
    seen = -0.5 * ((y.reshape(4) - pictures).square() / noise.reshape(4)).sum(-1)
    expected = (near + seen).logsumexp(1) - near.logsumexp(1)
    given, alone = (
        pixel_moments(circuit, u.detach(), variance, y, noise),
        pixel_moments(circuit, u.detach(), variance, y, nothing),
    )
    twist = given.log_likelihood - alone.log_likelihood
    torch.testing.assert_close(
        twist - twist[0], (expected - expected[0]).detach(), rtol=0, atol=1e-9
    )
    (gradient,) = torch.autograd.grad(expected.sum(), u)
    torch.testing.assert_close(given.mean - alone.mean, variance * gradient, rtol=0, atol=1e-9)


# --- refusals -------------------------------------------------------------------------------------


def test_a_circuit_that_does_not_fit_is_refused_in_one_line(command, tmp_path):
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


def test_another_operator_and_a_power_of_zero_are_refused():
    p = inverse.get_problem("denoise").posterior(
        torch.zeros(3, 8, 8), prior=image_prior(), dtype=torch.float64
    )
    with pytest.raises(UnsupportedError, match="inpainting operator"):
        inverse.solve(p, inverse.get_method("tractable-smc"))
    with pytest.raises(OptionError, match="power must lie in"):
        inverse.get_method("tractable-smc", power=0.0)
