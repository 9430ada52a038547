"""Forward operators under deepinv's physics contract: constructors, a decorator, the adjoint test.

Operators act on physical units, batch first. A linear operator has `A` and `A_adjoint`, a
decomposable one `U`, `V` and `mask` as well.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inverse.errors import OperatorError, OptionError
from inverse.measurement.deepinv_import import deepinv
from inverse.seeding import seeded


def operator(
    function: Callable[[Tensor], Tensor] | None = None,
    *,
    shape: tuple[int, ...],
    linear: bool = True,
) -> Any:
    """Turn a differentiable function of a batch into an operator.

        @inverse.operator(shape=(3, 64, 64))
        def grey(x):
            return x.mean(1, keepdim=True)

    Automatic differentiation gives the adjoint. y takes the precision of x.

    Args:
        function: x (B, *shape) -> y (B, *out_shape), physical units.
        shape: shape of one x.
        linear: whether the function is linear; `adjoint_error` checks the claim.

    Raises: OptionError, when it is applied, if the function returns anything but real
        floating-point numbers.

    Returns: a deepinv `LinearPhysics` (or `Physics` when `linear` is false).
    """

    def wrap(f: Callable[[Tensor], Tensor]):
        physics = deepinv("physics")

        def A(x: Tensor, **_: Any) -> Tensor:
            y = f(x)
            if not isinstance(y, Tensor):
                raise OptionError(
                    f"operator: the function returns {type(y).__name__}; return a tensor"
                )
            if y.is_complex():
                raise OptionError(
                    "operator: the function returns complex numbers; return their real and "
                    "imaginary parts as two channels (torch.view_as_real)"
                )
            if not y.is_floating_point():
                raise OptionError(
                    f"operator: the function returns {y.dtype}, which has no gradient; "
                    "return floating-point numbers"
                )
            return y.to(x.dtype)

        if not linear:
            return physics.Physics(A=A)

        def adjoint(v: Tensor, **_: Any) -> Tensor:
            with torch.enable_grad():
                x = torch.zeros(
                    v.shape[0], *shape, dtype=v.dtype, device=v.device, requires_grad=True
                )
                (result,) = torch.autograd.grad(A(x), x, v)
            return result

        return physics.LinearPhysics(A=A, A_adjoint=adjoint, img_size=shape)

    return wrap if function is None else wrap(function)


def is_linear(physics: object) -> bool:
    """Whether the operator is a deepinv `LinearPhysics`."""
    return isinstance(physics, deepinv("physics").LinearPhysics)


def is_decomposable(physics: object) -> bool:
    """Whether the operator has a singular value decomposition (deepinv `DecomposablePhysics`)."""
    return isinstance(physics, deepinv("physics").DecomposablePhysics)


FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Precisions that `adjoint_error` tries, in this order."""


def adjoint_error(
    physics: Any, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype | None = None
) -> float:
    """Relative error |<A u, v> - <u, A^T v>| / (|A u| |v|) of the adjoint for random u and v.

    For a true adjoint it is zero to rounding, also for A = 0.

    Args:
        physics: a linear operator.
        shape: shape of one x.
        dtype: of u and v; by default the first of float64, float32, float16 and bfloat16 that the
            operator takes.

    Raises: OperatorError if A takes none of these, or if A^T v does not have the shape of u.
    """
    u, Au = _images_in_its_dtype(physics, shape, seed, dtype)
    v = torch.randn(
        Au.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64
    )
    v = v.to(Au)
    Atv = physics.A_adjoint(v)
    if Atv.shape != u.shape:
        raise OperatorError(
            f"{type(physics).__name__}: the adjoint returns shape {tuple(Atv.shape)}, "
            f"A takes {tuple(u.shape)}"
        )
    u, v, Au, Atv = (t.double() for t in (u, v, Au, Atv))
    gap = (Au * v).sum() - (u * Atv).sum()
    return float(gap.abs() / (Au.norm() * v.norm()).clamp_min(torch.finfo(torch.float64).tiny))


