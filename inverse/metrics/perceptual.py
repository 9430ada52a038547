"""LPIPS and DISTS: distances between features of a classification network.

The user names a published checkpoint of torchvision (`.pth` or `.safetensors`) in an environment
variable: AlexNet, VGG16 or SqueezeNet for LPIPS, VGG16 for DISTS. Nothing is downloaded; a suite
that asks for one of these metrics without its checkpoint is refused with the name of the variable.
The weights that the authors of the metrics fitted on top of these networks come with torchmetrics.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inverse.errors import InputError
from inverse.measurement.deepinv_import import quietly_imported
from inverse.metrics.fidelity import is_picture
from inverse.result import Result

SMALLEST = 32
"""Smallest side of an image (pixels): below it the networks' last features are empty."""
CHECKPOINTS = {
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
    "vgg": "vgg16-397923af.pth",
}
"""Files of torchvision, from https://download.pytorch.org/models/."""

Features = dict[str, Tensor]


@dataclass(frozen=True)
class Perceptual:
    """A distance between the posterior mean and the truth, both clipped to [0, 1].

    Smaller is better; the truth itself has distance 0.

    Args:
        name: name of the metric.
        networks: keys of `CHECKPOINTS` that the metric is defined for.
        build: function of a network's name and features that returns the distance: two tensors
            (B, 3, H, W) -> (B,).
    """

    name: str
    networks: tuple[str, ...]
    build: Callable[[str, Features], Callable[[Tensor, Tensor], Tensor]]

    def __call__(self, result: Result) -> float | None:
        """The distance, mean over the images.

        None without a truth, for fields other than pictures, and below 32 pixels a side.

        Raises: InputError as `ready` does.
        """
        truth = result.truth
        if truth is None or not is_picture(truth) or min(truth.shape[-2:]) < SMALLEST:
            return None
        distance, _ = _loaded(self, self._path())
        with torch.inference_mode():
            return float(distance(_as_rgb(result.mean), _as_rgb(truth)).mean())

    def ready(self) -> None:
        """Load the weights.

        Raises: InputError if the variable that names them is not set, or the file is unusable.
        """
        _loaded(self, self._path())

    @property
    def version(self) -> str:
        """The network and the first digits of its file's sha256, which a score depends on."""
        return _loaded(self, self._path())[1]

    @property
    def variable(self) -> str:
        """The environment variable with the path of the checkpoint."""
        return f"INVERSE_{self.name.upper()}_WEIGHTS"

    def _path(self) -> Path:
        if not (path := os.environ.get(self.variable)):
            known = ", ".join(CHECKPOINTS[network] for network in self.networks)
            raise InputError(
                f"metric {self.name}: {self.variable} is not set; "
                f"it takes the path of a checkpoint of torchvision ({known})"
            )
        return Path(path)


