"""Networks that predict coarse grey structure of a blurry picture, and methods that use them."""

import inverse
from inverse_plugins.structure.structure_icdpm import StructureICDPM
from inverse_plugins.structure.structure_prior import StructurePrior


@inverse.hookimpl
def inverse_methods():
    return [StructureICDPM, StructurePrior]
