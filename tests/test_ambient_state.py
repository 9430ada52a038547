"""Ambient state and scalar types do not change an answer: seeds, precision, inference mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import inverse
from inverse.command.outputs import output_folders
from inverse.errors import OptionError
from inverse.io.images import input_files


def answer(method: str = "diffpir", seed=0, measurement_seed=0) -> inverse.Result:
    problem = inverse.get_problem("denoise")
    truth = torch.linspace(0, 1, 3 * 16 * 16).reshape(3, 16, 16)
    posterior = problem.posterior(truth, prior="photo-64", seed=measurement_seed)
    return inverse.solve(posterior, inverse.get_method(method, steps=2), seed=seed)


@pytest.mark.parametrize("zero", [np.int64(0), np.uint8(0), torch.tensor(0)])
def test_integers_of_numpy_and_torch_are_seeds(zero):
    plain, seeds = answer(), answer(seed=zero, measurement_seed=zero)
    assert torch.equal(plain.samples, seeds.samples)
    assert torch.equal(plain.y, seeds.y)
    assert type(seeds.provenance["seed"]) is type(seeds.provenance["measurement_seed"]) is int


@pytest.mark.parametrize("seed", [0.0, "0", None])
def test_other_seeds_are_refused(seed):
    with pytest.raises(OptionError, match="seed must be an integer"):
        answer(seed=seed)


@pytest.mark.parametrize("method", ["diffpir", "dps"])
def test_inference_mode_changes_nothing(method):
    with torch.inference_mode():
        inside = answer(method)
    assert torch.equal(inside.samples, answer(method).samples)


@pytest.mark.parametrize("mask", ["random", "free-form"])
def test_the_default_precision_does_not_change_a_mask(mask):
    problem = inverse.get_problem("inpainting", mask=mask)
    single = problem.observed(32, 32)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(problem.observed(32, 32), single)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("linear", [True, False])
def test_an_operator_takes_the_precision_of_its_input(linear):
    constant = torch.full((1, 4, 4), 0.5, dtype=torch.float64)
    operator = inverse.operator(lambda x: constant * x, shape=(1, 4, 4), linear=linear)
    assert operator.A(torch.ones(1, 1, 4, 4)).dtype == torch.float32


def test_a_complex_operator_is_refused():
    operator = inverse.operator(torch.fft.fft2, shape=(1, 4, 4))
    with pytest.raises(OptionError, match=r"complex numbers.*two channels"):
        operator.A(torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x.long(), "returns torch.int64, which has no gradient"),
        (lambda x: x > 0, "returns torch.bool"),
        (lambda x: x.numpy(), "returns ndarray; return a tensor"),
        (lambda x: None, "returns NoneType"),
    ],
)
def test_an_operator_returns_floating_point_numbers(function, words):
    operator = inverse.operator(function, shape=(1, 4, 4), linear=False)
    with pytest.raises(OptionError, match=words):
        operator.A(torch.ones(1, 1, 4, 4))


def test_output_folders_never_collide():
    files = [Path(name) for name in ("a-1.png", "a.bmp", "a.png", "b.png", "a-3.png")]
    folders = output_folders(files, Path("out"))
    assert len(set(folders)) == 5
    assert folders[0] == Path("out/a-1")
    assert folders[3] == Path("out/b")


def test_hidden_files_of_a_folder_are_skipped(tmp_path):
    for name in ("._a.png", "a.png"):
        (tmp_path / name).write_bytes(b"")
    assert input_files([tmp_path]) == [tmp_path / "a.png"]


@pytest.mark.parametrize("sides", [(1, 9), (9, 1)])
def test_a_kernel_of_one_row_equals_the_padded_one(tmp_path, sides):
    row, padded = np.ones(sides), np.zeros((9, 9))
    padded[tuple(slice((9 - n) // 2, (9 + n) // 2) for n in sides)] = 1
    blurred = []
    for name, kernel in (("row", row), ("padded", padded)):
        np.save(tmp_path / f"{name}.npy", kernel)
        problem = inverse.get_problem("deblur", kernel=str(tmp_path / f"{name}.npy"))
        x = torch.rand(1, 3, 20, 24, generator=inverse.seeded("row"), dtype=torch.float64)
        blurred.append(problem.operator((3, 20, 24)).A(x))
    torch.testing.assert_close(*blurred)


def test_a_mask_of_zero_and_one_is_the_mask_of_zero_and_255(tmp_path):
    from PIL import Image

    observed = np.arange(64).reshape(8, 8) % 3 > 0
    masks = []
    for top in (1, 255):
        Image.fromarray((observed * top).astype(np.uint8)).save(tmp_path / f"{top}.png")
        masks.append(inverse.get_problem("inpainting", mask=str(tmp_path / f"{top}.png")))
    first, second = (problem.observed(8, 8) for problem in masks)
    assert torch.equal(first, second)
    assert torch.equal(first, torch.from_numpy(observed))
