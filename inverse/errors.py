"""Errors that reach the user as one line: what was asked, what was found, what would work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InverseError(Exception):
    """Base of every error that is the user's to mend; the command prints it without a traceback and exits with 2."""


class InputError(InverseError):
    """A file, an array or a measurement that cannot be used."""


class OptionError(InverseError):
    """An option with an unknown name or an impossible value."""


class UnknownNameError(InverseError):
    """A method, problem, prior, sampler or option that nobody registered."""


class DuplicateNameError(InverseError):
    """Two plug-ins that claim one name."""


class PluginError(InverseError):
    """A plug-in that cannot be loaded."""


class NoiseError(InverseError):
    """A noise model without a known likelihood, or data outside its domain."""


class OperatorError(InverseError):
    """An operator that lacks what was asked of it, or data that does not fit it."""


class PriorError(InverseError):
    """Weights that cannot be trusted or do not fit."""


class UnsupportedError(InverseError):
    """A method that cannot run on this posterior; the message is the reason."""


class MemoryLimitError(InverseError):
    """An evaluation that does not fit into the memory, however it is cut."""


class DeviceError(InverseError):
    """A device that failed or disappeared during a solve."""


class ExecutionWarning(UserWarning):
    """Something that was carried out otherwise than asked, with the reason; the answer is the same."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The closest known name, then the list: "did you mean 'red-diff'? known: dps, red-diff"."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    head = f"did you mean '{close[0]}'? " if close else ""
    return f"{head}known: {', '.join(names) if names else 'none'}"
