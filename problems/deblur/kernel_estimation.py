"""The kernel of a blurred picture, estimated from the picture alone, coarse to fine.

From the coarsest scale to the finest, two steps alternate:

    x <- argmin |k * x - y|^2 + lambda |grad x|_0          few edges, no texture
    k <- argmin |k * grad x - grad y|^2 + w |k|^2           closed form; then k >= 0, sum 1

The first step explains y by a cartoon with sharp edges. A delta kernel would need an edge wherever
y has a gradient, which the count of edges forbids, so that the alternation is not drawn to "no
blur" as a maximum over (x, k) under a prior of natural images is.

Sources: Xu, Zheng, Jia, Unnatural L0 Sparse Representation for Natural Image Deblurring, CVPR 2013
(the two steps); Pan, Hu, Su, Yang, Deblurring Text Images via L0-Regularized Intensity and Gradient
Prior, CVPR 2014 (weights, scales, pruning); why the maximum prefers no blur: Levin, Weiss, Durand,
Freeman, Understanding and evaluating blind deconvolution algorithms, CVPR 2009.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.ndimage import label
from torch import Tensor
from torch.nn import functional as F

from inverse.errors import InputError
from inverse.measurement.noise_estimate import ROUNDING, noise_level
from inverse.seeding import seeded
from inverse_problems.deblur.image_and_kernel import (
    Frame,
    Sharp,
    expectation_maximization,
    robust_std,
)

ROUNDS = 8
"""Alternations at each scale."""
FINER = 2**0.5
"""Ratio of neighbouring scales."""
COARSEST = 5
"""Side of the kernel (pixels) at the coarsest scale."""
EDGE_WEIGHT = 0.01
"""lambda at the first alternation, for intensities in [0, 1]; divided by 1.1 after each one."""
SMALLEST_EDGE_WEIGHT = 1e-4
JUDGED_WEIGHT = 2e-3
"""lambda with which the kernels of several windows are compared."""
WINDOWS = (15, 21, 31)
"""Sides of the windows (pixels) in which a kernel of unknown size is sought."""
NOISE_OF_GRADIENTS = 0.75
"""Noise of a gradient in EM, over that of a pixel.

For white noise of pixels it would be sqrt(2), but that noise is small where a kernel passes much.
With more, EM finds kernels that are too narrow; see docs/blind.md.
"""
WORSE = 1.025
"""Factor on the product of `cartoon_objective` above which EM has left the right kernel."""
RIDGE = 2.0
"""w, the weight of |k|^2."""
FAINT = 0.03
"""Entries of the kernel below this share of its maximum are zero."""
ISOLATED = 0.05
"""Connected parts of the kernel that hold less than this share of its sum are removed."""
CLIPPED = 0.98
"""Intensity from which a pixel counts as clipped; edges whose blur reaches it are not used."""
SMALLEST_PICTURE = 48
"""Smallest side of a picture (pixels) whose kernel is estimated."""
PLACE = 4
"""Neighbouring clipped pixels that count as a clipped place."""

MOST_CLIPPED = 0.5
"""Largest share of the picture that clipped pixels and their surroundings may cover."""
ALIKE = 0.7
"""Likeness of the kernels of two windows below which neither is trusted (bench/blind_noise.py)."""
SHARED = 0.8
"""Median likeness of a picture's own kernel to those of others below which it is another.

Among two scenes of Levin's pictures, the same kernel is found with a likeness of 0.90 to 0.98, and
different ones with 0.50 to 0.77.
"""
SMALL_PICTURE = 200
"""Side (pixels) below which no kernel is trusted (bench/blind_noise.py)."""
NO_BLUR = 0.65
"""Share of a kernel in 3 x 3 pixels from which the picture counts as sharp.

