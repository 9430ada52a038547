"""A suite (TOML): methods and problems, with their truths, seeds and budgets.

title = "Two methods on a blur"
truths = [0, 1]                     # indices among the truths of the problem
seeds = [0]                         # random seeds for the noise and the methods
samples = 1
metrics = ["psnr", "misfit"]

[[problems]]
name = "deblur"
crop = 128                          # side of the squares cut from photographs (pixels)

[[methods]]
name = "dps"
grid = { zeta = [0.5, 1.0] }        # every combination is a contestant

[[budgets]]
nfe = 100                           # prior evaluations and VJPs together
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inverse.errors import InputError, InverseError, OptionError, suggestion
from inverse.metrics.registered import registered_metrics
from inverse.registry.discovery import get_method, get_problem, registry

Natural = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[int, Field(ge=1, strict=True)]
Scalar = bool | int | float | str | list[int | float | str]


class Table(BaseModel):
    """A TOML table; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProblemEntry(Table):
    """A problem with its options.

    Args:
        prior: name or file; None for the suite's.
        crop: side of the squares that photographs are cut into (pixels).
        truths: overrides the truths of the suite.
    """

    name: str
    options: dict[str, Scalar] = {}
    prior: str | None = None
    crop: Positive | None = None
    truths: Annotated[list[Natural], Field(min_length=1)] | None = None


class Tuning(Table):
    """The split that a method's options were chosen on; the suite may test none of its truths."""

    problem: str
    truths: Annotated[list[Natural], Field(min_length=1)]
    seeds: list[Natural] = [0]
    metric: str
    trials: Positive

    def __str__(self) -> str:
        truths, seeds = ",".join(map(str, self.truths)), ",".join(map(str, self.seeds))
        split = f"tuned on {self.problem}, truths {truths}, seeds {seeds}"
        return f"{split}: {self.metric}, {self.trials} trials"


class MethodEntry(Table):
    """A method with its options.

    Args:
        grid: values of options; every combination is a contestant.
        problems: names of the problems that the method runs on; None for all.
        samples: overrides the samples of the suite.
        tuned: the split that the options come from.
    """

    name: str
    options: dict[str, Scalar] = {}
    grid: dict[str, Annotated[list[Scalar], Field(min_length=1)]] = {}
    problems: list[str] | None = None
    samples: Positive | None = None
    tuned: Tuning | None = None

    @model_validator(mode="after")
    def _disjoint(self) -> MethodEntry:
        if twice := sorted(self.options.keys() & self.grid.keys()):
            raise ValueError(f"{', '.join(twice)} is both in options and in the grid")
        for name, values in self.grid.items():
            if len({json.dumps(v) for v in values}) < len(values):
                raise ValueError(f"grid: a value of {name} appears twice")
        return self

    def combinations(self) -> list[dict[str, Any]]:
        """All combinations of the grid, each with the fixed options."""
        names = list(self.grid)
        return [
            {**self.options, **dict(zip(names, values, strict=True))}
            for values in itertools.product(*self.grid.values())
        ]


class Budget(Table):
    """Limits of a run.

    Args:
        nfe: prior evaluations and VJPs together, per sample.
        vjp: VJPs, per sample.
        seconds: wall time of the whole solve.
    """

    nfe: Positive | None = None
    vjp: Natural | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _limited(self) -> Budget:
        if not self.limits:
            raise ValueError("a budget needs nfe, vjp or seconds")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return self.model_dump(exclude_none=True)


class Suite(Table):
    """Problems and methods to run, and how."""

    title: str = ""
    problems: Annotated[list[ProblemEntry], Field(min_length=1)]
    methods: Annotated[list[MethodEntry], Field(min_length=1)]
    truths: Annotated[list[Natural], Field(min_length=1)] = [0]
    seeds: Annotated[list[Natural], Field(min_length=1)] = [0]
    samples: Positive = 1
    budgets: list[Budget] = []
    metrics: Annotated[list[str], Field(min_length=1)] = ["psnr", "ssim", "rmse", "misfit"]
    prior: str | None = None
    device: str = "cpu"
    dtype: Literal["float32", "float64", "bf16"] = "float32"
    executor: Literal["local", "ray"] = "local"
    gpus: Annotated[float, Field(ge=0)] = 0

    @property
    def limits(self) -> list[dict[str, float] | None]:
        """The limits of each budget; [None] without budgets."""
        return [budget.limits for budget in self.budgets] or [None]


def shipped() -> dict[str, Path]:
    """The registered suites by name."""
    return {name: entry.thing for name, entry in registry().table("inverse_suites").items()}


def load_suite(name: str | Path) -> Suite:
    """Read a suite by its path, or a shipped one by its name, and check it.

    Raises: InputError with the file, the line and the key.
    """
    path = Path(name)
    if path.suffix != ".toml":
        known = shipped()
        if str(name) not in known:
            raise InputError(
                f"suite '{name}' is neither a .toml file nor a shipped suite; "
                f"{suggestion(str(name), known)}"
            )
        path = known[str(name)]
    try:
        text = path.read_text()
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"suite {path}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"suite {path}: not TOML ({error})") from error
    try:
        suite = Suite(**table)
    except ValidationError as error:
        first = error.errors()[0]
        raise _error_at(path, text, _key_path(first["loc"]), _message(first)) from error
    check(suite, path, text)
    return suite


