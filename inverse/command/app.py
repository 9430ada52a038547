"""The command: parse, look names up, solve, write, print. Nothing here imports torch before it is needed."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from inverse import __version__
from inverse.arena import commands as arena
from inverse.command import prior as prior_command
from inverse.errors import InverseError, OptionError
from inverse.io.command_line import (
    Device,
    MethodName,
    MethodOptions,
    PluginFiles,
    PriorName,
    ProblemName,
    ProblemOptions,
    assignments,
    columns,
    registry,
    show,
)
from inverse.registry.commands import commands
from inverse.registry.defaults import default
from inverse.training import commands as training

GREEDY = {"--input", "--measurement", "--set", "--problem-option", "--images"}


class Commands(TyperGroup):
    """The core's commands, those of installed distributions, and those that plug-in files add."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *(name for name in commands() if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return (
            super().get_command(ctx, cmd_name)
            or commands().get(cmd_name)
            or _plugin_command(cmd_name, ctx)
        )

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an interruption that it does not answer for itself is one line and exit code 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            print("inverse: interrupted; what was saved before is as it was", file=sys.stderr)
            raise typer.Exit(130) from stop


app = typer.Typer(
    name="inverse",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reconstruct what a measurement hides: posterior samples from a diffusion prior and a forward operator.",
    epilog="First result: inverse solve --problem deblur --method red-diff",
)


def main() -> None:
    """Entry point of the `inverse` command: errors of the user's become one line and exit code 2, warnings one line."""
    warnings.showwarning = lambda message, *_, **__: print(
        f"inverse: warning: {message}", file=sys.stderr
    )
    try:
        app(args=spread(sys.argv[1:]), prog_name="inverse")
    except InverseError as error:
        print(f"inverse: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        print(
            f"inverse: cannot write ({error.strerror}); what was saved before is as it was",
            file=sys.stderr,
        )
        sys.exit(2)


def spread(arguments: list[str]) -> list[str]:
    """Repeat an option for each value that follows it: `--set a=1 b=2` becomes `--set a=1 --set b=2`."""
    result: list[str] = []
    current, taken = "", False
    for argument in arguments:
        if argument.startswith("-") and argument != "-":
            current, taken = (argument if argument in GREEDY else ""), False
            result.append(argument)
        else:
            result += [current, argument] if current and taken else [argument]
            taken = True
    return result


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.")
    ] = False,
) -> None:
    if version:
        print(f"inverse {__version__}")
        raise typer.Exit


@app.command()
def solve(
    problem: ProblemName = default("solve", "problem"),
    method: MethodName = default("solve", "method"),
    input: Annotated[
        list[Path],
        typer.Option(
            "--input",
            help="Truths to degrade and reconstruct: pictures, .npy, .h5 or folders.",
            show_default=False,
        ),
    ] = [],
    measurement: Annotated[
        list[Path],
        typer.Option(
            "--measurement", help="Real measurements, without a truth.", show_default=False
        ),
    ] = [],
    problem_option: ProblemOptions = [],
    set_: MethodOptions = [],
    steps: Annotated[
        int | None, typer.Option(help="Short for --set steps=N.", show_default=False)
    ] = None,
    prior: PriorName = None,
    samples: Annotated[int, typer.Option(help="Posterior samples for each measurement.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the measurement noise and the method.")] = 0,
    device: Device = "cpu",
    dtype: Annotated[
        str,
        typer.Option(
            help="float32, float64, or bf16 or fp16 (of the prior; its state stays in float32)."
        ),
    ] = "float32",
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the prior: minutes once, for many images of one size."
        ),
    ] = False,
    memory: Annotated[
        float | None,
        typer.Option(
            help="GiB that one call of the prior may take.", show_default="most of what is free"
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Images of one size that are solved together.",
            show_default="as many as pay and fit",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("out"),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep what an earlier run of the same request has finished."),
    ] = False,
    parallel: Annotated[
        str | None,
        typer.Option(help="Under torchrun: patches, or patches:stale.", show_default="one process"),
    ] = None,
    json_: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON record for each result instead of a table."),
    ] = False,
    plugin: PluginFiles = [],
) -> None:
    """Reconstruct: the shipped photograph, your own (--input), or a real measurement (--measurement)."""
    from inverse.command.run import run
    from inverse.command.work import Request

    if input and measurement:
        raise OptionError(
            "solve: give either --input (a truth to degrade) or --measurement (a real one), not both"
        )
    registry(plugin)
    method_options: dict[str, Any] = dict(assignments(set_, "--set"))
    if steps is not None:
        if "steps" in method_options:
            raise OptionError(
                f"solve: give either --steps {steps} or --set steps={method_options['steps']}, not both"
            )
        method_options["steps"] = steps
    request = Request(
        problem=problem,
        method=method,
        problem_options=assignments(problem_option, "--problem-option"),
        method_options=method_options,
        files=input or measurement,
        measured=bool(measurement),
        prior=prior,
        samples=samples,
        seed=seed,
        device=device,
        dtype=dtype,
        out=out,
        parallel=parallel,
        compile=compile_,
        memory=memory,
        batch=batch,
        resume=resume,
    )
    interrupted = run(request, as_json=json_)
    if interrupted:
        raise typer.Exit(130)


