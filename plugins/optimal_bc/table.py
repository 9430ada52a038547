"""Boundary tables: a fitted start x_T* on disk, with the solver, prior and problem it is for.

    x_T* = argmin over candidates z_k ~ N(0, I) of  mean_i d(h(z_k, y_i), x_i)

h is a solver that is deterministic given its start (`optimal_bc.deterministic_solver`).

Ma, Yang, Yang, Fu, Liu, Solving Diffusion ODEs with Optimal Boundary Conditions for Better Image
Super-Resolution, ICLR 2024, https://arxiv.org/abs/2305.15357. Departures: successive halving over
common images in place of every candidate on every image (`optimal_bc.successive_halving`), and
distances that need no weights.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.errors import InputError
from inverse.io.files import atomic_write
from inverse.measurement.noise import GaussianNoise
from inverse.measurement.operators import separable
from inverse.method import Method
from inverse.posterior import Posterior
from inverse.priors.analytic import GaussianPrior
from inverse.priors.prior import Prior
from inverse.registry.discovery import registry
from inverse.registry.options import options, text, values
from inverse_plugins.optimal_bc.deterministic_solver import endpoints, tiled


@dataclass(frozen=True)
class Table:
    """A fitted start and the solver, prior and problem it was fitted for.

    Args:
        x: start (*shape), float32, unit variance.
        scores: loss of each candidate on each reference (K, R), NaN where it was not explored.
        method: name and options of the solver.
        probe: answers of the solver on a small fixed posterior (`fingerprint`).
        prior: name and sha256 of the prior (`prior_sha256`).
        problem: name and options of the problem.
        about: seed, chosen candidate, loss, references and their sha256, versions.
    """

    x: Tensor
    scores: Tensor
    method: dict[str, Any]
    probe: list[float]
    prior: dict[str, str]
    problem: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)

    def misfit(self, method: Method, posterior: Posterior) -> str | None:
        """Why this table does not fit a solver on a posterior, or None if it does.

        A posterior without a problem in its provenance is accepted for any problem.
        """
        problem = posterior.provenance.get("problem")
        if reason := self._other_solver(method):
            return reason
        if problem is not None and (reason := self._other_problem(problem)):
            return reason
        if (sha256 := prior_sha256(posterior.prior)) != self.prior["sha256"]:
            fitted = f"{self.prior['name']} (sha256 {self.prior['sha256'][:12]}...)"
            return f"it was fitted for the prior {fitted}, but this one is {sha256[:12]}..."
        if not self._same_answers(method):
            return f"{method.name} no longer gives the answers that it gave when it was fitted"
        try:
            tiled(self.x, posterior.shape)
        except InputError as error:
            return str(error)
        return None

    def _other_solver(self, method: Method) -> str | None:
        """How a solver's name or options differ from the fitted solver's, or None."""
        given, fitted = as_json(values(method)), self.method["options"]
        differences = [
            f"{name}={given.get(name)} instead of {value}"
            for name, value in fitted.items()
            if given.get(name) != value
        ]
        if method.name == self.method["name"] and not differences:
            return None
        return (
            f"it was fitted for {self.method['name']} with steps={fitted.get('steps')}, but the "
            f"solver is {method.name} with {', '.join(differences) or 'other options'}"
        )

    def _other_problem(self, problem: dict[str, Any]) -> str | None:
        """How a problem (name and options) differs from the fitted problem, or None."""
        name = problem["name"]
        if name != self.problem["name"]:
            return f"it was fitted for the problem {self.problem['name']}, but this one is {name}"
        given, fitted = as_json(problem["options"]), as_json(self.problem["options"])
        differing = [option for option in given | fitted if given.get(option) != fitted.get(option)]
        if not differing:
            return None
        before, now = (
            ", ".join(f"{option}={text(chosen.get(option))}" for option in differing)
            for chosen in (fitted, given)
        )
        return f"it was fitted for {name} with {before}, but this problem has {now}"

    def _same_answers(self, method: Method) -> bool:
        """Whether the fingerprint of a solver is the stored one, up to rounding."""
        now = fingerprint(method)
        return len(now) == len(self.probe) and all(
            abs(a - b) <= 1e-4 for a, b in zip(now, self.probe, strict=True)
        )

    def save(self, path: Path) -> None:
        """Write one .safetensors file with the description in its header."""
        from safetensors.torch import save

        header = {k: v for k, v in asdict(self).items() if k not in ("x", "scores")}
        tensors = {"x": self.x.contiguous(), "scores": self.scores.contiguous()}
        with atomic_write(path) as temporary:
            temporary.write_bytes(save(tensors, {"boundary": json.dumps(header, default=str)}))


def load_table(name: str | Path) -> Table:
    """A table by path, or a shipped table by name, e.g. super-resolution-x4-10.

    Raises: InputError if the file does not exist or is not a table.
    """
    from safetensors import SafetensorError, safe_open

    shipped = shipped_tables()
    path = shipped.get(str(name), Path(name))
    if not path.is_file():
        names = ", ".join(shipped) or "none"
        raise InputError(f"boundary table {name}: no such file; shipped tables: {names}")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["boundary"])
            return Table(file.get_tensor("x"), file.get_tensor("scores"), **header)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"boundary table {path}: not a table of `inverse fit-bc` ({reason})"
        ) from error


def as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Options as a table stores them: tuples become lists, paths become text."""
    return json.loads(json.dumps(settings, default=str))


