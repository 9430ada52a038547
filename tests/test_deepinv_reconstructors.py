"""Methods as deepinv reconstructors, and deepinv reconstructors as methods."""

import torch

import inverse
from inverse.measurement.deepinv_import import deepinv


def blurred(size=16, sigma_y=0.02):
    prior = inverse.FlatPrior((3, None, None), shift=0.5, scale=0.5)
    posterior = inverse.get_problem("deblur", boundary="circular", sigma_y=sigma_y).posterior(
        torch.rand(2, 3, size, size), prior=prior
    )
    return prior, posterior


def test_as_reconstructor_equals_solve():
    prior, posterior = blurred()
    method = inverse.get_method("tikhonov")
    physics = posterior.operator.clone()
    physics.set_noise_model(inverse.physics.GaussianNoise(0.02))
    x_hat = inverse.as_reconstructor(method, prior)(posterior.y, physics)
    expected = inverse.solve(posterior, method).mean
    torch.testing.assert_close(x_hat, expected, atol=1e-4, rtol=0)  # deepinv's sigma is float32


def test_as_reconstructor_does_not_modify_y_and_physics():
    prior, posterior = blurred()
    y, physics = posterior.y.clone(), posterior.operator
    kernel = physics.filter.clone()
    inverse.as_reconstructor(
        inverse.get_method("red-diff", steps=3), prior, noise=inverse.GaussianNoise(0.02)
    )(posterior.y, physics)
    assert torch.equal(y, posterior.y)
    assert torch.equal(kernel, physics.filter)


def test_from_reconstructor_equals_the_direct_call():
    _, posterior = blurred()
    model = deepinv("models").ArtifactRemoval(deepinv("models").MedianFilter(3), mode="adjoint")
    result = inverse.solve(posterior, inverse.from_reconstructor(model))
    torch.testing.assert_close(
        result.mean, model(posterior.y, posterior.operator), atol=1e-6, rtol=0
    )


def test_side_effects_of_a_reconstructor_are_contained():
    _, posterior = blurred()

    def reconstruct_with_side_effects(y, physics):
        y.zero_()
        physics.filter = None
        return torch.rand(1, 3, 16, 16)

    y, state = posterior.y.clone(), torch.get_rng_state()
    first = inverse.solve(posterior, inverse.from_reconstructor(reconstruct_with_side_effects))
    second = inverse.solve(posterior, inverse.from_reconstructor(reconstruct_with_side_effects))
    assert torch.equal(posterior.y, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.samples, second.samples)
    assert posterior.operator.filter is not None
