"""Measurements of unseen signals, y_i = A_i x_i + n_i, with the operators of one problem.

measurements.npz:  y (N, *out_shape);  an array (N,) for each option that varies, e.g. mask_seed
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError, OptionError, suggestion
from inverse.measurement import operators
from inverse.measurement.noise import GaussianNoise
from inverse.posterior import Posterior
from inverse.priors.prior import Prior
from inverse.problem import Problem
from inverse.registry.options import build, options, values
from inverse.seeding import seeded

PARTS = 64
"""Measurements that are solved together."""


@dataclass(frozen=True)
class Group:
    """Measurements with one operator and one law of the noise.

    Args:
        problem: with the options of the group.
        members: their indices (n,).
    """

    problem: Problem
    members: Tensor


@dataclass(frozen=True)
class Measurements:
    """Measurements of N signals.

    Args:
        y: (N, *out_shape).
        groups: every index is a member of one group.
    """

    y: Tensor
    groups: list[Group]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a signal."""
        return self.groups[0].problem.signal_shape(tuple(self.y.shape[1:]))

    def posteriors(self, prior: Prior) -> Iterator[tuple[Tensor, Posterior]]:
        """Indices (n,) and the posterior of their measurements, at most `PARTS` at a time."""
        for group in self.groups:
            for members in group.members.split(PARTS):
                yield members, group.problem.posterior(y=self.y[members], prior=prior)


def read_measurements(path: Path, problem: Problem) -> Measurements:
    """The measurements of a file.

    Args:
        path: .npz with `y` (N, *out_shape), and arrays (N,) named as options of the problem.
        problem: its options that do not vary.

    Raises: InputError if the file cannot be read or its arrays do not fit together; OptionError or
        UnknownNameError for a value that an option does not admit.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"measurements {path}: not a readable .npz file ({error})") from error
    if "y" not in arrays:
        found = ", ".join(arrays) or "nothing"
        raise InputError(f"measurements {path}: it holds no array y, found {found}")
    y = torch.from_numpy(np.asarray(arrays.pop("y"), dtype=np.float32))
    if y.ndim < 2 or not len(y) or not bool(torch.isfinite(y).all()):
        raise InputError(
            f"measurements {path}: y must hold finite numbers (N, *out_shape), "
            f"found shape {tuple(y.shape)}"
        )
    known = [option.name for option in options(type(problem))]
    for name, array in arrays.items():
        if name not in known:
            raise InputError(
                f"measurements {path}: {problem.name} has no option '{name}'; "
                f"{suggestion(name, known)}"
            )
        if array.shape != (len(y),):
            raise InputError(
                f"measurements {path}: {name} must have one value for each of the {len(y)} "
                f"measurements, found shape {array.shape}"
            )
    return Measurements(y, _groups(problem, {k: v.tolist() for k, v in arrays.items()}, len(y)))


def _groups(problem: Problem, varied: dict[str, list[Any]], count: int) -> list[Group]:
    members: dict[tuple[Any, ...], list[int]] = {}
    for i in range(count):
        members.setdefault(tuple(column[i] for column in varied.values()), []).append(i)
    fixed = values(problem)
    return [
        Group(build(type(problem), fixed | dict(zip(varied, key, strict=True))), torch.tensor(own))
        for key, own in members.items()
    ]


def simulate(problem: Problem, signals: Tensor, seed: int = 0, **varied: list[Any]) -> Measurements:
    """Measurements of known signals (N, *shape), for experiments.

    Args:
        varied: option -> N values.
    """
    groups = _groups(problem, varied, len(signals))
    y: list[Tensor] = [torch.empty(0)] * len(signals)
    for k, group in enumerate(groups):
        measured = group.problem.measure(signals[group.members], seeded(seed, "simulate", k))
        for i, row in zip(group.members.tolist(), measured, strict=True):
            y[i] = row
    return Measurements(torch.stack(y), groups)


def write_measurements(path: Path, data: Measurements, varied: dict[str, list[Any]]) -> None:
    """Write a file that `read_measurements` reads."""
    arrays: dict[str, Any] = {name: np.asarray(column) for name, column in varied.items()}
    np.savez(path, y=data.y.numpy(), **arrays)


@dataclass(frozen=True)
class Coverage:
    """The part of the space of signals that no operator sees.

    Args:
        unseen: share of the dimensions.
        picture: root mean square of unit white noise after projection onto that part (*shape).
    """

    unseen: float
    picture: Tensor

    def warning(self) -> str | None:
        """What the user should know, or None if every direction is seen."""
        if self.unseen < 0.5 / self.picture.numel():
            return None
        dimensions = round(self.unseen * self.picture.numel())
        return (
            f"{self.unseen:.1%} of the space of signals ({dimensions} of {self.picture.numel()} "
            "dimensions) was never measured; there the prior is what it started from, and no "
            "number of such measurements can tell it; vary the operator"
        )


def coverage(data: Measurements, probes: int = 8, iterations: int = 60) -> Coverage:
    """Which directions lie in the null space of sum_i A_i^T A_i.

    Probes z of white noise are projected onto its range by conjugate gradients on S w = S z, which
    converge to the projection of z from zero; z - w is what is never seen.

    Args:
        probes: number of probes; `unseen` has a relative error of about sqrt(2 / (probes d)).
        iterations: largest number of iterations of the solver.
    """
    weights = torch.tensor([len(group.members) for group in data.groups]).double()
    weights = weights / weights.sum()
    physics = [
        operators.clone(group.problem.operator(data.shape), torch.device("cpu"), torch.float64)
        for group in data.groups
    ]
    z = torch.randn(
        probes, *data.shape, dtype=torch.float64, generator=seeded("coverage of the operators")
    )

    def information(v: Tensor) -> Tensor:
        parts = [w * p.A_adjoint(p.A(v)) for w, p in zip(weights.tolist(), physics, strict=True)]
        return torch.stack(parts).sum(0)

    w = _projection(information, z, iterations)
    left = z - w
    unseen = float((left * z).sum() / z.square().sum())
    return Coverage(max(0.0, unseen), left.square().mean(0).sqrt())


def _projection(information: Any, z: Tensor, iterations: int) -> Tensor:
    """The projection of each row of z onto the range of a symmetric operator, from zero."""
    axes = tuple(range(1, z.ndim))
    w, r = torch.zeros_like(z), information(z)
    p, rr = r, r.square().sum(axes, keepdim=True)
    start = rr.clone()
    for _ in range(iterations):
        if bool((rr <= 1e-20 * start).all()):
            break
        q = information(p)
        alpha = rr / (p * q).sum(axes, keepdim=True).clamp_min(1e-300)
        w, r = w + alpha * p, r - alpha * q
        new = r.square().sum(axes, keepdim=True)
        p, rr = r + (new / rr.clamp_min(1e-300)) * p, new
    return w


def check_linear(data: Measurements) -> None:
    """Raises OptionError unless operators are linear and noise is Gaussian, with sigma_y > 0."""
    for group in data.groups:
        noise = group.problem.noise(data.shape)
        if not isinstance(noise, GaussianNoise) or noise.noiseless:
            raise OptionError("train: --from-measurements needs Gaussian noise with sigma_y > 0")
        if not operators.is_linear(group.problem.operator(data.shape)):
            raise OptionError(
                f"train: --from-measurements needs linear operators; {group.problem.name} is not"
            )
