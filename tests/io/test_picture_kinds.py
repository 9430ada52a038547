"""Every layout of picture and array file means the same picture, mask or kernel."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest
import tifffile
import torch
from cli_fixtures import pixels
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_array

from inverse.errors import InputError
from inverse.io import sizes
from inverse.io.image_sets import load_images
from inverse.io.images import read_array, read_complex, read_image, read_mask

COLOUR = pixels(dtype=np.uint16)
EXPECTED = torch.from_numpy(COLOUR.astype(np.float32) / 65535).permute(2, 0, 1)


def close(found, expected, atol=1e-4):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# --- TIFF ---------------------------------------------------------------------------------------

STORED_TURNED = {
    2: COLOUR[:, ::-1],
    3: COLOUR[::-1, ::-1],
    4: COLOUR[::-1],
    5: COLOUR.swapaxes(0, 1),
    6: np.rot90(COLOUR, 1),
    7: COLOUR[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(COLOUR, -1),
}


@pytest.mark.parametrize("orientation", STORED_TURNED)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_is_turned_upright_at_every_depth(tmp_path, orientation, dtype):
    stored = (STORED_TURNED[orientation] >> (8 if dtype == np.uint8 else 0)).astype(dtype)
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.ascontiguousarray(stored),
        photometric="rgb",
        extratags=[(274, 3, 1, orientation, True)],
    )
    picture = read_image(tmp_path / "a.tif")
    assert "turned upright as its EXIF orientation says" in picture.notes
    close(picture.pixels, EXPECTED, 0.005)


@pytest.mark.parametrize("compression", ["lzw", "zstd", "zlib", "packbits", "lzma"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_compressions_planes_and_byte_orders(tmp_path, compression, planar, order):
    data = COLOUR if planar == "contig" else np.moveaxis(COLOUR, -1, 0)
    tifffile.imwrite(
        tmp_path / "a.tif",
        data,
        byteorder=order,
        photometric="rgb",
        planarconfig=planar,
        compression=compression,
        predictor=compression in ("lzw", "zlib", "zstd"),
    )
    assert read_image(tmp_path / "a.tif").notes == ("16-bit",)
    close(read_image(tmp_path / "a.tif").pixels, EXPECTED)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_big_and_tiled_tiff(tmp_path, bigtiff, tile):
    tifffile.imwrite(tmp_path / "a.tif", COLOUR, photometric="rgb", bigtiff=bigtiff, tile=tile)
    close(read_image(tmp_path / "a.tif").pixels, EXPECTED)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_white_may_be_the_least_value(tmp_path, dtype):
    largest = np.iinfo(dtype).max if dtype != np.float32 else 1
    grey = np.linspace(0, largest, 20 * 30).reshape(20, 30).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="miniswhite")
    picture = read_image(tmp_path / "a.tif", channels=1)
    close(picture.pixels[0], torch.from_numpy(1 - grey.astype(np.float64) / largest).float())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cmyk_tiff_becomes_colour(tmp_path, dtype):
    largest = np.iinfo(dtype).max
    ink = np.zeros((20, 24, 4), dtype)
    ink[..., 1:3] = largest  # magenta and yellow: red
    tifffile.imwrite(tmp_path / "a.tif", ink, photometric="separated")
    picture = read_image(tmp_path / "a.tif")
    assert "CMYK as RGB" in picture.notes
    close(picture.pixels.mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha", "unspecified"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_extra_samples_mean_what_the_tag_says(tmp_path, kind, dtype):
    largest = np.iinfo(dtype).max
    stored = np.full((20, 24, 4), largest, dtype)
    stored[..., 0] = 0
    stored[..., 3] = largest // 2
    if kind == "assocalpha":
        stored[..., 1:3] = largest // 2  # premultiplied
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=[kind])
    found = read_image(tmp_path / "a.tif").pixels.mean((1, 2))
    opaque = kind == "unspecified"
    close(found, torch.tensor([0.0 if opaque else 0.5, 1.0, 1.0]), 0.01)
    assert ("extra channels ignored" in read_image(tmp_path / "a.tif").notes) == opaque


def test_the_first_page_of_a_stack_is_read_with_a_note(tmp_path):
    stack = np.stack([COLOUR[..., 0]] * 4)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    picture = read_image(tmp_path / "a.tif", channels=1)
    assert "first of 4 pages" in picture.notes
    close(picture.pixels[0], EXPECTED[0])


def test_twelve_bits_in_sixteen_are_noted(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", COLOUR >> 4, photometric="rgb")
    assert any("12-bit" in note for note in read_image(tmp_path / "a.tif").notes)


def test_signed_pixels_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 24), np.int16) - 5)
    with pytest.raises(InputError, match="int16; expected unsigned"):
        read_image(tmp_path / "a.tif")


# --- PNG ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_is_white_paper(tmp_path, mode):
    image = Image.new(mode, (12, 10), 0)
    image.putpixel((3, 4), 200 if mode != "RGB" else (200, 200, 200))
    image.save(tmp_path / "a.png", transparency=0 if mode != "RGB" else (0, 0, 0))
    picture = read_image(tmp_path / "a.png")
    assert "transparency laid on white" in picture.notes
    assert float(picture.pixels[:, 0, 0].min()) == 1


def test_another_colour_profile_is_noted(tmp_path):
    from PIL import ImageCms

    for space, noted in (("sRGB", False), ("LAB", True)):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
        Image.fromarray(pixels()).save(tmp_path / "a.png", icc_profile=profile)
        notes = read_image(tmp_path / "a.png").notes
        assert any("colour profile" in note for note in notes) == noted


# --- further formats ----------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "depth"), [("jp2", 8), ("jp2", 16), ("pgm", 8), ("pgm", 16)])
def test_grey_pictures_of_further_formats_keep_their_depth(tmp_path, suffix, depth):
    grey = COLOUR[..., 0] >> (16 - depth)
    image = Image.fromarray(grey.astype(np.uint8 if depth == 8 else np.uint16))
    image.save(tmp_path / f"a.{suffix}", **({"irreversible": False} if suffix == "jp2" else {}))
    close(read_image(tmp_path / f"a.{suffix}", 1).pixels, EXPECTED[:1], 2**-depth)


def test_a_plain_pnm_and_an_animation_are_pictures(tmp_path):
    (tmp_path / "a.pgm").write_text("P2\n# from a scanner\n2 1\n15\n3 15\n")
    close(read_image(tmp_path / "a.pgm", 1).pixels, torch.tensor([[[0.2, 1.0]]]), 1 / 255)
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = read_image(tmp_path / "a.gif")
    assert picture.pixels[:, 0, 0].tolist() == [1, 0, 0]
    assert "first of 2 pages" in picture.notes


@pytest.mark.parametrize("marked", ["dng", "preview"])
def test_the_preview_of_a_raw_photograph_is_not_taken_for_it(tmp_path, marked):
    small, large = np.zeros((8, 9, 3), np.uint8), np.zeros((64, 72), np.uint16)
    tags = [(50706, 1, 4, (1, 4, 0, 0), True)] if marked == "dng" else []
    with tifffile.TiffWriter(tmp_path / "a.nef") as file:
        file.write(small, subfiletype=1, subifds=1, photometric="rgb", extratags=tags)
        file.write(large, photometric="minisblack")
    with pytest.raises(InputError, match=r"is a camera's raw file, .* develop it to a TIFF or PNG"):
        read_image(tmp_path / "a.nef")


# --- arrays ---------------------------------------------------------------------------------------

INTENSITIES = EXPECTED.numpy()


@pytest.mark.parametrize(
    "stored",
    [
        INTENSITIES[0],
        INTENSITIES[:1],
        INTENSITIES[0][..., None],
        INTENSITIES[:1][None, None],
        np.asfortranarray(INTENSITIES[0].astype(">f8")),
    ],
)
def test_a_grey_array_is_read_as_a_grey_picture(tmp_path, stored):
    np.save(tmp_path / "a.npy", stored)
    close(read_image(tmp_path / "a.npy", 1).pixels, EXPECTED[:1])
    colour = read_image(tmp_path / "a.npy", 3)
    close(colour.pixels, EXPECTED[:1].expand(3, -1, -1))
    assert colour.notes == ("grey repeated to three channels",)
    with pytest.raises(InputError, match="has 1 channels, the prior has 3"):
        read_image(tmp_path / "a.npy", 3, role="numbers")


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0)])
def test_the_channels_of_an_array_come_first_or_last(tmp_path, axes):
    np.save(tmp_path / "a.npy", INTENSITIES.transpose(axes))
    close(read_image(tmp_path / "a.npy", 3).pixels, EXPECTED)
    assert read_image(tmp_path / "a.npy", 1).pixels.shape == EXPECTED[:1].shape


def test_channels_that_are_no_colours_are_refused(tmp_path):
    for shape in [(2, 8, 9), (8, 9, 4)]:
        np.save(tmp_path / "a.npy", np.zeros(shape))
        with pytest.raises(InputError, match=rf"shape {re.escape(str(shape))} has [24] channels"):
            read_image(tmp_path / "a.npy")


# --- MATLAB ---------------------------------------------------------------------------------------


def write_matlab73(path, array, kind="double"):
    """An array as MATLAB stores it: HDF5 after a header, columns first, beside a text."""
    with h5py.File(path, "w", userblock_size=512) as file:
        dataset = file.create_dataset("picture", data=array.T)
        dataset.attrs["MATLAB_class"] = np.bytes_(kind)
        text = file.create_dataset("name", data=np.array([[65], [66]], np.uint16))
        text.attrs["MATLAB_class"] = np.bytes_("char")
        file.create_group("#refs#")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")


@pytest.mark.parametrize("version", ["5", "5 compressed", "7.3"])
def test_matlab_arrays_are_read_as_matlab_shows_them(tmp_path, version):
    stored = INTENSITIES.transpose(1, 2, 0).astype(np.float64)
    if version == "7.3":
        write_matlab73(tmp_path / "a.mat", stored)
    else:
        content = {"picture": stored, "name": "AB", "settings": {"gain": 2.0}}
        savemat(tmp_path / "a.mat", content, do_compression=version != "5")
    close(read_image(tmp_path / "a.mat").pixels, EXPECTED)


def test_a_logical_array_of_matlab_is_a_mask(tmp_path):
    mask = np.arange(20).reshape(4, 5) % 3 > 0
    savemat(tmp_path / "old.mat", {"mask": mask})
    write_matlab73(tmp_path / "new.mat", mask.astype(np.uint8), "logical")
    for name in ("old", "new"):
        assert torch.equal(read_mask(tmp_path / f"{name}.mat")[0], torch.from_numpy(mask))


def test_matlab_files_without_one_array_are_refused(tmp_path):
    kernel = np.ones((3, 3))
    for content, found in [
        ({"a": kernel, "b": kernel}, "found a, b"),
        ({"s": {"a": kernel}, "sparse": csc_array(kernel)}, "found none"),
    ]:
        savemat(tmp_path / "a.mat", content)
        with pytest.raises(InputError, match=f"expected a dataset 'y' or a single .*, {found}"):
            read_image(tmp_path / "a.mat")
    (tmp_path / "a.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"expected a dataset|not a readable array"):
        read_image(tmp_path / "a.mat")


def test_the_size_of_a_matlab_array_is_checked_before_it_is_read(tmp_path, monkeypatch):
    savemat(tmp_path / "a.mat", {"a": np.zeros((400, 500))}, do_compression=True)
    monkeypatch.setattr(sizes, "free_memory", lambda device: 10**6)
    with pytest.raises(InputError, match="400x500 values need"):
        read_image(tmp_path / "a.mat")


# --- folders of training images -------------------------------------------------------------------


def test_training_images_are_read_as_inputs_are(tmp_path):
    """At full depth and upright; Pillow alone would clip 16 bits of grey to white."""
    turned = Image.Exif()
    turned[0x0112] = 6
    grey = COLOUR[..., 0]
    Image.fromarray(grey).save(tmp_path / "deep.png")
    Image.fromarray((np.rot90(COLOUR, 1) >> 8).astype(np.uint8)).save(
        tmp_path / "turned.png", exif=turned
    )
    (tmp_path / "._deep.png").write_bytes(b"resource fork")
    deep, upright = load_images(tmp_path, 8, 3)
    assert np.abs(deep / 255 - grey[..., None] / 65535).max() < 1 / 255
    assert np.abs(upright / 255 - COLOUR / 65535).max() < 1 / 255


# --- content, not names -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["download", "a.dat", "a.npy", "a.PNG"])
def test_a_picture_is_known_by_its_content(tmp_path, name):
    Image.fromarray(pixels()).save(tmp_path / name, format="PNG")
    close(read_image(tmp_path / name).pixels[0], torch.from_numpy(pixels()[..., 0] / 255).float())


@pytest.mark.parametrize("name", ["download", "a.png", "a.h5"])
def test_an_array_is_known_by_its_content(tmp_path, name):
    array = np.random.default_rng(0).random((3, 8, 9), dtype=np.float32)
    with (tmp_path / name).open("wb") as file:
        np.save(file, array)
    assert torch.equal(read_image(tmp_path / name).pixels, torch.from_numpy(array))


@pytest.mark.parametrize("names", [("y", "other"), ("only",)])
def test_npz_holds_y_or_a_single_array(tmp_path, names):
    arrays = {name: np.full((3, 8, 9), 0.5) for name in names}
    np.savez(tmp_path / "a.npz", **arrays)
    assert float(read_image(tmp_path / "a.npz").pixels.mean()) == 0.5


# --- ranges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npy", "npz", "h5", "tif"])
@pytest.mark.parametrize(
    ("low", "high", "dtype", "advice"),
    [
        (0, 255, np.float32, "divide them by 255"),
        (0, 250, np.float64, "divide them by 255"),
        (0, 65000, np.float32, "divide them by 65535"),
        (0, 100, np.float32, "divide them by 100"),
        (0, 4000, np.float32, "divide them by 4095"),
        (-1, 1, np.float32, "add 1 and halve"),
        (-3000, 7000, np.float32, "black is 0 and white is 1"),
    ],
)
def test_numbers_that_are_no_intensities_are_refused(tmp_path, suffix, low, high, dtype, advice):
    array = np.linspace(low, high, 3 * 20 * 24).reshape(20, 24, 3).astype(dtype)
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, array.astype(np.float32), photometric="rgb")
    elif suffix == "h5":
        with h5py.File(path, "w") as file:
            file["y"] = array
    else:
        (np.save if suffix == "npy" else lambda p, a: np.savez(p, y=a))(path, array)
    with pytest.raises(InputError, match=advice):
        read_image(path)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32])
def test_whole_numbers_of_other_types_are_refused_too(tmp_path, dtype):
    np.save(tmp_path / "a.npy", pixels().astype(dtype))
    with pytest.raises(InputError, match="divide them by 255"):
        read_image(tmp_path / "a.npy")


def test_noise_may_leave_the_range_by_a_margin(tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(-0.4, 1.4, 600).reshape(1, 20, 30))
    assert read_image(tmp_path / "a.npy", 1, margin=0.5).pixels.min() < -0.3
    with pytest.raises(InputError, match="intensities from 0 to 1"):
        read_image(tmp_path / "a.npy", 1)


# --- masks and kernels --------------------------------------------------------------------------

MASK = np.ones((20, 24), bool)
MASK[5:9, 6:11] = False


def _alpha_mask(tmp_path):
    rgba = np.dstack([pixels()[:20, :24], np.where(MASK, 255, 0).astype(np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("high", [1, 7, 255])
@pytest.mark.parametrize("suffix", ["png", "npy", "tif", "npz"])
def test_a_mask_has_two_values(tmp_path, suffix, high):
    stored = (MASK * high).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    if suffix in ("npy", "npz"):
        (np.save if suffix == "npy" else lambda p, a: np.savez(p, m=a))(path, stored)
    else:
        Image.fromarray(stored).save(path)
    assert torch.equal(read_mask(path)[0], torch.from_numpy(MASK))


@pytest.mark.parametrize("stored", [MASK, MASK.astype(float), MASK[None], MASK[..., None] * 1])
def test_a_mask_array_of_any_type_and_layout(tmp_path, stored):
    np.save(tmp_path / "a.npy", stored)
    assert torch.equal(read_mask(tmp_path / "a.npy")[0], torch.from_numpy(MASK))


def test_erased_pixels_are_holes(tmp_path):
    found, notes = read_mask(_alpha_mask(tmp_path))
    assert torch.equal(found, torch.from_numpy(MASK))
    assert notes == ("transparent pixels are holes",)


def test_objects_are_never_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", y=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="Python objects"):
        read_image(tmp_path / "a.npz")


def test_a_photograph_is_no_mask(tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"different values, the commonest .* and .*expected two"):
        read_mask(tmp_path / "a.png")


def test_smoothed_edges_are_read_with_a_note(tmp_path):
    Image.fromarray((MASK * 255).astype(np.uint8)).save(tmp_path / "a.jpg", quality=90)
    found, notes = read_mask(tmp_path / "a.jpg")
    assert (found.numpy() != MASK).mean() < 0.02
    assert len(notes) == 1


def test_transparency_of_a_kernel_is_zero(tmp_path):
    rgba = np.full((5, 5, 4), 255, np.uint8)
    rgba[..., 3] = 0
    rgba[2, 1:4, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "k.png")
    kernel = read_image(tmp_path / "k.png", 1, role="kernel").pixels
    assert float(kernel.sum()) == 3


# --- HDF5 and complex numbers -------------------------------------------------------------------


def _complex():
    generator = np.random.default_rng(0)
    return (generator.normal(size=(6, 7)) + 1j * generator.normal(size=(6, 7))).astype(np.complex64)


@pytest.mark.parametrize("names", [("r", "i"), ("real", "imag"), ("Re", "Im")])
def test_compounds_of_two_parts_are_complex(tmp_path, names):
    z = _complex()
    parts = np.zeros(z.shape, [(names[0], "f4"), (names[1], "f4")])
    parts[names[0]], parts[names[1]] = z.real, z.imag
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = parts
    found = read_complex(tmp_path / "a.h5")
    assert found is not None
    close(found, torch.from_numpy(z))


def test_kspace_is_found_beside_header_and_target(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file["ismrmrd_header"] = _complex(), b"<xml/>"
        file["reconstruction_esc"] = np.zeros((6, 7))
    assert read_complex(tmp_path / "a.h5").shape == (6, 7)


def test_real_numbers_are_not_complex(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 6, 7)))
    assert read_complex(tmp_path / "a.npy") is None


def test_numbers_in_another_file_are_refused(tmp_path):
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["y"] = np.zeros((3, 8, 9))
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["y"] = h5py.ExternalLink("b.h5", "y")
    (tmp_path / "raw").write_bytes(bytes(800))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("y", (200,), "f4", external=[(str(tmp_path / "raw"), 0, 800)])
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((3, 8, 9), "f8")
        layout[:] = h5py.VirtualSource("b.h5", "y", (3, 8, 9))
        file.create_virtual_dataset("y", layout)
    for name in ("link", "raw", "virtual"):
        with pytest.raises(InputError, match="another file"):
            read_array(tmp_path / f"{name}.h5")


@pytest.mark.parametrize("shape", [None, (3, 400, 400)])
def test_declared_but_empty_datasets_are_refused(tmp_path, shape):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if shape is None:
            file["y"] = h5py.Empty("f4")
        else:
            file.create_dataset("y", shape, "f4", chunks=(1, 100, 100))
    with pytest.raises(InputError, match=r"found y|holds nothing|GiB are free"):
        read_array(tmp_path / "a.h5")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.h5", "deep.png"])
def test_sizes_are_checked_before_pixels_are_read(tmp_path, monkeypatch, name):
    path = tmp_path / name
    array = pixels(dtype=np.uint16)
    if name == "a.npy":
        np.save(path, array)
    elif name == "a.h5":
        with h5py.File(path, "w") as file:
            file["y"] = array
    elif name == "deep.png":
        import imagecodecs

        path.write_bytes(imagecodecs.png_encode(array))
    elif name == "a.tif":
        tifffile.imwrite(path, array, photometric="rgb")
    else:
        Image.fromarray(pixels()).save(path)
    monkeypatch.setattr(sizes, "free_memory", lambda device: 1000)
    with pytest.raises(InputError, match="GiB are free"):
        read_image(path)
