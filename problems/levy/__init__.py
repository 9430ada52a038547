"""Walks with independent increments (sampled Levy processes): an exact denoiser, and a Gibbs sampler of any linear posterior.

x_t = u_1 + ... + u_t,    u_t i.i.d. and symmetric,    u | w ~ N(0, w) or u = 0
"""

import inverse
from inverse_problems.levy.problem import Levy


@inverse.hookimpl
def inverse_problems():
    return [Levy]
