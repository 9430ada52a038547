"""Pickled networks of NVlabs: tensors are read, no code is run."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from conftest import normal
from torch import nn

from inverse.errors import PriorError
from inverse.measurement.deepinv_import import deepinv
from inverse.priors.foreign.persistent_pickles import read_persistent
from inverse.priors.loading import load_prior


@pytest.fixture
def persistence(monkeypatch):
    """A stand-in for NVlabs' `torch_utils.persistence`, which exists while a file is written."""
    module = types.ModuleType("torch_utils_persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the reader ran code of the file")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


class Precond(nn.Module):
    """A network below `model`, pickled as NVlabs' persistent classes are."""

    def __init__(self, model, persistence):
        super().__init__()
        self.model, self.sigma_data = model, 0.5
        self.__dict__["persistence"] = persistence

    def __reduce__(self):
        state = {k: v for k, v in self.__dict__.items() if k != "persistence"}
        meta = {"type": "class", "module_src": "import os", "class_name": "P", "state": state}
        return self.persistence._reconstruct_persistent_obj, (meta,)


def small_edm() -> nn.Module:
    torch.manual_seed(0)
    return deepinv("models").NCSNpp(
        model_type="ncsn",
        img_resolution=16,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(8,),
        pretrained=None,
        pixel_std=0.5,
    )


class Harm:
    """A hostile pickle: it makes a reader call a function."""

    def __reduce__(self):
        return Path.touch, (Path("harm-was-done"),)


@pytest.mark.parametrize("persistent", [True, False])
def test_an_edm_pickle_opens_from_its_path(tmp_path, persistence, persistent, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original = small_edm().eval()
    network = Precond(original, persistence) if persistent else original
    contents = {"ema": network, "dataset_kwargs": {"path": "x"}, "augment_pipe": Harm()}
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps(contents))
    monkeypatch.delitem(sys.modules, persistence.__name__)
    prior = load_prior(tmp_path / "edm.pkl")
    x, sigma = normal(2, 3, 16, 16).float(), torch.tensor([0.3, 2.0])
    with torch.no_grad():
        expected = original(x, sigma)
        torch.testing.assert_close(prior(x, sigma), expected, rtol=1e-4, atol=1e-5)
    assert not Path("harm-was-done").exists()


def test_the_tensors_are_those_of_the_state_dict(tmp_path):
    original = small_edm()
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps(original))
    found, expected = read_persistent(tmp_path / "edm.pkl"), original.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no pickle", "not a readable pickle"),
        (b"", "not a readable pickle"),
        (pickle.dumps({"a": 3}), "holds no network"),
        (pickle.dumps(Harm()), "holds no network"),
    ],
)
def test_other_pickles_are_one_line(tmp_path, monkeypatch, data, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.pkl").write_bytes(data)
    with pytest.raises(PriorError, match=words):
        load_prior(tmp_path / "odd.pkl")
    assert not Path("harm-was-done").exists()
