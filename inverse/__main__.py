"""The `inverse` command, also as `python -m inverse`; it answers Ctrl-C before its imports end."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = "inverse: interrupted; files saved earlier are unchanged"
WORKING = ("inverse.engine", "inverse.training.loop")
"""Modules after whose import a command may have results, so that it must end by an exception."""


def main() -> None:
    """Run the command; Ctrl-C is one line and exit code 130 from the first import on."""
    try:
        if (
            signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):  # not ignored, as by nohup
            signal.signal(signal.SIGINT, _interrupt)
        from inverse.command.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write(f"{INTERRUPTED}\n")
        sys.exit(130)
    finally:  # the interpreter's shutdown would die of the signal, with the exit code of a failure
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """End the process while modules are imported; raise KeyboardInterrupt later.

    Modules in C turn an exception during their import into others, or lose it.
    """
    loading = {name for name, module in list(sys.modules.items()) if _is_loading(module)}
    has_started = any(name in sys.modules and name not in loading for name in WORKING)
    if loading and not has_started:
        os.write(2, f"{INTERRUPTED}\n".encode())
        os._exit(130)
    raise KeyboardInterrupt


def _is_loading(module: object) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


if __name__ == "__main__":
    main()
