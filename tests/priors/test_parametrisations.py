"""Networks of other libraries as priors: exact networks of a Gaussian, then saved models."""

import pytest
import torch
from conftest import normal
from torch import nn

import inverse
from inverse.measurement.deepinv_import import quietly_imported
from inverse.priors.loading import load_prior
from inverse.priors.networks import parametrisations

MEAN, VARIANCE = 0.3, 0.4
SHAPE = (3, 8, 8)
ABAR = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).neg().add(1).cumprod(0)
LEVELS = (0.05, 0.7, 6.0)


def denoised(x, sigma):
    """E[x0 | x] for x0 ~ N(MEAN, VARIANCE)."""
    return MEAN + VARIANCE / (VARIANCE + sigma**2) * (x - MEAN)


class Ideal(nn.Module):
    """The exact network of each VP parametrisation."""

    def __init__(self, prediction):
        super().__init__()
        self.prediction, self.times = prediction, []

    def forward(self, x_t, t):
        self.times.append(t)
        low = t.floor().long().clamp(max=998)
        log_sigmas = (1 / ABAR - 1).sqrt().log()
        s = (
            torch.lerp(log_sigmas[low], log_sigmas[low + 1], (t - low).double())
            .exp()
            .reshape(-1, 1, 1, 1)
        )
        abar = 1 / (1 + s**2)
        x0 = denoised(x_t / abar.sqrt(), s)
        eps = (x_t / abar.sqrt() - x0) / s
        return {
            "epsilon": eps,
            "sample": x0,
            "v_prediction": abar.sqrt() * eps - (1 - abar).sqrt() * x0,
        }[self.prediction]


