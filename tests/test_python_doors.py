"""What Python passes by mistake is an InverseError with the reason, or it works."""

import numpy as np
import pytest
import torch

import inverse
from inverse.errors import InputError, InverseError

PRIOR = inverse.GaussianPrior(torch.zeros(1, 2, 2), torch.eye(4))
HALF = inverse.operator(lambda x: x / 2, shape=(1, 2, 2))
NOISE = inverse.GaussianNoise(0.1)
Y = torch.full((1, 1, 2, 2), 0.5)


@pytest.mark.parametrize("y", [Y.numpy(), Y.tolist(), np.ones((1, 1, 2, 2), dtype=np.uint8)])
def test_arrays_and_lists_are_measurements(y):
    result = inverse.solve(inverse.Posterior(PRIOR, HALF, y, NOISE), "tikhonov")
    expected = inverse.Posterior(PRIOR, HALF, torch.tensor(np.array(y)).float(), NOISE)
    assert torch.equal(result.samples, inverse.solve(expected, "tikhonov").samples)


@pytest.mark.parametrize(
    "y", [None, Y[:0], [Y, Y], (Y,), "y", 3.0, {}, [[1], [1, 2]], np.array(["a"]), object()]
)
def test_another_measurement_is_refused(y):
    with pytest.raises(InputError, match="measurement: "):
        inverse.Posterior(PRIOR, HALF, y, NOISE)


@pytest.mark.parametrize("prior", [None, "photo-64", 3, Y])
def test_something_else_than_a_prior_is_refused(prior):
    with pytest.raises(InputError, match="prior: expected a prior"):
        inverse.Posterior(prior, HALF, Y, NOISE)


@pytest.mark.parametrize("operator", [None, "blur", Y, lambda x: x])
def test_something_else_than_an_operator_is_refused(operator):
    with pytest.raises(InputError, match="operator: expected"):
        inverse.Posterior(PRIOR, operator, Y, NOISE)


@pytest.mark.parametrize("seed", [None, 1.5, "0", True, -1, [0]])
def test_a_seed_is_a_natural_number(seed):
    posterior = inverse.Posterior(PRIOR, HALF, Y, NOISE)
    with pytest.raises(InverseError, match="seed must be"):
        inverse.solve(posterior, "tikhonov", seed=seed)
    with pytest.raises(InverseError, match="seed must be"):
        inverse.get_problem("bimodal").posterior(seed=seed)


def test_a_truth_beside_a_measurement_is_refused():
    problem = inverse.get_problem("bimodal")
    truth = problem.truths()[0]
    with pytest.raises(InputError, match="got both"):
        problem.posterior(truth, y=torch.zeros(1))


@pytest.mark.parametrize("index", [9, -1, 1, None, 0.0, "0", True])
def test_an_image_that_does_not_exist_is_refused(index):
    result = inverse.solve(inverse.Posterior(PRIOR, HALF, Y, NOISE), "tikhonov")
    with pytest.raises(InputError, match="does not exist; there are 1"):
        result.image(index)


@pytest.mark.parametrize("device", ["gpu", "xyz", "cuda:99", "meta", None])
def test_a_device_that_the_machine_lacks_is_refused(device):
    with pytest.raises(InverseError, match="is not available; this machine has cpu"):
        inverse.get_problem("bimodal").posterior(device=device)
    with pytest.raises(InverseError, match="is not available; this machine has cpu"):
        inverse.load_prior("photo-64", device=device)


def test_a_measurement_without_a_noise_model_is_refused():
    with pytest.raises(InputError, match=r"noise: neither .* names a noise model"):
        inverse.Posterior(PRIOR, HALF, Y)


@pytest.mark.parametrize("dtype", ["float32", torch.int32, None])
def test_a_precision_is_a_floating_dtype(dtype):
    with pytest.raises(InputError, match=r"dtype: expected torch.float32"):
        inverse.Posterior(PRIOR, HALF, Y, NOISE, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_answer_of_an_operator_takes_the_precision_of_x(dtype):
    operator = inverse.operator(lambda x: (x / 2).to(dtype), shape=(1, 2, 2))
    assert inverse.Posterior(PRIOR, operator, Y, NOISE).A(Y).dtype == torch.float32


def test_numbers_that_leave_their_range_are_one_line():
    class Overflow(inverse.Method):
        name = "overflow"

        def run(self, posterior, samples, generator):
            yield posterior.prior.mean.expand(len(posterior), *posterior.shape)
            yield 10.0 ** (10.0**10)

    with pytest.raises(InputError, match=r"overflow left the range of numbers in step 2"):
        inverse.solve(inverse.Posterior(PRIOR, HALF, Y, NOISE), Overflow())


def test_a_message_is_one_line_whatever_it_quotes():
    with pytest.raises(InverseError) as caught:
        inverse.GaussianNoise(torch.full((3, 3), torch.nan))
    assert "\n" not in str(caught.value)


def test_measurements_of_stacked_physics_are_refused():
    """deepinv's TensorList is no list; numpy would take its first tensor for all."""
    physics = inverse.physics
    stacked = physics.StackedLinearPhysics([physics.Denoising(), physics.Denoising()])
    y = stacked.A(torch.zeros(1, 1, 4, 4))
    prior = inverse.FlatPrior((1, None, None))
    with pytest.raises(inverse.InverseError, match="got a TensorList of 2 tensors"):
        inverse.Posterior(prior, stacked, y, inverse.GaussianNoise(0.1))
