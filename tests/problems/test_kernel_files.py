"""Kernel files: what people store by mistake is refused or said."""

from __future__ import annotations

import numpy as np
import pytest

import inverse
from inverse.errors import InputError

LINE = np.zeros((9, 9))
LINE[4, 2:7] = 0.2


def posed(tmp_path, kernel):
    np.save(tmp_path / "k.npy", kernel)
    return inverse.get_problem("deblur", kernel=str(tmp_path / "k.npy"))


def notes_of(tmp_path, kernel):
    return posed(tmp_path, kernel).file_notes()


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (-LINE, "sums to -1; the weights of a blur are not negative"),
        (np.log(LINE + 1e-9), "a logarithm or a sign must be undone"),
        (LINE.max() - LINE, "is dark on white"),
        (np.stack([LINE] * 5), r"shape \(5, 9, 9\) has 5 channels, a kernel has 1"),
    ],
)
def test_what_is_no_kernel_is_refused(tmp_path, kernel, words):
    prior = inverse.FlatPrior((3, 16, 16))
    with pytest.raises(InputError, match=words):
        posed(tmp_path, kernel).posterior(np.zeros((1, 3, 16, 16), np.float32), prior=prior)


@pytest.mark.parametrize("kernel", [LINE, np.full((9, 9), 1 / 81), LINE - 0.001])
def test_kernels_of_any_blur_pass_without_a_note(tmp_path, kernel):
    assert notes_of(tmp_path, kernel / kernel.sum()) == []


def test_the_sum_and_the_centre_of_a_kernel_are_said(tmp_path):
    assert notes_of(tmp_path, 50 * LINE) == ["kernel: divided by its sum, 50"]
    (note,) = notes_of(tmp_path, np.roll(LINE, (2, -1), (0, 1)))
    assert "lies 1.0 pixels left and 2.0 below of its middle" in note
