"""Dataclass fields as options: one declaration for Python, the command line and the records.

A field whose name is a Python keyword ends in an underscore (`lambda_`); its public name does not.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import re
import typing
from typing import Any

from inverse.errors import InverseError, OptionError, UnknownNameError, first_line, suggestion
from inverse.registry.types import check_ranges, convert, untyped, words


@dataclasses.dataclass(frozen=True)
class Option:
    """An option: public name, type in words, default, and description from the class docstring."""

    name: str
    type: str
    default: Any
    help: str


def options(cls: type) -> list[Option]:
    """The options of a frozen dataclass, in the order of its fields."""
    hints, helps = typing.get_type_hints(cls, include_extras=True), _argument_docs(cls)
    return [
        Option(
            f.name.rstrip("_"),
            words(hints[f.name]),
            _default(f),
            helps.get(f.name, ""),
        )
        for f in dataclasses.fields(cls)
        if f.init
    ]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def build(cls: type, values: dict[str, Any]) -> Any:
    """Build a frozen dataclass from values by public name; text is parsed by the field's type.

    Raises: UnknownNameError for a name that is not an option; OptionError for a value that the
        option's type or range does not admit, or that the class itself refuses.
    """
    fields = {f.name.rstrip("_"): f.name for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls, include_extras=True)
    label = getattr(cls, "name", cls.__name__)
    arguments = {}
    for name, value in values.items():
        key = name.replace("-", "_").rstrip("_")
        if key not in fields:
            raise UnknownNameError(f"{label} has no option '{name}'; {suggestion(key, fields)}")
        arguments[fields[key]] = convert(value, hints[fields[key]], f"{label}: {name.rstrip('_')}")
    try:
        return cls(**arguments)
    except InverseError:
        raise
    except Exception as error:
        raise OptionError(f"{label} ({source_file(cls)}): {first_line(error)}") from error


def check_options(instance: Any) -> None:
    """Raises OptionError for an option outside the range that its annotation declares."""
    label = getattr(instance, "name", type(instance).__name__)
    hints = typing.get_type_hints(type(instance), include_extras=True)
    for field in dataclasses.fields(instance):
        if field.init:
            where = f"{label}: {field.name.rstrip('_')}"
            check_ranges(getattr(instance, field.name), hints[field.name], where)


def source_file(cls: type) -> str:
    """The file of a class, or the name of its module if it has no file."""
    try:
        return inspect.getfile(cls)
    except (TypeError, OSError):
        return cls.__module__


@functools.cache
def mistake(cls: Any) -> str | None:
    """What keeps a registered class from use, in one line; None if nothing does.

    A class of options is a dataclass whose fields have defaults and types that text can give, and
    whose methods take the arguments of the ones that they replace.
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        return f"{cls!r} is not a dataclass"
    if abstract := sorted(getattr(cls, "__abstractmethods__", ())):
        return f"{cls.__name__} does not define {', '.join(abstract)}"
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:
        return f"the annotations of {cls.__name__} cannot be read ({error})"
    fields = {f.name: f for f in dataclasses.fields(cls)}
    own = {
        name
        for name in inspect.get_annotations(cls)
        if typing.get_origin(hints[name]) is not typing.ClassVar and hints[name] != typing.ClassVar
    }
    if forgotten := sorted(own - fields.keys()):
        return f"{cls.__name__} declares {', '.join(forgotten)} but is not decorated as a dataclass"
    for name, field in fields.items():
        factory = field.default_factory
        if not field.init:
            continue
        if field.default is dataclasses.MISSING and factory is dataclasses.MISSING:
            return f"option {name} has no default; every option needs one"
        if part := untyped(hints[name]):
            return f"option {name} has the type {part}, which no text can give"
    return _signature_mistake(cls)


def _signature_mistake(cls: type) -> str | None:
    """A method that does not take the arguments of the abstract one that it defines."""
    for base in cls.__mro__[1:]:
        for name in vars(base).get("__abstractmethods__", ()):
            asked, given = getattr(base, name), getattr(cls, name)
            if not (inspect.isfunction(asked) and inspect.isfunction(given)):
                continue
            parameters = list(inspect.signature(asked).parameters)
            try:
                inspect.signature(given).bind(*parameters)
            except TypeError:
                return f"{name} takes {inspect.signature(given)}, not ({', '.join(parameters)})"
    return None


def values(instance: Any) -> dict[str, Any]:
    """Values of all options by public name, as records store them."""
    fields = (f for f in dataclasses.fields(instance) if f.init)
    return {f.name.rstrip("_"): getattr(instance, f.name) for f in fields}


def text(value: Any) -> str:
    """A value as text that the command line parses back to the value."""
    if isinstance(value, tuple | list | set | frozenset):
        return ",".join(map(text, value)) or "()"
    if isinstance(value, dict):
        return ",".join(f"{key}:{text(item)}" for key, item in value.items())
    if isinstance(value, enum.Enum):
        return str(value.value)
    return "auto" if value is None else str(value)


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
