"""Convert weights to a .safetensors file and a card.

The source is a state dict of a `UNet`, of a diffusers network or of a known network of another
project, or a folder that diffusers saved; see `state_dicts` for how files are read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from inverse.errors import InverseError, OptionError, PriorError
from inverse.priors.cards import check_suffix
from inverse.priors.foreign.recognition import UnknownNetworkError, recognise
from inverse.priors.loading import PriorCard, network_config
from inverse.priors.networks.parametrisations import IMAGES
from inverse.priors.networks.pipelines import EDM, from_configs, read_config
from inverse.priors.networks.state_dicts import check_weights, read_tensors
from inverse.priors.prior import NetworkPrior, Prior


@dataclass(frozen=True)
class ForeignWeights:
    """Weights to convert.

    Args:
        source: a file of weights (.safetensors, .pt, .pth, .ckpt, .bin, .tar) or a diffusers
            folder.
        network: the architecture in JSON, as text or in a file: the fields of `UNetConfig`, a card,
            a diffusers config with its `_class_name`, or `architecture` with options that weights
            do not tell. None for a network that its weights tell.
        scheduler: JSON file of the diffusers scheduler; an EDM scheduler by default.
        key: the entry of a checkpoint that holds the weights, if there are several.
        sigma_data: standard deviation of the training data of an EDM network, model units.
    """

    source: Path
    network: str | Path | None = None
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
    options = _foreign_options(foreign)
    if options is not None:
        return _convert_recognised(foreign, options, out, description)
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


def _foreign_options(foreign: ForeignWeights) -> dict[str, Any] | None:
    """What the user says of a network of another project; None for the other kinds of source."""
    if foreign.source.is_dir() or foreign.scheduler:
        return None
    check_weights(foreign.source)
    if foreign.network is None:
        return {}
    config = _json(foreign.network)
    return config if "architecture" in config else None


def _convert_recognised(
    foreign: ForeignWeights, options: dict[str, Any], out: Path, description: dict[str, Any]
) -> PriorCard:
    weights = read_tensors(foreign.source, foreign.key)
    try:
        found = recognise(weights, foreign.source, options)
    except UnknownNetworkError as error:
        if options:
            raise
        contents = "fields of inverse's UNetConfig, or a diffusers config with its _class_name"
        raise OptionError(f"{error}; it needs --network CONFIG.json ({contents})") from error
    prior: Any = found.prior()
    units = {name: getattr(prior, name) for name in ("shift", "scale", "sigma_min", "sigma_max")}
    fields = {"sigma_data": getattr(prior, "sigma_data", 0.5), "network": {}, **units}
    fields |= {"units": "intensity in [0, 1]", "foreign": found.card_fields(), **description}
    fields["limits"] = fields.get("limits") or found.layout.limits
    return PriorCard.save(out, found.weights, **fields)


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
    check_weights(foreign.source)
    if foreign.network is None:
        raise OptionError("convert: --scheduler describes a diffusers network; give its --network")
    config = _json(foreign.network)
    config = config.get("network") or config  # the file may be a card
    scheduler: dict[str, Any] = EDM | {"sigma_data": foreign.sigma_data}
    if foreign.scheduler:
        scheduler = _json(foreign.scheduler)
    weights = read_tensors(foreign.source, foreign.key)
    if "_class_name" not in config:
        scheduler = {}
    return _without_notes(config), _without_notes(scheduler), weights


def _without_notes(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the notes of diffusers on its origin."""
    return {k: v for k, v in config.items() if k not in ("_name_or_path", "_diffusers_version")}


def _json(source: str | Path) -> dict[str, Any]:
    """The object in JSON text, which begins with a brace, or in a file."""
    text = str(source)
    path = "--network" if text.lstrip().startswith("{") else text
    try:
        value = json.loads(text if path == "--network" else Path(text).read_text())
    except (OSError, ValueError) as error:
        raise OptionError(f"convert: {path}: not readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise OptionError(f"convert: {path}: expected a JSON object, got {type(value).__name__}")
    return value
