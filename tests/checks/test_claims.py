"""The referee: an exact sampler passes, and planted defects fail for their own reason."""

import json
from dataclasses import dataclass, replace

import pytest
import torch

import inverse
from inverse.checks import claims, distances, exact_cases
from inverse.particles.cloud import ancestors
from inverse.seeding import Generators, seeded

pytest_plugins = "cli_fixtures"

SAMPLES = 400
GAUSSIAN = ("inpainting", "random")


def exact_law(posterior, y):
    """The exact posterior of one row."""
    n = torch.Size(posterior.shape).numel()
    A = (
        posterior.operator.A(torch.eye(n, dtype=torch.float64).reshape(n, *posterior.shape))
        .flatten(1)
        .T
    )
    seen = A.abs().sum(1) > 0
    return posterior.prior.given(A[seen], posterior.noise.sigma.max(), y.flatten()[seen])


@dataclass(frozen=True)
class Planted(inverse.Method):
    """Exact draws, with a defect."""

    name = "planted"
    claim = "exact"
    limit = {}

    defect: str = "none"
    steps: int = 10

    def run(self, posterior, samples, generator):
        y = posterior.y.abs() if self.defect == "looks at signs" else posterior.y
        laws = [exact_law(posterior, y[row]) for row in range(0, len(posterior), samples)]
        mean = torch.cat([law.means.expand(samples, *posterior.shape) for law in laws])
        z = inverse.standard_normal(posterior, generator)
        roots = [distances.square_root(law.covariance) for law in laws]
        spread = torch.cat(
            [
                (z[i * samples : (i + 1) * samples].flatten(1) @ root).reshape(-1, *posterior.shape)
                for i, root in enumerate(roots)
            ]
        )
        if self.defect == "narrow":
            spread = 0.5 * spread
        if self.defect == "variance x1.2":
            spread = 1.2**0.5 * spread
        if self.defect == "slow":
            spread = spread * (1 + 5 / self.steps)
        if self.defect == "ignores y":
            yield posterior.prior.mean + (
                z.flatten(1) @ distances.square_root(posterior.prior.covariance)
            ).reshape(z.shape)
        elif self.defect == "batch":
            yield mean + spread * (1 + 0.1 * (mean - mean.mean(0)).norm())
        elif self.defect == "weighted":
            twice = torch.arange(len(mean)) % 2 == 0  # every other sample is noise of no weight
            yield inverse.Weighted(
                torch.where(twice[:, None, None, None], mean + spread, mean + 3),
                torch.where(twice, 0.0, -torch.inf),
            )
        else:
            yield mean + spread


def judge(defect, claim="exact", **options):
    method = type(
        "Planted",
        (Planted,),
        {"claim": claim, **{k: options.pop(k) for k in ("limit", "any_prior") if k in options}},
    )
    return inverse.verify(method(defect=defect, **options), samples=SAMPLES, cases=GAUSSIAN)


@pytest.mark.parametrize(
    "claim", ["exact", "exact in the limit", "biased", "point estimate", "none"]
)
def test_an_exact_sampler_keeps_every_claim_and_scores_zero(claim):
    verdict = judge("none", claim)
    assert verdict.failures == []
    few = claim == "point estimate"
    for measured in verdict.cases:
        made = exact_cases.reference(measured.case, claims.ESTIMATE_SAMPLES if few else SAMPLES)
        assert [
            name for name, figure in measured.figures.items() if made.excess(name, figure.value) > 5
        ] == []
        assert abs(measured.figures["W2"].score) < (0.1 if few else 0.02)
    assert verdict.batch < 1e-9
    assert verdict.rotation[0] == pytest.approx(verdict.rotation[1], abs=1e-9)


@pytest.mark.parametrize(
    ("defect", "claim", "words"),
    [
        ("narrow", "exact", "inpainting: claims to be exact"),
        ("ignores y", "biased", "no better than ignoring the data"),
        ("ignores y", "point estimate", "no nearer to the posterior mean"),
        ("batch", "none", "with the other images of its batch"),
        ("looks at signs", "none", "after y and A are rotated"),
    ],
)
def test_a_defect_fails_the_claim_it_breaks(defect, claim, words):
    verdict = judge(defect, claim)
    assert not verdict.held
    assert any(words in failure for failure in verdict.failures)