It is about that of a Gaussian of standard deviation 1.1 pixels. A sharp picture, whose texture the
cartoon lacks, mostly reaches 0.7 to 0.96.
"""


@dataclass(frozen=True, repr=False)
class KernelEstimate:
    """A kernel, and how far the picture decides it.

    Args:
        kernel: (side, side), not negative, sum 1, its centre of mass at the centre.
        std: standard deviation of each entry given the edges of the cartoon, (side, side); it does
            not contain the uncertainty of the edges.
        residual: root mean square of y - k * x for the cartoon x (intensities).
        sharp: whether no blur was found; the kernel is then a delta.
        agreement: smallest likeness of the kernels of neighbouring windows; None for one window.
        picture: smaller side of the picture (pixels), if known.
    """

    kernel: Tensor
    std: Tensor
    residual: float
    sharp: bool
    agreement: float | None = None
    picture: int | None = None

    @property
    def doubts(self) -> list[str]:
        """Why the kernel may be wrong, in words."""
        found = []
        if self.agreement is not None and self.agreement < ALIKE:
            found.append("windows of different size tell different kernels")
        if self.picture is not None and self.picture < SMALL_PICTURE:
            found.append(f"a picture below {SMALL_PICTURE} pixels rarely tells its kernel")
        return [] if self.sharp else found

    def __repr__(self) -> str:
        """Short, and equal for equal kernels: a resumed solve recognises its kernel by it."""
        digest = hashlib.sha256(json.dumps(self.record()).encode()).hexdigest()
        return f"KernelEstimate({self.extent[0]}x{self.extent[1]} pixels, sha256 {digest[:16]})"

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width (pixels) of the smallest box that holds the kernel."""
        rows, columns = (self.kernel.sum(d).nonzero()[:, 0] for d in (1, 0))
        return int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1

    def record(self) -> dict[str, object]:
        """As the provenance of a result stores it."""
        digits = {
            name: [[float(f"{v:.5g}") for v in row] for row in values.tolist()]
            for name, values in (("kernel", self.kernel), ("std", self.std))
        }
        rest = ("residual", "sharp", "agreement", "picture")
        return {**digits, **{name: getattr(self, name) for name in rest}}

    @classmethod
    def from_record(cls, record: dict[str, object]) -> KernelEstimate:
        """The estimate that `record` stored.

        Raises: KeyError, TypeError or ValueError for another record.
        """
        kernel, std = (torch.tensor(record[name]) for name in ("kernel", "std"))
        if kernel.ndim != 2 or std.shape != kernel.shape or not bool(torch.isfinite(kernel).all()):
            raise ValueError("not the record of a kernel")
        agreement, picture = record.get("agreement"), record.get("picture")
        return cls(
            kernel,
            std,
            float(record["residual"]),  # type: ignore[arg-type]
            bool(record["sharp"]),
            None if agreement is None else float(agreement),  # type: ignore[arg-type]
            None if picture is None else int(picture),  # type: ignore[call-overload]
        )


def estimate_kernel(y: Tensor, side: int | None = None) -> KernelEstimate:
    """The kernel of a blurred picture.

    Args:
        y: (C, H, W), intensities; colours are averaged by luminance.
        side: side of the kernel's window (pixels, odd); the kernel must fit into it. By default
            the one of `WINDOWS` whose kernel explains the picture best, see `cartoon_objective`.

    Raises: InputError if the picture is smaller than twice the window, flat, or clipped.
    """
    return _estimate([_grey(y)], side)


