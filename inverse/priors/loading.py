"""Priors on disk: safetensors weights and a JSON card that describes them; see `cards`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from inverse.errors import OptionError, PriorError
from inverse.io.devices import check_device
from inverse.priors.analytic import FieldLaw, LowRankPrior
from inverse.priors.card_schema import Fields, Length, Number, Width
from inverse.priors.cards import Card, check_size, weights_mismatch
from inverse.priors.catalogue import read_catalogue
from inverse.priors.field import power_law_field
from inverse.priors.networks.corrected import CorrectedPrior
from inverse.priors.networks.state_dicts import PICKLES, read_tensors
from inverse.priors.networks.unet import UNet, UNetConfig
from inverse.priors.prior import NetworkPrior, Prior
from inverse.registry.discovery import registry
from inverse.registry.options import build
from inverse.registry.types import Positive, Range


@dataclass(frozen=True)
class LawFields:
    """Entries of `PriorCard.law`; a kind of law may add others, which its loader checks.

    Args:
        shape: of one sample.
        rank: directions of the Gaussian that have their own variance.
        kind: name of the loader.
    """

    shape: tuple[Length, Length, Length]
    rank: Length | None = None
    kind: str = LowRankPrior.kind


@dataclass(frozen=True)
class PowerLaw:
    """Entries of `PriorCard.power_law`; see `field.fit_power_law`. All have one entry a channel.

    Raises: OptionError for lists of different lengths.
    """

    mean: tuple[Number, ...]
    colours: tuple[tuple[Number, ...], ...]
    power: tuple[Positive, ...]
    corner: tuple[Positive, ...]
    exponent: tuple[Annotated[float, Range(-100, 100)], ...]

    def __post_init__(self):
        lists = (self.mean, self.colours, *self.colours, self.power, self.corner, self.exponent)
        if len({len(entries) for entries in lists}) > 1 or not self.mean:
            raise OptionError("power_law: its lists must have one entry for each channel")


@dataclass(frozen=True)
class FieldDomain:
    """Entries of `PriorCard.extra` that are read again.

    Args:
        variables, units: of the channels of a field.
        latitudes, longitudes: of its grid (degrees).
    """

    variables: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    latitudes: tuple[Annotated[float, Range(-90, 90)], ...] = ()
    longitudes: tuple[Annotated[float, Range(-360, 720)], ...] = ()


@dataclass(frozen=True)
class DiffusersUNet:
    """Entries of a diffusers network's config that are read here.

    Args:
        in_channels: of a sample.
        sample_size: its side, or height and width (pixels); None for any.
    """

    in_channels: Width = 3
    sample_size: Length | tuple[Length, Length] | None = None


@dataclass(frozen=True)
class PipelineFields:
    """The entry `pipeline` of a card: the configs of a diffusers network and its scheduler."""

    unet: Annotated[dict[str, Any], Fields(DiffusersUNet, others=True)]
    scheduler: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PriorCard(Card):
    """The description of a trained prior.

    Args:
        units: physical units of `decode`, in words.
        shift, scale: physical = scale * model + shift.
        sigma_data: standard deviation of the training data, model units.
        sigma_min, sigma_max: smallest and largest trusted noise level, model units.
        network: fields of `UNetConfig`; empty for a Gaussian without a network, which is `law` or,
            without it, the field of `power_law`.
        denoising: measured table, noise level (of 255) -> PSNR in dB.
        bf16_loss: largest loss of PSNR (dB) of the denoiser in bf16, over noise levels from 2 to
            500 of 255 (`bench/denoise.py --against bf16`); None if it was not measured.
        power_law: mean and power spectrum of the training data, fitted by `field.fit_power_law`;
            for `analytic_start`.
        law: shape, rank and kind of the Gaussian in the weights, and how it was fitted; empty
            without a Gaussian. The hook `inverse_laws` names the loader of each kind; the default
            kind is "low-rank".
        extra: variables, units, latitudes, longitudes and periods of the training fields; empty for
            images.
        pipeline: configs `unet` and `scheduler` of a diffusers network; empty for a `UNet`.
        foreign: `architecture`, a name of the hook `inverse_architectures`, and its fields, for a
            network of another project; empty otherwise.
        quantization: name and sha256 of the float prior, and the calibration of its inputs; empty
            for a float network.

    Raises: UnknownNameError or OptionError if `network` is not a valid architecture.
    """

    kind = "prior"

    units: str
    shift: Annotated[float, Range(-1e9, 1e9)]
    scale: Annotated[float, Range(1e-9, 1e9)]
    sigma_data: Annotated[float, Range(1e-9, 1e9)]
    sigma_min: Annotated[float, Range(0, 1e9)]
    sigma_max: Annotated[float, Range(1e-9, 1e9)]
    network: Annotated[dict[str, Any], Fields(UNetConfig)]
    denoising: dict[str, Any] = field(default_factory=dict)
    bf16_loss: Number | None = None
    power_law: Annotated[dict[str, list], Fields(PowerLaw)] = field(default_factory=dict)
    law: Annotated[dict[str, Any], Fields(LawFields, others=True)] = field(default_factory=dict)
    extra: Annotated[dict[str, Any], Fields(FieldDomain, others=True)] = field(default_factory=dict)
    pipeline: Annotated[dict[str, Any], Fields(PipelineFields)] = field(default_factory=dict)
    foreign: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not self.sigma_min < self.sigma_max:
            raise OptionError(
                f"sigma_min must be below sigma_max, got {self.sigma_min} and {self.sigma_max}"
            )
        _ = self.config  # raises for an invalid architecture

    @classmethod
    def known(cls) -> dict[str, Path]:
        """Paths of the registered cards, by the name of the prior."""
        return cards()

    @property
    def config(self) -> UNetConfig:
        """Architecture of the network."""
        return network_config(self.network)

    @property
    def shape(self) -> str:
        """Shape of one sample in words, e.g. "3 x any x any"."""
        lengths: tuple[Any, ...] = (self.config.channels, "any", "any")
        if self.pipeline:
            unet = self.pipeline["unet"]
            side = unet.get("sample_size") or "any"
            sides = side if isinstance(side, list) else (side, side)
            lengths = (unet.get("in_channels", 3), *sides)
        elif self.foreign:
            side = self.foreign.get("side", "any")
            lengths = (self.foreign.get("channels", 3), side, side)
        elif self.power_law and not self.network and not self.law:
            lengths = (len(self.power_law["mean"]), "any", "any")
        elif self.law:
            lengths = tuple(self.law["shape"])
        return " x ".join(map(str, lengths))

    @property
    def model_units(self) -> dict[str, float]:
        """Scale and trusted noise levels, as keyword arguments of a prior."""
        return {"scale": self.scale, "sigma_min": self.sigma_min, "sigma_max": self.sigma_max}


def network_config(fields: dict[str, Any]) -> UNetConfig:
    """The architecture of a card's `network` field.

    Raises: UnknownNameError for an unknown field, OptionError for an impossible value.
    """
    return build(UNetConfig, fields)


def cards() -> dict[str, Path]:
    """Paths of all registered cards, by the name of the prior."""
    return {name: entry.thing for name, entry in registry().table("inverse_priors").items()}


@torch.inference_mode(False)
def load_prior(name: str | Path, device: torch.device | str = "cpu") -> Prior:
    """A prior from its registered name, its `.safetensors` file, its card, a diffusers folder, or
    the weights of a known network of another project (`inverse.priors.foreign`).

    Raises: PriorError if the weights are missing, truncated, of an unknown network, hold more than
        tensors, or have another hash than the card's; UnknownNameError for a name that is not
        registered; OptionError for a device that this machine lacks.
    """
    device = check_device(device)
    if not isinstance(name, str | Path):
        raise PriorError(f"prior: expected a name or a path, got {type(name).__name__}")
    card_path = find_card(name)
    if card_path is None:
        return _without_card(Path(name)).to(device)
    card = PriorCard.read(card_path)
    prior: Any = _read_prior(card, card.weights(name, card_path))
    prior.name, prior.power_law, prior.extra = card.name, card.power_law, card.extra
    prior.bf16_loss = card.bf16_loss
    prior.crop = card.training.get("crop") or getattr(prior, "crop", None)
    return prior.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)


def default_side(prior: Prior) -> int:
    """Side (pixels) of the images on which a prior is evaluated by default.

    It is the prior's own, else that of its training crops, else 64.
    """
    return prior.shape[-1] or getattr(prior, "crop", None) or 64


def find_card(name: str | Path) -> Path | None:
    """The path of the card of a registered name, a `.safetensors` file or a card.

    Returns: None for a folder of diffusers and for weights of another project without a card.
    Raises: PriorError for another kind of file, UnknownNameError for an unknown name.
    """
    path = Path(name)
    if path.is_dir() and (path != Path(path.name) or str(name) not in cards()):
        return None
    if path.is_file() and path.suffix in PICKLES:
        return None
    if path.suffix == ".safetensors" and path.is_file() and not path.with_suffix(".json").exists():
        _refuse_pickle(path)
        return None
    if path.suffix == ".safetensors" and path.is_file():
        _refuse_pickle(path)
    if path.suffix in (".safetensors", ".json"):
        return path.with_suffix(".json")
    if path.suffix or path.parent != Path("."):
        if path.is_file():
            _refuse_pickle(path)
        elif path.suffix in PICKLES:
            raise PriorError(f"prior {name}: no such file")
        raise PriorError(
            f"prior {name}: expected a registered name, a .safetensors file with its card, weights "
            f"of a known network ({', '.join(PICKLES)}) or a folder saved by diffusers"
        )
    if str(name) not in cards() and str(name) in (known := read_catalogue()):
        size = f", {known[str(name)].megabytes:g} MB" if known[str(name)].megabytes else ""
        raise PriorError(
            f"prior '{name}' is in the catalogue and not on this machine{size}; "
            f"`inverse prior fetch {name}` downloads it"
        )
    return registry().find("inverse_priors", str(name))


def _without_card(path: Path) -> Prior:
    """The prior of a diffusers folder, or of weights whose names and shapes tell the network."""
    from inverse.priors.foreign.recognition import UnknownNetworkError, recognise

    if path.is_dir():
        from inverse.priors.networks.pipelines import from_diffusers

        return from_diffusers(path)
    weights = read_tensors(path, label="prior")
    try:
        prior: Any = recognise(weights, path).prior()
    except UnknownNetworkError as error:
        described = f"inverse prior convert {path} --network CONFIG.json --out NAME.safetensors"
        beside = "weights need their card beside them, or " if path.suffix == ".safetensors" else ""
        raise PriorError(f"{error}; {beside}describe the network once: {described}") from error
    prior.name = path.stem
    return prior


def save_prior(prior: NetworkPrior | FieldLaw, path: Path, **fields: Any) -> PriorCard:
    """Write half-precision weights to `path` (.safetensors) and the card beside it.

    The mean and the variances of a Gaussian keep single precision: near 280 K, the steps of half
    precision are 0.25 K.

    Args:
        fields: descriptive fields of `PriorCard`: units, training, licence, denoising, limits, law,
            extra.

    Returns: the card.
    Raises: PriorError for another suffix.
    """
    law = prior if isinstance(prior, FieldLaw) else getattr(prior, "law", None)
    units: dict[str, Any] = {
        name: getattr(prior, name) for name in ("shift", "scale", "sigma_min", "sigma_max")
    }
    network: dict[str, Any] = {}
    if isinstance(prior, NetworkPrior):
        config: Any = prior.network.config
        network, units["sigma_data"] = config.to_dict(), prior.sigma_data
    else:
        units["sigma_data"] = prior.deviation
    single_precision = SINGLE_PRECISION
    if law is not None:
        fields["law"] = law.card_fields() | fields.get("law", {})
        single_precision = single_precision | set(law.single_precision)
        if torch.is_tensor(law.shift):  # the weights hold it
            units["shift"] = 0.0
    state = {
        name: value.to(_stored_dtype(name, value.dtype, single_precision))
        for name, value in prior.state_dict().items()
    }
    fields = {"units": "intensity in [0, 1]", **fields}
    return PriorCard.save(path, state, network=network, **units, **fields)


def _read_prior(card: PriorCard, path: Path) -> Prior:
    """The prior of a card, with the weights of the file at `path`."""
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
    if card.foreign:
        from inverse.priors.foreign.recognition import from_card

        return from_card(card.foreign, weights, path)
    try:
        if card.network:
            check_size(lambda: UNet(card.config), weights)
        if not card.law and not card.network and card.power_law:
            return power_law_field(card.power_law, shift=card.shift, **card.model_units).float()
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
            law_weights = {
                name.removeprefix("law."): value
                for name, value in weights.items()
                if name.startswith("law.")
            }
            law = _law(card, law_weights)
            prior = CorrectedPrior(law, card.config)
            weights |= {f"law.{name}": value for name, value in law.state_dict().items()}
        prior.load_state_dict(weights)
    except (ArithmeticError, LookupError, RuntimeError, ValueError, OptionError) as error:
        raise weights_mismatch("prior", path, error) from error
    return prior


def _law(card: PriorCard, weights: dict[str, Tensor]) -> FieldLaw:
    """The Gaussian of a card, by the loader that is registered for its kind.

    Raises: OptionError if the weights have another shape than the card states.
    """
    kind = card.law.get("kind", LowRankPrior.kind)
    law = registry().find("inverse_laws", kind)(card, weights)
    if tuple(law.shape) != tuple(card.law["shape"]):
        raise OptionError(f"the law has shape {law.shape}, the card says {card.law['shape']}")
    return law


def load_low_rank(card: PriorCard, weights: dict[str, Tensor]) -> LowRankPrior:
    """The Gaussian of low rank that a card describes.

    Its basis is orthonormalised again, since rounding to half precision changed it.

    Args:
        weights: arrays `mean`, `basis`, `variances` and `floor`; see `LowRankPrior`.
    """
    basis, triangle = torch.linalg.qr(weights["basis"].double())
    basis = (basis * triangle.diagonal().sign()).float()
    return LowRankPrior(
        weights["mean"],
        basis,
        weights["variances"],
        weights["floor"],
        shift=card.shift,
        **card.model_units,
    )


SINGLE_PRECISION = {"scale", "step", "zero", "factors"}
"""Entries of a quantised layer's state that are stored in single precision."""


def _stored_dtype(name: str, dtype: torch.dtype, single_precision: set[str]) -> torch.dtype:
    """Precision on disk of an entry of a prior's state."""
    if dtype == torch.int8:
        return dtype
    return torch.float32 if name.rpartition(".")[2] in single_precision else torch.float16


def _refuse_pickle(path: Path) -> None:
    """Raise PriorError for a pickle, recognised by its first bytes or its suffix.

    A safetensors file has "{" at byte 8, after the length of its header. The length may by chance
    begin like a pickle.
    """
    with path.open("rb") as file:
        head = file.read(9)
    pickled = head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80")
    if pickled or path.suffix in PICKLES:
        command = f"inverse prior convert {path} --network CONFIG.json --out NAME.safetensors"
        raise PriorError(
            f"prior weights {path}: a pickle can run code when it is read; "
            f"convert it once: {command}"
        )
