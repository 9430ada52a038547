"""Dataclass fields as options: every type parses, and every mistake has a one-line message."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import inverse
from inverse.errors import OptionError, UnknownNameError
from inverse.registry.options import build, options, text, values


@dataclass(frozen=True)
class Base:
    """A base.

    Args:
        inherited: from the base.
    """

    inherited: int = 7


@dataclass(frozen=True)
class Everything(Base):
    """Every type an option may have.

    Args:
        whole: an integer, which
            goes on here.
        real: a number.
        flag: a truth value.
        text, path: two at once.
    """

    name = "everything"

    whole: int = 1
    real: float = 0.5
    flag: bool = False
    text: str = "a"
    path: Path = Path("x")
    choice: Literal["red", "blue"] = "red"
    factor: Literal[2, 4] = 4
    maybe: float | None = None
    either: int | str = 1
    many: tuple[int, ...] = (1, 2)
    lambda_: float = 0.25
    two_words: int = 3


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("whole", "12", 12),
        ("whole", "-3", -3),
        ("whole", 5, 5),
        ("whole", 3.0, 3),
        ("real", "0.25", 0.25),
        ("real", "1e-3", 1e-3),
        ("real", 2, 2.0),
        ("real", "inf", float("inf")),
        ("flag", "true", True),
        ("flag", "Yes", True),
        ("flag", "on", True),
        ("flag", "1", True),
        ("flag", True, True),
        ("flag", "false", False),
        ("flag", "NO", False),
        ("flag", "off", False),
        ("flag", "0", False),
        ("flag", False, False),
        ("text", "b=c", "b=c"),
        ("text", "", ""),
        ("text", Path("p"), "p"),
        ("path", "a/b", Path("a/b")),
        ("path", Path("a"), Path("a")),
        ("choice", "blue", "blue"),
        ("factor", "2", 2),
        ("factor", 4, 4),
        ("maybe", "0.5", 0.5),
        ("maybe", "none", None),
        ("maybe", "auto", None),
        ("maybe", None, None),
        ("either", "3", 3),
        ("either", "three", "three"),
        ("many", "4,8,16", (4, 8, 16)),
        ("many", "4", (4,)),
        ("many", [1, 2], (1, 2)),
        ("lambda", "2", 2.0),
        ("lambda_", "2", 2.0),
        ("two-words", "9", 9),
        ("two_words", "9", 9),
        ("inherited", "8", 8),
    ],
)
def test_value_is_parsed_by_the_type_of_its_field(name, given, expected):
    parsed = values(build(Everything, {name: given}))[name.replace("-", "_").rstrip("_")]
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("whole", "1.5", "an integer"),
        ("whole", "1e3", "an integer"),
        ("whole", "", "an integer"),
        ("whole", 1.5, "an integer"),
        ("whole", True, "an integer"),
        ("whole", "inf", "an integer"),
        ("whole", None, "an integer"),
        ("real", "abc", "a number"),
        ("real", "nan", "a number"),
        ("real", "1,5", "a number"),
        ("real", True, "a number"),
        ("real", None, "a number"),
        ("flag", "maybe", "true or false"),
        ("flag", "2", "true or false"),
        ("flag", "", "true or false"),
        ("text", 3, "text"),
        ("path", 3, "a path"),
        ("choice", "green", "one of red, blue"),
        ("factor", "3", "one of 2, 4"),
        ("factor", "", "one of 2, 4"),
        ("maybe", "some", "a number"),
        ("many", "1,x", "an integer"),
        ("many", "", "an integer"),
        ("many", "1,,2", "an integer"),
    ],
)
def test_wrong_value_says_what_was_wanted_and_got(name, given, wanted):
    with pytest.raises(OptionError) as caught:
        build(Everything, {name: given})
    message = str(caught.value)
    assert message.startswith(f"everything: {name} must be ")
    assert wanted in message
    assert "got '" in message
    assert "\n" not in message


def test_unknown_name_offers_the_closest_then_the_list():
    with pytest.raises(
        UnknownNameError,
        match=r"everything has no option 'hole'; did you mean 'whole'\? "
        r"known: choice, either, .*lambda, .*whole",
    ):
        build(Everything, {"hole": "1"})


def test_unknown_name_with_nothing_close_offers_the_list_alone():
    with pytest.raises(UnknownNameError, match=r"everything has no option 'zzz'; known: "):
        build(Everything, {"zzz": "1"})


def test_options_are_described_from_fields_and_docstrings():
    described = {option.name: option for option in options(Everything)}
    assert next(iter(described)) == "inherited"
    assert described["inherited"].help == "from the base."
    assert described["whole"].help == "an integer, which goes on here."
    assert described["text"].help == described["path"].help == "two at once."
    types = {name: option.type for name, option in described.items()}
    assert types == {
        "inherited": "an integer",
        "whole": "an integer",
        "real": "a number",
        "flag": "true or false",
        "text": "text",
        "path": "a path",
        "choice": "red | blue",
        "factor": "2 | 4",
        "maybe": "a number or auto",
        "either": "an integer or text",
        "many": "an integer,...",
        "lambda": "a number",
        "two_words": "an integer",
    }
    assert described["lambda"].default == 0.25
    assert described["maybe"].default is None


def test_values_are_what_build_takes():
    thing = Everything(whole=3, many=(5,), lambda_=1.0)
    assert build(Everything, values(thing)) == thing


@pytest.mark.parametrize("hook", ["inverse_methods", "inverse_problems"])
def test_every_registered_option_is_explained(hook):
    from inverse.registry.discovery import registry

    silent = [
        f"{name}.{option.name}"
        for name, entry in registry().table(hook).items()
        for option in options(entry.thing)
        if not option.help
    ]
    assert silent == []


@pytest.mark.parametrize("hook", ["inverse_methods", "inverse_problems"])
def test_every_registered_default_survives_the_command_line(hook):
    """A default printed by `inverse methods NAME` and given back as text is the same default."""
    from inverse.registry.discovery import registry

    for name, entry in registry().table(hook).items():
        defaults = {option.name: text(option.default) for option in options(entry.thing)}
        assert build(entry.thing, defaults) == entry.thing(), name


@pytest.mark.parametrize(
    ("method", "option", "value", "says"),
    [
        ("dps", "steps", 99999999999999999999, "steps must be an integer below 2^63"),
        ("dps", "steps", 10**7 + 1, "steps must be at most 10000000, got 10000001"),
        ("red-diff", "beta1", -1, "beta1 must be at least 0 and below 1, got -1"),
        ("red-diff", "beta2", 1, "beta2 must be at least 0 and below 1, got 1"),
        ("diffpir", "lambda", 1e-300, "lambda must be 0 or of magnitude"),
        ("red-map", "lr", "inf", "lr must be at most 1000000000, got inf"),
        ("daps", "tau", -1, "tau must be positive, got -1"),
    ],
)
def test_options_of_methods_lie_in_declared_ranges(method, option, value, says):
    with pytest.raises(OptionError, match=re.escape(says)):
        inverse.get_method(method, **{option: value})


def test_a_range_holds_for_an_instance_built_in_python():
    method = inverse.get_method("red-diff")
    with pytest.raises(OptionError, match="beta1 must be at least 0 and below 1, got -1"):
        dataclasses.replace(method, beta1=-1.0)
