"""Bases that nearly diagonalise A A^T, and the iterations that they save."""

import pytest
import torch
from conftest import normal

import inverse
from inverse.execution import CG
from inverse.measurement import operators
from inverse.measurement.linalg import conjugate_gradient
from inverse.measurement.spectrum import approximate_spectrum

SHAPE = (2, 24, 30)


def blur(boundary="reflect", kernel="defocus", width=2.5, shape=SHAPE, dtype=torch.float64):
    """The operator of `deblur` in this precision."""
    options = {"kernel": kernel, "width": width, "boundary": boundary, "kernel_size": 7}
    return operators.clone(inverse.get_problem("deblur", **options).operator(shape), "cpu", dtype)


def gram(operator):
    return lambda v: operator.A(operator.A_adjoint(v))


def with_calls(apply):
    """The map, and a list that grows at every call."""
    calls = []
    return lambda v: calls.append(1) or apply(v), calls


def test_a_periodic_blur_is_diagonal_in_the_fourier_basis():
    M, v = gram(blur("circular")), normal(3, *SHAPE)
    spectrum = approximate_spectrum(M, v, 1e-6)  # deepinv's spectrum has float32 precision
    torch.testing.assert_close(spectrum.apply(lambda lam: lam, v), M(v), rtol=0, atol=1e-6)


def test_a_symmetric_blur_with_repeated_edges_is_diagonal_in_the_cosine_basis():
    """To repeat a pixel is to mirror between pixels, and the kernel is symmetric."""
    kernel = torch.tensor([[1.0, 2, 1], [2, 5, 2], [1, 2, 1]]) / 17
    operator = operators.fft_blur(kernel, SHAPE, "replicate")
    M, v = gram(operators.clone(operator, "cpu", torch.float64)), normal(3, *SHAPE)
    spectrum = approximate_spectrum(M, v, 1e-12)
    torch.testing.assert_close(spectrum.apply(lambda lam: lam, v), M(v), rtol=0, atol=1e-12)


def test_a_function_of_the_spectrum_is_the_function_of_the_map():
    M, v = gram(blur("circular")), normal(3, *SHAPE)
    back = approximate_spectrum(M, v).apply(lambda lam: 1 / (lam + 0.1), v)
    torch.testing.assert_close(M(back) + 0.1 * back, v, rtol=0, atol=1e-5)


def test_a_map_that_depends_on_the_position_has_no_spectrum():
    assert (
        approximate_spectrum(lambda v: v * normal(*SHAPE, seed=3).square(), normal(1, *SHAPE))
        is None
    )


def test_a_map_that_mixes_channels_has_no_spectrum():
    assert (
        approximate_spectrum(lambda v: v.sum(1, keepdim=True).expand_as(v), normal(1, *SHAPE))
        is None
    )


@pytest.mark.parametrize(("boundary", "kernel"), [("reflect", "defocus"), ("valid", "motion")])
def test_the_basis_saves_most_iterations(boundary, kernel):
    """The condition number is about 600 and the tolerance the same.

    At 128 pixels, 12 to 16 iterations replace more than 100; see docs/speed.md.
    """
    operator = blur(boundary, kernel, shape=(1, 96, 96))
    v = operator.A(normal(1, 1, 96, 96))
    precondition = approximate_spectrum(gram(operator), v)
    counts, answers = [], []
    for near in (None, lambda v: precondition.apply(lambda lam: 1 / (lam + 1.6e-3), v)):
        M, calls = with_calls(lambda v: gram(operator)(v) + 1.6e-3 * v)
        answers.append(conjugate_gradient(M, v, settings=CG(1e-8, 500), precondition=near))
        counts.append(len(calls))
    assert 2.5 * counts[1] < counts[0] < 500
    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=2e-8 * float(v.norm()) / 1.6e-3)


def test_a_preconditioned_row_does_not_depend_on_the_other_rows():
    operator = blur()
    spectrum = approximate_spectrum(gram(operator), normal(1, *SHAPE))
    v = normal(3, *SHAPE) * torch.tensor([1e-3, 1.0, 1e3]).reshape(3, 1, 1, 1)

    def solve(v):
        near = lambda r: spectrum.apply(lambda lam: 1 / (lam + 0.01), r)  # noqa: E731
        return conjugate_gradient(
            lambda u: gram(operator)(u) + 0.01 * u, v, settings=CG(1e-6, 100), precondition=near
        )

    torch.testing.assert_close(
        solve(v), torch.cat([solve(row[None]) for row in v]), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("kernel", ["defocus", "gaussian"])
def test_the_posterior_solves_to_its_tolerance(kernel):
    """In float32 with the default settings; the solve of the Gaussian kernel is closed-form."""
    prior = inverse.FlatPrior((3, None, None), shift=0.5, scale=0.5)
    problem = inverse.get_problem("deblur", kernel=kernel, width=2.0)
    posterior = problem.posterior(
        torch.rand(2, 3, 48, 48, generator=inverse.seeded(0)), prior=prior
    )
    signal = torch.tensor([0.01, 1.0])
    v = posterior.residual(torch.zeros(2, 3, 48, 48))
    u = posterior.solve_normal(v, signal)
    S, offset = signal.reshape(2, 1, 1, 1), posterior.A(torch.zeros_like(v))
    residual = v - S * posterior.A(posterior.A_adjoint(u)) + S * offset - 4e-4 * u
    assert (residual.flatten(1).norm(dim=1) < 3e-5 * v.flatten(1).norm(dim=1)).all()
