"""LPIPS and DISTS with random networks against torchmetrics, and errors of missing weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from inverse.errors import InputError
from inverse.execution import Cost
from inverse.measurement.deepinv_import import quietly_imported
from inverse.metrics.shipped import METRICS
from inverse.result import Result

pytest_plugins = "cli_fixtures"


@pytest.fixture(scope="module")
def networks():
    """SqueezeNet and VGG16 with random weights, without the latter's classifier."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vgg = quietly_imported("torchvision.models.vgg")
        squeeze = quietly_imported("torchvision.models").squeezenet1_1(weights=None)
        return {
            "squeeze": squeeze.state_dict(),
            "vgg": {
                f"features.{k}": v for k, v in vgg.make_layers(vgg.cfgs["D"]).state_dict().items()
            },
        }


@pytest.fixture
def write_weights(networks, tmp_path, monkeypatch):
    """Write a network for a metric: write_weights("lpips", "squeeze", ".pth")."""

    def give(metric: str, network: str, suffix: str = ".pth"):
        path = tmp_path / f"{network}{suffix}"
        save = torch.save if suffix == ".pth" else save_file
        save({key: value.contiguous() for key, value in networks[network].items()}, path)
        monkeypatch.setenv(METRICS[metric].function.variable, str(path))
        return path

    return give


def images(channels: int = 3, side: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    truth = torch.rand(2, channels, side, side, generator=draw)
    return truth, (truth + 0.2 * torch.randn(truth.shape, generator=draw)).clamp(0, 1)


def result(mean: torch.Tensor, truth: torch.Tensor | None) -> Result:
    return Result(
        mean[:, None], torch.zeros(len(mean), 1), torch.ones(len(mean), 1), Cost(), 0.0, truth
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_lpips_is_torchmetrics_with_the_users_features(write_weights, networks, suffix):
    write_weights("lpips", "squeeze", suffix)
    torchmetrics = quietly_imported("torchmetrics.functional.image.lpips")
    module = torchmetrics._NoTrainLpips(
        pretrained=True, net="squeeze", pnet_rand=True
    )  # its linear layers, and random features
    with torch.no_grad():
        features = {
            k.removeprefix("features."): v
            for k, v in networks["squeeze"].items()
            if k.startswith("features.")
        }
        for block in module.net.slices:
            block.load_state_dict(
                {
                    k: v
                    for k, v in features.items()
                    if k.split(".")[0] in dict(block.named_children())
                }
            )
    truth, noisy = images()
    wanted = torchmetrics._lpips_update(noisy, truth, net=module, normalize=True).mean()
    assert METRICS["lpips"](result(noisy, truth)) == pytest.approx(
        float(wanted), rel=1e-5
    )  # float32 sums
    assert METRICS["lpips"](result(truth, truth)) == pytest.approx(0, abs=1e-7)


def test_dists_is_torchmetrics_with_the_users_features(write_weights, networks, monkeypatch):
    write_weights("dists", "vgg")
    torchmetrics = quietly_imported("torchmetrics.functional.image.dists")
    vgg = quietly_imported("torchvision.models.vgg")

    def local(weights):  # replaces the function that downloads
        layers = vgg.make_layers(vgg.cfgs["D"])
        layers.load_state_dict({k.removeprefix("features."): v for k, v in networks["vgg"].items()})
        return SimpleNamespace(features=layers)

    monkeypatch.setattr(torchmetrics, "vgg16", local)
    truth, noisy = images()
    wanted = torchmetrics.DISTSNetwork()(noisy, truth).mean().detach()
    assert METRICS["dists"](result(noisy, truth)) == pytest.approx(
        float(wanted), rel=1e-4
    )  # float32, variances summed otherwise
    assert METRICS["dists"](result(truth, truth)) == pytest.approx(0, abs=1e-5)


def test_a_grey_picture_counts_as_coloured_and_other_fields_have_no_score(write_weights):
    write_weights("lpips", "squeeze")
    truth, noisy = images(channels=1)
    grey = METRICS["lpips"](result(noisy, truth))
    assert grey == pytest.approx(
        METRICS["lpips"](result(noisy.expand(-1, 3, -1, -1), truth.expand(-1, 3, -1, -1))), rel=1e-5
    )
    assert METRICS["lpips"](result(noisy, None)) is None
    assert METRICS["lpips"](result(noisy[..., :31], truth[..., :31])) is None
    assert METRICS["lpips"](result(280 + noisy, 280 + truth)) is None


SUITE = """
truths = [0]
metrics = ["psnr", "lpips"]

[[problems]]
name = "denoise"
crop = 32

[[methods]]
name = "pseudo-inverse"
"""


def test_a_suite_with_lpips_is_refused_without_the_weights(command, tmp_path, monkeypatch):
    (tmp_path / "suite.toml").write_text(SUITE)
    monkeypatch.delenv("INVERSE_LPIPS_WEIGHTS", raising=False)
    ran = command("bench", "run", tmp_path / "suite.toml", "--out", tmp_path / "records")
    ran.refused(
        "line 3, metrics.2: metric lpips: INVERSE_LPIPS_WEIGHTS is not set",
        "alexnet-owt-7be5be79.pth",
    )
    assert not (tmp_path / "records").exists()


def test_a_record_names_the_network_that_scored_it(command, write_weights, tmp_path):
    from inverse.arena.record import read_records

    write_weights("lpips", "squeeze")
    (tmp_path / "suite.toml").write_text(SUITE)
    assert command("bench", "run", tmp_path / "suite.toml", "--out", tmp_path / "records").code == 0
    (record,) = read_records(tmp_path / "records")
    assert record.metrics["lpips"] > 0
    assert record.versions["lpips"].startswith("squeeze ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a checkpoint", "cannot be read as a state dict"),
        (None, "cannot be read as a state dict (No such file or directory)"),
    ],
)
def test_an_unreadable_file_is_an_error_of_one_line(tmp_path, monkeypatch, content, words):
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("INVERSE_LPIPS_WEIGHTS", str(path))
    with pytest.raises(InputError) as error:
        METRICS["lpips"].ready()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_and_an_incomplete_network_are_refused(
    write_weights, networks, tmp_path, monkeypatch
):
    write_weights("dists", "squeeze")
    with pytest.raises(InputError, match=r"holds squeezenet1_1; it takes vgg16"):
        METRICS["dists"].ready()
    save_file(
        {k: v for k, v in networks["squeeze"].items() if "12" not in k},
        tmp_path / "half.safetensors",
    )
    monkeypatch.setenv("INVERSE_LPIPS_WEIGHTS", str(tmp_path / "half.safetensors"))
    with pytest.raises(InputError, match="is incomplete"):
        METRICS["lpips"].ready()


def test_a_checkpoint_that_runs_code_is_refused(tmp_path, monkeypatch):
    class Runs:
        def __reduce__(self):
            return print, ("pwned",)

    torch.save({"features.0.weight": Runs()}, tmp_path / "x.pth")
    monkeypatch.setenv("INVERSE_LPIPS_WEIGHTS", str(tmp_path / "x.pth"))
    with pytest.raises(InputError, match="cannot be read as a state dict"):
        METRICS["lpips"].ready()
