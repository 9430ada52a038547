"""Which architecture a state dict belongs to, told by the names and shapes of its weights."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inverse.errors import InverseError, PriorError
from inverse.priors.foreign.architecture import Architecture
from inverse.priors.prior import Prior
from inverse.registry.discovery import registry
from inverse.registry.options import build

WRAPPERS = ("unet.", "model.", "net.", "denoiser.", "network.", "_orig_mod.")
"""Names of the module that holds the network, which some projects save with its weights."""
NEAR = 0.1
"""Smallest share of equal weights for which an architecture is called the nearest."""


class UnknownNetworkError(PriorError):
    """Weights of no registered architecture."""


@dataclass(frozen=True)
class Recognised:
    """A network whose weights fit exactly.

    Args:
        layout: its architecture.
        weights: those of the network, under the names of its architecture.
    """

    layout: Architecture
    weights: dict[str, Tensor]

    def prior(self) -> Prior:
        """The prior with these weights, in single precision.

        Raises: PriorError if an option that the weights do not tell is missing.
        """
        with torch.device("meta"):
            network = self.layout.network()
        floats = {k: v.float() if v.is_floating_point() else v for k, v in self.weights.items()}
        network.load_state_dict(floats, assign=True)
        prior = self.layout.prior(network)
        return prior.eval().requires_grad_(False)

    def card_fields(self) -> dict[str, Any]:
        """The entry `foreign` of a card."""
        return {"architecture": self.layout.name, **asdict(self.layout)}


def architectures() -> dict[str, type[Architecture]]:
    """The registered architectures by name."""
    return {name: entry.thing for name, entry in registry().table("inverse_architectures").items()}


def recognise(
    weights: dict[str, Tensor], source: object, options: dict[str, Any] | None = None
) -> Recognised:
    """The architecture of these weights.

    Args:
        weights: a state dict, in which the network may lie below one of `WRAPPERS`.
        source: the file, for messages.
        options: `architecture`, a name, and fields that the weights do not tell.

    Raises: UnknownNetworkError with the nearest architecture and the weights that differ;
        UnknownNameError or OptionError for an unknown or impossible option.
    """
    options = dict(options or {})
    known, name = architectures(), options.pop("architecture", None)
    if name is not None:
        known = {name: registry().find("inverse_architectures", name)}
    candidates = list(_unwrapped(weights))
    for inner in candidates:
        for architecture in known.values():
            layout = _read(architecture, inner, options)
            if layout is not None and not differences(layout, inner)[0]:
                return Recognised(layout, inner)
    best: tuple[float, str, list[str]] = (0.0, "", [])
    for inner in candidates:
        for architecture in known.values():
            usual = _read(architecture, inner, options) or architecture()
            differing, share = differences(usual, inner)
            best = max(best, (share, architecture.name, differing))
    share, nearest, differing = best
    if share < NEAR:
        raise UnknownNetworkError(
            f"prior {source}: no known network has such weights ({', '.join(list(weights)[:3])}"
            f"{', ...' * (len(weights) > 3)}); known: {', '.join(known)}, networks of diffusers, "
            "and those of `inverse train`"
        )
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise UnknownNetworkError(
        f"prior {source}: no known network; the nearest is {nearest}, in which "
        f"{len(differing)} weights differ: {'; '.join(differing[:3])}{more}"
    )


def from_card(fields: dict[str, Any], weights: dict[str, Tensor], source: object) -> Prior:
    """The prior that the entry `foreign` of a card describes.

    Raises: PriorError if the weights do not fit; UnknownNameError or OptionError for a field that
        is unknown or impossible.
    """
    options = dict(fields)
    architecture = registry().find("inverse_architectures", str(options.pop("architecture", "")))
    layout = build(architecture, options)
    differing, _ = differences(layout, weights)
    if differing:
        raise PriorError(f"prior weights {source}: do not fit the card ({differing[0]})")
    return Recognised(layout, weights).prior()


def _unwrapped(weights: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state dict, and the parts of it below a wrapper."""
    yield weights
    for wrapper in WRAPPERS:
        inner = {k.removeprefix(wrapper): v for k, v in weights.items() if k.startswith(wrapper)}
        if inner:
            yield inner


def _read(
    architecture: type[Architecture], weights: dict[str, Tensor], options: dict[str, Any]
) -> Architecture | None:
    """The architecture as the weights tell it, or None if they tell another."""
    try:
        fields = architecture.read(weights)
    except (LookupError, ValueError, AttributeError, ZeroDivisionError):
        return None
    try:
        return build(architecture, fields | options)
    except InverseError:
        if options:
            raise
        return None


@functools.cache
def _shapes(layout: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of an architecture, which are not allocated."""
    with torch.device("meta"):
        network: nn.Module = layout.network()
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def differences(layout: Architecture, weights: dict[str, Tensor]) -> tuple[list[str], float]:
    """What differs between an architecture and weights, and the share of weights that are equal."""
    expected = _shapes(layout)
    found = {name: tuple(value.shape) for name, value in weights.items()}
    differing = [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    equal = sum(found.get(name) == shape for name, shape in expected.items())
    differing += [f"{name} is missing" for name in expected if name not in found]
    differing += [f"{name} is unexpected" for name in found if name not in expected]
    return differing, equal / max(len(expected), len(found))
