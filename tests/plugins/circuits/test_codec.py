"""The codec, circuits over its codes, their guide of an image, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import image_prior

import inverse
from inverse.errors import OptionError, PriorError
from inverse.io.images import write_png
from inverse.training.loop import TrainConfig
from inverse_plugins.circuits.cards import (
    CodecCard,
    load_circuit,
    load_codec,
    save_circuit,
    save_codec,
)
from inverse_plugins.circuits.circuit import Circuit
from inverse_plugins.circuits.codec import FAINT, Codec, CodecConfig
from inverse_plugins.circuits.codec_training import CodecTraining, evaluate
from inverse_plugins.circuits.distillation import distil
from inverse_plugins.circuits.expectation_maximisation import fit, log_likelihoods
from inverse_plugins.circuits.graph import RegionGraph
from inverse_plugins.circuits.guides import ImageEvidence, TokenGuide, load_guide

pytest_plugins = "cli_fixtures"

SMALL = CodecConfig(channels=3, widths=(8, 8), blocks=(1, 1), codes=6, code_width=4)


def codec() -> Codec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Codec(SMALL, residual=0.1).double().requires_grad_(False)


def guide(**settings: object) -> TokenGuide:
    """A guide of two by two codes, 8 x 8 pixels."""
    return TokenGuide(
        Circuit(
            RegionGraph.quad_split(2, 2), 3, 6, shape=(2, 2), generator=inverse.seeded("tokens")
        ).double(),
        codec(),
        **settings,
    )


def photographs(count: int = 60) -> np.ndarray:
    """Smooth colour gradients (N, 16, 16, 3), uint8."""
    rng = np.random.default_rng(0)
    corners = rng.random((count, 4, 3))
    s, t = np.meshgrid(np.linspace(0, 1, 16), np.linspace(0, 1, 16))
    weights = np.stack([(1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t])
    return (255 * np.einsum("kij,nkc->nijc", weights, corners)).astype(np.uint8)


# --- the autoencoder --------------------------------------------------------------------------


def test_code_is_the_nearest_by_brute_force():
    c, u = codec(), torch.rand(2, 3, 16, 8, dtype=torch.float64, generator=inverse.seeded("u"))
    z = c.features(u)
    square = (z[:, :, None] - c.book.T[None, :, :, None, None]).square().mean(1)
    torch.testing.assert_close(
        c.distances(z), square.sqrt().permute(0, 2, 3, 1), rtol=0, atol=1e-12
    )
    assert torch.equal(c.encode(u), square.argmin(1))
    assert z.square().mean(1).sub(1).abs().max() < 0.05  # unit size up to the epsilon of the norm
    assert c.decode(c.encode(u)).shape == u.shape


def test_soft_codes_keep_the_nearest_and_become_hard_at_low_temperature():
    c, u = codec(), torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=inverse.seeded("u"))
    d = c.distances(c.features(u))
    warm = c.soft_codes(u, torch.full((1, 2, 2), 0.3, dtype=torch.float64), top=3)
    assert ((warm > FAINT).sum(-1) == 3).all()
    kept = warm > FAINT
    torch.testing.assert_close(
        warm[kept], ((d.min(-1, keepdim=True).values - d) / 0.3)[kept], rtol=0, atol=1e-12
    )
    cold = c.soft_codes(u, torch.full((1, 2, 2), 1e-9).double(), top=3).softmax(-1)
    torch.testing.assert_close(
        cold, torch.nn.functional.one_hot(c.encode(u), 6).double(), rtol=0, atol=1e-7
    )  # the others have weight 1e-8


def test_training_lowers_the_error_and_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    images = [list(photographs())]
    config = TrainConfig(16, 60, 8, 1e-2, warmup=5, network=SMALL)
    whole = CodecTraining(images, config, tmp_path / "whole.safetensors")
    losses = [float(whole.take_step()) for _ in range(60)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])  # 0.65 when written; 1 for a frozen codebook
    for steps in (30, 60):
        part = CodecTraining(
            images, replace(config, steps=steps, cooldown=0.0), tmp_path / "part.safetensors"
        )
        part.config = config
        while part.step < steps:
            part.take_step()
        part.save()
    assert torch.equal(part.prior.book, whole.prior.book)
    assert all(torch.equal(whole.ema[name], value) for name, value in part.ema.items())


def test_unused_code_restarts_at_a_feature(tmp_path):
    training = CodecTraining(
        [list(photographs())], TrainConfig(16, 600, 2, network=SMALL), tmp_path / "c.safetensors"
    )
    training.take_step()
    training.prior.book[3] = 100.0
    training.sums[3], training.counts[3] = 100.0, 0.01
    training.take_step()
    assert training.prior.book[3].square().mean() < 1.01


def test_saved_codec_is_loaded(tmp_path):
    c = codec().float()
    save_codec(c, tmp_path / "mine.safetensors", licence="CC0")
    loaded = load_codec(tmp_path / "mine.safetensors")
    u = torch.rand(1, 3, 8, 8, generator=inverse.seeded("u"))
    assert (loaded.config, loaded.residual, CodecCard.read(tmp_path / "mine.json").licence) == (
        SMALL,
        0.1,
        "CC0",
    )
    torch.testing.assert_close(
        loaded.render(c.features(u)), c.render(c.features(u)), rtol=0, atol=5e-3
    )  # half precision through a few layers


# --- circuits over codes ----------------------------------------------------------------------


def test_tied_leaves_share_one_table_in_training_too():
    """One M-step gives two tied variables the frequencies of all four values."""
    circuit = Circuit(RegionGraph((0, 1), (((0, 1),),)), 1, 3, ties=[0, 0]).double()
    x = torch.tensor([[0, 1], [2, 1]])
    list(fit(circuit, x, 1, pseudocount=0.0))
    torch.testing.assert_close(
        circuit.theta[:, 0], torch.tensor([[0.25, 0.5, 0.25]] * 2).double(), rtol=0, atol=1e-12
    )


def test_distillation_finds_the_clusters():
    """Codes of two hidden classes: ln 2 nats a sample, where independent codes take 4 ln 2."""
    z = torch.arange(200) % 2
    x = z[:, None].expand(200, 4).clone()
    features = z[:, None, None].expand(200, 4, 1) * torch.ones(200, 4, 2)
    circuit = Circuit(RegionGraph.quad_split(2, 2), 2, 2, shape=(2, 2), ties=[0, 0, 0, 0]).double()
    distil(circuit, x, features, pseudocount=0.0, seed=1)
    torch.testing.assert_close(
        log_likelihoods(circuit, x).mean(), -torch.tensor(2.0).double().log(), rtol=0, atol=1e-6
    )


def test_repeated_draws_of_a_row_follow_its_posterior():
    """4000 draws of two rows from one stream: frequencies within 4 standard errors."""
    circuit = guide().circuit
    evidence = torch.randn(2, 4, 6, dtype=torch.float64, generator=inverse.seeded("evidence"))
    drawn = circuit.sample(evidence, inverse.Generators([inverse.seeded("draws")]), 4000).unflatten(
        0, (2, 4000)
    )
    found = torch.nn.functional.one_hot(drawn, 6).double().mean(1)
    p = circuit.beliefs(evidence).posterior
    assert ((found - p).abs() < 4 * (p * (1 - p) / 4000).sqrt() + 1e-9).all()


# --- the guide --------------------------------------------------------------------------------


def image_evidence(batch: int = 2) -> ImageEvidence:
    x = torch.rand(batch, 3, 8, 16, dtype=torch.float64, generator=inverse.seeded("look"))
    noise = torch.full((1, 8, 16), torch.inf, dtype=torch.float64)
    noise[:, :, :6] = 0.0
    return ImageEvidence(x, torch.tensor(0.1).double(), x.flip(0) / 2, x, noise)


@pytest.mark.parametrize("drawn", ["independent", "joint"])
def test_moments_of_the_token_guide_are_those_of_decoded_draws(drawn):
    """Of 64 draws, with the codec's error; measured pixels have the mean x0_hat."""
    evidence, g = image_evidence(), guide(drawn=drawn, draws=64)
    mean, variance = g.moments(evidence, inverse.Generators.for_samples(0, 2, 1))
    fraction = torch.tensor([1.0, 0.5, 0.0, 0.0]).double().expand(2, 2, 4)
    filled = torch.where(evidence.measured, evidence.y, evidence.x0_hat)
    soft_codes = g.codec.soft_codes(filled, g.hot + fraction * (g.cold - g.hot), g.top)
    rows, known = (
        torch.stack([t[:, :, :2], t[:, :, 2:]], 1).reshape(4, 4, -1)
        for t in (soft_codes, fraction[..., None])
    )  # two blocks of 2 x 2 codes in each image
    codes = g.draw_codes(rows, known[..., 0], inverse.Generators.for_samples(0, 2, 1))
    maps = codes.reshape(2, 2, 64, 2, 2)
    maps = torch.cat([maps[:, 0], maps[:, 1]], -1)
    decoded = g.codec.decode(maps.flatten(0, 1)).unflatten(0, (2, 64)).clamp(0, 1)
    expected = torch.where(evidence.measured, evidence.x0_hat, decoded.mean(1))
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(variance, decoded.var(1) + 0.1**2, rtol=0, atol=1e-12)


