"""Requests: one declaration of options for the command line, Python and the help."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from inverse.command.request import DiagnosisRequest, Request, options_from
from inverse.errors import OptionError

pytest_plugins = "cli_fixtures"


def parsed(*arguments: str) -> Request:
    """The request that typer builds from command-line arguments."""
    requests: list[Request] = []
    app = typer.Typer()
    app.command()(options_from(Request)(requests.append))
    outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return requests[0]


def test_no_arguments_give_the_defaults_of_the_fields():
    assert parsed() == Request()


def test_arguments_reach_their_fields():
    given = parsed(
        *("--problem", "denoise", "--method", "dps", "--input", "a.png", "--input", "b.png"),
        *("--problem-option", "sigma_y=0.1", "--set", "eta=1", "--steps", "3", "--seed", "7"),
        *("--memory", "0.5", "--batch", "2", "--out", "o", "--parallel", "patches"),
        *("--compile", "--resume", "--json", "--plugin", "p.py", "--prior", "tiny"),
        *("--samples", "4", "--device", "cuda", "--dtype", "bf16"),
    )
    assert given == Request(
        problem="denoise",
        method="dps",
        input=[Path("a.png"), Path("b.png")],
        problem_option=["sigma_y=0.1"],
        method_option=["eta=1"],
        steps=3,
        prior="tiny",
        samples=4,
        seed=7,
        device="cuda",
        dtype="bf16",
        compile=True,
        memory=0.5,
        batch=2,
        out=Path("o"),
        resume=True,
        parallel="patches",
        as_json=True,
        plugin=[Path("p.py")],
    )
    assert given.method_options == {"eta": "1", "steps": 3}
    assert given.problem_options == {"sigma_y": "0.1"}


def test_measurements_are_the_files():
    given = parsed("--measurement", "y.npy")
    assert (given.files, given.measured) == ([Path("y.npy")], True)
    given = parsed("--input", "x.npy")
    assert (given.files, given.measured) == ([Path("x.npy")], False)


def test_ground_truths_and_measurements_exclude_each_other():
    with pytest.raises(OptionError, match=r"either --input .* or --measurement .*, not both"):
        Request(input=[Path("x.npy")], measurement=[Path("y.npy")])


@pytest.mark.parametrize(("name", "request_"), [("solve", Request), ("diagnose", DiagnosisRequest)])
def test_the_help_lists_the_fields_in_order(command, name, request_):
    help_text = command(name, "--help").out.replace(",", " ")
    words = [word for word in help_text.split() if word.startswith("--")]
    renamed = {"method_option": "--set", "as_json": "--json"}
    expected = [
        renamed.get(field.name, f"--{field.name.replace('_', '-')}") for field in fields(request_)
    ]
    listed = list(dict.fromkeys(word for word in words if word in expected))
    assert listed == expected
