"""What a blurred picture says about its kernel and its compression, without an answer."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inverse
from inverse.measurement.jpeg_blocks import has_jpeg_blocks
from inverse.measurement.kernel_check import kernel_mismatch
from inverse.problem import shipped_images
from inverse_problems.deblur.problem import SURE

RECORD = Path(__file__).parents[2] / "results" / "kernel-check.json"


def blurred(picture, width, sigma=0.01):
    x = inverse.read_image(picture).pixels.double()
    problem = inverse.get_problem("deblur", width=width)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    return problem.operator(tuple(x.shape)).A(x[None])[0] + sigma * noise


@pytest.mark.parametrize("width", [1.2, 2.0, 3.0])
@pytest.mark.parametrize("picture", shipped_images()[:3], ids=lambda path: path.stem)
def test_a_right_kernel_is_not_doubted(picture, width):
    problem = inverse.get_problem("deblur", width=width, sigma_y=0.01)
    assert not [c for c in problem.checks(blurred(picture, width)) if "kernel" in c]


@pytest.mark.parametrize(("true", "assumed"), [(2.0, 1.2), (3.0, 2.0), (2.0, 3.0), (1.2, 2.0)])
@pytest.mark.parametrize("picture", shipped_images()[:3], ids=lambda path: path.stem)
def test_a_wrong_kernel_is_named_with_its_direction(picture, true, assumed):
    problem = inverse.get_problem("deblur", width=assumed, sigma_y=0.01)
    (said,) = [c for c in problem.checks(blurred(picture, true)) if "kernel" in c]
    assert "by its spectrum the measurement is blurred" in said
    assert ("wider" in said) == (true > assumed)


def test_the_excess_variance_is_that_of_the_blur():
    """Gaussians of width 2 and 1.2 differ by 2.56 pixels squared."""
    kernel = inverse.get_problem("deblur", width=1.2).filter()[0, 0]
    found = kernel_mismatch(blurred(shipped_images()[0], 2.0), kernel, 0.01)
    assert found.variance in (2.0, 3.0)


def test_small_or_noiseless_pictures_are_not_judged():
    kernel = torch.ones(3, 3) / 9
    assert kernel_mismatch(torch.rand(3, 40, 40), kernel, 0.1) is None
    assert kernel_mismatch(torch.rand(3, 80, 80), kernel, 0.0) is None


def test_measured_false_alarms_and_power():
    """On photographs of BSDS500 (bench/kernel_check.py), at the threshold of `deblur`."""
    record = json.loads(RECORD.read_text())
    assert record["threshold"] == SURE
    assert record["false alarms"] <= 0.05
    wrong = [r for name, r in record["rates"].items() if " as " in name and "sigma 0.01" in name]
    assert min(wrong) >= 0.7


@pytest.mark.parametrize(("quality", "blocks"), [(None, False), (75, True), (40, True)])
def test_jpeg_blocks_are_found_wherever_the_grid_begins(quality, blocks):
    image = Image.open(shipped_images()[1]).convert("RGB")
    if quality:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        image = Image.open(file)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    for top in (0, 3):
        assert has_jpeg_blocks(pixels[:, top:, 5:]) == blocks


def test_noise_has_no_jpeg_blocks():
    draws = torch.randn(100, 3, 96, 96, generator=torch.Generator().manual_seed(0)).double()
    assert not any(has_jpeg_blocks(y) for y in draws)
