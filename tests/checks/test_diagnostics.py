"""Diagnostics: scores of Gaussians, uniform p-values and bands, power against planted defects."""

from __future__ import annotations

import itertools
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import scipy.stats
import torch

import inverse
from inverse.checks import diagnostics, exchangeability
from inverse.errors import InputError, OptionError
from inverse.metrics import ensemble as scores

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import diagnostic_power

pytest_plugins = "cli_fixtures"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=inverse.seeded("diagnostics", seed), dtype=torch.float64)


# --- scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [2, 5])
def test_fair_crps_is_the_formula_and_unbiased_for_every_m(m):
    samples, truth = 1.5 * normal(20000, m, 2) + 0.3, normal(20000, 2, seed=1)
    pairs = sum((samples[:, j] - samples[:, k]).abs() for j in range(m) for k in range(m))
    brute = ((samples - truth[:, None]).abs().mean(1) - pairs / (2 * m * (m - 1))).mean(1)
    score = scores.fair_crps(samples, truth)
    torch.testing.assert_close(score, brute)
    # E|N(0.3, 1.5^2 + 1)| - E|N(0, 2 * 1.5^2)| / 2
    s, z = math.sqrt(3.25), 0.3 / math.sqrt(3.25)
    folded = s * math.sqrt(2 / math.pi) * math.exp(-z * z / 2) + 0.3 * math.erf(z / math.sqrt(2))
    expected = folded - 1.5 / math.sqrt(math.pi)
    assert abs(float(score.mean()) - expected) < 4 * float(score.std()) / math.sqrt(20000)


def test_energy_score_is_the_formula_and_unbiased():
    m, d = 3, 4
    samples, truth = 1.5 * normal(20000, m, 2, 2), normal(20000, 2, 2, seed=1)
    pairs = sum(
        (samples[:, j] - samples[:, k]).flatten(1).norm(dim=1) for j in range(m) for k in range(m)
    )
    brute = (samples - truth[:, None]).flatten(2).norm(dim=2).mean(1) - pairs / (2 * m * (m - 1))
    score = scores.energy_score(samples, truth)
    torch.testing.assert_close(score, brute)
    chi = math.sqrt(2) * math.gamma((d + 1) / 2) / math.gamma(d / 2)  # E|N(0, I_d)|
    expected = chi * (math.sqrt(3.25) - 1.5 / math.sqrt(2))
    assert abs(float(score.mean()) - expected) < 4 * float(score.std()) / math.sqrt(20000)


def test_energy_score_of_one_entry_is_the_crps():
    samples, truth = normal(50, 7, 1), normal(50, 1, seed=1)
    torch.testing.assert_close(
        scores.energy_score(samples, truth), scores.fair_crps(samples, truth)
    )


@pytest.mark.parametrize(("m", "level"), [(19, 0.9), (24, 0.9), (4, 0.5), (10, 0.5)])
def test_interval_coverage_is_nominal_for_uniform_samples(m, level):
    x = torch.rand(40000, m + 1, 1, generator=inverse.seeded("coverage", m), dtype=torch.float64)
    covered = scores.interval_coverage(x[:, 1:], x[:, 0], level)
    assert abs(float(covered.mean()) - level) < 4 * math.sqrt(level * (1 - level) / 40000)


def test_interval_coverage_between_order_statistics_is_exact_for_any_law():
    x = normal(
        40000, 20, 1
    ).exp()  # 19 samples: the 90 % interval lies between the smallest and the largest
    covered = scores.interval_coverage(x[:, 1:], x[:, 0], 0.9)
    inside = (x[:, 1:].amin(1) <= x[:, 0]) & (x[:, 0] <= x[:, 1:].amax(1))
    assert torch.equal(covered, inside[:, 0].double())


def test_interval_coverage_refuses_too_few_samples():
    with pytest.raises(InputError, match="at least 19 samples, got 18"):
        scores.interval_coverage(normal(3, 18, 2), normal(3, 2), 0.9)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        scores.fair_crps(normal(3, 5, 2), normal(3, 1))
    with pytest.raises(InputError, match="at least 2 samples"):
        scores.fair_crps(normal(3, 1, 2), normal(3, 2))


# --- exchangeability --------------------------------------------------------------------------


def test_rank_counts_the_samples_below():
    values = torch.tensor([[2.5, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0], [9.0, 1.0, 2.0, 3.0]])
    assert exchangeability.ranks(values, inverse.seeded(0)).tolist() == [2, 0, 3]


