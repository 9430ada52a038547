"""The concept of a metric, and a metric that one plug-in adds."""

from __future__ import annotations

import re

import pytest
from cli_fixtures import write_distribution, write_picture

import inverse
from inverse.errors import PluginError
from inverse.metrics.registered import find_metric, registered_metrics
from inverse.metrics.shipped import METRICS
from inverse.registry.discovery import registry

pytest_plugins = "cli_fixtures"

PLUGIN = """
import inverse

def contrast(result):
    return float(result.mean.max() - result.mean.min())

def darkest(result):
    return float(result.mean.min())

@inverse.hookimpl
def inverse_metrics():
    return {
        "contrast": inverse.Metric(contrast, "contrast", "higher", digits=4, shown=True),
        "darkest": darkest,
    }
"""
SUITE = """
truths = [0]
metrics = ["rmse", "darkest", "contrast"]
problems = [{ name = "gaussian" }]
methods = [{ name = "pseudo-inverse" }, { name = "tv" }]
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "contrast.py"
    path.write_text(PLUGIN)
    return path


def test_a_plug_ins_metric_is_a_column_of_the_table_of_solve(solve, plugin, tmp_path):
    write_picture(tmp_path / "a.png")
    outcome = solve("--plugin", plugin, "--input", "a.png")
    assert outcome.code == 0, outcome.err
    headings = next(line for line in outcome.out.splitlines() if "SSIM" in line)
    columns = re.split(r"\s{2,}", headings.strip())
    scores = ["PSNR (dB)", "SSIM", "residual chi2", "contrast"]
    expected = ["input", "problem", "method", *scores, "prior evaluations", "vjps", "seconds"]
    assert [column for column in columns if column in expected] == expected
    row = next(line for line in outcome.out.splitlines() if "pseudo-inverse" in line)
    result = inverse.Result.load(outcome.path / "result.h5")
    assert row.split()[6] == f"{float(result.mean.max() - result.mean.min()):.4f}"


def test_the_table_of_fields_has_errors_in_place_of_similarities(command):
    outcome = command("solve", "--problem", "atmosphere", "--method", "pseudo-inverse")
    assert outcome.code == 0, outcome.err
    headings = next(line for line in outcome.out.splitlines() if "RMSE" in line)
    scores = re.split(r"\s{2,}", headings.strip())[3:-3]
    assert scores[:3] == ["RMSE", "CRPS", "residual chi2"]
    assert not {"PSNR (dB)", "SSIM"} & set(scores)


def test_a_plug_ins_metric_is_ranked_in_the_report_of_bench(command, tmp_path, monkeypatch):
    files, entry_points = {"outside_contrast.py": PLUGIN}, {"contrast": "outside_contrast"}
    write_distribution(tmp_path / "site", "outside-contrast", files, entry_points)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "suite.toml").write_text(SUITE)
    done = command("bench", "run", "suite.toml", "--out", "records")
    assert done.code == 0, done.err
    registry.cache_clear()
    assert command("bench", "report", "records").code == 0
    header, _, *rows = [
        line
        for line in (tmp_path / "records/report.md").read_text().splitlines()
        if line[:1] == "|"
    ]
    assert "| RMSE \u2193 | contrast \u2191 | darkest |" in header
    columns = [cell.strip() for cell in header.split("|")]
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    contrasts = [row[columns.index("contrast \u2191")] for row in cells]
    assert sorted(text.startswith("**") for text in contrasts) == [False, True]
    best = max(contrasts, key=lambda text: float(text.strip("*")))
    assert best.startswith("**")
    assert not any("*" in row[columns.index("darkest")] for row in cells)


def test_metrics_of_plug_ins_follow_those_of_the_package(plugin, fresh_registry):
    registry().load_file(plugin)
    names = list(registered_metrics())
    assert names[: len(METRICS)] == list(METRICS)
    assert {"contrast", "darkest"} <= set(names[len(METRICS) :])
    assert find_metric("psnr") is METRICS["psnr"]


def test_a_bare_function_is_a_metric_without_direction(plugin, fresh_registry):
    registry().load_file(plugin)
    metric = find_metric("darkest")
    assert (metric.label, metric.better, metric.shown, metric.cost) == (
        "darkest",
        None,
        False,
        "low",
    )


def test_ready_and_version_are_those_of_the_function():
    class Scored:
        version = "7"

        def __call__(self, result):
            return 0.0

        def ready(self):
            raise inverse.InverseError("no weights")

    metric = inverse.Metric(Scored(), "scored")
    assert metric.version == "7"
    with pytest.raises(inverse.InverseError, match="no weights"):
        metric.ready()
    plain = inverse.Metric(lambda result: 0.0, "plain")
    assert plain.version is None
    plain.ready()


def test_a_direction_that_is_none_is_refused():
    with pytest.raises(PluginError, match=r"metric 'x': better must be 'higher', .* got 'up'"):
        inverse.Metric(lambda result: 0.0, "x", "up")


def test_shipped_metrics_have_a_direction():
    assert all(metric.better is not None for metric in METRICS.values())


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("psnr", 30, 20),
        ("rmse", 0.1, 0.2),
        ("misfit", 1.05, 0.0),
        ("misfit", 0.9, 1.2),
        ("coverage", 0.8, 1.0),
        ("spread-skill", 1.1, 0.8),
    ],
)
def test_the_better_value_has_the_smaller_loss(name, good, bad):
    assert METRICS[name].loss(good) < METRICS[name].loss(bad)


def test_an_ideal_may_be_a_whole_number():
    metric = inverse.Metric(lambda result: 0.0, "x", 1)
    assert metric.loss(1.5) == metric.loss(0.5) == 0.5
