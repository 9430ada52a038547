"""Fluorescence microscopy: deconvolution of pictures and stacks of photon counts."""

import inverse
from inverse_problems.microscopy.problem import Microscopy


@inverse.hookimpl
def inverse_problems():
    return [Microscopy]
