"""A sparse real matrix as a differentiable map, with its exact transpose as adjoint."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor


class SparseMatrix:
    """The map x (..., columns) -> M x (..., rows), shared by all copies of an operator.

    Torch's sparse products have no batched derivative; the derivative of this one is M^T.

    Args:
        matrix: scipy's compressed rows, real.
    """

    def __init__(self, matrix: Any):
        self.shape: tuple[int, int] = matrix.shape
        self._csr = (matrix.tocsr(), matrix.T.tocsr())
        self._moved: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __deepcopy__(self, memo: Any) -> SparseMatrix:
        return self  # it never changes

    def forward(self, x: Tensor) -> Tensor:
        """M x of every vector in the last axis."""
        return _Product.apply(self, x, 0)  # type: ignore[no-any-return]

    def adjoint(self, y: Tensor) -> Tensor:
        """M^T y of every vector in the last axis."""
        return _Product.apply(self, y, 1)  # type: ignore[no-any-return]

    def product(self, x: Tensor, transposed: int) -> Tensor:
        """M x, or M^T x, without derivative."""
        key = (x.device, x.dtype)
        if key not in self._moved:
            first, second = (_moved(_tensor(m), x) for m in self._csr)
            self._moved[key] = (first, second)
        matrix = self._moved[key][transposed]
        vectors = x.reshape(-1, x.shape[-1]).T.contiguous()
        return (matrix @ vectors).T.reshape(*x.shape[:-1], matrix.shape[0])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: SparseMatrix, x: Tensor, transposed: int) -> Tensor:
        ctx.matrix, ctx.transposed = matrix, transposed
        return matrix.product(x, transposed)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, gradient: Tensor
    ) -> tuple[None, Tensor, None]:
        return None, ctx.matrix.product(gradient, 1 - ctx.transposed), None


def _tensor(matrix: Any) -> Tensor:
    kind = np.int32 if matrix.nnz < 2**31 else np.int64
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Sparse.*", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(kind)),
            torch.from_numpy(matrix.indices.astype(kind)),
            torch.from_numpy(matrix.data),
            matrix.shape,
        )


def _moved(matrix: Tensor, like: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Sparse.*", UserWarning)
        return matrix.to(like.device, like.dtype)
