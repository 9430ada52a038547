"""The observation bank: y is drawn once for each problem, truth and seed, kept with its hash, and the same for every method."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from inverse.errors import InputError, OptionError
from inverse.io.files import atomic_write
from inverse.problem import Problem
from inverse.seeding import seeded


@dataclass(frozen=True)
class Observation:
    """One measurement and what it was made of, float64.

    Args:
        y: (1, *out_shape).
        truth: (1, *shape), physical units; for the metrics alone.
        sha256: of y.
    """

    y: Tensor
    truth: Tensor
    sha256: str


class Bank:
    """Observations in a folder, one safetensors file each, drawn where they are missing and verified where they are not.

    Args:
        folder: None to keep nothing.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._truths: dict[str, list[Tensor]] = {}

    def get(
        self, problem: Problem, about: dict[str, Any], truth: int, seed: int | str
    ) -> Observation:
        """The observation of a truth under a seed.

        Args:
            about: name, options, version and crop of the problem: what the file is named after.

        Raises: InputError if the stored y is not the one that was stored, or there is no such truth.
        """
        decides = {name: option for name, option in about.items() if name != "given"}
        key = hashlib.sha256(
            json.dumps([decides, truth, seed], sort_keys=True, default=str).encode()
        ).hexdigest()[:24]
        path = None if self.folder is None else self.folder / f"{key}.safetensors"
        if path is not None and path.is_file():
            return _read(path)
        observation = self._draw(problem, about, truth, seed)
        if path is not None:
            _write(
                path,
                observation,
                {"problem": json.dumps(about, default=str), "truth": str(truth), "seed": str(seed)},
            )
        return observation

    def _draw(
        self, problem: Problem, about: dict[str, Any], truth: int, seed: int | str
    ) -> Observation:
        label = json.dumps(about, sort_keys=True, default=str)
        if label not in self._truths:
            self._truths[label] = list(problem.truths())
        truths, crop = self._truths[label], about.get("crop")
        count = len(truths)
        x = (
            square(truths[truth % count], crop, truth // count)
            if crop and count
            else truths[truth]
            if truth < count
            else None
        )
        if x is None:
            tiles = len(tiles_of(truths[0], crop)) if crop and count else 1
            raise InputError(
                f"{problem.name}: truth {truth} does not exist; there are {count * tiles}, counted from 0"
            )
        x = problem.prepare(x)[None].double()
        y = problem.measure(x, seeded(seed, "measurement", truth))
        return Observation(y, x, digest(y))


def digest(y: Tensor) -> str:
    """sha256 of a measurement's numbers."""
    return hashlib.sha256(y.contiguous().numpy().tobytes()).hexdigest()


def tiles_of(image: Tensor, side: int) -> list[tuple[int, int]]:
    """Corners of the squares of this side that an image (C, H, W) holds side by side, from its centre outwards.

    Raises: OptionError if the image is smaller than one.
    """
    height, width = image.shape[-2:]
    rows, columns = height // side, width // side
    if not rows or not columns:
        raise OptionError(f"crop: a square of {side} pixels does not fit in {height} x {width}")
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    corners = [(top + side * i, left + side * j) for i in range(rows) for j in range(columns)]
    return sorted(
        corners,
        key=lambda c: ((c[0] + side / 2 - height / 2) ** 2 + (c[1] + side / 2 - width / 2) ** 2, c),
    )


def square(image: Tensor, side: int, index: int) -> Tensor | None:
    """The index-th square of an image (C, H, W), from its centre outwards; None where there are not so many."""
    corners = tiles_of(image, side)
    if index >= len(corners):
        return None
    top, left = corners[index]
    return image[..., top : top + side, left : left + side]


def _write(path: Path, observation: Observation, about: dict[str, str]) -> None:
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"y": observation.y.contiguous(), "truth": observation.truth.contiguous()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, {**about, "sha256": observation.sha256}))


def _read(path: Path) -> Observation:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            stored, y, truth = (
                (file.metadata() or {}).get("sha256"),
                file.get_tensor("y"),
                file.get_tensor("truth"),
            )
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"observation {path}: cannot be read ({error}); remove the file to draw it anew"
        ) from error
    if (found := digest(y)) != stored:
        raise InputError(
            f"observation {path}: sha256 is {found[:12]}..., stored was {str(stored)[:12]}...; it was changed: remove the file to draw it anew"
        )
    return Observation(y, truth, found)