def fit_command(base: str, steps: int, posterior: Posterior) -> str:
    """The command that fits a start for a solver on the problem and prior of a posterior."""
    unnamed = {"name": "PROBLEM", "options": {}}
    problem: dict[str, Any] = posterior.provenance.get("problem", unnamed)
    entry = registry().table("inverse_problems").get(problem["name"])
    defaults = {option.name: option.default for option in options(entry.thing)} if entry else {}
    changed = [
        f"{name}={text(value)}"
        for name, value in problem["options"].items()
        if value != defaults.get(name)
    ]
    parts = ["inverse fit-bc --problem", problem["name"]]
    if changed:
        parts += ["--problem-option", *changed]
    if hasattr(posterior.prior, "name"):
        parts += ["--prior", str(posterior.prior.name)]
    return " ".join([*parts, f"--base {base} --steps {steps} --out FILE.safetensors"])


def shipped_tables() -> dict[str, Path]:
    """Paths of the shipped tables, by name."""
    folder = Path(str(importlib.resources.files("inverse_data"))) / "optimal_bc"
    return {
        path.stem.removeprefix("boundary-"): path
        for path in sorted(folder.glob("boundary-*.safetensors"))
    }


def prior_sha256(prior: Prior) -> str:
    """Hash of a prior's units and of its weights in float32: independent of its precision."""
    digest = hashlib.sha256(repr((prior.shape, prior.shift, prior.scale)).encode())
    for _, value in sorted(prior.state_dict().items()):
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def fingerprint(method: Method) -> list[float]:
    """Sixteen entries of h(z, y) in float64 for a fixed Gaussian prior and block averages.

    It identifies a solver by its answers, not by its source. Empty for a solver that does not
    support this posterior.
    """
    shape, mean = (3, 16, 16), torch.eye(8, dtype=torch.float64).repeat_interleave(2, 1) / 2
    prior = GaussianPrior(
        torch.zeros(shape, dtype=torch.float64),
        torch.linspace(0.05, 0.5, 768, dtype=torch.float64),
        shift=0.5,
        scale=0.5,
        sigma_max=80.0,
    )
    y = torch.linspace(0, 1, 192, dtype=torch.float64).reshape(1, 3, 8, 8)
    posterior = Posterior(prior, separable(mean, mean), y, GaussianNoise(0.05), dtype=torch.float64)
    if method.unsupported(posterior):
        return []
    start = torch.cos(torch.arange(768, dtype=torch.float64) ** 2).reshape(1, *shape)
    return endpoints(method, posterior, start).flatten()[::48].tolist()
