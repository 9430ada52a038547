"""Shipped images of a prior, and their panels."""

import pytest
import torch
from cli_fixtures import CONFIG, tiny_network

import inverse
from inverse.panel import panel
from inverse.problem import shipped_images

pytest_plugins = "cli_fixtures"


def test_a_prior_has_its_own_images_or_the_photographs():
    """The name of the prior decides; a grey prior without images gets grey photographs."""
    from dataclasses import replace

    grey = tiny_network(replace(CONFIG, channels=1))
    photographs = inverse.get_problem("denoise").posterior(0, prior=grey).truth
    assert photographs.shape == (1, 1, 256, 256)
    grey.name = "digits-28"
    digits = inverse.get_problem("denoise").posterior(3, prior=grey).truth
    assert digits.shape == (1, 1, 28, 28)
    assert [path.stem for path in shipped_images(grey)] == [
        f"digit-{n}{k}" for n in range(10) for k in "ab"
    ]
    with pytest.raises(inverse.InverseError, match="there are 20"):
        inverse.get_problem("denoise").posterior(20, prior=grey)


def test_a_small_picture_is_enlarged_in_the_panel():
    """Each of 28 pixels becomes a square of 4 by 4, below a caption of 16 pixels."""
    from dataclasses import replace

    prior = tiny_network(replace(CONFIG, channels=1))
    posterior = inverse.get_problem("denoise").posterior(
        torch.rand(1, 28, 28, generator=inverse.seeded("small")), prior=prior
    )
    result = inverse.solve(posterior, inverse.get_method("tikhonov"))
    sheet = panel(result)
    assert sheet.shape[1] == 16 + 112
    tile = sheet[:, 16:, 112 + 4 : 2 * 112 + 4]
    assert torch.equal(tile[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2), tile)
    torch.testing.assert_close(tile[0, ::4, ::4], result.mean[0, 0].clamp(0, 1))
