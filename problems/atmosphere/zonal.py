"""A Gaussian of global fields, invariant under rotation of the longitudes, and its fit."""

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
    """The Gaussian of fields with independent zonal wavenumbers k.

    For each k, the coefficients of all channels and latitudes have the covariance
    Q_k diag(v_k - f_k) Q_k^H + f_k I. A rotation of the longitudes rotates the denoised field. On a
    row at a pole, where all longitudes are the same place, only k = 0 varies.

    Args:
        mean: mean of each row, (C, H), physical units; model units are scaled differences from it.
        basis: Q, (K, C * H, r) complex, K = W // 2 + 1; its columns are orthonormal, and 0 on pole
            rows for k > 0.
        variances: v, (K, r), model units squared.
        floor: f, (K,), model units squared.
        poles: whether a row is a pole, (H,) boolean.
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
        # stored as real: `Module.to` would discard the imaginary part of a complex buffer
        self.register_buffer("pairs", torch.view_as_real(basis).clone())
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
        """Zero, (C, H, W): model units are differences from the mean."""
        shape, like = torch.Size(self.shape), self.floor  # type: ignore[arg-type]
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    @property
    def covariance(self) -> Tensor:
        """Dense covariance (n, n), model units."""
        n = self.mean.numel()
        eye = torch.eye(n, dtype=self.floor.dtype).reshape(n, *self.mean.shape)
        return self.spectral(eye, lambda v: v).reshape(n, n)

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(C) x, with f applied to the eigenvalues of the covariance: (B, C, H, W) -> same.

        Pole rows have eigenvalue 0 for k > 0, and f(0) must be 0.
        """
        X, rest = self._waves(x), f(self.floor[:, None])
        a = torch.einsum("knr,bkn->bkr", self.basis.conj(), X) * (f(self.variances) - rest)
        Y = rest * self.varies * X + torch.einsum("knr,bkr->bkn", self.basis, a)
        waves = Y.mT.unflatten(1, tuple(self.shape[:2]))  # type: ignore[arg-type]
        return torch.fft.irfft(waves, n=self.width, norm="ortho").to(x)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x], exact: x (B, C, H, W), sigma () or (B,) -> (B, C, H, W)."""
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1) ** 2
        return self.spectral(x, lambda v: v / (v + s2))

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """As `FieldLaw.log_density`; at sigma = 0, x must be constant along pole rows."""
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
        return -0.5 * (terms * self._multiplicity).sum(-1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent fields: (count, C, H, W), model units."""
        shape = count, *self.mean.shape
        white = torch.randn(shape, generator=generator, dtype=self.floor.dtype)
        return self.spectral(white, torch.sqrt)

    @property
    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of C, (K r + K + 1,), the last 0, and the fraction of directions of each."""
        r, n = self.variances.shape[1], self.mean.numel()
        of_basis = self._multiplicity[:, None].expand(-1, r).flatten()
        of_floor = self._multiplicity * (self.varies.sum(1) - r)
        share = torch.cat([of_basis, of_floor]) / n
        values = torch.cat([self.variances.flatten(), self.floor])
        return torch.cat([values, values.new_zeros(1)]), torch.cat([share, 1 - share.sum()[None]])

    def admissible(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) made constant along each row at a pole."""
        return self.spectral(x, torch.sign)

    def card_fields(self) -> dict[str, Any]:
        """Entries of the card of the prior."""
        return {"kind": self.kind, **super().card_fields()}

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each entry of x0 (*shape), model units, equal at all longitudes."""
        floor = self.floor[:, None]
        power = torch.einsum("knr,kr->kn", self.basis.abs().square(), self.variances - floor)
        power = power + floor * self.varies
        row = ((self._multiplicity @ power) / self.width).sqrt().reshape(self.mean.shape[:2])
        return row[..., None].expand(self.mean.shape)

    @property
    def _multiplicity(self) -> Tensor:
        """Number of real directions of a coefficient of each wavenumber: (K,)."""
        count = torch.full_like(self.floor, 2.0)
        count[0] = 1
        if self.width % 2 == 0:
            count[-1] = 1
        return count

    def _waves(self, x: Tensor) -> Tensor:
        """Unitary Fourier coefficients along longitude: (B, C, H, W) -> (B, K, C * H)."""
        return torch.fft.rfft(x, norm="ortho").flatten(1, 2).mT


def zonal_prior(weights: dict[str, Tensor], width: int, **units: float) -> ZonalPrior:
    """The prior of the weights of a file.

    The file stores the basis in half precision, which is orthonormalised again. Rows whose basis is
    0 for all k > 0 are poles.

    Args:
        weights: "shift" (C, H, 1), "variances" and "floor", float32; "pairs", the basis as real and
            imaginary parts (K, C * H, r, 2).
        width: number of longitudes.
        units: scale and noise levels of the model units, see `Prior`.
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
    """The Gaussian of global fields.

    N fields of a few days are N samples of each wavenumber, of which few are independent. The
    covariance of wavenumber k is therefore averaged over the wavenumbers within `smooth` k + 1 of
    k, because the spectrum is smooth, and tapered with the distance between latitudes.

    Args:
        fields: (N, C, H, W), in physical units that make the channels comparable.
        grid: grid of the fields.
        rank: number of directions above the floor, for each wavenumber.
        taper: half-width of the taper, km.
        smooth: relative half-width of the average over wavenumbers; 0 for no average.
        units: scale and noise levels of the model units, see `Prior`.
    """
    x, scale = fields.double(), units.get("scale", 1.0)
    mean = x.mean((0, 3))
    width = x.shape[3]
    waves = torch.fft.rfft((x - mean[..., None]) / scale, norm="ortho")
    X = waves.flatten(1, 2).permute(2, 0, 1)  # (K, N, C * H)
    lat = torch.tensor(grid.latitudes, dtype=torch.float64)
    poles = lat.abs() > 90 - 1e-6
    X[1:, :, poles.repeat(x.shape[1])] = 0
    covariances = torch.einsum("kni,knj->kij", X, X.conj()) / X.shape[1]
    km = (lat[:, None] - lat).abs().deg2rad() * EARTH_RADIUS
    weight = gaspari_cohn(km, taper).repeat(x.shape[1], x.shape[1])
    bases, variances, floors = [], [], []
    for k in range(len(covariances)):
        reach = math.floor(smooth * k) + 1 if smooth > 0 and k > 0 else 0
        covariance = covariances[max(k - reach, min(k, 1)) : k + reach + 1].mean(0)
        if k == 0 or 2 * k == width:  # real coefficients
            covariance = covariance.real.to(covariance.dtype)
        v, Q = torch.linalg.eigh(covariance * weight)
        v, Q = v.flip(0).clamp_min(0), Q.flip(1)
        bases.append(Q[:, :rank])
        variances.append(v[:rank])
        constant = int(poles.sum()) * x.shape[1] if k else 0
        floors.append(v[rank:].sum() / max(1, len(v) - rank - constant))
    basis, variance, floor = map(torch.stack, (bases, variances, floors))
    return ZonalPrior(mean, basis, variance, floor, poles, width, **units)
