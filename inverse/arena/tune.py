"""Chooses a method's options on a tuning split: truths that no suite may test on afterwards. Optuna proposes, the arena computes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from inverse.arena.bank import Bank
from inverse.arena.cell import Cell, describe, plain
from inverse.arena.source import prior_hash
from inverse.arena.suite import Suite, Tuning
from inverse.arena.values import metric
from inverse.arena.worker import Worker
from inverse.errors import InputError, OptionError
from inverse.registry.discovery import get_method, get_problem
from inverse.registry.options import values
from inverse.registry.source import version_of
from inverse.seeding import check_seed


@dataclass(frozen=True)
class Range:
    """Values that an option may take: from low to high, logarithmically or not, whole numbers or not; or one of the choices."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read "zeta=0.1:10:log", "inner_steps=1:20" or "solver=cg|gmres".

        Raises: OptionError if it is none of these.
        """
        name, _, rest = text.partition("=")
        if name and "|" in rest:
            return cls(name, choices=tuple(rest.split("|")))
        try:
            low, high, *log = rest.split(":")
            whole = low.lstrip("+-").isdigit() and high.lstrip("+-").isdigit()
            found = cls(name, float(low), float(high), bool(log), whole)
            if (
                not name
                or log not in ([], ["log"])
                or not found.low < found.high
                or (log and found.low <= 0)
            ):
                raise ValueError(text)
        except ValueError as error:
            raise OptionError(
                f"tune: --range takes name=low:high, name=low:high:log (low above 0) or name=a|b, got '{text}'"
            ) from error
        return found

    def suggest(self, trial: Any) -> Any:
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Task:
    """What is tuned.

    Args:
        method, problem: names.
        split: truths, seeds, metric and trials.
        ranges: of the options that vary.
        options, problem_options: those that do not.
        budget: limits under which every trial runs.
    """

    method: str
    problem: str
    split: Tuning
    ranges: tuple[Range, ...]
    options: dict[str, Any]
    problem_options: dict[str, Any]
    prior: str | None = None
    crop: int | None = None
    samples: int = 1
    budget: dict[str, float] | None = None
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed, bits=32)


@dataclass(frozen=True)
class Tuned:
    """The best options with their score, and that of the defaults."""

    options: dict[str, Any]
    score: float
    default: float


def tune(task: Task, progress: Callable[[int, float], None] = lambda trial, best: None) -> Tuned:
    """Search the ranges by Optuna's tree-structured Parzen estimator; the defaults are tried first.

    Raises: InputError if optuna is not installed, the metric has no direction, or no trial finished.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "tune: the package optuna is not installed; pip install 'inverse-posterior[tune]'"
        ) from error
    if metric(task.split.metric).better is None:
        raise InputError(
            f"tune: metric '{task.split.metric}' has no direction; take psnr, rmse, crps, ..."
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    loss = _Objective(task)
    default = loss({})
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=task.seed))

    def objective(trial: Any) -> float:
        found = loss({r.name: r.suggest(trial) for r in task.ranges})
        progress(trial.number + 1, found)
        if not math.isfinite(found):
            raise optuna.TrialPruned
        return found

    study.optimize(objective, n_trials=task.split.trials)
    done = [trial for trial in study.trials if trial.value is not None]
    if not done:
        raise InputError(
            f"tune: none of {len(study.trials)} trials finished; {loss.reason or 'the metric applies to none of them'}"
        )
    return Tuned({**task.options, **study.best_params}, study.best_value, default)


def disjoint(task: Task, suite: Suite) -> None:
    """Check that the split has no truth of a suite.

    Raises: InputError naming those that it has.
    """
    tested = {
        t
        for problem in suite.problems
        if problem.name == task.problem
        for t in problem.truths or suite.truths
    }
    if shared := sorted(tested & set(task.split.truths)):
        raise InputError(f"tune: the suite tests on truths {shared} of {task.problem}; take others")


def entry(task: Task, tuned: Tuned) -> str:
    """The entry for a suite, TOML."""
    options = ", ".join(f"{name} = {json.dumps(option)}" for name, option in tuned.options.items())
    split = task.split
    return (
        f'[[methods]]\nname = "{task.method}"\nproblems = ["{task.problem}"]\noptions = {{ {options} }}\n'
        f'tuned = {{ problem = "{split.problem}", truths = {split.truths}, seeds = {split.seeds}, metric = "{split.metric}", trials = {split.trials} }}\n'
    )


class _Objective:
    """Mean loss over the split, infinite where a cell fails; `reason` says why the last one did."""

    def __init__(self, task: Task):
        self.task, self.worker, self.bank, self.reason = task, Worker(), Bank(None), ""
        self.problem = get_problem(task.problem, **task.problem_options)
        prior = self.problem.resolve_prior(task.prior)
        self.prior = {
            "name": getattr(prior, "name", type(prior).__name__),
            "sha256": prior_hash(prior),
            "source": task.prior,
        }
        self.about = describe(self.problem, version_of(type(self.problem)), task.crop)

    def __call__(self, varied: dict[str, Any]) -> float:
        task = self.task
        try:
            method = get_method(task.method, **{**task.options, **varied})
        except OptionError as error:  # a combination that the method refuses is a trial that fails
            self.reason = str(error)
            return math.inf
        about: dict[str, Any] = {
            "name": task.method,
            "options": plain(values(method)),
            "version": version_of(type(method)),
            "given": varied,
        }
        cell = Cell(
            problem=self.about,
            method=about,
            prior=self.prior,
            truth=0,
            seed=0,
            samples=task.samples,
            budget=task.budget,
            device=task.device,
            dtype=task.dtype,
            metrics=(task.split.metric,),
        )
        if task.budget is not None:
            observation = self.bank.get(self.problem, self.about, task.split.truths[0], "budget")
            fit = self.worker.steps_within(
                cell, observation, task.budget, "steps" in {**task.options, **varied}
            )
            if fit.skip:
                self.reason = fit.skip
                return math.inf
            if fit.steps is not None:
                cell = replace(
                    cell, method={**about, "options": {**about["options"], "steps": fit.steps}}
                )
        losses = []
        for truth in task.split.truths:
            for seed in task.split.seeds:
                record = self.worker.compute(
                    replace(cell, truth=truth, seed=seed),
                    self.bank.get(self.problem, self.about, truth, seed),
                ).record
                score = record.metrics.get(task.split.metric)
                if score is None or not math.isfinite(score):
                    self.reason = record.reason or f"{task.split.metric} does not apply"
                    return math.inf
                losses.append(metric(task.split.metric).loss(score))
        return sum(losses) / len(losses)
