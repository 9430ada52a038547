"""Candidates for an operator, a noise level or a prior, weighed by how well they explain y.

The weight of a candidate M is p(M | y) = p(y | M) p(M) / sum, with equal p(M). A particle method
estimates the evidence p(y | M) without bias, so that the mean over repetitions does. The averaged
answer is the mixture of the candidates' posteriors.

Source: Hoeting, Madigan, Raftery, Volinsky, Bayesian Model Averaging: A Tutorial, Statistical
Science 1999.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inverse.engine import solve
from inverse.errors import InputError, OptionError, UnsupportedError
from inverse.execution import Cost
from inverse.method import Method
from inverse.posterior import Posterior
from inverse.result import Result

UNCERTAIN = 1.0
"""Standard deviation of log-evidences over repetitions (nats) above which weights are doubtful."""


@dataclass(frozen=True)
class Comparison:
    """Evidence and weight of each candidate, and the answer averaged over them.

    Args:
        names: of the candidates.
        log_evidence: log p(y | M), (candidates,), nats.
        error: its standard error, (candidates,), nats.
        scatter: standard deviation of the single log-evidences, (candidates,), nats.
        weights: p(M | y), (candidates,).
        answer: samples of all candidates and repetitions with their weights.
    """

    names: list[str]
    log_evidence: Tensor
    error: Tensor
    scatter: Tensor
    weights: Tensor
    answer: Result

    @property
    def notes(self) -> list[str]:
        """What makes the weights doubtful."""
        doubtful = [
            name
            for name, s in zip(self.names, self.scatter.tolist(), strict=True)
            if not s <= UNCERTAIN
        ]
        if not doubtful:
            return []
        return [
            f"the log-evidence of {', '.join(doubtful)} scatters by up to "
            f"{float(self.scatter.max()):.2g} nats, so that the weights are uncertain; "
            "use more particles or repetitions"
        ]

    def record(self) -> dict[str, object]:
        """As JSON types."""
        columns = ("log_evidence", "error", "scatter", "weights")
        return {
            "candidates": [
                {"name": name} | {c: float(getattr(self, c)[i]) for c in columns}
                for i, name in enumerate(self.names)
            ],
            "notes": self.notes,
        }


def compare(
    posteriors: Mapping[str, Posterior],
    method: Method | type[Method] | str,
    samples: int = 1,
    repetitions: int = 4,
    seed: int = 0,
    observe: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Weigh candidates by their evidence.

    Args:
        posteriors: name -> the posterior of the same measurement under each candidate.
        method: estimates log p(y), as particle methods do.
        samples: for each candidate and repetition.
        repetitions: independent solves for each candidate, at least 2.
        seed: random seed of the first repetition.
        observe: called as observe(done, total) after each solve.

    Raises: OptionError for fewer than two candidates or repetitions; InputError for posteriors of
        several measurements, or of different ones; UnsupportedError for a method that estimates no
        evidence.
    """
    if len(posteriors) < 2 or repetitions < 2:
        raise OptionError(
            f"compare: needs at least 2 candidates and 2 repetitions, got {len(posteriors)} and "
            f"{repetitions}; give an option several values, such as sigma_y=0.01,0.02"
        )
    first = next(iter(posteriors.values()))
    for name, posterior in posteriors.items():
        if len(posterior) != 1:
            raise InputError(f"compare: {name} has {len(posterior)} measurements; compare one")
        if not torch.equal(posterior.y, first.y):
            raise InputError(f"compare: {name} has another measurement than the first candidate")
        if posterior.shape != first.shape:
            raise InputError(
                f"compare: {name} has an unknown of shape {posterior.shape}, the first candidate "
                f"one of {first.shape}"
            )
    results: list[Result] = []
    estimates: list[Tensor] = []
    for posterior in posteriors.values():
        for repetition in range(repetitions):
            results.append(solve(posterior, method, samples, seed + repetition))
            estimates.append(_evidence(results[-1]))
            observe(len(results), len(posteriors) * repetitions)
    single = torch.cat(estimates).reshape(len(posteriors), repetitions)
    log_evidence = single.logsumexp(1) - math.log(repetitions)
    if not bool(torch.isfinite(log_evidence).any()):
        raise InputError(f"compare: no candidate explains y; log p(y) is {log_evidence.tolist()}")
    relative = (single - log_evidence[:, None]).exp()
    return Comparison(
        list(posteriors),
        log_evidence,
        relative.std(1) / math.sqrt(repetitions),
        single.std(1),
        log_evidence.softmax(0),
        _mixture(results, single.flatten()),
    )


def _evidence(result: Result) -> Tensor:
    """log p(y), (1,), nats; -infinity where the particles have no weight.

    Raises: UnsupportedError if the method does not estimate it.
    """
    if result.log_evidence is None:
        name = result.provenance["method"]["name"]
        raise UnsupportedError(
            f"compare: {name} estimates no log p(y); use a particle method that does"
        )
    return result.log_evidence.double().nan_to_num(nan=-math.inf)


def _mixture(results: list[Result], log_evidence: Tensor) -> Result:
    """The samples of several results of one measurement, weighted by their evidence."""
    log_weights = torch.cat(
        [r.weights.double().log() + z for r, z in zip(results, log_evidence, strict=True)], 1
    )
    rows = [r.cost for r in results]
    counts = {name: sum(getattr(cost, name) for cost in rows) for name in Cost.__dataclass_fields__}
    total = torch.logsumexp(log_evidence, 0) - math.log(len(results))
    return replace(
        results[int(log_evidence.argmax())],
        samples=torch.cat([r.samples for r in results], 1),
        misfit=torch.cat([r.misfit for r in results], 1),
        log_weights=log_weights - log_weights.logsumexp(1, keepdim=True),
        log_evidence=total[None],
        cost=Cost(**counts),
        seconds=sum(r.seconds for r in results),
    )
