"""The requests of `inverse solve`, `diagnose` and `compare`: every option, declared once.

Nothing in this module imports torch.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from inverse.errors import OptionError
from inverse.io.command_line import (
    Device,
    MethodName,
    MethodOptions,
    PluginFiles,
    PriorName,
    ProblemName,
    ProblemOptions,
    assignments,
)
from inverse.registry.defaults import default


class _NamedOptions:
    """What requests share: the options of the problem and of the method by name."""

    problem_option: list[str]
    method_option: list[str]

    @property
    def problem_options(self) -> dict[str, str]:
        """The options of the problem by name.

        Raises: OptionError for text that is not NAME=VALUE.
        """
        return assignments(self.problem_option, "--problem-option")

    @property
    def method_options(self) -> dict[str, Any]:
        """The options of the method by name.

        Raises: OptionError for text that is not NAME=VALUE.
        """
        return dict(assignments(self.method_option, "--set"))


@dataclass(frozen=True)
class Request(_NamedOptions):
    """What the user asks of `inverse solve`.

    A field is an option of the command: its type, its default, its name and its help text. The
    order of the fields is the order of `inverse solve --help`.

    Raises: OptionError if both `input` and `measurement` name files.
    """

    problem: ProblemName = default("solve", "problem")
    method: MethodName = default("solve", "method")
    input: Annotated[
        list[Path],
        typer.Option(
            "--simulate-from",
            "--input",
            help="Your pictures, degraded first and then reconstructed, to test a method: "
            "pictures, .npy, .npz, .h5 or folders.",
            show_default=False,
        ),
    ] = field(default_factory=list)
    measurement: Annotated[
        list[Path],
        typer.Option(
            "--restore",
            "--measurement",
            help="Your measurements (blurred, small, damaged pictures), restored as they are.",
            show_default=False,
        ),
    ] = field(default_factory=list)
    problem_option: ProblemOptions = field(default_factory=list)
    method_option: MethodOptions = field(default_factory=list)
    steps: Annotated[
        int | None, typer.Option(help="Short for --set steps=N.", show_default=False)
    ] = None
    prior: PriorName = None
    samples: Annotated[int, typer.Option(help="Posterior samples for each measurement.")] = 1
    seed: Annotated[
        int, typer.Option(help="Random seed for the measurement noise and the method.")
    ] = 0
    device: Device = "cpu"
    dtype: Annotated[
        str,
        typer.Option(
            help="float32 or float64; bf16 or fp16 for the prior alone (the state stays float32); "
            "auto is bf16 where it is faster and the prior loses less than 0.01 dB."
        ),
    ] = "auto"
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the prior: takes minutes once, pays for many images of one size.",
        ),
    ] = False
    memory: Annotated[
        float | None,
        typer.Option(
            help="Memory that one call of the prior may use (GiB).",
            show_default="most of the free memory",
        ),
    ] = None
    batch: Annotated[
        int | None,
        typer.Option(
            help="Number of images of one size to solve together.",
            show_default="as many as fit and run faster",
        ),
    ] = None
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("out")
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep the results that an earlier, equal request finished."),
    ] = False
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Answer yes to every question, such as one about a large mask."),
    ] = False
    parallel: Annotated[
        str | None,
        typer.Option(
            help="How to divide an image under torchrun: patches or patches:stale.",
            show_default="one process",
        ),
    ] = None
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON record for each result instead of a table."),
    ] = False
    plugin: PluginFiles = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.input and self.measurement:
            raise OptionError(
                "solve: give either --input (or --simulate-from: pictures to degrade) or "
                "--measurement (or --restore: real measurements), not both"
            )

    @property
    def files(self) -> list[Path]:
        """The files and folders to read: ground truths or measurements."""
        return self.input or self.measurement

    @property
    def opening(self) -> str:
        """The first line of output: whether the measurement is simulated or the user's."""
        if self.measurement:
            return "restoring your measurement, no truth known"
        if self.input:
            return "simulated from your picture; --restore restores it as it is"
        return "simulated from a shipped example; --restore FILE restores your own"

    @property
    def measured(self) -> bool:
        """Whether the files are measurements."""
        return bool(self.measurement)

    @property
    def method_options(self) -> dict[str, Any]:
        """The options of the method by name, `steps` included.

        Raises: OptionError for text that is not NAME=VALUE, or for two values of `steps`.
        """
        options = super().method_options
        if self.steps is None:
            return options
        if "steps" in options:
            raise OptionError(
                f"solve: give either --steps {self.steps} or --set steps={options['steps']}, "
                "not both"
            )
        return options | {"steps": self.steps}


