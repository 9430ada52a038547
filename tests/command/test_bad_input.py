"""Bad input: one clear line on standard error, exit code 2, no traceback, no partial files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from cli_fixtures import (
    METHOD,
    Outcome,
    method_source,
    pixels,
    process,
    write_distribution,
    write_picture,
)

import inverse
from inverse.errors import InverseError
from inverse.io.images import ARRAYS
from inverse.io.pictures import KINDS, PICTURES
from inverse.posterior import Posterior

pytest_plugins = "cli_fixtures"


@pytest.fixture
def picture(tmp_path) -> Path:
    return write_picture(tmp_path / "photo.png")


@pytest.fixture
def refuse(solve, tmp_path):
    """Check that `inverse solve` is refused with these words and writes nothing."""

    def run(*arguments: object, says: tuple[str, ...] | str) -> str:
        before = sorted(tmp_path.rglob("*"))
        line = solve(*arguments).refused(*([says] if isinstance(says, str) else says))
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return run


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--input", "--measurement"])
def test_missing_file(refuse, option):
    refuse(option, "lost.png", says="lost.png: no such file")


def test_one_missing_file_among_several(refuse, picture):
    refuse("--input", picture, "lost.png", says="lost.png: no such file")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_not_an_image(refuse, tmp_path, suffix):
    path = tmp_path / f"text.{suffix}"
    path.write_text("hello")
    refuse(
        "--input",
        path,
        says=(str(path), "not a readable image", f"expected {KINDS}"),
    )


@pytest.mark.parametrize("name", ["notes.txt", "photo", "photo.psd"])
def test_unknown_suffix_lists_the_known_ones(refuse, tmp_path, name):
    (tmp_path / name).write_text("hello")
    refuse(
        "--input", tmp_path / name, says=("expected one of .bmp, .gif, .h5", ".png", ".webp, got")
    )


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.h5"])
def test_zero_bytes(refuse, tmp_path, name):
    (tmp_path / name).touch()
    refuse("--measurement", tmp_path / name, says=(name, "is empty (0 bytes)"))


def test_truncated_png(refuse, picture):
    picture.write_bytes(picture.read_bytes()[:700])
    refuse("--input", picture, says=(str(picture), "not a readable image", "truncated"))


@pytest.mark.parametrize("text", ["hello", "\x93NUMPY"])
def test_file_that_is_not_an_array(refuse, tmp_path, text):
    (tmp_path / "a.npy").write_text(text)
    refuse("--measurement", tmp_path / "a.npy", says=("a.npy", "not a readable array"))


def test_file_that_is_not_hdf5(refuse, tmp_path):
    (tmp_path / "a.h5").write_text("hello")
    refuse("--measurement", tmp_path / "a.h5", says=("a.h5", "not a readable array"))


def test_pickled_array_is_not_loaded(refuse, tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
    refuse("--measurement", tmp_path / "a.npy", says=("a.npy", "Python objects"))


@pytest.mark.filterwarnings("default")
def test_other_files_of_a_folder_are_named_once(solve, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("photo.png", "b.png"):
        write_picture(tmp_path / "photos" / name)
    for name in ("notes.txt", "clip.mov", ".hidden"):
        (tmp_path / "photos" / name).write_text("hello")
    outcome = solve("--input", "photos")
    assert outcome.code == 0
    known = ", ".join(sorted(PICTURES | ARRAYS))
    assert outcome.err.splitlines() == [
        f"inverse: warning: photos: skipped clip.mov, notes.txt; read are {known}"
    ]


def test_a_pipe_is_refused_and_not_waited_for(refuse, tmp_path):
    os.mkfifo(tmp_path / "a.png")
    refuse("--restore", tmp_path / "a.png", says=("is a pipe or a device", "store its contents"))


def test_a_picture_smaller_than_one_measured_pixel_is_refused(refuse, picture):
    sizes = ("--problem", "super-resolution", "--problem-option", "factor=1000")
    refuse(*sizes, "--input", picture, says=("fewer than super-resolution needs", "factor=1000"))


def test_empty_folder(refuse, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("hello")
    refuse("--input", tmp_path / "empty", says=("the folder holds no image", ".png"))


def test_input_and_measurement_together(refuse, picture):
    refuse(
        "--input", picture, "--measurement", picture, says=("--input", "--measurement", "not both")
    )


# --- measurements -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("option", ["--input", "--measurement"])
def test_not_a_number_or_infinity(refuse, tmp_path, option, value):
    array = np.zeros((3, 20, 26), np.float32)
    array[0, 3:5, 7] = value
    refuse(
        option,
        save(tmp_path / "y.npy", array),
        says=("y.npy", "2 of 1560 values are NaN or infinite", "replace them"),
    )


def test_not_a_number_through_python():
    y = torch.full((1, 3, 8, 8), float("nan"))
    with pytest.raises(InverseError, match="192 of 192 values are NaN or infinite"):
        inverse.get_problem("denoise").posterior(y=y, prior=inverse.FlatPrior((3, None, None)))


@pytest.mark.parametrize("channels", [2, 4])
def test_wrong_number_of_channels(refuse, tmp_path, channels):
    array = np.zeros((channels, 20, 26), np.float32)
    refuse(
        "--measurement",
        save(tmp_path / "y.npy", array),
        says=(f"has {channels} channels, the prior has 3", "(3, height, width)"),
    )


def test_wrong_number_of_dimensions(refuse, tmp_path):
    refuse(
        "--measurement",
        save(tmp_path / "y.npy", np.zeros((2, 3, 8, 8))),
        says=("expected (height, width) or (channels, height, width)", "(2, 3, 8, 8)"),
    )


FIXED_SIZE = '''
from dataclasses import dataclass
import torch
import inverse

@dataclass(frozen=True)
class Fixed(inverse.ImageProblem):
    """A camera of {size} pixels a side."""
    name = "fixed-camera"

    def operator(self, shape):
        return inverse.operator({function}, shape=(3, 16, 16))

    def signal_shape(self, y_shape):
        return (3, 16, 16)

@inverse.hookimpl
def inverse_problems():
    return [Fixed]
'''


def test_measurement_that_does_not_fit_the_operator_says_the_shape_it_expects(refuse, tmp_path):
    (tmp_path / "camera.py").write_text(
        FIXED_SIZE.format(size=16, function="lambda x: x[..., ::2, ::2]")
    )
    y = save(tmp_path / "y.npy", np.zeros((3, 9, 8), np.float32))
    refuse(
        "--problem",
        "fixed-camera",
        "--plugin",
        tmp_path / "camera.py",
        "--measurement",
        y,
        says=("(3, 9, 8)", "expects (3, 8, 8)", "(3, 16, 16)"),
    )


EXACT = inverse.GaussianNoise(0.0)


def test_operator_that_cannot_take_the_measurement_is_one_line_in_python():
    camera = inverse.operator(lambda x: x.flatten(1) @ torch.ones(192, 5), shape=(3, 8, 8))
    with pytest.raises(
        InverseError,
        match=r"measurement: its shape is \(7,\), the operator expects \(5,\) "
        r"for an image of shape \(3, 8, 8\)",
    ):
        Posterior(inverse.FlatPrior((3, None, None)), camera, torch.zeros(1, 7), EXACT)


def test_image_that_the_operator_cannot_take_is_one_line_in_python():
    circular = inverse.get_problem("deblur", boundary="circular", width=0.5).operator((3, 8, 8))
    y = torch.zeros(1, 3, 9, 9)
    with pytest.raises(
        InverseError, match=r"the operator does not take an image of shape \(3, 9, 9\)"
    ):
        Posterior(inverse.FlatPrior((3, None, None)), circular, y, EXACT, shape=(3, 9, 9))


@pytest.mark.parametrize("size", [(3, 3, 8), (3, 8, 1)])
def test_measurement_too_small_for_super_resolution(refuse, tmp_path, size):
    y = save(tmp_path / "y.npy", np.zeros(size, np.float32))
    refuse(
        "--problem",
        "super-resolution",
        "--measurement",
        y,
        says=("super-resolution", "at least 16", f"got {4 * size[1]}x{4 * size[2]}"),
    )


# --- kernels and masks ------------------------------------------------------------------------


@pytest.fixture
def refuse_blur(refuse, picture):
    def run(*options: str, says: tuple[str, ...] | str) -> str:
        return refuse(
            "--problem", "deblur", "--input", picture, "--problem-option", *options, says=says
        )

    return run


@pytest.mark.parametrize("shape", [(4, 4), (3, 4), (4, 3)])
def test_even_kernel(refuse_blur, tmp_path, shape):
    kernel = save(tmp_path / "k.npy", np.ones(shape))
    refuse_blur(
        f"kernel={kernel}",
        says=("kernel must have odd sides", f"{shape[0]}x{shape[1]}", "crop or pad"),
    )


@pytest.mark.parametrize(
    ("size", "works"),
    [
        ("8", "odd, got 8; try 9"),
        *((n, f"at least 3 and at most 4097, got {n}") for n in ("0", "-4")),
    ],
)
def test_even_or_empty_kernel_size(refuse_blur, size, works):
    refuse_blur(f"kernel_size={size}", says=(f"kernel_size must be {works}",))


def test_oversized_kernel_file(refuse_blur, tmp_path):
    refuse_blur(
        f"kernel={save(tmp_path / 'k.npy', np.ones((31, 31)))}",
        says=("the kernel is 31x31 pixels, the image only 20x26", "smaller kernel"),
    )


def test_oversized_generated_kernel(refuse_blur):
    refuse_blur(
        "width=8", says=("the kernel is 49x49 pixels, the image only 20x26", "smaller kernel")
    )


@pytest.mark.parametrize("kernel", ["gaussian", "motion", "defocus"])
def test_oversized_kernel_is_refused_before_it_is_made(refuse_blur, kernel):
    refuse_blur(
        f"kernel={kernel}",
        "kernel_size=3999",
        says=("the kernel is 3999x3999 pixels, the image only 20x26", "smaller kernel"),
    )


@pytest.mark.parametrize("width", ["0", "-1", "inf", "1e9"])
def test_impossible_kernel_width(refuse_blur, width):
    refuse_blur(f"width={width}", says=("width must be positive and at most 1000", "got "))


@pytest.mark.parametrize(
    "kernel", [np.zeros((3, 3)), np.array([[0, 0, 0], [1, 0, -1], [0, 0, 0]], float)]
)
def test_kernel_that_sums_to_zero(refuse_blur, tmp_path, kernel):
    refuse_blur(f"kernel={save(tmp_path / 'k.npy', kernel)}", says=("k.npy", "sums to zero"))


def test_kernel_with_not_a_number(refuse_blur, tmp_path):
    refuse_blur(
        f"kernel={save(tmp_path / 'k.npy', np.full((3, 3), np.nan))}",
        says=("k.npy", "NaN or infinity"),
    )


def test_unknown_kernel(refuse_blur):
    refuse_blur(
        "kernel=gausian",
        says=(
            "kernel 'gausian' is neither a file nor a known kernel",
            "did you mean 'gaussian'?",
            "known: defocus, ",
        ),
    )


def test_unknown_boundary(refuse_blur):
    refuse_blur(
        "boundary=mirror",
        says=("boundary must be one of reflect, replicate, circular, zeros, valid", "got 'mirror'"),
    )


def test_mask_of_another_size(refuse, picture, tmp_path):
    mask = write_picture(tmp_path / "mask.png", np.uint8(255) * (pixels(8, 9, 1) > 99))
    refuse(
        "--problem",
        "inpainting",
        "--input",
        picture,
        "--problem-option",
        f"mask={mask}",
        says=("mask.png", "8x9", "the image 20x26"),
    )


def test_mask_that_shows_nothing(refuse, picture, tmp_path):
    mask = write_picture(tmp_path / "mask.png", np.zeros((20, 26, 1), np.uint8))
    refuse(
        "--problem",
        "inpainting",
        "--input",
        picture,
        "--problem-option",
        f"mask={mask}",
        says="leaves no pixel observed",
    )


def test_unknown_mask(refuse, picture):
    refuse(
        "--problem",
        "inpainting",
        "--input",
        picture,
        "--problem-option",
        "mask=boxx",
        says=("mask 'boxx'", "did you mean 'box'?", "free-form"),
    )


# --- noise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", ["deblur", "denoise", "inpainting", "super-resolution"])
def test_negative_sigma_y(refuse, problem):
    refuse(
        "--problem",
        problem,
        "--problem-option",
        "sigma_y=-0.1",
        says=(f"{problem}: sigma_y must be at least 0", "got -0.1"),
    )


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_sigma_y_that_is_not_finite(refuse, value):
    refuse("--problem-option", f"sigma_y={value}", says=("sigma_y must be", value))


def test_zero_sigma_y_where_the_method_needs_it_positive(refuse, picture, tmp_path):
    (tmp_path / "own.py").write_text(method_source("own-noisy", needs=("noisy",)))
    own = ("--plugin", tmp_path / "own.py", "--method", "own-noisy")
    refuse(
        *own,
        "--input",
        picture,
        "--problem-option",
        "sigma_y=0",
        says=("own-noisy needs sigma_y > 0", "GaussianNoise(0)"),
    )


def test_zero_sigma_y_has_no_likelihood():
    truth = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    posterior = inverse.get_problem("denoise", sigma_y=0.0).posterior(
        truth, prior=inverse.FlatPrior((3, None, None))
    )
    with pytest.raises(InverseError, match="sigma = 0 has no density; use a positive sigma_y"):
        posterior.log_likelihood(truth)


# --- names and options ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--problem", "debblur"),
            ("problem 'debblur' is not known", "did you mean 'deblur'?", "deblur, denoise"),
        ),
        (
            ("--method", "rediff"),
            ("method 'rediff' is not known", "did you mean 'red-diff'?", "known: ", "tikhonov, "),
        ),
        (("--prior", "zzz"), ("prior 'zzz' is not known", "known: ")),
        (
            ("--prior", "lost.safetensors"),
            ("lost.json", "no such file", "weights need their card beside them"),
        ),
        (
            ("--prior", "weights.pt"),
            ("weights.pt", "no such file"),
        ),
        (
            ("--set", "toleranc=1"),
            (
                "pseudo-inverse has no option 'toleranc'",
                "did you mean 'tolerance'?",
                "known: max_iter, tolerance",
            ),
        ),
        (
            ("--problem-option", "sigma=1"),
            ("denoise has no option 'sigma'", "did you mean 'sigma_y'?", "known: sigma_y"),
        ),
        (("--set", "max_iter=many"), ("pseudo-inverse: max_iter must be an integer, got 'many'",)),
        (("--set", "max_iter=1.5"), ("max_iter must be an integer, got '1.5'",)),
        (("--set", "tolerance=small"), ("tolerance must be a number, got 'small'",)),
        (
            ("--method", "red-diff", "--set", "weight=cubic"),
            ("weight must be one of linear, sqrt", "got 'cubic'"),
        ),
        (("--method", "red-diff", "--set", "lr=-1"), ("lr must be positive, got -1",)),
        (("--steps", "5"), ("pseudo-inverse has no option 'steps'",)),
        (("--set", "steps"), ("--set takes name=value, got 'steps'",)),
        (("--set", "=3"), ("--set takes name=value, got '=3'",)),
        (("--problem-option", "kernel"), ("--problem-option takes name=value, got 'kernel'",)),
        (("--samples", "0"), ("samples must be at least 1, got 0",)),
        (("--samples", "-2"), ("samples must be at least 1, got -2",)),
        (("--dtype", "float16"), ("dtype must be one of auto, float32, float64", "got 'float16'")),
        (("--device", "gpu"), ("device 'gpu' is not available", "this machine has cpu")),
        (("--device", "meta"), ("device 'meta' is not available", "this machine has cpu")),
    ],
)
def test_wrong_name_or_option(refuse, arguments, says):
    refuse(*arguments, says=says)


@pytest.mark.parametrize("method", ["red-diff", "dps", "diffpir", "tv"])
def test_no_steps(refuse, method):
    refuse("--method", method, "--steps", 0, says=(f"{method}: steps must be at least 1, got 0",))


def test_steps_given_twice(refuse):
    refuse(
        "--method",
        "dps",
        "--steps",
        10,
        "--set",
        "steps=20",
        says=("either --steps 10 or --set steps=20, not both",),
    )


def test_a_refused_verification_leaves_no_folder(command, tmp_path):
    command("verify", "mmps", "--case", "lost").refused(
        "no case is called 'lost'", "inpainting, blur"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu(refuse):
    refuse("--device", "cuda", says=("device 'cuda' is not available", "this machine has cpu"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seed", "abc"), "--seed"),
        (("--samples", "many"), "--samples"),
        (("--sead", "1"), "--sead"),
        (("stray",), "stray"),
        (("--steps", "1.5"), "--steps"),
    ],
)
def test_usage_errors_are_boxed_and_exit_with_two(solve, arguments, said):
    outcome = solve(*arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize("listing", ["methods", "problems"])
def test_explaining_an_unknown_name(command, listing):
    command(listing, "zzz").refused("'zzz' is not known", "known: ")


def test_unknown_command(command):
    outcome = command("slove")
    assert outcome.code == 2
    assert "slove" in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("solve",),
        ("verify", "pseudo-inverse"),
        ("diagnose",),
        ("fit-bc", "--out", "t.safetensors"),
        ("prior", "verify", "digits-28"),
        ("prior", "quantize", "digits-28", "--out", "t.safetensors"),
        ("train", "--images", "photos", "--out", "t.safetensors"),
        ("train-codec", "--images", "photos", "--out", "t.safetensors"),
        ("train-circuit", "--images", "photos", "--out", "t.safetensors"),
        (
            "train-structure",
            "--images",
            "photos",
            "--validation",
            "photos",
            "--out",
            "t.safetensors",
        ),
        ("tune", "red-diff", "denoise", "--truths", "0", "--range", "steps=1:2"),
    ],
)
def test_a_negative_seed_is_refused(command, tmp_path, arguments):
    command(*arguments, "--seed", "-1").refused("seed must be at least 0", "got -1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["train", "train-codec"])
def test_a_seed_beyond_63_bits_is_refused(command, name):
    command(name, "--images", "photos", "--out", "t.safetensors", "--seed", 2**63).refused(
        f"seed must be at least 0 and below 2**63, got {2**63}"
    )


def test_a_negative_seed_is_refused_in_python():
    with pytest.raises(InverseError, match="seed must be at least 0, got -1"):
        inverse.get_problem("denoise").posterior(
            torch.zeros(3, 8, 8), prior=inverse.FlatPrior((3, None, None)), seed=-1
        )
    posterior = inverse.get_problem("denoise").posterior(
        torch.zeros(3, 8, 8), prior=inverse.FlatPrior((3, None, None))
    )
    with pytest.raises(InverseError, match="seed must be at least 0, got -1"):
        inverse.solve(posterior, "pseudo-inverse", seed=-1)


# --- output -----------------------------------------------------------------------------------


def test_output_below_a_file(refuse, picture):
    refuse(
        "--input",
        picture,
        "--out",
        picture / "deep" / "out",
        says=(
            "output folder",
            "photo.png/deep/out: cannot be written",
            "choose another with --out",
        ),
    )


def test_output_that_is_a_file(refuse, picture):
    refuse(
        "--input",
        picture,
        "--out",
        picture,
        says=("photo.png: cannot be written", "choose another with --out"),
    )


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="needs /proc, where not even root may create a folder"
)
def test_output_folder_that_cannot_be_written(refuse, picture):
    refuse(
        "--input",
        picture,
        "--out",
        "/proc/out",
        says=("output folder /proc/out: cannot be written", "choose another with --out"),
    )


def test_diverging_method_is_one_line(solve, picture, tmp_path):
    text = METHOD.format(cls="Diverges", name="diverges", needs=()).replace(
        "0 * inverse", "float('nan') * inverse"
    )
    (tmp_path / "own.py").write_text(text)
    solve("--plugin", tmp_path / "own.py", "--method", "diverges", "--input", picture).refused(
        "diverges diverged", "NaN or infinity", "try"
    )
    assert not (tmp_path / "out").exists()


# --- real processes ---------------------------------------------------------------------------


def test_error_reaches_the_shell_as_one_line():
    process("solve", "--method", "rediff").refused("did you mean 'red-diff'?")


def test_third_party_plugin_that_raises_on_import(tmp_path):
    write_distribution(
        tmp_path,
        "outside-bad",
        {"outside_bad.py": "raise RuntimeError('no licence found')"},
        {"things": "outside_bad"},
    )
    outcome = process("plugins", PYTHONPATH=str(tmp_path))
    assert outcome.code == 0
    assert outcome.err == ""
    assert "RuntimeError: no licence found" in outcome.out
    assert "outside-bad 1.0" in outcome.out
    assert "inverse_plugins.red_diff" in outcome.out


@pytest.fixture
def interrupted(tmp_path, tiny_prior) -> Outcome:
    """A solve of thousands of steps, interrupted after its third iterate."""
    (tmp_path / "slow.py").write_text(SLOW.format(mark=str(tmp_path / "mark")))
    write_picture(tmp_path / "photo.png", pixels(16, 16))
    return process(
        "solve",
        "--prior",
        tiny_prior,
        "--problem",
        "denoise",
        "--method",
        "slow",
        "--steps",
        10_000,
        "--plugin",
        tmp_path / "slow.py",
        "--input",
        tmp_path / "photo.png",
        "--out",
        tmp_path / "out",
        "--json",
        interrupt_when=lambda: time.sleep(0.02) or (tmp_path / "mark").exists(),
    )


SLOW = '''
import time
from dataclasses import dataclass
from pathlib import Path
import inverse

@dataclass(frozen=True)
class Slow(inverse.Method):
    """Counts up."""
    name = "slow"
    steps: int = 10

    def run(self, posterior, samples, generator):
        x = 0 * inverse.standard_normal(posterior, generator)
        for i in range(self.steps):
            x = x + 1
            if i == 3:
                Path({mark!r}).touch()
            if i >= 3:
                time.sleep(0.05)
            yield x

@inverse.hookimpl
def inverse_methods():
    return [Slow]
'''


def test_options_of_fields_are_refused_with_images(command, picture):
    refused = command(
        "train", "--images", picture.parent, "--out", "mine.safetensors", "--variable", "t2m"
    )
    refused.refused("--variable applies to a .nc or .zarr file", "got --images")


def test_interruption_before_the_first_save_is_one_line(command, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("inverse.training.prior.load_images", stop)
    outcome = command("train", "--images", tmp_path, "--out", "mine.safetensors")
    assert outcome == Outcome(130, "", "inverse: interrupted; files saved earlier are unchanged\n")
    assert list(tmp_path.iterdir()) == []


def test_interruption_saves_the_last_iterate_and_says_so(interrupted, tmp_path):
    assert interrupted.code == 130, interrupted
    assert (
        interrupted.err
        == f"inverse: interrupted; the last iterate is saved in {tmp_path / 'out'}\n"
    )
    assert json.loads(interrupted.out)["interrupted"] is True
    result = inverse.Result.load(tmp_path / "out" / "result.h5")
    assert result.interrupted
    level = result.samples.unique()
    assert len(level) == 1
    assert float(level) >= 0.5 + 3 * 0.5  # the third iterate or a later one, physical units
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "panel.png",
        "reconstruction.png",
        "result.h5",
    ]
    with h5py.File(tmp_path / "out" / "result.h5") as file:
        assert bool(file.attrs["interrupted"])


# --- particles --------------------------------------------------------------------------------

HOLES = '''
import math
from dataclasses import dataclass
import torch
import inverse
from inverse.deepinv_reconstructors import deepinv
from inverse.measurement.noise import likelihood_of

@dataclass(frozen=True)
class Holes(inverse.Problem):
    """Two numbers; A is NaN if one exceeds the limit.

    Args:
        limit: largest magnitude at which A is finite.
        uniform: whether the noise is uniform instead of Gaussian.
    """
    name = "holes"
    prior = ""
    limit: float = 20.0
    uniform: bool = False

    def make_prior(self):
        return inverse.GaussianPrior(torch.zeros(2), torch.tensor(1.0))

    def operator(self, shape):
        A = lambda x: torch.where(x.abs() > self.limit, math.nan, x)
        return inverse.operator(A, shape=shape, linear=False)

    def truths(self):
        return [torch.zeros(2)]

    def noise(self, shape):
        if self.uniform:
            return likelihood_of(deepinv("physics").UniformNoise(0.1))
        return inverse.GaussianNoise(1.0)

@inverse.hookimpl
def inverse_problems():
    return [Holes]
'''


@pytest.fixture
def holes(command, tmp_path):
    """Run `inverse solve` on a problem whose operator returns NaN for large x."""
    (tmp_path / "holes.py").write_text(HOLES)
    return lambda *arguments: command(
        "solve", "--plugin", "holes.py", "--problem", "holes", *arguments
    )


@pytest.mark.filterwarnings("default")
def test_particles_with_nan_are_reported_in_one_line_and_counted(holes):
    outcome = holes("--method", "afdps", "--set", "particles=64", "steps=20")
    (line,) = outcome.err.splitlines()
    assert outcome.code == 0
    assert line.startswith("inverse: warning: ")
    assert "of 64 particles have NaN at noise level sigma = 80" in line
    trace = inverse.Result.load(outcome.path / "result.h5").provenance["trace"]
    assert trace[-1]["quarantined"] >= int(line.split("warning: ")[1].split()[0])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--method", "tds", "--problem-option", "limit=0"),
            "all 16 particles of measurement 0 have NaN or infinity at noise level sigma = 80",
        ),
        (
            ("--method", "tds", "--problem-option", "uniform=true"),
            "no likelihood is known for the noise model UniformNoise",
        ),
        (("--method", "mcg-diff"), "mcg-diff needs an operator with known singular values"),
        (
            ("--method", "fk-steering", "--set", "particles=0"),
            "particles must be at least 2, got 0",
        ),
        (("--method", "smc-mmps", "--set", "particles=1"), "particles must be at least 2, got 1"),
        (
            ("--method", "fps-smc", "--set", "ess_threshold=0"),
            "ess_threshold must be positive and at most 1, got 0",
        ),
        (
            ("--method", "tds", "--set", "ess_threshold=1.5"),
            "ess_threshold must be positive and at most 1, got 1.5",
        ),
    ],
)
def test_a_particle_method_that_cannot_run_says_why(holes, tmp_path, arguments, says):
    holes(*arguments).refused(says)
    assert [path.name for path in tmp_path.iterdir()] == ["holes.py"]
