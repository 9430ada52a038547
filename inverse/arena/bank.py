"""The observation bank: one measurement for each problem, truth and seed, shared by all methods.

Measurements are stored with their hash.
"""

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
    """A measurement and its truth, float64.

    Args:
        y: (1, *out_shape).
        truth: (1, *shape), physical units; only the metrics see it.
        sha256: hash of y.
    """

    y: Tensor
    truth: Tensor
    sha256: str


class Bank:
    """Observations in a folder, one safetensors file each.

    A missing observation is drawn and stored; a stored one is verified.

    Args:
        folder: where observations are stored; None to store nothing.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._truths: dict[str, list[Tensor]] = {}

    def get(
        self, problem: Problem, description: dict[str, Any], truth: int, seed: int | str
    ) -> Observation:
        """The observation of a truth under a seed.

        Args:
            description: name, options, version and crop of the problem, which name the file.

        Raises: InputError if the stored y or truth has been changed, or the truth does not exist.
        """
        inputs = {name: option for name, option in description.items() if name != "given"}
        text = json.dumps([inputs, truth, seed], sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:24]
        path = None if self.folder is None else self.folder / f"{key}.safetensors"
        if path is not None and path.is_file() and (stored := _read(path)) is not None:
            return stored
        observation = self._draw(problem, description, truth, seed)
        if path is not None:
            metadata = {"problem": json.dumps(description, default=str)}
            _write(path, observation, metadata | {"truth": str(truth), "seed": str(seed)})
        return observation

    def _draw(
        self, problem: Problem, description: dict[str, Any], truth: int, seed: int | str
    ) -> Observation:
        label = json.dumps(description, sort_keys=True, default=str)
        if label not in self._truths:
            self._truths[label] = list(problem.truths())
        truths, crop = self._truths[label], description.get("crop")
        count = len(truths)
        x = truths[truth] if truth < count else None
        if crop and count:
            x = square(truths[truth % count], crop, truth // count)
        if x is None:
            tiles = len(tiles_of(truths[0], crop)) if crop and count else 1
            raise InputError(
                f"{problem.name}: truth {truth} does not exist; "
                f"there are {count * tiles}, counted from 0"
            )
        x = problem.prepare(x)[None].double()
        y = problem.measure(x, seeded(seed, "measurement", truth))
        return Observation(y, x, digest(y))


def digest(y: Tensor) -> str:
    """sha256 of the values of a measurement."""
    return hashlib.sha256(y.contiguous().numpy().tobytes()).hexdigest()


def tiles_of(image: Tensor, side: int) -> list[tuple[int, int]]:
    """Upper left corners of the disjoint squares of an image (C, H, W), from its centre outwards.

    Args:
        side: of each square (pixels).

    Raises: OptionError if the image is smaller than a square.
    """
    height, width = image.shape[-2:]
    rows, columns = height // side, width // side
    if not rows or not columns:
        raise OptionError(f"crop: a square of {side} pixels does not fit in {height} x {width}")
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    corners = [(top + side * i, left + side * j) for i in range(rows) for j in range(columns)]

    def distance_to_centre(corner: tuple[int, int]) -> float:
        row, column = corner
        return (row + side / 2 - height / 2) ** 2 + (column + side / 2 - width / 2) ** 2

    return sorted(corners, key=lambda corner: (distance_to_centre(corner), corner))


def square(image: Tensor, side: int, index: int) -> Tensor | None:
    """Square number `index` of an image (C, H, W), see `tiles_of`; None if there are fewer."""
    corners = tiles_of(image, side)
    if index >= len(corners):
        return None
    top, left = corners[index]
    return image[..., top : top + side, left : left + side]


def _write(path: Path, observation: Observation, metadata: dict[str, str]) -> None:
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"y": observation.y.contiguous(), "truth": observation.truth.contiguous()}
    with atomic_write(path) as temporary:
        hashes = {"sha256": observation.sha256, "truth_sha256": digest(observation.truth)}
        temporary.write_bytes(save(tensors, {**metadata, **hashes}))


def _read(path: Path) -> Observation | None:
    """A stored observation; None for a file of an older version, which seals y alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            y, truth = file.get_tensor("y"), file.get_tensor("truth")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"observation {path}: cannot be read ({error}); remove the file to draw it again"
        ) from error
    for name, value, key in (("y", y, "sha256"), ("truth", truth, "truth_sha256")):
        found, expected = digest(value), metadata.get(key)
        if key == "truth_sha256" and expected is None:
            return None
        if found != expected:
            raise InputError(
                f"observation {path}: sha256 of {name} is {found[:12]}..., "
                f"expected {str(expected)[:12]}...; "
                "the file was changed: remove it to draw the observation again"
            )
    return Observation(y, truth, metadata["sha256"])