@dataclass(frozen=True)
class DiagnosisRequest(_NamedOptions):
    """What the user asks of `inverse diagnose`; a field is an option, as in `Request`."""

    problem: ProblemName = default("diagnose", "problem")
    method: MethodName = default("diagnose", "method")
    input: Annotated[
        list[Path],
        typer.Option(
            help="Held-out ground truths; by default draws from the prior or shipped images.",
            show_default=False,
        ),
    ] = field(default_factory=list)
    problem_option: ProblemOptions = field(default_factory=list)
    method_option: MethodOptions = field(default_factory=list)
    prior: PriorName = None
    simulations: Annotated[
        int | None,
        typer.Option(
            help="Number of ground truths.",
            show_default="200 draws from the prior, or all held-out ground truths",
        ),
    ] = None
    samples: Annotated[int, typer.Option(help="Posterior samples for each measurement.")] = 19
    level: Annotated[
        float,
        typer.Option(help="Largest probability of calling an exact sampler not calibrated."),
    ] = 0.05
    seed: Annotated[
        int,
        typer.Option(
            help="Random seed for the ground truths, the noise, the method and the tests."
        ),
    ] = 0
    device: Device = "cpu"
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32"
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("out")
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record as JSON instead of a table.")
    ] = False
    plugin: PluginFiles = field(default_factory=list)


@dataclass(frozen=True)
class ComparisonRequest(_NamedOptions):
    """What the user asks of `inverse compare`; a field is an option, as in `Request`."""

    problem: ProblemName = default("compare", "problem")
    method: MethodName = default("compare", "method")
    measurement: Annotated[
        Path | None,
        typer.Option(
            "--restore",
            "--measurement",
            help="Your measurement; without one, a shipped example is measured under the first "
            "candidate.",
            show_default=False,
        ),
    ] = None
    problem_option: ProblemOptions = field(default_factory=list)
    method_option: MethodOptions = field(default_factory=list)
    prior: PriorName = None
    samples: Annotated[int, typer.Option(help="Samples for each candidate and repetition.")] = 8
    repetitions: Annotated[
        int, typer.Option(help="Independent estimates of each log p(y); their scatter is shown.")
    ] = 4
    seed: Annotated[int, typer.Option(help="Random seed of the measurement and the method.")] = 0
    device: Device = "cpu"
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32"
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("out")
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record as JSON instead of a table.")
    ] = False
    plugin: PluginFiles = field(default_factory=list)

    @property
    def candidates(self) -> list[tuple[str, dict[str, str], str | None]]:
        """Name, options of the problem and prior of every candidate.

        An option or a prior of several values, separated by commas, makes a candidate of each.
        """
        choices: list[tuple[str, list[str]]] = [
            (name, value.split(",")) for name, value in self.problem_options.items()
        ]
        if self.prior is not None:
            choices.append(("prior", self.prior.split(",")))
        several = [name for name, values in choices if len(values) > 1]
        found = []
        for values in itertools.product(*(values for _, values in choices)):
            chosen = dict(zip((name for name, _ in choices), values, strict=True))
            label = " ".join(f"{name}={chosen[name]}" for name in several)
            found.append((label, chosen, chosen.pop("prior", None)))
        return found


def options_from(request: type) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Decorator: give a function of a request the request's fields as command-line options.

    Args:
        request: a dataclass whose fields are annotated with `typer.Option`.

    Returns: a decorator. The decorated function takes the fields as keywords, builds the request
    and calls the function with it; its signature is what typer reads.
    """
    types = get_type_hints(request, include_extras=True)

    def parameter(option: Any) -> inspect.Parameter:
        value = option.default if option.default_factory is MISSING else option.default_factory()
        return inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=value,
            annotation=types[option.name],
        )

    def decorate(function: Callable[[Any], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**options: Any) -> None:
            function(request(**options))

        command.__annotations__ = types
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter(option) for option in fields(request)]
        )
        return command

    return decorate
