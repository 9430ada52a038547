"""Denoise one image on several processes: each holds a band of rows, and every 3x3 convolution borrows one row from the neighbours.

    rank r:  rows a..b of x (replicated)  ->  network on the band, halos exchanged at each convolution  ->  x0_hat gathered (replicated)

All ranks hold the same x, operator and generators, so that a method runs on each as if alone; only the network's work is divided. With
fresh halos the result is that of one process to rounding, gradients included. With stale ones a convolution takes the rows that its
neighbours had at the previous call and does not wait for the new ones, which travel meanwhile.

Source: partially conditioned patch parallelism (Zhang et al., Partially Conditioned Patch Parallelism for Accelerated Diffusion Model
Inference, 2024, https://arxiv.org/abs/2412.02962) after DistriFusion (Li et al., CVPR 2024, https://arxiv.org/abs/2402.19481). They
divide attention too and exchange part of each patch; here the network is convolutional, and one row of each neighbour is all it needs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from inverse.errors import OptionError
from inverse.priors.evaluation.memory import usable_memory
from inverse.priors.networks.unet import UNet, pad_to_multiple
from inverse.priors.prior import NetworkPrior, Prior

Halo = Literal["fresh", "stale"]
WARM_UP = 4
"""Calls with fresh halos before stale ones are taken, as published."""


class Bands:
    """This rank's place among the processes of a torchrun, and the state of the halos that travel.

    Args:
        halo: fresh, or stale: those of the previous call, after `WARM_UP` fresh ones. A call with another shape, or with more than twice
            the noise of the one before, begins something new and warms up again. Gradients are always taken with fresh halos.
    """

    def __init__(self, halo: Halo = "fresh"):
        self.rank, self.size, self.halo = dist.get_rank(), dist.get_world_size(), halo
        self.calls, self.shape, self.noise = 0, torch.Size(), 0.0
        self.travelling: dict[int, tuple[list[Any], Tensor, Tensor]] = {}

    def begin(self, x: Tensor, noise: Tensor) -> None:
        """A call of the network on this whole input, at these scaled log noise levels (log sigma / 4)."""
        if self.halo == "fresh":
            return
        level = 4 * float(noise.max())
        if x.shape != self.shape or level > self.noise + math.log(2):
            for key in list(self.travelling):
                self._arrived(key)
            self.calls = 0
        self.calls, self.shape, self.noise = self.calls + 1, x.shape, level

    def span(self, rows: int, stride: int) -> tuple[int, int]:
        """This rank's rows: whole strides, spread evenly.

        Raises: OptionError if there are fewer strides than ranks.
        """
        strides = rows // stride
        if strides < self.size:
            raise OptionError(
                f"parallel patches: {rows} rows make {strides} bands of {stride}, for {self.size} processes; use fewer processes"
            )
        return tuple(stride * (strides * r // self.size) for r in (self.rank, self.rank + 1))  # type: ignore[return-value]

    def extend(self, x: Tensor, key: int) -> Tensor:
        """The band with a row of each neighbour above and below, zeros beyond the image: (B, C, h, W) -> (B, C, h + 2, W)."""
        if torch.is_grad_enabled() and x.requires_grad:
            return _Extend.apply(x, self)  # type: ignore[no-any-return]
        ends = x[:, :, :1], x[:, :, -1:]
        if self.halo == "fresh" or key not in self.travelling:
            above, below = self.exchange(*ends)
        else:
            above, below = self._arrived(key)
        if self.halo == "stale" and self.calls >= WARM_UP:
            self.travelling[key] = self._send(*ends)
        return torch.cat([above, x, below], dim=2)

    def exchange(self, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Give the first row to the rank above and the last to the one below; what they give in turn, zeros at the edge of the image."""
        works, above, below = self._send(first, last)
        for work in works:
            work.wait()
        return above, below

    def _arrived(self, key: int) -> tuple[Tensor, Tensor]:
        works, above, below = self.travelling.pop(key)
        for work in works:
            work.wait()
        return above, below

    def _send(self, first: Tensor, last: Tensor) -> tuple[list[Any], Tensor, Tensor]:
        above, below = (
            torch.zeros_like(first, memory_format=torch.contiguous_format),
            torch.zeros_like(last, memory_format=torch.contiguous_format),
        )
        moves = []
        for peer, mine, theirs in ((self.rank - 1, first, above), (self.rank + 1, last, below)):
            if 0 <= peer < self.size:
                moves += [
                    dist.P2POp(dist.isend, mine.contiguous(), peer),
                    dist.P2POp(dist.irecv, theirs, peer),
                ]
        return (dist.batch_isend_irecv(moves) if moves else []), above, below


