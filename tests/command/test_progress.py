"""What `inverse solve` says while it runs: a forecast, a line every half minute, tiles."""

from __future__ import annotations

import re
import time

import pytest
import torch
from cli_fixtures import pixels, tiny_network, write_picture

import inverse
from inverse.command import progress as module
from inverse.command.inputs import Input
from inverse.command.progress import duration, forecast, progress


@pytest.fixture
def posterior():
    problem = inverse.get_problem("denoise")
    return problem.posterior(y=torch.rand(1, 3, 64, 96), prior=tiny_network())


def test_a_long_solve_is_announced_with_time_and_memory(posterior, monkeypatch):
    monkeypatch.setattr(module, "QUICK", 0)
    assert forecast(posterior, inverse.get_method("dps", steps=2), 1) is None
    said = forecast(posterior, inverse.get_method("dps", steps=10**6), 1)
    assert re.search(r"about [\d.]+ (minutes|hours|days) or more for 64x96 pixels", said)
    assert re.search(r"1000000 steps; [\d.]+ GiB for an image at once", said)


def test_a_forecast_does_not_change_the_answer_or_its_cost(posterior, monkeypatch):
    method = inverse.get_method("dps", steps=3)
    plain = inverse.solve(posterior, method)
    monkeypatch.setattr(module, "QUICK", 0)
    monkeypatch.setattr(module, "EVERY", 0)
    assert forecast(posterior, method, 1) is not None
    after = inverse.solve(posterior, method)
    assert torch.equal(plain.samples, after.samples)
    assert plain.cost == after.cost


def test_off_a_terminal_there_is_a_line_every_half_minute(tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 10**6, 16))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    item = Input(0, tmp_path / "a.png", tmp_path, inverse.get_problem("denoise"))
    with progress([item], 1) as observe:
        for step in range(1, 9):
            observe(step, 8, torch.zeros(()), lambda: 1.5, 10 * step)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == (
        "inverse: a.png: step 2/8  chi2 1.5  20 prior evaluations, 1.6 minutes left"
    )


def test_unknown_totals_are_not_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "EVERY", 0)
    item = Input(0, tmp_path / "a.png", tmp_path, inverse.get_problem("denoise"))
    with progress([item], 1) as observe:
        observe(1, None, torch.zeros(()), lambda: 1.5, 10)
    assert "None" not in capsys.readouterr().err


def test_tiles_are_counted_between_steps(solve, tmp_path, monkeypatch):
    """With 0.005 GiB a picture of 300 pixels takes several tiles."""
    monkeypatch.setattr(module, "EVERY", 0)
    picture = write_picture(tmp_path / "a.png", pixels(300, 300))
    outcome = solve("--input", picture, "--method", "dps", "--steps", "2", "--memory", "0.005")
    assert outcome.code == 0, outcome
    assert re.search(r"step 0, then tile 1/\d+", outcome.err)
    assert re.search(r"step 1/2, then tile \d+/\d+", outcome.err)
    assert "None" not in outcome.err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(31, "31 seconds"), (89, "89 seconds"), (90, "1.5 minutes"), (7200, "2 hours")],
)
def test_durations_are_words(seconds, words):
    assert duration(seconds) == words


def test_a_solve_that_fails_at_once_is_not_announced(monkeypatch, capsys):
    monkeypatch.setattr(module, "LATER", 0.05)
    with module.said_later("quick"):
        pass
    with module.said_later("slow"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "slow\n"
