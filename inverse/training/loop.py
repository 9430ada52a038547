"""The training loop of a diffusion prior, with checkpoints that survive a kill.

A generator seeded by (seed, step) draws the crops, noise levels and noise of a step, so that a run
resumed from a checkpoint computes the same weights as an uninterrupted run.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from inverse.errors import InputError, OptionError
from inverse.io.files import atomic_write
from inverse.priors.networks.unet import UNetConfig
from inverse.priors.prior import NetworkPrior
from inverse.registry.options import check_options
from inverse.registry.types import Fraction, Positive, Range
from inverse.seeding import check_seed, seeded
from inverse.training.crops import random_crops


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines the weights.

    Args:
        size: side of the training crops (pixels).
        steps: number of optimiser steps.
        batch: crops in one step.
        learning_rate: peak rate of AdamW. The rate rises linearly over `warmup` steps, stays
            constant, and falls linearly to zero over the last fraction `cooldown` of the steps.
        warmup: steps of the warm-up.
        cooldown: fraction of the steps over which the rate falls to zero.
        ema: decay of the averaged weights, reached gradually. The averaged weights are saved.
        sigma_log_mean, sigma_log_std: parameters of the log-normal law of the training noise level,
            model units.
        wide: share of the noise levels drawn log-uniformly from the prior's whole range instead;
            the log-normal law rarely reaches the highest levels.
        start: sha256 of the prior whose weights the training starts from; empty for none.
        precision: "bf16" (autocast) or "float32".
        seed: random seed for the initialisation, the crops and the noise.
        mix: share of the training fields that blend two fields; images are not blended.
        network: architecture of the trained network, a `UNetConfig` for a prior.
        mirror: whether to flip half of the images left to right.
        regions: hash of the maps that weigh the pixels; empty without maps.

    Raises: OptionError for a value out of its range.
    """

    size: Annotated[int, Range(8, 4096)] = 64
    steps: Annotated[int, Range(1, 10**9)] = 100_000
    batch: Annotated[int, Range(1, 10**5)] = 16
    learning_rate: Positive = 1e-3
    warmup: Annotated[int, Range(0, 10**9)] = 300
    cooldown: Fraction = 0.3
    ema: Annotated[float, Range(0, below=1)] = 0.999
    sigma_log_mean: Annotated[float, Range(-20, 20)] = -1.2
    sigma_log_std: Annotated[float, Range(0, 20)] = 1.2
    wide: Fraction = 0.0
    start: str = ""
    precision: str = "float32"
    seed: int = 0
    network: Any = UNetConfig()
    mix: Fraction = 0.0
    mirror: bool = True
    regions: str = ""

    name: ClassVar[str] = "train"

    def __post_init__(self):
        check_options(self)
        check_seed(self.seed, bits=63)
        if self.precision not in ("bf16", "float32"):
            raise OptionError(
                f"train: precision must be 'bf16' or 'float32', got '{self.precision}'"
            )

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (0-based)."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1.0, self.cooldown * self.steps))
        return self.learning_rate * min(rise, fall)


@dataclass(frozen=True)
class Progress:
    """Progress of a training.

    Args:
        step: steps done.
        loss: mean loss of the last hundred steps.
        crops_per_second: throughput of this run.
        seconds_left: estimated time to the end.
    """

    step: int
    loss: float
    crops_per_second: float
    seconds_left: float


