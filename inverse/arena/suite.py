"""A suite: which methods meet which problems, on how many truths and seeds, under which budgets. Written as TOML.

title = "Two methods on a blur"
truths = [0, 1]                     # indices among the problem's truths
seeds = [0]                         # of noise and methods
samples = 1
metrics = ["psnr", "misfit"]

[[problems]]
name = "deblur"
crop = 128                          # squares cut from the photographs (pixels)

[[methods]]
name = "dps"
grid = { zeta = [0.5, 1.0] }        # every combination competes

[[budgets]]
nfe = 100                           # prior evaluations and VJPs together
"""

from __future__ import annotations

import itertools
import json
import re
import tomllib
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
    """A TOML table; a key that nobody asked for is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProblemEntry(Table):
    """A problem with its options; `crop` cuts photographs into squares of that side, `truths` overrides the suite's."""

    name: str
    options: dict[str, Scalar] = {}
    prior: str | None = None
    crop: Positive | None = None
    truths: Annotated[list[Natural], Field(min_length=1)] | None = None


class Tuning(Table):
    """The split on which a method's options were chosen; none of its truths may be in the suite."""

    problem: str
    truths: Annotated[list[Natural], Field(min_length=1)]
    seeds: list[Natural] = [0]
    metric: str
    trials: Positive

    def __str__(self) -> str:
        truths, seeds = ",".join(map(str, self.truths)), ",".join(map(str, self.seeds))
        return f"tuned on {self.problem}, truths {truths}, seeds {seeds}: {self.metric}, {self.trials} trials"


class MethodEntry(Table):
    """A method with its options; every combination of the `grid` competes. `problems` restricts it to these."""

    name: str
    options: dict[str, Scalar] = {}
    grid: dict[str, Annotated[list[Scalar], Field(min_length=1)]] = {}
    problems: list[str] | None = None
    samples: Positive | None = None
    tuned: Tuning | None = None

    @model_validator(mode="after")
    def _disjoint(self) -> MethodEntry:
        if twice := sorted(self.options.keys() & self.grid.keys()):
            raise ValueError(f"{', '.join(twice)} stands both in options and in the grid")
        for name, values in self.grid.items():
            if len({json.dumps(v) for v in values}) < len(values):
                raise ValueError(f"grid: a value of {name} stands there twice")
        return self

    def combinations(self) -> list[dict[str, Any]]:
        """The options of every combination of the grid."""
        names = list(self.grid)
        return [
            {**self.options, **dict(zip(names, values, strict=True))}
            for values in itertools.product(*self.grid.values())
        ]


class Budget(Table):
    """Limits of one sample: nfe counts prior evaluations and VJPs together, vjp counts VJPs alone, seconds are wall time of the whole solve."""

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
        return self.model_dump(exclude_none=True)


class Suite(Table):
    """What is to be run."""

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
        """The budgets as plain tables, None standing for no limit."""
        return [budget.limits for budget in self.budgets] or [None]


def shipped() -> dict[str, Path]:
    """The registered suites by name."""
    return {name: entry.thing for name, entry in registry().table("inverse_suites").items()}


