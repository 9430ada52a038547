"""Files that belong to all inputs are read once, and inputs with like noise share a batch."""

from __future__ import annotations

import os

import numpy as np
import pytest
from cli_fixtures import pixels, write_picture

import inverse
from inverse.io import images
from inverse.result import Result


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are opened as pictures, in order."""
    opened, read_raster = [], images.read_raster
    monkeypatch.setattr(
        images,
        "read_raster",
        lambda path, head: (opened.append(path.name), read_raster(path, head))[1],
    )
    images._mask.cache_clear()
    images._kernel.cache_clear()
    return opened


def test_a_mask_and_a_kernel_are_read_once(solve, tmp_path, reads):
    (tmp_path / "in").mkdir()
    for i in range(3):
        write_picture(tmp_path / "in" / f"{i}.png", pixels(24, 24, seed=i))
    holes = np.full((24, 24, 3), 255, np.uint8)
    holes[3:6, 3:6] = 0
    mask = write_picture(tmp_path / "mask.png", holes)
    option = "--problem-option"
    given = ["--restore", "in", "--method", "tikhonov"]
    assert solve("--problem", "inpainting", option, f"mask={mask}", *given).code == 0
    assert reads.count("mask.png") == 1
    kernel = write_picture(tmp_path / "kernel.png", np.full((3, 3, 1), 200, np.uint8))
    given += ["--out", "other"]
    assert solve("--problem", "deblur", option, f"kernel={kernel}", *given).code == 0
    assert reads.count("kernel.png") == 1


def test_a_changed_mask_is_read_again(tmp_path):
    array = np.full((8, 8, 3), 255, np.uint8)
    array[0] = 0
    mask = write_picture(tmp_path / "mask.png", array)
    first = inverse.read_mask(mask)[0]
    first[:] = True  # a caller's own copy
    assert not inverse.read_mask(mask)[0].all()
    array[:4] = 0
    write_picture(mask, array)
    os.utime(mask, ns=(1, 1))
    assert int((~inverse.read_mask(mask)[0]).sum()) == 32


def test_a_folder_with_estimated_noise_is_solved_in_batches(solve, tmp_path):
    """Equal noise: one batch. The answers are those of each picture alone."""
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).normal(0, 12, (32, 32, 3))
    for i in range(3):
        clean = 90 + 20 * i + np.zeros((32, 32, 3))
        picture = (clean + noise).round().clip(0, 255).astype(np.uint8)
        write_picture(tmp_path / "in" / f"{i}.png", picture)
    given = ["--problem", "denoise", "--method", "dps", "--steps", "2"]
    assert solve("--restore", "in", *given).code == 0
    results = [Result.load(tmp_path / "out" / str(i) / "result.h5") for i in range(3)]
    assert [r.provenance["batch"]["images"] for r in results] == [3, 3, 3]
    options = [r.provenance["problem"]["options"]["sigma_y"] for r in results]
    assert options[0] == options[1] == options[2] == pytest.approx(12 / 255, rel=0.1)
