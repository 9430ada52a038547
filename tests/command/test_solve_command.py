"""The `inverse` command: the files it reads and writes, its tables, its listings, its parsing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from cli_fixtures import pixels, process, write_picture, write_png16

import inverse
from inverse.command.app import repeat_options
from inverse.io.command_line import assignments
from inverse.io.files import strict_json
from inverse.io.images import read_image
from inverse.registry.discovery import registry

pytest_plugins = "cli_fixtures"

FILES = ["panel.png", "reconstruction.png", "result.h5"]


def load(folder: Path) -> inverse.Result:
    return inverse.Result.load(folder / "result.h5")


@pytest.fixture
def picture(tmp_path) -> Path:
    return write_picture(tmp_path / "photo.png")


# --- solve: input -----------------------------------------------------------------------------


def test_shipped_photograph_needs_no_input(solve):
    outcome = solve("--problem", "deblur", "--method", "pseudo-inverse", "--set", "max_iter=3")
    assert outcome.code == 0, outcome.err
    assert outcome.path == Path("out")
    assert sorted(path.name for path in outcome.path.iterdir()) == FILES
    assert "(shipped)" in outcome.out
    result = load(outcome.path)
    assert result.samples.shape == (1, 1, 3, 256, 256)
    assert result.truth.shape == (1, 3, 256, 256)
    assert result.provenance["prior"] == "tiny"


def test_problem_and_method_have_defaults(command, tiny_prior, picture):
    record = json.loads(
        command(
            "solve",
            "--prior",
            tiny_prior,
            "--input",
            picture,
            "--problem-option",
            "width=1",
            "--steps",
            2,
            "--json",
        ).out
    )
    assert (record["problem"], record["method"], record["options"]["steps"], record["nfe"]) == (
        "deblur",
        "dpir",
        2,
        2,
    )


READABLE = {
    "grey8.png": (
        lambda path: write_picture(path, pixels(channels=1)),
        "grey repeated to three channels",
    ),
    "grey16.png": (lambda path: write_png16(path, pixels(channels=1, dtype=np.uint16)), "16-bit"),
    "rgb8.png": (write_picture, None),
    "rgb16.png": (lambda path: write_png16(path, pixels(dtype=np.uint16)), "16-bit"),
    "rgba8.png": (
        lambda path: write_picture(path, pixels(channels=4)),
        "transparency laid on white",
    ),
    "rgba16.png": (
        lambda path: write_png16(path, pixels(channels=4, dtype=np.uint16)),
        "transparency laid on white",
    ),
    "rgb.jpg": (write_picture, None),
    "rgb.webp": (write_picture, None),
    "rgb8.tif": (write_picture, None),
    "rgb16.tiff": (
        lambda path: tifffile.imwrite(path, pixels(dtype=np.uint16), photometric="rgb"),
        "16-bit",
    ),
    "float.npy": (lambda path: np.save(path, pixels().transpose(2, 0, 1) / 255), None),
    "bytes.npy": (lambda path: np.save(path, pixels()), "uint8 divided by 255"),
}


@pytest.mark.parametrize("name", READABLE)
def test_picture_files_are_solved_and_conversions_noted(solve, tmp_path, name):
    write, note = READABLE[name]
    write(tmp_path / name)
    outcome = solve("--input", tmp_path / name)
    assert outcome.code == 0, outcome.err
    notes = [line for line in outcome.out.splitlines() if line.startswith(f"{tmp_path / name}: ")]
    assert (note is None and notes == []) or any(note in line for line in notes), outcome.out
    result = load(outcome.path)
    assert torch.equal(result.truth[0], read_image(tmp_path / name).pixels)
    assert note is None or note in result.provenance["notes"]


def test_palette_picture_and_hdf5_are_solved(solve, tmp_path):
    from PIL import Image

    Image.fromarray(pixels()).convert("P").save(tmp_path / "palette.png")
    with h5py.File(tmp_path / "image.h5", "w") as file:
        file["y"] = pixels().transpose(2, 0, 1) / 255
    assert solve("--input", tmp_path / "palette.png", tmp_path / "image.h5").code == 0
    assert (
        load(Path("out/image")).truth.shape
        == load(Path("out/palette")).truth.shape
        == (1, 3, 20, 26)
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 37), (17, 3), (23, 31), (64, 65)])
def test_any_size_is_denoised(solve, tmp_path, height, width):
    outcome = solve(
        "--method",
        "red-diff",
        "--steps",
        2,
        "--input",
        write_picture(tmp_path / "a.png", pixels(height, width)),
        "--json",
    )
    assert outcome.code == 0, outcome.err
    assert load(Path("out")).samples.shape == (1, 1, 3, height, width)
    assert (json.loads(outcome.out)["ssim"] is None) == (min(height, width) < 11)


def test_size_that_the_operator_cannot_take_is_cropped_and_noted(solve, tmp_path):
    outcome = solve(
        "--problem",
        "super-resolution",
        "--input",
        write_picture(tmp_path / "a.png", pixels(33, 46)),
    )
    assert "cropped from 33x46 to 32x44" in outcome.out
    assert load(outcome.path).y.shape == (1, 3, 8, 11)


def test_one_answer_is_followed_by_what_to_try_next(solve, tmp_path):
    arguments = ("--input", write_picture(tmp_path / "a.png", pixels(8, 8)), "--steps", 1)
    one = solve(*arguments, "--method", "diffpir", "--out", "one")
    assert "\nnext: --samples 8" in one.out
    several = solve(*arguments, "--method", "diffpir", "--samples", 2, "--out", "several")
    assert "next:" not in several.out


def test_several_inputs_get_a_folder_each(solve, tmp_path):
    paths = [
        write_picture(tmp_path / f"{name}.png", pixels(12, 14, seed=i))
        for i, name in enumerate("ab")
    ]
    outcome = solve("--input", *paths, "--out", "results")
    assert outcome.path == Path("results")
    for name in "ab":
        assert sorted(path.name for path in Path("results", name).iterdir()) == FILES


def test_inputs_of_one_name_do_not_overwrite_each_other(solve, tmp_path):
    (tmp_path / "other").mkdir()
    paths = [
        write_picture(path, pixels(12, 14, seed=i))
        for i, path in enumerate(
            (tmp_path / "a.png", tmp_path / "a.bmp", tmp_path / "other" / "a.png")
        )
    ]
    solve("--input", *paths)
    inputs = [load(folder).provenance["input"] for folder in sorted(Path("out").iterdir())]
    assert inputs == [str(path) for path in paths]


def test_inputs_have_independent_noise(solve, tmp_path):
    paths = [
        write_picture(tmp_path / f"{name}.png", np.full((12, 14, 3), 128, np.uint8))
        for name in "ab"
    ]
    solve("--input", *paths)
    assert not torch.equal(load(Path("out/a")).y, load(Path("out/b")).y)


def test_folder_is_solved_by_name(solve, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("b.png", "a.jpg"):
        write_picture(tmp_path / "photos" / name)
    records = [
        json.loads(line)
        for line in solve("--input", tmp_path / "photos", "--json").out.splitlines()
    ]
    assert [Path(record["input"]).name for record in records] == ["a.jpg", "b.png"]


def test_measurement_has_no_truth(solve, picture, tmp_path):
    kernel = tmp_path / "k.npy"
    np.save(kernel, np.ones((3, 5)))
    options = ("--problem-option", f"kernel={kernel}", "sigma_y=0.01", "boundary=replicate")
    outcome = solve("--problem", "deblur", "--measurement", picture, *options, "--json")
    record = json.loads(outcome.out)
    assert record["psnr"] is record["ssim"] is None
    assert record["problem_options"] == {
        "kernel": str(kernel),
        "sigma_y": 0.01,
        "boundary": "replicate",
        "width": 2.0,
        "kernel_size": None,
        "kernel_seed": 0,
        "linear": False,
    }
    result = load(Path("out"))
    assert result.truth is None
    assert torch.equal(result.y[0], read_image(picture).pixels)


def test_measurement_of_another_size_than_its_image(solve, picture):
    solve("--problem", "super-resolution", "--problem-option", "factor=2", "--measurement", picture)
    assert load(Path("out")).samples.shape == (1, 1, 3, 40, 52)


def test_result_is_read_as_a_measurement(solve, picture):
    """Another method can solve the measurement that a result stores."""
    first = solve("--input", picture)
    assert (
        solve(
            "--method", "tikhonov", "--measurement", first.path / "result.h5", "--out", "again"
        ).code
        == 0
    )
    assert torch.equal(load(Path("again")).y, load(Path("out")).y)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("float32", torch.float32), ("float64", torch.float64), ("bf16", torch.float32)],
)
def test_dtype_of_the_state(solve, picture, dtype, stored):
    outcome = solve("--method", "red-diff", "--steps", 2, "--dtype", dtype, "--input", picture)
    assert outcome.code == 0, outcome.err
    assert load(Path("out")).samples.dtype == stored


# --- solve: output ----------------------------------------------------------------------------


def test_table_has_the_scores_and_the_last_line_is_the_path(solve, picture):
    outcome = solve("--method", "red-diff", "--steps", 3, "--input", picture, "--out", "deep/er")
    for header in (
        "PSNR (dB)",
        "SSIM",
        "residual chi2",
        "prior evaluations",
        "seconds",
        "red-diff",
        "denoise",
    ):
        assert header in outcome.out
    assert outcome.out.splitlines()[-1] == "deep/er"
    assert re.search(r" 3 +0 +\d+\.\d", outcome.out)


def test_json_is_one_valid_line_for_each_result(solve, picture):
    outcome = solve(
        "--method",
        "red-diff",
        "--set",
        "steps=3",
        "lr=0.2",
        "--input",
        picture,
        "--seed",
        5,
        "--json",
    )
    (line,) = outcome.out.splitlines()
    record = json.loads(line, parse_constant=pytest.fail)
    assert (
        record["input"],
        record["problem"],
        record["method"],
        record["prior"],
        record["seed"],
    ) == (str(picture), "denoise", "red-diff", "tiny", 5)
    assert (record["samples"], record["interrupted"], record["out"], record["notes"]) == (
        1,
        False,
        "out",
        [],
    )
    assert record["options"].items() >= {"steps": 3, "lr": 0.2, "order": "descending"}.items()
    assert record["options"]["lambda"] > 0
    assert (record["nfe"], record["vjp"]) == (3, 0)
    for score in ("psnr", "ssim", "rmse", "misfit", "seconds", "A", "A_adjoint"):
        assert isinstance(record[score], float), score
    assert record["psnr"] == pytest.approx(-20 * np.log10(record["rmse"]), abs=1)


def test_json_has_neither_infinity_nor_not_a_number():
    row = {
        "a": float("inf"),
        "b": [float("nan"), 1.5],
        "c": Path("p"),
        "d": {"e": -float("inf")},
        "f": None,
    }
    assert json.loads(strict_json(row), parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, 1.5],
        "c": "p",
        "d": {"e": None},
        "f": None,
    }


@pytest.mark.parametrize(
    ("samples", "truth", "tiles"), [(1, True, 5), (3, True, 6), (1, False, 3), (3, False, 4)]
)
def test_panel_has_one_tile_for_each_picture(solve, tmp_path, samples, truth, tiles):
    path = write_picture(tmp_path / "a.png", pixels(24, 60))
    outcome = solve(
        "--method",
        "dps",
        "--steps",
        2,
        "--samples",
        samples,
        "--input" if truth else "--measurement",
        path,
    )
    assert outcome.code == 0, outcome.err
    assert read_image("out/panel.png").pixels.shape == (3, 24 + 16, tiles * (60 + 4))
    result = load(Path("out"))
    assert result.samples.shape[1] == samples
    assert bool(result.std.any()) == (samples > 1)


def test_reconstruction_is_the_posterior_mean(solve, picture):
    solve("--method", "dps", "--steps", 2, "--samples", 2, "--input", picture)
    mean = load(Path("out")).mean[0].clamp(0, 1)
    torch.testing.assert_close(
        read_image("out/reconstruction.png").pixels, mean, rtol=0, atol=0.51 / 255
    )


def test_same_seed_gives_the_same_bytes_and_another_does_not(solve, picture):
    for out, seed in (("one", 0), ("two", 0), ("three", 1)):
        assert (
            solve(
                "--method",
                "dps",
                "--steps",
                3,
                "--samples",
                2,
                "--input",
                picture,
                "--seed",
                seed,
                "--out",
                out,
            ).code
            == 0
        )
    one, two, three = (load(Path(out)) for out in ("one", "two", "three"))
    assert one.samples.numpy().tobytes() == two.samples.numpy().tobytes()
    assert one.y.numpy().tobytes() == two.y.numpy().tobytes()
    assert not torch.equal(one.samples, three.samples)
    assert not torch.equal(one.y, three.y)


def test_solving_again_replaces_the_files_and_leaves_others(solve, picture):
    solve("--input", picture)
    Path("out/notes.txt").write_text("mine")
    solve("--input", picture, "--seed", 1)
    assert sorted(path.name for path in Path("out").iterdir()) == ["notes.txt", *FILES]
    assert load(Path("out")).provenance["seed"] == 1


# --- listings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("methods", ["diffpir", "dps", "pseudo-inverse", "red-diff", "tikhonov", "tv"]),
        ("problems", ["deblur", "denoise", "inpainting", "super-resolution"]),
        ("samplers", ["ancestral", "ddim", "heun"]),
        ("priors", []),
        ("plugins", ["inverse_plugins.red_diff", "inverse_problems.deblur"]),
    ],
)
def test_listing_has_a_line_for_each(command, listing, expected):
    outcome = command(listing)
    assert outcome.code == 0
    assert outcome.err == ""
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line.strip()}
    assert set(expected) <= set(rows)
    assert all(len(rows[name].split()) > 3 for name in expected)


def test_methods_are_listed_by_use(command):
    """Those to start with first; every method is in one of the other groups."""
    listing = command("methods").out
    headings = ["start here", "point estimates", "samples", "particles", "baselines"]
    at = [listing.index(f" {heading}  ") for heading in headings]
    assert at == sorted(at)
    assert listing.index(" auto ") < at[1]
    names = [line.split()[0] for line in listing[at[1] :].splitlines() if line.strip()]
    registered = set(registry().table("inverse_methods"))
    assert sorted(registered) == sorted(name for name in names if name in registered)


def test_listings_as_json(command):
    methods = json.loads(command("methods", "--json").out)
    assert {m["name"] for m in methods} == set(registry().table("inverse_methods"))
    assert {m["group"] for m in methods} == {"point estimates", "samples", "particles", "baselines"}
    one = json.loads(command("methods", "tv", "--json").out)
    assert one["options"][0] | {"help": ""} == {
        "name": "steps",
        "type": "an integer from 1 to 1e+07",
        "default": "300",
        "help": "",
    }
    assert {"deblur", "mri"} <= {p["name"] for p in json.loads(command("problems", "--json").out)}


def test_method_is_explained(command):
    text = command("methods", "red-diff").out
    assert text.startswith("red-diff\n")
    for part in (
        "https://arxiv.org/abs/2305.04391",
        "equation: ",
        "claim: point estimate",
        "needs: Gaussian noise",
        "mismatch of the predicted noise",
    ):
        assert part in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "an integer" in rows["steps"]
    assert "100" in rows["steps"]
    assert "a number from 0 to 1e+09 or auto" in rows["lambda"]
    assert "linear | sqrt | square" in rows["weight"]


def test_problem_is_explained(command):
    text = command("problems", "deblur").out
    for part in (
        "kernel_size",
        "an integer from 3 to 4097 or auto",
        "reflect | replicate | circular",
        "sigma_y",
        "units of y",
    ):
        assert part in text


def test_plugins_show_distribution_and_file(command):
    text = command("plugins").out
    assert re.search(
        r"inverse_plugins\.red_diff +inverse-posterior \d+\.\d+\.\d+ +\S+red_diff\.py +ok", text
    )


def test_no_arguments_show_the_help(command):
    outcome = command()
    assert "Usage" in outcome.out + outcome.err
    assert "solve" in outcome.out + outcome.err


@pytest.mark.parametrize(
    "name", ["solve", "methods", "problems", "priors", "samplers", "plugins", "train"]
)
def test_every_command_has_help(command, name):
    outcome = command(name, "--help")
    assert outcome.code == 0
    assert "Usage: inverse" in outcome.out


# --- parsing ----------------------------------------------------------------------------------


def test_a_repeatable_option_is_repeated_for_each_value():
    given = "solve --set a=1 b=2 --seed 3 --input x.png y.png z.png --json --problem-option=c=4"
    expected = (
        "solve --set a=1 --set b=2 --seed 3 --input x.png --input y.png --input z.png "
        "--json --problem-option=c=4"
    )
    assert repeat_options(given.split()) == expected.split()


def test_assignment_keeps_later_equal_signs_and_the_last_value():
    assert assignments(["a=x=y", "b=", "b=2"], "--set") == {"a": "x=y", "b": "2"}


# --- real processes ---------------------------------------------------------------------------


def test_output_is_quiet_when_it_is_not_a_terminal(tmp_path, picture, tiny_prior):
    arguments = (
        "--prior",
        tiny_prior,
        "--method",
        "red-diff",
        "--steps",
        2,
        "--problem-option",
        "width=1",
        "--input",
        picture,
        "--out",
        tmp_path / "out",
    )
    outcome = process("solve", *arguments)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert "\x1b" not in outcome.out
    assert outcome.path == tmp_path / "out"


HEAVY = ("torch", "deepinv", "kornia", "skimage", "xarray", "numpy", "h5py")


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--version"], HEAVY),
        (["--help"], HEAVY),
        (["solve", "--help"], HEAVY),
        (["methods"], ("deepinv", "kornia", "skimage", "xarray", "matplotlib")),
    ],
)
def test_commands_import_only_what_they_need(arguments, forbidden):
    report = (
        f"import sys, inverse.command.app as c; sys.argv = ['inverse', *{arguments!r}]\n"
        "try: c.main()\nexcept SystemExit: pass\nprint(sorted(sys.modules))"
    )
    process = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, timeout=120, check=True
    )
    assert process.stderr == ""
    loaded = process.stdout.splitlines()[-1]
    assert [name for name in forbidden if f"'{name}'" in loaded] == []


def test_version_is_that_of_the_distribution(command):
    from importlib.metadata import version

    assert command("--version").out == f"inverse {version('inverse-posterior')}\n"