def load_suite(name: str | Path) -> Suite:
    """Read a suite by path, or a shipped one by name, and check every name, option and combination in it.

    Raises: InputError that names the file, the line and the key.
    """
    path = Path(name)
    if path.suffix != ".toml":
        known = shipped()
        if str(name) not in known:
            raise InputError(
                f"suite '{name}' is neither a .toml file nor a shipped suite; {suggestion(str(name), known)}"
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
        raise _at(
            path, text, _clean(error.errors()[0]["loc"]), _words(error.errors()[0])
        ) from error
    check(suite, path, text)
    return suite


def check(suite: Suite, path: Path, text: str) -> None:
    """Build every problem and method of a suite once, so that a wrong name or an impossible combination is found before anything runs."""
    metrics = registered_metrics()
    for index, metric in enumerate(suite.metrics):
        if metric not in metrics:
            raise _at(
                path,
                text,
                ("metrics", index),
                f"metric '{metric}' is not known; {suggestion(metric, metrics)}",
            )
        try:
            metrics[metric].ready()
        except InputError as error:
            raise _at(path, text, ("metrics", index), str(error)) from error
    tested: dict[str, set[int]] = {}
    for index, problem in enumerate(suite.problems):
        try:
            thing = get_problem(problem.name, **problem.options)
        except InverseError as error:
            raise _at(path, text, ("problems", index, "name"), str(error)) from error
        if problem.crop is not None and not _croppable(thing):
            raise _at(
                path,
                text,
                ("problems", index, "crop"),
                f"{problem.name} is not made of photographs, which crop is for",
            )
        tested.setdefault(problem.name, set()).update(problem.truths or suite.truths)
    for index, method in enumerate(suite.methods):
        _check_method(
            suite,
            method,
            tested,
            lambda key, words, index=index: _at(path, text, ("methods", index, key), words),
        )  # type: ignore[misc]


def _check_method(
    suite: Suite, method: MethodEntry, tested: dict[str, set[int]], error_at: Any
) -> None:
    for options in method.combinations():
        try:
            get_method(method.name, **options)
        except OptionError as error:
            raise error_at(
                "grid" if method.grid else "options",
                f"{error} (with {options})" if method.grid else str(error),
            ) from error
        except InverseError as error:
            raise error_at("name", str(error)) from error
    if stray := sorted(set(method.problems or ()) - tested.keys()):
        raise error_at(
            "problems",
            f"{method.name}: no problem '{stray[0]}' in this suite; {suggestion(stray[0], tested)}",
        )
    if method.tuned and (
        shared := sorted(set(method.tuned.truths) & tested.get(method.tuned.problem, set()))
    ):
        raise error_at(
            "tuned",
            f"{method.name} was tuned on truths {shared} of {method.tuned.problem}, on which this suite tests it; take others",
        )


def _croppable(problem: Any) -> bool:
    from inverse.problem import ImageProblem

    return isinstance(problem, ImageProblem)


# --- where in the file ----------------------------------------------------------------------------


def _clean(location: tuple[Any, ...]) -> tuple[Any, ...]:
    """The path of a key without what pydantic adds for the members of a union."""
    names = (
        set(Suite.model_fields)
        | set(ProblemEntry.model_fields)
        | set(MethodEntry.model_fields)
        | set(Tuning.model_fields)
        | set(Budget.model_fields)
    )
    head = location[:3]
    return (
        head
        if len(head) < 3 or isinstance(head[2], int) or head[2] in names or len(location) == 3
        else head[:2]
    )


def _words(error: Any) -> str:
    given = error.get("input")
    found = (
        f", got {given!r}"
        if error["type"] not in ("missing", "extra_forbidden", "value_error")
        and isinstance(given, str | int | float | list)
        else ""
    )
    if error["type"] == "extra_forbidden":
        location = _clean(error["loc"])
        table: Any = (
            {"problems": ProblemEntry, "methods": MethodEntry, "budgets": Budget}.get(
                str(location[0]), Suite
            )
            if len(location) > 1
            else Suite
        )
        table = Tuning if "tuned" in location[:-1] else table
        return f"no such key; {suggestion(str(location[-1]), table.model_fields)}"
    return error["msg"].removeprefix("Value error, ").rstrip(".") + found


def _at(path: Path, text: str, location: tuple[Any, ...], words: str) -> InputError:
    key = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in location)
    return InputError(f"suite {path}, line {line_of(text, location)}, {key}: {words}")


def line_of(text: str, location: tuple[Any, ...]) -> int:
    """The line (from 1) of a key such as ("methods", 1, "grid"): that of its table where the key is not written there."""
    lines = text.splitlines()
    start, end, names = (
        0,
        next((i for i, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines)),
        list(location),
    )
    if len(location) > 1 and isinstance(location[1], int):
        headers = [
            i
            for i, line in enumerate(lines)
            if re.match(rf"\s*\[\[\s*{re.escape(str(location[0]))}\s*\]\]", line)
        ]
        if location[1] < len(headers):
            start = headers[location[1]]
            end = next(
                (i for i in range(start + 1, len(lines)) if re.match(r"\s*\[\[", lines[i])),
                len(lines),
            )
            names = list(location[2:])
    for name in [part for part in names if isinstance(part, str)][:1]:
        pattern = rf"\s*(\[\s*\w+\s*\.\s*)?[\"']?{re.escape(name)}[\"']?\s*(=|\.|\])"
        return next((i + 1 for i in range(start, end) if re.match(pattern, lines[i])), start + 1)
    return start + 1
