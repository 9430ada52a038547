"""Patch parallelism: several processes denoise an image together, each a band of its rows.

    x (replicated) -> rows a..b of rank r -> network on the band -> x0_hat gathered (replicated)

Each 3x3 convolution of the network receives one row from each neighbour (the halo). All ranks hold
the same x, operator and generators, so that a method runs on each rank as on a single process; only
the work of the network is divided.

With fresh halos, the result is that of a single process to rounding, gradients included. With stale
halos, a convolution uses the rows that its neighbours had at the previous call. The new rows are
transferred meanwhile, and no rank waits for them.

Source: Zhang et al., Partially Conditioned Patch Parallelism for Accelerated Diffusion Model
Inference, 2024, https://arxiv.org/abs/2412.02962, after DistriFusion (Li et al., CVPR 2024,
https://arxiv.org/abs/2402.19481). They also divide attention and exchange part of each patch. This
network is convolutional and needs a single row of each neighbour.
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
from inverse.memory import usable_memory
from inverse.priors.networks.unet import UNet, pad_to_multiple
from inverse.priors.prior import NetworkPrior, Prior

Halo = Literal["fresh", "stale"]
WARM_UP = 4
"""Number of calls with fresh halos before stale ones are used, as published."""


class Bands:
    """The bands of rows of a process group, and the halos in transfer between them.

    Args:
        halo: "fresh", or "stale" for those of the previous call, after `WARM_UP` calls with fresh
            ones. The warm-up starts again at a call with another shape or more than twice the noise
            of the previous call. Gradients always use fresh halos.
    """

    def __init__(self, halo: Halo = "fresh"):
        self.rank, self.size, self.halo = dist.get_rank(), dist.get_world_size(), halo
        self.calls, self.shape, self.noise = 0, torch.Size(), 0.0
        self.pending: dict[int, tuple[list[Any], Tensor, Tensor]] = {}

    def start_call(self, x: Tensor, noise: Tensor) -> None:
        """Prepare for a call of the network on the whole input.

        Args:
            x: (B, C, H, W).
            noise: scaled log noise levels log(sigma) / 4, (B,).
        """
        if self.halo == "fresh":
            return
        level = 4 * float(noise.max())
        if x.shape != self.shape or level > self.noise + math.log(2):
            for key in list(self.pending):
                self._receive(key)
            self.calls = 0
        self.calls, self.shape, self.noise = self.calls + 1, x.shape, level

    def span(self, rows: int, stride: int) -> tuple[int, int]:
        """First row and end of this rank's band; the strides are spread evenly over the ranks.

        Raises: OptionError if there are fewer strides than ranks.
        """
        strides = rows // stride
        if strides < self.size:
            raise OptionError(
                f"parallel patches: {rows} rows make {strides} bands of {stride}, "
                f"for {self.size} processes; use fewer processes"
            )
        first = stride * (strides * self.rank // self.size)
        return first, stride * (strides * (self.rank + 1) // self.size)

    def extend(self, x: Tensor, key: int) -> Tensor:
        """The band with a row of each neighbour: (B, C, h, W) -> (B, C, h + 2, W).

        Rows beyond the image are zero.

        Args:
            key: identifies the convolution.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            return _Extend.apply(x, self)  # type: ignore[no-any-return]
        ends = x[:, :, :1], x[:, :, -1:]
        if self.halo == "fresh" or key not in self.pending:
            above, below = self.exchange(*ends)
        else:
            above, below = self._receive(key)
        if self.halo == "stale" and self.calls >= WARM_UP:
            self.pending[key] = self._send(*ends)
        return torch.cat([above, x, below], dim=2)

    def exchange(self, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Send the first row to the rank above and the last to the rank below.

        Returns: the rows received from above and below, zero at the edge of the image.
        """
        works, above, below = self._send(first, last)
        for work in works:
            work.wait()
        return above, below

    def _receive(self, key: int) -> tuple[Tensor, Tensor]:
        works, above, below = self.pending.pop(key)
        for work in works:
            work.wait()
        return above, below

    def _send(self, first: Tensor, last: Tensor) -> tuple[list[Any], Tensor, Tensor]:
        above = torch.zeros_like(first, memory_format=torch.contiguous_format)
        below = torch.zeros_like(last, memory_format=torch.contiguous_format)
        transfers = []
        for peer, row, received in ((self.rank - 1, first, above), (self.rank + 1, last, below)):
            if 0 <= peer < self.size:
                transfers += [
                    dist.P2POp(dist.isend, row.contiguous(), peer),
                    dist.P2POp(dist.irecv, received, peer),
                ]
        return (dist.batch_isend_irecv(transfers) if transfers else []), above, below


class BandConv(nn.Module):
    """A 3x3 convolution with a padding of one pixel, on a band: (B, C, h, W) -> (B, C', h, W)."""

    def __init__(self, conv: nn.Conv2d, bands: Bands, key: int):
        super().__init__()
        self.conv, self.bands, self.key = conv, bands, key

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(
            self.bands.extend(x, self.key), self.conv.weight, self.conv.bias, padding=(0, 1)
        )


class BandUNet(nn.Module):
    """A `UNet` with its work divided among ranks: x (B, C, H, W) -> same, both replicated."""

    def __init__(self, network: UNet, bands: Bands):
        super().__init__()
        self.network, self.bands, self.config = network, bands, network.config
        convolutions = [
            (name, module)
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d) and module.padding == (1, 1)
        ]
        for key, (name, conv) in enumerate(convolutions):
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, BandConv(conv, bands, key))

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = pad_to_multiple(x, self.config.stride)
        self.bands.start_call(x, log_sigma)
        spans = _Spans(self.bands, x.shape[-2], self.config.stride)
        band = self.network(_Scatter.apply(x, spans), log_sigma)
        return _Gather.apply(band, spans)[..., :height, :width]


