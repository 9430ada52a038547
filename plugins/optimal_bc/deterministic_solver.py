"""A deterministic solver as a function of its start: x0 = h(z, y).

z is the start x_T in units of the first noise level, so candidates are draws z_k ~ N(0, I).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from inverse.errors import InputError, UnsupportedError
from inverse.method import Method, Weighted
from inverse.posterior import Posterior
from inverse.registry.discovery import registry, with_settings
from inverse.registry.options import options
from inverse.seeding import Generators, seeded

WITHOUT_FRESH_NOISE = {"eta": 0.0, "zeta": 0.0}
"""Options that scale the fresh noise of a method, and the value that removes it."""


def deterministic_solver(base: str, steps: int) -> Method:
    """The method `base` without fresh noise.

    The options eta and zeta are set to 0, and an ancestral sampler becomes ddim, unless the
    settings of `base` say otherwise.

    Args:
        base: name of a method, with settings after a colon: mmps:sampler=heun,iterations=5.
        steps: steps of the method.

    Raises: UnknownNameError for an unknown method or option; OptionError for an invalid value.
    """
    cls = registry().find("inverse_methods", base.partition(":")[0])
    defaults = {option.name: option.default for option in options(cls)}
    settings: dict[str, Any] = {
        option: value for option, value in WITHOUT_FRESH_NOISE.items() if option in defaults
    }
    settings["steps"] = steps
    if defaults.get("sampler") == "ancestral":
        settings["sampler"] = "ddim"
    return with_settings(base, **settings)


class NotDeterministic(UnsupportedError):
    """A solver whose answer is not a function of a start and y."""


class FixedStart(Generators):
    """Random streams whose first draw is a given start; a second draw is an error.

    Args:
        x: starts (B, *shape), one for each row.

    Raises: NotDeterministic for every draw other than a first one of the shape of x.
    """

    def __init__(self, x: Tensor):
        self.x, self.drawn = x, False

    @property
    def rows(self):  # type: ignore[override]
        raise NotDeterministic("it draws at random beside its start")

    def __len__(self) -> int:
        return len(self.x)

    def randn_like(self, x: Tensor) -> Tensor:
        if self.drawn:
            raise NotDeterministic("it draws fresh noise after its start")
        if x.shape != self.x.shape:
            raise NotDeterministic("its first draw is not its start")
        self.drawn = True
        return self.x.to(x)

    def rand_like(self, x: Tensor) -> Tensor:
        return self.rows

    def permutations(self, n: int) -> Tensor:
        return self.rows


def iterates_from(
    method: Method, posterior: Posterior, start: Tensor, samples: int = 1
) -> Iterator[Tensor]:
    """The iterates (B, *shape) of a solver, model units.

    Args:
        start: (B, *shape), unit variance.
        samples: rows of each image, see `Method.run`.

    Raises: UnsupportedError with the reason if the solver is not a function of its start and y.
    """
    generator = FixedStart(start)
    try:
        for iterate in method.run(posterior, samples, generator):
            if not generator.drawn:
                raise NotDeterministic("it starts from y and has no boundary to choose")
            yield iterate.x if isinstance(iterate, Weighted) else iterate
    except NotDeterministic as error:
        reason = f"base '{method.name}' is not a function of a start x_T and y: {error}"
        raise UnsupportedError(
            f"{reason}; try ddnm, diffpir, mmps or pigdm:sampler=ddim"
        ) from error


def endpoints(method: Method, posterior: Posterior, starts: Tensor) -> Tensor:
    """h(z, y) for every start and every measurement: (images, K, *shape), physical units.

    Args:
        starts: (K, *shape), unit variance.

    Raises: UnsupportedError as `iterates_from` does.
    """
    count = len(starts)
    repeated = starts.repeat(len(posterior), *[1] * len(posterior.shape))
    with torch.no_grad():
        *_, x = iterates_from(method, posterior.rows(count), repeated, count)
    return posterior.prior.decode(x).unflatten(0, (len(posterior), count))


def candidate(seed: int, index: int, shape: tuple[int, ...]) -> Tensor:
    """Candidate `index` of a seed: (*shape), N(0, I), float32, CPU.

    Candidate 0 of seed 0 is the start of `optimal-bc` without a table.
    """
    return torch.randn(shape, generator=seeded(seed, "boundary", index))


def tiled(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A start (C, H, W) for another height and width: repeated periodically, cropped at top left.

    Raises: InputError if the number of dimensions or of channels differs.
    """
    if tuple(x.shape) == shape:
        return x
    if len(shape) != 3 or x.ndim != 3 or shape[0] != len(x):
        stored, wanted = (" x ".join(map(str, sizes)) for sizes in (x.shape, shape))
        raise InputError(f"it holds a start of shape {stored}, but the image has shape {wanted}")
    down, right = (math.ceil(n / period) for n, period in zip(shape[1:], x.shape[1:], strict=True))
    return x.repeat(1, down, right)[:, : shape[1], : shape[2]]
