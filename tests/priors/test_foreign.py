"""Networks of other projects: recognised by their weights, equal to the original code's output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import normal
from safetensors.torch import save_file
from torch import Tensor, nn

import inverse
from inverse.errors import PriorError
from inverse.measurement.deepinv_import import deepinv
from inverse.priors.foreign.denoisers import DRUNet, GradientStep, GSDRUNet
from inverse.priors.foreign.edm import EDM, EDMWithADM
from inverse.priors.foreign.edm2 import EDM2
from inverse.priors.foreign.guided_diffusion import GuidedDiffusion, alphas_cumprod
from inverse.priors.foreign.recognition import recognise
from inverse.priors.loading import PriorCard, default_side, load_prior

pytest_plugins = "cli_fixtures"

X = normal(2, 3, 16, 16).float()
SIGMA = torch.tensor([0.3, 2.0])
SMALL = GuidedDiffusion(width=32, widths=(32, 64), blocks=1, attention=(2,), head_channels=32)


def filled(network: nn.Module, scale: float = 0.1) -> nn.Module:
    """The network with random weights that are the same on every machine."""
    random = np.random.default_rng(0)
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for _, value in sorted(network.state_dict().items()):
            values = random.integers(-1000, 1001, value.shape) / 1000 * scale
            value.copy_(torch.from_numpy(np.asarray(values)))
    return network.eval().requires_grad_(False)


def on_meta(make) -> nn.Module:
    with torch.device("meta"):
        return make()


# --- guided diffusion -------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
def test_the_layouts_of_ffhq_and_imagenet_are_read_off_their_weights(large):
    """deepinv's DiffUNet has the layout of ffhq_10m.pt or of ADM's 256x256_diffusion_uncond.pt."""
    original = on_meta(lambda: deepinv("models").DiffUNet(large_model=large, pretrained=None))
    weights = {k: v for k, v in original.state_dict().items() if not k.startswith("sqrt_")}
    layout = recognise(weights, "x").layout
    assert layout == GuidedDiffusion(
        width=256 if large else 128,
        widths=(256, 256, 512, 512, 1024, 1024) if large else (128, 128, 256, 256, 512, 512),
        blocks=2 if large else 1,
        attention=(8, 16, 32) if large else (16,),
    )


def test_ffhq_weights_denoise_as_in_the_original_code():
    """In the layout that DPS loads, eps at a trained time is that of deepinv's DiffUNet."""
    original = on_meta(lambda: deepinv("models").DiffUNet(pretrained=None)).to_empty(device="cpu")
    for value in original.state_dict().values():
        value.uniform_(-0.05, 0.05, generator=torch.Generator().manual_seed(0))
    original.eval().requires_grad_(False)
    weights = {k: v for k, v in original.state_dict().items() if not k.startswith("sqrt_")}
    prior = recognise(weights, "ffhq_10m.pt").prior()
    sigmas = (1 / alphas_cumprod("linear") - 1).sqrt().float()
    x, t = normal(1, 3, 32, 32).float(), 300
    eps = original.forward_diffusion(x / (1 + sigmas[t] ** 2).sqrt(), torch.tensor([t]))[:, :3]
    # the time of a noise level is interpolated in single precision
    torch.testing.assert_close(prior(x, sigmas[t]), x - sigmas[t] * eps, rtol=0, atol=2e-5)
    assert (prior.shape, default_side(prior)) == ((3, None, None), 256)
    assert (prior.shift, prior.scale) == (0.5, 0.5)


def test_sides_are_padded_and_a_gradient_passes():
    prior = recognise(filled(SMALL.network()).state_dict(), "x", {"head_channels": 32}).prior()
    x = normal(1, 3, 7, 9).float().requires_grad_()
    y = prior(x, torch.tensor(0.5))
    assert y.shape == x.shape
    assert torch.autograd.grad(y.sum(), x)[0].abs().max() > 0


@pytest.mark.parametrize(
    ("noise_at", "sign"), [(0, 1.0), (1, -1.0)], ids=["torchcfm", "rectified flow"]
)
def test_a_flow_checkpoint_gives_the_denoiser_of_its_velocity(noise_at, sign):
    """x_t = (1 - s) x0 + s n at s = sigma / (1 + sigma), and x0 = x_t + s v for v = x0 - n."""
    layout = GuidedDiffusion(**{**vars(SMALL), "learned_variance": False})
    network = filled(layout.network())
    options = {
        "architecture": "guided-diffusion",
        "prediction": "velocity",
        "noise_at": noise_at,
        "head_channels": 32,
    }
    prior = recognise(network.state_dict(), "x", options).prior()
    s = (SIGMA / (1 + SIGMA))[:, None, None, None]
    x_t, t = X * (1 - s), s.flatten() if noise_at else 1 - s.flatten()
    torch.testing.assert_close(prior(X, SIGMA), x_t + sign * s * network(x_t, t))


