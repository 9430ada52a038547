"""Circuits against enumeration of all assignments, and against models that are special cases."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import normal

import inverse
from inverse.errors import InputError
from inverse.seeding import SharedStream
from inverse_plugins.circuits.circuit import Circuit
from inverse_plugins.circuits.expectation_maximisation import fit, log_likelihoods, quantise
from inverse_plugins.circuits.graph import RegionGraph
from inverse_plugins.circuits.hidden_chow_liu import chow_liu_tree, hclt, mutual_information
from inverse_plugins.circuits.pixel_circuit import CircuitPrior, pixel_moments

EXACT = {"rtol": 0, "atol": 1e-10}


def random_graph(variables: int, generator: torch.Generator) -> RegionGraph:
    """Up to three partitions of a region into up to three parts; shared regions, several leaves."""
    leaves = [
        i
        for i in range(variables)
        for _ in range(1 + int(torch.randint(2, (), generator=generator)))
    ]
    sums, number = [], {}

    def region(scope: frozenset[int], root: bool = False) -> int:
        if scope in number and torch.rand((), generator=generator) < 0.7:
            return number[scope]
        if len(scope) == 1 and not root:
            mine = [k for k, v in enumerate(leaves) if v in scope]
            partitions = [(k,) for k in mine]
        else:
            partitions = []
            for _ in range(int(torch.randint(1, 4, (), generator=generator))):
                label = {v: int(torch.randint(3, (), generator=generator)) for v in scope}
                label[min(scope)], label[max(scope)] = 0, 1
                parts = [frozenset(v for v in scope if label[v] == k) for k in range(3)]
                partitions.append(tuple(region(part) for part in parts if part))
        sums.append(tuple(partitions))
        number[scope] = len(leaves) + len(sums) - 1
        return number[scope]

    region(frozenset(range(variables)), root=True)
    return RegionGraph(tuple(leaves), tuple(sums))


def random_circuit(seed: int) -> Circuit:
    """2 to 6 variables, 2 to 4 categories, 1 to 4 states, float64."""
    generator = inverse.seeded("circuit", seed)
    n, K, H = 2 + seed % 5, 2 + seed % 3, 1 + int(torch.randint(4, (), generator=generator))
    return Circuit(
        random_graph(n, generator),
        H,
        K,
        generator=generator,
        leaves=("categorical", "gaussian")[seed % 4 == 3],
    ).double()


def assignments(circuit: Circuit) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.arange(circuit.categories)] * circuit.graph.size)


def enumerated(circuit: Circuit, theta: torch.Tensor | None = None) -> torch.Tensor:
    """p(x) of every assignment (K^n,), by the recursion of the definition, in probabilities."""
    x, weights, L = assignments(circuit), circuit.weights, len(circuit.graph.variables)
    theta = circuit.theta if theta is None else theta
    row = {
        r: weights[d][i]
        for d, level in enumerate(circuit.layered.layers)
        for i, r in enumerate(level.regions)
    }
    message = [theta[leaf][:, x[:, v]] for leaf, v in enumerate(circuit.graph.variables)]
    for number, partitions in enumerate(circuit.graph.sums, start=L):
        W = row[number].unflatten(1, (-1, circuit.states))
        message.append(
            sum(
                W[:, p] @ math.prod(message[c] for c in partition)
                for p, partition in enumerate(partitions)
            )
        )
    return message[-1][0]


def soft_evidence(circuit: Circuit, batch: int = 2) -> torch.Tensor:
    """Random log-weights; in the first row the first variable is known and the last is unknown."""
    evidence = normal(batch, circuit.graph.size, circuit.categories, seed=3)
    evidence[0, 0, 1:] = -torch.inf
    evidence[0, -1] = 0
    return evidence


def weighed(circuit: Circuit, evidence: torch.Tensor) -> torch.Tensor:
    """p(x) prod_i w_i(x_i) of every assignment: (B, K^n)."""
    x = assignments(circuit)
    return enumerated(circuit) * torch.stack(
        [evidence[:, i, x[:, i]].exp() for i in range(x.shape[1])]
    ).prod(0)


def marginals(circuit: Circuit, joint: torch.Tensor) -> torch.Tensor:
    """Normalised marginals of a law on all assignments: (B, K^n) -> (B, n, K)."""
    one_hot = torch.nn.functional.one_hot(assignments(circuit), circuit.categories).double()
    total = torch.einsum("bx,xnk->bnk", joint, one_hot)
    return total / total.sum(-1, keepdim=True)


every_circuit = pytest.mark.parametrize("seed", range(12))


@every_circuit
def test_law_is_the_definition_and_sums_to_one(seed):
    circuit = random_circuit(seed)
    torch.testing.assert_close(
        circuit.log_likelihood(circuit.nothing(3)), torch.zeros(3, dtype=torch.float64), **EXACT
    )
    torch.testing.assert_close(
        circuit.log_likelihood(circuit.values(assignments(circuit))).exp(),
        enumerated(circuit),
        **EXACT,
    )


@every_circuit
def test_soft_evidence_has_the_enumerated_likelihood(seed):
    circuit = random_circuit(seed)
    evidence = soft_evidence(circuit)
    torch.testing.assert_close(
        circuit.log_likelihood(evidence).exp(), weighed(circuit, evidence).sum(1), **EXACT
    )


@every_circuit
def test_posterior_is_the_enumerated_one(seed):
    circuit = random_circuit(seed)
    evidence = soft_evidence(circuit)
    torch.testing.assert_close(
        circuit.beliefs(evidence).posterior, marginals(circuit, weighed(circuit, evidence)), **EXACT
    )


@every_circuit
def test_leave_one_out_is_the_posterior_without_the_evidence_on_the_variable(seed):
    circuit = random_circuit(seed)
    evidence = soft_evidence(circuit)
    found = circuit.beliefs(evidence).leave_one_out
    for i in range(circuit.graph.size):
        without = evidence.clone()
        without[:, i] = 0
        torch.testing.assert_close(
            found[:, i], marginals(circuit, weighed(circuit, without))[:, i], **EXACT
        )


@every_circuit
def test_predictive_draws_the_variable_again_from_its_leaf(seed):
    """Enumerated over x and over the state k of each variable: sum_k p(k | evidence) theta_k."""
    circuit = random_circuit(seed)
    evidence = soft_evidence(circuit)
    joint = weighed(circuit, evidence)
    joint = joint / joint.sum(1, keepdim=True)
    expected = torch.zeros_like(evidence)
    for leaf, variable in enumerate(circuit.graph.variables):
        for k in range(circuit.states):
            alone = circuit.theta.clone()
            alone[[j for j, v in enumerate(circuit.graph.variables) if v == variable]] = 0
            alone[leaf, k] = circuit.theta[leaf, k]  # no other state generates the variable
            share = joint @ (enumerated(circuit, alone) / enumerated(circuit))
            expected[:, variable] += share[:, None] * circuit.theta[leaf, k]
    torch.testing.assert_close(circuit.beliefs(evidence).predictive, expected, **EXACT)


@every_circuit
def test_pairwise_marginals_are_the_enumerated_ones(seed):
    circuit = random_circuit(seed)
    evidence, x, K = soft_evidence(circuit), assignments(circuit), circuit.categories
    joint = weighed(circuit, evidence)
    joint = joint / joint.sum(1, keepdim=True)
    for i in range(circuit.graph.size):
        expected = torch.zeros(2, K, circuit.graph.size, K, dtype=torch.float64)
        for a, j, b in itertools.product(range(K), range(circuit.graph.size), range(K)):
            expected[:, a, j, b] = joint[:, (x[:, i] == a) & (x[:, j] == b)].sum(1)
        torch.testing.assert_close(circuit.pairwise(evidence, i), expected, **EXACT)


@pytest.mark.parametrize("seed", [1, 2, 7])
def test_samples_given_evidence_have_the_enumerated_frequencies(seed):
    """Chi-square of 20000 draws below its 1 - 1e-4 quantile (normal approximation).

    Assignments with fewer than 5 expected draws are pooled.
    """
    circuit, rows = random_circuit(seed), 20_000
    evidence = soft_evidence(circuit)[:1]
    drawn = circuit.sample(
        evidence.expand(rows, -1, -1), SharedStream(inverse.seeded("draws", seed), rows)
    )
    place = (drawn * circuit.categories ** torch.arange(circuit.graph.size - 1, -1, -1)).sum(1)
    expected = weighed(circuit, evidence)[0]
    expected, found = (
        rows * expected / expected.sum(),
        torch.bincount(place, minlength=len(expected)).double(),
    )
    assert bool((found[expected == 0] == 0).all())
    often = expected >= 5
    pooled = [torch.cat([t[often], t[~often].sum()[None]]) for t in (found, expected)]
    if pooled[1][-1] == 0:
        pooled = [t[:-1] for t in pooled]
    chi_square = float(((pooled[0] - pooled[1]).square() / pooled[1]).sum())
    freedom = len(pooled[0]) - 1
    assert chi_square < freedom + 3.8 * math.sqrt(2 * freedom) + 5


def test_draw_does_not_depend_on_its_batch():
    circuit = random_circuit(3)
    evidence = soft_evidence(circuit)
    together = circuit.sample(evidence, inverse.Generators.for_samples(0, 2, 1))
    alone = circuit.sample(evidence[1:], inverse.Generators.for_samples(0, 1, 1, first_image=1))
    assert torch.equal(together[1:], alone)


def test_impossible_evidence_is_refused():
    circuit = random_circuit(0)
    with pytest.raises(InputError, match="probability zero"):
        circuit.beliefs(torch.full_like(circuit.nothing(), -torch.inf))


@pytest.mark.parametrize(
    ("variables", "sums", "fault"),
    [
        ((0, 1), (((0, 1), (0,)),), "smooth"),
        ((0, 0), (((0, 1),),), "decomposable"),
        ((0, 1, 2), (((0, 1),),), "every variable"),
        ((0,), (((1,),),), "smaller numbers"),
    ],
)
def test_invalid_region_graph_is_refused(variables, sums, fault):
    with pytest.raises(InputError, match=fault):
        RegionGraph(variables, sums)


# --- special cases ----------------------------------------------------------------------------


def test_chain_is_a_hidden_markov_model():
    """Likelihood and smoothed symbols by the forward-backward recursions in probabilities."""
    T, H, K = 7, 3, 4
    circuit = Circuit(
        RegionGraph.tree([i - 1 for i in range(T)]), H, K, generator=inverse.seeded("hmm")
    ).double()
    start = circuit.weights[0][0, 0]
    steps = [w[0] for w in circuit.weights[1:]]
    theta = circuit.theta
    w = normal(1, T, K, seed=5)
    emitted = [theta[t] @ w[0, t].exp() for t in range(T)]
    forward, backward = [start * emitted[0]], [torch.ones(H, dtype=torch.float64)]
    for t in range(1, T):
        forward.append((forward[-1] @ steps[t - 1]) * emitted[t])
    for t in range(T - 1, 0, -1):
        backward.insert(0, steps[t - 1] @ (emitted[t] * backward[0]))
    evidence = forward[-1].sum()
    smoothed = [f * b / e for f, b, e in zip(forward, backward, emitted, strict=True)]
    expected = torch.stack([smoothed[t] @ theta[t] * w[0, t].exp() / evidence for t in range(T)])
    torch.testing.assert_close(circuit.log_likelihood(w)[0], evidence.log(), **EXACT)
    torch.testing.assert_close(circuit.beliefs(w).posterior[0], expected, **EXACT)


@pytest.fixture(scope="module")
def data() -> torch.Tensor:
    """400 draws of 8 variables in 4 categories: thresholds of a tree of correlated Gaussians."""
    z = normal(400, 8, seed=11)
    for i in range(1, 8):
        z[:, i] = 0.8 * z[:, (i - 1) // 2] + 0.6 * z[:, i]
    return torch.bucketize(z, torch.tensor([-0.7, 0.0, 0.7], dtype=torch.float64))


def chow_liu_log_likelihood(x: torch.Tensor, parents: list[int]) -> float:
    """Mean log-likelihood of the tree with empirical frequencies: minus sum_i H(x_i | x_parent)."""

    def entropy(*columns: torch.Tensor) -> float:
        p = torch.unique(torch.stack(columns, 1), dim=0, return_counts=True)[1].double() / len(x)
        return -float((p * p.log()).sum())

    return -sum(
        entropy(x[:, i]) if p < 0 else entropy(x[:, i], x[:, p]) - entropy(x[:, p])
        for i, p in enumerate(parents)
    )


def test_chow_liu_tree_is_the_best_of_all_trees(data):
    """All 125 labelled trees on five variables (Cayley: 5^3), from their Pruefer sequences."""
    x, best = data[:, :5], -math.inf
    for code in itertools.product(range(5), repeat=3):
        degree = [1 + code.count(i) for i in range(5)]
        edges = []
        for v in code:
            leaf = degree.index(1)
            edges.append((leaf, v))
            degree[leaf], degree[v] = 0, degree[v] - 1
        edges.append(tuple(i for i, d in enumerate(degree) if d == 1))
        parents, reached = [-2] * 5, [0]
        parents[0] = -1
        for node in reached:
            for a, b in [*edges, *[(b, a) for a, b in edges]]:
                if a == node and parents[b] == -2:
                    parents[b] = node
                    reached.append(b)
        best = max(best, chow_liu_log_likelihood(x, parents))
    found = chow_liu_tree(mutual_information(x, 4))
    assert chow_liu_log_likelihood(x, found) == pytest.approx(best, abs=1e-10)


def test_hclt_without_noise_has_the_likelihood_of_the_chow_liu_tree(data):
    circuit = hclt(data, 4, 4, noise=0.0, pseudocount=0.0).double()
    tree = chow_liu_log_likelihood(data, chow_liu_tree(mutual_information(data, 4)))
    assert float(log_likelihoods(circuit, data).mean()) == pytest.approx(tree, abs=1e-6)


def test_trained_hclt_is_better_than_the_chow_liu_tree_of_the_same_data(data):
    circuit = hclt(data, 4, 8)
    list(fit(circuit, data, 60, pseudocount=0.0))
    assert float(log_likelihoods(circuit, data).mean()) > chow_liu_log_likelihood(
        data, chow_liu_tree(mutual_information(data, 4))
    )


# --- learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", ["categorical", "gaussian"])
@pytest.mark.parametrize(
    "graph",
    [RegionGraph.quad_split(2, 4), RegionGraph.tree([-1, 0, 0, 1, 1, 2, 2, 3])],
    ids=["quad", "tree"],
)
def test_full_batch_em_never_lowers_the_likelihood(data, graph, leaves):
    circuit = Circuit(graph, 3, 4, leaves=leaves).double()
    history = torch.tensor(
        [*fit(circuit, data, 25, pseudocount=0.0), float(log_likelihoods(circuit, data).mean())],
        dtype=torch.float64,
    )
    assert history.diff().min() > -1e-9
    assert history[-1] > history[0] + 0.1


def test_em_from_shared_regions_never_lowers_the_likelihood(data):
    circuit = random_circuit(9)
    x = data[:, : circuit.graph.size].clamp_max(circuit.categories - 1)
    history = torch.tensor(list(fit(circuit, x, 20, pseudocount=0.0)), dtype=torch.float64)
    assert history.diff().min() > -1e-9


def test_em_with_one_state_gives_the_frequencies(data):
    """With one state, one step gives the frequencies, with the pseudocount spread evenly."""
    circuit = Circuit(RegionGraph.quad_split(2, 4), 1, 4).double()
    list(fit(circuit, data, 1, pseudocount=2.0))
    expected = (
        torch.stack([torch.bincount(column, minlength=4) for column in data.T]) + 0.5
    ).double() / (len(data) + 2)
    torch.testing.assert_close(circuit.theta[:, 0], expected, **EXACT)


def test_mini_batches_gain_at_least_90_percent_of_full_batches(data):
    full, mini = (Circuit(RegionGraph.quad_split(2, 4), 4, 4).double() for _ in range(2))
    list(fit(full, data, 60, pseudocount=0.1))
    list(fit(mini, data, 20, batch=50, pseudocount=0.1, step=(0.5, 0.05)))
    start = float(
        log_likelihoods(Circuit(RegionGraph.quad_split(2, 4), 4, 4).double(), data).mean()
    )
    ends = [float(log_likelihoods(c, data).mean()) for c in (full, mini)]
    assert ends[1] - start > 0.9 * (ends[0] - start)


def test_gaussian_leaf_is_the_mass_of_its_bins():
    circuit = Circuit(RegionGraph.quad_split(1, 1), 1, 5, leaves="gaussian").double()
    circuit.mean.fill_(1.7)
    circuit.deviation.fill_(0.8)
    draws = (1.7 + 0.8 * normal(200_000, seed=2)).round().clamp(0, 4).long()
    torch.testing.assert_close(
        circuit.theta[0, 0], torch.bincount(draws, minlength=5).double() / 2e5, rtol=0, atol=0.005
    )


# --- pixels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_moments_given_noisy_pixels_are_integrals_of_the_definition(spread):
    """Two pixels with values N(level, spread^2), one measured twice: Riemann sums on a grid."""
    circuit = Circuit(RegionGraph.quad_split(1, 2), 2, 3, shape=(1, 2), spread=spread).double()
    x = torch.tensor([0.3, 0.8]).double().reshape(1, 1, 1, 2)
    y = torch.tensor([0.6, 0.0]).double().reshape(1, 1, 1, 2)
    variance, noise = torch.tensor([0.09, 0.25]).double(), torch.tensor([0.04, torch.inf]).double()
    moments = pixel_moments(circuit, x, variance, y, noise)
    mean, var = moments.mean, moments.variance
    v = torch.linspace(-1.5, 2.5, 8001, dtype=torch.float64) if spread else circuit.levels
    around = (
        (-0.5 * ((v - circuit.levels[:, None]) / (spread or 1)).square()).exp()
        if spread
        else torch.eye(3, dtype=torch.float64)
    )
    around = around / around.sum(1, keepdim=True)
    seen = [
        (
            -0.5
            * ((v - x[0, 0, 0, i]).square() / variance[i] + (v - y[0, 0, 0, i]).square() / noise[i])
        ).exp()
        for i in range(2)
    ]
    law = enumerated(circuit).reshape(3, 3)
    for i, joint in enumerate((law, law.T)):
        density = (joint * (around @ seen[1 - i])[None]).sum(1) @ around * seen[i]
        density = density / density.sum()
        torch.testing.assert_close(mean[0, 0, 0, i], density @ v, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            var[0, 0, 0, i], density @ v.square() - (density @ v) ** 2, rtol=0, atol=1e-6
        )


def test_circuit_prior_obeys_tweedie():
    """sigma^2 times the slope of E[x0 | x] is Var[x0 | x], with scaled units and two blocks."""
    circuit = Circuit(RegionGraph.quad_split(2, 2), 3, 4, shape=(2, 2), spread=0.05).double()
    prior = CircuitPrior(circuit, 1, shift=0.5, scale=0.5)
    x, sigma = normal(1, 1, 2, 4, seed=4).requires_grad_(), torch.tensor(0.7, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(lambda x: prior(x, sigma), x).reshape(8, 8)
    variance = pixel_moments(
        circuit,
        prior.decode(x.detach()),
        torch.full_like(x, (0.7 * 0.5) ** 2),
        x.detach(),
        torch.tensor(torch.inf).double(),
    ).variance
    torch.testing.assert_close(sigma**2 * slope.diagonal(), variance.flatten() / 0.25, **EXACT)
    torch.testing.assert_close(slope, slope.T, **EXACT)
    assert slope[:2, 2:4].abs().max() < 1e-12  # columns 2 and 3 are another block


def test_quantise_rounds_to_the_nearest_level():
    assert quantise(torch.tensor([-1.0, 0.0, 0.16, 0.17, 1.0, 2.0]), 4).tolist() == [
        0,
        0,
        0,
        1,
        3,
        3,
    ]