def test_ties_are_broken_uniformly():
    r = exchangeability.ranks(torch.zeros(6000, 4), inverse.seeded(0))
    every = exchangeability.members_ranks(torch.zeros(6000, 4, 1), inverse.seeded(1))[:, 0, 0]
    for found in (r, every):
        assert scipy.stats.chisquare(torch.bincount(found, minlength=4).numpy()).pvalue > 1e-3


def test_ranks_of_every_member_are_those_of_each_in_the_truths_place():
    x = normal(3, 5, 2)
    member_ranks = exchangeability.members_ranks(x, inverse.seeded(0))
    for k in range(5):
        order = [k, *(j for j in range(5) if j != k)]
        assert torch.equal(
            member_ranks[:, k], exchangeability.ranks(x[:, order], inverse.seeded(0))
        )


def test_three_decibel_table_is_the_definition_and_its_casts_cancel():
    x, m = normal(4, 6, 3), 5
    pair, of_mean = exchangeability.three_decibel_table(x)
    for k in range(m + 1):
        others = torch.cat([x[:, :k], x[:, k + 1 :]], 1)
        torch.testing.assert_close(pair[:, k], (others - x[:, k : k + 1]).square().sum(2).mean(1))
        torch.testing.assert_close(of_mean[:, k], (others.mean(1) - x[:, k]).square().sum(1))
    torch.testing.assert_close(
        pair.sum(1), 2 * m / (m + 1) * of_mean.sum(1)
    )  # the target 2 / (1 + 1/m), whatever the law


def test_jackknife_is_that_of_leaving_one_out_and_covers():
    a, b = normal(30).exp(), normal(30, seed=1).exp()
    ratio, low, high = exchangeability.jackknife_ratio(a, b)
    left_out = torch.stack(
        [
            (a[keep].sum() / b[keep].sum()).log()
            for i in range(30)
            for keep in [torch.arange(30) != i]
        ]
    )
    deviation = float((29 / 30 * (left_out - left_out.mean()).square().sum()).sqrt())
    assert ratio == pytest.approx(float(a.sum() / b.sum()))
    assert math.log(high / low) == pytest.approx(2 * scipy.stats.t.ppf(0.975, 29) * deviation)
    found = [
        exchangeability.jackknife_ratio(
            normal(60, seed=s).abs(), 2 * normal(60, seed=400 + s).abs()
        )
        for s in range(400)
    ]
    hits = [low < 0.5 < high for _, low, high in found]
    assert sum(hits) >= scipy.stats.binom.ppf(0.001, 400, 0.94)


def test_randomisation_is_exact_for_heavy_tails():
    """Cauchy statistics: P(p <= a) = a for every multiple of 1 / (1 + draws)."""
    tables = [
        torch.tan(
            math.pi
            * (
                torch.rand(12, 5, 2, generator=inverse.seeded("cauchy", s), dtype=torch.float64)
                - 0.5
            )
        )
        for s in range(1000)
    ]
    p = [
        exchangeability.randomisation_p_value(table, inverse.seeded("draws", s), draws=19)
        for s, table in enumerate(tables)
    ]
    for a in (0.1, 0.5):
        assert abs(sum(x <= a + 1e-9 for x in p) - 1000 * a) < 3.3 * math.sqrt(1000 * a * (1 - a))


# --- uniform laws -----------------------------------------------------------------------------


def test_ecdf_p_value_is_that_of_enumeration():
    """Over all sets of 4 ranks in 0, 1, 2, the p-value is the probability of a larger departure."""
    n, m = 4, 2
    tail = {k: scipy.stats.binom(n, (k + 1) / (m + 1)) for k in range(m)}

    def gamma(r):
        counts = [sum(x <= k for x in r) for k in range(m)]
        return min(min(tail[k].cdf(c), tail[k].sf(c - 1)) for k, c in enumerate(counts))

    every = {r: gamma(r) for r in itertools.product(range(m + 1), repeat=n)}
    for r, g in every.items():
        expected = sum(other <= g * (1 + 1e-9) for other in every.values()) / len(every)
        assert exchangeability.ecdf_p_value(torch.tensor(r), m) == pytest.approx(
            expected, abs=1e-12
        )


