"""Diffusers pipelines as priors; the configs of network and scheduler define the process.

    scheduler                                 prediction                         prior
    DDPM, DDIM, PNDM, ... (beta_start, ...)   eps, v or x0 at time t of T        VPPrior
    EDMEuler, EDMDPMSolverMultistep           F under EDM's preconditioning      NetworkPrior
    FlowMatchEulerDiscrete, ...HeunDiscrete   v = n - x0 at time T t             FlowPrior
    CMStochasticIterative                     F of a consistency model           ConsistencyPrior

Nothing is downloaded, and pickled weights are refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from inverse.errors import PriorError
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
"""The scheduler config of an EDM network of Karras et al."""


class DiffusersNetwork(nn.Module):
    """A diffusers network as a function (x, t) -> gain * prediction.

    A learned variance is dropped. x (B, C, H, W), t (B,) -> (B, C, H, W).

    Args:
        network: the diffusers network.
        gain: factor of the prediction.
        unit: factor of the time.
    """

    def __init__(self, network: nn.Module, gain: float = 1.0, unit: float = 1.0):
        super().__init__()
        self.network, self.gain, self.unit = network, gain, unit

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.gain * self.network(x, self.unit * t).sample[:, : x.shape[1]]


def from_diffusers(folder: Path) -> Prior:
    """The prior of a diffusers folder, with safetensors weights.

    Args:
        folder: it holds `scheduler/`, `unet/` and, for latent models, `vae/` or `vqvae/`.

    Raises: PriorError if diffusers is not installed, a part is missing, or the weights are pickled.
    """
    diffusers = _diffusers(folder)
    schedule, config = read_config(folder, "scheduler"), read_config(folder, "unet")
    vae = next(
        (_part(diffusers, folder, name) for name in ("vae", "vqvae") if (folder / name).is_dir()),
        None,
    )
    units = {"shift": 0.0, "scale": 1.0} if vae else {}
    network = _part(diffusers, folder, "unet")
    prior = from_configs(config, schedule, None, folder, units, network)
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
    source: Path,
    units: dict[str, float],
    network: nn.Module | None = None,
) -> Prior:
    """The prior of the configs of a diffusers network and its scheduler.

    Args:
        unet: config of the network.
        scheduler: config of the scheduler.
        weights: weights of the network; None if `network` has them.
        source: the file or folder, for error messages.
        units: shift and scale; by default those of [-1, 1] for intensities.
        network: the network; by default it is built from `unet`.

    Raises: PriorError if diffusers is not installed, the process of the scheduler is unknown, or
        the weights do not fit.
    """
    diffusers = _diffusers(source)
    if network is None:
        network = _class(diffusers, unet, source).from_config(unet).eval().requires_grad_(False)
        try:
            network.load_state_dict(weights)  # type: ignore[union-attr, arg-type]
        except RuntimeError as error:
            reason = str(error).splitlines()[:2][-1].strip()
            raise PriorError(
                f"prior {source}: the weights do not fit the network ({reason})"
            ) from error
    side = unet.get("sample_size")
    sides = (side, side) if side is None or isinstance(side, int) else side
    shape = (unet.get("in_channels", 3), *sides)
    return _prior_of_process(diffusers, network, scheduler, shape, IMAGES | units, source)


def _prior_of_process(
    diffusers: ModuleType,
    network: nn.Module,
    scheduler: dict[str, Any],
    shape: tuple,
    units: dict[str, float],
    source: Path,
) -> Prior:
    name = str(scheduler.get("_class_name"))
    prediction = scheduler.get("prediction_type", "epsilon")
    sigma_data = scheduler.get("sigma_data", 0.5)
    sigmas = {key: scheduler[key] for key in ("sigma_min", "sigma_max") if key in scheduler}
    if name.startswith("EDM"):
        if prediction not in ("epsilon", "v_prediction"):
            raise PriorError(
                f"prior {source}: a network under {name} predicts epsilon or v_prediction, "
                f"got '{prediction}'"
            )
        network = DiffusersNetwork(network, gain=1.0 if prediction == "epsilon" else -1.0)
        return NetworkPrior(network, shape, sigma_data, **units, **sigmas)
    if name.startswith("CM"):
        network = DiffusersNetwork(network)
        return ConsistencyPrior(network, shape, sigma_data, **units, **sigmas)
    if name.startswith("FlowMatch"):
        network = DiffusersNetwork(network, unit=scheduler.get("num_train_timesteps", 1000))
        return FlowPrior(network, shape, 1, **units)
    if "beta_start" not in scheduler and not scheduler.get("trained_betas"):
        raise PriorError(
            f"prior {source}: scheduler {name} is neither VP (beta_start, beta_end) nor "
            "EDM, FlowMatch or CM"
        )
    known = {
        k: v
        for k, v in scheduler.items()
        if k in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    }
    noise: Any = diffusers.DDPMScheduler(**known)
    return VPPrior(network, noise.alphas_cumprod, prediction, shape, **units)


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """The config of a part of a pipeline: scheduler, unet, vae or vqvae.

    Raises: PriorError if it is missing or not JSON.
    """
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PriorError(
            f"prior {folder}: a diffusers folder needs a readable {path.relative_to(folder)} "
            f"({error})"
        ) from error


def _diffusers(source: Path) -> ModuleType:
    try:
        import diffusers
    except ImportError as error:
        raise PriorError(
            f"prior {source}: a diffusers network needs diffusers; `pip install diffusers`"
        ) from error
    return diffusers


def _class(diffusers: ModuleType, config: dict[str, Any], source: Path) -> Any:
    name = config.get("_class_name")
    network_class = getattr(diffusers, str(name), None)
    if network_class is None:
        raise PriorError(f"prior {source}: the config names no class of diffusers ('{name}')")
    return network_class


def _part(diffusers: ModuleType, folder: Path, name: str) -> Any:
    network_class = _class(diffusers, read_config(folder, name), folder)
    if not list((folder / name).glob("*.safetensors")):
        command = f"inverse prior convert {folder} --out {folder.name}.safetensors"
        raise PriorError(
            f"prior {folder}: {name} has no .safetensors weights, and pickles are refused; "
            f"convert it once: {command}"
        )
    options = {"use_safetensors": True, "local_files_only": True}
    try:
        network = network_class.from_pretrained(folder / name, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise PriorError(f"prior {folder}: {name} cannot be loaded ({reason})") from error
    return network.eval().requires_grad_(False)
