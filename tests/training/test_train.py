"""Training: image sources, checkpoints that survive a kill, and the prior that it writes."""

import io
import json
import os
import signal
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import inverse
from inverse.errors import InputError, OptionError
from inverse.io.image_sets import load_images
from inverse.priors.networks.unet import UNetConfig
from inverse.training.crops import random_crops
from inverse.training.loop import TrainConfig, Training, pixel_std
from inverse.training.prior import load_start, train_prior
from inverse.training.progress import train_to_end

pytest_plugins = "cli_fixtures"

TINY = TrainConfig(
    size=16,
    steps=6,
    batch=2,
    warmup=2,
    network=UNetConfig(channels=3, widths=(8, 16), blocks=(1, 1), embedding=16),
)


@pytest.fixture
def images():
    """Twelve smooth colour images, 20 x 24, uint8."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 5, 6, 3), dtype=np.uint8)
    return [
        np.asarray(Image.fromarray(c).resize((24, 20), Image.Resampling.BICUBIC)) for c in coarse
    ]


def test_resumed_run_is_the_uninterrupted_run(images, tmp_path):
    whole = Training([images], TINY, tmp_path / "whole.safetensors")
    for _ in whole.run():
        pass
    for steps in (3, 6):  # the second object starts from the first object's file, as after a kill
        part = Training(
            [images], replace(TINY, steps=steps, cooldown=0.0), tmp_path / "part.safetensors"
        )
        part.config = replace(TINY, steps=6)
        while part.step < steps:
            part.take_step()
        part.save()
    for name, value in whole.ema.items():
        assert torch.equal(value, part.ema[name]), name
        assert torch.equal(whole.parameters[name], part.parameters[name]), name


def test_training_lowers_the_loss(images, tmp_path):
    training = Training(
        [images], replace(TINY, steps=150, batch=8, learning_rate=3e-3), tmp_path / "c.safetensors"
    )
    x0 = training.prior.encode(random_crops([images], 16, 64, inverse.seeded("held out")))
    noise, sigma = torch.randn(x0.shape, generator=inverse.seeded("noise")), torch.full((64,), 0.3)
    before = training.prior.loss(x0, sigma, noise).item()
    list(advance(training, 150))
    after = training.prior.loss(x0, sigma, noise).item()
    assert (
        after < 0.85 * before
    )  # it falls by a quarter; with a wrong sign or frozen layers it stays


def advance(training, steps):
    for _ in range(steps):
        yield training.take_step()


def test_training_leaves_the_global_generator_alone(images, tmp_path):
    state = torch.get_rng_state()
    list(advance(Training([images], TINY, tmp_path / "c.safetensors"), 2))
    assert torch.equal(torch.get_rng_state(), state)


def test_learning_rate_warms_up_and_cools_down():
    config = TrainConfig(steps=1000, warmup=100, cooldown=0.2, learning_rate=1.0)
    assert config.rate(0) == pytest.approx(0.01)
    assert config.rate(500) == 1.0
    assert config.rate(900) == pytest.approx(0.5)
    assert config.rate(999) == pytest.approx(0.005)


def test_a_share_of_the_levels_is_log_uniform(images, tmp_path):
    """The highest tenth of the log range holds a tenth of the wide share, within 5 deviations."""
    n, share = 20_000, {}
    for wide in (0.0, 0.5, 1.0):
        training = Training(
            [images], replace(TINY, batch=n, wide=wide), tmp_path / f"{wide}.safetensors"
        )
        low, high = training.prior.sigma_min, training.prior.sigma_max
        sigma = training.noise_levels(inverse.seeded(0))
        share[wide] = float((sigma > high * (low / high) ** 0.1).double().mean())
        assert (low <= sigma.min()) or wide < 1
    assert share[0.0] < 1e-3
    assert share[0.5] == pytest.approx(0.05, abs=5 * (0.05 / n) ** 0.5)
    assert share[1.0] == pytest.approx(0.1, abs=5 * (0.1 / n) ** 0.5)


def test_training_continues_from_a_prior(images, tmp_path, command):
    """A training takes weights, network and scale from its start; its checkpoint names it."""
    np.savez(tmp_path / "a.npz", images=np.stack(images))
    train_prior([tmp_path / "a.npz"], tmp_path / "first.safetensors", TINY.network, TINY, "cpu", {})
    start, digest = load_start(str(tmp_path / "first.safetensors"))
    start.sigma_data = 0.7
    training = Training(
        [images], replace(TINY, start=digest), tmp_path / "c.safetensors", start=start
    )
    for name, value in start.named_parameters():
        assert torch.equal(training.parameters[name], value)
        assert training.parameters[name].requires_grad
        assert training.parameters[name] is not value
    assert training.averaged().sigma_data == 0.7
    training.save()
    with pytest.raises(InputError, match="belongs to other settings"):
        Training([images], TINY, tmp_path / "c.safetensors")
    options = (
        "--images",
        tmp_path / "a.npz",
        "--size",
        16,
        "--steps",
        1,
        "--batch",
        2,
        "--out",
        tmp_path / "second.safetensors",
    )
    assert command("train", *options, "--start", tmp_path / "first.safetensors").code == 0
    card = json.loads((tmp_path / "second.json").read_text())
    assert card["network"]["widths"] == [8, 16]  # not the command's default


def test_a_start_that_is_not_a_trained_network_is_refused(images, tmp_path, command):
    np.savez(tmp_path / "a.npz", images=np.stack(images))
    options = (
        "--images",
        tmp_path / "a.npz",
        "--size",
        16,
        "--out",
        tmp_path / "second.safetensors",
    )
    command("train", *options, "--start", "era5-uk-t2m-gaussian").refused(
        "--start takes a float network of `inverse train`", "era5-uk-t2m-gaussian is not one"
    )


def test_fields_refuse_the_options_of_images(tmp_path, command):
    fields = (
        "--images",
        tmp_path / "era5.nc",
        "--variable",
        "t2m",
        "--out",
        tmp_path / "second.safetensors",
    )
    command("train", *fields, "--start", "photo-64").refused(
        "--start applies to images, got --images", "era5.nc"
    )


def test_a_checkpoint_of_other_settings_is_refused(images, tmp_path):
    Training([images], TINY, tmp_path / "c.safetensors").save()
    with pytest.raises(InputError, match="belongs to other settings"):
        Training([images], replace(TINY, batch=3), tmp_path / "c.safetensors")


def test_a_damaged_checkpoint_is_refused(images, tmp_path):
    (tmp_path / "c.safetensors").write_bytes(b"\x10\x00\x00")
    with pytest.raises(InputError, match="damaged"):
        Training([images], TINY, tmp_path / "c.safetensors")


def test_sources_read_alike_from_folder_npz_jpeg_pack_and_hdf5(images, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    np.savez(tmp_path / "a.npz", images=np.stack(images))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = np.stack(images)
    files = [png_bytes(image) for image in images]  # the pack stores files; PNG is lossless
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(
        tmp_path / "pack.npz",
        jpeg=np.frombuffer(b"".join(files), dtype=np.uint8),
        offsets=offsets,
        labels=np.zeros(len(files)),
    )
    for source in (folder, tmp_path / "a.npz", tmp_path / "a.h5", tmp_path / "pack.npz"):
        loaded = load_images(source, 16, 3)
        assert len(loaded) == len(images)
        assert all(np.array_equal(a, b) for a, b in zip(loaded, images, strict=True)), source


def png_bytes(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def test_crops_are_pieces_of_the_images_and_sources_come_equally_often(images):
    black, white = [np.zeros((20, 20, 3), np.uint8)] * 9, [np.full((20, 20, 3), 255, np.uint8)]
    crops = random_crops([black, white], 16, 4000, inverse.seeded(0))
    share = float(crops.mean())
    assert abs(share - 0.5) < 4 * 0.5 / 4000**0.5  # four standard errors of a fair coin
    crop = (
        random_crops([images], 16, 1, inverse.seeded(1))[0]
        .permute(1, 2, 0)
        .mul(255)
        .round()
        .byte()
        .numpy()
    )
    windows = [
        w for image in images for flip in (image, image[:, ::-1]) for w in windows_of(flip, 16)
    ]
    assert any(np.array_equal(crop, w) for w in windows)


def test_crops_are_mirrored_on_demand_only():
    """A ramp falls in half of the crops (four standard errors), or in none."""
    ramp = [np.arange(20, dtype=np.uint8)[None, :, None].repeat(20, 0)]
    flipped, kept = (
        random_crops([ramp], 16, 400, inverse.seeded(0), mirror) for mirror in (True, False)
    )
    falls = flipped[:, 0, 0, 0] > flipped[:, 0, 0, -1]
    assert abs(float(falls.float().mean()) - 0.5) < 4 * 0.5 / 400**0.5
    assert not (kept[:, 0, 0, 0] > kept[:, 0, 0, -1]).any()
    assert torch.equal(kept[falls].flip(-1), flipped[falls])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], True),
        (["--channels", "1"], False),
        (["--no-mirror"], False),
        (["--channels", "1", "--mirror"], True),
    ],
)
def test_colour_is_mirrored_by_default_and_grey_is_not(
    command, tmp_path, monkeypatch, options, expected
):
    """Mirrored digits are wrong; mirrored photographs are not."""
    seen = []
    monkeypatch.setattr(
        "inverse.training.prior.train_prior",
        lambda sources, out, network, config, *rest: seen.append(config.mirror) or True,
    )
    assert (
        command(
            "train", "--images", str(tmp_path), "--out", str(tmp_path / "x.safetensors"), *options
        ).code
        == 0
    )
    assert seen == [expected]


def windows_of(image, size):
    return [
        image[i : i + size, j : j + size]
        for i in range(image.shape[0] - size + 1)
        for j in range(image.shape[1] - size + 1)
    ]


def test_sigma_data_is_the_standard_deviation_of_the_sources(images):
    expected = (np.stack(images) / 255.0 * 2 - 1).std()
    assert pixel_std([images]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("missing", "no such file"),
        ("empty", "0 found, none of at least"),
        ("small", "the largest has "),
        ("text", "expected a folder"),
    ],
)
def test_unusable_sources_are_named(make, message, tmp_path):
    path = tmp_path / "source"
    if make == "text":
        path = tmp_path / "source.txt"
        path.write_text("no images")
    elif make != "missing":
        path.mkdir()
        if make == "small":
            Image.new("RGB", (8, 8)).save(path / "a.png")
    with pytest.raises(InputError, match=message):
        load_images(path, 16, 3)


def test_train_writes_a_prior_that_loads_and_a_card_that_describes_it(images, tmp_path):
    np.savez(tmp_path / "a.npz", images=np.stack(images))
    out = tmp_path / "mine.safetensors"
    assert train_prior(
        [tmp_path / "a.npz"],
        out,
        TINY.network,
        TINY,
        "cpu",
        {"licence": "mine", "limits": "none known"},
    )
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["name"] == "mine"
    assert card["training"]["steps"] == TINY.steps
    assert card["licence"] == "mine"
    assert set(card["denoising"]["psnr"]) >= {"15", "25", "50"}
    assert out.with_suffix(".samples.png").exists()
    training = Training([images], TINY, out.with_suffix(".checkpoint.safetensors"))
    prior = inverse.load_prior(out)
    x = torch.randn(1, 3, 16, 16, generator=inverse.seeded(0))
    gap = (prior(x, torch.tensor(1.0)) - training.averaged()(x, torch.tensor(1.0))).abs().max()
    assert gap < 2e-3  # the weights were rounded to half precision: 11 bits


def test_no_steps_fit_the_field_of_the_images(tmp_path, command):
    """The law is that of the images: their mean, variance and exponent, for any size."""
    field = inverse.priors.field.power_law_field(
        {"mean": [0.1], "colours": [[1.0]], "power": [1e-4], "corner": [0.05], "exponent": [1.4]},
        shift=0.5,
        scale=0.5,
    ).sized(32, 32)
    drawn = field.decode(field.sample(60, inverse.seeded("field"))).clamp(0, 1)
    images = (255 * drawn[:, 0]).round().to(torch.uint8).numpy()
    np.savez(tmp_path / "a.npz", images=images)
    given = ("train", "--images", "a.npz", "--size", "32", "--channels", "1", "--steps", "0")
    outcome = command(*given, "--out", "field.safetensors", "--limits", "none")
    assert outcome.code == 0, outcome.err
    prior = inverse.load_prior(tmp_path / "field.safetensors")
    assert prior.shape == (1, None, None)
    assert float(prior.mean.squeeze()) == pytest.approx(float(images.mean() / 127.5 - 1), abs=1e-4)
    x = torch.randn(2, 1, 20, 28, generator=inverse.seeded(0))
    expected = field_of(prior.power_law)(x, torch.tensor(0.5))
    torch.testing.assert_close(prior(x, torch.tensor(0.5)), expected.float(), atol=1e-5, rtol=0)
    assert prior.power_law["exponent"][0] == pytest.approx(1.4, abs=0.3)
    command(*given, "--out", "f.safetensors", "--start", "digits-28").refused("no --start")


def field_of(law):
    """The field of a card, in double precision."""
    return inverse.priors.field.power_law_field(law, shift=0.5, scale=0.5).double()


def test_out_must_be_safetensors(tmp_path):
    with pytest.raises(OptionError, match=r"must end in \.safetensors"):
        train_prior([tmp_path], tmp_path / "prior.pt", TINY.network, TINY, "cpu", {})


LEARNING_RATES = [{"learning_rate": rate} for rate in (0.0, -1.0, float("nan"), float("inf"))]


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 4},
        {"steps": 0},
        {"batch": 0},
        {"precision": "fp8"},
        {"cooldown": 2.0},
        {"wide": 1.5},
        *LEARNING_RATES,
    ],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(OptionError, match=next(iter(bad))):
        replace(TINY, **bad)


def test_a_run_that_diverges_leaves_the_good_checkpoint(images, tmp_path):
    path = tmp_path / "c.safetensors"
    training = Training([images], replace(TINY, steps=40), path)
    training.save()
    good = path.read_bytes()
    next(iter(training.parameters.values())).data.fill_(float("nan"))
    with pytest.raises(InputError, match="the loss is nan"):
        list(training.run(save_every=0.0))
    assert path.read_bytes() == good


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_that_is_complete(number, images, tmp_path):
    path = tmp_path / "own.checkpoint.safetensors"
    training = Training([images], TINY, path)
    take_step = training.take_step

    def signalled_step():
        if training.step == 1:
            os.kill(os.getpid(), number)
        return take_step()

    training.take_step = signalled_step
    before = signal.getsignal(number)
    assert train_to_end(training) is None
    assert signal.getsignal(number) is before
    assert Training([images], TINY, path).step == 2


def test_a_checkpoint_with_nan_is_refused(images, tmp_path):
    path = tmp_path / "own.checkpoint.safetensors"
    training = Training([images], TINY, path)
    next(iter(training.ema.values())).fill_(float("nan"))
    training.save()
    with pytest.raises(InputError, match="holds NaN or infinity in ema/"):
        Training([images], TINY, path)


def test_a_checkpoint_without_metadata_is_refused(images, tmp_path):
    path = tmp_path / "own.checkpoint.safetensors"
    save_file({"network/x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="is damaged"):
        Training([images], TINY, path)
