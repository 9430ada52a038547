"""How evaluations of a prior are to be carried out (precision, compilation, memory), and the count of all evaluations."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch

from inverse.errors import OptionError


@dataclass
class Cost:
    """What a solve evaluated, counted in rows of its batch; the properties divide by the rows, giving evaluations per sample."""

    rows: int = 1
    prior_rows: int = 0
    vjp_rows: int = 0
    A_rows: int = 0
    A_adjoint_rows: int = 0

    @property
    def nfe(self) -> float:
        """Prior (network) evaluations per sample."""
        return self.prior_rows / self.rows

    @property
    def vjp(self) -> float:
        """Vector-Jacobian products of the prior per sample."""
        return self.vjp_rows / self.rows

    @property
    def A(self) -> float:
        """Operator evaluations per sample."""
        return self.A_rows / self.rows

    @property
    def A_adjoint(self) -> float:
        """Adjoint (or operator-VJP) evaluations per sample."""
        return self.A_adjoint_rows / self.rows


@dataclass(frozen=True)
class CG:
    """Settings of an iterative solve: stop a row when its residual is below `tolerance` times its right-hand side.

    At tolerance 0 all `max_iter` iterations run, and on a GPU the host waits for none of them.
    """

    tolerance: float = 1e-5
    max_iter: int = 100


HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
MODES = ("auto", "default", "reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class Execution:
    """How evaluations are carried out; no method's code depends on it.

    Args:
        autocast: "bf16" or "fp16" to run the prior in that precision with float32 state; None for the prior's own, which gradients at high
            noise keep in any case (`evaluator.STEEP`).
        compile: a mode of torch.compile for the prior, or "auto": CUDA graphs on a GPU, "default" elsewhere; None for none. Where compilation
            fails the prior runs without it, and a warning says why.
        memory: GiB that one call of the prior may take, so that rows go through in parts and local priors in tiles; by default four fifths of
            what is free when it is first needed.
        tile: side of the tiles (pixels, rounded down to the prior's stride) in which a local prior denoises images larger than `tile_above`.
        tile_above: pixels of an image above which it is tiled.
        max_pixels: rows x pixels in one prior call, however much memory there is.
        solver: conjugate-gradient settings of `solve_normal`.
    """

    autocast: str | None = None
    compile: str | None = None
    memory: float | None = None
    tile: int = 1024
    tile_above: int = 1024 * 1536
    max_pixels: int = 1 << 22
    solver: CG = field(default_factory=CG)

    def __post_init__(self) -> None:
        for name, known in (("autocast", tuple(HALVES)), ("compile", MODES)):
            if getattr(self, name) not in (None, *known):
                raise OptionError(
                    f"execution: {name} must be one of {', '.join(known)}, got '{getattr(self, name)}'"
                )
        if self.memory is not None and not self.memory > 0:
            raise OptionError(
                f"execution: memory must be a positive number of GiB, got {self.memory:g}"
            )


@functools.cache
def check_precision(device: torch.device, name: str) -> None:
    """Try a convolution in this precision.

    Args:
        name: float32, float64, bf16 or fp16.

    Raises: OptionError if the device cannot.
    """
    dtype = HALVES.get(name) or getattr(torch, name)
    try:
        if (
            device.type == "cuda"
            and name == "bf16"
            and not torch.cuda.is_bf16_supported(including_emulation=False)
        ):
            raise RuntimeError("its hardware has none")
        x = torch.ones(1, 1, 3, 3, device=device, dtype=dtype)
        torch.nn.functional.conv2d(x, x)
    except (RuntimeError, TypeError) as error:
        raise OptionError(
            f"{name} is not supported on {device} ({str(error).splitlines()[0]}); use float32"
        ) from error
