"""`optimal-bc` against closed forms.

Under a Gaussian prior a deterministic solver is affine in its start and in y.
"""

import dataclasses
import importlib
import json
import math
import signal
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from cli_fixtures import pixels, tiny_network, write_picture
from conftest import dense, draws, image_prior, normal, problems

import inverse
from inverse.measurement.deepinv_import import quietly_imported
from inverse.priors.loading import save_prior
from inverse_plugins.optimal_bc.deterministic_solver import (
    candidate,
    deterministic_solver,
    endpoints,
    tiled,
)
from inverse_plugins.optimal_bc.expected_gain import Variances, anova, expected_maximum
from inverse_plugins.optimal_bc.references import references
from inverse_plugins.optimal_bc.search import FitConfig, Search
from inverse_plugins.optimal_bc.successive_halving import (
    halving,
    rounds,
    tail_mean,
    with_new_block,
)
from inverse_plugins.optimal_bc.table import Table, load_table, prior_sha256, shipped_tables

pytest_plugins = "cli_fixtures"
SHAPE = (3, 8, 8)
BASES = ("ddnm", "diffpir", "mmps:iterations=200,tolerance=1e-12", "pigdm")


@pytest.fixture(scope="module")
def prior():
    return image_prior()


def search(prior, tmp_path, base="ddnm", problem="area", truths=4, **settings):
    fit = FitConfig(
        **{
            "candidates": 8,
            "references": truths,
            "distance": "rmse",
            "dtype": "float64",
            **settings,
        }
    )
    return Search(
        problems()[problem],
        deterministic_solver(base, 4),
        fit,
        list(draws(prior, truths)),
        prior,
        tmp_path / "c.safetensors",
    )


def fit_command_of(options):
    return (
        f"inverse fit-bc --problem super-resolution --problem-option {options} "
        "--base ddnm --steps 4 --out FILE.safetensors"
    )


# --- the solver as a function of its start ----------------------------------------------------


def ddnm_by_matrices(posterior, starts, steps):
    """h(z, y) for every z (K, n): (K, n), model units, by dense matrices and a pseudo-inverse."""
    prior = posterior.prior
    A = dense(posterior.operator, posterior.shape) * prior.scale
    C = prior.covariance
    m = prior.mean.flatten()
    y = posterior.y.flatten() - dense(posterior.operator, posterior.shape) @ torch.full_like(
        m, prior.shift
    )
    pseudo, eye = torch.linalg.pinv(A), torch.eye(len(m), dtype=m.dtype)
    levels = inverse.noise_levels(posterior, "vp", steps).tolist()
    x = levels[0] * starts.double()
    for s, t in pairwise(levels):
        x0 = m + (x - m) @ torch.linalg.solve(C + s * s * eye, C)
        x = x0 + (y - x0 @ A.T) @ pseudo.T + t / s * (x - x0)
    return x


