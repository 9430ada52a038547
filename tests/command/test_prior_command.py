"""`inverse prior`: info, verify, convert and quantize."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from cli_fixtures import CONFIG, tiny_network
from conftest import image_prior, normal
from safetensors.torch import save_file
from torch import nn

import inverse
from inverse.checks.denoiser_identities import check, own_draws
from inverse.priors.cards import sha256
from inverse.priors.loading import PriorCard, default_side, load_prior, save_prior
from inverse.priors.prior import Prior

pytest_plugins = "cli_fixtures"

X, SIGMA = normal(2, 3, 16, 16).float(), torch.tensor(0.4)

# --- info -------------------------------------------------------------------------------------


def test_info_prints_the_card(command, tiny_prior):
    outcome = command("prior", "info", tiny_prior)
    assert outcome.code == 0, outcome.err
    for words in (
        sha256(tiny_prior),
        "3 x any x any",
        "physical = 0.5 * model + 0.5",
        "untrained",
        str(tiny_prior.stat().st_size),
    ):
        assert words in outcome.out
    assert json.loads(command("prior", "info", tiny_prior, "--json").out)["sha256"] == sha256(
        tiny_prior
    )


def test_an_unknown_prior_is_refused_with_the_known_ones(command):
    command("prior", "info", "foto-64").refused("did you mean 'photo-64'?")


# --- verify -----------------------------------------------------------------------------------


class Faulty(Prior):
    """A Gaussian prior with a wrong factor on its noise level or output, or the identity."""

    def __init__(
        self, right: Prior, noise: float = 1.0, output: float = 1.0, nothing: bool = False
    ):
        super().__init__(right.shape, sigma_min=0.02, sigma_max=10.0)
        self.right, self.noise, self.output, self.nothing = right, noise, output, nothing

    def forward(self, x, sigma):
        return (
            x if self.nothing else self.output * self.right(x, torch.as_tensor(sigma) * self.noise)
        )


@pytest.fixture(scope="module")
def draws():
    return image_prior().sample(64, inverse.seeded("draws"))


def test_an_exact_denoiser_satisfies_every_identity(draws):
    assert check(image_prior(), draws).failures == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"noise": 2.0}, "divergence"),
        ({"noise": 0.5}, "divergence"),
        ({"output": 1.5}, "varies by"),
        ({"nothing": True}, "above that of a constant"),
    ],
)
def test_a_faulty_denoiser_fails(draws, fault, words):
    assert any(
        words in failure for failure in check(Faulty(image_prior(), **fault), draws).failures
    )


def test_tweedies_identity_is_that_of_a_conditional_mean():
    """Both sides agree within four standard errors for a Gaussian prior at every level."""
    prior = image_prior()
    for level in check(prior, prior.sample(400, inverse.seeded("many"))).levels:
        assert abs(level.error**2 - level.tweedie**2) < 4 * level.standard_error


def test_own_draws_have_the_priors_law():
    """Mean and variance of a Gaussian image, up to the errors of 18 steps and 200 draws."""
    prior = image_prior()
    x = own_draws(prior, 200, steps=18)
    assert float((x.mean(0) - prior.mean).abs().max()) < 4 * float(x.std(0).max()) / 200**0.5
    assert float(x.var(0).mean()) == pytest.approx(0.1, rel=0.1)


def test_verify_exits_with_0_for_a_gaussian_denoiser_and_with_1_for_random_weights(
    command, tmp_path, tiny_prior
):
    """With a nearly zero last layer, EDM's preconditioning alone denoises a Gaussian."""
    fine = command("prior", "verify", tiny_prior, "--side", 16)
    assert (fine.code, fine.out.splitlines()[-1]) == (0, "the hash matches the card")
    prior = tiny_network()
    torch.nn.init.normal_(prior.network.tail.weight, std=2.0, generator=inverse.seeded("tail"))
    save_prior(prior, tmp_path / "random.safetensors")
    wrong = command("prior", "verify", "random.safetensors", "--side", 16)
    assert wrong.code == 1
    assert "at sigma" in wrong.out


def test_verify_takes_images(command, tiny_prior, tmp_path):
    import numpy as np

    np.savez(
        tmp_path / "images.npz",
        images=np.random.default_rng(0).integers(0, 255, (3, 20, 24, 3), dtype=np.uint8),
    )
    record = json.loads(
        command(
            "prior",
            "verify",
            tiny_prior,
            "--images",
            tmp_path / "images.npz",
            "--side",
            16,
            "--json",
        ).out
    )
    assert len(record["levels"]) == 10
    np.savez(tmp_path / "one.npz", images=np.zeros((1, 20, 24, 3), np.uint8))
    command("prior", "verify", tiny_prior, "--images", tmp_path / "one.npz", "--side", 16).refused(
        "holds 1 image", "two are needed"
    )


