"""Types of options: how text or a value becomes what an annotation names, and what has no text.

An annotation may be `int`, `float`, `bool`, `str`, `Path`, a numpy scalar, an `Enum`, a `Literal`,
a union, `Annotated[type, Range(...)]`, or a tuple, list, set or dict of these.
"""

from __future__ import annotations

import enum
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from inverse.errors import OptionError

TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
LARGEST_INTEGER = 2**63 - 1
SMALLEST, LARGEST = 1e-30, 1e30
"""Magnitudes of a float option, which single precision holds; 0 and infinity are admitted too."""


@dataclass(frozen=True)
class Range:
    """Bounds of a numeric option: `steps: Annotated[int, Range(1, 10**6)] = 100`.

    Args:
        low, high: least and largest value.
        above, below: bounds that the value itself does not reach.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def check(self, value: Any, where: str) -> None:
        """Raises OptionError that names the bound that a number breaks; None and others pass."""
        if broken := self.broken(value):
            raise OptionError(f"{where} must be {broken}, got {value:.10g}")

    def broken(self, value: Any) -> str:
        """The bounds that a number breaks, in words; "" for none, for None and for others.

        A narrow range is named whole.
        """
        if not isinstance(value, int | float) or isinstance(value, bool):
            return ""
        if value != value:
            return "a number"
        broken = {
            "at least": value < self.low,
            "above": value <= self.above,
            "at most": value > self.high,
            "below": value >= self.below,
        }
        narrow = min(self.high, self.below) <= 5000
        return " and ".join(
            text
            for word, text in self._bounds()
            if broken[word] or (narrow and any(broken.values()))
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """The range in a schema of pydantic, which checks the fields of cards."""
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: Any) -> Any:
            if broken := self.broken(value):
                raise PydanticCustomError("range", "must be {broken}", {"broken": broken})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def _bounds(self) -> list[tuple[str, str]]:
        bounds = {"at least": self.low, "above": self.above, "at most": self.high}
        bounds["below"] = self.below
        return [
            (word, "positive" if (word, bound) == ("above", 0) else f"{word} {bound:.10g}")
            for word, bound in bounds.items()
            if math.isfinite(bound)
        ]

    def __str__(self) -> str:
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"from {self.low:g} to {self.high:g}"
        return " and ".join(text for _, text in self._bounds())


Count = Annotated[int, Range(1, 10**7)]
"""A number of steps, iterations or draws."""

Positive = Annotated[float, Range(above=0, high=1e9)]
"""A rate, a weight or a scale."""

NonNegative = Annotated[float, Range(0, 1e9)]
"""A weight, a noise level or a tolerance that may be zero."""

Fraction = Annotated[float, Range(0, 1)]
"""A part of a whole."""

Seed = Annotated[int, Range(0, LARGEST_INTEGER)]
"""A random seed."""


def check_ranges(value: Any, hint: Any, where: str) -> None:
    """Check a value against the ranges in its annotation, also those of entries of containers.

    Args:
        where: the beginning of an error message, such as "dps: steps".

    Raises: OptionError that names the bound that is broken.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        for bound in hint.__metadata__:
            if isinstance(bound, Range):
                bound.check(value, where)
        check_ranges(value, args[0], where)
    elif origin in (types.UnionType, typing.Union):
        for alternative in args:
            check_ranges(value, alternative, where)
    elif origin in _CONTAINERS and isinstance(value, list | tuple | set | frozenset):
        hints = args if origin is tuple and args[-1:] != (Ellipsis,) else args[:1] * len(value)
        for entry, each in zip(value, hints, strict=False):
            check_ranges(entry, each, where)


