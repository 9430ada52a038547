"""Optimal boundary conditions: deterministic solvers that start from one stored tensor."""

import inverse
from inverse_plugins.optimal_bc.optimal_bc import OptimalBC


@inverse.hookimpl
def inverse_methods():
    return [OptimalBC]