class BandConv(nn.Module):
    """A 3x3 convolution with a padding of one, on a band."""

    def __init__(self, conv: nn.Conv2d, bands: Bands, key: int):
        super().__init__()
        self.conv, self.bands, self.key = conv, bands, key

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(
            self.bands.extend(x, self.key), self.conv.weight, self.conv.bias, padding=(0, 1)
        )


class BandUNet(nn.Module):
    """Our U-Net with its work divided among ranks: x (B, C, H, W), the same on all -> (B, C, H, W), the same on all."""

    def __init__(self, network: UNet, bands: Bands):
        super().__init__()
        self.network, self.bands, self.config = network, bands, network.config
        for key, (name, conv) in enumerate(
            [
                (n, m)
                for n, m in network.named_modules()
                if isinstance(m, nn.Conv2d) and m.padding == (1, 1)
            ]
        ):
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, BandConv(conv, bands, key))

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = pad_to_multiple(x, self.config.stride)
        self.bands.begin(x, log_sigma)
        spans = _Spans(self.bands, x.shape[-2], self.config.stride)
        return _Join.apply(self.network(_Take.apply(x, spans), log_sigma), spans)[
            ..., :height, :width
        ]


def divide_among_ranks(prior: Prior, halo: Halo = "fresh") -> Prior:
    """The prior with its network divided among the ranks of this process group; changed in place.

    Raises: OptionError for a prior that is not a local U-Net of ours.
    """
    network = getattr(prior, "network", None)
    if (
        type(prior) is not NetworkPrior
        or not isinstance(network, UNet)
        or not isinstance(network.head, nn.Conv2d)
        or network.config.circular
    ):
        what = f"{getattr(prior, 'name', type(prior).__name__)} is none"
        raise OptionError(
            f"parallel patches: needs a prior that is a float network of `inverse train` on the plane; {what}"
        )
    prior.network, prior.halo = BandUNet(network, Bands(halo)), None  # a band is no place for tiles
    return prior


@contextmanager
def process_group(device: str) -> Iterator[tuple[str, bool]]:
    """Join the processes that torchrun started: this rank's device, and whether it is the one that writes.

    Raises: OptionError if this is no torchrun.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise OptionError(
            "parallel patches: start it with torchrun, e.g. torchrun --nproc-per-node 2 -m inverse solve ... --parallel patches"
        )
    place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
    dist.init_process_group("nccl" if place.startswith("cuda") else "gloo")
    try:
        yield place, dist.get_rank() == 0
        dist.barrier()
    finally:
        dist.destroy_process_group()


def memory_per_rank(device: torch.device) -> float | None:
    """GiB that every rank can have: four fifths of what the poorest has free, shared by those of a machine if it is the host's; None if unknown.

    Ranks that planned their calls by themselves could cut a batch in different places and wait for each other for ever.
    """
    usable = torch.tensor(usable_memory(device) or 0.0, dtype=torch.float64, device=device)
    dist.all_reduce(usable, dist.ReduceOp.MIN)
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    return float(usable) / 2**30 / sharing or None


class _Spans:
    """Rows of every rank."""

    def __init__(self, bands: Bands, rows: int, stride: int):
        self.mine = bands.span(rows, stride)
        strides = rows // stride
        self.heights = [
            stride * (strides * (r + 1) // bands.size - strides * r // bands.size)
            for r in range(bands.size)
        ]

    def gather(self, band: Tensor) -> Tensor:
        """Every rank's band, one below the other, on every rank."""
        most = max(self.heights)
        padded = F.pad(band, (0, 0, 0, most - band.shape[2])).contiguous()
        parts = [torch.empty_like(padded) for _ in self.heights]
        dist.all_gather(parts, padded)
        return torch.cat(
            [part[:, :, :height] for part, height in zip(parts, self.heights, strict=True)], dim=2
        )


class _Take(torch.autograd.Function):
    """This rank's rows of a replicated tensor; the gradient is every rank's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, spans: _Spans) -> Tensor:
        ctx.spans = spans
        return x[:, :, slice(*spans.mine)].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.spans.gather(grad), None


class _Join(torch.autograd.Function):
    """Every rank's band in a replicated tensor; the gradient, the same on all ranks, is this rank's rows of it."""

    @staticmethod
    def forward(ctx: Any, band: Tensor, spans: _Spans) -> Tensor:
        ctx.spans = spans
        return spans.gather(band)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad[:, :, slice(*ctx.spans.mine)], None


class _Extend(torch.autograd.Function):
    """`Bands.extend` with fresh halos; the gradient of a borrowed row goes back to its owner."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bands: Bands) -> Tensor:
        ctx.bands = bands
        above, below = bands.exchange(x[:, :, :1], x[:, :, -1:])
        return torch.cat([above, x, below], dim=2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        above, below = ctx.bands.exchange(grad[:, :, :1], grad[:, :, -1:])
        own = grad[:, :, 1:-1].clone()
        own[:, :, :1] += above
        own[:, :, -1:] += below
        return own, None