@functools.lru_cache(maxsize=4)
def _loaded(metric: Perceptual, path: Path) -> tuple[Callable[[Tensor, Tensor], Tensor], str]:
    features, network = _features(metric.name, path), None
    if "features.3.squeeze.weight" in features:
        network = "squeeze"
    elif "features.0.weight" in features:
        network = "alex" if features["features.0.weight"].shape[-1] == 11 else "vgg"
    if network not in metric.networks:
        wanted = ", ".join(CHECKPOINTS[name] for name in metric.networks)
        content = CHECKPOINTS[network].split("-")[0] if network else "none of the networks"
        raise InputError(f"metric {metric.name}: {path} holds {content}; it takes {wanted}")
    try:
        distance = metric.build(network, features)
    except (RuntimeError, KeyError) as error:
        raise InputError(
            f"metric {metric.name}: {path} is incomplete ({next(iter(str(error).splitlines()))})"
        ) from error
    with path.open("rb") as file:
        return distance, f"{network} {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def _features(name: str, path: Path) -> Features:
    """Entries below `features` of a state dict, read from safetensors or with `weights_only`."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: value.float() for key, value in state.items() if key.startswith("features.")}
    except Exception as error:  # damaged bytes make torch.load raise errors of any type
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        reason = getattr(error, "strerror", None) or first_line
        raise InputError(
            f"metric {name}: {path} cannot be read as a state dict ({reason})"
        ) from error


def _as_rgb(images: Tensor) -> Tensor:
    return images.clamp(0, 1).float().expand(-1, 3, -1, -1)


def _fill(module: nn.Module, features: Features) -> None:
    """Copy a network's features into the parameters of a module.

    torchmetrics divides the features into slices, whose layers keep their numbers.

    Raises: KeyError or RuntimeError if they do not fit.
    """
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            parameter.copy_(
                features["features." + re.sub(r"^slices?\d*\.(\d+\.(?=\d))?", "", name)]
            )
        parameter.requires_grad_(False)


# --- LPIPS ------------------------------------------------------------------------------------


def build_lpips(network: str, features: Features) -> Callable[[Tensor, Tensor], Tensor]:
    """The LPIPS of torchmetrics for images in [0, 1], with version 0.1 of the linear layers.

    The public functions of torchmetrics download the network. Its module with random features does
    not; this function fills it with the features of the user's checkpoint.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric,
    CVPR 2018.
    """
    library = quietly_imported("torchmetrics.functional.image.lpips")
    module = library._NoTrainLpips(pretrained=False, net=network, pnet_rand=True)
    _fill(module.net, features)
    linear_layers = Path(str(library.__file__)).parent / "lpips_models" / f"{network}.pth"
    module.load_state_dict(_shipped(linear_layers), strict=False)
    return lambda x, y: module(x, y, normalize=True).flatten()


# --- DISTS ------------------------------------------------------------------------------------


class DISTS(nn.Module):
    """1 - sum_k alpha_k l(x_k, y_k) + beta_k s(x_k, y_k) over channels k, without resizing.

    l and s compare the means and the covariances of a channel: of the image itself, or of VGG16
    with its maximum pooling replaced by Hann-weighted root mean squares.

    forward: two batches of images in [0, 1], (B, 3, H, W) -> (B,).

    Source: Ding et al., Image Quality Assessment: Unifying Structure and Texture Similarity, IEEE
    TPAMI 2022, eqs. 5 to 7. The module of torchmetrics downloads its network when it is built;
    only its pooling layer and its weights are used here.
    """

    alpha: Tensor
    beta: Tensor
    POOLS, ENDS = (4, 9, 16, 23), (4, 9, 16, 23, 30)

    def __init__(self, features: Features):
        super().__init__()
        library = quietly_imported("torchmetrics.functional.image.dists")
        vgg = quietly_imported("torchvision.models.vgg")
        layers = vgg.make_layers(vgg.cfgs["D"])
        _fill(layers, features)
        for index, channels in zip(self.POOLS, (64, 128, 256, 512), strict=True):
            layers[index] = library.L2pooling(channels=channels)
        self.stages = nn.ModuleList(
            layers[start:end] for start, end in zip((0, *self.ENDS), self.ENDS, strict=False)
        )
        weights = _shipped(Path(str(library.__file__)).parent / "dists_models" / "weights.pt")
        total = weights["alpha"].sum() + weights["beta"].sum()
        self.register_buffer("alpha", weights["alpha"].flatten() / total)
        self.register_buffer("beta", weights["beta"].flatten() / total)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The image, and the features at the end of each stage."""
        mean = x.new_tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        deviation = x.new_tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        h = (x - mean) / deviation
        maps = [x]
        for stage in self.stages:
            maps.append(h := stage(h))
        return maps

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        means, covariances = [], []
        for a, b in zip(self.maps(x), self.maps(y), strict=True):
            a, b = a.flatten(2), b.flatten(2)
            m, n = a.mean(2), b.mean(2)
            means.append((2 * m * n + 1e-6) / (m**2 + n**2 + 1e-6))
            both = (a * b).mean(2) - m * n
            covariances.append(
                (2 * both + 1e-6) / (a.var(2, correction=0) + b.var(2, correction=0) + 1e-6)
            )
        return 1 - (self.alpha * torch.cat(means, 1) + self.beta * torch.cat(covariances, 1)).sum(1)


def _shipped(path: Path) -> dict[str, Any]:
    """Read weights that come with torchmetrics."""
    return torch.load(path, map_location="cpu", weights_only=True)


def build_dists(network: str, features: Features) -> DISTS:
    """DISTS with the features of VGG16, the only network that it is defined for."""
    return DISTS(features).eval()


lpips = Perceptual("lpips", ("alex", "vgg", "squeeze"), build_lpips)
dists = Perceptual("dists", ("vgg",), build_dists)
