"""Train candidates for the next photographic prior for equal processor time.

    python bench/restorer_race.py warm-muon --seconds 3300 --out OUT --start photo-warm.safetensors
    python bench/restorer_race.py wide-muon --seconds 6600 --out OUT
    python bench/restorer_race.py all-levels --seconds 9000 --out OUT --start photo-warm.safetensors

The data are the photographs of $INVERSE_DATA/photographs (all but every tenth) at reductions from 1
to 12, and those of $INVERSE_DATA/bsds500/train. Every 600 seconds of processor time the script
appends the PSNR of the averaged weights to OUT/NAME/curve.jsonl, at noise 15, 25 and 50 of 255, on
central crops of every tenth photograph (whole and halved) and of sixteen photographs of BSDS500
test. A run that was stopped resumes at the step that it saved last; --export writes
its averaged weights as a prior. The law of the noise is
log-normal around 0.2 in model units (25 of 255). The candidate `all-levels` draws a quarter of each
batch from the thumbnails of Tiny ImageNet, at noise from 0.5 to 80: there the noise buries their
compression, and their 40 000 scenes teach layout. Its curve also has the loss at noise 1, 3 and 10
on 64 validation thumbnails.

Muon steps along the orthogonalised momentum of every convolution inside the trunk, scaled to the
step length of AdamW; the other parameters take AdamW's steps. Source: Jordan et al., Muon: An
optimizer for hidden layers in neural networks, 2024; scale: Liu et al., Muon is Scalable for LLM
Training, 2025, https://arxiv.org/abs/2502.16982.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from images import psnr
from options import new_parser
from output import command_line
from PIL import Image
from torch import Tensor

import inverse
from inverse.io.devices import gains_from_bf16
from inverse.io.files import atomic_write
from inverse.io.image_sets import load_images
from inverse.priors.loading import save_prior
from inverse.priors.networks.unet import UNetConfig

REDUCTIONS = (1, 1.5, 2, 3, 4, 6, 8, 12)
SHARES = (1, 1, 1.2, 1.2, 1, 0.7, 0.5, 0.3, 1.5)
"""How often each reduction, and BSDS500 last, is drawn."""
LEVELS = (15, 25, 50)
HIGH_LEVELS = (1.0, 3.0, 10.0)
"""Noise (model units) at which the loss on thumbnails is measured."""
BF16 = gains_from_bf16(torch.device("cpu"))


@dataclass(frozen=True)
class Candidate:
    """A network and how it is trained; the weights given as --start if it has no network."""

    network: UNetConfig | None
    muon: bool
    rate: float
    batch: int = 32
    size: int = 64
    thumbnails: float = 0.0
    """Share of each batch that is drawn from the thumbnails, at high noise."""


CANDIDATES = {
    "all-levels": Candidate(None, True, 6e-4, thumbnails=0.25),
    "warm-muon": Candidate(None, True, 3e-4),
    "warm-adam": Candidate(None, False, 3e-4),
    "wide-muon": Candidate(UNetConfig(3, (96, 160), (3, 4), 128), True, 2e-3),
}


def opened(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def reduced(image: Image.Image, factor: float) -> np.ndarray:
    size = round(image.width / factor), round(image.height / factor)
    return np.array(image if factor == 1 else image.resize(size, Image.Resampling.LANCZOS))


def corpus(data: Path) -> list[list[np.ndarray]]:
    """Training photographs (H, W, 3), uint8, by reduction; those of BSDS500 last."""
    files = sorted((data / "photographs").glob("*.jpg"))
    chosen = [opened(path) for index, path in enumerate(files) if index % 10]
    sources = [
        [reduced(image, factor) for image in chosen if round(min(image.size) / factor) >= 96]
        for factor in REDUCTIONS
    ]
    small = [opened(path) for path in sorted((data / "bsds500" / "train").glob("*.jpg"))]
    return [*sources, [reduced(image, factor) for factor in (1, 1.5) for image in small]]


def held_out(data: Path, size: int = 128) -> Tensor:
    """Central crops (n, 3, size, size) that no candidate is trained on."""
    every_tenth = [opened(path) for path in sorted((data / "photographs").glob("*.jpg"))[::10]]
    test = [opened(path) for path in sorted((data / "bsds500" / "test").glob("*.jpg"))[:16]]
    arrays = [reduced(image, factor) for image in every_tenth for factor in (1, 2)]
    arrays += [reduced(image, 1) for image in test]
    crops = []
    for array in arrays:
        top, left = ((n - size) // 2 for n in array.shape[:2])
        if min(top, left) >= 0:
            crops.append(torch.from_numpy(array[top : top + size, left : left + size]))
    return torch.stack(crops).permute(0, 3, 1, 2).float() / 255


def denoising(prior: inverse.Prior, crops: Tensor) -> dict[int, float]:
    """Noise level of 255 -> mean PSNR (dB) of the crops, evaluated in the precision of training."""
    found = {}
    for level in LEVELS:
        noise = torch.randn(crops.shape, generator=torch.Generator().manual_seed(level))
        x = prior.encode(crops + level / 255 * noise)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            parts = [prior(part, torch.tensor(level / 255 / prior.scale)) for part in x.split(8)]
        estimate = prior.decode(torch.cat(parts).float()).clamp(0, 1)
        found[level] = round(float(psnr(estimate, crops).mean()), 3)
    return found


def thumbnails(data: Path) -> tuple[list[np.ndarray], Tensor]:
    """Training thumbnails (64, 64, 3), uint8, and 64 validation thumbnails in model units."""
    training = [
        image
        for part in (0, 1)
        for image in load_images(data / f"tiny_imagenet64_{part}_jpeg.npz", 64, 3)
    ]
    validation = load_images(data / "tiny_imagenet64_val_jpeg.npz", 64, 3)[:64]
    return training, model_units([torch.from_numpy(image.copy()) for image in validation])


def model_units(images: list[Tensor]) -> Tensor:
    """(B, 3, H, W) in [-1, 1] from images (H, W, 3), uint8."""
    x = (torch.stack(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    return x.contiguous(memory_format=torch.channels_last)


def high_losses(prior: inverse.Prior, x0: Tensor) -> dict[float, float]:
    """Noise level (model units) -> mean loss over images x0, evaluated as it is trained."""
    found = {}
    for sigma in HIGH_LEVELS:
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(int(sigma)))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            loss = prior.loss(x0, torch.full((len(x0),), sigma), noise)
        found[sigma] = round(float(loss), 5)
    return found


def batch_of(
    sources: list[list[np.ndarray]], candidate: Candidate, generator: torch.Generator
) -> Tensor:
    """Crops in the eight orientations: (batch, 3, size, size), model units; thumbnails come last.

    The last of the sources is that of the thumbnails if the candidate is trained on them.
    """
    shares, size, crops = torch.tensor(SHARES), candidate.size, []
    draw = lambda n: int(torch.randint(n, (), generator=generator))  # noqa: E731
    for index in range(candidate.batch):
        source = sources[int(torch.multinomial(shares, 1, generator=generator))]
        if index >= candidate.batch - high_count(candidate):
            source = sources[-1]
        image = source[draw(len(source))]
        top, left = draw(image.shape[0] - size + 1), draw(image.shape[1] - size + 1)
        crop = torch.from_numpy(image[top : top + size, left : left + size])
        turn = draw(8)
        crop = crop.flip([axis for axis in (0, 1) if turn >> axis & 1])
        crops.append(crop.transpose(0, 1) if turn & 4 else crop)
    return model_units(crops)


def high_count(candidate: Candidate) -> int:
    """Images of a batch that are thumbnails at high noise."""
    return round(candidate.thumbnails * candidate.batch)


def noise_levels(candidate: Candidate, generator: torch.Generator) -> Tensor:
    """sigma (batch,) in model units: log-normal around 0.2, and around 2 for the thumbnails."""
    z, high = torch.randn(candidate.batch, generator=generator), high_count(candidate)
    low = torch.exp(math.log(0.2) + 0.9 * z).clamp(0.008, 1.2)
    wide = torch.exp(math.log(2.0) + 1.1 * z).clamp(0.5, 80.0)
    return torch.cat([low[: len(z) - high], wide[len(z) - high :]])


def orthogonalised(momentum: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix to a kernel (out, in, h, w): five Newton-Schulz steps."""
    matrix = momentum.flatten(1)
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    x = x.bfloat16() if BF16 else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    x = x.float()
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).reshape(momentum.shape)


