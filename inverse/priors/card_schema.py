"""The schema of cards: names, types and ranges of fields, read off the annotations by pydantic.

widths: tuple[Annotated[int, Range(1, 8192)], ...]      a list of bounded whole numbers
network: Annotated[dict[str, Any], Fields(UNetConfig)]  {} or the stored fields of a dataclass
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from inverse.errors import OptionError, suggestion
from inverse.registry.types import Range

T = TypeVar("T")

JSON_TYPES: dict[type, str] = {
    str: "text",
    float: "a number",
    int: "a whole number",
    dict: "an object",
    list: "a list",
    bool: "true or false",
    type(None): "null",
}
"""JSON's name of a type."""

EXPECTED = {
    "string_type": "text",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "dict_type": "an object",
    "dataclass_type": "an object",
    "tuple_type": "a list",
    "list_type": "a list",
    "bool_type": "true or false",
}
"""What pydantic's errors of each type ask for, in JSON's names."""


@dataclass(frozen=True)
class Fields:
    """Marks a field of a card that holds the stored fields of a dataclass, or is empty.

    Args:
        cls: the dataclass, whose `__post_init__` may refuse values with an OptionError.
        others: whether the object may hold further names, which are not checked.
    """

    cls: type
    others: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import PydanticCustomError, ValidationError, core_schema

        def check(value: dict[str, Any]) -> dict[str, Any]:
            declared = {field.name for field in dataclasses.fields(self.cls)}
            if not value:
                return value
            unknown = [name for name in value if name not in declared]
            message = ""
            if unknown and not self.others:
                message = f" has no field '{unknown[0]}'; {suggestion(unknown[0], declared)}"
            else:
                known = {name: item for name, item in value.items() if name in declared}
                try:
                    _validated(self.cls, known)
                except ValidationError as error:
                    message = f".{_in_words(error.errors()[0])}"
            if message:
                raise PydanticCustomError("fields", "{message}", {"message": message})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


Number = Annotated[float, Range(-1e12, 1e12)]
"""A number of a card whose meaning sets no bounds."""
Share = Annotated[float, Range(0, 1)]
"""A part of a whole."""
Length = Annotated[int, Range(1, 10**6)]
"""Entries of an array along a dimension."""
Width = Annotated[int, Range(1, 8192)]
"""Channels of a layer."""
Blocks = Annotated[int, Range(1, 64)]
"""Residual blocks of a level."""


@functools.cache
def _adapter(cls: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _validated(cls: type, fields: dict[str, Any]) -> Any:
    return _adapter(cls).validate_json(json.dumps(fields), strict=True)


def validated(cls: type[T], fields: dict[str, Any]) -> T:
    """The dataclass with these fields of JSON types; lists become tuples, nothing else changes.

    Raises: OptionError, one line, for the first field with a wrong name, type or range.
    """
    from pydantic import ValidationError

    try:
        return _validated(cls, fields)
    except ValidationError as error:
        raise OptionError(_in_words(error.errors()[0])) from error


def _in_words(error: Any) -> str:
    """An error of pydantic in words: the path of the field, what it must be, what was found."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "fields":
        return f"{where}{error['msg']}"
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] in EXPECTED:
        return f"{where} must be {EXPECTED[error['type']]}, found {json_type(error['input'])}"
    message = error["msg"].replace("Input should be", "must be")
    value = error["input"]
    shown = f"{value:.10g}" if isinstance(value, int | float) else str(value)[:40]
    return f"{where} {message}, got {shown}"


def json_type(value: Any) -> str:
    """JSON's name of the type of a value."""
    return JSON_TYPES[type(value)]
