"""The noise level of a picture, estimated from the picture."""

import pytest
import torch
from conftest import normal

from inverse.measurement.noise_estimate import ROUNDING, noise_level

RAMP = torch.linspace(0, 1, 64)[None, :, None].expand(3, 64, 65)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3])
def test_the_level_of_white_noise_is_found_on_a_ramp_with_an_edge(sigma):
    picture = RAMP.clone()
    picture[:, 20:40, 11:31] += 0.5
    found = noise_level(picture + sigma * normal(3, 64, 65))
    assert found == pytest.approx(sigma, rel=0.06)


def test_holes_do_not_count():
    observed = torch.ones(64, 65, dtype=torch.bool)
    observed[:, ::5] = False
    noisy = torch.where(observed, RAMP + 0.1 * normal(3, 64, 65), 0)
    assert noise_level(noisy, observed) == pytest.approx(0.1, rel=0.1)


def test_a_smooth_picture_has_the_noise_of_its_rounding():
    assert noise_level(RAMP) == ROUNDING


def test_scattered_pixels_tell_nothing():
    observed = torch.zeros(64, 65, dtype=torch.bool)
    observed[::2, ::2] = True
    assert noise_level(RAMP, observed) is None