def test_guide_of_an_image_does_not_depend_on_its_batch():
    both, g = image_evidence(), guide(draws=64)
    mean, _ = g.moments(both, inverse.Generators.for_samples(0, 2, 1))
    second = ImageEvidence(both.x[1:], both.variance, both.x0_hat[1:], both.y[1:], both.noise)
    alone, _ = g.moments(second, inverse.Generators.for_samples(0, 1, 1, first_image=1))
    torch.testing.assert_close(alone[0], mean[1], rtol=0, atol=1e-12)


def test_independent_codes_follow_the_published_mixture():
    """p ~ predictive^(1 - f) w^f; frequencies within 4 standard errors."""
    g, fraction = guide(draws=20_000), torch.tensor([[0.0, 0.25, 0.5, 1.0]]).double()
    evidence = torch.randn(1, 4, 6, dtype=torch.float64, generator=inverse.seeded("evidence"))
    drawn = g.draw_codes(evidence, fraction, inverse.Generators([inverse.seeded("draws")]))
    f = fraction[..., None]
    p = (
        g.circuit.beliefs(evidence).predictive.log() * (1 - f) + f * evidence.log_softmax(-1)
    ).softmax(-1)[0]
    found = torch.nn.functional.one_hot(drawn[0], 6).double().mean(0)
    assert ((found - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt() + 1e-9).all()


def test_unblocks_inverts_blocks():
    g = guide()
    codes = torch.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    assert torch.equal(
        g.unblocks(g.blocks(codes)[..., 0][:, None], torch.Size((2, 4, 6)))[:, 0], codes[..., 0]
    )


# --- files, the command, refusals -------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec in mine.safetensors, and a circuit over its codes in tokens.safetensors."""
    folder, g = tmp_path_factory.mktemp("tokens"), guide()
    card = save_codec(g.codec, folder / "mine.safetensors")
    save_circuit(
        g.circuit, folder / "tokens.safetensors", codec={"name": "mine", "sha256": card.sha256}
    )
    return folder


def test_circuit_over_codes_steers_unless_its_weight_is_zero(files):
    prior = image_prior()
    seen = torch.arange(8).expand(3, 8, 8) < 4
    y = prior.decode(prior.sample(1, inverse.seeded("tokens"))) * seen
    operator = inverse.physics.Inpainting(img_size=(3, 8, 8), mask=seen.double())
    posterior = inverse.Posterior(
        prior,
        operator,
        y,
        inverse.GaussianNoise(0.0, observed=seen),
        shape=(3, 8, 8),
        dtype=torch.float64,
    )

    def solved(**options: object) -> inverse.Result:
        method = inverse.get_method(
            "tractable-steering",
            circuit=str(files / "tokens.safetensors"),
            steps=10,
            fraction=0.8,
            **options,
        )
        return inverse.solve(posterior, method, samples=2)

    base = inverse.solve(posterior, inverse.get_method("ddnm", steps=10, eta=0), samples=2)
    steered = solved()
    assert torch.equal(solved(a0=1.0, a1=1.0).samples, base.samples)
    assert (steered.samples - base.samples).abs().max() > 1e-3
    assert steered.cost == base.cost
    assert (solved(drawn="joint").samples - steered.samples).abs().max() > 1e-6


def test_commands_train_a_codec_and_a_circuit_over_its_codes(command, tmp_path):
    """Gradients of four colours: below the log2 6 = 2.58 bits of independent uniform codes."""
    np.savez(tmp_path / "few.npz", images=photographs())
    options = [
        "--size",
        "16",
        "--widths",
        "8,8",
        "--blocks",
        "1,1",
        "--codes",
        "6",
        "--steps",
        "40",
        "--batch",
        "8",
    ]
    outcome = command(
        "train-codec",
        "--images",
        str(tmp_path / "few.npz"),
        "--out",
        str(tmp_path / "mine.safetensors"),
        *options,
    )
    assert outcome.code == 0, outcome
    report = json.loads(outcome.out.splitlines()[-1])
    assert (tmp_path / "mine.samples.png").is_file()
    _, fidelity = evaluate(
        load_codec(tmp_path / "mine.json"),
        torch.from_numpy(photographs()).permute(0, 3, 1, 2).float() / 255,
    )
    assert (
        abs(fidelity["psnr"] - report["fidelity"]["psnr"]) < 1.0
    )  # other crops of the same images
    options = [
        "--codec",
        str(tmp_path / "mine.safetensors"),
        "--size",
        "4",
        "--tie",
        "2",
        "--structure",
        "quad",
        "--states",
        "4",
        "--epochs",
        "3",
    ]
    outcome = command(
        "train-circuit",
        "--images",
        str(tmp_path / "few.npz"),
        "--out",
        str(tmp_path / "tokens.safetensors"),
        *options,
    )
    assert outcome.code == 0, outcome
    assert json.loads(outcome.out.splitlines()[-1])["bits"]["training"] < 2.3
    assert load_circuit(tmp_path / "tokens.safetensors").ties.max() == 3
    assert isinstance(load_guide(tmp_path / "tokens.safetensors"), TokenGuide)


def test_codec_of_another_circuit_is_refused(files, tmp_path):
    for name in ("tokens.json", "tokens.safetensors"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    other = codec()
    other.book.mul_(0.5)
    save_codec(other, tmp_path / "mine.safetensors")
    with pytest.raises(PriorError, match=r"trained on codes of mine.*train the circuit again"):
        load_guide(tmp_path / "tokens.safetensors")
    (tmp_path / "mine.json").unlink()
    with pytest.raises(
        PriorError,
        match=r"was trained on codes of mine, whose card .*mine\.json is missing; put that codec",
    ):
        load_guide(tmp_path / "tokens.safetensors")


def test_image_that_blocks_of_codes_do_not_tile_is_refused(command, files, tiny_prior, odd_picture):
    options = ["--prior", str(tiny_prior), "--set", f"circuit={files / 'tokens.safetensors'}"]
    outcome = command(
        "solve",
        "--problem",
        "inpainting",
        "--method",
        "tractable-steering",
        "--input",
        str(odd_picture),
        *options,
    )
    outcome.refused("codes of blocks of 8 x 8 pixels in 3 channels", "3 x 60 x 60")


@pytest.fixture
def odd_picture(tmp_path: Path) -> Path:
    """A picture of 60 x 60 pixels."""
    path = tmp_path / "odd.png"
    write_png(path, torch.rand(3, 60, 60, generator=inverse.seeded("odd")))
    return path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shrink", "2", "--codec", "x"], ["codes have no order", "--shrink"]),
        (["--tie", "3"], ["--tie must divide --size"]),
        (["--codec", "nobody"], ["codec 'nobody' is not known"]),
    ],
)
def test_options_that_exclude_each_other_are_refused(command, tmp_path, options, words):
    np.savez(tmp_path / "few.npz", images=photographs(20))
    outcome = command(
        "train-circuit",
        "--images",
        str(tmp_path / "few.npz"),
        "--out",
        str(tmp_path / "out.safetensors"),
        *options,
    )
    outcome.refused(*words)


def test_crops_of_partial_patches_are_refused(command, tmp_path):
    outcome = command(
        "train-codec",
        "--images",
        str(tmp_path),
        "--out",
        str(tmp_path / "out.safetensors"),
        "--size",
        "18",
    )
    outcome.refused("multiple of 4", "18")


def test_a_single_draw_is_refused():
    with pytest.raises(OptionError, match="draws must be at least 2"):
        inverse.get_method("tractable-steering", draws=1)
