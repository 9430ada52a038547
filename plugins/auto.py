"""auto: the method that suits a posterior, by rules that rest on measurements.

`bench/method_choice.py` and `bench/count_choice.py` measure what the rules rest on; docs/methods.md
has the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import inverse
from inverse.analytic_start import is_gaussian
from inverse.errors import UnknownNameError, UnsupportedError


@dataclass(frozen=True)
class Rule:
    """A method for the posteriors that fulfil a condition.

    Args:
        method: name of the method.
        reason: the condition in words.
        holds: whether the condition holds for a posterior and a number of samples.
    """

    method: str
    reason: str
    holds: Callable[[inverse.Posterior, int], bool]


def is_counts(posterior: inverse.Posterior) -> bool:
    """Whether y are Poisson counts."""
    return isinstance(posterior.noise, inverse.PoissonNoise)


def counts_rise(posterior: inverse.Posterior) -> bool:
    """Whether y are counts that nowhere fall as x rises, as those of an emitter."""
    if not is_counts(posterior):
        return False
    x = torch.zeros(len(posterior), *posterior.shape).to(posterior.y)
    return bool((posterior.A_vjp(x, torch.ones_like(posterior.y)) >= 0).all())


RULES = (
    Rule(
        "smc-mmps",
        "the prior is known exactly, and weights find its modes",
        lambda p, n: p.prior.exact and n > 1,
    ),
    Rule("wiener", "the mean of a Gaussian posterior", lambda p, n: is_gaussian(p.prior)),
    Rule("mmps", "the prior is known exactly", lambda p, n: p.prior.exact),
    Rule(
        "multimodal",
        "several instruments measured one field",
        lambda p, n: len(p.operator.modalities) > 1,
    ),
    Rule("diffpir", "samples of a linear problem", lambda p, n: n > 1),
    Rule("dpir", "one answer to a linear problem", lambda p, n: True),
    Rule("lgd", "counts of a linear operator", lambda p, n: p.linear and is_counts(p)),
    Rule(
        "osem",
        "one answer to counts of an emitter, without the prior; the problem's option "
        "likelihood=gaussian, if it has one, lets auto use it",
        lambda p, n: n == 1 and counts_rise(p),
    ),
    Rule("red-diff", "one answer, an operator that only gradients know", lambda p, n: n == 1),
    Rule("daps", "an operator or a noise that only gradients know", lambda p, n: True),
    Rule("dps", "an operator or a noise that only gradients know", lambda p, n: True),
)
"""In order: the first rule that holds, and whose method supports the posterior, decides."""


@dataclass(frozen=True)
class Auto(inverse.Method):
    """Run the method of the first rule that fits the posterior; say which and why.

    The rules ask whether the law of the prior is known, whether the operator is linear, whether the
    noise is Gaussian or that of counts, and whether one answer or samples were asked for. The
    record holds the method that ran, with its options.

    Args:
        steps: of the method that is chosen; by default its own.
    """

    name = "auto"
    reference = "rules of this library, measured by bench/method_choice.py"
    equation = "the first method whose rule fits the posterior"
    claim = "none"  # the claim is that of the method that it chooses

    steps: inverse.Count | None = None

    def unsupported(self, posterior: inverse.Posterior) -> str | None:
        if _first(posterior, 1) is not None:
            return None
        found = f"{type(posterior.operator).__name__} with {posterior.noise!r}"
        return (
            f"auto has no rule for this posterior, which has {found}; name a method with --method"
        )

    def chosen(self, posterior: inverse.Posterior, samples: int) -> tuple[inverse.Method, str]:
        rule = _first(posterior, samples)
        if rule is None:
            raise UnsupportedError(str(self.unsupported(posterior)))
        options = {} if self.steps is None else {"steps": self.steps}
        return inverse.get_method(rule.method, **options), rule.reason

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        method, _ = self.chosen(posterior, samples)
        return method.run(posterior, samples, generator)


def _first(posterior: inverse.Posterior, samples: int) -> Rule | None:
    return next((r for r in RULES if _supports(r, posterior) and r.holds(posterior, samples)), None)


def _supports(rule: Rule, posterior: inverse.Posterior) -> bool:
    try:
        return inverse.get_method(rule.method).unsupported(posterior) is None
    except UnknownNameError:
        return False  # this installation lacks the method


@inverse.hookimpl
def inverse_methods():
    return [Auto]