class Run:
    """A candidate under way: weights, optimisers, averaged weights, step and processor time."""

    def __init__(self, candidate: Candidate, start: Path | None, folder: Path):
        self.candidate, self.folder = candidate, folder
        torch.manual_seed(0)
        if candidate.network is None:
            self.prior = inverse.load_prior(start).float()
        else:
            self.prior = inverse.NetworkPrior.unet(candidate.network, 0.527, shift=0.5, scale=0.5)
        self.prior = self.prior.train().requires_grad_().to(memory_format=torch.channels_last)
        self.weights = dict(self.prior.named_parameters())
        trunk = {k: p for k, p in self.weights.items() if p.ndim == 4 and candidate.muon}
        self.kernels = {k: p for k, p in trunk.items() if "head" not in k and "tail" not in k}
        self.others = {k: p for k, p in self.weights.items() if k not in self.kernels}
        self.momentum = {k: torch.zeros_like(p) for k, p in self.kernels.items()}
        self.ema = {k: p.detach().clone() for k, p in self.weights.items()}
        self.adam = torch.optim.AdamW(
            self.others.values(), lr=candidate.rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.step, self.seconds = 0, 0.0
        if self.state_file.is_file():
            self.resume()

    @property
    def state_file(self) -> Path:
        return self.folder / "state.safetensors"

    def advance(self, sources: list[list[np.ndarray]], budget: float) -> float:
        """One step; returns its loss. The rate falls to zero over the last 30 % of the budget."""
        candidate = self.candidate
        generator = torch.Generator().manual_seed(self.step + 1)
        x0 = batch_of(sources, candidate, generator)
        sigma = noise_levels(candidate, generator)
        noise = torch.randn(x0.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            loss = self.prior.loss(x0, sigma, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0, foreach=True)
        fall = min(1.0, max(0.02, (budget - self.seconds) / (0.3 * budget)))
        rate = candidate.rate * min(1.0, (self.step + 1) / 200) * fall
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        with torch.no_grad():
            for name, p in self.kernels.items():
                assert p.grad is not None
                m = self.momentum[name].lerp_(p.grad, 0.05)
                length = 0.2 * math.sqrt(max(p.shape[0], p[0].numel()))
                p.add_(orthogonalised(p.grad.lerp(m, 0.95)), alpha=-rate * length)
        for p in self.weights.values():
            p.grad = None
        self.step += 1
        decay = min(0.9997, (1 + self.step) / (10 + self.step))
        current = [p.detach() for p in self.weights.values()]
        torch._foreach_lerp_(list(self.ema.values()), current, 1 - decay)
        return loss.item()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs but step and seconds, by name."""
        found = {f"weights/{k}": p.detach() for k, p in self.weights.items()}
        found |= {f"ema/{k}": v for k, v in self.ema.items()}
        found |= {f"momentum/{k}": v for k, v in self.momentum.items()}
        for name, p in self.others.items():
            if p in self.adam.state:
                found |= {f"{k}/{name}": self.adam.state[p][k] for k in ("exp_avg", "exp_avg_sq")}
        return found

    def save(self) -> None:
        from safetensors.torch import save

        about = {"step": str(self.step), "seconds": str(self.seconds)}
        with atomic_write(self.state_file) as temporary:
            temporary.write_bytes(
                save({k: v.contiguous() for k, v in self.tensors().items()}, about)
            )

    def resume(self) -> None:
        from safetensors import safe_open

        with safe_open(self.state_file, "pt") as file:
            about = file.metadata()
            self.step, self.seconds = int(about["step"]), float(about["seconds"])
            for name, p in self.others.items():
                moments = {k: file.get_tensor(f"{k}/{name}") for k in ("exp_avg", "exp_avg_sq")}
                self.adam.state[p] = {"step": torch.tensor(float(self.step)), **moments}
            with torch.no_grad():
                for name, value in self.tensors().items():
                    value.copy_(file.get_tensor(name))

    def record(self, crops: Tensor, small: Tensor | None, loss: float | None) -> None:
        """Append the scores of the averaged weights to the curve."""
        kept = {k: p.detach().clone() for k, p in self.weights.items()}
        with torch.no_grad():
            for name, p in self.weights.items():
                p.copy_(self.ema[name])
            row = {"step": self.step, "crops": self.step * self.candidate.batch}
            row |= {"seconds": round(self.seconds), "loss": loss}
            row |= {"psnr": denoising(self.prior.eval(), crops)}
            row |= {} if small is None else {"high": high_losses(self.prior, small)}
            for name, p in self.weights.items():
                p.copy_(kept[name])
        self.prior.train()
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def export(run: Run, crops: Tensor, path: Path) -> None:
    """Save the averaged weights as a prior, with a card, in half precision."""
    with torch.no_grad():
        for name, p in run.weights.items():
            p.copy_(run.ema[name])
    prior = run.prior.eval()
    save_prior(
        prior,
        path,
        training={
            "data": "wallpapers of Linux distributions, BSDS500 train at reductions from 1 to "
            "12; Tiny ImageNet thumbnails at noise above 0.5",
            "command": command_line(),
            "steps": run.step,
            "batch": run.candidate.batch,
            "crop": run.candidate.size,
            "hours": round(run.seconds / 3600, 2),
            "machine": "one core",
            "torch": torch.__version__,
        },
        denoising={
            "images": "central 128-pixel crops of every tenth photograph, whole and halved, and of "
            "16 photographs of BSDS500 test",
            "psnr": {str(level): value for level, value in denoising(prior, crops).items()},
        },
        licence="weights BSD-3-Clause; trained on wallpapers of elementary OS, Pop!_OS and "
        "Debian, free according to the distributions and not checked one by one, and on BSDS500 "
        "and Tiny ImageNet, both distributed for research",
        limits="textures and faces are approximate; global structure beyond about 150 pixels is "
        "not modelled; not for diagnosis or identification",
        power_law=inverse.load_prior("photo-64").power_law,
    )


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("name", choices=CANDIDATES)
    parser.add_argument("--seconds", type=float, required=True, help="budget of processor time")
    parser.add_argument("--start", type=Path, help="weights that a warm candidate starts from")
    parser.add_argument("--out", type=Path, required=True, help="folder of states and curves")
    parser.add_argument("--export", type=Path, help="prior (.safetensors) to write at the end")
    given = parser.parse_args()
    candidate, data = CANDIDATES[given.name], Path(os.environ["INVERSE_DATA"])
    if candidate.network is None and given.start is None:
        parser.error(f"{given.name} needs --start")
    torch.set_num_threads(1)
    folder = given.out / given.name
    folder.mkdir(parents=True, exist_ok=True)
    run, sources, crops = Run(candidate, given.start, folder), corpus(data), held_out(data)
    small = None
    if candidate.thumbnails:
        images, small = thumbnails(data)
        sources = [*sources, images]
    if not run.step:
        run.record(crops, small, None)
    losses: list[float] = []
    saved = recorded = run.seconds
    while run.seconds < given.seconds:
        before = time.process_time()
        losses = [*losses[-299:], run.advance(sources, given.seconds)]
        run.seconds += time.process_time() - before
        if run.seconds - saved > 300:
            run.save()
            saved = run.seconds
        if run.seconds - recorded > 600:
            run.record(crops, small, float(np.mean(losses)))
            recorded = run.seconds
    if losses:
        run.save()
        run.record(crops, small, float(np.mean(losses)))
    if given.export:
        export(run, crops, given.export)


if __name__ == "__main__":
    main()
