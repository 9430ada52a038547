"""The `inverse` command: its subcommands, and how its errors reach the user.

Importing this module does not import torch.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from inverse import __version__
from inverse.arena import commands as arena
from inverse.command import prior as prior_command
from inverse.command.mask_like import mask_like
from inverse.command.request import ComparisonRequest, DiagnosisRequest, Request, options_from
from inverse.errors import InverseError, OptionError, is_out_of_memory
from inverse.io.command_line import (
    MethodOptions,
    PluginFiles,
    assignments,
    columns,
    registry,
    show,
)
from inverse.registry.commands import commands
from inverse.training import commands as training

REPEATABLE = {
    "--simulate-from",
    "--input",
    "--restore",
    "--measurement",
    "--set",
    "--problem-option",
    "--images",
}
"""Options that take several values: `--set a=1 b=2`."""


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Errors of the system about the disk, not about one file."""


class Commands(TyperGroup):
    """Commands of the core, of installed distributions and of plug-in files."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *(name for name in commands() if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return (
            super().get_command(ctx, cmd_name)
            or commands().get(cmd_name)
            or _plugin_command(cmd_name, ctx)
        )

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Parse the arguments, interruptibly; see `interruptible`."""
        with interruptible():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: Any) -> Any:
        """Run a command, interruptibly; see `interruptible`."""
        with interruptible():
            return super().invoke(ctx)


@contextmanager
def interruptible() -> Iterator[None]:
    """Context manager that turns Ctrl-C into one line and exit code 130."""
    try:
        yield
    except KeyboardInterrupt as stop:
        print("inverse: interrupted; files saved earlier are unchanged", file=sys.stderr)
        raise typer.Exit(130) from stop


app = typer.Typer(
    name="inverse",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Posterior samples for inverse problems: a diffusion prior, a forward operator, a method.",
    epilog="First result: inverse solve --problem deblur --method red-diff",
)


def main() -> None:
    """Run the `inverse` command.

    A warning becomes one line on standard error; an `InverseError`, a file or disk that the system
    refuses, or memory that it does not have becomes one line and exit code 2.
    """
    warnings.showwarning = lambda message, *_, **__: print(
        f"inverse: warning: {message}", file=sys.stderr
    )
    try:
        app(args=repeat_options(sys.argv[1:]), prog_name="inverse")
    except InverseError as error:
        print(f"inverse: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (MemoryError, RuntimeError, OSError) as error:
        if not (reason := outside(error)):
            raise
        print(f"inverse: {reason}; files saved earlier are unchanged", file=sys.stderr)
        sys.exit(2)


def outside(error: Exception) -> str:
    """What the machine refused, in one line: memory, or a file; "" for a mistake in the code."""
    if is_out_of_memory(error):
        from inverse.memory import what_fits

        return f"not enough memory ({type(error).__name__}): {what_fits(error)}"
    if isinstance(error, OSError) and error.errno is not None:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        if error.errno in FULL:
            return f"cannot write{' to ' if names else ''}{' and '.join(names)} ({error.strerror})"
        return f"{' and '.join(names) or 'a file'}: {error.strerror}"
    return ""


def repeat_options(arguments: list[str]) -> list[str]:
    """Repeat an option of `REPEATABLE` before each value after its first.

    `--set a=1 b=2` becomes `--set a=1 --set b=2`.
    """
    result: list[str] = []
    current, has_value = "", False
    for argument in arguments:
        if argument.startswith("-") and argument != "-":
            current, has_value = (argument if argument in REPEATABLE else ""), False
            result.append(argument)
        else:
            result += [current, argument] if current and has_value else [argument]
            has_value = True
    return result


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        print(f"inverse {__version__}")
        raise typer.Exit


@app.command()
@options_from(Request)
def solve(request: Request) -> None:
    """Restore your measurements (--restore), or test on pictures that are degraded first."""
    from inverse.command.solve import run

    registry(request.plugin)
    if run(request):
        raise typer.Exit(130)


@app.command()
@options_from(DiagnosisRequest)
def diagnose(request: DiagnosisRequest) -> None:
    """Check a method's calibration from known ground truths; exit with code 1 if it fails."""
    from inverse.command.diagnose import run

    registry(request.plugin)
    if not run(request).calibrated:
        raise typer.Exit(1)


@app.command()
@options_from(ComparisonRequest)
def compare(request: ComparisonRequest) -> None:
    """Weigh values of options, or priors, by how well they explain a measurement: log p(y)."""
    from inverse.command.compare import run

    registry(request.plugin)
    run(request)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Method to explain.")] = None,
    as_json: AsJson = False,
    plugin: PluginFiles = [],
) -> None:
    """List the methods by use, or explain one method: reference, equation, options."""
    plugins = registry(plugin)
    if name is not None:
        return _explain(plugins.find("inverse_methods", name), as_json)
    things = {key: entry.thing for key, entry in plugins.table("inverse_methods").items()}
    if as_json:
        return _print_json([_described(cls) for cls in things.values()])
    from inverse.method import GROUPS
    from inverse.registry.defaults import first_methods

    groups = {"start here": {k: use for k, use in first_methods().items() if k in things}}
    for group in GROUPS:
        groups[group] = {
            key: _first_sentence(cls.__doc__)
            for key, cls in things.items()
            if cls.listed_in() == group
        }
    for group, lines in groups.items():
        table = columns(group, "description")
        for key, line in lines.items():
            table.add_row(key, line)
        if lines:
            show(table)
    return None