def divide_among_ranks(prior: Prior, halo: Halo = "fresh") -> Prior:
    """The prior with its network divided among the ranks of the process group; changed in place.

    Raises: OptionError for a prior that is not a local float `UNet`.
    """
    network = getattr(prior, "network", None)
    if (
        type(prior) is not NetworkPrior
        or not isinstance(network, UNet)
        or not isinstance(network.head, nn.Conv2d)
        or network.config.circular
    ):
        raise OptionError(
            "parallel patches: needs a float network of `inverse train` for flat images as prior, "
            f"got {getattr(prior, 'name', type(prior).__name__)}"
        )
    prior.network, prior.halo = BandUNet(network, Bands(halo)), None  # a band cannot be tiled
    return prior


@contextmanager
def process_group(device: str) -> Iterator[tuple[str, bool]]:
    """Join the processes that torchrun started.

    Yields: the device of this rank, and whether this rank writes the results.
    Raises: OptionError outside of torchrun.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise OptionError(
            "parallel patches: start it with torchrun, e.g. "
            "torchrun --nproc-per-node 2 -m inverse solve ... --parallel patches"
        )
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device, dist.get_rank() == 0
        dist.barrier()
    finally:
        dist.destroy_process_group()


def memory_per_rank(device: torch.device) -> float | None:
    """Memory (GiB) that every rank may use: four fifths of the least free memory of any rank.

    The ranks of a machine share the host's memory. All ranks must plan with the same number: with
    different splits of a batch they would wait for each other forever.

    Returns: None if the free memory is unknown.
    """
    usable = torch.tensor(usable_memory(device) or 0.0, dtype=torch.float64, device=device)
    dist.all_reduce(usable, dist.ReduceOp.MIN)
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    return float(usable) / 2**30 / sharers or None


class _Spans:
    """The rows of this rank, and the heights of all bands."""

    def __init__(self, bands: Bands, rows: int, stride: int):
        self.own = bands.span(rows, stride)
        strides = rows // stride
        self.heights = [
            stride * (strides * (r + 1) // bands.size - strides * r // bands.size)
            for r in range(bands.size)
        ]

    def gather(self, band: Tensor) -> Tensor:
        """The bands of all ranks, concatenated, on every rank: (B, C, h, W) -> (B, C, H, W)."""
        padded = F.pad(band, (0, 0, 0, max(self.heights) - band.shape[2])).contiguous()
        parts = [torch.empty_like(padded) for _ in self.heights]
        dist.all_gather(parts, padded)
        bands = [part[:, :, :height] for part, height in zip(parts, self.heights, strict=True)]
        return torch.cat(bands, dim=2)


class _Scatter(torch.autograd.Function):
    """This rank's rows of a replicated tensor; its gradient gathers the bands of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, spans: _Spans) -> Tensor:
        ctx.spans = spans
        return x[:, :, slice(*spans.own)].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.spans.gather(grad), None


class _Gather(torch.autograd.Function):
    """The bands of all ranks in a replicated tensor; its gradient is this rank's rows."""

    @staticmethod
    def forward(ctx: Any, band: Tensor, spans: _Spans) -> Tensor:
        ctx.spans = spans
        return spans.gather(band)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad[:, :, slice(*ctx.spans.own)], None


class _Extend(torch.autograd.Function):
    """`Bands.extend` with fresh halos; the gradient of a received row returns to its owner."""

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
