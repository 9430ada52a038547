"""Fingerprints of images: the same picture after scaling and JPEG, other pictures, the command."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inverse.io.fingerprints import fingerprints, matches

pytest_plugins = "cli_fixtures"

PICTURES = sorted((Path(__file__).parents[2] / "data" / "images").glob("*.png"))


def pictures() -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("RGB")) for path in PICTURES]


def altered(array: np.ndarray) -> np.ndarray:
    """Three quarters of the size, then JPEG of quality 60."""
    image = Image.fromarray(array)
    image = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))


def test_a_picture_is_recognised_after_scaling_and_jpeg():
    training = pictures()
    found = matches(fingerprints([altered(p) for p in training]), fingerprints(training))
    assert found == {i: i for i in range(len(training))}


def test_other_and_flat_pictures_are_not():
    training = pictures()
    other = [np.ascontiguousarray(p[:, ::-1]) for p in training]  # mirrored pictures differ
    flat = [np.full((40, 40, 3), 90, np.uint8)]
    assert matches(fingerprints(other), fingerprints(training)) == {}
    assert matches(fingerprints(flat), fingerprints([*training, *flat])) == {}


def test_small_pictures_are_compared_exactly():
    digits = [np.roll(np.eye(28, dtype=np.uint8)[..., None] * 200, i, 0) for i in range(5)]
    assert matches(fingerprints(digits[:2]), fingerprints(digits[1:])) == {1: 0}


@pytest.fixture
def folders(tmp_path):
    """Training images; test images, of which the second is a training image in another size."""
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    small = [np.asarray(Image.fromarray(p).resize((64, 64))) for p in pictures()]
    for i in range(4):
        Image.fromarray(small[i]).save(tmp_path / "train" / f"{i}.png")
    for i, picture in enumerate(
        (
            np.ascontiguousarray(small[0][:, ::-1]),
            pictures()[2],
            np.ascontiguousarray(small[1][:, ::-1]),
        )
    ):
        Image.fromarray(picture).save(tmp_path / "test" / f"{i}.png")
    return tmp_path


TINY = ("--widths", "8,16", "--blocks", "1,1", "--batch", 2, "--steps", 1, "--size", 16)


def test_verify_finds_the_test_image_that_was_trained_on(command, folders, tiny_prior):
    given = ("prior", "verify", tiny_prior, "--images", "test", "--side", 16)
    line = "1 of 3 images are in the training data: number 2"
    found = command(*given, "--training", "train")
    assert found.code == 1
    assert line in found.out
    assert "training data" not in command(*given).out
    assert command("train", "--images", "train", "--out", "own.safetensors", *TINY).code == 0
    own = command("prior", "verify", "own.safetensors", "--images", "test", "--side", 16)
    assert own.code == 1
    assert line in own.out


def test_damaged_fingerprints_are_one_line(command, folders):
    assert command("train", "--images", "train", "--out", "own.safetensors", *TINY).code == 0
    Path("own.fingerprints.npy").write_bytes(b"no array")
    command("prior", "verify", "own.safetensors", "--images", "test").refused("not readable")


def test_the_denoising_table_stands_beside_published_ones(command, folders, tiny_prior):
    given = ("prior", "verify", tiny_prior, "--denoising")
    command(*given).refused("need --images")
    outcome = command(*given, "--images", "test", "--side", 16)
    assert "FFDNet, published on Kodak24" in outcome.out
    assert "35.31" in outcome.out
