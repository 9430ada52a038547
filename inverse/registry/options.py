"""Dataclass fields as options: one declaration serves Python, the command line and the record.

A field whose name is a Python keyword carries a trailing underscore (`lambda_`) and is spelled without it outside.
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
    """One field: its public name, type as words, default and the sentence from the class docstring."""

    name: str
    type: str
    default: Any
    help: str


def options(cls: type) -> list[Option]:
    """The options of a frozen dataclass, in order."""
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
    """An instance of a frozen dataclass from values by public name; strings are parsed by the field's type.

    Raises: UnknownNameError for a name that is no field; OptionError for a value of the wrong type.
    """
    fields, hints = (
        {f.name.rstrip("_"): f.name for f in dataclasses.fields(cls)},
        typing.get_type_hints(cls),
    )
    label = getattr(cls, "name", cls.__name__)
    arguments = {}
    for name, value in values.items():
        key = name.replace("-", "_").rstrip("_")
        if key not in fields:
            raise UnknownNameError(f"{label} has no option '{name}'; {suggestion(key, fields)}")
        arguments[fields[key]] = convert(value, hints[fields[key]], f"{label}: {name}")
    return cls(**arguments)


def values(instance: Any) -> dict[str, Any]:
    """Public name -> value of every field: what a record stores."""
    return {f.name.rstrip("_"): getattr(instance, f.name) for f in dataclasses.fields(instance)}


def text(value: Any) -> str:
    """A value as the command line takes it back."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "()"
    return "auto" if value is None else str(value)


def convert(value: Any, hint: Any, where: str) -> Any:
    """A value, perhaps text, as the type of a hint.

    Raises: OptionError that begins with `where` if it cannot be.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None or (
            isinstance(value, str) and value.lower() in ("none", "auto") and types.NoneType in args
        ):
            return None
        kinds = [a for a in args if a is not types.NoneType]
        for kind in kinds[:-1]:
            try:
                return convert(value, kind, where)
            except OptionError:
                continue
        return convert(value, kinds[-1], where)
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
    """Field -> sentence, from the `Args:` sections of the class and its bases; `a, b: text` documents both."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = re.search(r"Args:\n(.*?)(?:\n\s*\n|\Z)", base.__doc__ or "", re.S)
        if section is None:
            continue
        for names, text in re.findall(
            r"^\s{4,8}(\w+(?:, \w+)*): (.*?)(?=^\s{4,8}\w+(?:, \w+)*: |\Z)",
            section[1] + "\n",
            re.S | re.M,
        ):
            found |= {name: " ".join(text.split()) for name in names.split(", ")}
    return found
