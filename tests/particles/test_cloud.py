"""Particles: weights, resampling, evidence, quarantine and islands against definitions."""

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch
from conftest import normal

import inverse
from inverse.errors import InputError, OptionError
from inverse.method import Weighted
from inverse.particles.cloud import (
    Cloud,
    CloudGenerators,
    ParticleMethod,
    ancestors,
    conditional_effective_size,
    effective_size,
    in_parts,
    next_temperature,
)
from inverse.result import collapse_notes
from inverse.seeding import Generators, SharedStream

SCHEMES = ("systematic", "stratified", "residual", "multinomial")
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def stream(*key):
    return inverse.seeded("smc", *key)


def cloud(images=2, particles=8, **options):
    x = normal(images * particles, 3)
    return Cloud(x, CloudGenerators(stream(i) for i in range(images)), **options)


# --- weights ----------------------------------------------------------------------------------


def test_the_effective_size_follows_its_definition():
    W = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        effective_size(W.log() + 7), torch.tensor([8 / 3, 1.0], dtype=torch.float64)
    )


def test_the_conditional_effective_size_follows_its_definition():
    W, u = normal(2, 9).softmax(1), normal(2, 9, seed=1).exp()
    expected = 9 * (W * u).sum(1) ** 2 / (W * u * u).sum(1)
    torch.testing.assert_close(conditional_effective_size(W.log() - 3, u.log() + 900), expected)


def test_both_effective_sizes_agree_for_equal_weights():
    u = normal(2, 9)
    torch.testing.assert_close(
        conditional_effective_size(torch.zeros(2, 9, dtype=torch.float64), u), effective_size(u)
    )


