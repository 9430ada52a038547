"""Deblurring, with a known kernel or one that is estimated from the blurred picture."""

import inverse
from inverse_problems.deblur.problem import Deblur


@inverse.hookimpl
def inverse_problems():
    return [Deblur]
