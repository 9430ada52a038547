"""Chooses the options of a method on a tuning split: truths that no suite may test on afterwards.

Optuna proposes options, and the arena computes the cells.
"""

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
    """Values of an option: an interval (linear or logarithmic, real or whole), or choices."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read "zeta=0.1:10:log", "inner_steps=1:20" or "solver=cg|gmres".

        Raises: OptionError for other text.
        """
        name, _, rest = text.partition("=")
        if name and "|" in rest:
            return cls(name, choices=tuple(rest.split("|")))
        try:
            low, high, *log = rest.split(":")
            whole = low.lstrip("+-").isdigit() and high.lstrip("+-").isdigit()
            interval = cls(name, float(low), float(high), bool(log), whole)
            is_valid = interval.low < interval.high and not (log and interval.low <= 0)
            if not name or log not in ([], ["log"]) or not is_valid:
                raise ValueError(text)
        except ValueError as error:
            raise OptionError(
                "tune: --range takes name=low:high, name=low:high:log (low above 0) or name=a|b, "
                f"got '{text}'"
            ) from error
        return interval

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
    """The best options with their mean loss, and the mean loss of the defaults."""

    options: dict[str, Any]
    score: float
    default: float


def tune(task: Task, progress: Callable[[int, float], None] = lambda trial, best: None) -> Tuned:
    """Search the ranges by Optuna's tree-structured Parzen estimator, after the defaults.

    Args:
        progress: called with the number of each trial and its loss.

    Raises: InputError if optuna is not installed, the metric has no direction, or no trial
        finished.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "tune: the package optuna is not installed; pip install 'inverse-posterior[tune]'"
        ) from error
    if metric(task.split.metric).better is None:
        raise InputError(
            f"tune: metric '{task.split.metric}' has no direction; use psnr, rmse, crps, ..."
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    loss = _Objective(task)
    default = loss({})
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=task.seed))

    def objective(trial: Any) -> float:
        trial_loss = loss({r.name: r.suggest(trial) for r in task.ranges})
        progress(trial.number + 1, trial_loss)
        if not math.isfinite(trial_loss):
            raise optuna.TrialPruned
        return trial_loss

    study.optimize(objective, n_trials=task.split.trials)
    if all(trial.value is None for trial in study.trials):
        reason = loss.reason or "the metric applies to none of them"
        raise InputError(f"tune: none of {len(study.trials)} trials finished; {reason}")
    return Tuned({**task.options, **study.best_params}, study.best_value, default)


def disjoint(task: Task, suite: Suite) -> None:
    """Check that the split and a suite share no truth.

    Raises: InputError with the truths that they share.
    """
    tested = {
        t
        for problem in suite.problems
        if problem.name == task.problem
        for t in problem.truths or suite.truths
    }
    if shared := sorted(tested & set(task.split.truths)):
        raise InputError(
            f"tune: the suite tests on truths {shared} of {task.problem}; use other truths"
        )


def entry(task: Task, tuned: Tuned) -> str:
    """The entry of a suite for these options, TOML."""
    options = ", ".join(f"{name} = {json.dumps(option)}" for name, option in tuned.options.items())
    split = task.split
    return (
        f'[[methods]]\nname = "{task.method}"\nproblems = ["{task.problem}"]\n'
        f"options = {{ {options} }}\n"
        f'tuned = {{ problem = "{split.problem}", truths = {split.truths}, '
        f'seeds = {split.seeds}, metric = "{split.metric}", trials = {split.trials} }}\n'
    )


class _Objective:
    """Mean loss over the split, infinite if a cell fails; `reason` is that of the last failure."""

    def __init__(self, task: Task):
        self.task, self.worker, self.bank, self.reason = task, Worker(), Bank(None), ""
        self.problem = get_problem(task.problem, **task.problem_options)
        prior = self.problem.resolve_prior(task.prior)
        self.prior = {
            "name": getattr(prior, "name", type(prior).__name__),
            "sha256": prior_hash(prior),
            "source": task.prior,
        }
        self.description = describe(self.problem, version_of(type(self.problem)), task.crop)

    def __call__(self, varied: dict[str, Any]) -> float:
        task = self.task
        try:
            method = get_method(task.method, **{**task.options, **varied})
        except OptionError as error:  # a combination that the method refuses is a trial that fails
            self.reason = str(error)
            return math.inf
        description: dict[str, Any] = {
            "name": task.method,
            "options": plain(values(method)),
            "version": version_of(type(method)),
            "given": varied,
        }
        cell = Cell(
            problem=self.description,
            method=description,
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
            observation = self.bank.get(
                self.problem, self.description, task.split.truths[0], "budget"
            )
            fit = self.worker.steps_within(
                cell, observation, task.budget, "steps" in {**task.options, **varied}
            )
            if fit.skip:
                self.reason = fit.skip
                return math.inf
            if fit.steps is not None:
                cell = replace(
                    cell,
                    method={
                        **description,
                        "options": {**description["options"], "steps": fit.steps},
                    },
                )
        losses = []
        for truth in task.split.truths:
            for seed in task.split.seeds:
                record = self.worker.compute(
                    replace(cell, truth=truth, seed=seed),
                    self.bank.get(self.problem, self.description, truth, seed),
                ).record
                score = record.metrics.get(task.split.metric)
                if score is None or not math.isfinite(score):
                    self.reason = record.reason or f"{task.split.metric} does not apply"
                    return math.inf
                losses.append(metric(task.split.metric).loss(score))
        return sum(losses) / len(losses)
