"""Coarse structure: the blur corpus, the targets of the networks, the pseudo-measurements beside y,
and the diffusion network that structure guides."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import dense, draws, image_prior, matrix_operator, normal, problems, randomise

import inverse
from inverse.errors import InverseError, OptionError, PriorError, UnsupportedError
from inverse.io.images import write_png
from inverse.per_image import image_by_image
from inverse.priors.cards import shipped_cards
from inverse.priors.networks.unet import UNetConfig
from inverse_plugins.structure.blurs import MAKERS, BlurCorpus, blurred
from inverse_plugins.structure.cards import (
    StructureCard,
    load_conditional,
    load_structure,
    save_structure,
)
from inverse_plugins.structure.coarse_pictures import (
    LUMINANCE,
    averaged,
    coarse_colour,
    coarse_grey,
    colour_of,
    grey_of,
)
from inverse_plugins.structure.diffusion_network import (
    ConditionalConfig,
    ConditionalNetwork,
    ConditionalPrior,
)
from inverse_plugins.structure.pseudo_measurements import with_structure
from inverse_plugins.structure.structure_network import (
    Estimate,
    StructureConfig,
    StructureNetworks,
    structure_loss,
)
from inverse_plugins.structure.training import (
    ConditionalTraining,
    StructureTrainConfig,
    StructureTraining,
    denoising_losses,
    train_structure,
)

SMALL = StructureConfig(scales=(2, 4, 8), widths=(8, 8), blocks=(1, 1))
NETWORK = ConditionalConfig(
    SMALL, UNetConfig(channels=3, widths=(8, 8, 8), blocks=(1, 2, 1), embedding=16)
)
CORPUS = BlurCorpus(kernels=8)


@pytest.fixture(scope="module")
def conditional():
    """A tiny diffusion network and its structure networks, with random weights."""
    return randomise(ConditionalNetwork(NETWORK, 0.3)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(tmp_path_factory, conditional):
    """A file of structure networks and one of a diffusion network, with random weights."""
    folder = tmp_path_factory.mktemp("structure")
    net = randomise(StructureNetworks(SMALL))
    save_structure(
        net,
        folder / "structure.safetensors",
        dataclasses.asdict(CORPUS),
        colour=0.01,
        beta={"known": {"2": 0.1, "4": 0.2, "8": 0.3}},
    )
    save_structure(conditional, folder / "conditional.safetensors", dataclasses.asdict(CORPUS))
    return folder


@pytest.fixture(scope="module")
def photographs():
    """Blocky colour pictures, uint8, large enough for the margins of the kernels."""
    rng = np.random.default_rng(0)
    return [
        [
            np.kron(
                rng.integers(0, 256, (6, 6, 3), dtype=np.uint8),
                np.ones((10, 10, 1), dtype=np.uint8),
            )
            for _ in range(4)
        ]
    ]


def picture(*size, seed=0):
    return torch.rand(1, 3, *size, generator=inverse.seeded("picture", seed))


# --- blurs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", MAKERS)
def test_kernels_sum_to_one_and_depend_on_the_seed_alone(family):
    bank, again, other = (BlurCorpus((family,), kernels=3, seed=seed).bank for seed in (0, 0, 1))
    assert torch.equal(bank, again)
    assert not torch.equal(bank, other)
    torch.testing.assert_close(bank.sum((1, 2)), torch.ones(3))
    assert bank.shape == (3, 31, 31)
    assert bool((bank >= 0).all())


def test_blur_is_that_of_deepinv():
    """Inside the picture and with reflected edges; the tolerance is that of FFTs in float32."""
    x, corpus = picture(50, 60), BlurCorpus(("motion",), kernels=1, noise=0.0, reflected=1.0)
    inside = inverse.physics.Blur(filter=corpus.bank[None], padding="valid").A(x)
    torch.testing.assert_close(blurred(x, corpus.bank), inside, rtol=0, atol=1e-5)
    source = [[(255 * picture(70, 70)[0]).byte().permute(1, 2, 0).numpy()]]
    sharp, y = corpus.batch(source, 40, 2, inverse.seeded("crops"))
    torch.testing.assert_close(
        y,
        inverse.physics.Blur(filter=corpus.bank[None], padding="reflect").A(sharp),
        rtol=0,
        atol=1e-5,
    )


def test_frames_are_averaged_in_linear_light():
    x, kernel = picture(40, 40).double(), BlurCorpus(("frames",), kernels=1).bank.double()
    torch.testing.assert_close(
        blurred(x, kernel, 2.2) ** 2.2, blurred(x**2.2, kernel), rtol=0, atol=1e-12
    )


def test_unknown_family_is_refused_with_the_known_families():
    with pytest.raises(OptionError, match=r"fog.*known: defocus, frames, gaussian, motion"):
        BlurCorpus(("motion", "fog"))


# --- coarse pictures --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 16, 24), (3, 13, 21), (1, 9, 9)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_coarse_operators_are_the_targets_of_the_networks_and_have_exact_adjoints(shape, scale):
    x = normal(2, *shape)
    operators = {"grey": (coarse_grey(scale, shape), averaged(grey_of(x), scale))}
    if shape[0] == 3:
        operators["colour"] = (coarse_colour(scale, shape), averaged(colour_of(x), scale))
    for operator, expected in operators.values():
        assert inverse.adjoint_error(operator, shape) < 1e-14
        torch.testing.assert_close(operator.A(x), expected, rtol=0, atol=1e-14)


def test_averages_are_those_of_scikit_image():
    from skimage.transform import downscale_local_mean

    x = normal(1, 3, 16, 24)
    expected = downscale_local_mean(np.tensordot(LUMINANCE, x[0].numpy(), 1), (4, 4))
    torch.testing.assert_close(averaged(grey_of(x), 4)[0, 0], torch.from_numpy(expected))


def test_averages_at_an_edge_are_over_the_pixels_inside():
    x = torch.arange(25.0).reshape(1, 1, 5, 5)
    expected = torch.tensor([[3.0, 5.0, 6.5], [13.0, 15.0, 16.5], [20.5, 22.5, 24.0]])
    assert torch.equal(averaged(x, 2)[0, 0], expected)


@pytest.mark.parametrize("size", [(32, 40), (33, 41), (8, 8), (5, 70)])
def test_estimates_have_the_size_of_their_targets(size):
    y = picture(*size)
    for s, estimate in randomise(StructureNetworks(SMALL))(y).items():
        assert estimate.mean.shape == averaged(grey_of(y), s).shape == estimate.log_tau.shape
        assert estimate.features.shape[-2:] == estimate.mean.shape[-2:]


def test_a_fresh_network_predicts_the_blurry_picture():
    y = picture(32, 32)
    for s, estimate in StructureNetworks(SMALL)(y).items():
        torch.testing.assert_close(estimate.mean, averaged(grey_of(y), s))


def test_scales_are_powers_of_two():
    with pytest.raises(OptionError, match="powers of 2"):
        StructureConfig(scales=(2, 3))


# --- pseudo-measurements beside y -------------------------------------------------------------


BETA = {2: 0.5, 4: 0.25}


def exact_estimates():
    """Estimates that follow their law: B_s x + tau_s n, of the truth of `gaussian_posterior`."""
    truth = draws(image_prior(), 1)
    log_tau = {
        s: (
            0.03
            + 0.05
            * torch.rand(
                1, 1, 8 // s, 8 // s, generator=inverse.seeded("tau", s), dtype=torch.float64
            )
        ).log()
        for s in BETA
    }
    return {
        s: Estimate(averaged(grey_of(truth), s) + t.exp() * normal(*t.shape, seed=s), t, t)
        for s, t in log_tau.items()
    }


def conditioned(posterior, noisy=None, sigma=0.0):
    """E[x0 | y], or E[x0 | y, x = x0 + sigma n], by dense algebra: (1, *shape), model units."""
    prior, n = posterior.prior, posterior.prior.mean.numel()
    A = dense(posterior.operator, posterior.shape)
    H = A * prior.scale
    offset = A.sum(1) * prior.shift
    R = (posterior.noise.sigma**2).expand(posterior.y.shape[1:]).flatten()
    seen = posterior.y.flatten() - offset
    if noisy is not None:
        H, seen, R = (
            torch.cat([H, torch.eye(n, dtype=H.dtype)]),
            torch.cat([seen, noisy.flatten()]),
            torch.cat([R, torch.full((n,), sigma**2, dtype=H.dtype)]),
        )
    gain = prior.covariance @ H.T @ torch.linalg.inv(H @ prior.covariance @ H.T + R.diag())
    return (prior.mean.flatten() + gain @ (seen - H @ prior.mean.flatten())).reshape(
        1, *posterior.shape
    )


def stacked_by_hand(posterior, estimates):
    """The posterior with [A; B_2; B_4], [R; tau^2 / beta] and [y; z_2; z_4] written out."""
    matrices = [
        dense(posterior.operator, posterior.shape),
        *(dense(coarse_grey(s, posterior.shape), posterior.shape) for s in BETA),
    ]
    sigma = [torch.full((posterior.y[0].numel(),), posterior.sigma_y, dtype=torch.float64)]
    sigma += [
        ((2 * estimates[s].log_tau).exp().flatten() / beta) ** 0.5 for s, beta in BETA.items()
    ]
    y = torch.cat([posterior.y.flatten(), *(estimates[s].mean.flatten() for s in BETA)])
    noise = inverse.GaussianNoise(torch.cat(sigma))
    return inverse.Posterior(
        posterior.prior,
        matrix_operator(torch.cat(matrices), posterior.shape),
        y[None],
        noise,
        dtype=torch.float64,
    )


def test_posterior_with_structure_is_the_exact_stacked_gaussian(
    gaussian_posterior,
):
    """E[x0 | x, y, z] of mmps at five noise levels by dense algebra; its solver stops at 1e-10."""
    posterior = gaussian_posterior("blur", images=1)
    prior, estimates = posterior.prior, exact_estimates()
    stacked = with_structure(posterior, estimates, BETA)
    assert list(stacked.operator.modalities) == ["y", "structure-2", "structure-4"]
    mmps = inverse.get_method("mmps", iterations=200, tolerance=1e-10)
    for sigma in (0.02, 0.1, 0.5, 2.0, 20.0):
        x = prior.mean + (
            prior.covariance.diagonal().reshape(prior.mean.shape) + sigma**2
        ).sqrt() * normal(1, *posterior.shape, seed=3)
        expected = conditioned(stacked_by_hand(posterior, estimates), x, sigma)
        torch.testing.assert_close(
            mmps.denoise(stacked, x, torch.tensor(sigma, dtype=torch.float64)),
            expected,
            rtol=0,
            atol=1e-7,
        )


def test_structure_narrows_the_posterior_and_shuffled_structure_hurts():
    """Mean square error of the exact posterior mean over 16 draws: 0.92 and 2.2 times."""
    prior = image_prior()
    truth = draws(image_prior(), 16)
    tau = torch.full((1, 1, 4, 4), 0.02, dtype=torch.float64)
    posteriors = [
        problems()["blur"].posterior(t, prior=prior, dtype=torch.float64, first_image=i)
        for i, t in enumerate(truth)
    ]
    estimates = [
        {
            2: Estimate(
                averaged(grey_of(t[None]), 2) + tau * normal(1, 1, 4, 4, seed=i), tau.log(), tau
            )
        }
        for i, t in enumerate(truth)
    ]
    errors = torch.zeros(3, dtype=torch.float64)
    for i, posterior in enumerate(posteriors):
        means = map(
            conditioned,
            (
                posterior,
                with_structure(posterior, estimates[i], {2: 1.0}),
                with_structure(posterior, estimates[i - 1], {2: 1.0}),
            ),
        )
        errors += torch.stack(
            [(prior.decode(mean[0]) - truth[i]).square().mean() for mean in means]
        )
    none, own, other = errors.tolist()
    assert own < 0.95 * none
    assert other > 1.5 * none


def test_tempering_divides_the_precision(gaussian_posterior):
    posterior = gaussian_posterior("blur", images=1)
    estimates = exact_estimates()
    full, half = (
        with_structure(posterior, estimates, {2: beta}).noise.sigma.flatten() for beta in (1.0, 0.5)
    )
    torch.testing.assert_close(half[-16:], full[-16:] * 2**0.5)
    assert torch.equal(half[:-16], full[:-16])


def test_blind_posterior_has_the_colours_of_the_picture_and_no_operator(gaussian_posterior):
    posterior = gaussian_posterior("blur", images=1)
    blind = with_structure(posterior, exact_estimates(), BETA, colour=0.01)
    assert list(blind.operator.modalities) == ["colour", "structure-2", "structure-4"]
    torch.testing.assert_close(
        blind.y.flatten()[blind.operator.modalities["colour"]],
        averaged(colour_of(posterior.y), 4).flatten(),
    )


def test_method_is_its_base_on_the_posterior_with_structure(files, gaussian_posterior):
    posterior = gaussian_posterior("blur", images=1)
    net = load_structure(files / "structure.safetensors")
    method = inverse.get_method(
        "structure-prior",
        base="diffpir:zeta=0.5",
        steps=5,
        net=str(files / "structure.safetensors"),
        scales=(2, 8),
    )
    assert method.tempering() == {2: 0.1, 8: 0.3}
    stacked = with_structure(posterior, net(posterior.y.float()), {2: 0.1, 8: 0.3})
    expected = inverse.solve(stacked, inverse.get_method("diffpir", zeta=0.5, steps=5))
    assert torch.equal(inverse.solve(posterior, method).samples, expected.samples)
    assert inverse.solve(posterior, method).cost.nfe == 5


def test_image_that_ends_early_keeps_its_last_iterate(gaussian_posterior):
    posterior = gaussian_posterior("blur", images=2).rows(1)

    def run_image(image, samples, generator):
        steps = 1 + int(image.y[0, 0, 0, 0] == posterior.y[1, 0, 0, 0])  # two for the second image
        yield from (image.y + i for i in range(steps))

    iterates = list(
        image_by_image(posterior, 1, inverse.Generators.for_samples(0, 2, 1), run_image)
    )
    assert len(iterates) == 2
    torch.testing.assert_close(
        iterates[1] - posterior.y,
        torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None, None].expand_as(posterior.y),
    )


# --- the diffusion network --------------------------------------------------------------------


def test_zero_initialised_guide_changes_no_bit():
    network = randomise(ConditionalNetwork(NETWORK, 0.3))
    for p in network.inject.parameters():
        torch.nn.init.zeros_(p)
    y, x, sigma = 2 * picture(24, 40) - 1, normal(1, 3, 24, 40).float(), torch.tensor([0.4])
    guide = network.guide(network.estimates(y))
    assert any(g is not None for level in guide for g in level)
    assert torch.equal(network(x, sigma, y, guide), network(x, sigma, y))


@pytest.mark.parametrize("size", [(24, 40), (21, 37), (9, 64)])
def test_guide_enters_each_encoder_block_at_any_size(conditional, size):
    y = picture(*size)
    guide = conditional.guide(conditional.estimates(y))
    assert [len(level) for level in guide] == list(NETWORK.unet.blocks)
    unguided, guided = (ConditionalPrior(conditional, y, on) for on in (False, True))
    x = normal(2, 3, *size).float()
    sigma = torch.tensor(0.3)
    assert guided(x, sigma).shape == x.shape
    assert not torch.allclose(guided(x, sigma), unguided(x, sigma))


def test_preconditioning_returns_x_at_low_noise_and_y_at_high_noise():
    """c_skip is 1 at sigma = 0 and vanishes as sigma grows."""
    network = ConditionalNetwork(NETWORK, 0.3)  # fresh: F is zero
    x, y = normal(1, 3, 16, 16).float(), 2 * picture(16, 16) - 1
    torch.testing.assert_close(network(x, torch.tensor([1e-4]), y), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(network(x, torch.tensor([1e4]), y), y, rtol=0, atol=1e-5)


def test_denoiser_of_the_fresh_network_is_that_of_a_gaussian_around_y():
    """With F = 0: E[x0 | x] for x0 ~ N(y, sigma_data^2); its weighted loss is 1 at every level."""
    network = ConditionalNetwork(NETWORK, 0.3).double().requires_grad_(False)
    sigma = torch.tensor([0.1, 0.3, 3.0]).double()
    y = normal(3, 3, 64, 64, seed=1)
    x0, noise = y + 0.3 * normal(3, 3, 64, 64, seed=2), normal(3, 3, 64, 64, seed=3)
    s = sigma[:, None, None, None]
    expected = (0.3**2 * (x0 + s * noise) + s**2 * y) / (s**2 + 0.3**2)
    torch.testing.assert_close(network(x0 + s * noise, sigma, y), expected)
    for i in range(3):
        row = slice(i, i + 1)
        loss = float(network.loss(x0[row], sigma[row], noise[row], y[row], None))
        assert abs(loss - 1) < 4 * (2 / 12288) ** 0.5  # 4 standard errors of 12288 squares


def solve_conditional(files, posterior, **options):
    return inverse.solve(
        posterior,
        inverse.get_method(
            "structure-icdpm", net=str(files / "conditional.safetensors"), steps=3, **options
        ),
    )


@pytest.mark.parametrize(("guidance", "nfe"), [(1.0, 3), (0.0, 3), (2.0, 6)])
def test_both_evaluations_of_a_weight_are_counted(files, gaussian_posterior, guidance, nfe):
    assert solve_conditional(files, gaussian_posterior("blur"), guidance=guidance).cost.nfe == nfe


def test_answer_of_one_step_is_linear_in_the_weight(files, gaussian_posterior):
    """The last step, to sigma = 0, returns the denoiser."""
    posterior = gaussian_posterior("blur", images=1)
    method = {
        w: inverse.get_method(
            "structure-icdpm", net=str(files / "conditional.safetensors"), steps=1, guidance=w
        )
        for w in (0.0, 0.5, 1.0)
    }
    zero, half, one = (inverse.solve(posterior, m).samples for m in method.values())
    torch.testing.assert_close(
        half, (zero + one) / 2, rtol=0, atol=1e-6
    )  # the network is in float32
    assert not torch.allclose(zero, one)


def test_structure_is_computed_once_per_image(files, gaussian_posterior, monkeypatch):
    calls, forward = [], StructureNetworks.forward
    monkeypatch.setattr(
        StructureNetworks, "forward", lambda self, y: calls.append(len(y)) or forward(self, y)
    )
    solve_conditional(files, gaussian_posterior("blur", images=2))
    assert calls == [1, 1]


def test_answers_do_not_depend_on_the_units_of_the_prior(files, gaussian_posterior):
    """The network works in [-1, 1]; a prior in other units gives the same picture, in float32."""
    posterior = gaussian_posterior("blur", images=1)
    rescaled = inverse.Posterior(
        inverse.RescaledPrior(posterior.prior, 2.0, 0.3),
        posterior.operator,
        posterior.y,
        posterior.noise,
        dtype=torch.float64,
    )
    samples, others = (
        solve_conditional(files, p, sigma_min=low).samples
        for p, low in ((posterior, 0.01), (rescaled, 0.005))
    )
    torch.testing.assert_close(samples, others, rtol=0, atol=1e-5)


# --- training ---------------------------------------------------------------------------------


LOOPS = {
    "structure": (
        StructureTraining,
        StructureTrainConfig(size=16, steps=4, batch=2, warmup=2, network=SMALL, corpus=CORPUS),
    ),
    "conditional": (
        ConditionalTraining,
        StructureTrainConfig(size=16, steps=4, batch=2, warmup=2, network=NETWORK, corpus=CORPUS),
    ),
}


def trained(kind, photographs, checkpoint, **settings):
    """A finished training, from the checkpoint if there is one."""
    loop, config = LOOPS[kind]
    training = loop(photographs, dataclasses.replace(config, **settings), checkpoint)
    for _ in training.run():
        pass
    return training


@pytest.mark.parametrize("kind", LOOPS)
def test_resumed_run_is_the_uninterrupted_run(kind, photographs, tmp_path):
    """Without cooldown the rate of a step does not depend on the number of steps."""
    whole = trained(kind, photographs, tmp_path / "whole.safetensors", cooldown=0.0)
    for steps in (2, 4):
        part = trained(kind, photographs, tmp_path / "part.safetensors", cooldown=0.0, steps=steps)
    for name, value in whole.ema.items():
        assert torch.equal(value, part.ema[name]), name


def held_out_loss(model, photographs):
    """Training loss of 32 crops that do not depend on the model, nats."""
    sharp, y = CORPUS.batch(photographs, 16, 32, inverse.seeded("held out"))
    with torch.no_grad():
        if isinstance(model, StructureNetworks):
            return float(structure_loss(model(y), sharp))
        estimates = model.estimates(y)
        sigma = model.noise_levels(32, inverse.seeded("levels"))
        noise = normal(*y.shape).float()
        denoising = model.loss(2 * sharp - 1, sigma, noise, 2 * y - 1, model.guide(estimates))
        return float(denoising + structure_loss(estimates, sharp))


@pytest.mark.parametrize("kind", LOOPS)
def test_training_lowers_the_loss(kind, photographs, tmp_path):
    """It fell by 2.3 nats and more when this was written."""
    settings = {"steps": 20, "batch": 4, "learning_rate": 2e-3, "cooldown": 0.0}
    loop, config = LOOPS[kind]
    fresh = loop(
        photographs, dataclasses.replace(config, **settings), tmp_path / "none.safetensors"
    )
    before = held_out_loss(fresh.prior, photographs)
    after = trained(kind, photographs, tmp_path / "c.safetensors", **settings)
    assert held_out_loss(after.prior, photographs) < before - 1


def test_interrupted_command_keeps_its_state_and_says_how_to_resume(
    photographs, tmp_path, monkeypatch, capsys
):
    (tmp_path / "in").mkdir()
    for i, image in enumerate(photographs[0]):
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
        write_png(tmp_path / "in" / f"{i}.png", pixels / 255)
    run = StructureTraining.run

    def interrupted(self, save_every=120.0):
        yield next(run(self, save_every))  # the report of step 20
        raise KeyboardInterrupt

    monkeypatch.setattr(StructureTraining, "run", interrupted)
    out = tmp_path / "net.safetensors"
    config = dataclasses.replace(LOOPS["structure"][1], steps=40)
    assert not train_structure([tmp_path / "in"], out, config, "cpu", {}, tmp_path / "in")
    assert "interrupted at step 20; run the same command to resume" in capsys.readouterr().err
    assert not out.exists()
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    assert StructureTraining(photographs, config, checkpoint).step == 20


def test_denoising_loss_reaches_the_structure_networks_through_the_guide():
    model = randomise(ConditionalNetwork(NETWORK, 0.3))
    y = picture(16, 16)
    guide = model.guide(model.estimates(y))
    model.loss(
        2 * y - 1, torch.tensor([0.3]), normal(1, 3, 16, 16).float(), 2 * y - 1, guide
    ).backward()
    for s in SMALL.scales:
        assert float(model.structure.nets[str(s)].head.weight.grad.abs().max()) > 0


def test_saved_network_is_loaded_in_half_precision(files, conditional):
    loaded = load_conditional(files / "conditional.safetensors")
    for (name, a), b in zip(
        conditional.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert torch.equal(a.half().float(), b), name


# --- shipped networks -------------------------------------------------------------------------


def test_shipped_structure_networks_are_small_and_beat_the_blurry_picture():
    """Shipped photographs, which are not training data, and a new kernel: 0.2 dB at 1/4 and 1/8."""
    path = shipped_cards("structure", "structure")["structure-blur"]
    assert path.with_suffix(".safetensors").stat().st_size < 8 << 20
    net = load_structure("structure-blur")
    problem = inverse.get_problem("deblur", kernel="motion", kernel_size=21, kernel_seed=5)
    truths = torch.stack([t[:, 64:192, 64:192] for t in problem.truths()])
    y = torch.cat(
        [problem.measure(t[None], inverse.seeded("shipped", i)) for i, t in enumerate(truths)]
    )
    for s, estimate in net(y).items():
        error, blurry = (
            (averaged(grey_of(truths), s) - picture).square().mean((1, 2, 3))
            for picture in (estimate.mean, averaged(grey_of(y), s))
        )
        gain = 10 * (blurry / error).log10()
        assert bool((gain > 0).all()) or s == 2
        assert float(gain.mean()) > (0.2 if s > 2 else 0.0)


def test_shipped_diffusion_network_denoises_best_with_the_structure_of_its_own_picture():
    """Denoising loss on shipped photographs with new kernels; 1 is the loss without a network.

    64 crops, blurs and noises are the same for all guides: 0.386, 0.389 and 0.397 when written,
    and in this order for four seeds of the kernels.
    """
    truths = inverse.get_problem("deblur").truths()
    images = [(255 * t).round().byte().permute(1, 2, 0).numpy() for t in truths]
    corpus = BlurCorpus(("motion", "frames"), kernels=64, seed=100)
    losses = denoising_losses(load_conditional("structure-icdpm"), corpus, images, 64, 64)
    assert losses["guided"] < losses["unguided"] < losses["shuffled"] < 0.5


def test_shipped_diffusion_network_deblurs_shipped_photographs():
    """The mean of four samples is nearer to the truth than y: 0.4 to 0.8 dB when written."""
    problem = inverse.get_problem("deblur", kernel="motion", kernel_size=21, kernel_seed=5)
    truths = torch.stack([t[:, 96:160, 96:160] for t in problem.truths()])
    posterior = problem.posterior(truths, prior="photo-64", seed=1)
    mean = inverse.solve(posterior, inverse.get_method("structure-icdpm", steps=10), samples=4).mean
    error, blurry = ((x - truths).square().mean((1, 2, 3)) for x in (mean, posterior.y))
    assert bool((10 * (blurry / error).log10() > 0.1).all())


# --- bad input --------------------------------------------------------------------------------


def refusal(method, posterior, **options):
    with pytest.raises(UnsupportedError) as caught:
        inverse.solve(posterior, inverse.get_method(method, **options))
    return str(caught.value)


def two_channels():
    prior = inverse.FlatPrior((2, 16, 16), shift=0.5, scale=0.5)
    blur = inverse.physics.Blur(filter=torch.full((1, 1, 3, 3), 1 / 9), padding="reflect")
    return inverse.Posterior(prior, blur, torch.rand(1, 2, 16, 16), inverse.GaussianNoise(0.1))


@pytest.mark.parametrize(
    ("method", "kind"), [("structure-prior", "structure"), ("structure-icdpm", "conditional")]
)
def test_other_channel_counts_are_refused(files, method, kind):
    assert "channels, this one has 2" in refusal(
        method, two_channels(), net=str(files / f"{kind}.safetensors")
    )


def test_shipped_network_refuses_grey_pictures_in_one_sentence():
    blur = inverse.get_problem("deblur", kernel="gaussian", kernel_size=3).operator((1, 16, 16))
    grey = inverse.Posterior(
        inverse.FlatPrior((1, None, None)),
        blur,
        torch.rand(1, 1, 16, 16),
        inverse.GaussianNoise(0.1),
    )
    assert (
        refusal("structure-icdpm", grey)
        == "structure-icdpm: its network reads pictures of 3 channels, this one has 1"
    )


@pytest.mark.parametrize(
    ("method", "kind"), [("structure-prior", "structure"), ("structure-icdpm", "conditional")]
)
def test_measurement_that_is_not_a_picture_of_the_size_of_x_is_refused(
    files, method, kind, gaussian_posterior
):
    assert "reads y as a picture of the size of x" in refusal(
        method, gaussian_posterior("area"), net=str(files / f"{kind}.safetensors")
    )


def test_untrained_scale_is_refused(files, gaussian_posterior):
    reason = refusal(
        "structure-prior",
        gaussian_posterior("blur"),
        net=str(files / "structure.safetensors"),
        scales=(2, 16),
    )
    assert "trained for scales 2, 4, 8, not for 16" in reason


def test_particle_base_is_refused(files, gaussian_posterior):
    assert "weighted particles" in refusal(
        "structure-prior",
        gaussian_posterior("blur"),
        base="smc-mmps",
        net=str(files / "structure.safetensors"),
    )


def test_file_of_the_other_kind_is_refused(files):
    with pytest.raises(PriorError, match="holds a diffusion network, for structure-icdpm"):
        load_structure(files / "conditional.safetensors")
    with pytest.raises(PriorError, match="holds no diffusion network"):
        load_conditional(files / "structure.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("structure-blurr", "did you mean 'structure-blur'"),
        ("weights.pt", "no other file is read"),
        ("nowhere/net.safetensors", "weights need their card beside them"),
        (str(shipped_cards("photo")["photo-64"]), "not a valid card"),
    ],
)
def test_wrong_name_or_file_is_refused_with_what_would_work(name, words):
    with pytest.raises(PriorError, match=words):
        StructureCard.read(name)


def test_damaged_file_is_refused(files, tmp_path):
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"structure{suffix}").write_bytes((files / f"structure{suffix}").read_bytes())
    path = tmp_path / "structure.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(PriorError, match="the file is damaged or not the one described"):
        load_structure(path)


def test_card_of_another_network_is_refused(files, tmp_path):
    (tmp_path / "structure.safetensors").write_bytes((files / "structure.safetensors").read_bytes())
    card = json.loads((files / "structure.json").read_text())
    card["structure"]["widths"] = [8, 16]
    (tmp_path / "structure.json").write_text(json.dumps(card))
    with pytest.raises(PriorError, match="do not fit the card"):
        load_structure(tmp_path / "structure.safetensors")


def test_scale_without_a_level_is_refused():
    with pytest.raises(OptionError, match="none at 8"):
        ConditionalConfig(SMALL, UNetConfig(widths=(8, 8), blocks=(1, 1)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "net.bin"], "must end in .safetensors"),
        (["--out", "net.safetensors", "--families", "fog"], "unknown family 'fog'; "),
        (
            ["--out", "net.safetensors", "--noise", "-1"],
            "reflected a share from 0 to 1, and kernels at least 1, got -1,",
        ),
        (["--out", "net.safetensors", "--scales", "2,3"], "powers of 2"),
        (["--out", "net.safetensors", "--size", "4"], "size must be at least 8"),
    ],
)
def test_bad_input_to_the_command_is_refused_in_one_line_and_nothing_is_written(
    arguments, words, tmp_path, monkeypatch, capsys
):
    from inverse.command import app as cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["inverse", "train-structure", "--images", ".", "--validation", ".", *arguments]
    )
    with pytest.raises(SystemExit) as caught:
        cli.main()
    message = capsys.readouterr().err
    assert caught.value.code == 2
    assert words in message
    assert message.count("\n") == 1
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 2.0}, "beta must be positive and at most 1, got 2"),
        ({"base": "diffpir:zeta"}, "name=value"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(InverseError, match=words):
        inverse.get_method("structure-prior", **options)
