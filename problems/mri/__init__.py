"""Accelerated MRI: Cartesian sampling, one coil or several, sensitivity maps, k-space files."""

import inverse
from inverse_problems.mri.problem import MRI


@inverse.hookimpl
def inverse_problems():
    return [MRI]
