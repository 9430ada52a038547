"""The structure that a residual has beyond white noise."""

import pytest
import torch
from conftest import normal

from inverse.command.summary import structure
from inverse.metrics.residual import neighbour_correlation


def test_white_noise_has_no_neighbour_correlation():
    found = neighbour_correlation(normal(2, 3, 40, 50))
    assert found.abs().max() < 4 / (2 * 3 * 40 * 50) ** 0.5
    assert structure(float(found[0])) == ""


def test_a_mean_of_two_neighbours_has_half():
    noise = normal(1, 3, 61, 60)
    rows = noise[:, :, 1:] + noise[:, :, :-1]
    found = float(neighbour_correlation(rows))
    assert found == pytest.approx(0.25, abs=0.03)  # 1/2 below, 0 to the right
    assert "the residual still has structure" in structure(found)


def test_holes_do_not_count():
    observed = torch.ones(40, 50, dtype=torch.bool)
    observed[10:30, 10:30] = False
    r = normal(1, 3, 40, 50)
    broken = torch.where(observed, r, 5.0)
    assert neighbour_correlation(broken, observed).abs() < 0.05


def test_a_residual_of_zero_is_undefined():
    assert neighbour_correlation(torch.zeros(1, 1, 8, 8)).isnan().all()
    assert structure(None) == ""