def test_ddnm_without_fresh_noise_is_its_matrix_form(prior):
    posterior = problems()["area"].posterior(draws(prior, 1), prior=prior, dtype=torch.float64)
    starts = torch.stack([candidate(3, k, SHAPE) for k in range(3)])
    expected = prior.decode(ddnm_by_matrices(posterior, starts.flatten(1), 5).reshape(3, *SHAPE))
    torch.testing.assert_close(
        endpoints(deterministic_solver("ddnm", 5), posterior, starts)[0],
        expected,
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("base", BASES)
def test_answer_is_affine_in_the_start(base, prior):
    """h(z) + h(w) - h(0) = h(z + w)."""
    posterior = problems()["area"].posterior(draws(prior, 2), prior=prior, dtype=torch.float64)
    z, w = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    h = endpoints(deterministic_solver(base, 5), posterior, torch.stack([z, w, 0 * z, z + w]))
    torch.testing.assert_close(h[:, 0] + h[:, 1] - h[:, 2], h[:, 3], rtol=0, atol=1e-6)
    assert (h[:, 0] - h[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("base", BASES)
def test_answer_does_not_depend_on_the_seed_and_all_samples_are_equal(base, prior):
    method = inverse.get_method("optimal-bc", base=base, steps=4)
    posterior = problems()["area"].posterior(
        draws(prior, 1).repeat(2, 1, 1, 1), prior=prior, dtype=torch.float64
    )
    posterior.y = posterior.y[:1].repeat(2, 1, 1, 1)
    first, second = (
        inverse.solve(posterior, method, samples=3, seed=seed).samples for seed in (0, 7)
    )
    assert torch.equal(first, second)
    torch.testing.assert_close(
        first, first[:1, :1].expand_as(first), rtol=0, atol=1e-9
    )  # rounding depends on the row


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("daps", "draws fresh noise after its start"),
        ("ddnm:eta=0.5", "draws fresh noise after its start"),
        ("diffpir:zeta=1", "draws fresh noise after its start"),
        ("pigdm:sampler=ancestral", "draws fresh noise after its start"),
        ("tds", "draws at random beside its start"),
        ("sitcom", "fresh noise"),
    ],
)
def test_base_that_is_not_deterministic_is_refused_with_the_reason(base, reason, prior):
    posterior = problems()["blur-circular"].posterior(
        draws(prior, 1), prior=prior, dtype=torch.float64
    )
    with pytest.raises(
        inverse.InverseError, match=f"not a function of a start x_T and y: .*{reason}"
    ):
        inverse.solve(posterior, inverse.get_method("optimal-bc", base=base, steps=3))


def test_settings_reach_the_base():
    solver = deterministic_solver("diffpir:lambda=0.5", 7)
    assert (solver.steps, solver.lambda_, solver.zeta) == (7, 0.5, 0.0)
    assert deterministic_solver("pigdm", 7).sampler == "ddim"


def test_without_a_table_every_image_starts_from_candidate_0(prior):
    posterior = problems()["area"].posterior(draws(prior, 2), prior=prior, dtype=torch.float64)
    found = inverse.solve(posterior, inverse.get_method("optimal-bc", base="ddnm", steps=4))
    assert torch.equal(
        found.samples,
        endpoints(deterministic_solver("ddnm", 4), posterior, candidate(0, 0, SHAPE)[None]),
    )
    assert found.provenance["method"]["derived"] == {"candidate": 0.0, "fitted": 0.0}
    (note,) = found.provenance["notes"]
    command = fit_command_of("sigma_y=0.1 factor=2 filter=area")
    assert note == f"the start is an unfitted random draw; `{command}` fits one for table=FILE"


# --- the search -------------------------------------------------------------------------------


def test_best_candidate_is_that_of_the_closed_form(prior, tmp_path):
    """Three references give one round, in which every candidate is run on all images."""
    found = search(prior, tmp_path, truths=3)
    table = found.run()
    starts = torch.stack([candidate(0, k, SHAPE) for k in range(8)]).flatten(1)
    losses = torch.stack(
        [
            (prior.decode(ddnm_by_matrices(p, starts, 4)) - t.flatten()).square().mean(1).sqrt()
            for p, t in zip(found.posteriors, found.truths, strict=True)
        ]
    ).T
    torch.testing.assert_close(table.scores.double(), losses, rtol=0, atol=1e-6)
    assert table.about["candidate"] == int(losses.mean(1).argmin())
    assert torch.equal(table.x, candidate(0, table.about["candidate"], SHAPE))


def test_choice_is_at_least_as_good_as_every_candidate_explored_on_all_images(prior, tmp_path):
    table = search(prior, tmp_path, truths=8, candidates=16).run()
    complete = table.scores[~table.scores.isnan().any(1)].mean(1)
    assert len(complete) in (
        4,
        5,
    )  # four of the last round, and candidate 0 if it is not among them
    assert table.about["loss"] == pytest.approx(float(complete.min()))
    assert (
        table.about["loss"]
        <= table.about["loss_of_candidate_0"]
        == pytest.approx(float(table.scores[0].mean()))
    )


def test_halving_keeps_its_budget_and_finds_a_candidate_that_is_best_on_every_image():
    losses = (
        torch.rand(64, 16, generator=inverse.seeded("halving")) + torch.arange(64).roll(20)[:, None]
    )
    calls = []

    def explore(alive, images):
        calls.append((len(alive), images))
        seen = torch.full_like(losses, math.nan)
        seen[alive, :images] = losses[alive, :images]
        return seen

    chosen, _ = halving(explore, 64, 16)
    assert chosen == int(losses.mean(1).argmin()) == 20
    assert rounds(64, 16) == [(64, 2), (32, 4), (16, 8), (8, 16)]
    assert [(n - extra, m) for (n, m), extra in zip(calls, (0, 1, 1, 1), strict=True)] == rounds(
        64, 16
    )  # candidate 0 in addition


def test_more_nested_candidates_are_never_worse(prior, tmp_path):
    losses = [
        search(prior, tmp_path / str(k), truths=3, candidates=k, seed=3).run().about["loss"]
        for k in (1, 2, 4, 8, 16)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_tail_is_the_mean_of_the_worst_images():
    losses = torch.tensor([[1.0, 5.0, 3.0, 2.0], [4.0, 4.0, 0.0, 0.0]])
    assert tail_mean(losses, 1.0).tolist() == [2.75, 2.0]
    assert tail_mean(losses, 0.5).tolist() == [4.0, 4.0]
    assert tail_mean(losses, 0.25).tolist() == [5.0, 4.0]


def test_cvar_chooses_by_the_worst_images(prior, tmp_path):
    table = search(prior, tmp_path, truths=3, candidates=16, tail=0.3).run()
    assert table.about["candidate"] == int(table.scores.max(1).values.argmin())


def test_move_changes_one_block_and_keeps_the_norm():
    x = candidate(0, 0, (3, 8, 12))
    for index, (rows, columns) in enumerate(
        [(slice(0, 4), slice(4 * j, 4 * j + 4)) for j in range(3)] + [(slice(4, 8), slice(0, 4))]
    ):
        trial = with_new_block(x, 0, index, 4)
        changed = (trial != x).any(0)
        assert changed[rows, columns].all()
        assert changed.sum() == 16
        assert float(trial.norm()) == pytest.approx(float(x.norm()), rel=1e-6)


def test_refinement_lowers_the_loss_and_keeps_the_norm(prior, tmp_path):
    table = search(prior, tmp_path, truths=3, refine=12, block=4).run()
    about, raw = table.about, candidate(0, table.about["candidate"], SHAPE)
    assert about["moves_accepted"] > 0
    assert about["loss"] < about["loss_before_refinement"]
    assert float(table.x.norm()) == pytest.approx(float(raw.norm()), rel=1e-5)


def test_references_do_not_depend_on_names_and_order(tmp_path, prior):
    problem = inverse.get_problem("super-resolution", factor=2)
    pictures = [pixels(20, 24, seed=s) for s in range(6)]
    network = inverse.FlatPrior((3, None, None))
    chosen = []
    for folder, order in (("a", pictures), ("b", pictures[::-1])):
        (tmp_path / folder).mkdir()
        for i, picture in enumerate(order):
            write_picture(tmp_path / folder / f"{i}.png", picture)
        chosen.append(references(problem, [tmp_path / folder], 4, 16, network))
    assert all(torch.equal(a, b) for a, b in zip(*chosen, strict=True))
    assert chosen[0][0].shape == (3, 16, 16)


# --- expected gain ----------------------------------------------------------------------------


def synthetic(k, r, between, within, generator):
    """Losses (k, r) with candidate effects `between`, image effects 2 and residuals `within`."""
    effects = (between, k, 1), (2.0, 1, r), (within, k, r)
    return sum(
        std * torch.randn(*shape, generator=generator, dtype=torch.float64)
        for std, *shape in effects
    )


def test_analysis_of_variance_recovers_the_simulated_deviations():
    found = anova(synthetic(400, 100, 0.3, 1.0, inverse.seeded("anova")))
    assert found.between == pytest.approx(
        0.3, rel=0.2
    )  # 4 standard errors of a variance from 399 degrees of freedom, with w^2 / R added
    assert found.within == pytest.approx(1.0, rel=0.02)
    assert found.images == pytest.approx(2.0, rel=0.3)


def test_equal_candidates_have_no_gain():
    losses = torch.arange(5.0).expand(7, 5)
    assert anova(losses).between == 0
    assert anova(losses).gain(7, 5) == 0


def test_predicted_gain_is_that_of_simulated_searches():
    """True effect of the best of 32 on 8 images; 2000 searches, 4 standard errors."""
    generator, between, within = inverse.seeded("gain"), 0.5, 1.0
    effects = between * torch.randn(2000, 32, generator=generator, dtype=torch.float64)
    noise = within / math.sqrt(8) * torch.randn(2000, 32, generator=generator, dtype=torch.float64)
    gains = -effects.gather(1, (effects + noise).argmin(1, keepdim=True))[:, 0]
    predicted = Variances(between, within, 2.0).gain(32, 8)
    assert abs(float(gains.mean()) - predicted) < 4 * float(gains.std()) / math.sqrt(2000)


@pytest.mark.parametrize(
    ("count", "value"), [(1, 0.0), (2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi))]
)
def test_expected_maximum_of_normals(count, value):
    assert expected_maximum(count) == pytest.approx(value, abs=1e-6)


# --- sizes ------------------------------------------------------------------------------------


def test_other_sizes_repeat_the_start_periodically():
    x, larger = candidate(0, 0, (3, 8, 8)), tiled(candidate(0, 0, (3, 8, 8)), (3, 12, 20))
    assert larger.shape == (3, 12, 20)
    assert all(
        torch.equal(larger[:, i, j], x[:, i % 8, j % 8]) for i in range(12) for j in range(20)
    )
    assert torch.equal(tiled(x, (3, 5, 6)), x[:, :5, :6])


# --- the table --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(prior, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    table = search(prior, folder, truths=3).run()
    table.save(folder / "table.safetensors")
    return folder / "table.safetensors"


def refused(fitted, posterior, *words, **settings):
    method = inverse.get_method(
        "optimal-bc", **{"base": "ddnm", "steps": 4, "table": fitted, **settings}
    )
    with pytest.raises(inverse.InverseError) as raised:
        inverse.solve(posterior, method)
    message = str(raised.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_saved_table_is_read_back(fitted, prior):
    table = load_table(fitted)
    posterior = problems()["area"].posterior(draws(prior, 2), prior=prior, dtype=torch.float64)
    found = inverse.solve(
        posterior, inverse.get_method("optimal-bc", base="ddnm", steps=4, table=fitted)
    )
    assert torch.equal(
        found.samples, endpoints(deterministic_solver("ddnm", 4), posterior, table.x[None])
    )
    assert found.provenance["method"]["derived"] == {
        "candidate": float(table.about["candidate"]),
        "fitted": 1.0,
    }
    assert "notes" not in found.provenance


def test_table_of_another_solver_is_refused(fitted, prior):
    posterior = problems()["area"].posterior(draws(prior, 1), prior=prior, dtype=torch.float64)
    refused(fitted, posterior, "fitted for ddnm with steps=4", "steps=5 instead of 4", steps=5)
    refused(
        fitted,
        posterior,
        "fitted for ddnm with steps=4",
        "but the solver is diffpir",
        base="diffpir",
    )


def test_table_of_another_prior_is_refused(fitted, prior):
    other = inverse.GaussianPrior(
        prior.mean, 2 * prior.covariance, shift=0.5, scale=0.5, sigma_min=0.01, sigma_max=20.0
    )
    refused(
        fitted,
        problems()["area"].posterior(draws(prior, 1), prior=other, dtype=torch.float64),
        "fitted for the prior GaussianPrior (sha256",
    )


def test_table_of_another_problem_is_refused_with_the_command_that_fits_one(fitted, prior):
    noisier = dataclasses.replace(problems()["area"], sigma_y=0.25).posterior(
        draws(prior, 1), prior=prior, dtype=torch.float64
    )
    command = fit_command_of("sigma_y=0.25 factor=2 filter=area")
    refused(
        fitted,
        noisier,
        f"with sigma_y={problems()['area'].sigma_y}, but this problem has sigma_y=0.25; "
        f"`{command}` makes one that does",
    )
    refused(
        fitted,
        problems()["denoise"].posterior(draws(prior, 1), prior=prior, dtype=torch.float64),
        "for the problem super-resolution, but this one is denoise",
    )


def test_posterior_without_a_problem_accepts_a_table_of_its_solver_and_prior(fitted, prior):
    named = problems()["area"].posterior(draws(prior, 1), prior=prior, dtype=torch.float64)
    nameless = inverse.Posterior(prior, named.operator, named.y, named.noise, dtype=torch.float64)
    assert load_table(fitted).misfit(deterministic_solver("ddnm", 4), nameless) is None


def test_options_stored_as_json_equal_the_original_options(fitted, prior):
    """A tuple is stored as a list, a path as text."""
    posterior = problems()["area"].posterior(draws(prior, 1), prior=prior, dtype=torch.float64)
    solver, problem = deterministic_solver("ddnm", 4), {"name": "x", "options": {"region": [1, 2]}}
    problem["options"]["kernel"] = "k.npy"
    table = dataclasses.replace(load_table(fitted), problem=problem)
    for region, reason in (((1, 2), None), ((1, 3), "with region=1,2, but this problem has")):
        options = {"region": region, "kernel": Path("k.npy")}
        posterior.provenance["problem"] = {"name": "x", "options": options}
        misfit = table.misfit(solver, posterior)
        assert misfit is None if reason is None else reason in misfit


def test_hash_of_a_prior_does_not_depend_on_its_precision(prior):
    assert prior_sha256(image_prior().float()) == prior_sha256(image_prior().float().double())


def test_table_of_another_shape_is_refused(fitted):
    table = load_table(fitted)
    grey = inverse.FlatPrior((1, None, None), shift=0.5, scale=0.5)
    posterior = problems()["area"].posterior(
        torch.rand(1, 1, 8, 8, dtype=torch.float64), prior=grey, dtype=torch.float64
    )
    same_prior = dataclasses.replace(table, prior={"name": "flat", "sha256": prior_sha256(grey)})
    assert (
        same_prior.misfit(deterministic_solver("ddnm", 4), posterior)
        == "it holds a start of shape 3 x 8 x 8, but the image has shape 1 x 8 x 8"
    )


def test_table_of_a_changed_solver_is_refused(fitted, prior):
    """Same name, same options, other answers."""
    table = load_table(fitted)
    posterior = problems()["area"].posterior(draws(prior, 1), prior=prior, dtype=torch.float64)
    assert table.misfit(deterministic_solver("ddnm", 4), posterior) is None
    changed = dataclasses.replace(table, probe=[value + 0.01 for value in table.probe])
    assert "ddnm no longer gives the answers" in changed.misfit(
        deterministic_solver("ddnm", 4), posterior
    )


SHIPPED = shipped_tables()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_table_fits_the_shipped_prior_and_the_current_solver(name):
    table = load_table(name)
    problem = inverse.get_problem(table.problem["name"], **table.problem["options"])
    posterior = problem.posterior(
        torch.rand(3, 64, 64, generator=inverse.seeded(0)), prior=table.prior["name"]
    )
    method = inverse.get_method("optimal-bc", steps=table.method["options"]["steps"])
    assert table.misfit(method.solver, posterior) is None
    assert method.derived(posterior) == {
        "candidate": float(table.about["candidate"]),
        "fitted": 1.0,
    }
    assert torch.equal(
        table.x, candidate(table.about["seed"], table.about["candidate"], table.x.shape)
    )
    n = table.x.numel()
    assert abs(float(table.x.square().mean()) - 1) < 3 * math.sqrt(2 / n)


def test_page_quotes_the_benchmark_records(monkeypatch):
    root = Path(__file__).parents[3]
    monkeypatch.syspath_prepend(str(root / "bench"))
    markdown = importlib.import_module("boundary").markdown
    records = json.loads((root / "results" / "boundary.json").read_text())
    assert markdown(records) in (root / "docs" / "boundary.md").read_text()
    assert {r["table"] for r in records} == set(SHIPPED)
    variants = json.loads((root / "results" / "boundary-variants.json").read_text())
    assert markdown(variants) in (root / "docs" / "boundary.md").read_text()


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def fit(command, tiny_prior, tmp_path):
    """`inverse fit-bc` on six small pictures with the tiny prior."""
    (tmp_path / "photographs").mkdir()
    for i in range(6):
        write_picture(tmp_path / "photographs" / f"{i}.png", pixels(16, 18, seed=i))

    def run(*arguments):
        defaults = {
            "--prior": tiny_prior,
            "--images": "photographs",
            "--candidates": 6,
            "--references": 5,
            "--size": 16,
            "--steps": 2,
            "--out": "t.safetensors",
        }
        given = [
            part
            for option, value in defaults.items()
            if option not in arguments
            for part in (option, value)
        ]
        return command("fit-bc", "--problem-option", "factor=2", *given, *arguments)

    return run


def test_fitted_table_is_used_by_solve(fit, solve, tmp_path):
    outcome = fit("--distance", "ssim")
    assert outcome.code == 0, outcome.err
    assert outcome.path.name == "t.safetensors"
    assert not list(tmp_path.glob("*.checkpoint.*"))
    settings = (
        "--problem",
        "super-resolution",
        "--problem-option",
        "factor=2",
        "--method",
        "optimal-bc",
        "--set",
        "table=t.safetensors",
    )
    write_picture(tmp_path / "x.png", pixels(16, 20))
    assert solve(*settings, "--steps", "2", "--input", "x.png").code == 0
    solve(*settings, "--steps", "3", "--input", "x.png").refused(
        "t.safetensors does not fit", "fitted for diffpir with steps=2", "steps=3 instead of 2"
    )
    solve(*settings, "--steps", "2", "--prior", "photo-64", "--input", "x.png").refused(
        "fitted for the prior tiny", "this one is"
    )
    other = (*settings, "--problem-option", "sigma_y=0.1", "--steps", "2", "--input", "x.png")
    solve(*other).refused(
        "with sigma_y=0.02, but this problem has sigma_y=0.1; `inverse fit-bc",
        "--problem-option sigma_y=0.1 factor=2 --prior tiny",
    )


def test_report_notes_an_unfitted_draw(solve, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / "in" / name, pixels(16, 16))
    note = (
        "the start is an unfitted random draw; `inverse fit-bc --problem super-resolution "
        "--prior tiny --base diffpir --steps 2 --out FILE.safetensors` fits one"
    )
    settings = ("--problem", "super-resolution", "--method", "optimal-bc", "--steps", "2")
    assert f"a.png: {note}" in solve(*settings, "--input", "in/a.png").out
    assert [
        line for line in solve(*settings, "--input", "in").out.splitlines() if note in line
    ] == [f"all 2 inputs: {note} for table=FILE"]


def test_references_have_the_size_of_the_training_crops_of_the_prior(command, tmp_path):
    save_prior(tiny_network(), tmp_path / "small.safetensors", training={"crop": 16})
    (tmp_path / "photographs").mkdir()
    write_picture(tmp_path / "photographs" / "a.png", pixels(16, 18))
    write_picture(tmp_path / "photographs" / "b.png", pixels(18, 16))
    settings = (
        "--problem-option",
        "factor=2",
        "--prior",
        "small.safetensors",
        "--images",
        "photographs",
        "--candidates",
        1,
        "--references",
        2,
        "--steps",
        2,
    )
    outcome = command("fit-bc", *settings, "--out", "t.safetensors")
    assert outcome.code == 0, outcome.err
    table = load_table("t.safetensors")
    assert (table.x.shape, table.about["size"]) == ((3, 16, 16), 16)


def test_folder_of_the_table_is_created(fit):
    assert fit("--out", "new/folder/t.safetensors").code == 0


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "stop",
    [interrupt, *(partial(signal.raise_signal, n) for n in (signal.SIGTERM, signal.SIGINT))],
)
def test_interrupted_fit_resumes_to_the_same_table(fit, monkeypatch, stop):
    whole = fit("--refine", "3", "--out", "whole.safetensors")
    assert whole.code == 0, whole.err
    measure, calls = Search.measure, []

    def interrupted(self, starts, image):
        calls.append(image)
        if len(calls) in (3, 9):
            stop()
        return measure(self, starts, image)

    monkeypatch.setattr(Search, "measure", interrupted)
    codes = [fit("--refine", "3").code for _ in range(3)]
    assert codes == [130, 130, 0]
    first, second = (load_table(name) for name in ("whole.safetensors", "t.safetensors"))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.scores.nan_to_num(), second.scores.nan_to_num())
    assert first.about["loss"] == second.about["loss"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:40],
        lambda data: b"",
        lambda data: data.replace(b'"moves":"', b'"mooes":"'),
        lambda data: data.replace(b'"refined_losses"', b'"refined_l0sses"'),
    ],
)
def test_a_damaged_checkpoint_is_one_line(fit, monkeypatch, tmp_path, damage):
    monkeypatch.setattr(Search, "refine", lambda self: interrupt())
    assert fit("--refine", "3").code == 130
    checkpoint = tmp_path / "t.checkpoint.safetensors"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    fit("--refine", "3").refused("t.checkpoint.safetensors is damaged", "delete it to start again")


