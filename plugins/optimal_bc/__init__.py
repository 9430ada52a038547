"""Optimal boundary conditions: a start of a deterministic solver that serves a reference set best."""

import inverse
from inverse_plugins.optimal_bc.method import OptimalBC


@inverse.hookimpl
def inverse_methods():
    return [OptimalBC]
