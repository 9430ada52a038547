"""Priors on disk: round trips, and refusals of invalid files."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from cli_fixtures import CONFIG, tiny_network
from safetensors.torch import load_file, save_file

from inverse.errors import PriorError, UnknownNameError
from inverse.priors.cards import sha256
from inverse.priors.loading import PriorCard, cards, load_prior, save_prior
from inverse.priors.networks.unet import UNetConfig


@pytest.fixture
def prior_path(tmp_path: Path) -> Path:
    """A saved prior that a test may damage."""
    path = tmp_path / "own.safetensors"
    save_prior(
        tiny_network(),
        path,
        units="kelvin",
        training={"data": "none", "steps": 0},
        licence="CC0",
        denoising={"25": 20.1},
        limits="untrained",
    )
    return path


def edit_card(path: Path, **changes: object) -> None:
    card = path.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | changes))


def refused(path: Path | str) -> str:
    """The one-line error for a prior; it names the file."""
    with pytest.raises(PriorError) as caught:
        load_prior(path)
    message = str(caught.value)
    assert "\n" not in message
    assert Path(path).stem in message
    return message


def test_a_loaded_prior_denoises_like_the_saved_one(prior_path):
    saved, loaded = tiny_network(), load_prior(prior_path)
    x = torch.randn(2, 3, 13, 18, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.3, 2.0])
    # half precision has a relative error of 2^-11 in each weight
    torch.testing.assert_close(loaded(x, sigma), saved(x, sigma), rtol=0, atol=2e-3)
    assert loaded.name == "own"
    assert (loaded.shift, loaded.scale, loaded.sigma_min, loaded.sigma_max) == (
        saved.shift,
        saved.scale,
        saved.sigma_min,
        saved.sigma_max,
    )
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def test_a_prior_is_loaded_by_its_card(prior_path):
    assert load_prior(prior_path.with_suffix(".json")).name == "own"


def test_card_survives_a_round_trip(prior_path, tmp_path):
    card = PriorCard.read(prior_path.with_suffix(".json"))
    assert (card.units, card.licence, card.training, card.denoising) == (
        "kelvin",
        "CC0",
        {"data": "none", "steps": 0},
        {"25": 20.1},
    )
    assert card.config == CONFIG
    assert card.shape == "3 x any x any"
    assert card.sha256 == sha256(prior_path)
    card.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == prior_path.with_suffix(".json").read_bytes()


def test_weights_take_two_bytes_each(prior_path):
    assert {tensor.dtype for tensor in load_file(prior_path).values()} == {torch.float16}


def test_saving_writes_weights_and_card_alone(prior_path):
    assert sorted(path.name for path in prior_path.parent.iterdir()) == [
        "own.json",
        "own.safetensors",
    ]


def test_saving_as_a_pickle_is_refused(tmp_path):
    with pytest.raises(PriorError, match=r"weights are written as \.safetensors, not '\.pt'"):
        save_prior(tiny_network(), tmp_path / "own.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_hash_is_refused_with_both_hashes(prior_path):
    data = bytearray(prior_path.read_bytes())
    data[-1] ^= 1
    prior_path.write_bytes(data)
    message = refused(prior_path)
    assert sha256(prior_path)[:12] in message
    assert PriorCard.read(prior_path.with_suffix(".json")).sha256[:12] in message


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.999])
@pytest.mark.parametrize("honest_card", [False, True])
def test_truncated_weights_are_refused(prior_path, keep, honest_card):
    data = prior_path.read_bytes()
    prior_path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    if honest_card:
        edit_card(prior_path, sha256=sha256(prior_path))
    assert ("do not fit" if honest_card else "sha256") in refused(prior_path)


@pytest.mark.parametrize("kind", ["torch", "legacy torch", "pickle"])
def test_disguised_pickle_is_refused_before_it_is_opened(prior_path, kind):
    buffer = io.BytesIO()
    state = tiny_network().state_dict()
    if kind == "pickle":
        pickle.dump({"weights": [1.0]}, buffer)
    else:
        torch.save(state, buffer, _use_new_zipfile_serialization=kind == "torch")
    prior_path.write_bytes(buffer.getvalue())
    edit_card(prior_path, sha256=sha256(prior_path))
    assert "a pickle can run code" in refused(prior_path)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".tar"])
def test_a_file_that_only_looks_like_a_pickle_is_refused(prior_path, suffix):
    path = prior_path.rename(prior_path.with_suffix(suffix))
    assert "holds more than tensors" in refused(path)


def test_a_file_that_is_no_pickle_is_refused(prior_path):
    assert "not a readable pickle" in refused(prior_path.rename(prior_path.with_suffix(".pkl")))


def test_card_cannot_name_a_pickle(prior_path):
    prior_path.rename(prior_path.with_suffix(".pt"))
    edit_card(prior_path, file="own.pt")
    assert "a pickle can run code" in refused(prior_path.with_suffix(".json"))


@pytest.mark.parametrize("first_bytes", [b"\x80", b"PK"])
def test_a_header_length_that_looks_like_a_pickle_is_accepted(prior_path, first_bytes):
    """The header of the safetensors file is padded until its length begins with `first_bytes`."""
    tensors = load_file(prior_path)
    length, modulus = int.from_bytes(first_bytes, "little"), 256 ** len(first_bytes)
    header = int.from_bytes(prior_path.read_bytes()[:8], "little")
    save_file(tensors, prior_path, {"pad": "x"})
    overhead = int.from_bytes(prior_path.read_bytes()[:8], "little") - header
    save_file(tensors, prior_path, {"pad": "x" * (1 + (length - header - overhead) % modulus)})
    assert prior_path.read_bytes().startswith(first_bytes)
    edit_card(prior_path, sha256=sha256(prior_path))
    assert load_prior(prior_path).name == "own"


def test_a_missing_card_is_refused(prior_path):
    prior_path.with_suffix(".json").unlink()
    assert "weights need their card beside them" in refused(prior_path)


def test_missing_weights_are_refused(prior_path):
    prior_path.unlink()
    assert "own.safetensors: no such file" in refused(prior_path)


REQUIRED = "name, file, sha256, units, shift, scale, sigma_data, sigma_min, sigma_max, network"


@pytest.mark.parametrize(
    ("text", "message_part"),
    [
        ("", ""),
        ("{", ""),
        ("\x00\xff", ""),
        ("[]", f"found a list, expected an object with {REQUIRED})"),
        ("3", f"found a whole number, expected an object with {REQUIRED})"),
        ("[" * 100_000 + "]" * 100_000, "nested deeply)"),
        ('{"name": 1e999}', "it holds a number that is too large)"),
        ("null", f"found null, expected an object with {REQUIRED})"),
        ("{}", f"found an empty object; missing are {REQUIRED})"),
        (
            '{"name": "own", "x": 1}',
            f"found name, x; missing are {REQUIRED.removeprefix('name, ')})",
        ),
    ],
)
def test_a_file_that_is_not_a_card_is_refused(prior_path, text, message_part):
    prior_path.with_suffix(".json").write_bytes(text.encode("latin-1"))
    assert f"own.json: not a valid card ({message_part}" in refused(prior_path)


@pytest.mark.parametrize(
    ("changes", "message_part"),
    [
        ({"unknown": 1}, "a prior card has no field 'unknown'; known: bf16_loss, denoising"),
        ({"licenze": "CC0"}, "a prior card has no field 'licenze'; did you mean 'licence'?"),
        (
            {"network": {"depth": 3}},
            "network has no field 'depth'; did you mean 'widths'? known: blocks",
        ),
        ({"network": 3}, "network must be an object, found a whole number)"),
        (
            {"network": {"widths": 8}},
            "network.widths must be a list, found a whole number",
        ),
        (
            {"network": {"widths": [8], "blocks": [1, 1]}},
            "equally many positive numbers, at most 10, got (8,) and (1, 1)",
        ),
        (
            {"file": "../own.safetensors"},
            "file must be the name of a file beside the card, found '../own.safetensors')",
        ),
        ({"file": 3}, "file must be text, found a whole number)"),
        ({"shift": "0.5"}, "shift must be a number, found text)"),
        ({"training": None}, "training must be an object, found null)"),
        ({"scale": 0.0}, "scale must be at least 1e-09, got 0)"),
        ({"scale": 1e308}, "scale must be at most 1000000000, got 1e+308)"),
        ({"sigma_min": -5}, "sigma_min must be at least 0, got -5)"),
        ({"sigma_max": float("inf")}, "it holds Infinity, which is not JSON)"),
        ({"extra": {"a": [float("nan")]}}, "it holds NaN, which is not JSON)"),
        (
            {"network": {"blocks": [10**8, 1]}},
            "network.blocks.0 must be at least 1 and at most 64, got 1000000",
        ),
        ({"network": {"channels": 10**9}}, "network.channels must be at most 8192, got 1000000"),
        ({"network": {"channels": 0}}, "network.channels must be at least 1, got 0"),
        ({"network": {"channels": "3"}}, "network.channels must be a whole number, found text"),
        ({"network": {"circular": 1}}, "network.circular must be true or false, found a whole"),
        ({"network": {"widths": [8] * 11, "blocks": [1] * 11}}, "numbers, at most 10, got"),
        ({"network": {"embedding": 1e400}}, "it holds Infinity, which is not JSON"),
        ({"law": {"rank": 3}}, "law.shape is missing"),
        ({"law": {"shape": [1, 2]}}, "law.shape.2 is missing"),
        ({"law": {"shape": [1, 2, -3]}}, "law.shape.2 must be at least 1, got -3"),
        ({"law": {"shape": "1x2x3"}}, "law.shape must be a list, found text"),
        ({"power_law": {"mean": [0.1]}}, "power_law.colours is missing"),
        (
            {"extra": {"latitudes": [91.0]}},
            "extra.latitudes.0 must be at least -90 and at most 90, got 91",
        ),
        ({"extra": {"variables": "t2m"}}, "extra.variables must be a list, found text"),
        ({"training": {"crop": -4}}, "training.crop must be at least 1, got -4"),
        ({"sigma_min": 3.0, "sigma_max": 2.0}, "sigma_min must be below sigma_max"),
    ],
)
def test_an_invalid_card_is_refused(prior_path, changes, message_part):
    edit_card(prior_path, **changes)
    message = refused(prior_path)
    assert "own.json: not a valid card (" in message
    assert message_part in message


def test_a_whole_number_is_accepted_as_a_number(prior_path):
    edit_card(prior_path, sigma_max=80)
    assert load_prior(prior_path).sigma_max == 80.0


def test_the_named_weights_file_is_loaded(prior_path, tmp_path):
    """A renamed pair loads. A card of other weights is refused, and no other file is loaded."""
    own = load_prior(prior_path)
    pair = tmp_path / "pair"
    pair.mkdir()
    for suffix in (".safetensors", ".json"):
        (pair / f"renamed{suffix}").write_bytes(prior_path.with_suffix(suffix).read_bytes())
    renamed = load_prior(pair / "renamed.safetensors")
    assert all(
        torch.equal(a, b)
        for a, b in zip(own.state_dict().values(), renamed.state_dict().values(), strict=True)
    )
    (pair / "own.safetensors").write_bytes(prior_path.read_bytes())
    other = tiny_network()
    torch.nn.init.ones_(other.network.tail.weight)
    save_prior(other, tmp_path / "other.safetensors")
    (pair / "renamed.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes())
    message = refused(pair / "renamed.safetensors")
    assert message.endswith(
        f"the card says {sha256(prior_path)[:12]}...; the card describes own.safetensors"
    )
    assert f"renamed.safetensors: sha256 is {sha256(pair / 'renamed.safetensors')[:12]}" in message
    assert load_prior(pair / "renamed.json").name == "own"


def test_an_architecture_larger_than_the_file_is_refused_before_it_is_allocated(prior_path):
    """8192 channels at each of ten levels would take terabytes."""
    edit_card(prior_path, network={"widths": [8192] * 10, "blocks": [64] * 10})
    assert "the architecture has" in refused(prior_path)


def test_a_law_of_another_shape_is_refused(tmp_path):
    card = json.loads(cards()["era5-uk-t2m-gaussian"].read_text())
    weights = cards()["era5-uk-t2m-gaussian"].with_suffix(".safetensors")
    (tmp_path / card["file"]).write_bytes(weights.read_bytes())
    path = tmp_path / "law.json"
    for law, message_part in [
        (card["law"] | {"shape": [1, 33, 50]}, "the law has shape (1, 33, 49), the card says"),
        (card["law"] | {"kind": "trajectory"}, "law.hours must be an integer"),
    ]:
        path.write_text(json.dumps(card | {"law": law}))
        assert message_part in refused(path)


def test_weights_of_another_network_are_refused_by_tensor(prior_path):
    edit_card(
        prior_path,
        network=UNetConfig(channels=3, widths=(8, 24), blocks=(1, 1), embedding=16).to_dict(),
    )
    assert "size mismatch for network." in refused(prior_path)


def test_weights_of_a_shallower_network_are_refused_with_the_missing_key(prior_path):
    edit_card(
        prior_path,
        network=UNetConfig(channels=3, widths=(8, 16), blocks=(1, 2), embedding=16).to_dict(),
    )
    assert "Missing key" in refused(prior_path)


def test_another_file_type_is_refused(tmp_path):
    assert "expected a registered name, a .safetensors file with its card, weights" in refused(
        tmp_path / "own.onnx"
    )


def test_an_unknown_name_is_refused():
    with pytest.raises(UnknownNameError, match="prior 'nobody' is not known"):
        load_prior("nobody")


def test_text_of_a_card_has_no_control_characters(prior_path):
    edit_card(prior_path, units="\x1b[31mred\u202e\x07", extra={"a\x00": ["\x9b"]})
    card = PriorCard.read(prior_path)
    assert card.units == "[31mred"
    assert card.extra == {"a": [""]}