def check(suite: Suite, path: Path, text: str) -> None:
    """Build every problem and method of a suite once, to find errors before anything runs.

    Raises: InputError with the file, the line and the key.
    """
    error_at = functools.partial(_error_at, path, text)
    metrics = registered_metrics()
    for index, metric in enumerate(suite.metrics):
        if metric not in metrics:
            unknown = f"metric '{metric}' is not known; {suggestion(metric, metrics)}"
            raise error_at(("metrics", index), unknown)
        try:
            metrics[metric].ready()
        except InputError as error:
            raise error_at(("metrics", index), str(error)) from error
    tested: dict[str, set[int]] = {}
    for index, problem in enumerate(suite.problems):
        try:
            built = get_problem(problem.name, **problem.options)
        except InverseError as error:
            raise error_at(("problems", index, "name"), str(error)) from error
        if problem.crop is not None and not _has_photographs(built):
            reason = f"crop needs a problem of photographs, which {problem.name} is not"
            raise error_at(("problems", index, "crop"), reason)
        tested.setdefault(problem.name, set()).update(problem.truths or suite.truths)
    for index, method in enumerate(suite.methods):
        _check_method(method, ("methods", index), tested, error_at)


def _check_method(
    method: MethodEntry,
    location: tuple[Any, ...],
    tested: dict[str, set[int]],
    error_at: Callable[[tuple[Any, ...], str], InputError],
) -> None:
    """Check a method against the truths that each problem of the suite tests on."""
    for options in method.combinations():
        try:
            get_method(method.name, **options)
        except OptionError as error:
            if method.grid:
                raise error_at((*location, "grid"), f"{error} (with {options})") from error
            raise error_at((*location, "options"), str(error)) from error
        except InverseError as error:
            raise error_at((*location, "name"), str(error)) from error
    if stray := sorted(set(method.problems or ()) - tested.keys()):
        suggested = suggestion(stray[0], tested)
        message = f"{method.name}: no problem '{stray[0]}' in this suite; {suggested}"
        raise error_at((*location, "problems"), message)
    if not method.tuned:
        return
    if shared := sorted(set(method.tuned.truths) & tested.get(method.tuned.problem, set())):
        raise error_at(
            (*location, "tuned"),
            f"{method.name} was tuned on truths {shared} of {method.tuned.problem}, "
            "on which this suite tests it; use other truths",
        )


def _has_photographs(problem: Any) -> bool:
    from inverse.problem import ImageProblem

    return isinstance(problem, ImageProblem)


# --- where in the file ------------------------------------------------------------------------


def _key_path(location: tuple[Any, ...]) -> tuple[Any, ...]:
    """The path of a key without the parts that pydantic adds for the members of a union."""
    tables = (Suite, ProblemEntry, MethodEntry, Tuning, Budget)
    names = {name for table in tables for name in table.model_fields}
    head = location[:3]
    if len(location) > 3 and not isinstance(head[2], int) and head[2] not in names:
        return head[:2]
    return head


def _message(error: Any) -> str:
    """An error of pydantic in words."""
    if error["type"] == "extra_forbidden":
        location = _key_path(error["loc"])
        table: Any = Suite
        if len(location) > 1:
            entries = {"problems": ProblemEntry, "methods": MethodEntry, "budgets": Budget}
            table = entries.get(str(location[0]), Suite)
        if "tuned" in location[:-1]:
            table = Tuning
        return f"no such key; {suggestion(str(location[-1]), table.model_fields)}"
    message = error["msg"].removeprefix("Value error, ").rstrip(".")
    value = error.get("input")
    if error["type"] in ("missing", "value_error") or not isinstance(
        value, str | int | float | list
    ):
        return message
    return f"{message}, got {value!r}"


def _error_at(path: Path, text: str, location: tuple[Any, ...], message: str) -> InputError:
    key = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in location)
    return InputError(f"suite {path}, line {line_of(text, location)}, {key}: {message}")


def line_of(text: str, location: tuple[Any, ...]) -> int:
    """Line (from 1) of a key such as ("methods", 1, "grid"); of its table if the key is missing."""
    lines = text.splitlines()
    start, names = 0, list(location)
    end = next((i for i, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    if len(location) > 1 and isinstance(location[1], int):
        header = rf"\s*\[\[\s*{re.escape(str(location[0]))}\s*\]\]"
        headers = [i for i, line in enumerate(lines) if re.match(header, line)]
        if location[1] < len(headers):
            start, names = headers[location[1]], list(location[2:])
            later = range(start + 1, len(lines))
            end = next((i for i in later if re.match(r"\s*\[\[", lines[i])), len(lines))
    for name in [part for part in names if isinstance(part, str)][:1]:
        pattern = rf"\s*(\[\s*\w+\s*\.\s*)?[\"']?{re.escape(name)}[\"']?\s*(=|\.|\])"
        return next((i + 1 for i in range(start, end) if re.match(pattern, lines[i])), start + 1)
    return start + 1