@app.command()
def problems(
    name: Annotated[str | None, typer.Argument(help="Problem to explain.")] = None,
    as_json: AsJson = False,
    plugin: PluginFiles = [],
) -> None:
    """List the problems, or explain one problem."""
    plugins = registry(plugin)
    if name is not None:
        return _explain(plugins.find("inverse_problems", name), as_json)
    things = {key: entry.thing for key, entry in plugins.table("inverse_problems").items()}
    if as_json:
        return _print_json([_described(cls) for cls in things.values()])
    table = columns("problem", "description")
    for key, cls in things.items():
        table.add_row(key, cls.summary)
    return show(table)


@app.command()
def priors(plugin: PluginFiles = []) -> None:
    """List the priors and their training data."""
    from inverse.errors import PriorError
    from inverse.priors.loading import PriorCard

    table = columns("prior", "shape", "units", "trained on")
    for name, entry in registry(plugin).table("inverse_priors").items():
        try:
            card = PriorCard.read(entry.thing)
            table.add_row(name, card.shape, card.units, str(card.training.get("data", "")))
        except PriorError as error:
            table.add_row(name, "-", "-", str(error))
    show(table)


@app.command()
def samplers(plugin: PluginFiles = []) -> None:
    """List the samplers of guidance methods and their options (--set sampler=ddim:eta=0.5)."""
    from inverse.sampling.options import sampler_options, with_common_options

    table = columns("sampler", "options", "description")
    for name, entry in registry(plugin).table("inverse_samplers").items():
        table.add_row(
            name, _settings(sampler_options(entry.thing)), _first_sentence(entry.thing.__doc__)
        )
    show(table)
    print(f"all samplers: {_settings(sampler_options(with_common_options))}")


@app.command()
def plugins(plugin: PluginFiles = []) -> None:
    """List the loaded plug-ins: distribution, version, file and any error."""
    plugins, failures = registry([]), []
    calls: list[Callable[[], object]] = [partial(plugins.load_file, path) for path in plugin]
    calls += [
        partial(plugins.table, f"inverse_{things}")
        for things in ("methods", "problems", "samplers", "metrics", "priors")
    ]
    for call in calls:
        try:
            call()
        except InverseError as error:
            failures.append(error)
    table = columns("plug-in", "from", "file", "state")
    for item in plugins.loaded:
        table.add_row(item.module, item.distribution, item.file, item.error or "ok")
    show(table)
    if failures:
        raise failures[0]
    for name, entry in plugins.table("inverse_methods").items():
        missing = entry.thing.undeclared() if hasattr(entry.thing, "undeclared") else []
        if missing:
            print(f"{name} ({entry.module}): declares no {' and no '.join(missing)}")