def test_the_side_is_that_of_the_training_crops(command, tmp_path):
    import numpy as np

    save_prior(tiny_network(), tmp_path / "small.safetensors", training={"crop": 20})
    np.savez(
        tmp_path / "images.npz",
        images=np.random.default_rng(0).integers(0, 255, (3, 20, 24, 3), dtype=np.uint8),
    )
    assert command("prior", "verify", "small.safetensors", "--images", "images.npz").code == 0
    command("prior", "verify", "small.safetensors", "--images", "images.npz", "--side", 24).refused(
        "none of at least 24x24"
    )
    assert (
        command(
            "prior", "quantize", "small.safetensors", "--samples", 1, "--out", "int8.safetensors"
        ).code
        == 0
    )
    assert PriorCard.read("int8.json").quantization["inputs"]["side"] == 20


@pytest.mark.parametrize(
    ("shape", "crop", "side"),
    [((3, 16, 16), 20, 16), ((3, None, None), 20, 20), ((3, None, None), None, 64)],
)
def test_the_usual_side_of_a_prior(shape, crop, side):
    prior = inverse.FlatPrior(shape)
    prior.crop = crop
    assert default_side(prior) == side


def test_info_of_a_weights_file_is_of_that_file(command, tmp_path):
    path = own_file(tmp_path)
    for suffix in (".safetensors", ".json"):
        path.with_suffix(suffix).rename(tmp_path / f"renamed{suffix}")
    assert (
        json.loads(command("prior", "info", "renamed.safetensors", "--json").out)["file"]
        == "renamed.safetensors"
    )


def test_verify_refuses_weights_of_another_hash(command, tmp_path):
    path = own_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    command("prior", "verify", path).refused("sha256 is", "the card says")


# --- convert ----------------------------------------------------------------------------------


def own_file(folder: Path) -> Path:
    save_prior(tiny_network(), folder / "own.safetensors")
    return folder / "own.safetensors"


@pytest.fixture
def architecture(tmp_path: Path) -> Path:
    path = tmp_path / "network.json"
    path.write_text(json.dumps(CONFIG.to_dict()))
    return path


def nothing_written(folder: Path) -> None:
    assert not (folder / "new.safetensors").exists()
    assert not (folder / "new.json").exists()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"ema": s, "step": 3},
        lambda s: {f"module.{k}": v for k, v in s.items()},
    ],
)
def test_a_pickled_state_dict_of_our_network_becomes_a_prior(command, tmp_path, architecture, wrap):
    torch.save(wrap(tiny_network().network.state_dict()), tmp_path / "own.pt")
    outcome = command(
        "prior",
        "convert",
        tmp_path / "own.pt",
        "--network",
        architecture,
        "--out",
        "new.safetensors",
        "--licence",
        "CC0",
    )
    assert outcome.code == 0, outcome.err
    assert outcome.path == Path("new.safetensors")
    assert PriorCard.read(Path("new.json")).licence == "CC0"
    torch.testing.assert_close(
        load_prior("new.safetensors")(X, SIGMA), tiny_network()(X, SIGMA), rtol=1e-5, atol=1e-5
    )  # float32, as they were


def test_the_refusal_of_our_own_state_dict_names_the_command_that_mends_it(
    command, solve, tmp_path, architecture
):
    torch.save(tiny_network().network.state_dict(), tmp_path / "own.pt")
    line = solve("--prior", tmp_path / "own.pt").refused(
        "no known network has such weights", "inverse prior convert"
    )
    how = (
        line.rpartition("inverse ")[2]
        .replace("CONFIG.json", str(architecture))
        .replace("NAME", "new")
    )
    assert command(*how.split()).code == 0
    assert solve("--prior", "new.safetensors").code == 0


class Harm:
    """A hostile pickle: it makes the reader call a function."""

    def __reduce__(self):
        return (Path.touch, (Path("harm-was-done"),))


def test_a_pickle_that_holds_more_than_tensors_is_refused_and_not_run(
    command, tmp_path, architecture
):
    torch.save({"state": tiny_network().network.state_dict(), "code": Harm()}, tmp_path / "harm.pt")
    refused = command(
        "prior", "convert", "harm.pt", "--network", architecture, "--out", "new.safetensors"
    )
    refused.refused("holds more than tensors", "save its state_dict() alone")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Harm()))
    command(
        "prior", "convert", "plain.pt", "--network", architecture, "--out", "new.safetensors"
    ).refused("plain.pt")
    assert not Path("harm-was-done").exists()
    nothing_written(tmp_path)