def test_a_limit_holds_if_the_error_falls_and_fails_if_it_stays():
    """A spread that is too wide by 5 / steps has order 1; a constant error has order 0."""
    falling = judge("slow", "exact in the limit", limit={"steps": 1})
    staying = judge("narrow", "exact in the limit", limit={"steps": 1})
    assert falling.held
    assert falling.order == pytest.approx(1, abs=0.2)
    assert list(falling.effort) == [1.0, 2.0, 4.0, 8.0]
    assert staying.order == pytest.approx(0, abs=0.1)
    assert "does not fall with effort" in staying.failures[0]


def test_a_limit_with_too_much_variance_in_all_directions_fails():
    verdict = judge("variance x1.2", "exact in the limit", limit={"steps": 1})
    assert any("the error of the whitened spread stays" in f for f in verdict.failures)
    right = judge("none", "exact in the limit", limit={"steps": 1})
    assert right.failures == []
    assert right.sharp["whitened spread"][8.0] < 0.03


@dataclass(frozen=True)
class Plateau(Planted):
    """Twice too wide at any number of particles, and wider still with few."""

    claim = "exact in the limit"
    limit = {"particles": 1}
    particles: int = 10

    def run(self, posterior, samples, generator):
        (x,) = super().run(posterior, samples, generator)
        mean = x.unflatten(0, (-1, samples)).mean(1).repeat_interleave(samples, 0)
        yield mean + (2 if self.particles >= claims.CLOUD_SAMPLES else 6) * (x - mean)


PHOTOGRAPHIC = ("photo reduction", "photo blur", "photo pixels")


def failures_on_photographs(name, **options):
    """The failures of a method on the photographic cases, with the checks of every method aside."""
    method = inverse.get_method(name, **options)
    return [
        failure
        for case in PHOTOGRAPHIC
        for made in [exact_cases.reference(case, 100)]
        for failure in claims._bias_failures(
            method.bias, made, claims.measure(method, made).figures
        )
    ]


def test_exact_draws_have_no_bias_on_photographs():
    made = exact_cases.reference("photo pixels", 100)
    x = made.exact.sample(100, seeded("again")).flatten(1)
    values = exact_cases.figures(made, x)
    assert all(made.excess(name, value) < 5 for name, value in values.items())
    assert {n: len(s) for n, (_, s) in made.views.items()} == {"seen": 51, "unseen": 205}
    wide = made.mean + 1.5 * (x - made.mean)
    ratio = exact_cases.figures(made, wide)["unseen spread"] / values["unseen spread"]
    assert ratio == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("name", "defect", "words"),
    [
        ("daps", {"inner": "exact"}, "unseen spread is 1.4"),
        ("ddnm-plus", {"rule": "paper"}, "photo blur: marginal W2 is 3."),
    ],
)
def test_defects_that_small_smooth_images_hide_show_on_the_spectrum_of_photographs(
    name, defect, words
):
    assert failures_on_photographs(name) == []
    assert any(words in failure for failure in failures_on_photographs(name, **defect))


def test_a_bound_on_an_unknown_figure_is_a_failure():
    made = exact_cases.reference("photo pixels", 100)
    figures = claims.measure(inverse.get_method("pseudo-inverse"), made).figures
    (failure,) = claims._bias_failures({"w2": 1.0}, made, figures)
    assert failure.startswith("photo pixels: `bias` bounds 'w2'; the figures are marginal W2, seen")


def test_where_y_says_nothing_the_prior_is_the_floor():
    """An exact sampler passes; one that is twice too narrow fails, unless it says by how much."""
    narrow = {"limit": {}, "claim": "biased"}
    cases = ("weak 10", "no data")
    exact = type("Planted", (Planted,), narrow)()
    assert inverse.verify(exact, samples=SAMPLES, cases=cases).failures == []
    half = type("Planted", (Planted,), narrow)(defect="narrow")
    found = inverse.verify(half, samples=SAMPLES, cases=cases).failures
    assert [failure.split(":")[0] for failure in found] == ["weak 10", "no data"]
    assert all("no better than ignoring the data" in failure for failure in found)
    stated = type("Planted", (Planted,), narrow | {"bias": {"excess": 0.6}})(defect="narrow")
    assert inverse.verify(stated, samples=SAMPLES, cases=cases).failures == []