def test_lpips_needs_the_weights_of_the_user_and_the_table_names_them(fit, monkeypatch, tmp_path):
    monkeypatch.delenv("INVERSE_LPIPS_WEIGHTS", raising=False)
    fit("--distance", "lpips").refused("INVERSE_LPIPS_WEIGHTS is not set")
    assert not list(tmp_path.glob("*.safetensors"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(
            quietly_imported("torchvision.models").squeezenet1_1(weights=None).state_dict(),
            tmp_path / "random.pth",
        )
    monkeypatch.setenv("INVERSE_LPIPS_WEIGHTS", str(tmp_path / "random.pth"))
    (tmp_path / "large").mkdir()
    for i in range(2):
        write_picture(tmp_path / "large" / f"{i}.png", pixels(32, 32, seed=i))
    outcome = fit(
        "--distance",
        "lpips",
        "--size",
        "32",
        "--images",
        "large",
        "--candidates",
        "2",
        "--references",
        "2",
    )
    assert outcome.code == 0, outcome
    about = load_table("t.safetensors").about
    assert (about["distance"], about["distance_version"][:8]) == ("lpips", "squeeze ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--base", "ddmm"), ("method 'ddmm' is not known", "did you mean")),
        (("--base", "tv"), ("base 'tv' is not a function of a start", "it starts from y")),
        (("--base", "pseudo-inverse"), ("pseudo-inverse has no option 'steps'",)),
        (("--base", "daps"), ("base 'daps' is not a function of a start",)),
        (("--base", "ddnm:eta"), ("name=value", "'eta'")),
        (("--candidates", "0"), ("candidates must be at least 1, got 0",)),
        (("--tail", "0"), ("tail must lie in (0, 1], got 0",)),
        (("--references", "7"), ("asked for 7 references, found 6",)),
        (("--size", "40"), ("none of at least 40x40",)),
        (("--images", "nowhere"), ("nowhere: no such file",)),
        (("--distance", "ms-ssim"), ("ms-ssim has no value", "3 x 16 x 16")),
        (("--distance", "lipips"), ("metric 'lipips' is not known",)),
        (("--out", "table.json"), (".safetensors, got 'table.json'",)),
        (("--problem", "gaussian"), ("gaussian has no option 'factor'",)),
        (("--dtype", "half"), ("dtype must be one of", "'half'")),
    ],
)
def test_bad_input_to_a_fit_is_refused_in_one_line(fit, arguments, words, tmp_path):
    fit(*arguments).refused(*words)
    assert not list(tmp_path.glob("*.safetensors"))


def test_file_that_is_not_a_table_is_refused_in_one_line(solve, tmp_path, tiny_prior):
    settings = (
        "--problem",
        "super-resolution",
        "--method",
        "optimal-bc",
        "--input",
        write_picture(tmp_path / "x.png", pixels(16, 16)),
    )
    solve(*settings, "--set", "table=missing").refused("boundary table missing: no such file")
    solve(*settings, "--set", f"table={tiny_prior}").refused("not a table of `inverse fit-bc`")
    (tmp_path / "noise.safetensors").write_bytes(b"\0" * 40)
    solve(*settings, "--set", "table=noise.safetensors").refused("not a table of `inverse fit-bc`")
    solve(*settings, "--set", "base=ddmm").refused("method 'ddmm' is not known")


def test_checkpoint_of_another_fit_is_refused(prior, tmp_path):
    first = search(prior, tmp_path, truths=3)
    first.save()
    assert isinstance(search(prior, tmp_path, truths=3).run(), Table)
    with pytest.raises(inverse.InverseError, match="belongs to other settings"):
        search(prior, tmp_path, truths=3, candidates=9)
