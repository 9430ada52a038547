"""Thumbnails of artifacts as data URIs: measurement, truth, mean and uncertainty of each method."""

from __future__ import annotations

import base64
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inverse.arena.record import Record
from inverse.errors import InputError
from inverse.result import Result

SIDE = 160
"""Longest side of a thumbnail (pixels)."""
CAP = 8 * 2**20
"""Largest size of all thumbnails together, as text of the page (bytes)."""
VIRIDIS = (
    (68, 1, 84),
    (72, 40, 120),
    (62, 74, 137),
    (49, 104, 142),
    (38, 130, 142),
    (31, 158, 137),
    (53, 183, 121),
    (109, 205, 89),
    (180, 222, 44),
    (253, 231, 37),
)


@dataclass
class Scene:
    """An observation and the answers of the methods, as pictures.

    Args:
        records: records of the answers, in the order of `means` and `stds`; a std is None for a
            single sample.
        window: (low, high) values shown as black and white.
        std_high: value of the brightest uncertainty; 0 is the darkest.
        channels: number of channels of the data; if it is neither 1 nor 3, the pictures show the
            first channel in false colours.
    """

    y: str | None
    truth: str | None
    window: tuple[float, float]
    std_high: float
    channels: int
    records: list[Record] = field(default_factory=list)
    means: list[str] = field(default_factory=list)
    stds: list[str | None] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Length of all data URIs (bytes)."""
        return sum(len(uri) for uri in [self.y, self.truth, *self.means, *self.stds] if uri)


@dataclass
class Gallery:
    """The scenes that fit, the number of observations that did not, and unusable artifacts.

    Args:
        unusable: reason by cell.
    """

    scenes: list[Scene] = field(default_factory=list)
    beyond: int = 0
    unusable: dict[str, str] = field(default_factory=dict)


def gallery(folder: Path, records: Iterable[Record], cap: int = CAP) -> Gallery:
    """Thumbnails of the artifacts of records, up to `cap` bytes of text.

    The first truth of every problem comes before the second.
    """
    observed: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.status == "ok" and record.artifact:
            observed[str(record.problem), record.observation, record.truth, record.seed].append(
                record
            )
    turn: dict[str, int] = defaultdict(int)
    queue: list[tuple[int, int, list[Record]]] = []
    for key, rows in observed.items():
        queue.append((turn[key[0]], len(queue), rows))
        turn[key[0]] += 1
    pictures, total = Gallery(), 0
    for _, _, rows in sorted(queue, key=lambda item: item[:2]):
        if total >= cap:
            pictures.beyond += 1
            continue
        scene = _scene(folder, rows, pictures.unusable)
        if scene is None:
            continue
        if total + scene.size > cap:
            pictures.beyond += 1
            total = cap  # later scenes are of about the same size
            continue
        total += scene.size
        pictures.scenes.append(scene)
    return pictures


def _scene(folder: Path, records: list[Record], unusable: dict[str, str]) -> Scene | None:
    loaded = []
    for record in records:
        try:
            loaded.append((record, _load(folder, record)))
        except InputError as error:
            unusable[record.cell] = str(error)
    loaded = [
        (record, result) for record, result in loaded if _is_image(tuple(result.samples.shape[2:]))
    ]
    if not loaded:
        return None
    first = loaded[0][1]
    guide = (first.mean if first.truth is None else first.truth)[0].numpy()
    window = _window(guide)
    stds = [result.std[0].numpy() if result.samples.shape[1] > 1 else None for _, result in loaded]
    high = max(
        (float(np.quantile(_one_channel(std), 0.995)) for std in stds if std is not None),
        default=0.0,
    )
    y = first.y[0].numpy()
    return Scene(
        y=_uri(_as_rgb(y, _window(y))) if _is_image(y.shape) else None,
        truth=None if first.truth is None else _uri(_as_rgb(guide, window)),
        window=window,
        std_high=high,
        channels=len(guide),
        records=[record for record, _ in loaded],
        means=[_uri(_as_rgb(result.mean[0].numpy(), window)) for _, result in loaded],
        stds=[
            None if std is None else _uri(_false_colours(_one_channel(std) / (high or 1)))
            for std in stds
        ],
    )


def _load(folder: Path, record: Record) -> Result:
    path = artifact_path(folder, record)
    sha256 = record.artifact_sha256
    if sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise InputError(f"{record.artifact}: its hash is not the one in the record")
    return Result.load(path)


def artifact_path(folder: Path, record: Record) -> Path:
    """The path of the artifact of a record.

    Raises: InputError if it is missing, or lies outside the folder.
    """
    path = folder / (record.artifact or "")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{record.artifact}: lies outside the folder of the records")
    if not path.is_file():
        raise InputError(f"{record.artifact}: no such file")
    return path


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and min(shape[1:]) > 1


def _window(image: np.ndarray) -> tuple[float, float]:
    """(0, 1) for intensities, noise included; otherwise the range of the image."""
    low, high = float(image.min()), float(image.max())
    if low >= -0.5 and 0.05 < high <= 1.5:
        return 0.0, 1.0
    return low, high if high > low else low + 1


def _as_rgb(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """(channels, height, width) -> (height, width, 3) bytes.

    In colour, in grey, or in false colours of the first channel.
    """
    scaled = (np.nan_to_num(image) - window[0]) / (window[1] - window[0])
    if len(scaled) not in (1, 3):
        return _false_colours(scaled[0])
    pixels = (scaled.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    return np.broadcast_to(pixels, (*scaled.shape[1:], 3))


def _one_channel(image: np.ndarray) -> np.ndarray:
    """Root mean square over the colours of an image; the first channel of other fields."""
    return np.sqrt((image**2).mean(0)) if len(image) in (1, 3) else image[0]


def _false_colours(values: np.ndarray) -> np.ndarray:
    """[0, 1] -> viridis, (height, width, 3) bytes."""
    positions = np.linspace(0, 1, len(VIRIDIS))
    channels = [np.interp(values, positions, colour) for colour in zip(*VIRIDIS, strict=True)]
    return np.stack(channels, -1).round().astype(np.uint8)


def _uri(pixels: np.ndarray) -> str:
    """A data URI of a thumbnail in WebP; small pictures are lossless."""
    from PIL import Image

    picture, data = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    quality = {"lossless": True} if max(picture.size) <= 64 else {"quality": 92}
    picture.save(data, "WEBP", **quality)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
