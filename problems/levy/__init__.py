"""Walks with independent increments (sampled Levy processes).

The prior is an exact denoiser; a Gibbs sampler draws from the posterior of any linear operator.

x_t = u_1 + ... + u_t,    u_t i.i.d. and symmetric,    u | w ~ N(0, w) or u = 0
"""

import inverse
from inverse_problems.levy.problem import Levy


@inverse.hookimpl
def inverse_problems():
    return [Levy]
