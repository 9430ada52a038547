"""Probabilistic circuits: sum-product networks with exact likelihoods, conditionals and samples.

A circuit is a law of n discrete variables. A region stands for `states` distributions over one set
of variables. A leaf region holds rows of a table theta; every other region holds mixtures of
products of smaller regions,

    m_r[h] = sum_p sum_k W_r[h, p, k] prod_{c in p} m_c[k],    sum_{p, k} W_r[h, p, k] = 1,

where each partition p of a region splits its variables into disjoint parts (decomposable) and all
partitions cover the same variables (smooth).

Evidence is a weight w_i(c) >= 0 for every category c of every variable i, as logarithms: zero for
an unknown variable, one-hot for a known value, a likelihood in between. One upward pass gives
log E[prod_i w_i(x_i)], and its derivatives give every conditional.

Darwiche, A Differential Approach to Inference in Bayesian Networks, JACM 2003; Choi, Vergari, Van
den Broeck, Probabilistic Circuits, 2020.
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
from inverse_plugins.circuits.layered_graph import LayeredGraph, draw_categorical, log

Leaves = Literal["categorical", "gaussian"]


@dataclass(frozen=True)
class Beliefs:
    """Three conditionals of every variable given evidence: (B, n, K) each.

    flow[l, k] is the probability that state k of leaf l generated its variable i, theta the table
    of the leaf and w the evidence.

    Args:
        log_likelihood: log E[prod_i w_i(x_i)]: (B,), nats.
        posterior: p(x_i = c | all evidence), sum_k flow theta w_i / sum_c theta w_i.
        predictive: p(another draw of x_i from the same leaf = c | all evidence), sum_k flow theta;
            the evidence on x_i enters through the flow alone.
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
        states: number H of distributions in each region except the root, which has one.
        categories: K.
        leaves: "categorical", a free row theta[l, h] for each state; or "gaussian", the mass of
            N(mean[l, h], deviation[l, h]^2) in the bin of each category, c - 1/2 to c + 1/2. The
            outer bins are unbounded.
        levels: values of the categories (K,), increasing; for pixels, intensities in [0, 1]. By
            default equally spaced from 0 to 1.
        spread: standard deviation of a value around its level, in the units of the levels; 0 if
            values lie on the levels.
        shape: (height, width) of the grid of variables, row by row; by default one row.
        ties: index of the table of each categorical leaf, from 0; by default each has its own.
        generator: random stream for the initial parameters: Dirichlet rows for sums and tables,
            Gaussians around random categories.

    Raises: InputError if shape or ties do not match the graph.
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
        self.graph, self.states, self.categories = graph, states, categories
        self.leaves, self.spread = leaves, float(spread)
        self.shape = (1, graph.size) if shape is None else shape
        if self.shape[0] * self.shape[1] != graph.size:
            raise InputError(
                f"circuit: {graph.size} variables do not fill a grid of "
                f"{self.shape[0]} x {self.shape[1]}"
            )
        count = len(graph.variables)
        if ties is not None and not _valid_ties(ties, count, leaves):
            raise InputError(
                f"circuit: ties name a table for each of {count} categorical leaves, "
                f"counted from 0, got {list(ties)}"
            )
        self.ties = torch.arange(count) if ties is None else torch.tensor(tuple(ties))
        generator = generator or torch.Generator().manual_seed(0)
        self._frozen: tuple[Tensor, list[Tensor]] | None = None
        self.layered = LayeredGraph(graph)
        self.register_buffer(
            "levels", torch.linspace(0, 1, categories) if levels is None else levels.clone()
        )
        for i, layer in enumerate(self.layered.layers):
            rows = (len(layer.regions), 1 if i == 0 else states)
            drawn = _dirichlet((*rows, layer.partitions, states), generator)
            self.register_buffer(f"weight_{i}", drawn.flatten(2) * layer.mask(states))
        if leaves == "gaussian":
            means = torch.rand(count, states, generator=generator) * (categories - 1)
            self.register_buffer("mean", means)
            self.register_buffer("deviation", torch.full((count, states), max(categories / 4, 0.5)))
        else:
            table = _dirichlet((int(self.ties.max()) + 1, states, categories), generator)
            self.register_buffer("table", table)

    def frozen(self) -> Circuit:
        """This circuit with cached normalised parameters; later changes of them have no effect."""
        self._frozen = None
        self._frozen = (self.theta, self.weights)
        return self

    def weight(self, layer: int) -> Tensor:
        """Stored weights of a layer (regions, states, P H), normalised up to storage precision."""
        return getattr(self, f"weight_{layer}")

    @property
    def weights(self) -> list[Tensor]:
        """W of each layer from the root (1, 1, P H) down: (regions, states, P H), rows of sum 1."""
        if self._frozen is not None:
            return self._frozen[1]
        stored = (self.weight(i) for i in range(len(self.layered.layers)))
        return [w / w.sum(-1, keepdim=True) for w in stored]

    @property
    def floor(self) -> float:
        """Smallest variance: it selects the nearest level and is large enough to divide by."""
        return (1e-3 * float(self.levels[-1] - self.levels[0])) ** 2

    @property
    def theta(self) -> Tensor:
        """Leaf distributions: (leaves, H, K)."""
        if self._frozen is not None:
            return self._frozen[0]
        if self.leaves == "categorical":
            return (self.table / self.table.sum(-1, keepdim=True))[self.ties]
        edges = (
            torch.arange(self.categories - 1, dtype=self.mean.dtype, device=self.mean.device) + 0.5
        )
        cdf = torch.special.ndtr((edges - self.mean[..., None]) / self.deviation[..., None])
        below, above = torch.zeros_like(cdf[..., :1]), torch.ones_like(cdf[..., :1])
        mass = (torch.cat([cdf, above], -1) - torch.cat([below, cdf], -1)).clamp_min(1e-12)
        return mass / mass.sum(-1, keepdim=True)

    # --- evidence ---------------------------------------------------------------------------------

    def nothing(self, batch: int = 1) -> Tensor:
        """No evidence: zeros (batch, n, K)."""
        return self.levels.new_zeros(batch, self.graph.size, self.categories)

    def values(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """Hard evidence: (B, n, K).

        Args:
            x: categories (B, n), integers.
            known: where x holds, (B, n) or (n,), boolean; by default everywhere.

        Raises: InputError for a category out of range.
        """
        if bool((x < 0).any() or (x >= self.categories).any()):
            raise InputError(
                f"circuit: categories run from 0 to {self.categories - 1}, "
                f"got {int(x.min())} to {int(x.max())}"
            )
        one_hot = torch.nn.functional.one_hot(x.long(), self.categories)
        unknown = torch.zeros_like(one_hot, dtype=self.levels.dtype)
        evidence = unknown.masked_fill(one_hot == 0, -torch.inf)
        return evidence if known is None else torch.where(known[..., None], evidence, unknown)

    def gaussian(self, x: Tensor, variance: Tensor | float) -> Tensor:
        """Exact soft evidence of values in Gaussian noise: (B, n, K).

        log N(x_i; level_c, variance + spread^2) up to a constant.

        Args:
            x: noisy values (B, n), in the units of the levels.
            variance: variance of the noise, broadcast to x; zero is allowed, and infinity for
                values that were not measured.
        """
        noise = torch.as_tensor(variance, dtype=x.dtype, device=x.device)
        total = (noise + self.spread**2).clamp_min(self.floor).expand(x.shape)
        return -0.5 * (x[..., None] - self.levels.to(x)).square() / total[..., None]

    # --- queries ----------------------------------------------------------------------------------

    def log_likelihood(self, evidence: Tensor) -> Tensor:
        """log E[prod_i w_i(x_i)] for evidence (B, n, K): (B,), nats.

        For hard evidence on every variable this is log p(x).
        """
        leaf, scale = self.leaf_messages(evidence, self.theta)
        return self.layered.upward(leaf, self.weights)[-1] + scale

    def beliefs(self, evidence: Tensor) -> Beliefs:
        """All single-variable conditionals given evidence (B, n, K), by one pass up and one down.

        They are differentiable in the evidence.

        Raises: InputError if the evidence has probability zero.
        """
        with torch.enable_grad():
            leaf, scale = self.leaf_messages(evidence, self.theta)
            leaf = leaf if leaf.requires_grad else leaf.requires_grad_()
            root = self.layered.upward(leaf, self.weights)[-1]
            (flow,) = torch.autograd.grad(root.sum(), leaf, create_graph=evidence.requires_grad)
        if bool((root == -torch.inf).any()):
            raise InputError("circuit: the evidence has probability zero; no conditional exists")
        ratio = torch.where(flow > 0, flow * (-leaf).exp(), torch.zeros_like(flow))
        own = (evidence - evidence.amax(-1, keepdim=True)).exp()
        outside = self.layered.by_variable(torch.einsum("lbh,lhk->lbk", ratio, self.theta))
        posterior = outside * own
        predictive = self.layered.by_variable(torch.einsum("lbh,lhk->lbk", flow, self.theta))
        conditionals = (p / p.sum(-1, keepdim=True) for p in (posterior, predictive, outside))
        return Beliefs(root + scale, *conditionals)

    def pairwise(self, evidence: Tensor, variable: int) -> Tensor:
        """p(x_variable = a, x_j = b | evidence) for every j: (B, K, n, K).

        For j = variable it is the diagonal matrix of the marginal.
        """
        joint = []
        categories = torch.arange(self.categories, device=evidence.device)
        for a in range(self.categories):
            fixed = evidence.clone()
            fixed[:, variable] = torch.where(categories == a, evidence[:, variable], -torch.inf)
            possible = self.log_likelihood(fixed) > -torch.inf
            part = torch.zeros_like(evidence)
            if bool(possible.any()):
                beliefs = self.beliefs(fixed[possible])
                part[possible] = beliefs.log_likelihood.exp()[:, None, None] * beliefs.posterior
            joint.append(part)
        total = torch.stack(joint, 1)
        return total / self.log_likelihood(evidence).exp()[:, None, None, None]

    def sample(self, evidence: Tensor, generator: Generators, count: int = 1) -> Tensor:
        """Joint draws of all variables given evidence (B, n, K): categories (B count, n).

        `count` draws of the first row come first, then those of the next row.

        Args:
            generator: one stream for each row, or for equally many successive rows.

        Raises: InputError if the evidence has probability zero.
        """
        theta, weights = self.theta, self.weights
        leaf, _ = self.leaf_messages(evidence, theta)
        *messages, root = self.layered.upward(leaf, weights)
        if bool((root == -torch.inf).any()):
            raise InputError("circuit: the evidence has probability zero; nothing can be drawn")
        leaf, evidence = leaf.repeat_interleave(count, 1), evidence.repeat_interleave(count, 0)
        messages = [m.repeat_interleave(count, 1) for m in messages]
        state = self.layered.draw_states(leaf, messages, weights, generator)
        leaves = torch.arange(len(leaf), device=evidence.device)[:, None]
        own = evidence[:, self.layered.variables].transpose(0, 1)
        logits = theta[leaves, (state - 1).clamp_min(0)].log() + own
        drawn = torch.where(state > 0, draw_categorical(logits, generator), 0)
        x = torch.zeros(self.graph.size, len(evidence), dtype=torch.long, device=evidence.device)
        return x.index_add(0, self.layered.variables.to(evidence.device), drawn).T

    # --- messages of the leaves -------------------------------------------------------------------

    def leaf_messages(self, evidence: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Messages (leaves, B, H) of evidence (B, n, K), and the log of their scale (B,).

        The evidence on each variable is divided by its largest weight; the scale is the product of
        these.

        Args:
            theta: leaf distributions (leaves, H, K).

        Raises: InputError for evidence of another shape.
        """
        if evidence.shape[1:] != (self.graph.size, self.categories):
            raise InputError(
                f"circuit: evidence is (batch, {self.graph.size}, {self.categories}), "
                f"got {tuple(evidence.shape)}"
            )
        top = evidence.detach().amax(-1).clamp_min(torch.finfo(evidence.dtype).min)
        own = (evidence - top[..., None]).exp().transpose(0, 1)[self.layered.variables]
        return log(own @ theta.mT), top.sum(1)

    def value_messages(self, x: Tensor, theta: Tensor) -> Tensor:
        """Messages (leaves, B, H) of known values x (B, n), without a sum over categories.

        Args:
            theta: leaf distributions (leaves, H, K).
        """
        leaves, states, categories = theta.shape
        rows = x.T[self.layered.variables] + categories * torch.arange(leaves)[:, None]
        table = theta.mT.reshape(leaves * categories, states)
        return log(torch.nn.functional.embedding(rows, table))


def _valid_ties(ties: Sequence[int], count: int, leaves: Leaves) -> bool:
    """Whether ties name a table for each of `count` categorical leaves, counted from 0."""
    used = set(ties)
    return leaves == "categorical" and len(ties) == count and used == set(range(max(ties) + 1))


def _dirichlet(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random rows on the simplex, away from its boundary."""
    drawn = -(1 - torch.rand(size, generator=generator)).log() + 0.1
    return drawn / drawn.sum(-1, keepdim=True)
