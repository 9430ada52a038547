"""Sum-product circuits over pixels or codes of an autoencoder, and two methods that use them."""

import inverse
from inverse_plugins.circuits.tractable_smc import TractableSMC
from inverse_plugins.circuits.tractable_steering import TractableSteering


@inverse.hookimpl
def inverse_methods():
    return [TractableSMC, TractableSteering]