@pytest.mark.parametrize(("n", "m", "level"), [(200, 19, 0.95), (50, 9, 0.8)])
def test_band_holds_the_whole_ecdf_with_its_probability(n, m, level):
    z, lower, upper = (
        torch.tensor(side, dtype=torch.float64) for side in exchangeability.ecdf_band(n, m, level)
    )
    r = torch.randint(m + 1, (4000, n), generator=inverse.seeded("band", n))
    ecdf = (r[..., None] < (z * (m + 1)).round()).double().mean(1)
    inside = ((ecdf >= lower - 1e-9) & (ecdf <= upper + 1e-9)).all(1)
    deviation = math.sqrt(level * (1 - level) / 4000)
    assert (
        level - 3.5 * deviation < float(inside.double().mean()) < level + 0.02 + 3.5 * deviation
    )  # counts are integers, so the probability lies slightly above the level
    assert [exchangeability.ecdf_p_value(one, m) > 1 - level for one in r[:100]] == inside[
        :100
    ].tolist()


def test_pearson_is_scipys_where_bins_are_even():
    r = torch.randint(20, (200,), generator=inverse.seeded("ranks"))
    expected = scipy.stats.chisquare(torch.bincount(r, minlength=20).numpy())
    assert exchangeability.rank_chi_square(r, 19) == pytest.approx(
        (expected.statistic, expected.pvalue)
    )


def test_pearson_weighs_uneven_bins():
    r = torch.tensor([0] * 5 + [1] * 5 + [2] * 5)  # 15 images, 3 bins for 5 ranks: of 2, 2 and 1
    statistic, _ = exchangeability.rank_chi_square(r, 4)
    assert statistic == pytest.approx((10 - 6) ** 2 / 6 + (5 - 6) ** 2 / 6 + (0 - 3) ** 2 / 3)


def test_residuals_of_truths_are_chi_square():
    p = [
        exchangeability.chi_square_ks(normal(40, 7, seed=s).square().sum(1), 7)[1]
        for s in range(300)
    ]
    assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3
    assert exchangeability.chi_square_ks(torch.zeros(40), 7) == (1.0, 0.0)


def test_tarp_is_uniform_for_an_exact_sampler_and_not_for_a_narrow_one():
    x, points = normal(4000, 10, 3), normal(4000, 1, 3, seed=1)
    r = exchangeability.ranks((x - points).norm(dim=2), inverse.seeded(0))
    assert scipy.stats.chisquare(torch.bincount(r, minlength=10).numpy()).pvalue > 1e-3
    x[:, 1:] *= 0.8
    assert (
        exchangeability.ecdf_p_value(
            exchangeability.ranks((x - points).norm(dim=2), inverse.seeded(0)), 9
        )
        < 1e-6
    )


# --- the report -------------------------------------------------------------------------------


def test_holm_steps_down():
    adjusted = diagnostics.holm(
        [
            diagnostics.Check(name, p_value=p)
            for name, p in [("a", 0.01), ("b", 0.04), ("c", 0.03), ("d", 0.005), ("e", None)]
        ]
    )
    assert {c.name: c.adjusted for c in adjusted} == {
        "a": pytest.approx(0.03),
        "b": pytest.approx(0.06),
        "c": pytest.approx(0.06),
        "d": pytest.approx(0.02),
        "e": None,
    }


def test_linear_quantities_of_an_image():
    rows = diagnostics.linear_quantities((1, 4, 4), inverse.seeded(0))
    x = torch.arange(16.0, dtype=torch.float64)
    assert float(rows["mean"] @ x) == 7.5
    assert float(rows["mean of part 21"] @ x) == x.reshape(4, 4)[2:, :2].mean()
    assert float(rows["entry 1"] @ x) == 1.0
    assert all(
        float(row.norm()) == pytest.approx(1)
        for name, row in rows.items()
        if name.startswith("projection")
    )


def test_report_is_plain_data():
    report = diagnostics.report(
        diagnostics.Simulations(normal(20, 5, 1, 2), normal(20, 1, 2, seed=1))
    )
    data = json.loads(json.dumps(report.to_dict()))
    assert data["verdict"] == ("calibrated" if report.calibrated else "not calibrated")
    assert {c["name"] for c in data["checks"]} >= {
        "3 dB ratio",
        "PIT",
        "SBC ECDF",
        "residual chi-square",
    }
    assert sum(data["curves"]["sbc"]["|x|^2"]) == 20
    coverage = next(c for c in data["checks"] if c["name"] == "coverage 90%")
    assert coverage["expected"] == pytest.approx(4 / 6)  # the widest interval of five samples


