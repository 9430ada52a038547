"""Probabilistic circuits: layered sum-product networks whose likelihood, conditionals and samples given evidence are exact.

A circuit is a law of n discrete variables. A region stands for `states` distributions over one set of variables: a leaf for rows of
a table theta, every other region for mixtures of products of smaller ones,

    m_r[h] = sum_p sum_k W_r[h, p, k] prod_{c in p} m_c[k],    sum_{p, k} W_r[h, p, k] = 1,

where the partitions p of a region split its variables into disjoint parts (decomposable) and all cover the same ones (smooth).
Evidence is a weight w_i(c) >= 0 for every category c of every variable i, in logarithms: all zero where nothing is known, one-hot
where the value is, a likelihood in between. One pass upwards gives log E[prod_i w_i(x_i)], its derivatives every conditional:
Darwiche, A Differential Approach to Inference in Bayesian Networks, JACM 2003; Choi, Vergari, Van den Broeck, Probabilistic Circuits, 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from inverse.errors import InputError
from inverse.seeding import Generators
from inverse_plugins.circuits.graph import RegionGraph
from inverse_plugins.circuits.layers import Layer, layers

Leaves = Literal["categorical", "gaussian"]


@dataclass(frozen=True)
class Beliefs:
    """The three conditionals of every variable given evidence (B, n, K), named apart, and the evidence's log-probability.

    With flow[l, k] the probability that state k of the leaf l generated its variable i, theta its table and w the evidence:

    Args:
        log_likelihood: log E[prod_i w_i(x_i)]: (B,), nats.
        posterior: p(x_i = c | all evidence), sum_k flow theta w_i / sum_c theta w_i.
        predictive: p(another draw of x_i from the same leaf = c | all evidence), sum_k flow theta; its own evidence is in the flow alone.
        leave_one_out: p(x_i = c | evidence on all other variables).
    """

    log_likelihood: Tensor
    posterior: Tensor
    predictive: Tensor
    leave_one_out: Tensor


class Circuit(nn.Module):
    """A law of n variables with K categories each.

    Args:
        graph: its regions.
        states: distributions H in each region but the root, which has one.
        categories: K.
        leaves: "categorical", a free row theta[l, h] for each state, or "gaussian", the mass of N(mean[l, h], deviation[l, h]^2) on
            the bin around each category, c - 1/2 to c + 1/2, the outer bins being unbounded.
        levels: what the categories stand for, (K,) increasing; for pixels, intensities in [0, 1]. By default equally spaced there.
        spread: standard deviation of a value around its level, in the units of the levels; 0 for values that take no others.
        shape: (height, width) of the pixels that the variables are, row by row; by default one row.
        ties: the table, counted from 0, that each leaf region uses; by default each has its own. Of categorical leaves.
        generator: of the initial parameters: Dirichlet rows for sums and tables, Gaussians around random categories.
    """

    table: Tensor
    mean: Tensor
    deviation: Tensor
    levels: Tensor

    def __init__(
        self,
        graph: RegionGraph,
        states: int,
        categories: int,
        *,
        leaves: Leaves = "categorical",
        levels: Tensor | None = None,
        spread: float = 0.0,
        shape: tuple[int, int] | None = None,
        ties: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.graph, self.states, self.categories, self.leaves, self.spread = (
            graph,
            states,
            categories,
            leaves,
            float(spread),
        )
        self.shape = (1, graph.size) if shape is None else shape
        if self.shape[0] * self.shape[1] != graph.size:
            raise InputError(
                f"circuit: {graph.size} variables are not the pixels of {self.shape[0]} x {self.shape[1]}"
            )
        if ties is not None and (
            leaves == "gaussian"
            or len(ties) != len(graph.variables)
            or set(ties) != set(range(max(ties) + 1))
        ):
            raise InputError(
                f"circuit: ties name a table for each of {len(graph.variables)} categorical leaves, counted from 0, got {list(ties)}"
            )
        self.ties = (
            torch.arange(len(graph.variables)) if ties is None else torch.tensor(tuple(ties))
        )
        generator = generator or torch.Generator().manual_seed(0)
        self._kept: tuple[Tensor, list[Tensor]] | None = None
        self._variables = torch.tensor(graph.variables)
        self._plan = layers(graph)
        self.register_buffer(
            "levels", torch.linspace(0, 1, categories) if levels is None else levels.clone()
        )
        for i, level in enumerate(self._plan):
            drawn = _dirichlet(
                (len(level.regions), 1 if i == 0 else states, level.partitions, states), generator
            )
            real = level.padding.reshape(len(level.regions), 1, level.partitions, 1).isfinite()
            self.register_buffer(f"weight_{i}", (drawn * real).flatten(2))
        if leaves == "gaussian":
            self.register_buffer(
                "mean",
                torch.rand(len(graph.variables), states, generator=generator) * (categories - 1),
            )
            self.register_buffer(
                "deviation", torch.full((len(graph.variables), states), max(categories / 4, 0.5))
            )
        else:
            self.register_buffer(
                "table", _dirichlet((int(self.ties.max()) + 1, states, categories), generator)
            )

    def frozen(self) -> Circuit:
        """This circuit with its normalised parameters kept at hand, for many queries; changes to its tables no longer count."""
        self._kept = None
        self._kept = (self.theta, self.weights)
        return self

    @property
    def weights(self) -> list[Tensor]:
        """W of each level, from the root (1, 1, P H) down: (regions, states, P H), rows of sum 1 in whatever precision they are stored."""
        if self._kept is not None:
            return self._kept[1]
        return [
            w / w.sum(-1, keepdim=True)
            for w in (getattr(self, f"weight_{i}") for i in range(len(self._plan)))
        ]

    @property
    def floor(self) -> float:
        """The variance that stands for none: an indicator of the nearest level, which floats can still divide by."""
        return (1e-3 * float(self.levels[-1] - self.levels[0])) ** 2

    @property
    def theta(self) -> Tensor:
        """Leaf distributions: (leaves, H, K)."""
        if self._kept is not None:
            return self._kept[0]
        if self.leaves == "categorical":
            return (self.table / self.table.sum(-1, keepdim=True))[self.ties]
        edges = (
            torch.arange(self.categories - 1, dtype=self.mean.dtype, device=self.mean.device) + 0.5
        )
        cdf = torch.special.ndtr((edges - self.mean[..., None]) / self.deviation[..., None])
        below, above = torch.zeros_like(cdf[..., :1]), torch.ones_like(cdf[..., :1])
        mass = (torch.cat([cdf, above], -1) - torch.cat([below, cdf], -1)).clamp_min(1e-12)
        return mass / mass.sum(-1, keepdim=True)

    # --- evidence -----------------------------------------------------------------------------------------------------

    def nothing(self, batch: int = 1) -> Tensor:
        """No evidence: zeros (batch, n, K)."""
        return self.levels.new_zeros(batch, self.graph.size, self.categories)

    def values(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """Hard evidence: categories x (B, n), integers, where `known` (B, n) or (n,) holds -> (B, n, K)."""
        if bool((x < 0).any() or (x >= self.categories).any()):
            raise InputError(
                f"circuit: categories run from 0 to {self.categories - 1}, got {int(x.min())} to {int(x.max())}"
            )
        one_hot = torch.nn.functional.one_hot(x.long(), self.categories)
        evidence = torch.zeros_like(one_hot, dtype=self.levels.dtype).masked_fill(
            one_hot == 0, -torch.inf
        )
        return (
            evidence
            if known is None
            else torch.where(known[..., None], evidence, torch.zeros_like(evidence))
        )

    def gaussian(self, x: Tensor, variance: Tensor | float) -> Tensor:
        """Exact soft evidence of values seen in Gaussian noise: log N(x_i; level_c, variance + spread^2) up to a constant.

        Args:
            x: (B, n), in the units of the levels.
            variance: of the noise, broadcast against x; zero or infinity are allowed, the latter for values that were not seen.
        """
        total = (
            (torch.as_tensor(variance, dtype=x.dtype, device=x.device) + self.spread**2)
            .clamp_min(self.floor)
            .expand(x.shape)
        )
        return -0.5 * (x[..., None] - self.levels.to(x)).square() / total[..., None]

    # --- queries ------------------------------------------------------------------------------------------------------

    def log_likelihood(self, evidence: Tensor) -> Tensor:
        """log E[prod_i w_i(x_i)] for evidence (B, n, K): (B,), nats; the log-probability of x for the hard evidence of all of x."""
        leaf, scale = self._leaves(evidence, self.theta)
        return self._upward(leaf, self.weights)[-1] + scale

    def beliefs(self, evidence: Tensor) -> Beliefs:
        """All single-variable conditionals, by one pass up and one down; differentiable in the evidence.

        Raises: InputError if the evidence has probability zero.
        """
        with torch.enable_grad():
            leaf, scale = self._leaves(evidence, self.theta)
            leaf = leaf if leaf.requires_grad else leaf.requires_grad_()
            root = self._upward(leaf, self.weights)[-1]
            (flow,) = torch.autograd.grad(root.sum(), leaf, create_graph=evidence.requires_grad)
        if bool((root == -torch.inf).any()):
            raise InputError("circuit: the evidence has probability zero; no conditional exists")
        ratio = torch.where(flow > 0, flow * (-leaf).exp(), torch.zeros_like(flow))
        own = (evidence - evidence.amax(-1, keepdim=True)).exp()
        outside = self._gather(torch.einsum("lbh,lhk->lbk", ratio, self.theta))
        posterior = outside * own
        predictive = self._gather(torch.einsum("lbh,lhk->lbk", flow, self.theta))
        return Beliefs(
            root + scale, *(p / p.sum(-1, keepdim=True) for p in (posterior, predictive, outside))
        )

    def pairwise(self, evidence: Tensor, variable: int) -> Tensor:
        """p(x_variable = a, x_j = b | evidence) for every j: (B, K, n, K); the diagonal matrix of the marginal at j = variable."""
        joint = []
        for a in range(self.categories):
            fixed = evidence.clone()
            fixed[:, variable] = torch.where(
                torch.arange(self.categories, device=evidence.device) == a,
                evidence[:, variable],
                -torch.inf,
            )
            possible = self.log_likelihood(fixed) > -torch.inf
            part = torch.zeros_like(evidence)
            if bool(possible.any()):
                found = self.beliefs(fixed[possible])
                part[possible] = found.log_likelihood.exp()[:, None, None] * found.posterior
            joint.append(part)
        total = torch.stack(joint, 1)
        return total / self.log_likelihood(evidence).exp()[:, None, None, None]

    def sample(self, evidence: Tensor, generator: Generators, count: int = 1) -> Tensor:
        """Joint draws of all variables given the evidence, from the root down: categories (B count, n), `count` of the first row, then of the next.

        Args:
            generator: of as many streams as rows, or of fewer, each for as many rows in turn.
        """
        theta = self.theta
        leaf, _ = self._leaves(evidence, theta)
        *messages, root = self._upward(leaf, self.weights)
        if bool((root == -torch.inf).any()):
            raise InputError("circuit: the evidence has probability zero; nothing can be drawn")
        leaf, evidence = leaf.repeat_interleave(count, 1), evidence.repeat_interleave(count, 0)
        messages = [m.repeat_interleave(count, 1) for m in messages]
        batch, weights = len(evidence), self.weights
        state = {
            i: torch.zeros(len(level.regions), batch, dtype=torch.long, device=evidence.device)
            for i, level in enumerate(self._plan)
        }
        state[-1] = torch.zeros(len(leaf), batch, dtype=torch.long, device=evidence.device)
        state[0] += 1  # counted from 1; 0 where a region takes no part in the draw
        for i, level in enumerate(self._plan):
            inputs, regions = (
                self._inputs(level, leaf, messages),
                torch.arange(len(level.regions), device=evidence.device),
            )
            logits = weights[i][regions[:, None], (state[i] - 1).clamp_min(0)].log() + inputs
            chosen = _categorical(logits, generator)  # (regions, B), partition * H + state
            for source, (child, product) in level.edges.items():
                child, product = child.to(evidence.device), product.to(evidence.device)
                region, partition = product // level.partitions, product % level.partitions
                taken = (state[i][region] > 0) & (
                    chosen[region] // self.states == partition[:, None]
                )
                state[source] = state[source].index_add(
                    0, child, torch.where(taken, chosen[region] % self.states + 1, 0)
                )
        drawn = theta[
            torch.arange(len(leaf), device=evidence.device)[:, None], (state[-1] - 1).clamp_min(0)
        ].log()
        own = evidence[:, self._variables].transpose(0, 1)
        values = torch.where(
            state[-1] > 0, _categorical(drawn + own, generator), 0
        )  # of a variable's leaves one takes part
        return (
            torch.zeros(self.graph.size, batch, dtype=torch.long, device=evidence.device)
            .index_add(0, self._variables.to(evidence.device), values)
            .T
        )

    # --- passes -------------------------------------------------------------------------------------------------------

    def _leaves(self, evidence: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Log messages (leaves, B, H) of the evidence divided by its largest weight per variable, and the log of those (B,)."""
        if evidence.shape[1:] != (self.graph.size, self.categories):
            raise InputError(
                f"circuit: evidence is (batch, {self.graph.size}, {self.categories}), got {tuple(evidence.shape)}"
            )
        top = evidence.detach().amax(-1).clamp_min(torch.finfo(evidence.dtype).min)
        own = (evidence - top[..., None]).exp().transpose(0, 1)[self._variables]
        return _log(own @ theta.mT), top.sum(1)

    def _observed(self, x: Tensor, theta: Tensor) -> Tensor:
        """Log messages of leaves whose variables all have values x (B, n): what `_leaves` returns for hard evidence, without a sum over categories."""
        leaves, states, categories = theta.shape
        rows = x.T[self._variables] + categories * torch.arange(leaves)[:, None]
        return _log(
            torch.nn.functional.embedding(rows, theta.mT.reshape(leaves * categories, states))
        )

    def _upward(self, leaf: Tensor, weights: list[Tensor]) -> list[Tensor]:
        """Log messages of every level from the root's down, (regions, B, H) each, then the root's alone (B,)."""
        messages: list[Tensor] = [leaf] * len(self._plan)
        for i in reversed(range(len(self._plan))):
            inputs = self._inputs(self._plan[i], leaf, messages)
            top = inputs.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(inputs.dtype).min)
            messages[i] = _log((inputs - top).exp() @ weights[i].mT) + top
        return [*messages, messages[0][0, :, 0]]

    def _inputs(self, level: Layer, leaf: Tensor, messages: list[Tensor]) -> Tensor:
        """Logarithms of the products under each region of a level: (regions, B, P H)."""
        products = level.padding.to(leaf)[:, None, None].expand(-1, leaf.shape[1], self.states)
        for source, (child, product) in level.edges.items():
            products = products.index_add(
                0,
                product.to(leaf.device),
                (leaf if source < 0 else messages[source])[child.to(leaf.device)],
            )
        return (
            products.unflatten(0, (len(level.regions), level.partitions)).transpose(1, 2).flatten(2)
        )

    def _gather(self, values: Tensor) -> Tensor:
        """Sum what leaves of one variable say: (leaves, B, K) -> (B, n, K)."""
        total = values.new_zeros(self.graph.size, *values.shape[1:])
        return total.index_add(0, self._variables.to(values.device), values).transpose(0, 1)


def _log(s: Tensor) -> Tensor:
    """log s, -inf at zero with a slope of zero there."""
    zero = s == 0
    return torch.where(zero, torch.ones_like(s), s).log().masked_fill(zero, -torch.inf)


def _categorical(logits: Tensor, generator: Generators) -> Tensor:
    """Draws by inversion along the last dimension: (R, B, K) -> (R, B), rows of the batch from as many streams, or several in turn from each."""
    weights = torch.softmax(logits, -1).nan_to_num()
    cumulative = weights.cumsum(-1)
    u = (
        generator.rand_like(logits[..., 0].T.unflatten(0, (len(generator), -1)).contiguous())
        .flatten(0, 1)
        .T
        * cumulative[..., -1]
    )
    return torch.searchsorted(cumulative, u[..., None].contiguous(), right=True)[..., 0].clamp_max(
        logits.shape[-1] - 1
    )


def _dirichlet(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Rows drawn uniformly from the simplex, none of them near its border."""
    drawn = -(1 - torch.rand(size, generator=generator)).log() + 0.1
    return drawn / drawn.sum(-1, keepdim=True)
