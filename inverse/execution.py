"""Settings of a prior's evaluation (precision, compilation, memory), and evaluation counts."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch

from inverse.errors import OptionError


@dataclass
class Cost:
    """Evaluation counts of a solve, in rows of its batch.

    The properties divide by `rows` and give evaluations per sample.
    """

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
    """Settings of an iterative solve.

    Args:
        tolerance: a row stops when its residual is below `tolerance` times its right-hand side. At
            tolerance 0 all iterations run, and on a GPU the host waits for none of them.
        max_iter: largest number of iterations.
    """

    tolerance: float = 1e-5
    max_iter: int = 100


HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
MODES = ("auto", "default", "reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class Execution:
    """Settings for the evaluation of a prior; the code of a method does not depend on them.

    Args:
        autocast: "bf16" or "fp16" to run the prior in that precision with float32 state; None for
            the prior's own precision. Gradients at high noise always use the latter
            (`evaluator.FULL_PRECISION_SIGMA`).
        compile: a mode of torch.compile for the prior, or "auto" (CUDA graphs on a GPU, "default"
            elsewhere); None for no compilation. If compilation fails, the prior runs without it
            and a warning gives the reason.
        memory: memory (GiB) for a single call of the prior. Rows are split into parts and images
            into tiles to respect it. By default four fifths of the memory that is free when it is
            first needed.
        tile: side of a tile (pixels), rounded down to a multiple of the prior's stride.
        tile_above: number of pixels above which a local prior denoises an image in tiles.
        max_pixels: largest number of rows x pixels in a single call of the prior.
        solver: conjugate-gradient settings of `solve_normal`.

    Raises: OptionError for an unknown precision or mode, or memory that is not positive.
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
                    f"execution: {name} must be one of {', '.join(known)}, "
                    f"got '{getattr(self, name)}'"
                )
        if self.memory is not None and not self.memory > 0:
            raise OptionError(
                f"execution: memory must be a positive number of GiB, got {self.memory:g}"
            )


@functools.cache
def check_precision(device: torch.device, name: str) -> None:
    """Try a convolution in a precision.

    Args:
        name: float32, float64, bf16 or fp16.

    Raises: OptionError if the device does not support it.
    """
    dtype = HALVES.get(name) or getattr(torch, name)
    try:
        if (
            device.type == "cuda"
            and name == "bf16"
            and not torch.cuda.is_bf16_supported(including_emulation=False)
        ):
            raise RuntimeError("its hardware has no bf16")
        x = torch.ones(1, 1, 3, 3, device=device, dtype=dtype)
        torch.nn.functional.conv2d(x, x)
    except (RuntimeError, TypeError) as error:
        raise OptionError(
            f"{name} is not supported on {device} ({str(error).splitlines()[0]}); use float32"
        ) from error
