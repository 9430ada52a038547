"""Priors on disk: safetensors weights and a JSON card that says what they are. Pickles are refused, hashes are checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from inverse.errors import OptionError, PriorError
from inverse.network import UNetConfig
from inverse.prior import NetworkPrior, Prior
from inverse.result import replacing


@dataclass(frozen=True)
class Card:
    """What a trained prior is.

    Args:
        name: of the prior; the card is `<name>.json`, the weights `file` beside it.
        sha256: of the weights file.
        units: physical units of `decode`, in words.
        shift, scale: physical = scale * model + shift.
        sigma_data: standard deviation of the training data, model units.
        sigma_min, sigma_max: trusted noise levels, model units.
        network: fields of `UNetConfig`.
        training: data, command, seed, steps, loss, machine, hours.
        licence: of the weights and the terms of the data.
        denoising: measured table, noise level (of 255) -> PSNR in dB.
        limits: what it is known not to do.
        power_law: mean and power spectrum of the training data, as `field.fit_power_law` found them; for `analytic_start`.
    """

    name: str
    file: str
    sha256: str
    units: str
    shift: float
    scale: float
    sigma_data: float
    sigma_min: float
    sigma_max: float
    network: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    denoising: dict[str, Any] = field(default_factory=dict)
    limits: str = ""
    power_law: dict[str, list] = field(default_factory=dict)

    @property
    def config(self) -> UNetConfig:
        lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.network.items()}
        return UNetConfig(**lists)

    @property
    def shape(self) -> str:
        """In words, e.g. "3 x any x any"."""
        return f"{self.config.channels} x any x any"


def read_card(path: Path) -> Card:
    """Parse a card.

    Raises: PriorError if it is missing, not JSON, lacks a field, or describes no network.
    """
    try:
        card = Card(**json.loads(path.read_text()))
        _ = card.config, path.with_name(card.file)  # both raise for what cannot be meant
        return card
    except FileNotFoundError as error:
        raise PriorError(f"prior card {path}: no such file; weights need their card beside them") from error
    except (OSError, ValueError, TypeError, AttributeError, OptionError) as error:
        raise PriorError(f"prior card {path}: not a valid card ({error})") from error


def cards() -> dict[str, Path]:
    """Every registered card by prior name."""
    from inverse.plugins import registry

    return {name: entry.thing for name, entry in registry().table("inverse_priors").items()}


def load_prior(name: str | Path, device: torch.device | str = "cpu") -> Prior:
    """A prior by registered name, or by the path of its `.safetensors` file or card, or of a folder saved by diffusers.

    Raises: PriorError for weights that are missing, truncated, pickled or of another hash than the card's.
    """
    path = Path(name)
    if path.is_dir() and (path != Path(path.name) or str(name) not in cards()):
        from inverse.adapters import from_diffusers

        return from_diffusers(path).to(device)
    if path.suffix in (".safetensors", ".json"):
        card_path = path.with_suffix(".json")
    elif path.suffix or path.parent != Path("."):
        if path.is_file():
            _refuse_pickle(path)
        raise PriorError(f"prior {name}: expected a registered name or a .safetensors file with its card")
    else:
        from inverse.plugins import registry

        card_path = registry().find("inverse_priors", str(name))
    if path.suffix == ".safetensors" and path.is_file():
        _refuse_pickle(path)
    card = read_card(card_path)
    prior = NetworkPrior.unet(card.config, card.sigma_data, shift=card.shift, scale=card.scale, sigma_min=card.sigma_min, sigma_max=card.sigma_max)
    _load_weights(prior, card_path.with_name(card.file), card.sha256)
    prior.name, prior.power_law = card.name, card.power_law  # type: ignore[assignment]
    return prior.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_prior(prior: NetworkPrior, path: Path, **about: Any) -> Card:
    """Write half-precision weights to `path` (.safetensors) and the card beside it; returns the card.

    Args:
        about: the descriptive fields of `Card`: units, training, licence, denoising, limits.
    """
    from safetensors.torch import save

    if path.suffix != ".safetensors":
        raise PriorError(f"prior {path}: weights are written as .safetensors, not '{path.suffix}'")
    with replacing(path) as temporary:
        temporary.write_bytes(save({k: v.detach().half().contiguous().cpu() for k, v in prior.state_dict().items()}))
    network = prior.network.config.to_dict()  # type: ignore[union-attr, operator]
    units: dict[str, Any] = {name: getattr(prior, name) for name in ("shift", "scale", "sigma_data", "sigma_min", "sigma_max")}
    card = Card(name=path.stem, file=path.name, sha256=sha256(path), network=network, **units, **{"units": "intensity in [0, 1]", **about})
    write_card(card, path.with_suffix(".json"))
    return card


def write_card(card: Card, path: Path) -> None:
    """Write a card as indented JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(card), indent=2) + "\n")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_weights(prior: NetworkPrior, path: Path, expected: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise PriorError(f"prior weights {path}: no such file")
    _refuse_pickle(path)
    if (found := sha256(path)) != expected:
        raise PriorError(f"prior weights {path}: sha256 is {found[:12]}..., the card says {expected[:12]}...; the file is damaged or not the one described")
    try:
        weights = load_file(path)
        prior.load_state_dict({k: v.float() for k, v in weights.items()})
    except (SafetensorError, RuntimeError) as error:
        raise PriorError(f"prior weights {path}: do not fit the card's network ({_second_line(error)})") from error


def _second_line(error: Exception) -> str:
    """Where torch's "Error(s) in loading state_dict" becomes specific; the first line of a shorter message."""
    return str(error).splitlines()[:2][-1].strip()


def _refuse_pickle(path: Path) -> None:
    """A safetensors file has "{" at byte 8, after the length of its header, which may by chance begin like a pickle."""
    with path.open("rb") as file:
        head = file.read(9)
    pickled = head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80")
    if pickled or path.suffix in (".pt", ".pth", ".ckpt", ".pkl", ".bin"):
        raise PriorError(f"prior weights {path}: a pickle can run code when it is read; convert it to .safetensors first")
