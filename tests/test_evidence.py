"""Candidates weighed by their evidence: exact on conjugate problems."""

import json

import pytest
import torch

import inverse
from inverse.errors import InputError, OptionError, UnsupportedError

pytest_plugins = "cli_fixtures"
LEVELS = (0.1, 0.2, 0.4)


def problems():
    return {f"{level:g}": inverse.get_problem("gaussian", sigma_y=level) for level in LEVELS}


def posteriors(y=None):
    y = problems()["0.2"].posterior(dtype=torch.float64).y[0] if y is None else y
    return {name: p.posterior(y=y, dtype=torch.float64) for name, p in problems().items()}


def test_weights_and_the_averaged_mean_are_the_exact_ones():
    candidates = posteriors()
    y = candidates["0.1"].y[0]
    found = inverse.compare(
        candidates, inverse.get_method("smc-mmps", particles=16), samples=16, repetitions=4
    )
    exact = [p.exact(y) for p in problems().values()]
    evidence = torch.tensor([e.log_evidence for e in exact], dtype=torch.float64)
    gap = (found.log_evidence - evidence).abs()
    assert bool((gap < 5 * found.error + 0.05).all()), (gap, found.error)
    weights = evidence.softmax(0)
    torch.testing.assert_close(found.weights, weights, atol=0.15, rtol=0)
    mean = sum(w * e.mean.flatten().double() for w, e in zip(weights, exact, strict=True))
    spread = max(float(e.covariance.diagonal().mean().sqrt()) for e in exact)
    error = (found.answer.mean[0].flatten() - mean).square().mean().sqrt()
    assert float(error) < 0.5 * spread
    assert found.answer.samples.shape[1] == 3 * 4 * 16
    assert float(found.answer.weights.sum()) == pytest.approx(1, abs=1e-5)


def test_equal_candidates_have_equal_weights_within_their_error():
    one = posteriors()["0.2"]
    found = inverse.compare({"a": one, "b": one}, "smc-mmps", repetitions=2)
    assert found.weights.tolist() == pytest.approx([0.5, 0.5])  # the seeds are the same


def test_what_cannot_be_compared_is_refused():
    candidates = posteriors()
    with pytest.raises(OptionError, match="at least 2 candidates and 2 repetitions"):
        inverse.compare({"a": candidates["0.1"]}, "smc-mmps")
    with pytest.raises(UnsupportedError, match=r"mmps estimates no log p\(y\)"):
        inverse.compare(candidates, inverse.get_method("mmps", steps=2))
    other = posteriors(candidates["0.1"].y[0] + 1)["0.2"]
    with pytest.raises(InputError, match="another measurement"):
        inverse.compare({"a": candidates["0.1"], "b": other}, "smc-mmps")


def test_the_command_weighs_every_combination(command, tmp_path):
    done = command(
        *("compare", "--problem", "gaussian", "--problem-option", "sigma_y=0.05,0.2"),
        *("--set", "steps=10", "--samples", "2", "--repetitions", "2", "--json", "--out", "out"),
    )
    assert done.code == 0, done
    record = json.loads(done.out)
    assert [c["name"] for c in record["candidates"]] == ["sigma_y=0.05", "sigma_y=0.2"]
    assert sum(c["weights"] for c in record["candidates"]) == pytest.approx(1)
    assert (tmp_path / "out" / "comparison.json").exists()
    assert inverse.Result.load(tmp_path / "out" / "result.h5").samples.shape[1] == 8


def test_one_candidate_is_refused(command):
    command("compare", "--problem-option", "sigma_y=0.1").refused("at least 2 candidates")