def estimate_shared_kernel(
    pictures: Sequence[Tensor], side: int | None = None, names: Sequence[str] = ()
) -> KernelEstimate:
    """The one kernel of several pictures, from all their edges and gradients.

    Args:
        pictures: (C, H, W) each, of any sizes; as in `estimate_kernel`.
        side: as in `estimate_kernel`.
        names: of the pictures, for the error; by default their numbers.

    Raises: InputError if a picture does not tell its kernel, or tells another one than the rest.
    """
    greys = [_grey(y) for y in pictures]
    window = side or WINDOWS[1]
    own = [estimate_in_window([grey], window).kernel for grey in greys] if len(greys) > 1 else []
    alike = [statistics.median(likeness(k, other) for other in own if other is not k) for k in own]
    if alike and min(alike) < SHARED:
        odd = min(range(len(alike)), key=alike.__getitem__)
        name = names[odd] if names else f"picture {odd + 1}"
        raise InputError(
            f"deblur: {name} has another blur than the rest of {len(greys)} pictures "
            f"(likeness {alike[odd]:.2f}, below {SHARED:g}), so that they share no kernel; restore "
            "them with kernel=unknown, each with its own"
        )
    return _estimate(greys, side)


def _grey(y: Tensor) -> Tensor:
    return _without_specks(_luminance(y.detach().cpu().float()))


def _estimate(greys: Sequence[Tensor], side: int | None) -> KernelEstimate:
    picture = min(min(grey.shape) for grey in greys)
    if side is not None:
        return replace(refined(greys, estimate_in_window(greys, side)), picture=picture)
    found: list[KernelEstimate] = []
    for window in WINDOWS:
        try:
            found.append(estimate_in_window(greys, window))
        except InputError:  # a smaller window may fit the picture, or lie between clipped places
            if not found:
                raise
            break
    agreement = [likeness(a.kernel, b.kernel) for a, b in pairwise(found)]
    best = refined(greys, min(found, key=lambda each: _objective(greys, each.kernel)))
    return replace(best, agreement=min(agreement, default=None), picture=picture)


def likeness(a: Tensor, b: Tensor) -> float:
    """Largest normalised correlation of two kernels (h, w) over shifts; 1 for equal shapes."""
    size = [m + n for m, n in zip(a.shape, b.shape, strict=True)]
    f, g = (torch.fft.rfft2(k, s=size) for k in (a, b))
    return float(torch.fft.irfft2(f * g.conj(), s=size).max() / (a.norm() * b.norm()))


def estimate_in_window(greys: Sequence[Tensor], side: int) -> KernelEstimate:
    """The kernel of grey pictures (H, W) in a window of the given side; see `estimate_kernel`."""
    for grey in greys:
        _check(grey, side)
    weight, kernel = EDGE_WEIGHT, _start(COARSEST)
    for factor, size in _scales(side):
        blurred = [_reduced(grey, factor) for grey in greys]
        usable = [_unclipped(y, size) for y in blurred]
        kernel = _start(size) if size <= COARSEST else _enlarged(kernel, size)
        for _ in range(ROUNDS):
            gram, correlation = RIDGE * torch.eye(size**2), torch.zeros(size**2)
            for y, counted in zip(blurred, usable, strict=True):
                sharp = cartoon(y, kernel, weight)
                of_one = _normal_equations(sharp, y, counted, size)
                gram, correlation = gram + of_one[0], correlation + of_one[1]
            kernel = pruned(torch.linalg.solve(gram, correlation).reshape(size, size))
            weight = max(weight / 1.1, SMALLEST_EDGE_WEIGHT)
        kernel = centred(kernel)
    return _judged(kernel, gram, [cartoon(y, kernel, weight) for y in blurred], blurred)


def refined(greys: Sequence[Tensor], estimate: KernelEstimate) -> KernelEstimate:
    """The kernel after EM over all gradients of grey pictures (H, W), from the cartoons' kernel.

    The cartoon's kernel stays where EM explains the picture worse, by `WORSE`. The standard
    deviations are robust to what the model of gradients lacks; see `robust_std`.
    """
    if estimate.sharp:
        return estimate
    pictures = [_sharp(grey, len(estimate.kernel)) for grey in greys]
    kernel = expectation_maximization(pictures, estimate.kernel)
    std = robust_std(pictures, kernel, seeded(0, "kernel"))
    kernel = pruned(kernel)
    way, kernel = _way_to_centre(kernel), centred(kernel)
    if _objective(greys, kernel) > WORSE * _objective(greys, estimate.kernel):
        return replace(estimate, std=std)
    return replace(estimate, kernel=kernel, std=_moved(std, way))


