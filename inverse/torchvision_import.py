"""Let torchvision be imported beside another build of torch: a CUDA build beside a CPU build.

It fails there because it registers fake kernels for two operators that do not exist. Declaring
their schemas is enough; nothing here calls them. deepinv, diffusers and torchmetrics import it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

MISSING = "operator torchvision::nms does not exist"
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []
"""Libraries of operators, which exist as long as they are referred to."""


class TorchvisionLoader(SourceFileLoader):
    """Runs torchvision again, with the missing operators declared, if it fails for lack of them."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module. Raises: whatever it raises for any other reason."""
        try:
            super().exec_module(module)
        except RuntimeError as error:
            if MISSING not in str(error):
                raise
            _declare_operators()
            super().exec_module(module)


class TorchvisionFinder(MetaPathFinder):
    """Finds torchvision where Python does, and loads it by `TorchvisionLoader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The place of torchvision; None for every other module."""
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = TorchvisionLoader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Load torchvision so in this process; it has no effect where torchvision was imported."""
    if not any(isinstance(finder, TorchvisionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionFinder())


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    _declared.append(library)
