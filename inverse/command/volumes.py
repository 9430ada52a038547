"""A volume as an input of `inverse solve`: taken apart into slices, and put together again."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from inverse.command.request import Request
from inverse.errors import InputError
from inverse.io.files import atomic_write
from inverse.io.volumes import Volume, format_of
from inverse.priors.prior import Prior
from inverse.problem import Problem
from inverse.registry.discovery import get_problem, registry
from inverse.result import Result

SIGNAL = 0.1
"""Intensity that a slice must reach for its noise to be estimated."""


def volume_of(paths: list[Path]) -> Path | None:
    """The one path that is a volume; None if there is none.

    Raises: InputError for a volume beside other inputs.
    """
    volumes = [path for path in paths if format_of(path) is not None]
    if volumes and len(paths) > 1:
        raise InputError(f"{volumes[0]}: is a volume; solve one volume at a time")
    return volumes[0] if volumes else None


def check_pictures(request: Request, volume: Volume) -> None:
    """Check that the problem takes pictures, as slices are.

    Raises: InputError otherwise.
    """
    cls = registry().find("inverse_problems", request.problem)
    role = getattr(cls, "measured_role", None)
    if role is None or (request.measured and role != "picture"):
        raise InputError(
            f"{volume.path}: holds pictures, slice by slice, and {request.problem} takes other "
            "numbers; give a file of its own kind"
        )


def slice_folders(count: int, out: Path) -> list[Path]:
    """Where the results of each of `count` slices are written."""
    return [out / "slices" / f"{index + 1:04d}" for index in range(count)]


def prior_channels(prior: Prior, volume: Volume) -> int:
    """Channels of the prior; said if grey slices are repeated for it."""
    count = prior.shape[0] or 1
    if count > 1:
        print(
            f"inverse: {volume.path}: grey repeated to {count} channels; a prior of grey images "
            "suits it better",
            file=sys.stderr,
        )
    return count


def unpacked(volume: Volume, folders: list[Path], channels: int) -> list[Path | None]:
    """Write each slice, intensities from 0 to 1, into its folder; the files.

    Raises: InputError if they cannot be written.
    """
    files: list[Path | None] = []
    for folder, values in zip(folders, volume.intensities(), strict=True):
        picture = np.repeat(values[None].astype(np.float32), channels, axis=0)
        file = folder / "slice.npy"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary, temporary.open("wb") as target:
                np.save(target, picture)
        except OSError as error:
            raise InputError(f"{file}: cannot be written ({error.strerror or error})") from error
        files.append(file)
    return files


def with_one_noise(request: Request, volume: Volume) -> Request:
    """The request with the median of the noise of the slices as sigma_y, if none is stated.

    Slices without signal do not count. All slices then share batches, and empty ones have noise.
    """
    if not request.measured or "sigma_y" in request.problem_options:
        return request
    problem = get_problem(request.problem, **request.problem_options)
    levels = [
        problem.estimated_sigma_y(torch.from_numpy(values)[None].float())
        for values in volume.intensities()
        if values.max() > SIGNAL
    ]
    known = [level for level in levels if level]
    if not known:
        return request
    sigma_y = f"{float(np.median(known)):.2g}"
    print(
        f"inverse: {volume.path}: sigma_y = {sigma_y} of intensities, the median of "
        f"{len(known)} slices; intensity 0 is {volume.low:g} and 1 is {volume.high:.4g}",
        file=sys.stderr,
    )
    stated = [*request.problem_option, f"sigma_y={sigma_y}"]
    return replace(request, problem_option=stated)


def joined(problem: Problem, file: Path, folders: list[Path], out: Path) -> Path:
    """Write the results of the slices of a measured file as the problem joins them; the path.

    Raises: InputError if a slice has no result, or the file cannot be written.
    """
    results = (Result.load(folder / "result.h5") for folder in folders)
    try:
        return problem.put_together(file, results, out)
    except OSError as error:
        raise InputError(f"output folder {out}: {error.strerror or error}") from error


def put_together(volume: Volume, folders: list[Path], request: Request) -> Path:
    """Write the means of the slices as a volume, and their spread if there is one; the first path.

    Colours are averaged.

    Raises: InputError if a slice has no result, or the files cannot be written.
    """
    means, spreads = [], []
    for folder in folders:
        result = Result.load(folder / "result.h5")
        means.append(result.mean[0].mean(0).numpy())
        spreads.append(result.std[0].mean(0).numpy())
    description = f"inverse {request.problem} {request.method}"
    written = request.out / f"reconstruction{volume.suffix}"
    try:
        volume.write(written, volume.values(np.stack(means)), description)
        if request.samples > 1:
            scale = volume.high - volume.low
            spread = request.out / f"spread{volume.suffix}"
            volume.write(spread, scale * np.stack(spreads), f"{description}, deviation")
    except OSError as error:
        raise InputError(f"{written}: cannot be written ({error.strerror or error})") from error
    return written