@app.command()
def diagnose(
    problem: ProblemName = default("diagnose", "problem"),
    method: MethodName = default("diagnose", "method"),
    input: Annotated[
        list[Path],
        typer.Option(
            "--input",
            help="Held-out truths, by default draws from the prior or shipped ones.",
            show_default=False,
        ),
    ] = [],
    problem_option: ProblemOptions = [],
    set_: MethodOptions = [],
    prior: PriorName = None,
    simulations: Annotated[
        int | None,
        typer.Option(help="Truths.", show_default="200 from the prior, or all held-out ones"),
    ] = None,
    samples: Annotated[int, typer.Option(help="Posterior samples for each measurement.")] = 19,
    level: Annotated[
        float,
        typer.Option(help="Most probability with which an exact sampler is called not calibrated."),
    ] = 0.05,
    seed: Annotated[
        int, typer.Option(help="Of the truths, the measurement noise, the method and the tests.")
    ] = 0,
    device: Device = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("out"),
    json_: Annotated[
        bool, typer.Option("--json", help="Print the record as JSON instead of a table.")
    ] = False,
    plugin: PluginFiles = [],
) -> None:
    """Ask of truths alone whether a method's samples are calibrated; the exit code is 1 if they are not."""
    from inverse.checks import calibration
    from inverse.registry.discovery import get_method, get_problem

    registry(plugin)
    chosen = (
        get_problem(problem, **assignments(problem_option, "--problem-option")),
        get_method(method, **assignments(set_, "--set")),
    )
    found, path = calibration.run(
        *chosen,
        input,
        device,
        dtype,
        out,
        simulations=simulations,
        samples=samples,
        seed=seed,
        prior=prior,
        level=level,
    )
    if json_:
        print(found.json())
    else:
        show(calibration.table(found))
        print("\n".join([calibration.verdict(found), *found.notes, str(path)]))
    if not found.calibrated:
        raise typer.Exit(1)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Explain this one.")] = None,
    plugin: PluginFiles = [],
) -> None:
    """List the methods, or explain one: reference, equation, options."""
    _list_or_explain("inverse_methods", name, plugin, lambda cls: _first_sentence(cls.__doc__))


@app.command()
def problems(
    name: Annotated[str | None, typer.Argument(help="Explain this one.")] = None,
    plugin: PluginFiles = [],
) -> None:
    """List the problems, or explain one."""
    _list_or_explain("inverse_problems", name, plugin, lambda cls: cls.summary)


@app.command()
def priors(plugin: PluginFiles = []) -> None:
    """List the priors with what they were trained on."""
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
    """List the samplers that a guidance can use, with their options (--set sampler=ddim:eta=0.5)."""
    from inverse.sampling.options import sampler_options, with_common_options

    table = columns("sampler", "options", "what it is")
    for name, entry in registry(plugin).table("inverse_samplers").items():
        table.add_row(
            name, _settings(sampler_options(entry.thing)), _first_sentence(entry.thing.__doc__)
        )
    show(table)
    print(f"every sampler: {_settings(sampler_options(with_common_options))}")


@app.command()
def plugins(plugin: PluginFiles = []) -> None:
    """Show what was loaded, from where, which version, and why something was not."""
    found, failures = registry([]), []
    calls: list[Callable[[], object]] = [partial(found.load_file, path) for path in plugin]
    calls += [
        partial(found.table, f"inverse_{kind}")
        for kind in ("methods", "problems", "samplers", "metrics", "priors")
    ]
    for call in calls:
        try:
            call()
        except InverseError as error:
            failures.append(error)
    table = columns("plug-in", "from", "file", "state")
    for item in found.loaded:
        table.add_row(item.module, item.distribution, item.file, item.error or "ok")
    show(table)
    if failures:
        raise failures[0]


@app.command()
def verify(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="METHOD", help="A method: see `inverse methods`.", show_default=False
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every registered method.")] = False,
    set_: MethodOptions = [],
    case: Annotated[
        list[str],
        typer.Option("--case", help="Only this case; may be repeated.", show_default="all"),
    ] = [],
    samples: Annotated[int, typer.Option(help="On each case.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the method.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the JSON records.")] = Path("out/verify"),
    json_: Annotated[
        bool, typer.Option("--json", help="Print the records instead of tables.")
    ] = False,
    plugin: PluginFiles = [],
) -> None:
    """Hold a method to its claim where the posterior is known exactly; exit 1 if the claim fails."""
    if all_ == (name is not None):
        raise OptionError("verify: name one method, or say --all")
    if all_ and set_:
        raise OptionError("verify: --set is for one method, not for --all")
    from inverse.checks.verify import run
    from inverse.registry.discovery import get_method

    found = registry(plugin)
    methods = (
        [get_method(m) for m in found.table("inverse_methods")]
        if name is None
        else [get_method(name, **assignments(set_, "--set"))]
    )
    if not run(methods, samples, seed, case or None, out, json_):
        raise typer.Exit(1)


app.add_typer(arena.bench, name="bench")
app.add_typer(prior_command.app, name="prior")
app.command()(arena.tune)
app.add_typer(training.app)


def _list_or_explain(hook: str, name: str | None, files: list[Path], line: Any) -> None:
    found = registry(files)
    if name is not None:
        _explain(found.find(hook, name))
        return
    table = columns(hook.removeprefix("inverse_").rstrip("s"), "what it is")
    for key, entry in found.table(hook).items():
        table.add_row(key, line(entry.thing))
    show(table)


def _explain(cls: Any) -> None:
    import inspect

    from inverse.registry.options import options, text

    print(f"{cls.name}\n\n{inspect.cleandoc(cls.__doc__ or '').split('Args:')[0].strip()}\n")
    for label in ("equation", "reference", "claim"):
        if getattr(cls, label, ""):
            print(f"{label}: {getattr(cls, label)}")
    if needs := getattr(cls, "needs", ()):
        from inverse.method import NEEDS

        print(f"needs: {', '.join(NEEDS[need][0] for need in needs)}")
    table = columns("option", "type", "default", "what it is")
    for option in options(cls):
        table.add_row(option.name, option.type, text(option.default), option.help)
    print()
    show(table)


def _plugin_command(name: str, ctx: Any) -> Any:
    """A command that a plug-in adds through `inverse_commands`, or None."""
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
