"""Priors on disk: safetensors weights and a JSON card that says what they are; see `shelf`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.errors import PriorError
from inverse.priors.analytic import FieldLaw, LowRankPrior
from inverse.priors.cards import Card, weights_mismatch
from inverse.priors.networks.corrected import CorrectedPrior
from inverse.priors.networks.unet import UNetConfig
from inverse.priors.prior import NetworkPrior, Prior
from inverse.registry.discovery import registry
from inverse.registry.options import build


@dataclass(frozen=True, kw_only=True)
class PriorCard(Card):
    """What a trained prior is.

    Args:
        units: physical units of `decode`, in words.
        shift, scale: physical = scale * model + shift.
        sigma_data: standard deviation of the training data, model units.
        sigma_min, sigma_max: trusted noise levels, model units.
        network: fields of `UNetConfig`; empty for a Gaussian alone.
        denoising: measured table, noise level (of 255) -> PSNR in dB.
        power_law: mean and power spectrum of the training data, as `field.fit_power_law` found them; for `analytic_start`.
        law: shape, rank and kind of the Gaussian that the weights hold, and how it was fitted; empty where there is none. The hook
            `inverse_laws` names the loader of each kind; "low-rank" is the kind of a card that names none.
        extra: variables, units, latitudes, longitudes and periods of the fields it was trained on; empty for images.
        pipeline: configs `unet` and `scheduler` of a network of diffusers; empty for our own.
        quantization: of what prior (name, sha256), and on which draws its inputs were calibrated; empty for a float network.
    """

    kind = "prior"

    units: str
    shift: float
    scale: float
    sigma_data: float
    sigma_min: float
    sigma_max: float
    network: dict[str, Any]
    denoising: dict[str, Any] = field(default_factory=dict)
    power_law: dict[str, list] = field(default_factory=dict)
    law: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    pipeline: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        _ = self.config  # raises for what describes no network

    @classmethod
    def known(cls) -> dict[str, Path]:
        return cards()

    @property
    def config(self) -> UNetConfig:
        return network_config(self.network)

    @property
    def shape(self) -> str:
        """In words, e.g. "3 x any x any"."""
        if self.pipeline:
            unet = self.pipeline["unet"]
            side = unet.get("sample_size") or "any"
            return " x ".join(
                map(str, (unet["in_channels"], *(side if isinstance(side, list) else (side, side))))
            )
        return (
            " x ".join(map(str, self.law["shape"]))
            if self.law
            else f"{self.config.channels} x any x any"
        )

    @property
    def model_units(self) -> dict[str, float]:
        """Scale and trusted noise levels, as a prior is constructed with them."""
        return {"scale": self.scale, "sigma_min": self.sigma_min, "sigma_max": self.sigma_max}


def network_config(fields: dict[str, Any]) -> UNetConfig:
    """The architecture that JSON describes.

    Raises: UnknownNameError or OptionError if it does not.
    """
    return build(UNetConfig, fields)


def cards() -> dict[str, Path]:
    """Every registered card by prior name."""
    return {name: entry.thing for name, entry in registry().table("inverse_priors").items()}


def load_prior(name: str | Path, device: torch.device | str = "cpu") -> Prior:
    """A prior by registered name, or by the path of its `.safetensors` file or card, or of a folder saved by diffusers.

    Raises: PriorError for weights that are missing, truncated, pickled or of another hash than the card's.
    """
    card_path = find_card(name)
    if card_path is None:
        from inverse.priors.networks.pipelines import from_diffusers

        return from_diffusers(Path(name)).to(device)
    card = PriorCard.read(card_path)
    prior = _read_prior(card, card.weights(name, card_path))
    prior.name, prior.power_law, prior.extra = card.name, card.power_law, card.extra  # type: ignore[assignment]
    prior.crop = card.training.get("crop")  # type: ignore[assignment]
    return prior.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def default_side(prior: Prior) -> int:
    """Pixels of a side where a prior is tried out: its own, or those of its training crops, or 64 where neither is known."""
    return prior.shape[-1] or getattr(prior, "crop", None) or 64


def find_card(name: str | Path) -> Path | None:
    """The card that a registered name, a `.safetensors` file or a card's own path means; None for a folder, which has none.

    Raises: PriorError for a pickle, or a path that is neither.
    """
    path = Path(name)
    if path.is_dir() and (path != Path(path.name) or str(name) not in cards()):
        return None
    if path.suffix == ".safetensors" and path.is_file():
        _refuse_pickle(path)
    if path.suffix in (".safetensors", ".json"):
        return path.with_suffix(".json")
    if path.suffix or path.parent != Path("."):
        if path.is_file():
            _refuse_pickle(path)
        raise PriorError(
            f"prior {name}: expected a registered name or a .safetensors file with its card"
        )
    return registry().find("inverse_priors", str(name))


def save_prior(prior: NetworkPrior | FieldLaw, path: Path, **about: Any) -> PriorCard:
    """Write half-precision weights to `path` (.safetensors) and the card beside it; returns the card.

    A Gaussian's mean and variances keep single precision: a temperature of 280 K has steps of 0.25 K in half.

    Args:
        about: the descriptive fields of `PriorCard`: units, training, licence, denoising, limits, law, extra.
    """
    law = prior if isinstance(prior, FieldLaw) else getattr(prior, "law", None)
    network = prior.network.config.to_dict() if isinstance(prior, NetworkPrior) else {}  # type: ignore[union-attr, operator]
    units: dict[str, Any] = {
        name: getattr(prior, name) for name in ("shift", "scale", "sigma_min", "sigma_max")
    }
    units["sigma_data"] = prior.sigma_data if isinstance(prior, NetworkPrior) else law.deviation  # type: ignore[union-attr]
    exact = SINGLE_PRECISION
    if law is not None:
        about["law"] = law.card_fields() | about.get("law", {})
        exact = exact | set(law.single_precision)
        if torch.is_tensor(law.shift):  # it is among the weights
            units["shift"] = 0.0
    state = {k: v.to(_stored(k, v.dtype, exact)) for k, v in prior.state_dict().items()}
    return PriorCard.save(
        path, state, network=network, **units, **{"units": "intensity in [0, 1]", **about}
    )


def _read_prior(card: PriorCard, path: Path) -> Prior:
    """The prior that a card describes, with the weights of its file."""
    if path.is_file():
        _refuse_pickle(path)
    weights = {k: v if v.dtype == torch.int8 else v.float() for k, v in card.arrays(path).items()}
    if card.pipeline:
        from inverse.priors.networks.pipelines import from_configs

        return from_configs(
            card.pipeline["unet"],
            card.pipeline["scheduler"],
            weights,
            path,
            {"shift": card.shift, "scale": card.scale},
        )
    try:
        if not card.law:
            prior = NetworkPrior.unet(
                card.config, card.sigma_data, shift=card.shift, **card.model_units
            )
            if card.quantization:
                from inverse.priors.networks.quantize import replace_with_int8

                replace_with_int8(prior.network, fit=False)
        elif not card.network:
            return _law(card, weights)
        else:
            law = _law(
                card,
                {
                    name.removeprefix("law."): value
                    for name, value in weights.items()
                    if name.startswith("law.")
                },
            )
            prior = CorrectedPrior(law, card.config)
            weights |= {f"law.{name}": value for name, value in law.state_dict().items()}
        prior.load_state_dict(weights)
    except (KeyError, RuntimeError, ValueError) as error:
        raise weights_mismatch("prior", path, error) from error
    return prior


def _law(card: PriorCard, weights: dict[str, Tensor]) -> FieldLaw:
    """The Gaussian that a card describes."""
    return registry().find("inverse_laws", card.law.get("kind", LowRankPrior.kind))(card, weights)


def load_low_rank(card: PriorCard, weights: dict[str, Tensor]) -> LowRankPrior:
    """The Gaussian of low rank that a card describes; its basis is made orthonormal again."""
    basis, turn = torch.linalg.qr(weights["basis"].double())  # halves are not quite orthonormal
    basis = (basis * turn.diagonal().sign()).float()
    return LowRankPrior(
        weights["mean"],
        basis,
        weights["variances"],
        weights["floor"],
        shift=card.shift,
        **card.model_units,
    )


SINGLE_PRECISION = {"scale", "step", "zero"}
"""Entries of a quantised layer's state that must not be rounded to half precision."""


def _stored(name: str, dtype: torch.dtype, exact: set[str]) -> torch.dtype:
    """Precision on disk of an entry of a prior's state; `exact` names those that are not rounded to half precision."""
    if dtype == torch.int8:
        return dtype
    return torch.float32 if name.rpartition(".")[2] in exact else torch.float16


def _refuse_pickle(path: Path) -> None:
    """A safetensors file has "{" at byte 8, after the length of its header, which may by chance begin like a pickle."""
    with path.open("rb") as file:
        head = file.read(9)
    pickled = head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80")
    if pickled or path.suffix in (".pt", ".pth", ".ckpt", ".pkl", ".bin"):
        how = f"inverse prior convert {path} --network CONFIG.json --out NAME.safetensors"
        raise PriorError(
            f"prior weights {path}: a pickle can run code when it is read; convert it once: {how}"
        )