def test_weights_that_cannot_be_converted_are_refused_in_one_line(command, tmp_path, architecture):
    state = tiny_network().network.state_dict()
    torch.save({"a": state, "b": state}, tmp_path / "two.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"12345678{")
    (tmp_path / "bad.json").write_text("{")
    out = ("--out", "new.safetensors")
    given = ("--network", architecture, *out)
    command("prior", "convert", "two.pt", *given).refused("choose one with --key: a, b")
    assert (
        command(
            "prior",
            "convert",
            "two.pt",
            "--key",
            "b",
            "--network",
            architecture,
            "--out",
            "b.safetensors",
        ).code
        == 0
    )
    command("prior", "convert", "list.pt", *given).refused("no single state dict")
    command("prior", "convert", "other.safetensors", *given).refused("does not fit the network")
    command("prior", "convert", "other.safetensors", *out).refused("needs --network CONFIG.json")
    command("prior", "convert", "cut.safetensors", *given).refused("not a readable file of weights")
    for options in (given, out):  # an unusable source is reported before a missing --network
        command("prior", "convert", "none.pt", *options).refused("no such file")
        command("prior", "convert", "network.json", *options).refused("expected .safetensors")
    command("prior", "convert", "two.pt", "--network", "bad.json", *out).refused(
        "not readable JSON"
    )
    command("prior", "convert", "two.pt", "--network", architecture, "--out", "new.pt").refused(
        "written as .safetensors"
    )
    command("prior", "convert", "two.pt", "--key", "a", "--sigma-data", 0, *given).refused(
        "--sigma-data must be positive"
    )
    nothing_written(tmp_path)


diffusers = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("diffusers"),
    reason="diffusers is not installed",
)


@diffusers
@pytest.mark.parametrize("pickled", [False, True])
def test_a_diffusers_folder_becomes_one_file_that_denoises_the_same(command, tmp_path, pickled):
    from test_parametrisations import save_pipeline

    unet = save_pipeline(tmp_path / "pipeline")
    expected = load_prior(tmp_path / "pipeline")(X, SIGMA)
    if pickled:
        next((tmp_path / "pipeline" / "unet").glob("*.safetensors")).unlink()
        torch.save(
            unet.state_dict(), tmp_path / "pipeline" / "unet" / "diffusion_pytorch_model.bin"
        )
    outcome = command("prior", "convert", "pipeline", "--out", "new.safetensors")
    assert outcome.code == 0, outcome.err
    torch.testing.assert_close(load_prior("new.safetensors")(X, SIGMA), expected)
    assert "3 x 16 x 16" in command("prior", "info", "new.safetensors").out
    assert "UNet2DModel" in command("prior", "info", "new.safetensors").out
    solved = command(
        "solve",
        "--problem",
        "denoise",
        "--method",
        "pseudo-inverse",
        "--prior",
        "new.safetensors",
        "--input",
        picture(tmp_path),
    )
    assert solved.code == 0, solved.err


@diffusers
def test_an_edm_network_of_diffusers_is_converted_from_safetensors_and_its_config(
    command, tmp_path
):
    """The default parametrisation is EDM's with the given sigma_data, as `parametrisations.edm`."""
    from test_parametrisations import save_pipeline

    from inverse.priors.networks.parametrisations import edm

    unet = save_pipeline(tmp_path / "pipeline")
    weights = next((tmp_path / "pipeline" / "unet").glob("*.safetensors"))
    outcome = command(
        "prior",
        "convert",
        weights,
        "--network",
        tmp_path / "pipeline" / "unet" / "config.json",
        "--sigma-data",
        0.6,
        "--out",
        "new.safetensors",
    )
    assert outcome.code == 0, outcome.err

    class Plain(nn.Module):
        def forward(self, x, t):
            return unet(x, t).sample

    torch.testing.assert_close(
        load_prior("new.safetensors")(X, SIGMA), edm(Plain(), sigma_data=0.6)(X, SIGMA)
    )
    command("prior", "convert", tmp_path / "pipeline", "--out", "new.pt").refused(
        "written as .safetensors"
    )


@diffusers
def test_a_latent_pipeline_stays_a_folder(command, tmp_path):
    from test_parametrisations import save_pipeline

    save_pipeline(tmp_path / "pipeline", latent=True)
    command("prior", "convert", "pipeline", "--out", "new.safetensors").refused(
        "is latent (vae/)", "pass the folder itself to --prior"
    )
    assert "saved by diffusers" in command("prior", "info", "pipeline").out
    nothing_written(tmp_path)


def picture(folder: Path) -> Path:
    from cli_fixtures import pixels, write_picture

    return write_picture(folder / "photo.png", pixels(16, 16))
