"""The precision that is chosen when none is named."""

import pytest
import torch

from inverse.io.devices import automatic

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("processor", "precision"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, "bf16"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, "bf16"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, "float32"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_bf16_is_chosen_on_processors_that_it_makes_faster(monkeypatch, processor, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    assert automatic(0.002, CPU) == precision


@pytest.mark.parametrize("loss", [None, 0.01, float("nan")])
def test_float32_is_kept_without_a_small_measured_loss(monkeypatch, loss):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert automatic(loss, CPU) == "float32"
