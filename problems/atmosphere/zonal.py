"""A Gaussian of global fields whose law does not change when the globe is turned, fitted to few of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inverse.priors.analytic import LOG_2PI, FieldLaw
from inverse_problems.atmosphere.climatology import gaspari_cohn
from inverse_problems.atmosphere.grid import EARTH_RADIUS, Grid


class ZonalPrior(FieldLaw):
    """Independent zonal wavenumbers k; those of all channels and latitudes have covariance Q_k diag(v_k - f_k) Q_k^H + f_k I.

    Turning the longitudes turns the denoised field, and on a row at a pole, where all longitudes are one place, only k = 0 varies.

    Args:
        mean: of every row, (C, H), physical units; model units are differences from it.
        basis: Q, (K, C * H, r) complex, orthonormal columns, zero on pole rows for k > 0; K = W // 2 + 1.
        variances: v, (K, r), model units squared.
        floor: f, (K,).
        poles: which rows are poles, (H,) boolean.
        width: W, number of longitudes.
    """

    kind = "zonal"
    circular = True
    single_precision = ("variances", "floor", "shift")

    def __init__(
        self,
        mean: Tensor,
        basis: Tensor,
        variances: Tensor,
        floor: Tensor,
        poles: Tensor,
        width: int,
        **units: float,
    ):
        super().__init__((*mean.shape, width), **units)
        del self.shift
        self.register_buffer("shift", mean[..., None].clone())
        self.register_buffer(
            "pairs", torch.view_as_real(basis).clone()
        )  # a module's `to` would leave of a complex buffer the real part
        for name, value in {"variances": variances, "floor": floor}.items():
            self.register_buffer(name, value.clone())
        varies = torch.ones(len(floor), *mean.shape, dtype=floor.dtype)
        varies[1:, :, poles] = 0
        self.register_buffer("varies", varies.flatten(1), persistent=False)
        self.width = width

    pairs: Tensor
    variances: Tensor
    floor: Tensor
    varies: Tensor

    @property
    def basis(self) -> Tensor:
        """Q: (K, C * H, r) complex."""
        return torch.view_as_complex(self.pairs.contiguous())

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return torch.zeros(*self.shape, dtype=self.floor.dtype, device=self.floor.device)  # type: ignore[arg-type]

    @property
    def covariance(self) -> Tensor:
        n = self.mean.numel()
        return self.spectral(
            torch.eye(n, dtype=self.floor.dtype).reshape(n, *self.mean.shape), lambda v: v
        ).reshape(n, n)

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(C) x, f applied to the eigenvalues of C, which are 0 on pole rows for k > 0; f(0) must be 0: (B, C, H, W) -> same."""
        X, rest = self._waves(x), f(self.floor[:, None])
        a = torch.einsum("knr,bkn->bkr", self.basis.conj(), X) * (f(self.variances) - rest)
        Y = rest * self.varies * X + torch.einsum("knr,bkr->bkn", self.basis, a)
        return torch.fft.irfft(
            Y.mT.unflatten(1, tuple(self.shape[:2])), n=self.width, norm="ortho"
        ).to(x)  # type: ignore[arg-type]

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1) ** 2
        return self.spectral(x, lambda v: v / (v + s2))

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """As of any law; at sigma = 0 of fields that are constant along pole rows."""
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1) ** 2
        X = self._waves(x)
        inside = torch.einsum("knr,bkn->bkr", self.basis.conj(), X)
        rest, total = self.floor[:, None] * self.varies + s2, self.variances + s2
        counted, rest = (rest > 0).to(x.dtype), torch.where(rest > 0, rest, 1.0)
        level = self.floor[:, None] + s2
        outside = (X.abs().square() / rest).sum(-1) - (inside.abs().square() / level).sum(-1)
        terms = (
            (inside.abs().square() / total + total.log() - level.log()).sum(-1)
            + outside
            + (counted * (rest.log() + LOG_2PI)).sum(-1)
        )
        return -0.5 * (terms * self._twice).sum(-1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return self.spectral(
            torch.randn(count, *self.mean.shape, generator=generator, dtype=self.floor.dtype),
            torch.sqrt,
        )

    @property
    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """Those of C, (K r + K + 1,), the last 0, and the share of the n directions that has each."""
        r, n = self.variances.shape[1], self.mean.numel()
        share = (
            torch.cat(
                [
                    self._twice[:, None].expand(-1, r).flatten(),
                    self._twice * (self.varies.sum(1) - r),
                ]
            )
            / n
        )
        values = torch.cat([self.variances.flatten(), self.floor])
        return torch.cat([values, values.new_zeros(1)]), torch.cat([share, 1 - share.sum()[None]])

    def admissible(self, x: Tensor) -> Tensor:
        """x with one value along each row at a pole."""
        return self.spectral(x, torch.sign)

    def card_fields(self) -> dict[str, Any]:
        return {"kind": self.kind, **super().card_fields()}

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each entry of x0, the same at every longitude: (*shape)."""
        each = (
            torch.einsum(
                "knr,kr->kn", self.basis.abs().square(), self.variances - self.floor[:, None]
            )
            + self.floor[:, None] * self.varies
        )
        row = ((self._twice @ each) / self.width).sqrt().reshape(self.mean.shape[:2])
        return row[..., None].expand(self.mean.shape)

    @property
    def _twice(self) -> Tensor:
        """How many real directions a complex coefficient stands for: (K,)."""
        twice = torch.full_like(self.floor, 2.0)
        twice[0] = 1
        if self.width % 2 == 0:
            twice[-1] = 1
        return twice

    def _waves(self, x: Tensor) -> Tensor:
        """Unitary Fourier coefficients along longitude: (B, C, H, W) -> (B, K, C * H)."""
        return torch.fft.rfft(x, norm="ortho").flatten(1, 2).mT


def zonal_prior(weights: dict[str, Tensor], width: int, **units: float) -> ZonalPrior:
    """From what a file holds, float32: shift (C, H, 1), variances, floor, and the basis in pairs of halves, which are not quite orthonormal.

    Rows at the ends whose basis is zero for all k > 0 are poles.
    """
    basis, turn = torch.linalg.qr(torch.view_as_complex(weights["pairs"].double()))
    phase = turn.diagonal(dim1=-2, dim2=-1)
    basis = (basis * (phase / phase.abs())[:, None]).to(torch.complex64)
    mean = weights["shift"][..., 0]
    poles = (weights["pairs"][1:].abs().sum((0, 2, 3)).reshape(mean.shape) == 0).all(0)
    return ZonalPrior(mean, basis, weights["variances"], weights["floor"], poles, width, **units)


def fit_zonal(
    fields: Tensor,
    grid: Grid,
    rank: int = 40,
    taper: float = 2000.0,
    smooth: float = 0.2,
    **units: float,
) -> ZonalPrior:
    """The Gaussian of global fields (N, C, H, W), physical units that make the channels comparable.

    N fields of a few days are N samples of each wavenumber and fewer independent ones. The covariance of a wavenumber is therefore
    averaged over its neighbours (those within `smooth` k + 1 of k, 0 for none: its spectrum is smooth), and tapered with the distance
    between latitudes.

    Args:
        taper: half-width of the taper, km.
        rank: kept above the floor, for each wavenumber.
    """
    x, scale = fields.double(), units.get("scale", 1.0)
    mean = x.mean((0, 3))
    width = x.shape[3]
    X = (
        torch.fft.rfft((x - mean[..., None]) / scale, norm="ortho").flatten(1, 2).permute(2, 0, 1)
    )  # (K, N, C * H)
    lat = torch.tensor(grid.latitudes, dtype=torch.float64)
    poles = lat.abs() > 90 - 1e-6
    X[1:, :, poles.repeat(x.shape[1])] = 0
    each = torch.einsum("kni,knj->kij", X, X.conj()) / X.shape[1]
    apart = (lat[:, None] - lat).abs().deg2rad() * EARTH_RADIUS
    weight = gaspari_cohn(apart, taper).repeat(x.shape[1], x.shape[1])
    bases, variances, floors = [], [], []
    for k in range(len(each)):
        reach = math.floor(smooth * k) + 1 if smooth > 0 and k > 0 else 0
        near = each[max(k - reach, min(k, 1)) : k + reach + 1].mean(0)
        if k == 0 or 2 * k == width:  # real coefficients
            near = near.real.to(near.dtype)
        v, Q = torch.linalg.eigh(near * weight)
        v, Q = v.flip(0).clamp_min(0), Q.flip(1)
        bases.append(Q[:, :rank])
        variances.append(v[:rank])
        floors.append(
            v[rank:].sum() / max(1, len(v) - rank - (int(poles.sum()) * x.shape[1] if k else 0))
        )
    return ZonalPrior(
        mean, torch.stack(bases), torch.stack(variances), torch.stack(floors), poles, width, **units
    )
