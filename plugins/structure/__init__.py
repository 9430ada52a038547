"""Networks that predict the coarse greys of a sharp picture from a blurry one, and two methods that use them."""

import inverse
from inverse_plugins.structure.structure_icdpm import StructureICDPM
from inverse_plugins.structure.structure_prior import StructurePrior


@inverse.hookimpl
def inverse_methods():
    return [StructureICDPM, StructurePrior]
