"""Classical analyses of weather services: interpolation, kriging and 3D-Var. For `atmosphere.py`.

An analysis takes a case and a number of members, and returns fields (T, members, 1, H, W) in K. A
single best field has one member.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import inverse
from inverse_problems.atmosphere.grid import EARTH_RADIUS, distance


def interpolated(kind: str) -> Callable[[Any, int], Tensor]:
    """The coarse field, interpolated between the centres of its cells and constant beyond them.

    Args:
        kind: "linear" or "cubic".
    """

    def run(c: Any, members: int) -> Tensor:
        return torch.stack([_interpolate(c, y, kind) for y in c.y])[:, None, None]

    return run


def _interpolate(c: Any, y: Tensor, kind: str) -> Tensor:
    from scipy.interpolate import RegularGridInterpolator

    coarse = c.grid.coarsened(c.problem.factor)
    lat, lon = np.asarray(coarse.latitudes), np.asarray(coarse.longitudes)
    up = slice(None, None, -1) if lat[0] > lat[-1] else slice(None)
    values = y[c.part("coarse")].reshape(coarse.shape).numpy()[up]
    fine = np.meshgrid(
        np.clip(c.grid.latitudes, lat.min(), lat.max()),
        np.clip(c.grid.longitudes, lon[0], lon[-1]),
        indexing="ij",
    )
    interpolator = RegularGridInterpolator((lat[up], lon), values, method=kind)
    field = interpolator(np.stack([axis.ravel() for axis in fine], 1))
    return torch.from_numpy(field).reshape(c.grid.shape)


def kriged(train: Tensor, residual: bool) -> Callable[[Any, int], Tensor]:
    """Ordinary kriging of the stations.

    The exponential variogram is fitted to every third training hour, because 25 noisy points do not
    determine a variogram. The nugget is the noise of the stations.

    Args:
        train: (N, 1, H, W), training fields, K.
        residual: krige the residuals from the bilinear coarse field, and add the result to it.
    """

    def run(c: Any, members: int) -> Tensor:
        from pykrige.ok import OrdinaryKriging

        lat, lon = (p.numpy() for p in c.scene.used.places)
        index, weight, _ = c.grid.locate(*c.scene.used.places)
        fields = train[::3, 0].double()
        if residual:
            coarse = fields.flatten(1) @ c.matrix[c.part("coarse")].T
            fields = fields - torch.stack([_interpolate(c, y, "linear") for y in coarse])
        sill, reach = _variogram(fields.flatten(1), c)
        out = []
        for i, y in enumerate(c.y):
            base = (
                _interpolate(c, y, "linear")
                if residual
                else torch.zeros(c.grid.shape, dtype=torch.float64)
            )
            values = y[c.part("stations")] - (base.flatten()[index] * weight).sum(1)
            variogram = {
                "psill": sill,
                "range": reach,
                "nugget": float(c.sigma[c.part("stations")].square().mean()),
            }
            model = OrdinaryKriging(
                lon,
                lat,
                values.numpy(),
                variogram_model="exponential",
                variogram_parameters=variogram,
                coordinates_type="geographic",
                exact_values=False,
            )
            mean, variance = model.execute(
                "grid", np.asarray(c.grid.longitudes), np.asarray(c.grid.latitudes)
            )
            noise = torch.randn(
                members, *c.grid.shape, generator=inverse.seeded("kriging", i), dtype=torch.float64
            )
            spread = (
                (torch.from_numpy(np.asarray(variance)) - variogram["nugget"]).clamp_min(0).sqrt()
            )
            out.append((base + torch.from_numpy(np.asarray(mean)) + spread * noise)[:, None])
        return torch.stack(out)

    return run


def _variogram(fields: Tensor, c: Any) -> tuple[float, float]:
    """Partial sill (K^2) and range (degrees of arc) of an exponential variogram.

    It is the least-squares fit to the variogram of fields (N, n) between 300 random points.
    """
    from scipy.optimize import curve_fit

    lat, lon = torch.meshgrid(
        torch.tensor(c.grid.latitudes), torch.tensor(c.grid.longitudes), indexing="ij"
    )
    pick = torch.randperm(fields.shape[1], generator=inverse.seeded("variogram"))[:300]
    places = (lat.flatten()[pick], lon.flatten()[pick])
    degrees = torch.rad2deg(distance(places, places) / EARTH_RADIUS)
    x = fields[:, pick]
    gamma = 0.5 * (x.square().mean(0)[:, None] + x.square().mean(0) - 2 * x.T @ x / len(x))
    rows, columns = torch.triu_indices(300, 300, 1)
    d, g = degrees[rows, columns].numpy(), gamma[rows, columns].numpy()
    (sill, reach), _ = curve_fit(
        lambda d, sill, reach: sill * (1 - np.exp(-3 * d / reach)),
        d,
        g,
        p0=(g.max(), 3.0),
        bounds=(1e-6, 1e3),
    )
    return float(sill), float(reach)


def three_d_var(train: Tensor, iterations: int = 100) -> Callable[[Any, int], Tensor]:
    """Minimise the variational cost in v, x = mean + B^1/2 v, by conjugate gradients.

    B has the variances of the training fields and the second-order autoregressive correlation
    (1 + d / L) exp(-d / L) in the distance d. The length L fits their correlations best.
    """
    flat = train.double().flatten(1)
    mean, spread = flat.mean(0), flat.std(0)

    def root(c: Any) -> Tensor:
        lat, lon = torch.meshgrid(
            torch.tensor(c.grid.latitudes), torch.tensor(c.grid.longitudes), indexing="ij"
        )
        km = distance((lat.flatten(), lon.flatten()), (lat.flatten(), lon.flatten()))
        pick = torch.randperm(len(km), generator=inverse.seeded("3d-var"))[:300]
        white = (flat - mean)[:, pick] / spread[pick]
        sample, d = white.T @ white / (len(flat) - 1), km[pick][:, pick]

        def correlation(d: Tensor, L: Tensor) -> Tensor:
            return (1 + d / L) * torch.exp(-d / L)

        lengths = torch.linspace(20, 600, 59)
        L = min(lengths, key=lambda L: float((correlation(d, L) - sample).square().mean()))
        w, V = torch.linalg.eigh(correlation(km, L))
        return spread[:, None] * (V * w.clamp_min(0).sqrt()) @ V.T

    def run(c: Any, members: int) -> Tensor:
        half = root(c)
        H = c.matrix @ half / c.sigma[:, None]
        v = torch.zeros(len(c.y), len(mean), dtype=torch.float64)
        r = ((c.y - c.matrix @ mean) / c.sigma) @ H
        p, rho = r.clone(), r.square().sum(1, keepdim=True)
        for _ in range(iterations):
            q = p + (p @ H.T) @ H
            step = rho / (p * q).sum(1, keepdim=True).clamp_min(1e-300)
            v, r = v + step * p, r - step * q
            rho, before = r.square().sum(1, keepdim=True), rho
            p = r + rho / before.clamp_min(1e-300) * p
        return (mean + v @ half.T).reshape(-1, 1, *c.truth.shape[1:])

    return run
