"""Computed tomography: projectors, filtered back-projection, scan files and the problem `ct`."""

import inverse
from inverse_problems.ct.problem import CT


@inverse.hookimpl
def inverse_problems():
    return [CT]
