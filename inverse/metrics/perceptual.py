"""LPIPS and DISTS: distances between features of a classification network, whose weights the user gives by path.

A published checkpoint of torchvision is what they take, as `.pth` or `.safetensors`: AlexNet, VGG16 or SqueezeNet for LPIPS, VGG16 for
DISTS. Nothing is downloaded: a suite that asks for one of them without its weights is refused, and says which variable names them.
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
from inverse.measurement.deepinv_import import import_beside_torchvision
from inverse.metrics.fidelity import is_picture
from inverse.result import Result

SMALLEST = 32
"""Pixels a side below which a network has nothing left to look at."""
CHECKPOINTS = {
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
    "vgg": "vgg16-397923af.pth",
}
"""torchvision's files, from https://download.pytorch.org/models/."""

Features = dict[str, Tensor]


@dataclass(frozen=True)
class Perceptual:
    """A distance of the posterior mean from the truth, both clipped to [0, 1]; smaller is better, 0 for the truth itself.

    Args:
        name: of the metric.
        networks: keys of `CHECKPOINTS` that it is defined for.
        build: from a network's name and features to the distance, (B, 3, H, W) twice -> (B,).
    """

    name: str
    networks: tuple[str, ...]
    build: Callable[[str, Features], Callable[[Tensor, Tensor], Tensor]]

    def __call__(self, result: Result) -> float | None:
        """None without a truth, for what is no picture, and below 32 pixels a side.

        Raises: InputError as `ready`.
        """
        if (
            result.truth is None
            or not is_picture(result.truth)
            or min(result.truth.shape[-2:]) < SMALLEST
        ):
            return None
        distance, _ = _loaded(self, self._path())
        with torch.inference_mode():
            return float(distance(_coloured(result.mean), _coloured(result.truth)).mean())

    def ready(self) -> None:
        """Load the weights.

        Raises: InputError if the variable that names them is not set, or what it names cannot be used.
        """
        _loaded(self, self._path())

    @property
    def version(self) -> str:
        """The network and the beginning of its file's sha256: what a score depends on."""
        return _loaded(self, self._path())[1]

    @property
    def variable(self) -> str:
        """The environment variable that holds the path."""
        return f"INVERSE_{self.name.upper()}_WEIGHTS"

    def _path(self) -> Path:
        if not (path := os.environ.get(self.variable)):
            known = ", ".join(CHECKPOINTS[network] for network in self.networks)
            raise InputError(
                f"metric {self.name}: {self.variable} is not set; it takes the path of a checkpoint of torchvision ({known})"
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
        found = CHECKPOINTS[network].split("-")[0] if network else "none of the networks"
        raise InputError(f"metric {metric.name}: {path} holds {found}; it takes {wanted}")
    try:
        distance = metric.build(network, features)
    except (RuntimeError, KeyError) as error:
        raise InputError(
            f"metric {metric.name}: {path} is not whole ({next(iter(str(error).splitlines()))})"
        ) from error
    with path.open("rb") as file:
        return distance, f"{network} {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def _features(name: str, path: Path) -> Features:
    """A state dict's entries below `features`: of a safetensors file, or of one that holds tensors and nothing that runs."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: value.float() for key, value in state.items() if key.startswith("features.")}
    except Exception as error:  # torch.load raises whatever the bytes of the file provoke
        found = getattr(error, "strerror", None) or next(
            iter(str(error).splitlines()), type(error).__name__
        )
        raise InputError(
            f"metric {name}: {path} cannot be read as a state dict ({found})"
        ) from error


def _coloured(images: Tensor) -> Tensor:
    return images.clamp(0, 1).float().expand(-1, 3, -1, -1)


def _fill(module: nn.Module, features: Features) -> None:
    """Give a module's parameters the values of a network's features; torchmetrics has those in slices, under the same numbers.

    Raises: KeyError or RuntimeError where they do not fit.
    """
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            parameter.copy_(
                features["features." + re.sub(r"^slices?\d*\.(\d+\.(?=\d))?", "", name)]
            )
        parameter.requires_grad_(False)


# --- LPIPS ------------------------------------------------------------------------------------------------------------


def build_lpips(network: str, features: Features) -> Callable[[Tensor, Tensor], Tensor]:
    """torchmetrics' LPIPS, version 0.1 of its authors' linear layers, of images in [0, 1]. The functions that torchmetrics offers
    download the network; its module with random features, filled here, does not.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018.
    """
    found = import_beside_torchvision("torchmetrics.functional.image.lpips")
    module = found._NoTrainLpips(pretrained=False, net=network, pnet_rand=True)
    _fill(module.net, features)
    module.load_state_dict(
        _shipped(Path(str(found.__file__)).parent / "lpips_models" / f"{network}.pth"), strict=False
    )
    return lambda x, y: module(x, y, normalize=True).flatten()


# --- DISTS ------------------------------------------------------------------------------------------------------------


class DISTS(nn.Module):
    """1 - sum_k alpha_k l(x_k, y_k) + beta_k s(x_k, y_k): similarity of means and of covariances of every channel of VGG16 whose
    maxima are replaced by Hann-weighted root mean squares, the image itself among the channels. No resizing.

    Source: Ding et al., Image Quality Assessment: Unifying Structure and Texture Similarity, IEEE TPAMI 2022, eqs. 5 to 7. torchmetrics'
    module downloads its network when it is made, so that only its pooling layer and weights are used here.
    """

    alpha: Tensor
    beta: Tensor
    POOLS, ENDS = (4, 9, 16, 23), (4, 9, 16, 23, 30)

    def __init__(self, features: Features):
        super().__init__()
        theirs, vgg = (
            import_beside_torchvision("torchmetrics.functional.image.dists"),
            import_beside_torchvision("torchvision.models.vgg"),
        )
        layers = vgg.make_layers(vgg.cfgs["D"])
        _fill(layers, features)
        for place, channels in zip(self.POOLS, (64, 128, 256, 512), strict=True):
            layers[place] = theirs.L2pooling(channels=channels)
        self.stages = nn.ModuleList(
            layers[start:end] for start, end in zip((0, *self.ENDS), self.ENDS, strict=False)
        )
        weights = _shipped(Path(str(theirs.__file__)).parent / "dists_models" / "weights.pt")
        total = weights["alpha"].sum() + weights["beta"].sum()
        self.register_buffer("alpha", weights["alpha"].flatten() / total)
        self.register_buffer("beta", weights["beta"].flatten() / total)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The image and the features at the end of each stage."""
        h = (x - x.new_tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / x.new_tensor(
            [0.229, 0.224, 0.225]
        ).view(3, 1, 1)
        found = [x]
        for stage in self.stages:
            found.append(h := stage(h))
        return found

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
    """Weights that come with torchmetrics."""
    return torch.load(path, map_location="cpu", weights_only=True)


def build_dists(network: str, features: Features) -> DISTS:
    return DISTS(features).eval()


lpips = Perceptual("lpips", ("alex", "vgg", "squeeze"), build_lpips)
dists = Perceptual("dists", ("vgg",), build_dists)