def _objective(greys: Sequence[Tensor], kernel: Tensor) -> float:
    return sum(math.prod(cartoon_objective(grey, kernel)) for grey in greys)


def _sharp(grey: Tensor, side: int) -> Sharp:
    frame = Frame(_gradients(grey), _unclipped(grey, side)[:-1, :-1], (side, side))
    return Sharp(frame, NOISE_OF_GRADIENTS * (noise_level(grey[None]) or ROUNDING))


def cartoon_objective(y: Tensor, kernel: Tensor) -> tuple[float, float]:
    """How well a kernel explains a picture (H, W): the objective and the sparsity of its cartoon.

    Returns: the mean of |k * x - y|^2 plus lambda times the share of pixels on edges; and the ratio
    of the L1 and L2 norms of grad x, 1 for equal gradients everywhere. Their product is smallest
    for the true kernel more often than either (bench/kernel_window.py).

    Source of the ratio: Krishnan, Tay, Fergus, Blind deconvolution using a normalized sparsity
    measure, CVPR 2011.
    """
    x, r = cartoon(y, kernel, JUDGED_WEIGHT), len(kernel) // 2
    border = WINDOWS[-1] // 2
    fit = F.conv2d(x[None, None], kernel.flip(0, 1)[None, None])[0, 0]
    inner = slice(border, -border)
    misfit = (F.pad(fit, [r] * 4) - y)[inner, inner].square().mean()
    gradients = _gradients(x)[:, inner, inner]
    edges = (gradients.square().sum(0) > 1e-5).float().mean()
    ratio = gradients.abs().mean() / gradients.square().mean().sqrt().clamp_min(1e-12)
    return float(misfit + JUDGED_WEIGHT * edges), float(ratio)


# --- the two steps ------------------------------------------------------------------------------


def cartoon(y: Tensor, kernel: Tensor, weight: float) -> Tensor:
    """Few-edged x with k * x close to y: half-quadratic splitting of |k * x - y|^2 + w |grad x|_0.

    The splitting weight doubles from 2 w to 1e5. The picture is continued periodically.

    Args:
        y: (H, W).
        kernel: (side, side).
    """
    wide = _periodic(y, len(kernel))
    k, across, down = (_transfer(f, wide.shape) for f in (kernel, _ACROSS, _DOWN))
    data, power = k.conj() * torch.fft.rfft2(wide), k.abs() ** 2
    x, beta = wide, 2 * weight
    while beta < 1e5:
        gx, gy = x.roll(-1, 1) - x, x.roll(-1, 0) - x
        flat = gx**2 + gy**2 < weight / beta
        gx, gy = gx.masked_fill(flat, 0), gy.masked_fill(flat, 0)
        back = gx.roll(1, 1) - gx + gy.roll(1, 0) - gy
        spectrum = (data + beta * torch.fft.rfft2(back)) / (
            power + beta * (across.abs() ** 2 + down.abs() ** 2)
        )
        x = torch.fft.irfft2(spectrum, s=wide.shape)
        beta *= 2
    return x[: y.shape[0], : y.shape[1]]


