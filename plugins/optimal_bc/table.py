"""Optimal boundary conditions: one start x_T for every image, chosen once on a reference set.

    x_T* = argmin over candidates z_k ~ N(0, I) of  mean_i d(h(z_k, y_i), x_i),    h a solver that is deterministic given its start.

Ma, Yang, Yang, Fu, Liu, Solving Diffusion ODEs with Optimal Boundary Conditions for Better Image Super-Resolution, ICLR 2024,
https://arxiv.org/abs/2305.15357. Departures: successive halving over common images instead of every candidate on every image
(`inverse_plugins.optimal_bc.halving`), and distances that need no weights.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.errors import InputError, UnsupportedError
from inverse.io.files import atomic_write
from inverse.measurement.noise import GaussianNoise
from inverse.measurement.operators import separable
from inverse.method import Method, Weighted
from inverse.posterior import Posterior
from inverse.priors.analytic import GaussianPrior
from inverse.priors.prior import Prior
from inverse.registry.discovery import registry, with_settings
from inverse.registry.options import options, text, values
from inverse.seeding import Generators, seeded

QUIET = {"eta": 0.0, "zeta": 0.0}
"""Options by which methods scale their fresh noise, and what turns it off."""


def deterministic(base: str, steps: int) -> Method:
    """The solver called `base`, settings after a colon (mmps:sampler=heun,iterations=5), with its fresh noise turned off where an option does that.

    Options called eta or zeta are 0, and the sampler is ddim where it would be ancestral, unless the settings say otherwise.
    """
    cls = registry().find("inverse_methods", base.partition(":")[0])
    defaults = {option.name: option.default for option in options(cls)}
    chosen: dict[str, Any] = {
        option: value for option, value in QUIET.items() if option in defaults
    } | {"steps": steps}
    if defaults.get("sampler") == "ancestral":
        chosen["sampler"] = "ddim"
    return with_settings(base, **chosen)


class NotDeterministic(UnsupportedError):
    """A solver that is no function of a start and y."""


class Start(Generators):
    """Stands for the randomness of a deterministic solver: the first draw is the stored start, and there is no second.

    Args:
        x: (B, *shape), one for each row.
    """

    def __init__(self, x: Tensor):
        self.x, self.drawn = x, False

    @property
    def rows(self):  # type: ignore[override]
        raise NotDeterministic("it draws at random beside its start")

    def __len__(self) -> int:
        return len(self.x)

    def randn_like(self, x: Tensor) -> Tensor:
        if self.drawn or x.shape != self.x.shape:
            raise NotDeterministic(
                "it draws fresh noise after its start"
                if self.drawn
                else "its first draw is not its start"
            )
        self.drawn = True
        return self.x.to(x)

    def rand_like(self, x: Tensor) -> Tensor:
        return self.rows

    def permutations(self, n: int) -> Tensor:
        return self.rows


def run_from(
    method: Method, posterior: Posterior, start: Tensor, samples: int = 1
) -> Iterator[Tensor]:
    """The iterates (B, *shape) of a solver from start (B, *shape) of unit variance.

    Raises: UnsupportedError with the reason if the solver is not a function of its start and y.
    """
    given = Start(start)
    try:
        for iterate in method.run(posterior, samples, given):
            if not given.drawn:
                raise NotDeterministic("it starts from y and has no boundary to choose")
            yield iterate.x if isinstance(iterate, Weighted) else iterate
    except NotDeterministic as error:
        reason = f"base '{method.name}' is not a function of a start x_T and y: {error}"
        raise UnsupportedError(
            f"{reason}; try ddnm, diffpir, mmps or pigdm:sampler=ddim"
        ) from error


def endpoints(method: Method, posterior: Posterior, starts: Tensor) -> Tensor:
    """h(z, y) for every start (K, *shape) and every measurement: (images, K, *shape), physical units."""
    rows = posterior.rows(len(starts))
    with torch.no_grad():
        *_, x = run_from(
            method, rows, starts.repeat(len(posterior), *[1] * len(posterior.shape)), len(starts)
        )
    return posterior.prior.decode(x).unflatten(0, (len(posterior), len(starts)))


def candidate(seed: int, index: int, shape: tuple[int, ...]) -> Tensor:
    """Candidate `index` of a seed, N(0, I) in float32 on the CPU; candidate 0 of seed 0 is the start where no table was fitted."""
    return torch.randn(shape, generator=seeded(seed, "boundary", index))


def sized(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A start (C, H, W) for another height and width: repeated with its own period, then cut from the top left.

    Raises: InputError where that is not the only difference.
    """
    if tuple(x.shape) == shape:
        return x
    if len(shape) != 3 or x.ndim != 3 or shape[0] != len(x):
        raise InputError(
            f"it holds a start of shape {' x '.join(map(str, x.shape))}, the unknown has {' x '.join(map(str, shape))}"
        )
    down, right = (
        math.ceil(want / have) for want, have in zip(shape[1:], x.shape[1:], strict=True)
    )
    return x.repeat(1, down, right)[:, : shape[1], : shape[2]]


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A fitted start and what it was fitted for.

    Args:
        x: (*shape), float32, unit variance.
        scores: loss of each candidate on each reference (K, R), NaN where it was not explored.
        method: name and options of the solver.
        probe: what the solver answers on a small fixed posterior (`fingerprint`).
        prior: name and sha256 (`prior_sha256`).
        problem: name and options of the problem it was fitted on.
        about: seed, chosen candidate, loss, references and their sha256, command.
    """

    x: Tensor
    scores: Tensor
    method: dict[str, Any]
    probe: list[float]
    prior: dict[str, str]
    problem: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)

    def misfit(self, method: Method, posterior: Posterior) -> str | None:
        """Why this table is not for a solver on a posterior, or None if it is."""
        asked, mine = as_json(values(method)), self.method["options"]
        differ = [
            f"{k}={asked.get(k)} instead of {v}" for k, v in mine.items() if asked.get(k) != v
        ]
        if method.name != self.method["name"] or differ:
            return f"it was fitted for {self.method['name']} with steps={mine.get('steps')}, asked is {method.name} with {', '.join(differ) or 'other options'}"
        if (about := posterior.provenance.get("problem")) is not None and (
            other := self._other_problem(about)
        ):
            return other
        if (found := prior_sha256(posterior.prior)) != self.prior["sha256"]:
            return f"it was fitted for the prior {self.prior['name']} (sha256 {self.prior['sha256'][:12]}...), this one is {found[:12]}..."
        now = fingerprint(method)
        if len(now) != len(self.probe) or any(
            abs(a - b) > 1e-4 for a, b in zip(now, self.probe, strict=True)
        ):
            return f"{method.name} is no longer the solver that it was fitted for"
        try:
            sized(self.x, posterior.shape)
        except InputError as error:
            return str(error)
        return None

    def _other_problem(self, about: dict[str, Any]) -> str | None:
        """In what a problem (name and options) is another than the one it was fitted on, or None if it is that one."""
        if about["name"] != self.problem["name"]:
            return f"it was fitted for the problem {self.problem['name']}, asked is {about['name']}"
        asked, mine = as_json(about["options"]), as_json(self.problem["options"])
        differ = [name for name in asked | mine if asked.get(name) != mine.get(name)]
        was, wanted = (
            ", ".join(f"{name}={text(given.get(name))}" for name in differ)
            for given in (mine, asked)
        )
        return (
            f"it was fitted for {about['name']} with {was}, asked is {wanted}" if differ else None
        )

    def save(self, path: Path) -> None:
        """One .safetensors file, the description in its header."""
        from safetensors.torch import save

        about = {k: v for k, v in asdict(self).items() if k not in ("x", "scores")}
        with atomic_write(path) as temporary:
            temporary.write_bytes(
                save(
                    {"x": self.x.contiguous(), "scores": self.scores.contiguous()},
                    {"boundary": json.dumps(about, default=str)},
                )
            )


def load_table(name: str | Path) -> Table:
    """A table by path, or a shipped one by name: super-resolution-x4-10.

    Raises: InputError if there is none, or the file is no such table.
    """
    from safetensors import SafetensorError, safe_open

    known = shipped_tables()
    path = known.get(str(name), Path(name))
    if not path.is_file():
        raise InputError(
            f"boundary table {name}: no such file; shipped are {', '.join(known) or 'none'}"
        )
    try:
        with safe_open(path, "pt") as file:
            return Table(
                file.get_tensor("x"),
                file.get_tensor("scores"),
                **json.loads((file.metadata() or {})["boundary"]),
            )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"boundary table {path}: not a table of `inverse fit-bc` ({str(error).splitlines()[0]})"
        ) from error


def as_json(chosen: dict[str, Any]) -> dict[str, Any]:
    """Options as a table keeps them."""
    return json.loads(json.dumps(chosen, default=str))


def fit_command(base: str, steps: int, posterior: Posterior) -> str:
    """The command that fits a start for a solver on the problem and the prior of a posterior."""
    about: dict[str, Any] = posterior.provenance.get("problem", {"name": "PROBLEM", "options": {}})
    known = registry().table("inverse_problems").get(about["name"])
    usual = {option.name: option.default for option in options(known.thing)} if known else {}
    given = [
        f"{name}={text(value)}"
        for name, value in about["options"].items()
        if value != usual.get(name)
    ]
    parts = [
        "inverse fit-bc --problem",
        about["name"],
        *(["--problem-option", *given] if given else []),
    ]
    parts += ["--prior", str(posterior.prior.name)] if hasattr(posterior.prior, "name") else []
    return " ".join([*parts, f"--base {base} --steps {steps} --out FILE.safetensors"])


def shipped_tables() -> dict[str, Path]:
    """Paths of the tables in `data`, by name."""
    folder = Path(str(importlib.resources.files("inverse_data"))) / "optimal_bc"
    return {
        path.stem.removeprefix("boundary-"): path
        for path in sorted(folder.glob("boundary-*.safetensors"))
    }


def prior_sha256(prior: Prior) -> str:
    """Hash of a prior's units and weights, in single precision, so that it is the same for every precision it runs in."""
    digest = hashlib.sha256(repr((prior.shape, prior.shift, prior.scale)).encode())
    for _, value in sorted(prior.state_dict().items()):
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def fingerprint(method: Method) -> list[float]:
    """Sixteen entries of h(z, y) in double precision for a fixed Gaussian prior and block means: the solver by what it does, not how it is written.

    Empty for a solver that cannot run there.
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


# --- the search -------------------------------------------------------------------------------------------------------