def convert(value: Any, hint: Any, where: str) -> Any:
    """Convert a value or its text to the type that a hint names.

    Args:
        hint: an annotation of the kinds above.
        where: the beginning of an error message, such as "dps: steps".

    Raises: OptionError if the type does not admit the value.
    """
    hint = getattr(hint, "__supertype__", hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        value = convert(value, args[0], where)
        for bound in hint.__metadata__:
            if isinstance(bound, Range):
                bound.check(value, where)
        return value
    if origin in (types.UnionType, typing.Union):
        return _of_union(value, args, where)
    if origin is typing.Literal:
        allowed = {str(a): a for a in args}
        if str(value) not in allowed:
            raise OptionError(f"{where} must be one of {', '.join(allowed)}, got '{value}'")
        return allowed[str(value)]
    kind = origin or hint
    if kind is Callable:
        if not callable(value):
            raise OptionError(
                f"{where} must be a function, which Python alone can give; got '{value}'"
            )
        return value
    if kind in _CONTAINERS:
        return _container(value, kind, args, where)
    if kind in (dict, Mapping):
        return _mapping(value, args, where)
    try:
        return _scalar(value, hint)
    except OptionError as error:
        raise OptionError(f"{where} {error}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise OptionError(f"{where} must be {words(hint)}, got '{value}'") from error


def _of_union(value: Any, args: tuple[Any, ...], where: str) -> Any:
    optional = types.NoneType in args
    is_none = isinstance(value, str) and value.lower() in ("none", "auto")
    if optional and (value is None or is_none):
        return None
    alternatives = [a for a in args if a is not types.NoneType]
    if len(alternatives) == 1:
        return convert(value, alternatives[0], where)
    for alternative in alternatives:
        try:
            return convert(value, alternative, where)
        except OptionError:
            continue
    known = " or ".join(map(words, alternatives))
    raise OptionError(f"{where} must be {known}, got '{value}'")


_CONTAINERS: dict[Any, Callable[[list[Any]], Any]] = {
    tuple: tuple,
    list: list,
    set: set,
    frozenset: frozenset,
    Sequence: tuple,
}


def _container(value: Any, kind: Any, args: tuple[Any, ...], where: str) -> Any:
    """A tuple, list or set; text separates its parts by commas, and `()` is empty."""
    parts: list[Any]
    if isinstance(value, str):
        parts = [] if value in ("()", "[]") else value.strip("()[]").split(",")
    elif isinstance(value, list | tuple | set | frozenset | range | np.ndarray):
        parts = list(value)
    else:
        parts = [value]
    if kind is tuple and args and args[-1] is not Ellipsis:
        if len(parts) != len(args):
            raise OptionError(f"{where} must have {len(args)} values, got {len(parts)}: '{value}'")
        return tuple(convert(part, a, where) for part, a in zip(parts, args, strict=True))
    return _CONTAINERS[kind]([convert(p, args[0], where) if args else p for p in parts])


def _mapping(value: Any, args: tuple[Any, ...], where: str) -> dict[Any, Any]:
    """A dict; text is key:value pairs, separated by commas."""
    if isinstance(value, str):
        pairs = [part.partition(":") for part in value.strip("{}").split(",") if part.strip()]
        if any(not separator for _, separator, _ in pairs):
            raise OptionError(f"{where} must be key:value pairs, got '{value}'")
        value = {key.strip(): text.strip() for key, _, text in pairs}
    if not isinstance(value, Mapping):
        raise OptionError(f"{where} must be key:value pairs, got '{value}'")
    key_type, value_type = args or (Any, Any)
    return {convert(k, key_type, where): convert(v, value_type, where) for k, v in value.items()}


def _scalar(value: Any, hint: Any) -> Any:
    if hint in _SCALARS:
        return _SCALARS[hint](value)
    if hint in (Any, object):
        return value
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum(value, hint)
    if isinstance(hint, type) and issubclass(hint, np.floating):
        return hint(_float(value))
    if isinstance(hint, type) and issubclass(hint, np.integer):
        return hint(_int(value))  # numpy raises OverflowError beyond its width
    if hint is np.bool_:
        return np.bool_(_bool(value))
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise TypeError(value)


def _enum(value: Any, hint: type[enum.Enum]) -> enum.Enum:
    if isinstance(value, hint):
        return value
    spelt = {str(member.value): member for member in hint} | {m.name: m for m in hint}
    folded = {word.lower(): member for word, member in spelt.items()}
    found = spelt.get(str(value)) or folded.get(str(value).lower())
    if found is None:
        raise OptionError(f"must be one of {', '.join(str(m.value) for m in hint)}, got '{value}'")
    return found


def _int(value: Any) -> int:
    is_fraction = isinstance(value, float | np.floating) and not float(value).is_integer()
    if isinstance(value, bool | np.bool_) or is_fraction:
        raise ValueError(value)
    number = int(value)
    if abs(number) > LARGEST_INTEGER:
        raise OptionError(f"must be an integer below 2^63, got {str(value)[:40]}")
    return number


def _float(value: Any) -> float:
    if isinstance(value, bool | np.bool_):
        raise ValueError(value)
    number = float(value)
    if number != number:
        raise ValueError(value)
    if number and not math.isinf(number) and not SMALLEST <= abs(number) <= LARGEST:
        raise OptionError(
            f"must be 0 or of magnitude {SMALLEST:g} to {LARGEST:g}, got {str(value)[:40]}"
        )
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


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    int: _int,
    float: _float,
    bool: _bool,
    str: _str,
    Path: lambda value: Path(_str(value)),
}


def untyped(hint: Any) -> str | None:
    """The part of an annotation that no text can give, in words; None if there is none.

    None itself is an alternative: `Module | None` is an option that only Python sets.
    """
    hint = getattr(hint, "__supertype__", hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return untyped(args[0])
    if origin in (types.UnionType, typing.Union):
        return None if types.NoneType in args else next(filter(None, map(untyped, args)), None)
    if origin is typing.Literal or hint in _SCALARS or hint in (Any, types.NoneType):
        return None
    kind = origin or hint
    if kind in _CONTAINERS or kind in (dict, Mapping):
        return next((part for a in args if a is not Ellipsis and (part := untyped(a))), None)
    if isinstance(hint, type) and issubclass(
        hint, enum.Enum | np.floating | np.integer | np.bool_ | types.NoneType
    ):
        return None
    return words(hint)


def words(hint: Any) -> str:
    """An annotation in words, as help texts and errors print it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        ranges = [str(bound) for bound in hint.__metadata__ if isinstance(bound, Range)]
        return " ".join([words(args[0]), *ranges])
    if origin in (types.UnionType, typing.Union):
        return " or ".join("auto" if a is types.NoneType else words(a) for a in args)
    if origin is typing.Literal:
        return " | ".join(map(str, args))
    if origin is tuple and len(args) > 1 and args[-1] is not Ellipsis:
        return ",".join(map(words, args))
    if origin in _CONTAINERS and args:
        return f"{words(args[0])},..."
    if origin in (dict, Mapping) and args:
        return f"{words(args[0])}:{words(args[1])},..."
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " | ".join(str(member.value) for member in hint)
    if isinstance(hint, type) and issubclass(hint, np.floating | np.integer):
        return "a number" if issubclass(hint, np.floating) else "an integer"
    return {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        Path: "a path",
    }.get(hint, getattr(hint, "__name__", str(hint)))