@pytest.mark.parametrize(
    ("name", "options"), [("dps", {"steps": 5}), ("l1-wavelet", {"steps": 5}), ("zero-filled", {})]
)
def test_a_refusal_of_an_operator_of_zeros_skips_its_case(name, options):
    method = inverse.get_method(name, **options)
    verdict = inverse.verify(method, samples=SAMPLES, cases=("no data",))
    assert "A maps every image to zero" in verdict.cases[0].skipped
    assert verdict.failures == []


@dataclass(frozen=True)
class OneParticle(Planted):
    """A cloud of copies, with or without a note on it."""

    name = "one-particle"
    claim = "none"
    limit = {}
    particles: int = 100
    ess: float = 1.0

    def run(self, posterior, samples, generator):
        (x,) = super().run(posterior, samples, generator)
        x = x.unflatten(0, (-1, samples))[:, :1].expand(-1, samples, *x.shape[1:]).flatten(0, 1)
        yield inverse.Weighted(x, None, None, [{"ess": [self.ess]}])


def test_a_cloud_that_collapses_must_say_so():
    silent = inverse.verify(OneParticle(ess=50.0), samples=SAMPLES, cases=("random",))
    assert "random: 1 different samples, and no note" in silent.failures[0]
    told = inverse.verify(OneParticle(), samples=SAMPLES, cases=("random",))
    assert not any("no note" in failure for failure in told.failures)
    assert "one particle" in told.cases[0].notes[0]


def test_the_path_of_an_exact_method_is_exact_at_every_noise_level():
    """mmps stays at the floor of sqrt(1.5 / n) on the way, and at a wrong sigma_y leaves it."""
    made = exact_cases.reference("photo reduction", 100)
    found = claims.measure(inverse.get_method("mmps", steps=20), made).path
    levels = list(found)
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > 10 > 0.1 > levels[-1]
    assert max(found.values()) < 0.2
    wrong = claims.measure(inverse.get_method("ddrm", steps=20), made).path
    assert max(wrong.values()) > 0.25


@pytest.mark.parametrize("particles", [10, SAMPLES])
def test_a_small_default_does_not_make_a_limit_easier(particles):
    verdict = inverse.verify(Plateau(particles=particles), samples=SAMPLES, cases=("random",))
    assert any("does not fall with effort" in failure for failure in verdict.failures)
    assert verdict.effort[1.0] == pytest.approx(verdict.effort[4.0])


def test_a_limit_fails_if_the_error_rises_on_the_way_or_more_effort_does_not_run():
    verdict = judge("slow", "exact in the limit", limit={"steps": 1})
    probe = exact_cases.reference("random", SAMPLES)
    rising = replace(verdict, effort={1.0: 0.58, 2.0: 0.38, 4.0: 0.55, 8.0: 0.2})
    assert list(claims._limit_failures(rising, probe)) == [
        "random: claims to be exact in the limit, but W2 rises from 0.38 to 0.55 at x4 effort"
    ]
    short = replace(verdict, effort={0.5: 0.6, 1.0: 0.5})
    assert "does not run with more effort" in next(claims._limit_failures(short, probe))


def test_a_weighted_ensemble_is_judged_by_its_weights():
    verdict = judge("weighted", "exact")
    assert verdict.cases[0].figures["mean"].score < 0.1
    assert verdict.cases[0].figures["W2"].score < 0.1


def test_a_case_that_a_method_cannot_run_on_is_skipped_with_its_reason():
    verdict = inverse.verify("repaint", samples=SAMPLES, cases=("random", "inpainting"))
    assert verdict.cases[0].skipped == "repaint needs an inpainting operator"
    assert verdict.cases[0].figures == {}
    assert verdict.cases[1].figures["W2"].score < 1
    assert verdict.outcome == "yes"


@pytest.mark.parametrize("claim", ["exact", "exact in the limit", "biased", "none"])
def test_a_method_that_no_case_suits_is_not_checked_and_says_what_it_needs(claim):
    method = type("Wish", (Planted,), {"claim": claim, "unsupported": lambda *_: "needs a lake"})
    verdict = inverse.verify(method(), samples=SAMPLES, cases=GAUSSIAN)
    assert (verdict.outcome, verdict.held, verdict.failures) == ("not checked", False, [])
    words = "case `random`" if claim == "none" else "case that its claim covers"
    assert verdict.unchecked == f"ran on no {words} (needs a lake)"


def test_a_gaussian_claim_is_not_checked_by_a_mixture():
    method = inverse.get_method("pigdm", steps=10)
    verdict = inverse.verify(method, samples=SAMPLES, cases=("bimodal",))
    assert verdict.cases[0].figures
    assert verdict.outcome == "not checked"