def test_the_next_temperature_meets_its_target():
    log_weights = normal(3, 200)
    log_likelihood = 40 * normal(3, 200, seed=1)
    start = torch.tensor([0.0, 0.1, 0.4], dtype=torch.float64)
    step = next_temperature(log_weights, log_likelihood, start, 0.7) - start
    reached = conditional_effective_size(log_weights, step[:, None] * log_likelihood)
    torch.testing.assert_close(
        reached, torch.full((3,), 140.0, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_a_flat_likelihood_needs_one_temperature_step():
    one = next_temperature(
        torch.zeros(1, 9, dtype=torch.float64),
        torch.full((1, 9), -3.0, dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
        0.99,
    )
    assert one.item() == 1


# --- resampling -------------------------------------------------------------------------------


@every_scheme
def test_resampling_preserves_expectations(scheme):
    """Mean offspring over 10^4 repeats, within 4.5 standard errors of N W (20 comparisons)."""
    W, repeats = normal(1, 20, seed=3).mul(1.5).softmax(1), 10_000
    chosen = ancestors(
        W.log().expand(repeats, -1), SharedStream(stream("offspring"), repeats), scheme=scheme
    )
    offspring = torch.nn.functional.one_hot(chosen, 20).sum(1).double()
    error = offspring.std(0) / repeats**0.5
    assert ((offspring.mean(0) - 20 * W[0]).abs() <= 4.5 * error + 1e-9).all()


@every_scheme
def test_the_expectation_of_a_function_is_preserved_when_fewer_are_drawn(scheme):
    """f(x) = x^2 over 10^4 draws of 5 out of 20, within 4 standard errors."""
    x, W = normal(20), normal(1, 20, seed=3).softmax(1)
    chosen = ancestors(W.log().expand(10_000, -1), SharedStream(stream("fewer"), 10_000), 5, scheme)
    means = x[chosen].square().mean(1)
    assert (means.mean() - (W[0] * x**2).sum()).abs() < 4 * means.std() / 100


def offspring_variance(scheme):
    W = normal(1, 20, seed=3).softmax(1)
    chosen = ancestors(
        W.log().expand(4000, -1), SharedStream(stream("variance"), 4000), scheme=scheme
    )
    return torch.nn.functional.one_hot(chosen, 20).sum(1).double().var(0).sum()


def test_multinomial_offspring_has_the_variance_of_a_multinomial():
    """Sum over particles of N W (1 - W), within 5 per cent.

    The other schemes have a smaller variance (Douc, Cappe, Moulines, 2005).
    """
    W = normal(20, seed=3).softmax(0)
    multinomial = offspring_variance("multinomial")
    assert abs(multinomial / (20 * W * (1 - W)).sum() - 1) < 0.05
    assert all(offspring_variance(scheme) < 0.9 * multinomial for scheme in SCHEMES[:3])


@pytest.mark.parametrize("scheme", ["systematic", "residual"])
def test_a_particle_has_at_least_the_whole_part_of_its_offspring(scheme):
    W = normal(50, 20, seed=4).mul(2).softmax(1)
    chosen = ancestors(W.log(), SharedStream(stream("floor"), 50), scheme=scheme)
    offspring = torch.nn.functional.one_hot(chosen, 20).sum(1)
    assert (offspring >= (20 * W).floor()).all()
    assert scheme == "residual" or (offspring <= (20 * W).ceil()).all()


@every_scheme
def test_a_particle_of_weight_zero_is_never_chosen(scheme):
    """The weights of the first, the last and an inner particle are zero."""
    log_weights = torch.zeros(1000, 6, dtype=torch.float64)
    log_weights[:, [0, 3, 5]] = -math.inf
    chosen = ancestors(log_weights, SharedStream(stream("zero"), 1000), scheme=scheme)
    assert set(chosen.unique().tolist()) == {1, 2, 4}


@pytest.mark.parametrize("scheme", ["systematic", "stratified", "residual"])
def test_equal_weights_keep_every_particle_once(scheme):
    chosen = ancestors(
        torch.full((3, 100), 0.3, dtype=torch.float64),
        SharedStream(stream("equal"), 3),
        scheme=scheme,
    )
    assert torch.equal(chosen, torch.arange(100).expand(3, -1))


@every_scheme
def test_a_cloud_is_resampled_by_its_own_stream(scheme):
    """A cloud draws the same ancestors in a batch and alone."""
    log_weights = normal(4, 30)
    together = ancestors(log_weights, Generators(stream(i) for i in range(4)), scheme=scheme)
    alone = ancestors(log_weights[2:3], Generators([stream(2)]), scheme=scheme)
    assert torch.equal(together[2:3], alone)


# --- the cloud --------------------------------------------------------------------------------


def test_weights_and_evidence_are_those_of_importance_sampling():
    """Without resampling three steps multiply: W ~ u1 u2 u3, Z = mean(u1 u2 u3)."""
    c, steps = cloud(ess_threshold=0), [normal(16, seed=s) for s in range(3)]
    for u in steps:
        c.reweight(u, 1.0)
        rows = c.resample()
        assert torch.equal(rows, torch.arange(16))
    total = sum(steps).view(2, 8)
    torch.testing.assert_close(c.weighted(8).log_weights.view(2, 8), total.log_softmax(1))
    torch.testing.assert_close(c.weighted(8).log_evidence, total.exp().mean(1).log())


@every_scheme
@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_the_evidence_is_unbiased_under_resampling(scheme, threshold):
    """Five steps of x' = 0.7 x + z in the potential exp(-x^2 / 2), with Z in closed form.

    1500 clouds of 10, within 4 standard errors.
    """
    images, particles = 1500, 10
    streams = CloudGenerators(stream("evidence", i) for i in range(images))
    c = Cloud(normal(images * particles, 1), streams, ess_threshold=threshold, scheme=scheme)
    variance, log_z = 1.0, 0.0
    for step in range(5):
        c.reweight(-0.5 * c.x[:, 0] ** 2, 1.0)
        c.resample()
        c.x = 0.7 * c.x + normal(images * particles, 1, seed=step + 1)
        log_z -= 0.5 * math.log1p(variance)
        variance = 0.49 * variance / (1 + variance) + 1
    ratio = (c.weighted(particles).log_evidence - log_z).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / images**0.5


def test_only_a_cloud_below_the_threshold_is_resampled():
    c = cloud(ess_threshold=0.5)
    increments = torch.zeros(16, dtype=torch.float64)
    increments[8] = 20.0
    c.reweight(increments, 1.0)
    before = c.x.clone()
    rows = c.resample()
    assert torch.equal(rows[:8], torch.arange(8))
    assert torch.equal(rows[8:], torch.full((8,), 8))
    assert torch.equal(c.x, before[rows])
    assert torch.equal(c.log_weights, torch.full((2, 8), 1 / 8, dtype=torch.float64).log())


def test_the_trace_counts_surviving_ancestors():
    c = cloud(images=1)
    c.reweight(torch.tensor([9.0, 9.0, *[-math.inf] * 6]), 3.0)
    c.resample()
    c.reweight(torch.zeros(8), 2.0)
    assert [t["sigma"] for t in c.trace] == [3.0, 2.0]
    assert [t["survivors"] for t in c.trace] == [[8], [2]]
    assert [round(t["ess"][0], 9) for t in c.trace] == [2, 8]
    torch.testing.assert_close(c.trace[1]["log_evidence"][0], 9 + math.log(2 / 8))


def test_permuted_particles_keep_their_weights():
    """Resampling is excluded, because its draws depend on the position."""
    order, u = torch.randperm(8, generator=stream()), normal(8)
    one, other = cloud(images=1), cloud(images=1)
    other.x = other.x[order]
    one.reweight(u, 1.0)
    other.reweight(u[order], 1.0)
    torch.testing.assert_close(other.log_weights[0], one.log_weights[0, order])
    torch.testing.assert_close(other.log_evidence, one.log_evidence)
    assert torch.equal(other.best, one.best)


def test_fewer_samples_are_drawn_by_weight():
    c = cloud(images=2)
    c.reweight(torch.tensor([*[-math.inf] * 7, 0.0, 0.0, *[-math.inf] * 7]), 1.0)
    drawn = c.weighted(3)
    assert torch.equal(drawn.x, torch.cat([c.x[7:8].expand(3, -1), c.x[8:9].expand(3, -1)]))
    assert torch.equal(drawn.log_weights, torch.zeros(6, dtype=torch.float64))


def test_islands_count_by_their_evidence():
    """Without resampling two islands of four are one importance sample of eight."""
    u = normal(8)
    islands, whole = cloud(images=1, islands=2, ess_threshold=0), cloud(images=1, ess_threshold=0)
    for c in (islands, whole):
        c.reweight(u, 1.0)
    torch.testing.assert_close(islands.weighted(8).log_weights, whole.weighted(8).log_weights)
    torch.testing.assert_close(islands.weighted(8).log_evidence, whole.weighted(8).log_evidence)


def test_islands_do_not_mix():
    c = cloud(images=1, islands=2, ess_threshold=1.0)
    c.reweight(normal(8), 1.0)
    rows = c.resample()
    assert (rows[:4] < 4).all()
    assert (rows[4:] >= 4).all()


# --- quarantine -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_particle_with_nan_is_quarantined_counted_and_reported(bad):
    c, u = cloud(images=1), normal(8)
    u[3] = bad
    with pytest.warns(UserWarning, match=r"1 of 8 particles have NaN at noise level sigma = 2.5"):
        c.reweight(u, 2.5)
    assert c.log_weights[0, 3] == -math.inf
    assert c.quarantined == c.trace[-1]["quarantined"] == 1
    rest = torch.cat([u[:3], u[4:]])
    torch.testing.assert_close(c.log_evidence[0], (rest.exp().sum() / 8).log())


def test_a_particle_at_nan_is_moved_to_the_heaviest():
    c, u = cloud(images=1), normal(8)
    c.x = c.x.clone()
    c.x[3] = math.nan
    with pytest.warns(UserWarning, match="particles have NaN"):
        c.reweight(u, 1.0)
    u[3] = -math.inf
    assert torch.equal(c.x[3], c.x[int(u.argmax())])
    assert torch.isfinite(c.x).all()


def test_a_cloud_of_nan_is_an_error_that_names_the_level():
    u = normal(16)
    u[8:] = math.nan
    with pytest.raises(
        InputError,
        match=r"all 8 particles of measurement 1 have NaN or infinity at noise level sigma = 3.25",
    ):
        cloud().reweight(u, 3.25)


def test_a_cloud_of_probability_zero_is_an_error_that_names_the_level():
    with pytest.raises(
        InputError,
        match=r"all 8 particles of measurement 0 .* zero or NaN at noise level sigma = 7",
    ):
        cloud().reweight(torch.full((16,), -math.inf), 7.0)


# --- methods ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Importance(ParticleMethod):
    """Draws of the prior N(0, I) weighted by the likelihood."""

    name = "importance"

    def run(self, posterior, samples, generator):
        posterior, cloud = self.cloud(posterior, samples, generator)
        cloud.reweight(posterior.log_likelihood(cloud.x), 0.0)
        yield cloud.weighted(samples)


def posterior(images=2, n=2):
    prior = inverse.GaussianPrior(
        torch.zeros(1, 1, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    )
    y = normal(images, 1, 1, n)
    return inverse.Posterior(
        prior,
        inverse.operator(lambda x: x, shape=(1, 1, n)),
        y,
        inverse.GaussianNoise(1.0),
        dtype=torch.float64,
    )


def test_a_particle_method_is_a_few_lines():
    """Importance sampling of a Gaussian: mean y / 2 and evidence N(y; 0, 2).

    Within 4 standard errors of 4000 particles.
    """
    p = posterior()
    result = inverse.solve(p, Importance(particles=2), samples=4000)
    ess = result.ess.min()
    assert (result.mean - p.y / 2).abs().max() < 4 * (0.5 / ess) ** 0.5
    expected = torch.distributions.Normal(0, 2**0.5).log_prob(p.y).flatten(1).sum(1)
    assert (result.log_evidence - expected).abs().max() < 4 * ((4000 / ess - 1) / 4000) ** 0.5


def test_more_particles_than_samples_cost_more_and_improve_the_draws():
    p = posterior(images=1)
    result = inverse.solve(p, Importance(particles=64), samples=4)
    assert result.samples.shape[1] == 4
    assert result.cost.A == 64 / 4
    assert torch.equal(result.weights, torch.full((1, 4), 0.25, dtype=torch.float64))


def test_more_samples_than_particles_are_the_cloud():
    result = inverse.solve(posterior(images=1), Importance(particles=4), samples=32)
    assert result.cost.A == 1
    assert result.ess.item() < 31


def test_images_of_an_ensemble_are_independent():
    whole = posterior(images=3)
    together = inverse.solve(whole, Importance(), samples=5)
    alone = inverse.Posterior(
        whole.prior, whole.operator, whole.y[1:2], whole.noise, dtype=torch.float64
    )
    assert torch.equal(
        inverse.solve(alone, Importance(), samples=5, first_image=1).samples[0], together.samples[1]
    )


@pytest.mark.parametrize(("ess", "count"), [([1.0, 1.0], 2), ([1.0, 20.0], 1), ([2.0, 3.0], 0)])
def test_a_cloud_that_ends_with_one_particle_has_a_note(ess, count):
    class Ending(Importance):
        name = "ending"

        def run(self, posterior, samples, generator):
            (last,) = super().run(posterior, samples, generator)
            yield Weighted(last.x, last.log_weights, last.log_evidence, [{"ess": ess}])

    notes = inverse.solve(posterior(), Ending(), samples=4).provenance.get("notes", [])
    words = f"ending ended with one particle in {count} of 2 measurements"
    assert [note.startswith(words) for note in notes] == [True] * bool(count)


def test_the_trace_is_kept_with_the_result(tmp_path):
    result = inverse.solve(posterior(), Importance(), samples=20)
    result.save(tmp_path / "result.h5")
    (entry,) = inverse.Result.load(tmp_path / "result.h5").provenance["trace"]
    assert entry["sigma"] == 0
    assert entry["ess"] == pytest.approx(result.ess.tolist())
    assert entry["survivors"] == [20, 20]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"particles": 0}, "particles must be at least 2, got 0"),
        (
            {"particles": 1},
            "particles must be at least 2, got 1",
        ),
        ({"ess_threshold": 0.0}, "ess_threshold must be positive and at most 1, got 0"),
        ({"ess_threshold": 1.5}, "ess_threshold must be positive and at most 1, got 1.5"),
        ({"islands": 0}, "islands must be at least 1, got 0"),
    ],
)
def test_invalid_options_of_a_cloud_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        Importance(**options)


