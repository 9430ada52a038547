"""Pipelines saved by diffusers as priors: the network's config and its scheduler's say which process it was trained on.

    scheduler                                    prediction                                  prior
    DDPM, DDIM, PNDM, ... (beta_start, ...)      eps, v or x0 at time t of T                 VPPrior
    EDMEuler, EDMDPMSolverMultistep              F under the preconditioning of EDM          NetworkPrior
    FlowMatchEulerDiscrete, ...HeunDiscrete      v = n - x0 at T t                           FlowPrior
    CMStochasticIterative                        F under a consistency model's boundary      ConsistencyPrior

Nothing is downloaded, and pickled weights are refused.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from inverse.errors import PriorError
from inverse.measurement.deepinv_import import import_beside_torchvision
from inverse.priors.networks.parametrisations import (
    IMAGES,
    ConsistencyPrior,
    FlowPrior,
    LatentPrior,
    VPPrior,
)
from inverse.priors.prior import NetworkPrior, Prior

EDM = {
    "_class_name": "EDMEulerScheduler",
    "prediction_type": "epsilon",
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
}
"""The scheduler's config of a network that Karras et al. trained as EDM."""


class Plain(nn.Module):
    """A network of diffusers as a plain function (x, t) -> gain * prediction, t in units of `unit`, without a learned variance."""

    def __init__(self, network: nn.Module, gain: float = 1.0, unit: float = 1.0):
        super().__init__()
        self.network, self.gain, self.unit = network, gain, unit

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.gain * self.network(x, self.unit * t).sample[:, : x.shape[1]]


def from_diffusers(folder: Path) -> Prior:
    """A pipeline saved by diffusers: `scheduler/`, `unet/` and, for latent models, `vae/` (or `vqvae/`) in safetensors.

    Raises: PriorError if diffusers is not installed, a part is missing, or the weights are pickled.
    """
    diffusers = _diffusers(folder)
    schedule, config = read_config(folder, "scheduler"), read_config(folder, "unet")
    vae = next(
        (_part(diffusers, folder, name) for name in ("vae", "vqvae") if (folder / name).is_dir()),
        None,
    )
    prior = from_configs(
        config,
        schedule,
        None,
        folder,
        {"shift": 0.0, "scale": 1.0} if vae else {},
        _part(diffusers, folder, "unet"),
    )
    if vae is None:
        return prior
    scaling, shift = (
        getattr(vae.config, name, None) or default
        for name, default in (("scaling_factor", 1.0), ("shift_factor", 0.0))
    )
    latent = LatentPrior(prior, lambda z: vae.decode(z / scaling + shift).sample / 2 + 0.5)
    latent.autoencoder = vae
    return latent


def from_configs(
    unet: dict[str, Any],
    scheduler: dict[str, Any],
    weights: dict[str, Tensor] | None,
    where: Path,
    units: dict[str, float],
    network: nn.Module | None = None,
) -> Prior:
    """The prior of a network's config and its scheduler's.

    Args:
        weights: of the network, unless it is given.
        where: the file or folder, for error messages.
        units: shift and scale, by default those of [-1, 1] for intensities.

    Raises: PriorError if diffusers is not installed, the scheduler is of no known process, or the weights do not fit.
    """
    diffusers = _diffusers(where)
    if network is None:
        network = _kind(diffusers, unet, where).from_config(unet).eval().requires_grad_(False)
        try:
            network.load_state_dict(weights)  # type: ignore[union-attr, arg-type]
        except RuntimeError as error:
            raise PriorError(
                f"prior {where}: the weights do not fit the network ({str(error).splitlines()[:2][-1].strip()})"
            ) from error
    side = unet.get("sample_size")
    shape = (
        unet.get("in_channels", 3),
        *((side, side) if side is None or isinstance(side, int) else side),
    )
    return _of_process(diffusers, network, scheduler, shape, IMAGES | units, where)


def _of_process(
    diffusers: ModuleType,
    network: nn.Module,
    scheduler: dict[str, Any],
    shape: tuple,
    units: dict[str, float],
    where: Path,
) -> Prior:
    name, prediction = (
        str(scheduler.get("_class_name")),
        scheduler.get("prediction_type", "epsilon"),
    )
    sigmas = {key: scheduler[key] for key in ("sigma_min", "sigma_max") if key in scheduler}
    if name.startswith("EDM"):
        if prediction not in ("epsilon", "v_prediction"):
            raise PriorError(
                f"prior {where}: under {name} a network predicts epsilon or v_prediction, got '{prediction}'"
            )
        return NetworkPrior(
            Plain(network, 1.0 if prediction == "epsilon" else -1.0),
            shape,
            scheduler.get("sigma_data", 0.5),
            **units,
            **sigmas,
        )
    if name.startswith("CM"):
        return ConsistencyPrior(
            Plain(network), shape, scheduler.get("sigma_data", 0.5), **units, **sigmas
        )
    if name.startswith("FlowMatch"):
        return FlowPrior(
            Plain(network, unit=scheduler.get("num_train_timesteps", 1000)), shape, 1, **units
        )
    if "beta_start" not in scheduler and not scheduler.get("trained_betas"):
        raise PriorError(
            f"prior {where}: scheduler {name} is neither VP (beta_start, beta_end) nor one of EDM, FlowMatch, CM"
        )
    known = {
        k: v
        for k, v in scheduler.items()
        if k in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    }
    noise: Any = diffusers.DDPMScheduler(**known)
    return VPPrior(network, noise.alphas_cumprod, prediction, shape, **units)


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """The JSON that describes a part of a pipeline.

    Raises: PriorError if it is missing or not JSON.
    """
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PriorError(
            f"prior {folder}: a diffusers folder has a readable {path.relative_to(folder)} ({error})"
        ) from error


def _diffusers(where: Path) -> ModuleType:
    with suppress(ImportError):
        import_beside_torchvision("torchvision")  # diffusers imports it, later, if it is there
    try:
        import diffusers
    except ImportError as error:
        raise PriorError(
            f"prior {where}: a network of diffusers needs diffusers; `pip install diffusers`"
        ) from error
    return diffusers


def _kind(diffusers: ModuleType, config: dict[str, Any], where: Path) -> Any:
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None:
        raise PriorError(
            f"prior {where}: the config names no class of diffusers ('{config.get('_class_name')}')"
        )
    return kind


def _part(diffusers: ModuleType, folder: Path, name: str) -> Any:
    kind = _kind(diffusers, read_config(folder, name), folder)
    if not list((folder / name).glob("*.safetensors")):
        how = f"inverse prior convert {folder} --out {folder.name}.safetensors"
        raise PriorError(
            f"prior {folder}: {name} has no .safetensors weights, and pickles are refused; convert it once: {how}"
        )
    try:
        return (
            kind.from_pretrained(folder / name, use_safetensors=True, local_files_only=True)
            .eval()
            .requires_grad_(False)
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise PriorError(
            f"prior {folder}: {name} cannot be loaded ({str(error).splitlines()[0]})"
        ) from error
