"""Errors that reach the user as a single line: what was asked, what was found, what would work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InverseError(Exception):
    """Base of every error that a user can fix.

    The command prints its message without a traceback and exits with code 2. The message is one
    line, whatever values it quotes.
    """

    def __str__(self) -> str:
        message = super().__str__()
        return " ".join(message.split()) if "\n" in message else message


class InputError(InverseError):
    """An unusable file, array or measurement."""


class OptionError(InverseError):
    """An option with an unknown name or an impossible value."""


class UnknownNameError(InverseError):
    """A method, problem, prior, sampler or option that is not registered."""


class DuplicateNameError(InverseError):
    """A name that two plug-ins register."""


class PluginError(InverseError):
    """A plug-in that cannot be loaded."""


class NoiseError(InverseError):
    """A noise model without a known likelihood, or data outside its domain."""


class OperatorError(InverseError):
    """An operator without a required property, or data that does not fit the operator."""


class PriorError(InverseError):
    """Weights that are unsafe to read, damaged, or of another network."""


class UnsupportedError(InverseError):
    """A method that cannot run on a posterior; the message gives the reason."""


class MemoryLimitError(InverseError):
    """An evaluation that does not fit into memory even in the smallest parts."""


class DeviceError(InverseError):
    """A device that failed or disappeared during a solve."""


OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "unable to allocate",
    "bad_alloc",
    "bad allocation",
    "could not create a primitive",
    "cannot allocate memory",
)
"""Words of torch, numpy, oneDNN and the C++ library for an allocation that failed."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation; most libraries have no class for it."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(said in words for said in OUT_OF_MEMORY)
    )


class ExecutionWarning(UserWarning):
    """An evaluation that was carried out differently than requested, with the same result."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The closest known name and the list: "did you mean 'red-diff'? known: dps, red-diff"."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    head = f"did you mean '{close[0]}'? " if close else ""
    return f"{head}known: {', '.join(names) if names else 'none'}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