def test_report_refuses_what_it_cannot_test():
    with pytest.raises(InputError, match="at least 10 ground truths"):
        diagnostics.report(diagnostics.Simulations(normal(9, 5, 2), normal(9, 2)))
    with pytest.raises(InputError, match="NaN"):
        diagnostics.report(diagnostics.Simulations(normal(10, 5, 2) / 0, normal(10, 2)))


# --- power ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", [case for case in diagnostic_power.CASES if not case.startswith("none")]
)
def test_planted_defect_is_found(case):
    """All of five runs: a test of power 0.5 would pass one time in 32."""
    assert diagnostic_power.study(case, 5)["verdict"] == 1


def test_exact_sampler_is_accused_at_most_at_the_level():
    assert diagnostic_power.study("none (bimodal)", 60)["verdict"] * 60 <= scipy.stats.binom.ppf(
        0.999, 60, diagnostic_power.LEVEL
    )


def test_only_solving_alone_shows_standardised_noise():
    report = diagnostic_power.diagnose(
        diagnostic_power.Conjugate.of(inverse.get_problem("gaussian", side=6)),
        diagnostic_power.batch_standardised_noise,
        0,
    )
    assert report.objections == ("batch independence",)


@pytest.mark.parametrize("problem", [("gaussian", {"side": 3, "view": "random"}), ("bimodal", {})])
def test_vectorised_exact_sampler_is_the_problems_exact_posterior(problem):
    problem = inverse.get_problem(problem[0], **problem[1])
    p, n = diagnostic_power.Conjugate.of(problem), 40000
    y = p.draw(2, inverse.seeded("y")) @ p.A.T
    noise = diagnostic_power.Noise(
        normal(2, n, p.A.shape[1]),
        torch.rand(2, n, generator=inverse.seeded("u"), dtype=torch.float64),
    )
    for one, samples in zip(y, diagnostic_power.exact(p, y, noise), strict=True):
        law = problem.exact(one)
        deviation = law.covariance.diagonal().sqrt()
        assert ((samples.mean(0) - law.mean.flatten()).abs() < 5 * deviation / math.sqrt(n)).all()
        torch.testing.assert_close(
            samples.T.cov(),
            law.covariance,
            atol=5 * float(deviation.max()) ** 2 * math.sqrt(2 / n),
            rtol=0,
        )


# --- diagnose ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scales(inverse.Problem):
    """White x, half of whose entries are observed with noise of different levels."""

    name = "scales"

    def make_prior(self):
        return inverse.GaussianPrior(
            torch.zeros(1, 3, 4, dtype=torch.float64), torch.ones((), dtype=torch.float64)
        )

    def observed(self):
        return torch.tensor([True, False, True, False]).expand(1, 3, 4)

    def operator(self, shape):
        mask = self.observed()
        return inverse.operator(lambda x: x * mask, shape=shape)

    def noise(self, shape):
        return inverse.GaussianNoise(
            torch.linspace(0.1, 1.0, 12, dtype=torch.float64).reshape(1, 3, 4), self.observed()
        )

    def truths(self):
        return []


@dataclass(frozen=True)
class ScalesExact(inverse.Method):
    """The posterior of `Scales`, entry by entry.

    Args:
        couple: subtract the mean of the noise over the batch.
    """

    name = "scales-exact"
    couple: bool = False

    def run(self, posterior, samples, generator):
        precision = 1 + posterior.noise.observed / posterior.noise.variance(posterior.y)
        z = inverse.standard_normal(posterior, generator)
        z = z - z.mean(0) if self.couple else z
        yield (
            posterior.y * posterior.noise.observed / posterior.noise.variance(posterior.y)
        ) / precision + z / precision.sqrt()


def check(diagnosis, name):
    return next(c for c in diagnosis.report.checks if c.name == name)


def test_masked_heteroscedastic_noise_is_accounted_for():
    diagnosis = inverse.diagnose(Scales(), ScalesExact, simulations=150, dtype=torch.float64)
    assert diagnosis.calibrated
    assert diagnosis.exact_prior
    residual = check(diagnosis, "residual chi-square")
    assert "6 measurements" in residual.detail
    assert abs(residual.statistic - 1) < 4 * math.sqrt(2 / (6 * 150))


