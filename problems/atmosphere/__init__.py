"""Weather fields: grids, observation operators, readers of observations, NetCDF files and maps."""

import inverse
from inverse_problems.atmosphere.laws import load_trajectory, load_zonal
from inverse_problems.atmosphere.problem import Atmosphere


@inverse.hookimpl
def inverse_laws():
    return {"zonal": load_zonal, "trajectory": load_trajectory}


@inverse.hookimpl
def inverse_problems():
    return [Atmosphere]
