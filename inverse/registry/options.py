"""Dataclass fields as options: one declaration for Python, the command line and the records.

A field whose name is a Python keyword ends in an underscore (`lambda_`); its public name does not.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from pathlib import Path
from typing import Any

from inverse.errors import OptionError, UnknownNameError, suggestion

TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@dataclasses.dataclass(frozen=True)
class Option:
    """An option: public name, type in words, default, and description from the class docstring."""

    name: str
    type: str
    default: Any
    help: str


def options(cls: type) -> list[Option]:
    """The options of a frozen dataclass, in the order of its fields."""
    hints, helps = typing.get_type_hints(cls), _argument_docs(cls)
    return [
        Option(
            f.name.rstrip("_"),
            _words(hints[f.name]),
            f.default if f.default is not dataclasses.MISSING else None,
            helps.get(f.name, ""),
        )
        for f in dataclasses.fields(cls)
    ]


def build(cls: type, values: dict[str, Any]) -> Any:
    """Build a frozen dataclass from values by public name; text is parsed by the field's type.

    Raises: UnknownNameError for a name that is not an option; OptionError for a value that the
        option's type does not admit.
    """
    fields = {f.name.rstrip("_"): f.name for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    label = getattr(cls, "name", cls.__name__)
    arguments = {}
    for name, value in values.items():
        key = name.replace("-", "_").rstrip("_")
        if key not in fields:
            raise UnknownNameError(f"{label} has no option '{name}'; {suggestion(key, fields)}")
        arguments[fields[key]] = convert(value, hints[fields[key]], f"{label}: {name}")
    return cls(**arguments)


def values(instance: Any) -> dict[str, Any]:
    """Values of all options by public name, as records store them."""
    return {f.name.rstrip("_"): getattr(instance, f.name) for f in dataclasses.fields(instance)}


def text(value: Any) -> str:
    """A value as text that the command line parses back to the value."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "()"
    return "auto" if value is None else str(value)


def convert(value: Any, hint: Any, where: str) -> Any:
    """Convert a value or its text to the type that a hint names.

    Args:
        hint: a type, a union, a `Literal` or a tuple type.
        where: the beginning of an error message, such as "dps: steps".

    Raises: OptionError if the type does not admit the value.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None or (
            isinstance(value, str) and value.lower() in ("none", "auto") and types.NoneType in args
        ):
            return None
        alternatives = [a for a in args if a is not types.NoneType]
        for alternative in alternatives[:-1]:
            try:
                return convert(value, alternative, where)
            except OptionError:
                continue
        return convert(value, alternatives[-1], where)
    if origin is typing.Literal:
        allowed = {str(a): a for a in args}
        if str(value) not in allowed:
            raise OptionError(f"{where} must be one of {', '.join(allowed)}, got '{value}'")
        return allowed[str(value)]
    if origin is tuple:
        parts = (
            ()
            if value == "()"
            else value.split(",")
            if isinstance(value, str)
            else value
            if isinstance(value, list | tuple)
            else (value,)
        )
        return tuple(convert(part, args[0], where) for part in parts)
    try:
        return _SCALARS[hint](value) if hint in _SCALARS else value
    except (ValueError, TypeError, OverflowError) as error:
        raise OptionError(f"{where} must be {_words(hint)}, got '{value}'") from error


def _int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    return int(value)


def _float(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or number != number:
        raise ValueError(value)
    return number


def _bool(value: Any) -> bool:
    word = str(value).lower()
    if word not in TRUE | FALSE:
        raise ValueError(value)
    return word in TRUE


def _str(value: Any) -> str:
    if not isinstance(value, str | Path):
        raise TypeError(value)
    return str(value)


_SCALARS = {int: _int, float: _float, bool: _bool, str: _str, Path: lambda value: Path(_str(value))}


def _words(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join("auto" if a is types.NoneType else _words(a) for a in args)
    if origin is typing.Literal:
        return " | ".join(map(str, args))
    if origin is tuple:
        return f"{_words(args[0])},..."
    return {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        Path: "a path",
    }.get(hint, getattr(hint, "__name__", str(hint)))


def _argument_docs(cls: type) -> dict[str, str]:
    """Description of each field, from the `Args:` sections of the class and its bases.

    An entry `a, b: text` describes both fields.
    """
    descriptions: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = re.search(r"Args:\n(.*?)(?:\n\s*\n|\Z)", base.__doc__ or "", re.S)
        if section is None:
            continue
        for names, text in re.findall(
            r"^\s{4,8}(\w+(?:, \w+)*): (.*?)(?=^\s{4,8}\w+(?:, \w+)*: |\Z)",
            section[1] + "\n",
            re.S | re.M,
        ):
            descriptions |= {name: " ".join(text.split()) for name in names.split(", ")}
    return descriptions