@dataclass(frozen=True)
class Faulty(Planted):
    """An exact sampler that fails under one condition."""

    name = "faulty"
    where: str = "case"
    how: str = "raises"

    def run(self, posterior, samples, generator):
        found = {"case": len(posterior) == SAMPLES and posterior.y.shape[1:] == (1, 4, 4)}
        found |= {"batch": len(posterior) == 24, "rotation": posterior.y.ndim == 2}
        if found[self.where]:
            if self.how == "raises":
                raise ZeroDivisionError("division by zero")
            yield posterior.A_adjoint(posterior.y) * (torch.nan if self.how == "nan" else 1)
            return
        yield from super().run(posterior, samples, generator)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", "ZeroDivisionError: division by zero"),
        ("nan", "the samples hold NaN or infinity"),
    ],
)
def test_an_error_or_nan_fails_its_case_and_the_others_go_on(how, words):
    verdict = inverse.verify(
        Faulty(how=how), samples=SAMPLES, cases=("inpainting", "random", "blur")
    )
    assert verdict.failures == [f"inpainting: {words}"]
    assert [m.failed for m in verdict.cases] == [words, None, None]
    assert [bool(m.figures) for m in verdict.cases] == [False, True, True]


def test_an_error_in_another_batch_or_after_a_rotation_is_a_failure():
    error = "ZeroDivisionError: division by zero"
    batch = inverse.verify(Faulty(where="batch"), samples=SAMPLES, cases=("random",))
    (failure,) = batch.failures
    assert failure.startswith("with another batch: ")
    assert error in failure
    rotation = inverse.verify(Faulty(where="rotation"), samples=SAMPLES, cases=("random",))
    (failure,) = rotation.failures
    assert failure.startswith("after y and A are rotated: ")
    assert error in failure


def test_floors_are_those_of_exact_draws_and_the_prior_is_worse():
    made = exact_cases.reference("blur", SAMPLES)
    for seed in range(3):
        values = exact_cases.figures(
            made, made.exact.sample(SAMPLES, seeded("again", seed)).flatten(1)
        )
        assert all(made.excess(name, value) < 5 for name, value in values.items())
    assert made.prior["W2"] > 10 * made.values["W2"]
    assert made.values["cover 90 %"] == pytest.approx(0.9, abs=0.01)


def test_mode_mass_of_a_sampler_that_finds_one_mode_of_two_is_a_half():
    made = exact_cases.reference("bimodal", SAMPLES)
    x = made.exact.sample(SAMPLES, seeded("modes")).flatten(1)
    x[:, 0] = x[:, 0].abs()
    assert exact_cases.figures(made, x)["mode mass"] == pytest.approx(0.5, abs=0.03)


def test_systematic_resampling_has_the_weights_to_within_one():
    log_weights = torch.tensor([0.1, 0.2, 0.0, 0.7]).log()
    counts = ancestors(log_weights.double()[None], Generators([seeded("x")]), 100)[0].bincount(
        minlength=4
    )
    assert (counts - torch.tensor([10, 20, 0, 70])).abs().max() <= 1


def test_effort_scales_the_options_of_the_limit_by_their_powers():
    pnp = inverse.get_method("pnp-dm", steps=100, prior_steps=10, rho_min=0.1)
    more = claims.with_effort(pnp, 4)
    assert (more.steps, more.prior_steps, more.rho_min) == (400, 20, 0.05)
    assert claims.with_effort(inverse.get_method("dps", steps=2), 0.25).steps == 1
    assert (
        claims.with_effort(inverse.get_method("afdps", steps=100), 2, samples=1000).particles
        == 2000
    )
    assert claims.with_effort(inverse.get_method("pseudo-inverse"), 4) == inverse.get_method(
        "pseudo-inverse"
    )


PLUGIN = '''
from dataclasses import dataclass
import inverse

@dataclass(frozen=True)
class Guess(inverse.Method):
    """Draws that ignore the posterior."""
    name, reference, equation, claim, limit = "guess", "nobody", "x = z", "{claim}", {{}}
    def run(self, posterior, samples, generator):
        yield inverse.standard_normal(posterior, generator)

@inverse.hookimpl
def inverse_methods():
    return [Guess]
'''