@app.command()
def verify(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="METHOD", help="Method to verify: see `inverse methods`.", show_default=False
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Verify every registered method.")] = False,
    set_: MethodOptions = [],
    case: Annotated[
        list[str],
        typer.Option("--case", help="Case to run; may be repeated.", show_default="all"),
    ] = [],
    samples: Annotated[int, typer.Option(help="Samples on each case.")] = 1000,
    seed: Annotated[int, typer.Option(help="Random seed for the method.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the JSON records.")] = Path("out/verify"),
    json_: Annotated[
        bool, typer.Option("--json", help="Print the records instead of tables.")
    ] = False,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough",
            help="Add images of 64 x 64 pixels; prints the time first, and resumes if interrupted.",
        ),
    ] = False,
    plugin: PluginFiles = [],
) -> None:
    """Check a method's claim against exact posteriors.

    Exit code 1 if the claim fails, 3 if nothing was checked.
    """
    if all_ == (name is not None):
        raise OptionError("verify: give either one METHOD or --all")
    if all_ and set_:
        raise OptionError("verify: --set applies to one method, not to --all")
    from inverse.command.verify import run
    from inverse.registry.discovery import get_method

    names = registry(plugin).table("inverse_methods")
    methods = (
        [get_method(each) for each in names]
        if name is None
        else [get_method(name, **assignments(set_, "--set"))]
    )
    if code := run(methods, samples, seed, case or None, out, json_, thorough):
        raise typer.Exit(code)


app.add_typer(arena.bench, name="bench")
app.add_typer(prior_command.app, name="prior")
app.command()(mask_like)
app.command()(arena.tune)
app.add_typer(training.app)


def _described(cls: Any) -> dict[str, Any]:
    """A method or problem as JSON: what it is, where it is listed, what it claims, its options."""
    from inverse.registry.options import options, text

    listed_in = getattr(cls, "listed_in", None)
    words = {
        key: getattr(cls, key, "")
        for key in ("equation", "reference", "claim")
        if hasattr(cls, key)
    }
    return {
        "name": cls.name,
        **({"group": listed_in()} if listed_in else {}),
        "summary": getattr(cls, "summary", "") or _first_sentence(cls.__doc__),
        **words,
        "needs": list(getattr(cls, "needs", ())),
        "options": [
            {"name": o.name, "type": o.type, "default": text(o.default), "help": o.help}
            for o in options(cls)
        ],
    }


def _print_json(value: Any) -> None:
    from inverse.io.files import strict_json

    print(strict_json(value))


def _explain(cls: Any, as_json: bool) -> None:
    import inspect

    from inverse.registry.options import options, text

    if as_json:
        return _print_json(_described(cls))
    print(f"{cls.name}\n\n{inspect.cleandoc(cls.__doc__ or '').split('Args:')[0].strip()}\n")
    for label in ("equation", "reference", "claim"):
        if getattr(cls, label, ""):
            print(f"{label}: {getattr(cls, label)}")
    if needs := getattr(cls, "needs", ()):
        from inverse.method import NEEDS

        print(f"needs: {', '.join(NEEDS[need][0] for need in needs)}")
    table = columns("option", "type", "default", "description")
    for option in options(cls):
        table.add_row(option.name, option.type, text(option.default), option.help)
    print()
    return show(table)


def _plugin_command(name: str, ctx: Any) -> Any:
    """The command that a plug-in adds through `inverse_commands`, or None."""
    extra = typer.Typer()
    registry([]).add_commands(extra)
    if not extra.registered_commands and not extra.registered_groups:
        return None
    extra.callback()(lambda: None)
    return typer.main.get_command(extra).get_command(ctx, name)  # type: ignore[attr-defined]


def _settings(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={str(default).lower()}" for name, default in options.items())


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split()).split(". ")[0].rstrip(".:")
