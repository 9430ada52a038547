"""Linear solves compared with dense algebra, and the independence of rows."""

import pytest
import torch
from conftest import dense, host_reads, normal

import inverse
from inverse.execution import CG
from inverse.measurement import operators
from inverse.measurement.linalg import (
    conjugate_gradient,
    eigenvalues,
    functional_calculus,
    gmres,
    norm_squared,
    spectral_filter,
)
from inverse.rows import per_row, row_dot

EXACT = CG(1e-14, 500)
N = 12


def symmetric(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues."""
    basis = torch.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=seed)).Q
    return (basis * torch.as_tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def row_by_row(matrix):
    """v -> M v with the same arithmetic for every batch size."""
    return lambda v: torch.stack([(matrix * row).sum(1) for row in v])


def test_row_dot_is_the_inner_product_of_each_row():
    a, b = normal(3, 2, 4), normal(3, 2, 4, seed=1)
    torch.testing.assert_close(
        row_dot(a, b), torch.einsum("bij,bij->b", a, b), rtol=1e-13, atol=1e-13
    )


def test_per_row_multiplies_whole_rows():
    a, x = normal(3), normal(3, 2, 4)
    assert torch.equal(per_row(a, x) * x, torch.stack([a[i] * x[i] for i in range(3)]))


# --- conjugate gradients ----------------------------------------------------------------------


def test_conjugate_gradient_equals_a_dense_solve():
    """Condition number 100: the tolerance of 1e-14 on the residual leaves 1e-12 on the solution."""
    matrix, b = symmetric(torch.linspace(0.1, 10, N)), normal(5, N, seed=1)
    torch.testing.assert_close(
        conjugate_gradient(row_by_row(matrix), b, settings=EXACT),
        torch.linalg.solve(matrix, b.T).T,
        rtol=0,
        atol=1e-11,
    )


def test_conjugate_gradient_from_any_start_equals_a_dense_solve():
    matrix = symmetric(torch.linspace(0.1, 10, N))
    b = normal(5, N, seed=1)
    start = normal(5, N, seed=2)
    torch.testing.assert_close(
        conjugate_gradient(row_by_row(matrix), b, start, EXACT),
        torch.linalg.solve(matrix, b.T).T,
        rtol=0,
        atol=1e-11,
    )


def test_conjugate_gradient_does_not_modify_its_start():
    start = normal(5, N, seed=2)
    before = start.clone()
    conjugate_gradient(
        row_by_row(symmetric(torch.linspace(0.1, 10, N))), normal(5, N), start, EXACT
    )
    assert torch.equal(start, before)


def test_conjugate_gradient_needs_one_step_per_distinct_eigenvalue():
    """Krylov spaces are exhausted after three distinct eigenvalues; rounding leaves 1e-12."""
    matrix, b = symmetric([1.0] * 4 + [5.0] * 4 + [20.0] * 4), normal(2, N, seed=1)
    torch.testing.assert_close(
        conjugate_gradient(row_by_row(matrix), b, settings=CG(1e-14, 3)),
        torch.linalg.solve(matrix, b.T).T,
        rtol=0,
        atol=1e-12,
    )


def test_conjugate_gradient_of_a_singular_consistent_system_has_minimum_norm():
    matrix = symmetric([0.0] * 5 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    b = normal(3, N, seed=1) @ matrix
    torch.testing.assert_close(
        conjugate_gradient(row_by_row(matrix), b, settings=EXACT),
        b @ torch.linalg.pinv(matrix),
        rtol=0,
        atol=1e-11,
    )


def test_conjugate_gradient_of_zero_is_zero():
    assert torch.equal(
        conjugate_gradient(
            row_by_row(symmetric([1.0, 2.0])), torch.zeros(3, 2, dtype=torch.float64)
        ),
        torch.zeros(3, 2, dtype=torch.float64),
    )


def test_conjugate_gradient_of_the_zero_matrix_stops_at_once():
    calls: list[int] = []
    assert torch.equal(
        conjugate_gradient(
            lambda v: calls.append(1) or torch.zeros_like(v), normal(3, N), settings=EXACT
        ),
        torch.zeros_like(normal(3, N)),
    )
    assert len(calls) == 1


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_conjugate_gradient_stops_at_the_relative_residual(tolerance):
    matrix = symmetric(torch.logspace(-2, 2, N))
    b = normal(4, N, seed=1) * torch.tensor([[1e-6], [1.0], [1e6], [1.0]], dtype=torch.float64)
    x = conjugate_gradient(row_by_row(matrix), b, settings=CG(tolerance, 500))
    assert ((b - x @ matrix).norm(dim=1) <= tolerance * b.norm(dim=1) * (1 + 1e-6)).all()


def test_a_row_does_not_depend_on_the_other_rows():
    """Bit by bit: rows converge at different steps and are then frozen."""
    matrix = symmetric(torch.logspace(-2, 2, N))
    eigenvector = torch.linalg.eigh(matrix).eigenvectors[:, 3]
    b = torch.stack(
        [
            normal(N, seed=1),
            eigenvector,
            torch.zeros(N, dtype=torch.float64),
            1e6 * normal(N, seed=2),
        ]
    )
    together = conjugate_gradient(row_by_row(matrix), b, settings=CG(1e-6, 200))
    alone = torch.cat(
        [conjugate_gradient(row_by_row(matrix), row[None], settings=CG(1e-6, 200)) for row in b]
    )
    assert torch.equal(together, alone)


def test_at_tolerance_zero_all_iterations_run_without_reads_by_the_host():
    matrix, calls = symmetric([1.0, 2.0, 3.0]), []
    for solve in (conjugate_gradient, gmres):
        with host_reads() as reads:
            solve(lambda v: calls.append(1) or v @ matrix, normal(2, 3), settings=CG(0.0, 7))
        assert reads == []
    assert len(calls) == 14


def test_the_inverse_as_preconditioner_needs_one_step():
    matrix, b = symmetric(torch.logspace(-2, 2, N)), normal(4, N, seed=1)
    inverse_of = torch.linalg.inv(matrix)
    x = conjugate_gradient(
        row_by_row(matrix), b, settings=CG(1e-14, 1), precondition=lambda v: v @ inverse_of
    )
    torch.testing.assert_close(x, b @ inverse_of, rtol=0, atol=1e-10)


@pytest.mark.parametrize("start", [None, normal(4, N, seed=2)], ids=["from-zero", "from-anywhere"])
def test_a_preconditioner_does_not_change_the_solution(start):
    """A diagonal preconditioner over four decades, far from the inverse."""
    matrix = symmetric(torch.linspace(0.1, 10, N))
    b = normal(4, N, seed=1)
    near = torch.logspace(-2, 2, N, dtype=torch.float64)
    x = conjugate_gradient(row_by_row(matrix), b, start, EXACT, precondition=lambda v: near * v)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b.T).T, rtol=0, atol=1e-10)


def test_a_preconditioned_row_does_not_depend_on_the_other_rows():
    """Bit by bit, as without a preconditioner."""
    matrix = symmetric(torch.logspace(-2, 2, N))
    near = torch.logspace(-1, 1, N, dtype=torch.float64)
    b = torch.stack(
        [
            normal(N, seed=1),
            torch.linalg.eigh(matrix).eigenvectors[:, 3],
            torch.zeros(N, dtype=torch.float64),
            1e6 * normal(N, seed=2),
        ]
    )
    together, *alone = (
        conjugate_gradient(row_by_row(matrix), v, None, CG(1e-6, 200), lambda r: near * r)
        for v in (b, *b[:, None])
    )
    assert torch.equal(together, torch.cat(alone))


# --- functions of A A^T -----------------------------------------------------------------------

SHAPE = (2, 6, 9)
DECOMPOSABLE = {
    "circular-blur": lambda: inverse.physics.BlurFFT(
        img_size=SHAPE, filter=normal(1, 1, 3, 5).abs()
    ),
    "separable": lambda: operators.separable(normal(4, 6), normal(5, 9, seed=1)),
    "separable-that-gains-rows": lambda: operators.separable(normal(8, 6), normal(5, 9, seed=1)),
    "inpainting": lambda: inverse.physics.Inpainting(
        img_size=SHAPE, mask=(normal(*SHAPE) > 0).double()
    ),
    "identity": lambda: inverse.physics.Denoising(),
}


@pytest.mark.parametrize("make", DECOMPOSABLE.values(), ids=DECOMPOSABLE)
@pytest.mark.parametrize(
    "f", [lambda lam: 1 / (lam + 0.1), lambda lam: torch.exp(-lam)], ids=["inverse", "exponential"]
)
def test_functional_calculus_equals_a_dense_function_of_A_At(make, f):
    """f(0) is not 0, so that the part of v outside the range of A is tested too."""
    operator = operators.clone(make(), "cpu", torch.float64)
    A = dense(operator, SHAPE)
    eigenvalues, basis = torch.linalg.eigh(A @ A.T)
    v = normal(3, *operator.A(torch.zeros(1, *SHAPE, dtype=torch.float64)).shape[1:], seed=5)
    expected = v.flatten(1) @ (basis * f(eigenvalues)) @ basis.T
    torch.testing.assert_close(
        functional_calculus(operator, v, lambda lam, _: f(lam)).flatten(1),
        expected,
        rtol=0,
        atol=1e-10,
    )


@pytest.mark.parametrize("make", DECOMPOSABLE.values(), ids=DECOMPOSABLE)
def test_a_filter_of_three_terms_equals_dense_functions_of_At_A(make):
    """Three functions, one of them 0 at 0, so that the null space of A is tested too."""
    operator = operators.clone(make(), "cpu", torch.float64)
    x = [normal(3, *SHAPE, seed=seed) for seed in range(3)]
    functions = [lambda lam: 1 / (lam + 0.1), lambda lam: lam, lambda lam: (-lam).exp() - 2]
    A = dense(operator, SHAPE)
    lam, basis = torch.linalg.eigh(A.T @ A)
    expected = sum(
        one.flatten(1) @ (basis * f(lam)) @ basis.T for one, f in zip(x, functions, strict=True)
    )
    result = spectral_filter(
        operator, list(zip(x, functions, strict=True)), eigenvalues(operator, x[0])
    )
    torch.testing.assert_close(result.flatten(1), expected, rtol=0, atol=1e-9)


def test_functional_calculus_does_not_amplify_rounding():
    """v has only rounding errors outside the range of U, which 1e8 would amplify in float32."""
    operator = operators.separable(normal(8, 8), normal(8, 8, seed=1)).float()
    v = normal(1, 1, 8, 8, seed=2)
    result = functional_calculus(operator, v.float(), lambda lam, _: torch.where(lam > 0, 1.0, 1e8))
    torch.testing.assert_close(result, v.float(), rtol=0, atol=1e-5)


# --- the operator norm ------------------------------------------------------------------------


def test_norm_squared_is_the_largest_eigenvalue():
    """30 iterations at a ratio of 0.5 leave (0.5)^60 of the error."""
    matrix = symmetric([0.0, 0.1, 0.5, 1.0, 2.0, 4.0])
    torch.testing.assert_close(
        norm_squared(row_by_row(matrix), normal(2, 6)),
        torch.full((2,), 4.0, dtype=torch.float64),
        rtol=1e-10,
        atol=0,
    )


def test_norm_squared_never_exceeds_the_largest_eigenvalue():
    matrix = symmetric(torch.linspace(0.9, 1, N))
    assert (norm_squared(row_by_row(matrix), normal(20, N)) <= 1 + 1e-12).all()


def test_norm_squared_of_the_zero_map_is_zero():
    assert torch.equal(
        norm_squared(torch.zeros_like, normal(2, N)), torch.zeros(2, dtype=torch.float64)
    )
