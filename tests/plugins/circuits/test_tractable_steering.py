"""Steering: the base at weight zero, exact at full weight, the stated mean between; refusals."""

from __future__ import annotations

import json
import math
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import image_prior, normal, smooth_covariance

import inverse
from inverse.errors import InverseError, PriorError, UnsupportedError
from inverse.registry.discovery import with_settings
from inverse.seeding import SharedStream
from inverse_plugins.circuits import expectation_maximisation
from inverse_plugins.circuits.cards import load_circuit, save_circuit
from inverse_plugins.circuits.circuit import Circuit
from inverse_plugins.circuits.expectation_maximisation import log_likelihoods
from inverse_plugins.circuits.graph import RegionGraph
from inverse_plugins.circuits.pixel_circuit import CircuitPrior
from inverse_plugins.circuits.tractable_steering import drawn_pixels

pytest_plugins = "cli_fixtures"

BASES = ("ddnm", "ddnm-plus", "diffpir", "repaint", "ddnm:eta=0", "diffpir:zeta=0.3,steps=8")


@pytest.fixture(scope="module")
def circuit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A circuit over 4 x 4 pixels with random parameters, values between the levels."""
    path = tmp_path_factory.mktemp("circuits") / "small.safetensors"
    save_circuit(
        Circuit(RegionGraph.quad_split(4, 4), 3, 4, shape=(4, 4), spread=0.1),
        path,
        training={"data": "none"},
    )
    return path


def masked(
    prior: inverse.Prior, y: torch.Tensor, seen: torch.Tensor, sigma_y: float = 0.0
) -> inverse.Posterior:
    """Pixels of y (B, C, H, W) where `seen` holds."""
    operator = inverse.physics.Inpainting(img_size=tuple(y.shape[1:]), mask=seen.to(y.dtype))
    return inverse.Posterior(
        prior,
        operator,
        y * seen,
        inverse.GaussianNoise(sigma_y, observed=seen),
        shape=tuple(y.shape[1:]),
        dtype=torch.float64,
    )


def eight_by_eight(sigma_y: float = 0.05) -> inverse.Posterior:
    prior = image_prior()
    seen = (torch.arange(192).reshape(3, 8, 8) % 3 > 0)[:1].expand(3, 8, 8).clone()
    return masked(prior, prior.decode(prior.sample(2, inverse.seeded("steering"))), seen, sigma_y)


# --- weight zero and full weight --------------------------------------------------------------


@pytest.mark.parametrize("base", [*BASES, "copaint:repeats=2,jump_length=3"])
@pytest.mark.parametrize(
    "without",
    [{"a0": 1.0, "a1": 1.0, "fraction": 1.0}, {"fraction": 0.0}],
    ids=["a = 1", "no step"],
)
def test_circuit_without_weight_leaves_the_base_unchanged(circuit_file, base, without):
    posterior = eight_by_eight()
    method = inverse.get_method(
        "tractable-steering", base=base, circuit=str(circuit_file), steps=12, **without
    )
    result, expected = (
        inverse.solve(posterior, m, samples=2, seed=3)
        for m in (method, with_settings(base, steps=12))
    )
    assert torch.equal(result.samples, expected.samples)
    assert result.cost == expected.cost


@pytest.mark.parametrize("base", BASES)
def test_circuit_with_weight_changes_every_base_at_the_same_number_of_evaluations(
    circuit_file, base
):
    posterior = eight_by_eight()
    steered, plain = (
        inverse.solve(
            posterior,
            inverse.get_method(
                "tractable-steering", base=base, circuit=str(circuit_file), steps=12, fraction=f
            ),
        )
        for f in (0.75, 0.0)
    )
    assert (steered.samples - plain.samples).abs().max() > 1e-3
    assert steered.cost.nfe == plain.cost.nfe


def test_circuit_changes_copaint_after_its_gradient_steps(circuit_file):
    """One step: the gradient steps are those of `copaint`, and only x0_hat after them differs."""
    posterior, found = eight_by_eight(), {}
    for fraction in (1.0, 0.0):
        method = inverse.get_method(
            "tractable-steering",
            base="copaint:steps=1",
            circuit=str(circuit_file),
            fraction=fraction,
            a0=0.0,
            a1=0.0,
        )
        found[fraction] = inverse.solve(posterior, method)
    assert (found[1.0].samples - found[0.0].samples).abs().max() > 1e-3
    assert found[1.0].cost.vjp == found[0.0].cost.vjp == 2


def test_default_is_the_ddim_step_of_ddnm_and_bases_keep_their_own_settings():
    method = inverse.get_method("tractable-steering")
    assert method.steered == inverse.get_method("ddnm", steps=100, eta=0.0)
    assert inverse.get_method("tractable-steering", base="ddnm").steered.eta is None


def test_steps_of_the_base_are_the_steps_that_are_steered():
    method = inverse.get_method("tractable-steering", base="ddnm:eta=0,steps=50", fraction=0.2)
    assert method.total == 50
    assert [i for i in range(50) if method.exponent(i) < 1] == list(range(10))


@pytest.mark.parametrize(("base", "gap"), [("ddnm:rule=paper,eta=1", 0.05), ("ddnm:eta=0", 0.005)])
def test_samples_are_posterior_if_the_circuit_is_the_law_and_has_full_weight(tmp_path, base, gap):
    """A discrete law on four pixels, one of them known: frequencies of the 27 completions.

    4000 draws (standard error at most 0.008) and 100 steps against enumeration. The base with the
    unconditional denoiser of the same law is off by `gap` more: far with fresh noise, less with
    DDIM's step. The release's eta = 0.85 is no step of a reverse process and misses the law.
    """
    generator, rows = inverse.seeded("law"), 4000
    circuit = Circuit(RegionGraph.tree([-1, 0, 1, 2]), 4, 3, generator=generator)
    circuit.table.copy_(torch.eye(3)[[0, 1, 2, 1]] + 0.02)  # strongly dependent pixels
    for i in range(1, 4):
        circuit.weight(i).copy_(torch.rand(1, 4, 4, generator=generator) ** 4 + 0.01)
    path = tmp_path / "law.safetensors"
    save_circuit(circuit, path)
    circuit = load_circuit(path).double()
    prior = CircuitPrior(circuit, 1, shift=0.5, scale=0.5, sigma_min=0.05, sigma_max=80.0)
    seen = torch.tensor([False, True, False, False]).reshape(1, 1, 4)
    posterior = masked(prior, torch.full((1, 1, 1, 4), 1.0, dtype=torch.float64), seen)
    x = torch.cartesian_prod(*[torch.arange(3)] * 4)
    x = x[x[:, 1] == 2]
    expected = log_likelihoods(circuit, x).softmax(0)

    def error(method: inverse.Method) -> float:
        with torch.no_grad():
            *_, drawn = method.run(
                posterior.rows(rows), rows, SharedStream(inverse.seeded("steered draws"), rows)
            )
        found = (prior.decode(drawn).reshape(rows, 4).clamp(0, 1) * 2).round().long()
        assert bool((found[:, 1] == 2).all())
        place = (found[:, [0, 2, 3]] * torch.tensor([9, 3, 1])).sum(1)
        return float(
            (torch.bincount(place, minlength=27).double() / rows - expected).abs().sum() / 2
        )

    exact = inverse.get_method(
        "tractable-steering", base=base, circuit=str(path), a0=0.0, a1=0.0, fraction=1.0
    )
    steered, plain = error(exact), error(with_settings(base))
    floor = 0.5 * float(
        (expected * (1 - expected) / rows).sqrt().sum() * math.sqrt(2 / math.pi)
    )  # mean total variation of exact draws
    assert steered < floor + 0.02
    assert plain > steered + gap


# --- between ----------------------------------------------------------------------------------


def test_exponent_follows_the_published_schedule():
    method = inverse.get_method("tractable-steering", steps=250, fraction=1.0)
    assert 1 - method.exponent(0) == pytest.approx(0.2 * (1 - math.exp(-2)))
    assert method.exponent(50) == pytest.approx(0.8404, abs=1e-4)
    assert 1 - method.exponent(249) < 0.002
    assert [
        i for i in range(250) if inverse.get_method("tractable-steering", steps=250).exponent(i) < 1
    ] == list(range(25))


@pytest.mark.parametrize("probes", [None, 4])
def test_mean_is_weighted_by_precision(tmp_path, probes):
    """One step of ddnm returns the steered denoiser at the first level.

    The prior's variance given x has a closed form; random probes are exact for independent pixels.
    The circuit's side is a direct sum over levels of independent pixels.
    """
    circuit = Circuit(RegionGraph.quad_split(1, 3), 1, 5, shape=(1, 3))
    path = tmp_path / "independent.safetensors"
    save_circuit(circuit, path)
    theta = load_circuit(path).theta[:, 0].double()
    covariance = (
        smooth_covariance(1, 1, 3, variance=0.2)
        if probes is None
        else torch.diag(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    )
    mean = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64).reshape(1, 1, 3)
    prior = inverse.GaussianPrior(
        mean, covariance, shift=0.5, scale=0.5, sigma_min=0.3, sigma_max=1.5
    )
    posterior = masked(
        prior,
        torch.full((1, 1, 1, 3), 0.8, dtype=torch.float64),
        torch.tensor([True, False, False]).reshape(1, 1, 3),
        sigma_y=0.1,
    )
    options = {
        "variance": "tweedie",
        "probes": probes,
        "fraction": 1.0,
        "steps": 1,
        "a0": 0.6,
        "k": 1.0,
        "circuit": str(path),
    }
    method = inverse.get_method("tractable-steering", **options)
    generators = inverse.Generators.for_samples(0, 1, 1)
    sigma = inverse.noise_levels(posterior, "vp", 1)[0]
    x = sigma * inverse.standard_normal(posterior, inverse.Generators.for_samples(0, 1, 1))
    (found,) = method.run(posterior.rows(1), 1, generators)
    a = 0.6 + 0.4 * math.exp(-1)
    assert method.exponent(0) == pytest.approx(a)
    gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(3))
    D = mean.flatten() + gain @ (x - mean).flatten()
    v1 = (covariance - gain @ covariance).diagonal()
    levels = torch.linspace(-1, 1, 5, dtype=torch.float64)
    weight = theta * torch.exp(-0.5 * ((x.reshape(3, 1) - levels) / sigma) ** 2)
    weight = weight / weight.sum(1, keepdim=True)
    m = weight @ levels
    v2 = weight @ levels**2 - m**2
    expected = (a / v1 * D + (1 - a) / v2 * m) / (a / v1 + (1 - a) / v2)
    torch.testing.assert_close(found.flatten()[1:], expected[1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("a", [0.0, 0.8])
@pytest.mark.parametrize("v1", [0.02, 1e-6])
def test_pixels_are_drawn_from_the_weighted_product_on_bins(a, v1):
    """Evenly spaced u give each of 256 intensities its probability, up to 1 / count.

    With a variance of 1e-6 no intensity lies within two standard deviations: the nearest remains.
    """
    count, bins, m1, m2, v2 = 100_000, 256, 0.4517, 0.6, 0.01
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    moments = [torch.full_like(u, value) for value in (m1, v1, m2, v2)]
    x = drawn_pixels(bins, u, a, *moments)
    found = torch.bincount((x * (bins - 1)).round().long(), minlength=bins).double() / count
    v = torch.linspace(0, 1, bins, dtype=torch.float64)
    p1 = torch.exp(-((v - m1) ** 2) / (2 * v1)) * ((v - m1).abs() <= 2 * v1**0.5)
    if v1 < 1e-5:
        p1 = (torch.arange(bins) == round(m1 * (bins - 1))).double()
    p2 = torch.exp(-((v - m2) ** 2) / (2 * v2)) / (2 * math.pi * v2) ** 0.5 / 2 + 1e-3
    expected = p1**a * p2 ** (1 - a)
    torch.testing.assert_close(found, expected / expected.sum(), rtol=0, atol=2e-5)


def test_steered_pixels_lie_on_the_bins(circuit_file):
    """One step of diffpir from the first level returns y where known and x0_hat elsewhere."""
    posterior = eight_by_eight()
    method = inverse.get_method(
        "tractable-steering",
        base="diffpir:steps=1",
        circuit=str(circuit_file),
        fraction=1.0,
        bins=256,
    )
    x = inverse.solve(posterior, method, samples=2).samples
    x = 255 * x[..., posterior.operator.mask[0] == 0]
    torch.testing.assert_close(x, x.round(), rtol=0, atol=1e-9)
    assert x.unique().numel() > 20


def test_step_variance_is_that_of_the_ancestral_sampler():
    """beta_tilde = (1 - ab') / (1 - ab) (1 - ab / ab') of the VP chain, ab = 1 / (1 + sigma^2)."""
    posterior, method = eight_by_eight(), inverse.get_method("tractable-steering")
    s, t = torch.tensor(3.0, dtype=torch.float64), torch.tensor(2.5, dtype=torch.float64)
    _, v = method.denoiser_moments(posterior, normal(2, 3, 8, 8), s, t, None)
    ab, before = 1 / (1 + s**2), 1 / (1 + t**2)
    assert float(v) == pytest.approx(float((1 - before) / (1 - ab) * (1 - ab / before)))


# --- refusals ---------------------------------------------------------------------------------


def test_circuit_that_does_not_tile_the_image_is_refused_in_one_line(command, tmp_path):
    save_circuit(
        Circuit(RegionGraph.quad_split(3, 5), 2, 2, shape=(3, 5)), tmp_path / "odd.safetensors"
    )
    outcome = command(
        "solve",
        "--problem",
        "inpainting",
        "--method",
        "tractable-steering",
        "--set",
        f"circuit={tmp_path / 'odd.safetensors'}",
    )
    outcome.refused("15 variables", "3 x 5 pixels", "256", "multiples")


def test_operator_without_a_mask_is_refused(circuit_file):
    posterior = inverse.get_problem("denoise").posterior(
        torch.zeros(3, 8, 8), prior=image_prior(), dtype=torch.float64
    )
    with pytest.raises(UnsupportedError, match="inpainting operator"):
        inverse.solve(
            posterior,
            inverse.get_method("tractable-steering", circuit=str(circuit_file), base="ddnm"),
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base": "dps"}, "must be one of ddnm"),
        ({"base": "ddnm:eta"}, "takes name=value after the colon"),
        ({"base": "ddnm:zeta=1"}, "ddnm has no option 'zeta'"),
        ({"base": "ddnm:eta=2"}, "eta must be at least 0 and at most 1"),
        ({"bins": 1}, "bins must be at least 2, got 1"),
    ],
)
def test_invalid_option_is_refused_in_one_line(options, words):
    with pytest.raises(InverseError, match=words) as refusal:
        inverse.get_method("tractable-steering", **options)
    assert "\n" not in str(refusal.value)


def test_replaced_denoiser_has_no_jacobian():
    posterior = eight_by_eight().replaced(denoise=lambda x, sigma: x)
    assert torch.equal(posterior.denoise(normal(2, 3, 8, 8), 1.0), normal(2, 3, 8, 8))
    with pytest.raises(UnsupportedError, match="no Jacobian"):
        posterior.tweedie(normal(2, 3, 8, 8), 1.0)


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", ["categorical", "gaussian"])
def test_saved_circuit_is_loaded(tmp_path, leaves):
    """The tolerance is half precision, 2^-11, in 16 leaves, 5 sums and the ends of Gaussians."""
    circuit = Circuit(RegionGraph.quad_split(4, 4), 3, 4, shape=(4, 4), spread=0.1, leaves=leaves)
    card = save_circuit(circuit, tmp_path / "one.safetensors", licence="CC0")
    loaded = load_circuit(tmp_path / "one.json")
    x = torch.randint(4, (50, 16), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        log_likelihoods(loaded, x), log_likelihoods(circuit, x), rtol=0, atol=2e-2
    )
    assert (loaded.graph, loaded.shape, loaded.spread, loaded.leaves) == (
        circuit.graph,
        (4, 4),
        0.1,
        leaves,
    )
    assert (card.licence, card.states, card.categories) == ("CC0", 3, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.json", "one.safetensors"]


def test_file_with_another_hash_than_the_card_is_refused(circuit_file, tmp_path):
    for name in ("small.safetensors", "small.json"):
        (tmp_path / name).write_bytes(circuit_file.with_name(name).read_bytes())
    damaged = bytearray(circuit_file.read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "small.safetensors").write_bytes(damaged)
    with pytest.raises(PriorError, match="sha256"):
        load_circuit(tmp_path / "small.safetensors")


def test_pickle_is_refused_even_with_its_hash_on_the_card(circuit_file, tmp_path):
    import hashlib

    blob = pickle.dumps({"table": 1})
    (tmp_path / "small.safetensors").write_bytes(blob)
    card = json.loads(circuit_file.with_suffix(".json").read_text()) | {
        "sha256": hashlib.sha256(blob).hexdigest()
    }
    (tmp_path / "small.json").write_text(json.dumps(card))
    with pytest.raises(PriorError, match="do not fit the card"):
        load_circuit(tmp_path / "small.json")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody", "not known"),
        ("some/where.pt", "expected a .safetensors"),
        ("gone.safetensors", "no such file"),
    ],
)
def test_missing_circuit_is_refused(name, words):
    with pytest.raises(PriorError, match=words):
        load_circuit(name)


# --- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["hclt", "quad"])
def test_command_trains_a_circuit(command, tmp_path, structure):
    """Pictures of one grey value each: far below the log2 4 = 2 bits of independent pixels."""
    grey = np.random.default_rng(0).integers(0, 4, size=(300, 1, 1)) * 85
    np.savez(tmp_path / "flat.npz", images=np.broadcast_to(grey, (300, 4, 4)).astype(np.uint8))
    options = [
        "--size",
        "2",
        "--shrink",
        "2",
        "--levels",
        "4",
        "--states",
        "4",
        "--epochs",
        "20",
        "--batch",
        "0",
        "--structure",
        structure,
    ]
    outcome = command(
        "train-circuit",
        "--images",
        str(tmp_path / "flat.npz"),
        "--out",
        str(tmp_path / "flat.safetensors"),
        *options,
    )
    assert outcome.code == 0, outcome
    assert json.loads(outcome.out.splitlines()[-1])["bits"]["held out"] < 1.0
    assert load_circuit(tmp_path / "flat.safetensors").shape == (2, 2)


@pytest.mark.parametrize("structure", ["hclt", "quad"])
def test_circuit_of_256_levels_is_trained(command, tmp_path, structure):
    """Every intensity of a byte is a level of its own, and leaves are normalised over all."""
    grey = np.random.default_rng(0).integers(0, 256, size=(300, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "noise.npz", images=grey)
    out = tmp_path / "noise.safetensors"
    options = {"size": 4, "levels": 256, "states": 2, "epochs": 2, "structure": structure}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    images = str(tmp_path / "noise.npz")
    outcome = command("train-circuit", "--images", images, "--out", str(out), *words)
    assert outcome.code == 0, outcome
    circuit = load_circuit(out).double()
    assert circuit.categories == 256
    x = torch.arange(256)[:, None].expand(256, 16)
    known = torch.arange(16) == 0
    mass = circuit.log_likelihood(circuit.values(x, known.expand(256, 16)))
    assert float(mass.exp().sum()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_training_after_a_complete_step(command, tmp_path, monkeypatch, number):
    """The circuit of that step is written; every distribution of it still sums to 1."""
    steps, maximise = [], expectation_maximisation.maximise

    def stopped(*arguments):
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(number)
        maximise(*arguments)

    monkeypatch.setattr(expectation_maximisation, "maximise", stopped)
    grey = np.random.default_rng(0).integers(0, 256, size=(100, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "noise.npz", images=grey)
    given = ["--images", tmp_path / "noise.npz", "--out", tmp_path / "c.safetensors", "--size", 4]
    outcome = command("train-circuit", *given, "--levels", 4, "--states", 2, "--batch", 10)
    assert outcome.code == 130, outcome
    assert len(steps) == 3
    circuit = load_circuit(tmp_path / "c.safetensors")
    assert torch.allclose(circuit.theta.sum(-1), torch.ones(()))
    assert all(torch.allclose(w.sum(-1), torch.ones(())) for w in circuit.weights)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--structure", "oak"], ["structure", "hclt"]),
        (["--levels", "1"], ["levels must be at least 2, got 1"]),
        (["--size", "99"], ["99"]),
        (["--pseudocount", "-1"], ["pseudocount must be at least 0, got -1"]),
    ],
)
def test_invalid_training_options_are_refused(command, tmp_path, options, words):
    np.savez(tmp_path / "flat.npz", images=np.zeros((20, 14, 14), dtype=np.uint8))
    out = tmp_path / "out" / "flat.safetensors"
    outcome = command(
        "train-circuit", "--images", str(tmp_path / "flat.npz"), "--out", str(out), *options
    )
    outcome.refused(*words)
    assert not out.exists()