@pytest.mark.parametrize("islands", [3, 16])
def test_islands_must_divide_the_particles(islands):
    with pytest.raises(
        OptionError, match="islands must divide the 16 particles into clouds of at least 2"
    ):
        inverse.solve(posterior(), Importance(islands=islands))


def test_noise_without_a_density_is_refused():
    p = posterior()
    noiseless = inverse.Posterior(
        p.prior, p.operator, p.y, inverse.GaussianNoise(0.0), dtype=torch.float64
    )
    with pytest.raises(inverse.InverseError, match="importance needs sigma_y > 0"):
        inverse.solve(noiseless, Importance())


def test_evaluating_in_parts_changes_nothing():
    """VJPs of three rows at a time give the same numbers and the same cost."""
    p = posterior(images=7)
    p.execution = dataclasses.replace(p.execution, max_pixels=8 * 2 * 3)

    def evaluate(part, x):
        assert len(part) == len(x) <= 3
        x0_hat, vjp = part.tweedie(x, 0.5)
        return x0_hat, vjp(part.residual(x0_hat))

    x = normal(7, 1, 1, 2, seed=1)
    parts = in_parts(p, evaluate, x)
    assert p.cost.prior_rows == p.cost.vjp_rows == 7
    x0_hat, vjp = p.tweedie(x, 0.5)
    torch.testing.assert_close(parts, (x0_hat, vjp(p.residual(x0_hat))))


def test_a_weighted_iterate_has_no_trace_unless_given():
    assert Weighted(normal(2), normal(2)).trace is None


def test_copies_of_one_particle_are_noted_though_they_share_the_weight():
    x = torch.zeros(20, 3)
    x[10:] = torch.arange(30.0).reshape(10, 3)
    cloud = Cloud(x, CloudGenerators([torch.Generator().manual_seed(0)]))
    cloud.reweight(torch.where(torch.arange(20) < 10, 0.0, -1e6), 0.0)
    (entry,) = cloud.weighted(20).trace
    assert entry["ess"] == [pytest.approx(10)]
    assert entry["distinct"] == [pytest.approx(1)]
    (note,) = collapse_notes("some-method", [entry])
    assert "three different particles or fewer in 1 of 1 measurements" in note