def test_the_command_fails_a_third_partys_false_claim_with_exit_1_and_stores_why(command, tmp_path):
    (tmp_path / "guess.py").write_text(PLUGIN.format(claim="biased"))
    done = command("verify", "guess", "--plugin", "guess.py", "--samples", 200, "--case", "random")
    assert done.code == 1
    assert "no better than ignoring the data" in done.out
    assert "guess claims biased: FAILED" in done.out
    record = json.loads(done.path.read_text())
    assert done.path.name == "guess.json"
    assert record["held"] is False
    assert record["cases"][0]["figures"]["W2"]["score"] >= 1


PARTIAL = """
    def unsupported(self, posterior):
        return "guess needs a lake" if len(posterior.shape) != 1 else None
"""


def test_the_command_exits_with_3_if_nothing_was_checked(command, tmp_path):
    text = PLUGIN.format(claim="none").replace("    def run", PARTIAL + "    def run")
    (tmp_path / "guess.py").write_text(text)
    asked = ("verify", "guess", "--plugin", "guess.py", "--samples", 200, "--case", "random")
    done = command(*asked)
    assert done.code == 3
    assert "guess: not checked: it ran on no case `random` (guess needs a lake)" in done.out
    assert "guess claims none: not checked" in done.out
    record = json.loads(command(*asked, "--json").out)
    assert (record["held"], record["outcome"]) == (False, "not checked")


def test_the_command_shows_the_error_of_a_case(command, tmp_path):
    text = PLUGIN.format(claim="none").replace(
        "        yield",
        "        if len(posterior.y[0].flatten()) == 16:\n"
        "            raise KeyError('lake')\n        yield",
    )
    (tmp_path / "guess.py").write_text(text)
    done = command(
        *("verify", "guess", "--plugin", "guess.py", "--samples", 200),
        *("--case", "inpainting", "--case", "random"),
    )
    assert done.code == 1
    assert "guess: inpainting: KeyError: 'lake'" in done.out
    assert "FAILED: KeyError: 'lake'" in done.out


def test_the_command_passes_a_method_without_claim_and_prints_one_record(command, tmp_path):
    (tmp_path / "guess.py").write_text(PLUGIN.format(claim="none"))
    done = command(
        "verify", "guess", "--plugin", "guess.py", "--samples", 200, "--case", "random", "--json"
    )
    assert done.code == 0
    assert json.loads(done.out)["method"] == "guess"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either one METHOD or --all"),
        (["dps", "--all"], "give either one METHOD or --all"),
        (["--all", "--set", "steps=3"], "applies to one method"),
        (["dpz"], "'dpz' is not known"),
        (["dps", "--case", "moon"], "no case is called 'moon'; the cases are inpainting"),
        (["dps", "--samples", "20"], "at least 100 for a floor, got 20"),
    ],
)
def test_bad_requests_are_one_line_and_exit_2(command, arguments, words):
    command("verify", *arguments).refused(words)


@pytest.mark.slow
def test_every_registered_method_keeps_its_claim():
    from inverse.registry.discovery import registry

    broken = {
        name: v.failures
        for name in registry().table("inverse_methods")
        if (v := inverse.verify(name)).failures
    }
    assert broken == {}


def test_a_verdict_is_replaced_not_changed():
    verdict = judge("none")
    assert replace(verdict, failures=["x"]).held is False
    assert verdict.held


def test_several_measurements_are_sampled_from_their_own_posteriors():
    """Means of 4000 exact draws lie within 4.5 standard errors (48 coordinates).

    Weights are resampled within each measurement.
    """
    problem = inverse.get_problem("gaussian", side=4, view="random")
    posterior = problem.posterior(torch.stack(problem.truths()[:3]), dtype=torch.float64)
    x, cost, _ = claims.sample(inverse.get_method("mmps", steps=40), posterior, 4000)
    weighted, _, _ = claims.sample(inverse.get_method("smc-mmps", steps=40), posterior, 4000)
    for y, own, cloud in zip(posterior.y, x.split(4000), weighted.split(4000), strict=True):
        exact = problem.exact(y)
        error = exact.covariance.diagonal().sqrt() / 4000**0.5
        assert ((own.mean(0) - exact.mean.flatten()) / error).abs().max() < 4.5
        assert (
            (cloud.mean(0) - exact.mean.flatten()) / error
        ).abs().max() < 10  # a cloud's ancestors are fewer than its particles
    assert cost.nfe == 79
