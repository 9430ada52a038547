"""`auto` chooses a method by what the posterior offers, and records the choice."""

from __future__ import annotations

import pytest
import torch

import inverse
from inverse.errors import UnsupportedError
from inverse_plugins import auto


def posterior(sigma_y: float = 0.1, linear: bool = True, prior=None) -> inverse.Posterior:
    @inverse.operator(shape=(1, 8, 8), linear=linear)
    def half(x):
        return 0.5 * x

    law = prior or inverse.GaussianPrior(torch.zeros(1, 8, 8), torch.eye(64))
    y = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    return inverse.Posterior(
        law, half, y, inverse.GaussianNoise(sigma_y), shape=(1, 8, 8), dtype=torch.float64
    )


class Network(inverse.Prior):
    """A denoiser that is not the mean of a known law."""

    def __init__(self):
        super().__init__((1, None, None))

    def forward(self, x, sigma):
        return x / (1 + torch.as_tensor(sigma) ** 2)


MIXTURE = inverse.MixturePrior(
    torch.ones(2), torch.stack([-torch.ones(1, 8, 8), torch.ones(1, 8, 8)]), torch.ones(1)
)


@pytest.mark.parametrize(
    ("linear", "prior", "samples", "chosen"),
    [
        (True, None, 1, "wiener"),
        (True, MIXTURE, 1, "mmps"),
        (True, None, 4, "smc-mmps"),
        (True, Network(), 1, "dpir"),
        (True, Network(), 4, "diffpir"),
        (False, Network(), 1, "red-diff"),
        (False, Network(), 4, "daps"),
    ],
)
def test_the_rules_ask_for_law_operator_and_samples(linear, prior, samples, chosen):
    method, reason = inverse.get_method("auto").chosen(
        posterior(linear=linear, prior=prior), samples
    )
    assert method == inverse.get_method(chosen)
    assert reason


@pytest.mark.parametrize(
    ("gain", "linear", "samples", "chosen"),
    [
        (1.0, True, 1, "lgd"),
        (1.0, True, 4, "lgd"),
        (1.0, False, 1, "osem"),
        (1.0, False, 4, "daps"),
        (-1.0, False, 1, "daps"),
    ],
)
def test_counts_have_rules_of_their_own(gain, linear, samples, chosen):
    """Counts that fall as x rises are those of an absorber."""

    @inverse.operator(shape=(1, 8, 8), linear=linear)
    def counts(x):
        return x if linear else (gain * x).exp()

    y = torch.full((1, 1, 8, 8), 3.0)
    given = inverse.Posterior(Network(), counts, y, inverse.PoissonNoise(1.0), shape=(1, 8, 8))
    method, _ = inverse.get_method("auto").chosen(given, samples)
    assert method == inverse.get_method(chosen)


def test_the_answer_is_that_of_the_chosen_method_and_the_record_names_both():
    given = posterior(prior=Network())
    chosen, asked = inverse.solve(given, "dpir"), inverse.solve(given, "auto")
    assert torch.equal(chosen.samples, asked.samples)
    assert asked.provenance["method"] == chosen.provenance["method"]
    assert asked.provenance["asked"] == {"name": "auto", "options": {"steps": None}}
    assert asked.provenance["notes"][0].startswith("auto chose dpir: ")


def test_a_posterior_that_no_rule_fits_is_refused_in_one_line(monkeypatch):
    linear_rules = [rule for rule in auto.RULES if rule.method in ("dpir", "diffpir")]
    monkeypatch.setattr(auto, "RULES", linear_rules)
    with pytest.raises(UnsupportedError, match=r"no rule for this posterior.*name a method"):
        inverse.solve(posterior(prior=Network(), linear=False), "auto")
