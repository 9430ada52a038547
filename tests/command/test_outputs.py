"""Results are written where the user said, over nothing that the user gave."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from cli_fixtures import write_picture

import inverse
from inverse.command.outputs import locked, output_folders
from inverse.command.summary import judgement
from inverse.errors import InputError
from inverse.io.files import atomic_write

pytest_plugins = "cli_fixtures"


@pytest.mark.parametrize(
    "names",
    [
        ("...png", "a.png"),
        ("..png", "a.png"),
        (". .png", "....png"),
        ("a\n.png", "a\t.png"),
        ("x.png", "d/x.png", "d/x-0.png", "d/x-1.png"),
        ("X.png", "x.jpg", "x-0.png"),
        ("é" * 126 + ".png", "é" * 126 + ".jpg"),
    ],
)
def test_output_folders_lie_in_the_output_and_are_distinct(tmp_path, names):
    folders = output_folders([Path(name) for name in names], tmp_path / "out")
    assert len({str(folder).casefold() for folder in folders}) == len(names)
    for folder in folders:
        folder.mkdir(parents=True)
        assert folder.resolve().parent == (tmp_path / "out").resolve()


@pytest.mark.parametrize("name", ["reconstruction.png", "panel.png"])
def test_an_input_is_not_replaced(solve, tmp_path, name):
    (tmp_path / "out").mkdir()
    path = write_picture(tmp_path / "out" / name)
    before = path.read_bytes()
    solve("--problem", "denoise", "--input", f"out/{name}").refused("the results would replace it")
    assert path.read_bytes() == before


def test_a_mask_is_not_replaced(solve, tmp_path):
    (tmp_path / "out").mkdir()
    write_picture(tmp_path / "out" / "panel.png")
    write_picture(tmp_path / "p.png")
    given = ("--problem", "inpainting", "--input", "p.png", "--problem-option")
    for mask in ("mask=out/panel.png", "mask=red:out/panel.png"):
        solve(*given, mask).refused("the results would replace it")


def test_two_runs_do_not_share_a_folder(tmp_path):
    (tmp_path / "x").mkdir()
    same = tmp_path / "x" / ".." / "a"
    with locked([tmp_path / "a"]):
        second = locked([tmp_path / "b", same])
        with pytest.raises(InputError, match="another run of inverse writes to it"):
            second.__enter__()
        with locked([tmp_path / "b"]):
            pass
    with locked([tmp_path / "a"]):
        pass


def _write_often(path: Path) -> None:
    for _ in range(50):
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"whole")


def test_processes_may_write_one_file(tmp_path):
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_write_often, args=(tmp_path / "f",)) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_measurement_is_not_deblurred_with_a_default_kernel(solve, tmp_path):
    write_picture(tmp_path / "y.png")
    given = ("--problem", "deblur", "--method", "tikhonov", "--measurement", "y.png")
    solve(*given).refused("cannot be estimated", "kernel=...")
    assert not (tmp_path / "out").exists()
    assert solve(*given, "--problem-option", "kernel=gaussian", "width=1").code == 0


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--simulate-from", "simulated from your picture"),
        ("--input", "simulated from your picture"),
        ("--restore", "restoring your measurement, no truth known"),
        ("--measurement", "restoring your measurement, no truth known"),
    ],
)
def test_the_first_line_says_what_was_done(solve, tmp_path, option, words):
    write_picture(tmp_path / "y.png")
    outcome = solve("--problem", "denoise", "--method", "tikhonov", option, "y.png")
    assert outcome.out.splitlines()[0].startswith(words)


@pytest.mark.parametrize(
    ("chi_square", "words"),
    [(0.33, "follows the noise"), (4.0, "kernel"), (1.0, ""), (float("nan"), ""), (None, "")],
)
def test_a_chi_square_far_from_one_is_explained(chi_square, words):
    assert words in judgement(chi_square)
    assert bool(judgement(chi_square)) == bool(words)


def test_a_posterior_takes_what_read_image_returns(tmp_path):
    picture = inverse.read_image(write_picture(tmp_path / "p.png"))
    problem = inverse.get_problem("denoise")
    assert problem.posterior(y=picture).y.shape == (1, *picture.pixels.shape)
    assert problem.posterior(picture).truth.shape == (1, *picture.pixels.shape)


def test_noise_is_estimated_from_a_measurement_unless_stated(solve, tmp_path):
    noisy = np.full((32, 32, 3), 128) + np.random.default_rng(0).normal(0, 25.5, (32, 32, 3))
    file = write_picture(tmp_path / "noisy.png", noisy.clip(0, 255).round().astype(np.uint8))
    options = "--problem", "denoise", "--method", "tikhonov", "--json"
    row = json.loads(solve("--restore", file, *options).out)
    assert float(row["problem_options"]["sigma_y"]) == pytest.approx(0.1, rel=0.1)
    assert any("estimated from the measurement" in note for note in row["notes"])
    for given in ("--restore", file, "--problem-option", "sigma_y=0.2"), ("--input", file):
        row = json.loads(solve(*given, *options, "--out", f"out{len(given)}").out)
        assert not any("estimated" in note for note in row["notes"])


def test_notes_from_reading_a_kernel_reach_the_user(solve, tmp_path):
    kernel = np.zeros((3, 3, 3), np.uint8)
    kernel[1, 1] = 255
    file = write_picture(tmp_path / "kernel.png", kernel)
    options = "--problem", "deblur", "--method", "tikhonov", "--problem-option", f"kernel={file}"
    picture = write_picture(tmp_path / "photo.png")
    row = json.loads(solve("--restore", picture, *options, "--json").out)
    assert "kernel: colour converted to grey" in row["notes"]


def painted(folder, share):
    """A grey picture (20, 20) whose first rows are painted red, and a mask file of the others."""
    picture = np.full((20, 20, 3), 100, np.uint8)
    picture[: round(20 * share)] = 230, 30, 20
    mask = np.full((20, 20, 1), 255, np.uint8)
    mask[: round(20 * share)] = 0
    return write_picture(folder / "painted.png", picture), write_picture(folder / "m.png", mask)


def test_damage_that_is_painted_red_is_filled_and_shown(solve, tmp_path):
    file, _ = painted(tmp_path, 0.25)
    options = "--problem", "inpainting", "--method", "tikhonov", "--problem-option", "mask=red"
    row = json.loads(solve("--restore", file, *options, "--json").out)
    assert "30.0% of the pixels will be filled" in row["notes"]
    panel = inverse.read_image("out/panel.png").pixels
    assert ((panel[0] == 1) & (panel[1] == 0) & (panel[2] == 1)).any()
    grey = write_picture(tmp_path / "grey.png", np.full((20, 20, 3), 100, np.uint8))
    solve("--restore", grey, *options).refused("no pixel of", "is red")
    solve(*options).refused("mask=red needs a painted picture")


def test_a_mask_file_of_mostly_holes_is_confirmed(solve, tmp_path):
    file, mask = painted(tmp_path, 0.75)
    options = "--problem", "inpainting", "--method", "tikhonov", "--problem-option", f"mask={mask}"
    solve("--restore", file, *options).refused("75.0%", "invert=true", "--yes")
    assert solve("--restore", file, *options, "--yes").code == 0
    assert solve("--input", file, *options, "--out", "other").code == 0


def test_structure_of_the_residual_is_said(solve, tmp_path):
    rows = np.arange(40)[:, None, None] // 10 % 2 * 200
    file = write_picture(tmp_path / "stripes.png", np.tile(rows, (1, 40, 3)).astype(np.uint8))
    options = "--problem", "deblur", "--method", "tikhonov", "--restore", file
    blur = "--problem-option", "kernel=gaussian", "--problem-option", "width=4"
    assert "the residual still has structure" in solve(*options, *blur).out