@pytest.mark.parametrize("sigma", LEVELS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_vp_network_denoises_at_every_level_between_its_times(prediction, sigma):
    prior = parametrisations.VPPrior(Ideal(prediction), ABAR, prediction)
    x = MEAN + normal(2, *SHAPE)
    torch.testing.assert_close(
        prior(x, torch.tensor(sigma).double()), denoised(x, sigma), rtol=1e-5, atol=1e-5
    )


def test_a_vp_network_is_evaluated_at_its_times_and_has_their_range():
    network = Ideal("epsilon")
    prior = parametrisations.VPPrior(network, ABAR)
    prior(normal(1, *SHAPE), (1 / ABAR[300] - 1).sqrt())
    assert float(network.times[0]) == pytest.approx(300, abs=0.01)
    assert prior.sigma_max == pytest.approx(157.4, abs=0.1)
    with pytest.raises(inverse.InverseError, match="must decrease strictly"):
        parametrisations.VPPrior(network, ABAR.flip(0))
    with pytest.raises(inverse.InverseError, match="epsilon, v_prediction or sample, got 'noise'"):
        parametrisations.VPPrior(network, ABAR, "noise")


@pytest.mark.parametrize("sigma", LEVELS)
@pytest.mark.parametrize("noise_at", [0, 1])
def test_a_flow_network_gives_the_same_denoiser(sigma, noise_at):
    def velocity(x_t, t):
        t = t.reshape(-1, 1, 1, 1) if noise_at == 1 else 1 - t.reshape(-1, 1, 1, 1)
        x0 = denoised(x_t / (1 - t), t / (1 - t))
        away = (x_t - (1 - t) * x0) / t - x0
        return away if noise_at == 1 else -away

    prior = parametrisations.FlowPrior(velocity, noise_at=noise_at)
    x = MEAN + normal(2, *SHAPE)
    torch.testing.assert_close(prior(x, torch.tensor(sigma).double()), denoised(x, sigma))


def test_a_deepinv_denoiser_works_on_intensities_with_every_method():
    """x0 = 2 u - 1 in model units, for intensities u in [0, 1]."""
    seen = []

    def denoiser(u, sigma):
        seen.append(sigma.flatten())
        x, s = 2 * u - 1, 2 * sigma
        return (denoised(x, s) + 1) / 2

    prior = parametrisations.from_deepinv(denoiser)
    x = MEAN + normal(2, *SHAPE)
    torch.testing.assert_close(prior(x, torch.tensor(0.6).double()), denoised(x, 0.6))
    assert seen[0].tolist() == pytest.approx([0.3, 0.3])
    assert prior.decode(torch.tensor(-1.0)) == 0
    problem = inverse.get_problem("denoise", sigma_y=0.1)
    result = inverse.solve(
        problem.posterior(torch.rand(1, *SHAPE, generator=inverse.seeded(0)), prior=prior),
        inverse.get_method("diffpir", steps=10),
    )
    assert torch.isfinite(result.samples).all()


def test_a_real_deepinv_wrapper_is_a_prior():
    """deepinv's ScoreModelWrapper of an eps network, compared with VPPrior of the same network."""
    from inverse.measurement.deepinv_import import deepinv

    network = Ideal("epsilon")
    wrapper = deepinv("models").ScoreModelWrapper(
        lambda x_t, t, *_: network(x_t, t.expand(len(x_t)).double()),
        "epsilon",
        clip_output=False,
        sigma_t=(1 / ABAR - 1).sqrt().float(),
        variance_preserving=True,
        takes_integer_time=True,
        n_timesteps=1000,
    )
    x = (MEAN + normal(2, *SHAPE)).float()
    theirs, ours = parametrisations.from_deepinv(wrapper), parametrisations.VPPrior(network, ABAR)
    torch.testing.assert_close(
        theirs(x, torch.tensor(0.7)), ours(x, torch.tensor(0.7)).float(), rtol=0, atol=0.01
    )


def test_a_saved_deepinv_network_is_a_prior(tmp_path):
    """A small DRUNet on intensities u; the prior returns 2 u - 1."""
    from safetensors.torch import load_file, save_file

    from inverse.measurement.deepinv_import import deepinv

    def make():
        return (
            deepinv("models")
            .DRUNet(in_channels=3, out_channels=3, nc=(8, 8, 8, 8), nb=1, pretrained=None)
            .eval()
            .requires_grad_(False)
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        saved = make()
    save_file(saved.state_dict(), tmp_path / "drunet.safetensors")
    loaded = make()
    loaded.load_state_dict(load_file(tmp_path / "drunet.safetensors"))
    x = normal(2, 3, 16, 16).float()
    expected = 2 * saved((x + 1) / 2, 0.2) - 1
    torch.testing.assert_close(
        parametrisations.from_deepinv(loaded)(x, torch.tensor(0.4)), expected
    )


def test_an_edm_network_loads_its_safetensors(tmp_path):
    from safetensors.torch import save_file

    class F(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x, noise):
            return self.weight * x

    save_file({"weight": torch.ones(1)}, tmp_path / "f.safetensors")
    x = normal(1, *SHAPE).float()
    initial = parametrisations.edm(F())
    loaded = parametrisations.edm(F(), weights=tmp_path / "f.safetensors")
    torch.testing.assert_close(initial(x, torch.tensor(0.5)), x / 2)
    torch.testing.assert_close(loaded(x, torch.tensor(0.5)), x)
    (tmp_path / "f.pt").write_bytes(b"\x80pickle")
    with pytest.raises(inverse.InverseError, match="not safetensors that fit"):
        parametrisations.edm(F(), weights=tmp_path / "f.pt")


def test_methods_sample_codes_and_operators_act_on_images():
    """A linear decoder in LatentPrior: DPS differentiates through it, linear methods refuse."""
    codes = inverse.GaussianPrior(
        torch.zeros(2, 4, 4), torch.tensor(0.3), sigma_min=0.01, sigma_max=20.0
    )
    prior = parametrisations.LatentPrior(
        codes, lambda z: torch.nn.functional.interpolate(z[:, :1], scale_factor=2.0) / 4 + 0.5
    )
    operator = inverse.operator(lambda u: u, shape=(1, 8, 8))
    y = 0.5 + 0.1 * torch.ones(1, 1, 8, 8)
    posterior = inverse.Posterior(prior, operator, y, inverse.GaussianNoise(0.05), shape=(2, 4, 4))
    result = inverse.solve(posterior, "dps")
    assert result.samples.shape == (1, 1, 1, 8, 8)
    assert float((result.mean - y).abs().mean()) < 0.05
    assert "linear" in inverse.get_method("pigdm").unsupported(posterior)


diffusers = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("diffusers"),
    reason="diffusers is not installed",
)


def save_pipeline(folder, prediction="epsilon", latent=False):
    quietly_imported("torchvision")
    import diffusers as d

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        channels = 4 if latent else 3
        blocks = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
        unet = d.UNet2DModel(
            sample_size=16,
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            **blocks,
        )
        unet.save_pretrained(folder / "unet")
        d.DDPMScheduler(prediction_type=prediction).save_pretrained(folder / "scheduler")
        if latent:
            vae = {
                "down_block_types": ("DownEncoderBlock2D",) * 2,
                "up_block_types": ("UpDecoderBlock2D",) * 2,
            }
            d.AutoencoderKL(latent_channels=4, sample_size=32, **vae, **blocks).save_pretrained(
                folder / "vae"
            )
    return unet.eval()


@diffusers
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_diffusers_folder_denoises_like_its_scheduler(tmp_path, prediction):
    """x0 equals that of DDPMScheduler.step at a trained time."""
    import diffusers as d

    unet = save_pipeline(tmp_path, prediction)
    prior, t = load_prior(tmp_path), 500
    scheduler = d.DDPMScheduler(prediction_type=prediction, clip_sample=False)
    x_t = normal(2, 3, 16, 16).float()
    with torch.no_grad():
        step = scheduler.step(unet(x_t, t).sample, t, x_t, generator=inverse.seeded(0))
        expected = step.pred_original_sample
    abar = scheduler.alphas_cumprod[t]
    x0 = prior(x_t / abar.sqrt(), (1 / abar - 1).sqrt())
    torch.testing.assert_close(x0, expected, rtol=1e-3, atol=1e-3)
    assert prior.shape == (3, 16, 16)


@diffusers
def test_a_latent_pipeline_solves_through_its_decoder(tmp_path):
    save_pipeline(tmp_path, latent=True)
    prior = load_prior(tmp_path)
    operator = inverse.operator(lambda u: u[..., ::2, ::2], shape=(3, 32, 32))
    posterior = inverse.Posterior(
        prior,
        operator,
        torch.rand(1, 3, 16, 16, generator=inverse.seeded(0)),
        inverse.GaussianNoise(0.05),
        shape=(4, 16, 16),
    )
    result = inverse.solve(posterior, inverse.get_method("dps", steps=3))
    assert result.samples.shape == (1, 1, 3, 32, 32)
    assert torch.isfinite(result.samples).all()


@diffusers
def test_a_pickled_pipeline_is_refused_with_the_command_to_convert_it(tmp_path):
    save_pipeline(tmp_path)
    weights = next((tmp_path / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    command = r"inverse prior convert .* --out .*\.safetensors"
    message = f"pickles are refused; convert it once: {command}"
    with pytest.raises(inverse.InverseError, match=message):
        load_prior(tmp_path)


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(inverse.InverseError, match="diffusers"):
        load_prior(tmp_path)


@diffusers
def test_an_unknown_scheduler_is_refused(tmp_path):
    save_pipeline(tmp_path)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "X"}')
    with pytest.raises(
        inverse.InverseError,
        match=r"scheduler X is neither VP \(beta_start, beta_end\) nor EDM, FlowMatch or CM",
    ):
        load_prior(tmp_path)


def as_edm(scheduler, unet, x, sigma):
    return scheduler.precondition_outputs(
        x,
        unet(scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma)).sample,
        sigma,
    )


def as_flow(scheduler, unet, x, sigma):
    """An Euler step of the scheduler from the time of this noise level to zero."""
    t = float(sigma / (1 + sigma))
    scheduler.set_timesteps(sigmas=[t])
    x_t = (1 - t) * x
    return scheduler.step(
        unet(x_t, scheduler.timesteps).sample, scheduler.timesteps[0], x_t
    ).prev_sample


def as_consistency(scheduler, unet, x, sigma):
    skip, out = scheduler.get_scalings_for_boundary_condition(float(sigma))
    t = torch.tensor(scheduler.sigma_to_t(sigma.numpy()))
    return skip * x + out * unet(x / (sigma**2 + scheduler.config.sigma_data**2) ** 0.5, t).sample


PROCESSES = {
    "EDMEulerScheduler": ({"sigma_data": 0.6}, as_edm),
    "EDMDPMSolverMultistepScheduler": ({"prediction_type": "v_prediction"}, as_edm),
    "FlowMatchEulerDiscreteScheduler": ({}, as_flow),
    "CMStochasticIterativeScheduler": ({}, as_consistency),
}


@diffusers
@pytest.mark.parametrize("sigma", [0.1, 1.5])
@pytest.mark.parametrize("name", PROCESSES)
def test_a_folder_of_another_process_denoises_like_its_scheduler(tmp_path, name, sigma):
    """A saved UNet2DModel, compared with the arithmetic of the diffusers scheduler."""
    import diffusers as d

    unet = save_pipeline(tmp_path)
    settings, reference = PROCESSES[name]
    scheduler = getattr(d, name)(**settings)
    scheduler.save_pretrained(tmp_path / "scheduler")
    prior, x, level = load_prior(tmp_path), normal(2, 3, 16, 16).float(), torch.tensor(sigma)
    with torch.no_grad():
        expected = reference(scheduler, unet, x, level)
        torch.testing.assert_close(prior(x, level), expected, rtol=1e-4, atol=1e-4)  # float32


def test_a_consistency_model_returns_its_input_at_the_smallest_noise_level():
    prior = parametrisations.ConsistencyPrior(lambda x, t: torch.full_like(x, 7.0), sigma_min=0.002)
    x = normal(1, *SHAPE)
    torch.testing.assert_close(prior(x, torch.tensor(0.002, dtype=torch.float64)), x)
