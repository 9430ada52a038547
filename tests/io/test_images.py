"""Reading and writing of images, notes on conversions, panels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from cli_fixtures import pixels, write_picture, write_png16
from PIL import Image

from inverse.errors import InputError
from inverse.execution import Cost
from inverse.io.images import grid, input_files, read_image, write_png
from inverse.panel import detail, heat, panel
from inverse.result import Result

LUMA = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)


def as_tensor(array: np.ndarray, largest: int = 255) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32) / largest).permute(2, 0, 1)


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "bmp"])
def test_eight_bit_colour_is_read_exactly(tmp_path, suffix):
    picture = read_image(write_picture(tmp_path / f"a.{suffix}"))
    assert picture.notes == ()
    torch.testing.assert_close(picture.pixels, as_tensor(pixels()), rtol=0, atol=1e-7)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
def test_compressed_tiff_is_read(tmp_path, compression):
    smooth = np.full((16, 16, 3), 90, np.uint8)
    picture = read_image(write_picture(tmp_path / "a.tif", smooth, compression=compression))
    torch.testing.assert_close(picture.pixels, as_tensor(smooth), rtol=0, atol=2 / 255)


@pytest.mark.parametrize(
    ("suffix", "settings"),
    [("jpg", {"quality": 95}), ("jpeg", {}), ("webp", {"lossless": True}), ("webp", {})],
)
def test_compressed_pictures_are_read_approximately(tmp_path, suffix, settings):
    smooth = np.broadcast_to(
        np.linspace(0, 255, 32).astype(np.uint8)[:, None, None], (32, 32, 3)
    ).copy()
    picture = read_image(write_picture(tmp_path / f"a.{suffix}", smooth, **settings))
    assert picture.notes == ()
    assert (picture.pixels - as_tensor(smooth)).abs().mean() < 3 / 255


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_palette_pictures_become_their_colours(tmp_path, suffix):
    palette = Image.fromarray(pixels()).convert("P")
    palette.save(tmp_path / f"a.{suffix}")
    expected = as_tensor(np.asarray(palette.convert("RGB")))
    torch.testing.assert_close(
        read_image(tmp_path / f"a.{suffix}").pixels, expected, rtol=0, atol=1e-7
    )


def test_one_bit_picture_is_black_and_white(tmp_path):
    Image.fromarray(pixels(channels=1)[..., 0] > 100).save(tmp_path / "a.png")
    assert set(read_image(tmp_path / "a.png").pixels.unique().tolist()) == {0.0, 1.0}


def test_cmyk_jpeg_is_read_as_colour(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    mean = read_image(tmp_path / "a.jpg").pixels.mean((1, 2))
    assert mean[0] > 0.9
    assert mean[1:].max() < 0.1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_kept(tmp_path, suffix, channels):
    array = pixels(channels=channels, dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        write_png16(path, array)
    else:
        tifffile.imwrite(
            path,
            array.squeeze(),
            photometric="rgb" if channels == 3 else "minisblack",
            compression="zlib",
        )
    picture = read_image(path, channels)
    assert picture.notes == ("16-bit",)
    torch.testing.assert_close(picture.pixels, as_tensor(array, 65535), rtol=0, atol=1e-7)


def test_floating_point_tiff_is_read_with_a_note(tmp_path):
    array = np.random.default_rng(0).random((20, 26, 3), dtype=np.float32)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    picture = read_image(tmp_path / "a.tif")
    assert picture.notes == ("floating point, used as intensities",)
    torch.testing.assert_close(
        picture.pixels, torch.from_numpy(array).permute(2, 0, 1), rtol=0, atol=0
    )


@pytest.mark.parametrize("sixteen", [False, True])
def test_alpha_is_laid_on_white_with_a_note(tmp_path, sixteen):
    array = pixels(channels=4, dtype=np.uint16 if sixteen else np.uint8)
    path = (
        write_png16(tmp_path / "a.png", array)
        if sixteen
        else write_picture(tmp_path / "a.png", array)
    )
    rgba = as_tensor(array, 65535 if sixteen else 255)
    picture = read_image(path)
    assert "transparency laid on white" in picture.notes
    torch.testing.assert_close(
        picture.pixels, rgba[:3] * rgba[3:] + 1 - rgba[3:], rtol=0, atol=1e-6
    )


def test_sixteen_bit_grey_with_alpha_keeps_its_depth(tmp_path):
    array = pixels(channels=2, dtype=np.uint16)
    picture = read_image(write_png16(tmp_path / "a.png", array), channels=1)
    grey, alpha = as_tensor(array, 65535).split(1)
    assert picture.notes == ("16-bit", "transparency laid on white")
    torch.testing.assert_close(picture.pixels, grey * alpha + 1 - alpha, rtol=0, atol=1e-6)


def test_grey_is_repeated_with_a_note(tmp_path):
    picture = read_image(write_picture(tmp_path / "a.png", pixels(channels=1)))
    assert picture.notes == ("grey repeated to three channels",)
    assert torch.equal(picture.pixels[0], picture.pixels[2])


def test_colour_becomes_luma_with_a_note(tmp_path):
    picture = read_image(write_picture(tmp_path / "a.png"), channels=1)
    assert picture.notes == ("colour converted to grey",)
    torch.testing.assert_close(
        picture.pixels, (LUMA * as_tensor(pixels())).sum(0, keepdim=True), rtol=0, atol=1e-6
    )


def test_exif_orientation_is_applied_with_a_note(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write_picture(tmp_path / "a.png", exif=exif)
    picture = read_image(path)
    assert picture.notes == ("turned upright as its EXIF orientation says",)
    torch.testing.assert_close(
        picture.pixels, as_tensor(np.rot90(pixels(), -1).copy()), rtol=0, atol=1e-7
    )


def test_the_first_of_several_pages_is_read_with_a_note(tmp_path):
    frames = [Image.fromarray(pixels(seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    picture = read_image(tmp_path / "a.tif")
    assert picture.notes == ("first of 3 pages",)
    torch.testing.assert_close(picture.pixels, as_tensor(pixels()), rtol=0, atol=1e-7)


@pytest.mark.parametrize("layout", ["channels first", "channels last", "batch of one"])
def test_array_layouts_are_recognised(tmp_path, layout):
    array = np.random.default_rng(0).random((3, 8, 9), dtype=np.float32)
    stored = {
        "channels first": array,
        "channels last": array.transpose(1, 2, 0),
        "batch of one": array[None],
    }[layout]
    np.save(tmp_path / "a.npy", stored)
    assert torch.equal(read_image(tmp_path / "a.npy").pixels, torch.from_numpy(array))


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_integer_arrays_are_scaled_with_a_note(tmp_path, dtype, largest):
    np.save(tmp_path / "a.npy", pixels(dtype=dtype))
    picture = read_image(tmp_path / "a.npy")
    assert picture.notes == (f"{np.dtype(dtype)} divided by {largest}",)
    torch.testing.assert_close(
        picture.pixels, as_tensor(pixels(dtype=dtype), largest), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("name", ["y", "anything"])
def test_hdf5_measurement_is_found(tmp_path, name):
    array = np.random.default_rng(0).random((3, 8, 9), dtype=np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[name] = array
        if name == "y":
            file["other"] = np.zeros(3)
    assert torch.equal(read_image(tmp_path / "a.h5").pixels, torch.from_numpy(array))


def test_hdf5_with_several_datasets_and_no_y_lists_them(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["one"], file["two"] = np.zeros(3), np.zeros(3)
    with pytest.raises(
        InputError, match="expected a dataset 'y' or a single dataset, found one, two"
    ):
        read_image(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 9), complex), "expected real numbers, found complex128"),
        (np.array(["a", "b"]), "expected real numbers"),
        (np.zeros(5), r"or \(channels, height, width\), found shape \(5,\)"),
        (np.zeros((2, 3, 8, 9)), r"found shape \(2, 3, 8, 9\)"),
        (np.zeros((3, 0, 9)), r"found shape \(3, 0, 9\)"),
        (np.zeros((5, 8, 9)), "has 5 channels, the prior has 3"),
    ],
)
def test_errors_name_the_shape_or_dtype_of_an_array(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / "a.npy")


@pytest.mark.parametrize("keep", [4, 30, 200, 0.5])
@pytest.mark.parametrize(
    "name", ["a.png", "a16.png", "a.jpg", "a.webp", "a.tif", "a16.tif", "a.npy", "a.h5"]
)
def test_truncated_files_give_a_one_line_error(tmp_path, capfd, name, keep):
    data = write_file(tmp_path / f"whole-{name}").read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(InputError, match=f"^{path}: not a readable .*$"):
        read_image(path)
    assert capfd.readouterr().err == ""


def write_file(path: Path) -> Path:
    """Write a complete file of the format and depth in its name."""
    if path.suffix == ".npy":
        np.save(path, pixels())
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["y"] = pixels()
    elif path.stem.endswith("16"):
        array = pixels(dtype=np.uint16)
        if path.suffix == ".png":
            write_png16(path, array)
        else:
            tifffile.imwrite(path, array, photometric="rgb")
    else:
        write_picture(path)
    return path


@pytest.mark.filterwarnings("ignore:.*skipped notes.txt")
def test_folder_lists_pictures_by_name(tmp_path):
    for name in ("b.png", "a.JPG", "c.npy", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in input_files([tmp_path, tmp_path / "b.png"])] == [
        "a.JPG",
        "b.png",
        "c.npy",
        "b.png",
    ]


@pytest.mark.parametrize("shape", [(3, 7, 11), (1, 7, 11), (7, 11)])
def test_png_survives_a_round_trip(tmp_path, shape):
    values = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)) / 255
    write_png(tmp_path / "a.png", values)
    values = values if values.ndim == 3 else values[None]
    read = read_image(tmp_path / "a.png", channels=len(values)).pixels
    torch.testing.assert_close(read, values, rtol=0, atol=1e-6)


def test_png_clips_to_the_unit_interval(tmp_path):
    write_png(tmp_path / "a.png", torch.tensor([[-1.0, 0.5, 3.0]]))
    assert read_image(tmp_path / "a.png", channels=1).pixels.flatten().tolist() == pytest.approx(
        [0, 128 / 255, 1]
    )


def test_a_failed_write_keeps_the_old_picture(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", torch.zeros(4, 4))
    before = (tmp_path / "a.png").read_bytes()

    def fail(self, path: Path, format: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_png(tmp_path / "a.png", torch.ones(4, 4))
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def result(
    samples: int,
    truth: bool,
    shape: tuple[int, int, int] = (3, 20, 26),
    y_shape: tuple[int, int, int] = (3, 20, 26),
) -> Result:
    x = torch.rand(1, samples, *shape, generator=torch.Generator().manual_seed(0))
    known = torch.full((1, *shape), 0.5) if truth else None
    return Result(
        samples=x,
        y=torch.rand(1, *y_shape),
        misfit=torch.ones(1, samples),
        cost=Cost(),
        seconds=0.0,
        truth=known,
    )


@pytest.mark.parametrize(
    ("samples", "truth", "tiles"), [(1, False, 2), (1, True, 4), (3, False, 3), (3, True, 5)]
)
def test_panel_shows_deviation_with_samples_and_error_with_truth(samples, truth, tiles):
    """20 x 26 pixels are enlarged four times."""
    assert panel(result(samples, truth)).shape == (3, 4 * 20 + 16, tiles * (4 * 26 + 4))


@pytest.mark.parametrize("y_shape", [(3, 5, 6), (1, 18, 24), (3, 20, 26), (3, 40, 60)])
def test_panel_takes_measurements_of_any_size(y_shape):
    sheet = panel(result(1, True, y_shape=y_shape))
    assert sheet.shape == (3, 4 * 20 + 16, 4 * (4 * 26 + 4))
    assert 0 <= sheet.min() <= sheet.max() <= 1


def test_a_large_panel_magnifies_the_part_with_the_strongest_gradients():
    """The square of a quarter of the side is shown four times as large, and framed above."""
    x = torch.zeros(1, 1, 3, 120, 160)
    x[..., 60:90, 80:110] = (torch.arange(30) % 2).float()
    flat = replace(result(1, True, (3, 120, 160), (3, 120, 160)), samples=x)
    top, left, side = detail(x[0, 0])
    assert side == 30
    assert max(abs(top - 60), abs(left - 80)) <= 1
    sheet = panel(flat, residual=torch.rand(1, 3, 120, 160))
    assert sheet.shape == (3, 2 * (120 + 16), 5 * (160 + 4))
    second = sheet[:, 120 + 32 :, 164:]
    shown = second[:, :120, 20:140]
    assert torch.equal(shown[:, ::4, ::4], x[0, 0, :, top : top + side, left : left + side])


def test_heat_is_monotone_in_brightness():
    colours = heat(torch.linspace(0, 1, 64)[None])
    assert (((LUMA * colours).sum(0)).diff() > 0).all()


def test_grid_places_images_row_by_row():
    images = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 1, 2, 2) / 4
    sheet = grid(images, columns=2, gap=1)
    assert sheet.shape == (1, 5, 5)
    assert [sheet[0, 0, 0], sheet[0, 0, 3], sheet[0, 3, 0], sheet[0, 3, 3]] == [0, 0.25, 0.5, 1]
