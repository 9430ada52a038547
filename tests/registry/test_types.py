"""Every annotation of an option is converted, or its plug-in is refused."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NewType

import numpy as np
import pytest

from inverse.errors import OptionError
from inverse.registry.options import build, mistake, text, values
from inverse.registry.types import Range, convert, untyped

Count = NewType("Count", int)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (list[int], "3,4", [3, 4]),
        (list[int], "[3, 4]", [3, 4]),
        (list, "a,b", ["a", "b"]),
        (list[float], "()", []),
        (set[int], "3,3,4", {3, 4}),
        (frozenset[str], "a", frozenset("a")),
        (Sequence[int], [1, 2], (1, 2)),
        (tuple[int, float], "3,.5", (3, 0.5)),
        (tuple[int, ...], np.array([1, 2]), (1, 2)),
        (tuple[int, int] | None, "none", None),
        (dict[str, int], "a:1,b:2", {"a": 1, "b": 2}),
        (dict, "x:1", {"x": "1"}),
        (Colour, "blue", Colour.BLUE),
        (Colour, "BLUE", Colour.BLUE),
        (Level, "2", Level.HIGH),
        (Level, "low", Level.LOW),
        (Colour | None, "auto", None),
        (list[Colour], "red,blue", [Colour.RED, Colour.BLUE]),
        (np.float64, "0.7", np.float64(0.7)),
        (np.int32, "7", np.int32(7)),
        (np.bool_, "yes", np.True_),
        (Literal["a", 3], "3", 3),
        (int | str, "x", "x"),
        (Count, "5", 5),
        (float, np.float32(0.5), 0.5),
        (int, np.int64(5), 5),
        (Annotated[int, Range(1, 9)], "9", 9),
        (Annotated[float, Range(above=0)] | None, "auto", None),
        (Path, "a/b", Path("a/b")),
    ],
)
def test_a_value_takes_the_type_of_its_annotation(hint, value, expected):
    found = convert(value, hint, "odd: a")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "words"),
    [
        (tuple[int, int], "3,4,5", "must have 2 values, got 3"),
        (list[int], "3,x", "must be an integer, got 'x'"),
        (dict[str, int], "a", "must be key:value pairs"),
        (dict[str, int], "a:b", "must be an integer"),
        (Colour, "purple", "must be one of red, blue, got 'purple'"),
        (np.int8, "300", "must be an integer"),
        (np.float32, "x", "must be a number"),
        (int, "99999999999999999999", "below 2^63"),
        (float, "1e-300", "magnitude 1e-30 to 1e"),
        (float, "-1e99", "magnitude"),
        (float, "nan", "must be a number"),
        (Annotated[int, Range(1, 9)], "0", "must be at least 1 and at most 9, got 0"),
        (Annotated[float, Range(0, below=1)], "1", "must be at least 0 and below 1, got 1"),
        (Annotated[float, Range(above=0)] | None, "0", "must be positive, got 0"),
        (Callable[[], int] | None, "x", "must be"),
        (dict[str, float], 3, "key:value"),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(hint, value, words):
    with pytest.raises(OptionError) as caught:
        convert(value, hint, "odd: a")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hint", [bytes, Callable[[], int], list[bytes], complex, type[int]])
def test_a_type_that_no_text_gives_is_named(hint):
    assert untyped(hint)


@dataclass(frozen=True)
class Odd:
    name = "odd"
    a: list[int] = field(default_factory=lambda: [1])
    fixed: int = field(default=5, init=False)


def test_a_field_outside_init_is_no_option():
    assert values(build(Odd, {"a": "2,3"})) == {"a": [2, 3]}
    with pytest.raises(Exception, match="odd has no option 'fixed'"):
        build(Odd, {"fixed": "6"})


def test_lists_enums_and_dicts_print_as_they_are_read():
    assert text([1, 2]) == "1,2"
    assert text(Colour.RED) == "red"
    assert text({"a": 1}) == "a:1"


def test_an_error_of_the_class_itself_is_one_line_with_its_file():
    @dataclass(frozen=True)
    class Picky:
        name = "picky"
        a: int = 1

        def __post_init__(self):
            raise ValueError("a must be odd\nreally")

    with pytest.raises(OptionError, match=r"picky \(.*test_types\.py\): a must be odd$"):
        build(Picky, {})


def test_mistakes_of_a_class_are_named():
    @dataclass(frozen=True)
    class Required:
        a: int

    @dataclass(frozen=True)
    class Raw:
        a: bytes = b""

    @dataclass(frozen=True)
    class Unknown:
        a: "Missing" = 1  # noqa: F821

    @dataclass(frozen=True)
    class Base:
        a: int = 1

    class Forgotten(Base):
        b: int = 2

    assert "option a has no default" in mistake(Required)
    assert "option a has the type bytes" in mistake(Raw)
    assert "'Missing' is not defined" in mistake(Unknown)
    assert "declares b but is not decorated" in mistake(Forgotten)
    assert "is not a dataclass" in mistake(lambda: 1)
    assert mistake(Base) is None
    assert mistake(Any)