def test_a_network_whose_prediction_cannot_be_told_is_refused(tmp_path):
    layout = GuidedDiffusion(**{**vars(SMALL), "learned_variance": False})
    save_file(filled(layout.network()).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(PriorError, match="may predict noise or a velocity"):
        load_prior(tmp_path / "a.safetensors")


def test_a_conditional_network_needs_its_class():
    layout = GuidedDiffusion(**{**vars(SMALL), "classes": 4})
    weights = filled(layout.network()).state_dict()
    with pytest.raises(PriorError, match=r"conditional on 4 classes.*\"label\": 0"):
        recognise(weights, "x").prior()
    a, b = (recognise(weights, "x", {"label": c, "head_channels": 32}).prior() for c in (0, 3))
    assert (a(X, SIGMA) - b(X, SIGMA)).abs().max() > 1e-4


def test_cosine_schedule_has_the_published_endpoints():
    """abar falls from 1 - 4e-5 to the product with the last beta of 0.999."""
    abar = alphas_cumprod("cosine")
    assert float(abar[0]) == pytest.approx(0.99996, abs=2e-5)
    assert float(abar[-1] / abar[-2]) == pytest.approx(0.001, rel=1e-6)


# --- EDM --------------------------------------------------------------------------------------

SIZES = {
    "img_resolution": 16,
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (8,),
    "pretrained": None,
    "pixel_std": 0.5,
    "_was_trained_on_minus_one_one": True,
}


def edm_original(kind: str, **more) -> nn.Module:
    models = deepinv("models")
    if kind == "adm":
        return filled(models.ADMUNet(**SIZES | {"model_channels": 64} | more))
    return filled(models.NCSNpp(model_type=kind, **SIZES | more))


@pytest.mark.parametrize("kind", ["ncsn", "ddpm", "adm"])
@pytest.mark.parametrize("wrapper", ["", "model."])
def test_edm_weights_denoise_as_in_the_original_code(tmp_path, kind, wrapper):
    """NVlabs' EDMPrecond stores its network below `model.`, deepinv stores it alone."""
    original = edm_original(kind)
    state = {wrapper + k: v for k, v in original.state_dict().items()}
    save_file(state, tmp_path / "edm.safetensors")
    prior = load_prior(tmp_path / "edm.safetensors")
    expected = original(X, SIGMA, input_in_minus_one_one=True)
    torch.testing.assert_close(prior(X, SIGMA), expected, rtol=1e-4, atol=1e-5)
    assert (prior.shape, prior.sigma_min, prior.sigma_max) == ((3, 16, 16), 0.002, 80.0)


@pytest.mark.parametrize(
    ("make", "cls"),
    [
        (lambda: deepinv("models").NCSNpp(model_type="ncsn", pretrained=None), EDM),
        (lambda: deepinv("models").ADMUNet(label_dim=1000, pretrained=None), EDMWithADM),
    ],
)
def test_the_released_sizes_of_edm_are_read_off_their_weights(make, cls):
    layout = recognise(on_meta(make).state_dict(), "x").layout
    assert type(layout) is cls
    assert layout.side == 64
    assert layout.classes == (1000 if cls is EDMWithADM else 0)


def test_a_conditional_edm_network_denoises_a_class():
    original = edm_original("adm", label_dim=5)
    prior = recognise(original.state_dict(), "x", {"label": 2}).prior()
    label = torch.eye(5)[[2, 2]]
    expected = original(X, SIGMA, class_labels=label, input_in_minus_one_one=True)
    torch.testing.assert_close(prior(X, SIGMA), expected, rtol=1e-4, atol=1e-5)


EDM2_SMALL = EDM2(
    side=16, widths=(64, 128), blocks=1, attention=(8,), noise=64, embedding=128, classes=5, label=2
)
EDM2_RECORDED = [-0.02356, 1.14972, 0.14957, -0.10674, -1.0754, -0.59854, -0.71035, -1.20968]
"""Output of the original code (github.com/NVlabs/edm2, commit d8299d3) with these weights."""


def test_edm2_gives_the_output_of_the_original_code():
    network = filled(EDM2_SMALL.network(), 1.0)
    x = torch.from_numpy(np.random.default_rng(1).integers(-1000, 1001, (1, 3, 16, 16)) / 1000)
    out = network(x.float(), torch.tensor([0.25]))[0].flatten()[::97]
    torch.testing.assert_close(out, torch.tensor(EDM2_RECORDED), rtol=0, atol=1e-4)


def test_edm2_is_recognised_below_its_preconditioning(tmp_path):
    """NVlabs' Precond stores the network below `unet.` beside the one of the uncertainty."""
    network = filled(EDM2_SMALL.network(), 1.0)
    state = {f"unet.{k}": v for k, v in network.state_dict().items()}
    state |= {"logvar_fourier.freqs": torch.zeros(8), "logvar_linear.weight": torch.zeros(1, 8)}
    prior = recognise(state, "x", {"label": 2}).prior()
    s = SIGMA[:, None, None, None]
    raw = network(X / (s**2 + 0.25).sqrt(), SIGMA.log() / 4)
    expected = (0.25 * X + 0.5 * s * (s**2 + 0.25).sqrt() * raw) / (s**2 + 0.25)
    torch.testing.assert_close(prior(X, SIGMA), expected, rtol=1e-4, atol=1e-4)


def test_edm2_of_codes_needs_its_autoencoder():
    layout = EDM2(**{**vars(EDM2_SMALL), "channels": 4, "classes": 0, "label": None})
    with pytest.raises(PriorError, match="codes of 4 channels"):
        recognise(layout.network().state_dict(), "x").prior()


# --- denoisers --------------------------------------------------------------------------------

IMAGE = normal(1, 3, 32, 32).float()


def in_model_units(original: nn.Module, sigma: float = 0.2) -> Tensor:
    """A denoiser of [0, 1] applied to IMAGE, which is in [-1, 1]."""
    return 2 * original(IMAGE / 2 + 0.5, torch.tensor([sigma / 2])[:, None, None, None]) - 1


def test_drunet_weights_denoise_as_in_deepinv(tmp_path):
    original = filled(deepinv("models").DRUNet(nc=(8, 12, 16, 20), nb=2, pretrained=None))
    torch.save(original.state_dict(), tmp_path / "drunet_color.pth")
    prior = load_prior(tmp_path / "drunet_color.pth")
    torch.testing.assert_close(prior(IMAGE, torch.tensor(0.2)), in_model_units(original))
    assert prior.sigma_max == pytest.approx(2 * 50 / 255)


def test_gsdrunet_weights_denoise_as_in_deepinv(tmp_path):
    """A checkpoint with other entries; the output is the same with and without gradients."""
    original = filled(
        deepinv("models").GSDRUNet(nc=(8, 12, 16, 20), nb=1, pretrained=None, device=None)
    )
    original.requires_grad_(True)
    torch.save({"state_dict": original.state_dict(), "epoch": 3}, tmp_path / "GSDRUNet.ckpt")
    prior = load_prior(tmp_path / "GSDRUNet.ckpt")
    expected = in_model_units(original)
    with torch.no_grad():
        torch.testing.assert_close(prior(IMAGE, torch.tensor(0.2)), expected)
    x = IMAGE.clone().requires_grad_()
    torch.testing.assert_close(prior(x, torch.tensor(0.2)), expected)


def test_the_jacobian_of_a_gradient_step_denoiser_is_symmetric():
    """It is a gradient; deepinv's cuts the graph, so that methods with a VJP could not use it."""
    network = filled(DRUNet(1, (4, 4, 4, 4), 1, "s").network()).double()
    step = GradientStep(network, 1.0)
    x, sigma = normal(1, 1, 16, 16).requires_grad_(), torch.full((1, 1, 1, 1), 0.1).double()
    u, v = normal(1, 1, 16, 16, seed=1), normal(1, 1, 16, 16, seed=2)
    ju, jv = (torch.autograd.grad((step(x, sigma) * w).sum(), x)[0] for w in (u, v))
    assert float((ju * v).sum()) == pytest.approx(float((jv * u).sum()), rel=1e-9)


def test_scunet_weights_denoise_as_in_deepinv():
    sizes = {"config": [2] * 7, "dim": 64, "pretrained": None}
    original = filled(deepinv("models.scunet").SCUNet(3, **sizes))
    prior = recognise(original.state_dict(), "x").prior()
    torch.testing.assert_close(prior(IMAGE, torch.tensor(0.2)), in_model_units(original))


def test_ram_weights_denoise_as_in_deepinv():
    original = filled(on_meta(lambda: deepinv("models").RAM(pretrained=False)), 0.02)
    prior = recognise(original.state_dict(), "x").prior()
    expected = 2 * original(IMAGE / 2 + 0.5, sigma=torch.tensor([0.1])) - 1
    torch.testing.assert_close(prior(IMAGE, torch.tensor(0.2)), expected)


def test_every_default_layout_is_told_from_the_others():
    small = {"blocks": 1, "multipliers": (1, 2)}
    layouts = (SMALL, EDM(**small), EDMWithADM(**small), EDM2_SMALL, DRUNet(), GSDRUNet())
    for layout in layouts:
        found = recognise(on_meta(layout.network).state_dict(), "x").layout
        assert type(found) is type(layout)


# --- files ------------------------------------------------------------------------------------


def test_converted_weights_have_a_card_and_denoise_the_same(command, tmp_path):
    torch.save(filled(SMALL.network()).state_dict(), tmp_path / "small.pt")
    described = json.dumps({"architecture": "guided-diffusion", "head_channels": 32})
    out = command(
        *("prior", "convert", "small.pt", "--network", described, "--out", "new.safetensors")
    )
    assert out.code == 0, out.err
    card = PriorCard.read("new.safetensors")
    assert card.foreign["architecture"] == "guided-diffusion"
    assert card.shape == "3 x any x any"
    expected = recognise(filled(SMALL.network()).state_dict(), "x", {"head_channels": 32}).prior()
    torch.testing.assert_close(load_prior("new.safetensors")(X, SIGMA), expected(X, SIGMA))
    assert "guided-diffusion" in command("prior", "info", "new.safetensors").out


def test_the_first_try_with_a_file_of_weights_solves(solve, tmp_path):
    torch.save(filled(DRUNet(3, (8, 8, 8, 8), 1).network()).state_dict(), tmp_path / "mine.pth")
    assert solve("--prior", "mine.pth", "--method", "dpir", "--set", "steps=2").code == 0


def test_another_architecture_is_one_line_with_the_nearest(solve, tmp_path):
    weights = filled(DRUNet(3, (8, 8, 8, 8), 2).network()).state_dict()
    weights["m_tail.bias"] = torch.zeros(3)
    del weights["m_up1.0.weight"]
    torch.save(weights, tmp_path / "odd.pth")
    solve("--prior", "odd.pth").refused(
        "nearest is drunet", "2 weights differ", "m_up1.0.weight is missing",
        "m_tail.bias is unexpected", "inverse prior convert odd.pth"
    )  # fmt: skip
    torch.save({"weight": torch.zeros(3)}, tmp_path / "none.pth")
    solve("--prior", "none.pth").refused("no known network has such weights (weight)", "edm2")


def test_a_card_of_an_unknown_architecture_is_one_line(solve, tmp_path):
    torch.save(filled(SMALL.network()).state_dict(), tmp_path / "small.pt")
    card = json.loads('{"architecture": "guided-diffusoin"}')
    from inverse.priors.networks.convert import ForeignWeights, convert

    convert(ForeignWeights(Path("small.pt")), tmp_path / "new.safetensors", {})
    path = tmp_path / "new.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"foreign": card}))
    solve("--prior", "new.safetensors").refused("did you mean 'guided-diffusion'?")


def test_averaged_weights_of_a_checkpoint_are_preferred(tmp_path):
    state = filled(DRUNet(3, (8, 8, 8, 8), 1).network()).state_dict()
    last = {k: 2 * v for k, v in state.items()}
    torch.save({"net_model": last, "ema_model": state, "step": 4}, tmp_path / "flow.pt")
    loaded = load_prior(tmp_path / "flow.pt").state_dict()
    assert any(torch.equal(v, state["m_tail.weight"]) for v in loaded.values())


def test_a_plug_in_registers_an_architecture(fresh_registry, tmp_path):
    path = tmp_path / "linear_denoiser.py"
    path.write_text(
        "from dataclasses import dataclass\n"
        "import torch\nfrom torch import nn\nimport inverse\n"
        "from inverse.priors.foreign.architecture import Architecture\n"
        "from inverse.priors.networks.parametrisations import DenoiserPrior\n"
        "@dataclass(frozen=True)\n"
        "class Scaled(Architecture):\n"
        "    name = 'scaled'\n    reference = 'none'\n    channels: int = 3\n"
        "    @classmethod\n    def read(cls, weights):\n"
        "        return {'channels': weights['factor'].shape[0]}\n"
        "    def network(self):\n"
        "        net = nn.Module()\n"
        "        net.factor = nn.Parameter(torch.ones(self.channels, 1, 1))\n"
        "        return net\n"
        "    def prior(self, network):\n"
        "        shape = (self.channels, None, None)\n"
        "        return DenoiserPrior(lambda x, s: network.factor * x, shape)\n"
        "@inverse.hookimpl\ndef inverse_architectures():\n    return [Scaled]\n"
    )
    inverse.registry.discovery.registry().load_file(path)
    save_file({"factor": torch.full((3, 1, 1), 0.5)}, tmp_path / "w.safetensors")
    torch.testing.assert_close(load_prior(tmp_path / "w.safetensors")(X, SIGMA), X / 2)
