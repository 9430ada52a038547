"""Convert weights to a .safetensors file and a card.

The source is a state dict of a `UNet` or of a diffusers network, or a folder that diffusers saved.
torch's restricted reader opens a pickle: it builds tensors and containers and runs no code. A
pickle that needs more is refused.
"""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import dataclass
from functools import partial
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
    """Weights to convert.

    Args:
        source: a file of weights (.safetensors, .pt, .pth, .ckpt, .bin) or a diffusers folder.
        network: JSON file of the architecture: the fields of `UNetConfig`, a card, or a diffusers
            config with its `_class_name`.
        scheduler: JSON file of the diffusers scheduler; an EDM scheduler by default.
        key: the entry of a checkpoint that holds the weights, if there are several.
        sigma_data: standard deviation of the training data of an EDM network, model units.
    """

    source: Path
    network: Path | None = None
    scheduler: Path | None = None
    key: str | None = None
    sigma_data: float = 0.5


def convert(foreign: ForeignWeights, out: Path, description: dict[str, Any]) -> PriorCard:
    """Write the weights to `out` (.safetensors) and the card beside it.

    Nothing is written unless the weights fit the network.

    Args:
        description: `licence`, `limits` and `training` of the card.

    Returns: the card.
    Raises: PriorError for unreadable weights or weights of another network, OptionError for a
        missing or invalid option.
    """
    check_suffix("prior", out)
    if not foreign.sigma_data > 0:
        raise OptionError(f"convert: --sigma-data must be positive, got {foreign.sigma_data:g}")
    unet, scheduler, weights = (
        _folder(foreign.source) if foreign.source.is_dir() else _file(foreign)
    )
    prior: Prior
    if scheduler:
        prior = from_configs(unet, scheduler, weights, foreign.source, {})
        described = {"network": {}, "pipeline": {"unet": unet, "scheduler": scheduler}}
    else:
        prior = _unet_prior(foreign, unet, weights)
        described = {"network": unet, "pipeline": {}}
        weights = prior.state_dict()
    units = {name: getattr(prior, name) for name in ("shift", "scale", "sigma_min", "sigma_max")}
    sigma_data = getattr(prior, "sigma_data", 0.0)
    fields = {"sigma_data": sigma_data, **described, **units, **description}
    return PriorCard.save(out, weights, units="intensity in [0, 1]", **fields)


def _unet_prior(
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
            f"convert: {folder} is latent ({latent}/): pass the folder itself to --prior, "
            "with safetensors in every part"
        )
    unet, scheduler = read_config(folder, "unet"), read_config(folder, "scheduler")
    part = folder / "unet"
    files = sorted(part.glob("*.safetensors")) or sorted(part.glob("*.bin"))
    if not files:
        raise PriorError(f"convert: {part} holds neither .safetensors nor .bin weights")
    weights = {name: value for file in files for name, value in read_tensors(file).items()}
    return _without_notes(unet), _without_notes(scheduler), weights


def _file(foreign: ForeignWeights) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    _check_weights(foreign.source)
    if foreign.network is None:
        contents = "fields of inverse's UNetConfig, or a diffusers config with its _class_name"
        raise OptionError(f"convert: {foreign.source} needs --network CONFIG.json ({contents})")
    config = _json(foreign.network)
    config = config.get("network") or config  # the file may be a card
    scheduler: dict[str, Any] = EDM | {"sigma_data": foreign.sigma_data}
    if foreign.scheduler:
        scheduler = _json(foreign.scheduler)
    weights = read_tensors(foreign.source, foreign.key)
    if "_class_name" not in config:
        scheduler = {}
    return _without_notes(config), _without_notes(scheduler), weights


def read_tensors(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file of weights, without the prefix "module." of parallel training.

    Args:
        key: the entry that holds the state dict, if there are several.

    Raises: PriorError if the file is missing, holds more than tensors, or holds several state dicts
        and no `key` is given.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check_weights(path)
    read_pickle = partial(torch.load, map_location="cpu", weights_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickle protocols that it still reads
            read: Any = load_file if path.suffix == ".safetensors" else read_pickle
            contents = read(path)
    except pickle.UnpicklingError as error:
        raise PriorError(
            f"convert: {path} holds more than tensors, so it is not read ({_refused(error)}); "
            "save its state_dict() alone"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PriorError(f"convert: {path}: not a readable file of weights ({reason})") from error
    tensors = _state_dict(contents, path, key)
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _check_weights(path: Path) -> None:
    if not path.is_file():
        raise PriorError(f"convert: {path}: no such file")
    if path.suffix not in (".safetensors", *PICKLES):
        raise PriorError(
            f"convert: {path}: expected .safetensors, {', '.join(PICKLES)} or a diffusers folder"
        )


def _state_dict(contents: Any, path: Path, key: str | None) -> dict[str, Tensor]:
    entries = contents if isinstance(contents, dict) else {}
    if key is None and _is_state(entries):
        return entries
    states = {name: value for name, value in entries.items() if _is_state(value)}
    if key is None and len(states) == 1:
        return next(iter(states.values()))
    if key in states:
        return states[key]
    missing = f"no state dict '{key}'" if key else "no single state dict"
    advice = "expected names and tensors"
    if states:
        advice = f"choose one with --key: {', '.join(map(str, states))}"
    raise PriorError(f"convert: {path} holds {missing}; {advice}")


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(v, Tensor) for v in value.values())
    )


def _refused(error: Exception) -> str:
    """The name that the restricted reader refused, "GLOBAL os.system", if its message says so."""
    words = str(error).replace("`", " ").split()
    if "GLOBAL" in words[:-1]:
        return f"GLOBAL {words[words.index('GLOBAL') + 1]}"
    return "no weights_only checkpoint"


def _without_notes(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the notes of diffusers on its origin."""
    return {k: v for k, v in config.items() if k not in ("_name_or_path", "_diffusers_version")}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OptionError(f"convert: {path}: not readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise OptionError(f"convert: {path}: expected a JSON object, got {type(value).__name__}")
    return value
