"""Masks transferred by retrieval: planted regions are found, metadata says synthetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cli_fixtures import write_picture
from PIL import Image

import inverse
from inverse.checks.retrieval import regions_like
from inverse.io.picture_notes import read_note, write_note

pytest_plugins = "cli_fixtures"

SIDE, RADIUS = 48, 9


def disc(row: int, column: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return (rows - row) ** 2 + (columns - column) ** 2 <= RADIUS**2


def pictured(row: int, column: int, key: str) -> torch.Tensor:
    """A smooth grey picture with a disc of stripes."""
    ramp = torch.linspace(0.3, 0.6, SIDE)[None, None].expand(3, SIDE, SIDE).clone()
    ramp += 0.02 * torch.randn(ramp.shape, generator=inverse.seeded(key))
    stripes = (torch.arange(SIDE) // 2 % 2).float().expand(3, SIDE, SIDE)
    return torch.where(disc(row, column), stripes, ramp).clamp(0, 1)


PLACES = [(12, 14), (30, 33), (34, 12), (14, 34)]


@pytest.fixture(scope="module")
def prior():
    return inverse.load_prior("photo-64")


def test_a_planted_region_is_found_where_it_is(prior):
    example, region = pictured(24, 24, "example"), disc(24, 24)
    images = [pictured(*place, f"image {i}") for i, place in enumerate(PLACES)]
    matches = {m.index: m for m in regions_like(prior, example, region, images, 4)}
    for i, place in enumerate(PLACES):
        true, found = disc(*place), matches[i].region
        overlap = float((true & found).sum() / (true | found).sum())
        assert overlap > 0.45, (place, overlap)  # an offset of one cell of four pixels gives 0.57
        assert int(found.sum()) == int(region.sum())


def test_images_without_such_a_region_come_last(prior):
    example, region = pictured(24, 24, "example"), disc(24, 24)
    plain = 0.3 + 0.02 * torch.randn(3, SIDE, SIDE, generator=inverse.seeded("plain"))
    images = [plain, pictured(*PLACES[0], "a"), pictured(*PLACES[1], "b")]
    assert [m.index for m in regions_like(prior, example, region, images, 3)][-1] == 0
    assert {m.index for m in regions_like(prior, example, region, images, 2)} == {1, 2}


@pytest.fixture
def folder(tmp_path):
    def save(path, pixels):
        array = (pixels.permute(1, 2, 0) * 255).round().byte().numpy()
        write_picture(path, array)

    (tmp_path / "images").mkdir()
    save(tmp_path / "example.png", pictured(24, 24, "example"))
    white = (disc(24, 24)[..., None].numpy() * 255).astype(np.uint8)
    write_picture(tmp_path / "mask.png", white)
    for i, place in enumerate(PLACES[:2]):
        save(tmp_path / "images" / f"{i}.png", pictured(*place, f"image {i}"))
    return tmp_path


def test_the_masks_serve_inpainting_and_say_that_they_are_synthetic(command, solve, folder):
    outcome = command("mask-like", "example.png", "--mask", "mask.png", "--images", "images")
    assert outcome.code == 0, outcome.err
    mask = folder / "masks" / "0.mask.png"
    assert read_note(mask).startswith("synthetic: ")
    hole = np.asarray(Image.open(mask)) == 0
    assert hole.sum() == int(disc(24, 24).sum())
    filled = solve(
        *("--problem", "inpainting", "--problem-option", f"mask={mask}"),
        *("--restore", "images/0.png", "--problem-option", "sigma_y=0.02", "--out", "filled"),
    )
    assert filled.code == 0, filled.err
    assert read_note(folder / "filled" / "reconstruction.png").startswith("synthetic: ")


def test_a_note_leaves_the_pixels_alone(tmp_path):
    path = write_picture(tmp_path / "a.png")
    before = np.asarray(Image.open(path))
    write_note(path, "synthetic: nothing")
    assert np.array_equal(before, np.asarray(Image.open(path)))
    assert read_note(path) == "synthetic: nothing"
    assert read_note(tmp_path / "none.png") == ""


def test_masks_that_do_not_fit_are_one_line(command, folder):
    given = ("mask-like", "example.png", "--images", "images", "--mask")
    write_picture(folder / "small.png", np.full((10, 12, 1), 255, np.uint8))
    command(*given, "small.png").refused("has 10x12 pixels", "48x48")
    write_picture(folder / "black.png", np.zeros((SIDE, SIDE, 1), np.uint8))
    command(*given, "black.png").refused("mask")
    command(*given, "mask.png", "--prior", "era5-uk-t2m-gaussian").refused("mask-like")
