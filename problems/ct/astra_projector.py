"""Projectors of the ASTRA toolbox as sparse matrices: pixels as squares, beams as lines or strips.

Source: van Aarle, Palenstijn, Cant, Janssens, Bleichrodt, Dabravolski, De Beenhouwer, Batenburg,
Sijbers, Fast and flexible X-ray tomography using the ASTRA toolbox, Optics Express 2016.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inverse.errors import OptionError
from inverse_problems.ct.geometry import Geometry


def astra_matrix(geometry: Geometry, kind: str) -> Any:
    """The line integrals (pixels) of a scan, sparse (views detectors, size^2).

    Args:
        kind: line, or strip (the width of a detector pixel) for parallel beams.

    Raises: OptionError if the toolbox is not installed, or has no such projector.
    """
    try:
        import astra
    except ImportError as error:
        raise OptionError(
            f"ct: projector={kind} needs the ASTRA toolbox; `pip install astra-toolbox`, or "
            '`pip install ".[ct]"`'
        ) from error
    if geometry.source is not None and kind != "line":
        raise OptionError(f"ct: projector={kind} is for parallel beams; a fan takes line")
    size = geometry.size
    # ASTRA's x grows along columns and its y against rows, both from the middle of the slice
    axis = (size // 2 - (size - 1) / 2) * np.array([1, -1])
    cos, sin = np.cos(geometry.theta), np.sin(geometry.theta)
    ray, along = np.stack([sin, -cos], 1), geometry.pitch * np.stack([cos, sin], 1)
    middle = axis + ((geometry.detectors - 1) / 2 - geometry.center) * along
    volume = astra.create_vol_geom(size, size)
    if geometry.source is None:
        name, vectors = "parallel_vec", [ray, middle, along]
    else:
        name = "fanflat_vec"
        vectors = [axis - geometry.source * ray, middle + geometry.screen * ray, along]
        kind = "line_fanflat"
    scan = astra.create_proj_geom(name, geometry.detectors, np.concatenate(vectors, 1))
    projector = astra.create_projector(kind, scan, volume)
    number = astra.projector.matrix(projector)
    try:
        matrix = astra.matrix.get(number)
    finally:
        astra.matrix.delete(number)
        astra.projector.delete(projector)
    inside = geometry.inside().ravel().astype(matrix.dtype)
    answer = matrix.multiply(inside[None]).tocsr()
    answer.eliminate_zeros()
    return answer
