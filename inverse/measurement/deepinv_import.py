"""Import deepinv, also beside a torchvision of another build than torch.

A CUDA build of torchvision beside a CPU build of torch fails on import: it registers fake kernels
for two operators that do not exist. Declaring their schemas is enough; nothing calls them.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []


@functools.cache
def deepinv(submodule: str = "") -> ModuleType:
    """The module deepinv, or deepinv.<submodule>, imported on first use."""
    return import_beside_torchvision(f"deepinv.{submodule}" if submodule else "deepinv")


def import_beside_torchvision(name: str) -> ModuleType:
    """Import a module that imports torchvision, whatever build of torchvision is installed.

    Raises: whatever the import raises for any other reason.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except RuntimeError as error:
            if "torchvision::nms does not exist" not in str(error):
                raise
        _declare_torchvision_schemas()
        return importlib.import_module(name)


def _declare_torchvision_schemas() -> None:
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS.values():
        library.define(schema)
    _declared.append(library)
