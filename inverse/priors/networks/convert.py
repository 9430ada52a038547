"""Weights from elsewhere into one .safetensors file and a card: a state dict of our U-Net or of a network of diffusers, or a folder it saved.

A pickle goes through torch's restricted reader, which makes tensors and containers and runs nothing; one that asks for more is refused.
"""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.errors import InverseError, OptionError, PriorError
from inverse.priors.cards import check_suffix
from inverse.priors.loading import PriorCard, network_config
from inverse.priors.networks.parametrisations import IMAGES
from inverse.priors.networks.pipelines import EDM, from_configs, read_config
from inverse.priors.prior import NetworkPrior, Prior

PICKLES = (".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True)
class ForeignWeights:
    """What there is to convert.

    Args:
        source: a file of weights (.safetensors, .pt, .pth, .ckpt, .bin) or a folder saved by diffusers.
        network: JSON of a file's architecture: the fields of `UNetConfig` (or a card), or a config of diffusers with its `_class_name`.
        scheduler: JSON of the diffusers scheduler of a file's network; by default it is an EDM network.
        key: entry of a checkpoint that holds the weights, where it holds several things.
        sigma_data: of an EDM network.
    """

    source: Path
    network: Path | None = None
    scheduler: Path | None = None
    key: str | None = None
    sigma_data: float = 0.5


def convert(foreign: ForeignWeights, out: Path, about: dict[str, Any]) -> PriorCard:
    """Write `out` and its card; nothing is written unless the weights fit the network.

    Args:
        about: `licence`, `limits` and `training` of the card.
    """
    check_suffix("prior", out)
    if not foreign.sigma_data > 0:
        raise OptionError(f"convert: --sigma-data must be positive, got {foreign.sigma_data:g}")
    unet, scheduler, weights = (
        _folder(foreign.source) if foreign.source.is_dir() else _file(foreign)
    )
    prior: Prior
    if scheduler:
        prior, pipeline, network = (
            from_configs(unet, scheduler, weights, foreign.source, {}),
            {"unet": unet, "scheduler": scheduler},
            {},
        )
    else:
        prior, pipeline, network = _own(foreign, unet, weights), {}, unet
        weights = prior.state_dict()
    units = {name: getattr(prior, name) for name in ("shift", "scale", "sigma_min", "sigma_max")}
    sigma_data = getattr(prior, "sigma_data", 0.0)
    fields = {"sigma_data": sigma_data, "network": network, "pipeline": pipeline, **units, **about}
    return PriorCard.save(out, weights, units="intensity in [0, 1]", **fields)


def _own(
    foreign: ForeignWeights, network: dict[str, Any], weights: dict[str, Tensor]
) -> NetworkPrior:
    try:
        config = network_config(network)
        prior = NetworkPrior.unet(config, foreign.sigma_data, **IMAGES)
        prior.network.load_state_dict(
            {k.removeprefix("network."): v for k, v in weights.items()}, assign=True
        )
    except (InverseError, RuntimeError) as error:
        reason = str(error).splitlines()[:2][-1].strip()
        raise PriorError(
            f"convert: {foreign.source} does not fit the network of {foreign.network} ({reason})"
        ) from error
    return prior


def _folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    if latent := next((name for name in ("vae", "vqvae") if (folder / name).is_dir()), None):
        raise PriorError(
            f"convert: {folder} is latent ({latent}/): --prior takes such a folder as it is, with safetensors in every part"
        )
    unet, scheduler = read_config(folder, "unet"), read_config(folder, "scheduler")
    files = sorted((folder / "unet").glob("*.safetensors")) or sorted(
        (folder / "unet").glob("*.bin")
    )
    if not files:
        raise PriorError(f"convert: {folder / 'unet'} holds neither .safetensors nor .bin weights")
    return (
        _public(unet),
        _public(scheduler),
        {name: value for file in files for name, value in read_tensors(file).items()},
    )


def _file(foreign: ForeignWeights) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    _check_weights(foreign.source)
    if foreign.network is None:
        what = "fields of inverse's UNetConfig, or a config of diffusers with its _class_name"
        raise OptionError(f"convert: {foreign.source} needs --network CONFIG.json ({what})")
    config = _json(foreign.network)
    config = config.get("network") or config  # a card's
    scheduler = (
        _json(foreign.scheduler) if foreign.scheduler else EDM | {"sigma_data": foreign.sigma_data}
    )
    weights = read_tensors(foreign.source, foreign.key)
    return _public(config), _public(scheduler) if "_class_name" in config else {}, weights


def read_tensors(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file of weights, without the prefix that parallel training leaves.

    Raises: PriorError for a file that is missing, holds more than tensors, or holds several state dicts and no `key` says which.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check_weights(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of other pickle protocols, which are read or refused below
            found = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    except pickle.UnpicklingError as error:
        raise PriorError(
            f"convert: {path} holds more than tensors, so it is not read ({_asked(error)}); save its state_dict() alone"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise PriorError(
            f"convert: {path}: not a readable file of weights ({(str(error).splitlines() or [type(error).__name__])[0]})"
        ) from error
    tensors = _state_dict(found, path, key)
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _check_weights(path: Path) -> None:
    if not path.is_file():
        raise PriorError(f"convert: {path}: no such file")
    if path.suffix not in (".safetensors", *PICKLES):
        raise PriorError(
            f"convert: {path}: expected .safetensors, {', '.join(PICKLES)} or a folder saved by diffusers"
        )


def _state_dict(found: Any, path: Path, key: str | None) -> dict[str, Tensor]:
    entries = found if isinstance(found, dict) else {}
    if key is None and _is_state(entries):
        return entries
    states = {name: value for name, value in entries.items() if _is_state(value)}
    if key is None and len(states) == 1:
        return next(iter(states.values()))
    if key in states:
        return states[key]
    asked = f"no state dict '{key}'" if key else "no single state dict"
    raise PriorError(
        f"convert: {path} holds {asked}; {'choose one with --key: ' + ', '.join(map(str, states)) if states else 'expected names and tensors'}"
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(v, Tensor) for v in value.values())
    )


def _asked(error: Exception) -> str:
    """What the restricted reader was asked for: "GLOBAL os.system", where its message says so."""
    words = str(error).replace("`", " ").split()
    return (
        f"GLOBAL {words[words.index('GLOBAL') + 1]}"
        if "GLOBAL" in words[:-1]
        else "no weights_only checkpoint"
    )


def _public(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what diffusers notes about the place it came from."""
    return {k: v for k, v in config.items() if k not in ("_name_or_path", "_diffusers_version")}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OptionError(f"convert: {path}: not readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise OptionError(f"convert: {path}: expected a JSON object, got {type(value).__name__}")
    return value