def _normal_equations(x: Tensor, y: Tensor, usable: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """G (side^2, side^2) and b (side^2,) of min |k * grad x - grad y|^2: G k = b."""
    size = [next_fast_len(n + side, real=True) for n in x.shape]
    gx, gy = (torch.fft.rfft2(_gradients(z) * usable[:-1, :-1], s=size) for z in (x, y))
    power = torch.fft.irfft2((gx.abs() ** 2).sum(0), s=size)
    cross = torch.fft.irfft2((gx.conj() * gy).sum(0), s=size)
    offset = torch.arange(side) - side // 2
    lag = offset[:, None] - offset
    gram = power[lag % size[0]][:, :, lag % size[1]].permute(0, 2, 1, 3).reshape(side**2, side**2)
    b = cross[offset % size[0]][:, offset % size[1]].flatten()
    return gram, b


def pruned(kernel: Tensor) -> Tensor:
    """A kernel without negative, faint and isolated entries, of sum 1."""
    kernel = kernel.clamp_min(0)
    if not bool(kernel.any()):
        return _start(len(kernel))
    kernel = kernel.masked_fill(kernel < FAINT * kernel.max(), 0)
    parts, count = label((kernel > 0).numpy(), structure=[[1] * 3] * 3)
    for part in range(1, count + 1):
        inside = torch.from_numpy(parts == part)
        if kernel[inside].sum() < ISOLATED * kernel.sum():
            kernel = kernel.masked_fill(inside, 0)
    return kernel / kernel.sum()


# --- scales -------------------------------------------------------------------------------------


def _scales(side: int) -> list[tuple[float, int]]:
    """Factor of the picture's sides and side of the kernel, coarsest first."""
    scales, factor = [], 1.0
    while True:
        size = round(side * factor)
        scales.append((factor, size + 1 - size % 2))
        if scales[-1][1] <= COARSEST:
            return scales[::-1]
        factor /= FINER


def _reduced(y: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return y
    size = [max(8, round(n * factor)) for n in y.shape]
    return F.interpolate(y[None, None], size, mode="bicubic", antialias=True)[0, 0]


def _start(side: int) -> Tensor:
    """Two neighbouring pixels of equal weight."""
    kernel = torch.zeros(side, side)
    kernel[side // 2, side // 2 - 1 : side // 2 + 1] = 0.5
    return kernel


def _enlarged(kernel: Tensor, side: int) -> Tensor:
    kernel = F.interpolate(kernel[None, None], (side, side), mode="bicubic")[0, 0].clamp_min(0)
    return kernel / kernel.sum()


def centred(kernel: Tensor) -> Tensor:
    """The kernel moved by whole pixels until its centre of mass is closest to the centre."""
    moved = _moved(kernel, _way_to_centre(kernel))
    return moved / moved.sum()


def _way_to_centre(kernel: Tensor) -> tuple[int, int]:
    place = torch.arange(len(kernel), dtype=kernel.dtype)
    mass = kernel.sum()
    down, right = (
        round(len(kernel) // 2 - float((kernel.sum(d) * place).sum() / mass)) for d in (1, 0)
    )
    return down, right


def _moved(values: Tensor, way: tuple[int, int]) -> Tensor:
    """Values (side, side) moved down and right; what leaves the window is lost."""
    down, right = way
    wide = F.pad(values, [max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)])
    return wide[max(-down, 0) :, max(-right, 0) :][: len(values), : len(values)].contiguous()


# --- the picture --------------------------------------------------------------------------------

_ACROSS = torch.tensor([[0.0, 0, 0], [1, -1, 0], [0, 0, 0]])
_DOWN = _ACROSS.T.contiguous()


def _luminance(y: Tensor) -> Tensor:
    if len(y) != 3:
        return y.mean(0)
    return torch.einsum("c,chw->hw", torch.tensor([0.299, 0.587, 0.114]), y)


def _gradients(x: Tensor) -> Tensor:
    """Differences to the right and lower neighbour, (2, H - 1, W - 1)."""
    return torch.stack([x[:-1, 1:] - x[:-1, :-1], x[1:, :-1] - x[:-1, :-1]])


def _without_specks(y: Tensor) -> Tensor:
    """y (H, W) with clipped places of fewer than `PLACE` pixels replaced by their median.

    They are noise, since blur spreads a light over more, and look like lights that are not blurred.
    """
    parts, _ = label((y >= CLIPPED).numpy(), structure=[[1] * 3] * 3)
    areas = np.bincount(parts.ravel())
    areas[0] = PLACE
    specks = torch.from_numpy(areas[parts] < PLACE)
    patches = F.unfold(F.pad(y[None, None], [2] * 4, mode="reflect"), 5)[0]
    return torch.where(specks, patches.median(0).values.reshape(y.shape), y)


def _unclipped(y: Tensor, side: int) -> Tensor:
    """1 where a kernel of this side reaches no clipped pixel, otherwise 0; (H, W)."""
    clipped = (y >= CLIPPED).float()[None, None]
    return 1 - F.max_pool2d(clipped, side, 1, side // 2)[0, 0]


def _transfer(kernel: Tensor, size: torch.Size) -> Tensor:
    """Spectrum of a kernel of odd sides, its centre at the origin."""
    wide = torch.zeros(size)
    wide[: kernel.shape[0], : kernel.shape[1]] = kernel
    return torch.fft.rfft2(wide.roll([-(n // 2) for n in kernel.shape], (0, 1)))


def _periodic(y: Tensor, margin: int) -> Tensor:
    """y and at least `margin` further rows and columns that lead from its end to its beginning."""

    def extended(a: Tensor) -> Tensor:
        more = next_fast_len(len(a) + margin, real=True) - len(a)
        step = torch.arange(1, more + 1) / (more + 1)
        share = (0.5 - 0.5 * torch.cos(math.pi * step))[:, None]
        if more > len(a):
            return torch.cat([a, (1 - share) * a[-1:] + share * a[:1]])
        return torch.cat([a, (1 - share) * a.flip(0)[:more] + share * a[:more].flip(0)])

    return extended(extended(y).T).T.contiguous()


# --- judgement ----------------------------------------------------------------------------------


def _check(y: Tensor, side: int) -> None:
    """Raises: InputError for a picture that cannot tell its kernel."""
    least = max(2 * side, SMALLEST_PICTURE)
    if min(y.shape) < least:
        raise InputError(
            f"deblur: a kernel of up to {side}x{side} pixels cannot be estimated from a picture of "
            f"{y.shape[0]}x{y.shape[1]}; it needs {least} pixels on each side: state the kernel "
            "with --problem-option kernel=..., or a smaller kernel_size"
        )
    if float(_gradients(y).abs().amax()) < 2 / 255:
        raise InputError(
            "deblur: the picture is flat, so that nothing tells its blur; state the kernel"
        )
    lost = 1 - float(_unclipped(y, side).mean())
    if lost > MOST_CLIPPED:
        raise InputError(
            f"deblur: {lost:.0%} of the picture is clipped or within the kernel's reach of clipped "
            "pixels, which do not tell the blur; state a smaller kernel_size, or the kernel"
        )


def _judged(
    kernel: Tensor, gram: Tensor, sharp: Sequence[Tensor], blurred: Sequence[Tensor]
) -> KernelEstimate:
    """The kernel with its standard deviations, or a delta if it spreads over hardly a pixel."""
    side = len(kernel)
    r = side // 2
    residuals = []
    for x, y in zip(sharp, blurred, strict=True):
        fit = F.conv2d(x[None, None], kernel.flip(0, 1)[None, None])[0, 0]
        residuals.append(y[r : r + fit.shape[0], r : r + fit.shape[1]] - fit)
    variance = float(torch.cat([_gradients(e).flatten() for e in residuals]).square().mean())
    std = (variance * torch.linalg.inv(gram).diagonal()).clamp_min(0).sqrt().reshape(side, side)
    no_blur = float(F.avg_pool2d(kernel[None, None], 3, 1, 1).max() * 9) >= NO_BLUR
    if no_blur:
        kernel = torch.zeros_like(kernel)
        kernel[r, r] = 1
    residual = torch.cat([e.flatten() for e in residuals]).square().mean().sqrt()
    return KernelEstimate(kernel, std, float(residual), no_blur)