class Training:
    """The state of a training: prior, averaged weights, optimiser, step.

    A subclass trains something else by overriding `initial_model`, `batch_loss`, `draw_batch` and
    `extra_state`.

    Args:
        sources: lists of uint8 images (H, W, C), see `io.image_sets.load_images`; a channel beyond
            those of the network weighs the pixels, see `io.region_maps`.
        config: everything that determines the weights.
        checkpoint: file of the state. An existing checkpoint is resumed if its config agrees in
            everything but `steps` and `cooldown`.
        device: device of the network and its batches.
        start: a trained prior of images, from whose weights and scale the training continues.

    Raises: InputError if the checkpoint is damaged or belongs to another config.
    """

    def __init__(
        self,
        sources: list[list[np.ndarray]],
        config: TrainConfig,
        checkpoint: Path,
        device: torch.device | str = "cpu",
        start: NetworkPrior | None = None,
    ):
        self.sources, self.config, self.checkpoint, self.device = (
            sources,
            config,
            checkpoint,
            torch.device(device),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model: Any = copy.deepcopy(start) if start else self.initial_model()
            if start:
                model.train().requires_grad_()
        self.prior = model.to(self.device).to(memory_format=torch.channels_last)
        self.parameters = dict(self.prior.named_parameters())
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
            fused=True,
        )
        self.step, self.stopping = 0, False
        self.mean_region: float | None = None
        if checkpoint.exists():
            self._load()

    def run(self, save_every: float = 120.0) -> Iterator[Progress]:
        """Train until the last step, and yield the progress after every 20 steps.

        Args:
            save_every: seconds between checkpoints; the last step is saved too.

        Raises: InputError if the loss is not finite; the checkpoint then keeps its last good state.
        """
        losses: list[Tensor] = []
        first, start, saved = self.step, time.monotonic(), time.monotonic()
        while self.step < self.config.steps:
            losses = [*losses[-99:], self.take_step()]
            last = self.step == self.config.steps
            if self.step % 20 and not (last or self.stopping):
                continue
            mean = torch.stack(losses).mean().item()
            if not math.isfinite(mean):
                raise InputError(
                    f"train: the loss is {mean} at step {self.step}; "
                    f"try a lower learning rate than {self.config.learning_rate}"
                )
            if self.stopping and not last:  # set by `train_to_end` at a signal
                raise KeyboardInterrupt
            if time.monotonic() - saved > save_every or last:
                self.save()
                saved = time.monotonic()
            speed = (self.step - first) / (time.monotonic() - start)
            yield Progress(
                self.step, mean, speed * self.config.batch, (self.config.steps - self.step) / speed
            )

    def averaged(self) -> NetworkPrior:
        """A copy of the prior with the averaged weights, on the CPU, ready to be saved or used."""
        prior = copy.deepcopy(self.prior).cpu().to(memory_format=torch.contiguous_format)
        weights = {name: value.cpu() for name, value in self.ema.items()}
        prior.load_state_dict(weights, strict=False)  # buffers are not averaged
        return prior.eval()

    def initial_model(self) -> nn.Module:
        """The model before the first step."""
        return NetworkPrior.unet(
            self.config.network,
            sigma_data=pixel_std(self.sources, channels=self.config.network.channels),
            shift=0.5,
            scale=0.5,
        )

    def batch_loss(self, generator: torch.Generator) -> Tensor:
        """Loss of one batch: ()."""
        config, (pixels, region) = self.config, self.split(self.draw_batch(generator))
        x0 = self.prior.encode(pixels)
        sigma = self.noise_levels(generator)
        noise = torch.randn(x0.shape, generator=generator)
        x0, sigma, noise = (
            t.to(self.device, non_blocking=True)
            for t in (x0.contiguous(memory_format=torch.channels_last), sigma, noise)
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            if region is None:
                return self.prior.loss(x0, sigma, noise)
            return self.prior.loss(x0, sigma, noise, region.to(self.device))

    def split(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """Crops without the channel that weighs their pixels, and that channel over its mean."""
        channels = self.prior.shape[0]
        if crops.shape[1] == channels:
            return crops, None
        if self.mean_region is None:
            means = [np.mean([i[..., -1].mean() / 255 for i in s]) for s in self.sources]
            self.mean_region = float(np.mean(means))
        return crops[:, :channels], crops[:, channels:] / self.mean_region

    def noise_levels(self, generator: torch.Generator) -> Tensor:
        """Noise level of each crop of a batch: (batch,), model units."""
        config = self.config
        sigma = torch.exp(
            config.sigma_log_mean
            + config.sigma_log_std * torch.randn(config.batch, generator=generator)
        )
        if not config.wide:
            return sigma
        chosen, where = torch.rand(2, config.batch, generator=generator)
        low, high = math.log(self.prior.sigma_min), math.log(self.prior.sigma_max)
        return torch.where(chosen < config.wide, torch.exp(low + (high - low) * where), sigma)

    def extra_state(self) -> dict[str, Tensor]:
        """Further tensors of a checkpoint by name; they are updated in place."""
        return {}

    def take_step(self) -> Tensor:
        """Take one optimiser step, update the averaged weights, and return the loss: ()."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(self.step)
        loss = self.batch_loss(seeded(config.seed, "train", self.step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.ema.values()), [p.detach() for p in self.parameters.values()], 1 - decay
        )
        self.step += 1
        return loss.detach()

    def draw_batch(self, generator: torch.Generator) -> Tensor:
        """Training crops: (batch, C, size, size), intensities in [0, 1]."""
        return random_crops(
            self.sources, self.config.size, self.config.batch, generator, self.config.mirror
        )

    def save(self) -> None:
        """Write the whole state as safetensors, under a temporary name first."""
        from safetensors.torch import save

        state = self.optimizer.state
        tensors = {f"beside/{name}": value for name, value in self.extra_state().items()}
        for name, p in self.parameters.items():
            tensors |= {f"network/{name}": p.detach(), f"ema/{name}": self.ema[name]}
            if p in state:
                tensors |= {
                    f"{moment}/{name}": state[p][moment] for moment in ("exp_avg", "exp_avg_sq")
                }
        with atomic_write(self.checkpoint) as temporary:
            temporary.write_bytes(
                save(
                    {k: v.contiguous() for k, v in tensors.items()},
                    {"step": str(self.step), "config": self._fingerprint()},
                )
            )

    def _load(self) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.checkpoint, "pt", device=str(self.device)) as file:
                metadata = file.metadata()
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self._check_finite(tensors)
            if metadata["config"] != self._fingerprint():
                raise InputError(
                    f"train: checkpoint {self.checkpoint} belongs to other settings; "
                    "use the same settings or another --out, or delete it"
                )
            self._restore(int(metadata["step"]), tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"train: checkpoint {self.checkpoint} is damaged ({error}); "
                "delete it to start again"
            ) from error

    def _check_finite(self, tensors: dict[str, Tensor]) -> None:
        for name, value in tensors.items():
            if not bool(torch.isfinite(value).all()):
                raise InputError(
                    f"train: checkpoint {self.checkpoint} holds NaN or infinity in {name}; "
                    "delete it to start again"
                )

    def _restore(self, step: int, tensors: dict[str, Tensor]) -> None:
        self.step = step
        for name, value in self.extra_state().items():
            value.copy_(tensors[f"beside/{name}"])
        for name, p in self.parameters.items():
            p.data.copy_(tensors[f"network/{name}"])
            self.ema[name].copy_(tensors[f"ema/{name}"])
            if f"exp_avg/{name}" in tensors:
                moments = {
                    moment: torch.empty_like(p).copy_(tensors[f"{moment}/{name}"])
                    for moment in ("exp_avg", "exp_avg_sq")
                }
                self.optimizer.state[p] = {
                    "step": torch.tensor(float(self.step), device=self.device),
                    **moments,
                }

    def _fingerprint(self) -> str:
        """The config as text, without the fields that may change between runs."""
        added_later = {
            "mirror": True,
            "wide": 0.0,
            "start": "",
            "regions": "",
        }  # older checkpoints lack these
        omitted = {"steps", "cooldown"} | {
            name for name, default in added_later.items() if getattr(self.config, name) == default
        }
        kept = {name: v for name, v in asdict(self.config).items() if name not in omitted}
        return json.dumps(kept, sort_keys=True)


def pixel_std(
    sources: list[list[np.ndarray]],
    scale: float = 0.5,
    max_images: int = 500,
    channels: int | None = None,
) -> float:
    """Standard deviation of the pixels in model units, with equal weight for each source.

    Args:
        sources: lists of uint8 images (H, W, C).
        scale: intensities per model unit.
        max_images: largest number of images to read from each source.
        channels: of an image; further channels do not count.
    """
    means, squares = [], []
    for source in sources:
        chosen = source[:: max(1, len(source) // max_images)]
        for image in chosen:
            x = (image[..., :channels].astype(np.float64) / 255 - 0.5) / scale
            means.append(x.mean() / len(chosen))
            squares.append(np.square(x).mean() / len(chosen))
    mean, square = sum(means) / len(sources), sum(squares) / len(sources)
    return float(np.sqrt(square - mean**2))
