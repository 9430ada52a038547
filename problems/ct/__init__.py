"""Tomography: projectors, filtered back-projection, scan files, the problems `ct` and `pet`."""

import inverse
from inverse_problems.ct.emission import PET
from inverse_problems.ct.problem import CT


@inverse.hookimpl
def inverse_problems():
    return [CT, PET]