def test_batch_coupling_is_found_through_the_engine():
    diagnosis = inverse.diagnose(Scales(), ScalesExact(couple=True), simulations=30)
    assert "batch independence" in diagnosis.report.objections


def test_same_seed_same_diagnosis():
    one, two, other = (
        inverse.diagnose(Scales(), ScalesExact, simulations=20, seed=seed).to_dict()
        for seed in (3, 3, 4)
    )
    assert one == two
    assert one["scores"] != other["scores"]


@dataclass(frozen=True)
class Counts(inverse.Problem):
    """Photon counts of a positive x with an unknown law."""

    name = "counts"

    def make_prior(self):
        return inverse.FlatPrior((1, 2, 2))

    def operator(self, shape):
        return inverse.operator(lambda x: x, shape=shape)

    def noise(self, shape):
        return inverse.PoissonNoise(0.1)

    def truths(self):
        return [1 + normal(1, 2, 2, seed=i).abs().float() for i in range(12)]


@dataclass(frozen=True)
class Jitter(inverse.Method):
    """The measurement plus noise."""

    name = "jitter"

    def run(self, posterior, samples, generator):
        yield (posterior.y + 0.1 * inverse.standard_normal(posterior, generator)).abs()


def test_held_out_truths_and_noise_that_is_not_gaussian_are_named():
    diagnosis = inverse.diagnose(Counts(), Jitter, samples=5)
    assert not diagnosis.exact_prior
    assert "held out" in diagnosis.notes[0]
    assert diagnosis.report.images == 12
    assert "PoissonNoise(0.1), not Gaussian" in check(diagnosis, "residual chi-square").detail
    assert "log-likelihood" in diagnosis.report.curves["sbc"]
    assert "linear operator and Gaussian noise" in check(diagnosis, "TARP, A^+ y").detail


def test_noiseless_measurements_have_no_likelihood():
    truths = [normal(1, 8, 8, seed=i).float() for i in range(10)]
    diagnosis = inverse.diagnose(
        inverse.get_problem("denoise", sigma_y=0),
        Jitter,
        samples=5,
        prior=inverse.FlatPrior((1, None, None)),
        truths=truths,
    )
    assert check(diagnosis, "residual chi-square").detail == "skipped: sigma_y is 0"
    assert "no log-likelihood: sigma_y is 0" in check(diagnosis, "SBC ECDF").detail
    assert "log-likelihood" not in diagnosis.report.curves["sbc"]


def test_unusable_ground_truths_are_refused():
    with pytest.raises(InputError, match="20 ground truths are needed, 10 were given"):
        inverse.diagnose("denoise", Jitter, 20, truths=[normal(1, 8, 8, seed=i) for i in range(10)])
    with pytest.raises(InputError, match="share one shape"):
        inverse.diagnose(
            "denoise",
            Jitter,
            truths=[normal(1, 8, 8 + i % 2) for i in range(10)],
            prior=inverse.FlatPrior((1, None, None)),
        )
    with pytest.raises(OptionError, match="samples must be at least 2"):
        inverse.diagnose("denoise", Jitter, samples=1)


def test_command_writes_json_and_exits_by_the_verdict(command):
    small = ("diagnose", "--problem", "gaussian", "--problem-option", "side=3", "--simulations", 40)
    good = command(*small, "--method", "mmps", "--set", "steps=20")
    assert good.code == 0, good
    data = json.loads(good.path.read_text())
    assert data["verdict"] == "calibrated"
    assert data["exact_prior"]
    bad = command(*small, "--method", "ddnm", "--set", "steps=20", "--json")
    assert bad.code == 1
    assert "residual chi-square" in json.loads(bad.out)["objections"]


def test_command_refuses_in_one_line(command):
    command("diagnose", "--simulations", 5).refused("simulations must be at least 10", "got 5")
    command("diagnose", "--level", 0).refused("level")
    command("diagnose", "--problem", "denoise", "--method", "pseudo-inverse").refused(
        "10 ground truths are needed", "ships 4", "--input"
    )
    assert not Path("out").exists()


def test_page_shows_the_recorded_power():
    root = Path(__file__).parents[2]
    rates = json.loads((root / "results" / "diagnostics.json").read_text())["rates"]
    assert diagnostic_power.table(rates) in (root / "docs" / "diagnostics.md").read_text()
    assert all(row["verdict"] >= 0.95 for case, row in rates.items() if not case.startswith("none"))
    assert rates.keys() == diagnostic_power.CASES.keys()
