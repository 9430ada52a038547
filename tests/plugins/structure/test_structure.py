"""Coarse structure: the blur corpus, the networks' targets, their measurements beside y, and the diffusion network that they guide."""

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
from inverse_plugins.structure.card import (
    StructureCard,
    load_conditional,
    load_structure,
    save_structure,
)
from inverse_plugins.structure.conditional import Conditional, ConditionalConfig, ConditionalPrior
from inverse_plugins.structure.measurements import guided
from inverse_plugins.structure.network import (
    LUMINANCE,
    Estimate,
    Structure,
    StructureConfig,
    averaged,
    coarse_colour,
    coarse_grey,
    colour_of,
    grey_of,
)
from inverse_plugins.structure.training import (
    ConditionalTraining,
    StructureTrainConfig,
    StructureTraining,
    train_structure,
)

SMALL = StructureConfig(scales=(2, 4, 8), widths=(8, 8), blocks=(1, 1))
NETWORK = ConditionalConfig(
    SMALL, UNetConfig(channels=3, widths=(8, 8, 8), blocks=(1, 2, 1), embedding=16)
)
CORPUS = BlurCorpus(kernels=8)


@pytest.fixture(scope="module")
def conditional():
    """A tiny diffusion network with random weights, its structure networks too."""
    return randomise(Conditional(NETWORK, 0.3)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(tmp_path_factory, conditional):
    """Both kinds of file, with random weights."""
    folder = tmp_path_factory.mktemp("structure")
    net = randomise(Structure(SMALL))
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
    """Smooth colour pictures, uint8, large enough for the margins of the kernels."""
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


# --- blurs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", MAKERS)
def test_a_kernel_has_unit_sum_and_depends_on_its_seed_alone(family):
    one, again, other = (BlurCorpus((family,), kernels=3, seed=seed).bank for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    torch.testing.assert_close(one.sum((1, 2)), torch.ones(3))
    assert one.shape == (3, 31, 31)
    assert bool((one >= 0).all())


def test_blur_is_that_of_deepinv():
    """Inside the picture, and with reflected edges; FFTs in single precision."""
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


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(OptionError, match=r"fog.*known: defocus, frames, gaussian, motion"):
        BlurCorpus(("motion", "fog"))


# --- what is predicted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 16, 24), (3, 13, 21), (1, 9, 9)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_coarse_operators_have_true_adjoints_and_measure_what_the_networks_predict(shape, scale):
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
    assert torch.equal(
        averaged(torch.ones(1, 1, 5, 5), 2), torch.ones(1, 1, 3, 3)
    )  # over what there is at an edge


@pytest.mark.parametrize("size", [(32, 40), (33, 41), (8, 8), (5, 70)])
def test_estimates_have_the_size_of_their_targets(size):
    y = picture(*size)
    for s, estimate in randomise(Structure(SMALL))(y).items():
        assert estimate.mean.shape == averaged(grey_of(y), s).shape == estimate.log_tau.shape
        assert estimate.features.shape[-2:] == estimate.mean.shape[-2:]


def test_a_fresh_network_predicts_the_blurry_picture():
    y = picture(32, 32)
    for s, estimate in Structure(SMALL)(y).items():
        torch.testing.assert_close(estimate.mean, averaged(grey_of(y), s))


def test_scales_are_powers_of_two():
    with pytest.raises(OptionError, match="powers of 2"):
        StructureConfig(scales=(2, 3))


# --- beside y ------------------------------------------------------------------------------------------------------------


BETA = {2: 0.5, 4: 0.25}


def linear_guide(posterior):
    """Numbers that are what they say: B_s x + tau_s n for the truth behind y."""
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
    """E[x0 | y], or E[x0 | y, x] with x = x0 + sigma n seen too, by dense algebra: (1, *shape), model units."""
    prior, n = posterior.prior, posterior.prior.mean.numel()
    A = dense(posterior.operator, posterior.shape)
    H, offset, R = (
        A * prior.scale,
        A.sum(1) * prior.shift,
        (posterior.noise.sigma**2).expand(posterior.y.shape[1:]).flatten(),
    )
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


def by_hand(posterior, estimates):
    """The stacked posterior written out: [A; B_2; B_4], [R; tau^2 / beta], [y; z_2; z_4]."""
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


def test_gaussian_prior_with_an_exact_linear_guide_has_the_exact_stacked_posterior(
    gaussian_posterior,
):
    """E[x0 | x, y, z] of mmps at five noise levels against the dense formula; its solver stops at 1e-10."""
    posterior = gaussian_posterior("blur", images=1)
    prior, estimates = posterior.prior, linear_guide(posterior)
    stacked = guided(posterior, estimates, BETA)
    assert list(stacked.operator.modalities) == ["y", "structure-2", "structure-4"]
    mmps = inverse.get_method("mmps", iterations=200, tolerance=1e-10)
    for sigma in (0.02, 0.1, 0.5, 2.0, 20.0):
        x = prior.mean + (
            prior.covariance.diagonal().reshape(prior.mean.shape) + sigma**2
        ).sqrt() * normal(1, *posterior.shape, seed=3)
        expected = conditioned(by_hand(posterior, estimates), x, sigma)
        torch.testing.assert_close(
            mmps.denoise(stacked, x, torch.tensor(sigma, dtype=torch.float64)),
            expected,
            rtol=0,
            atol=1e-7,
        )


def test_structure_narrows_the_posterior_and_shuffled_structure_hurts():
    """Mean square error of the exact posterior mean over 16 draws of a Gaussian: it was 8 % less and 2.2 times more."""
    prior, truth, tau = (
        image_prior(),
        draws(image_prior(), 16),
        torch.full((1, 1, 4, 4), 0.02, dtype=torch.float64),
    )
    posteriors = [
        problems()["blur"].posterior(t, prior=prior, dtype=torch.float64, first_image=i)
        for i, t in enumerate(truth)
    ]
    found = [
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
                guided(posterior, found[i], {2: 1.0}),
                guided(posterior, found[i - 1], {2: 1.0}),
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
    estimates = linear_guide(posterior)
    one, half = (guided(posterior, estimates, {2: beta}).noise.sigma for beta in (1.0, 0.5))
    torch.testing.assert_close(half.flatten()[-16:], one.flatten()[-16:] * 2**0.5)
    assert torch.equal(half.flatten()[:-16], one.flatten()[:-16])


def test_blind_knows_the_picture_and_not_the_operator(gaussian_posterior):
    posterior = gaussian_posterior("blur", images=1)
    blind = guided(posterior, linear_guide(posterior), BETA, colour=0.01)
    assert list(blind.operator.modalities) == ["colour", "structure-2", "structure-4"]
    torch.testing.assert_close(
        blind.y.flatten()[blind.operator.modalities["colour"]],
        averaged(colour_of(posterior.y), 4).flatten(),
    )


def test_the_method_is_its_base_on_the_stacked_posterior(files, gaussian_posterior):
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
    stacked = guided(posterior, net(posterior.y.float()), {2: 0.1, 8: 0.3})
    expected = inverse.solve(stacked, inverse.get_method("diffpir", zeta=0.5, steps=5))
    assert torch.equal(inverse.solve(posterior, method).samples, expected.samples)
    assert inverse.solve(posterior, method).cost.nfe == 5


def test_images_that_end_early_wait(gaussian_posterior):
    posterior = gaussian_posterior("blur", images=2).rows(1)

    def run(one, samples, generator):
        yield from (one.y + i for i in range(1 + int(one.y[0, 0, 0, 0] == posterior.y[1, 0, 0, 0])))

    iterates = list(image_by_image(posterior, 1, inverse.Generators.for_samples(0, 2, 1), run))
    assert len(iterates) == 2
    torch.testing.assert_close(
        iterates[1] - posterior.y,
        torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None, None].expand_as(posterior.y),
    )


# --- the diffusion network -----------------------------------------------------------------------------------------------


def test_a_zero_initialised_guide_is_bitwise_none():
    network = randomise(Conditional(NETWORK, 0.3))
    for p in network.inject.parameters():
        torch.nn.init.zeros_(p)
    y, x, sigma = 2 * picture(24, 40) - 1, normal(1, 3, 24, 40).float(), torch.tensor([0.4])
    guide = network.guide(network.estimates(y))
    assert any(g is not None for level in guide for g in level)
    assert torch.equal(network(x, sigma, y, guide), network(x, sigma, y))


@pytest.mark.parametrize("size", [(24, 40), (21, 37), (9, 64)])
def test_the_guide_enters_each_encoder_block_at_any_size(conditional, size):
    y = picture(*size)
    guide = conditional.guide(conditional.estimates(y))
    assert [len(level) for level in guide] == list(NETWORK.unet.blocks)
    free, bound = (ConditionalPrior(conditional, y, on) for on in (False, True))
    x = normal(2, 3, *size).float()
    assert bound(x, torch.tensor(0.3)).shape == x.shape
    assert not torch.allclose(bound(x, torch.tensor(0.3)), free(x, torch.tensor(0.3)))


def test_without_noise_and_network_it_gives_back_x_and_at_high_noise_y():
    """The preconditioning around y: c_skip is 1 at sigma = 0 and vanishes as it grows."""
    network = Conditional(NETWORK, 0.3)  # fresh: F is zero
    x, y = normal(1, 3, 16, 16).float(), 2 * picture(16, 16) - 1
    torch.testing.assert_close(network(x, torch.tensor([1e-4]), y), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(network(x, torch.tensor([1e4]), y), y, rtol=0, atol=1e-5)


def solve_conditional(files, posterior, **options):
    return inverse.solve(
        posterior,
        inverse.get_method(
            "structure-icdpm", net=str(files / "conditional.safetensors"), steps=3, **options
        ),
    )


@pytest.mark.parametrize(("guidance", "nfe"), [(1.0, 3), (0.0, 3), (2.0, 6)])
def test_both_networks_of_a_weight_are_counted(files, gaussian_posterior, guidance, nfe):
    assert solve_conditional(files, gaussian_posterior("blur"), guidance=guidance).cost.nfe == nfe


def test_weight_is_linear_between_unguided_and_guided(files, gaussian_posterior):
    """After the last step, into sigma = 0, the answer is the denoiser's: with one step it is linear in the weight."""
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
    )  # the network is in single precision
    assert not torch.allclose(zero, one)


def test_structure_is_computed_once_for_an_image(files, gaussian_posterior, monkeypatch):
    calls, forward = [], Structure.forward
    monkeypatch.setattr(
        Structure, "forward", lambda self, y: calls.append(len(y)) or forward(self, y)
    )
    solve_conditional(files, gaussian_posterior("blur", images=2))
    assert calls == [1, 1]


def test_answers_do_not_depend_on_the_priors_units(files, gaussian_posterior):
    """The network's own units are [-1, 1]; a prior in units twice as large gives the same picture, in single precision."""
    posterior = gaussian_posterior("blur", images=1)
    rescaled = inverse.Posterior(
        inverse.RescaledPrior(posterior.prior, 2.0, 0.3),
        posterior.operator,
        posterior.y,
        posterior.noise,
        dtype=torch.float64,
    )
    one, other = (
        solve_conditional(files, p, sigma_min=low).samples
        for p, low in ((posterior, 0.01), (rescaled, 0.005))
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


# --- training ------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", LOOPS)
def test_resumed_run_is_the_uninterrupted_run(kind, photographs, tmp_path):
    loop, config = LOOPS[kind]
    whole = loop(photographs, config, tmp_path / "whole.safetensors")
    for _ in whole.run():
        pass
    for _ in range(2):  # the second object starts from the first one's file alone
        part = loop(photographs, config, tmp_path / "part.safetensors")
        part.take_step(), part.take_step(), part.save()
    for name, value in whole.ema.items():
        assert torch.equal(value, part.ema[name]), name


@pytest.mark.parametrize("kind", LOOPS)
def test_training_lowers_the_loss(kind, photographs, tmp_path):
    loop, config = LOOPS[kind]
    training = loop(
        photographs,
        dataclasses.replace(config, steps=60, batch=4, learning_rate=2e-3),
        tmp_path / "c.safetensors",
    )
    before = float(training.batch_loss(inverse.seeded("held out")).detach())
    for _ in range(20):
        training.take_step()
    after = float(training.batch_loss(inverse.seeded("held out")).detach())
    assert after < before - 1  # nats; it fell by 2.3 when this was written


def test_an_interrupted_command_keeps_its_state_and_says_how_to_go_on(
    photographs, tmp_path, monkeypatch, capsys
):
    (tmp_path / "in").mkdir()
    for i, image in enumerate(photographs[0]):
        write_png(
            tmp_path / "in" / f"{i}.png", torch.from_numpy(image.copy()).permute(2, 0, 1) / 255
        )

    def interrupted(self, save_every=0.0):
        self.take_step()
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(StructureTraining, "run", interrupted)
    out, config = tmp_path / "net.safetensors", LOOPS["structure"][1]
    assert not train_structure([tmp_path / "in"], out, config, "cpu", {}, tmp_path / "in")
    assert "interrupted at step 1; run the same command to resume" in capsys.readouterr().err
    assert not out.exists()
    assert (
        StructureTraining(photographs, config, out.with_suffix(".checkpoint.safetensors")).step == 1
    )


def test_the_joint_loss_reaches_the_structure_networks_through_the_guide(photographs, tmp_path):
    loop, config = LOOPS["conditional"]
    training = loop(
        photographs, dataclasses.replace(config, dropout=0.0), tmp_path / "c.safetensors"
    )
    model = randomise(training.prior)
    y = picture(16, 16)
    guide = model.guide(model.estimates(y))
    model.loss(
        2 * y - 1, torch.tensor([0.3]), normal(1, 3, 16, 16).float(), 2 * y - 1, guide
    ).backward()
    for s in SMALL.scales:
        assert float(model.structure.nets[str(s)].head.weight.grad.abs().max()) > 0


def test_a_file_holds_what_was_saved(files, conditional):
    loaded = load_conditional(files / "conditional.safetensors")
    for (name, a), b in zip(
        conditional.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert torch.equal(a.half().float(), b), name


# --- what ships ----------------------------------------------------------------------------------------------------------


def test_shipped_networks_are_small_and_beat_the_blurry_picture():
    """On the shipped photographs, which nobody trained on, blurred by a trajectory of a new seed: at least 0.2 dB at 1/4 and 1/8."""
    path = shipped_cards("structure", "structure")["structure-blur"]
    assert path.with_suffix(".safetensors").stat().st_size < 8 << 20
    net, problem = (
        load_structure("structure-blur"),
        inverse.get_problem("deblur", kernel="motion", kernel_size=21, kernel_seed=5),
    )
    truths = torch.stack([t[:, 64:192, 64:192] for t in problem.truths()])
    y = torch.cat(
        [problem.measure(t[None], inverse.seeded("shipped", i)) for i, t in enumerate(truths)]
    )
    for s, estimate in net(y).items():
        error, before = (
            (averaged(grey_of(truths), s) - guess).square().mean((1, 2, 3))
            for guess in (estimate.mean, averaged(grey_of(y), s))
        )
        gain = 10 * (before / error).log10()
        assert bool((gain > 0).all()) or s == 2
        assert float(gain.mean()) > (0.2 if s > 2 else 0.0)


def test_shipped_diffusion_network_has_a_use_for_structure():
    """Its denoising loss on held-out photographs, from the card: less than without a network (1), and least with the picture's own structure."""
    card = StructureCard.read("structure-icdpm")
    assert card.denoising["guided"] < card.denoising["shuffled"]
    assert card.denoising["guided"] < 0.8


# --- bad input -----------------------------------------------------------------------------------------------------------


def refusal(method, posterior, **options):
    with pytest.raises(UnsupportedError) as caught:
        inverse.solve(posterior, inverse.get_method(method, **options))
    return str(caught.value)


def two_channels():
    prior, blur = (
        inverse.FlatPrior((2, 16, 16), shift=0.5, scale=0.5),
        inverse.physics.Blur(filter=torch.full((1, 1, 3, 3), 1 / 9), padding="reflect"),
    )
    return inverse.Posterior(prior, blur, torch.rand(1, 2, 16, 16), inverse.GaussianNoise(0.1))


@pytest.mark.parametrize(
    ("method", "kind"), [("structure-prior", "structure"), ("structure-icdpm", "conditional")]
)
def test_another_channel_count_is_refused(files, method, kind):
    assert "channels, this one has 2" in refusal(
        method, two_channels(), net=str(files / f"{kind}.safetensors")
    )


def test_the_shipped_network_is_refused_for_grey_in_one_sentence():
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
def test_a_measurement_that_is_no_picture_of_x_is_refused(files, method, kind, gaussian_posterior):
    assert "reads y as a picture of the size of x" in refusal(
        method, gaussian_posterior("area"), net=str(files / f"{kind}.safetensors")
    )


def test_an_untrained_scale_is_refused(files, gaussian_posterior):
    reason = refusal(
        "structure-prior",
        gaussian_posterior("blur"),
        net=str(files / "structure.safetensors"),
        scales=(2, 16),
    )
    assert "trained for scales 2, 4, 8, not for 16" in reason


def test_a_base_with_particles_is_refused(files, gaussian_posterior):
    assert "weighted particles" in refusal(
        "structure-prior",
        gaussian_posterior("blur"),
        base="smc-mmps",
        net=str(files / "structure.safetensors"),
    )


def test_the_other_kind_of_file_is_refused(files):
    with pytest.raises(PriorError, match="that of a diffusion network, for structure-icdpm"):
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
def test_a_wrong_name_or_file_says_what_would_work(name, words):
    with pytest.raises(PriorError, match=words):
        StructureCard.read(name)


def test_a_damaged_file_is_refused(files, tmp_path):
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"structure{suffix}").write_bytes((files / f"structure{suffix}").read_bytes())
    path = tmp_path / "structure.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(PriorError, match="the file is damaged or not the one described"):
        load_structure(path)


def test_a_card_of_another_network_is_refused(files, tmp_path):
    (tmp_path / "structure.safetensors").write_bytes((files / "structure.safetensors").read_bytes())
    card = json.loads((files / "structure.json").read_text())
    card["structure"]["widths"] = [8, 16]
    (tmp_path / "structure.json").write_text(json.dumps(card))
    with pytest.raises(PriorError, match="do not fit the card"):
        load_structure(tmp_path / "structure.safetensors")


def test_a_network_without_a_level_for_a_scale_is_refused():
    with pytest.raises(OptionError, match="none at 8"):
        ConditionalConfig(SMALL, UNetConfig(widths=(8, 8), blocks=(1, 1)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "net.bin"], "must end in .safetensors"),
        (["--out", "net.safetensors", "--families", "fog"], "there is no family 'fog'; "),
        (
            ["--out", "net.safetensors", "--noise", "-1"],
            "noise must be at least 0, reflected a share from 0 to 1, and kernels at least 1, got -1",
        ),
        (["--out", "net.safetensors", "--scales", "2,3"], "powers of 2"),
        (["--out", "net.safetensors", "--size", "4"], "size must be at least 8"),
    ],
)
def test_the_command_refuses_in_one_line_and_writes_nothing(
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


def test_errors_are_the_projects_own():
    for call in (
        lambda: inverse.get_method("structure-prior", beta=2.0),
        lambda: inverse.get_method("structure-prior", base="diffpir:zeta"),
    ):
        with pytest.raises(InverseError):
            call()