def _images_in_its_dtype(
    physics: Any, shape: tuple[int, ...], seed: int, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """Random u (1, *shape) and A u in the first precision that the operator takes."""
    tensors = [*_tensors(physics, "parameters"), *_tensors(physics, "buffers")]
    device = tensors[0].device if tensors else torch.device("cpu")
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(1, *shape, generator=generator, dtype=torch.float64).to(device)
    reasons = []
    for each in (dtype,) if dtype else FLOATS:
        try:
            return u.to(each), physics.A(u.to(each))
        except RuntimeError as error:  # such as tensors of another precision
            reasons.append(str(error).partition("\n")[0])
    raise OperatorError(
        f"{type(physics).__name__}: A fails on an input of shape {tuple(u.shape)}: {reasons[0]}"
    )


def _tensors(physics: Any, kind: str) -> list[Tensor]:
    return list(getattr(physics, kind, list)())


def clone(physics: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    """A copy of an operator on `device`, with real parameters in `dtype`.

    The copy has `modalities`: which entries of the last dimension of y each instrument measured,
    by the names given to `inverse.stack`. All entries belong to "y" for other operators.
    """
    duplicate = _deepcopy(physics)
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64

    def convert(t: Tensor) -> Tensor:
        if t.is_complex():
            return t.to(device, complex_dtype)
        return t.to(device, dtype) if t.is_floating_point() else t.to(device)

    duplicate = duplicate._apply(convert)
    if not hasattr(duplicate, "modalities"):
        duplicate.modalities = {"y": slice(None)}
    return duplicate


def _deepcopy(physics: Any) -> Any:
    """A copy of an operator.

    An operator that holds a generator needs deepinv's `clone`, which is half a second slower.
    """
    try:
        return copy.deepcopy(physics)
    except TypeError:
        return physics.clone()


def separable_blur(factors: tuple[Tensor, Tensor], shape: tuple[int, ...], boundary: str) -> Any:
    """Blur by the kernel outer(*factors), with closed-form solves for any boundary.

    Args:
        factors: vertical and horizontal factor, odd lengths.
        shape: shape (C, H, W) of one x.
        boundary: reflect, replicate, zeros or valid.

    Returns: a `separable` operator.
    """
    rows, columns = (
        _convolution_matrix(f.double(), n, boundary)
        for f, n in zip(factors, shape[-2:], strict=True)
    )
    return separable(rows, columns)


def _convolution_matrix(kernel: Tensor, n: int, boundary: str) -> Tensor:
    """The matrix (m, n) of the convolution of a signal of n numbers with a kernel."""
    r, signals = len(kernel) // 2, torch.eye(n, dtype=kernel.dtype)[:, None]
    if boundary != "valid":
        signals = torch.nn.functional.pad(
            signals, (r, r), mode="constant" if boundary == "zeros" else boundary
        )
    return torch.nn.functional.conv1d(signals, kernel.flip(0)[None, None])[:, 0].T


def fft_blur(kernel: Tensor, shape: tuple[int, ...], boundary: str) -> Any:
    """Blur by a kernel through real FFTs of fast lengths.

    The spectrum of the kernel is computed once; deepinv's `Blur` computes it at every call.

    Args:
        kernel: (h, w), odd sides; (d, h, w) for volumes.
        shape: shape (C, H, W) of one x; (C, D, H, W) for volumes.
        boundary: circular, reflect, replicate, zeros or valid.

    Returns: a deepinv `LinearPhysics`.
    """
    return _fft_blur_class()(kernel, shape, boundary)


@functools.cache
def _fft_blur_class() -> Any:
    from scipy.fft import next_fast_len

    physics = deepinv("physics")

    class FFTBlur(physics.LinearPhysics):  # type: ignore[name-defined, misc]
        def __init__(self, kernel: Tensor, shape: tuple[int, ...], boundary: str):
            super().__init__(img_size=shape)
            self.axes = tuple(range(-kernel.ndim, 0))
            margins = [n // 2 for n in kernel.shape]
            padding = [0] * kernel.ndim if boundary == "valid" else margins
            self.pad = [r for r in reversed(padding) for _ in range(2)]
            self.mode = {"zeros": "constant", "valid": "constant"}.get(boundary, boundary)
            self.padded = [n + 2 * r for n, r in zip(self._sides(shape), padding, strict=True)]
            self.size = [next_fast_len(n, real=True) for n in self.padded]
            self.valid: tuple[Any, ...] = (
                ...,
                *(slice(2 * r, n) for r, n in zip(margins, self.padded, strict=True)),
            )
            spectrum = torch.fft.rfftn(kernel.double(), s=self.size, dim=self.axes)
            self.register_buffer("spectrum", spectrum)

        def A(self, x: Tensor, **_: Any) -> Tensor:
            if self._sides(x.shape) != self._sides(self.img_size):
                made, found = (
                    "x".join(map(str, self._sides(shape))) for shape in (self.img_size, x.shape)
                )
                raise OperatorError(f"this blur was made for images of {made} pixels, got {found}")
            return self._filtered(self._extend(x), self.spectrum)[self.valid]

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            outer = y.shape[: -len(self.axes)]
            whole = y.new_zeros(*outer, *self.size)
            whole[self.valid] = y
            back = self._filtered(whole, self.spectrum.conj())
            inside: tuple[Any, ...] = (..., *(slice(n) for n in self.padded))
            back = back[inside]
            if not any(self.pad):
                return back
            with torch.enable_grad():
                x = y.new_zeros(*outer, *self._sides(self.img_size), requires_grad=True)
                return torch.autograd.grad(self._extend(x), x, back)[0]

        def _filtered(self, x: Tensor, spectrum: Tensor) -> Tensor:
            product = torch.fft.rfftn(x, s=self.size, dim=self.axes) * spectrum
            return torch.fft.irfftn(product, s=self.size, dim=self.axes)

        def _sides(self, shape: Any) -> tuple[int, ...]:
            return tuple(shape[self.axes[0] :])

        def _extend(self, x: Tensor) -> Tensor:
            return torch.nn.functional.pad(x, self.pad, mode=self.mode) if any(self.pad) else x

    return FFTBlur


def separable(rows: Tensor, columns: Tensor) -> Any:
    """The operator Y = rows X columns^T on every channel, with closed-form solves.

    Args:
        rows: (h, H), real.
        columns: (w, W), real. The singular value decompositions of both are stored in float64.

    Returns: a deepinv `DecomposablePhysics`, x (B, C, H, W) -> y (B, C, h, w).
    """
    return _separable_class()(rows, columns)


@functools.cache
def _separable_class() -> Any:
    physics = deepinv("physics")

    class Separable(physics.DecomposablePhysics):  # type: ignore[name-defined, misc]
        def __init__(self, rows: Tensor, columns: Tensor):
            left, right = (
                torch.linalg.svd(m.double(), full_matrices=False) for m in (rows, columns)
            )
            super().__init__(mask=torch.outer(left.S, right.S))
            for name, value in {"U1": left.U, "V1": left.Vh, "U2": right.U, "V2": right.Vh}.items():
                self.register_buffer(name, value)

        def U(self, x: Tensor) -> Tensor:
            return self.U1 @ x @ self.U2.T

        def U_adjoint(self, x: Tensor, **_: Any) -> Tensor:
            return self.U1.T @ x @ self.U2

        def V(self, x: Tensor, **_: Any) -> Tensor:
            return self.V1.T @ x @ self.V2

        def V_adjoint(self, x: Tensor) -> Tensor:
            return self.V1 @ x @ self.V2.T

    return Separable


def dense(matrix: Tensor, shape: tuple[int, ...], out_shape: tuple[int, ...] | None = None) -> Any:
    """The operator of a matrix, with closed-form solves.

    Args:
        matrix: (m, n), with n the number of entries of one x. Its singular value decomposition is
            stored in float64.
        shape: shape of one x.
        out_shape: shape of one y; by default (1, ..., 1, m), with as many dimensions as x.

    Returns: a deepinv `DecomposablePhysics`, x (B, *shape) -> y (B, *out_shape).
    """
    return _dense_class()(matrix, shape, out_shape or (*[1] * (len(shape) - 1), len(matrix)))


@functools.cache
def _dense_class() -> Any:
    physics = deepinv("physics")

    class Dense(physics.DecomposablePhysics):  # type: ignore[name-defined, misc]
        def __init__(self, matrix: Tensor, shape: tuple[int, ...], out_shape: tuple[int, ...]):
            left, S, right = torch.linalg.svd(matrix.double(), full_matrices=False)
            super().__init__(mask=S)
            self.shape, self.out_shape = shape, out_shape
            self.register_buffer("left", left)
            self.register_buffer("right", right)

        def U(self, c: Tensor) -> Tensor:
            return (c @ self.left.T).reshape(-1, *self.out_shape)

        def U_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return y.flatten(1) @ self.left

        def V(self, c: Tensor, **_: Any) -> Tensor:
            return (c @ self.right).reshape(-1, *self.shape)

        def V_adjoint(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.right.T

    return Dense


def motion_kernel(size: int, seed: int) -> Tensor:
    """A camera-shake kernel (size, size), sum 1: a smooth random trajectory.

    deepinv's MotionBlurGenerator draws it.
    """
    trajectories = deepinv("physics.generator").MotionBlurGenerator(
        (size, size), rng=seeded(seed, "motion kernel")
    )
    return trajectories.step(batch_size=1)["filter"][0, 0].float()
