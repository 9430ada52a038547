"""The posterior's linear solves: dense algebra in float64, evaluation counts, independent rows."""

import pytest
import torch
from conftest import dense, matrix_operator, normal

import inverse
from inverse.execution import CG
from inverse.measurement import operators
from inverse.measurement.linalg import gmres

SHAPE, SIGMA_Y, ROWS = (2, 12, 10), 0.1, 3
TIGHT, LOOSE = (inverse.Execution(solver=CG(tolerance, 1000)) for tolerance in (1e-12, 1e-4))


def deblur(**options):
    return inverse.get_problem("deblur", kernel_size=7, width=2.0, **options).operator(SHAPE)


CLOSED = {
    "separable": lambda: deblur(kernel="gaussian"),
    "circular": lambda: deblur(
        kernel="defocus", boundary="circular"
    ),  # by half spectra, whose count of coefficients is not that of pixels
    "fewer": lambda: inverse.get_problem("super-resolution", factor=2, filter="area").operator(
        SHAPE
    ),
    "inpainting": lambda: inverse.physics.Inpainting(
        img_size=SHAPE, mask=(normal(*SHAPE) > 0).double()
    ),
}
NEAR = {
    "cosine": lambda: operators.fft_blur(
        torch.tensor([[1.0, 2, 1], [2, 12, 2], [1, 2, 1]]) / 24, SHAPE, "replicate"
    ),
    "fourier": lambda: operators.fft_blur(
        torch.tensor([[0.0, 0, 0], [0, 16, 3], [0, 2, 1]]) / 22, SHAPE, "valid"
    ),
}
PLAIN = {"matrix": lambda: matrix_operator(normal(40, 240) / 15, SHAPE)}
OPERATORS = CLOSED | NEAR | PLAIN
every_operator = pytest.mark.parametrize("name", OPERATORS)
every_iterative = pytest.mark.parametrize("name", NEAR | PLAIN)
every_closed = pytest.mark.parametrize("name", CLOSED)


def posterior_of(name, execution=TIGHT, sigma=SIGMA_Y):
    operator = OPERATORS[name]()
    clean = operators.clone(operator, "cpu", torch.float64).A(normal(ROWS, *SHAPE, seed=1))
    noise = inverse.GaussianNoise(sigma)
    prior = inverse.FlatPrior((2, None, None), shift=0.5, scale=0.5)
    return inverse.Posterior(
        prior, operator, clean, noise, shape=SHAPE, dtype=torch.float64, execution=execution
    )


def row(posterior, index):
    """The posterior of one measurement."""
    return inverse.Posterior(
        posterior.prior,
        posterior.operator,
        posterior.y[index : index + 1],
        posterior.noise,
        shape=SHAPE,
        dtype=torch.float64,
        execution=posterior.execution,
    )


def varied():
    """A diagonal signal over five decades, with a different mean in each row."""
    return (
        torch.tensor([1.0, 0.03, 20.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
        * (2 * normal(ROWS, *SHAPE, seed=5)).exp()
    )


def right_hand_side(posterior):
    """Rows of different size and content, which converge at different iterations."""
    return normal(*posterior.y.shape, seed=4) * torch.tensor(
        [1e-3, 1.0, 1e3], dtype=torch.float64
    ).reshape(-1, *[1] * (posterior.y.ndim - 1))


def dense_solution(posterior, v, signal, variance):
    """(A diag(signal) A^T + R)^-1 v, row by row; minimum norm if the matrix is singular."""
    A = posterior.prior.scale * dense(posterior.operator, SHAPE)
    R = (
        torch.as_tensor(variance, dtype=torch.float64)
        .expand(posterior.y.shape[1:])
        .flatten()
        .diag()
    )
    solutions = [
        torch.linalg.pinv((A * s) @ A.T + R, rtol=1e-13, hermitian=True) @ b
        for s, b in zip(signal.flatten(1), v.flatten(1), strict=True)
    ]
    return torch.stack(solutions).reshape(v.shape)


def assert_rows_close(result, expected, relative):
    """Compare each row relative to its norm."""
    miss, size = (result - expected).flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1)
    assert (miss <= relative * size).all(), (miss / size).tolist()


def count_rows(posterior):
    """Count the rows of each map of the operator, without its calls of other maps."""
    rows, inside = {}, []

    def count(name, call):
        def counting(v, *args, **kwargs):
            if not inside:
                rows[name] = rows.get(name, 0) + len(v)
            inside.append(name)
            try:
                return call(v, *args, **kwargs)
            finally:
                inside.pop()

        return counting

    for name in ("A", "A_adjoint", "U", "U_adjoint", "V", "V_adjoint"):
        if hasattr(posterior.operator, name):
            setattr(posterior.operator, name, count(name, getattr(posterior.operator, name)))
    return rows


def counted(posterior):
    return {"A": posterior.cost.A_rows, "A_adjoint": posterior.cost.A_adjoint_rows}


# --- a diagonal signal ------------------------------------------------------------------------


@every_operator
@pytest.mark.parametrize("how", ["preconditioned", "plain"])
def test_a_signal_over_five_decades_equals_a_dense_solve(name, how):
    """Condition numbers reach 1e5, so that a residual of 1e-12 leaves an error of 1e-7.

    The preconditioner uses the mean of the signal; the solve must use the signal.
    """
    posterior, d = posterior_of(name), varied()
    v = right_hand_side(posterior)
    result = posterior.solve_normal(v, d if how == "preconditioned" else lambda x: d * x)
    assert_rows_close(result, dense_solution(posterior, v, d, SIGMA_Y**2), 1e-7)


@pytest.mark.parametrize("name", ["separable", "circular", "fewer", "inpainting"])
def test_a_diagonal_that_is_constant_in_each_row_takes_one_iteration(name):
    """The preconditioner of its mean is then the inverse, for any signal of the other rows."""
    posterior = posterior_of(name, inverse.Execution(solver=CG(1e-8, 100)))
    levels, v = torch.tensor([1e-3, 1.0, 50.0], dtype=torch.float64), right_hand_side(posterior)
    result = posterior.solve_normal(v, levels.reshape(-1, 1, 1, 1).expand(ROWS, *SHAPE))
    assert (posterior.cost.A, posterior.cost.A_adjoint) == (1, 1)
    assert_rows_close(result, posterior.solve_normal(v, levels), 1e-8)


@pytest.mark.parametrize("name", ["separable", "circular", "cosine", "fourier", "matrix"])
def test_the_preconditioner_needs_a_known_basis(name):
    """For a signal that varies little, it saves iterations if a basis is known.

    Without a basis, the number of iterations is the same.
    """
    preconditioned, plain = posterior_of(name), posterior_of(name)
    d = 1 + 0.1 * torch.rand(ROWS, *SHAPE, generator=inverse.seeded(0), dtype=torch.float64)
    v = right_hand_side(plain)
    preconditioned.solve_normal(v, d)
    plain.solve_normal(v, lambda x: d * x)
    if name in PLAIN:
        assert preconditioned.cost.A == plain.cost.A
    else:
        assert preconditioned.cost.A < 0.8 * plain.cost.A


@pytest.mark.parametrize("name", ["fewer", "inpainting", "matrix"])
def test_a_diagonal_signal_without_noise_gives_the_minimum_norm_solution(name):
    posterior = posterior_of(name, sigma=0.0)
    d = (normal(ROWS, *SHAPE, seed=5) / 2).exp()
    v = posterior.A(d) - posterior.A(torch.zeros_like(d))  # in the range of A
    assert_rows_close(posterior.solve_normal(v, d), dense_solution(posterior, v, d, 0.0), 1e-9)


@pytest.mark.parametrize("name", ["separable", "fewer", "cosine", "fourier"])
def test_a_diagonal_signal_under_unequal_noise_equals_a_dense_solve(name):
    """Condition numbers reach 1e7."""
    columns = posterior_of(name).y.shape[-1]
    sigma = torch.logspace(-2, 0, columns, dtype=torch.float64)
    posterior, d = posterior_of(name, sigma=sigma), varied()
    v = right_hand_side(posterior)
    assert_rows_close(
        posterior.solve_normal(v, d), dense_solution(posterior, v, d, sigma.square()), 1e-5
    )


# --- rows -------------------------------------------------------------------------------------


@every_operator
def test_a_row_does_not_depend_on_the_other_rows(name):
    """The tolerance reveals the iteration at which a row ends, but not the rounding of batches."""
    posterior, d = posterior_of(name, LOOSE), varied()
    v = right_hand_side(posterior)
    together = posterior.solve_normal(v, d)
    alone = torch.cat(
        [row(posterior, i).solve_normal(v[i : i + 1], d[i : i + 1]) for i in range(ROWS)]
    )
    assert_rows_close(together, alone, 1e-6)


@every_operator
@pytest.mark.parametrize("call", ["prox", "A_dagger"])
def test_a_row_of_a_derived_solve_does_not_depend_on_the_other_rows(name, call):
    posterior = posterior_of(name, LOOSE)
    z = normal(ROWS, *SHAPE, seed=2)
    levels = torch.tensor([1e-3, 1.0, 50.0], dtype=torch.float64)
    calls = {"prox": lambda p, i: p.prox(z[i], levels[i]), "A_dagger": lambda p, i: p.A_dagger(p.y)}
    together = calls[call](posterior, slice(None))
    alone = torch.cat([calls[call](row(posterior, i), slice(i, i + 1)) for i in range(ROWS)])
    assert_rows_close(together, alone, 1e-6)


@every_operator
def test_a_batch_is_counted_until_its_last_row_converges(name):
    """A converged row is still evaluated with the others."""
    posterior, d = posterior_of(name, LOOSE), varied()
    v, alone = right_hand_side(posterior), []
    posterior.solve_normal(v, d)
    for i in range(ROWS):
        single = row(posterior, i)
        single.solve_normal(v[i : i + 1], d[i : i + 1])
        alone.append(single.cost.A)
    assert len(set(alone)) > 1
    assert max(alone) == posterior.cost.A


# --- the account ------------------------------------------------------------------------------


@every_operator
@pytest.mark.parametrize("call", ["solve", "gmres", "map", "residual"])
def test_an_iterative_solve_counts_every_product(name, call):
    """All rows of A and A^T, except for the two products of one row that determine a basis."""
    posterior, d = posterior_of(name, LOOSE), varied()
    v = right_hand_side(posterior)
    calls = {
        "solve": lambda: posterior.solve_normal(v, d),
        "gmres": lambda: posterior.solve_normal(v, d, solve=gmres),
        "map": lambda: posterior.solve_normal(v, lambda x: d * x),
        "residual": lambda: posterior.residual(posterior.A_adjoint(posterior.solve_normal(v, d))),
    }
    rows = count_rows(posterior)
    for first in (True, False):
        before, seen = counted(posterior), dict(rows)
        calls[call]()
        spectrum = 2 if first and name in NEAR and call in ("solve", "residual") else 0
        for way in ("A", "A_adjoint"):
            assert rows[way] - seen.get(way, 0) == counted(posterior)[way] - before[way] + spectrum


@every_iterative
def test_a_derived_iterative_solve_counts_every_product(name):
    posterior = posterior_of(name, LOOSE)
    z = normal(ROWS, *SHAPE, seed=2)
    generator = inverse.Generators.for_samples(0, ROWS, 1)
    posterior.solve_normal(posterior.y)  # determines a basis
    rows = count_rows(posterior)
    for call in (
        lambda: posterior.prox(z, 1.0),
        lambda: posterior.prox_sample(z, 1.0, generator),
        lambda: posterior.A_dagger(posterior.y),
        posterior.pseudo_inverse,
    ):
        before, seen = counted(posterior), dict(rows)
        call()
        for way in ("A", "A_adjoint"):
            assert rows[way] - seen.get(way, 0) == counted(posterior)[way] - before[way] > 0


@every_closed
def test_closed_forms_count_their_products(name):
    """U^T and V together count as one A^T.

    Filters and solves with a scalar signal need changes of basis alone, which are not counted.
    """
    posterior = posterior_of(name)
    z = normal(ROWS, *SHAPE, seed=2)
    generator = inverse.Generators.for_samples(0, ROWS, 1)
    f = lambda lam: 1 / (1 + lam)  # noqa: E731
    through = {"U_adjoint": 1, "V": 1}
    expected = {
        "prox": (lambda: posterior.prox(z, 1.0), {"A": 1, **through}, (1, 1)),
        "prox_sample": (
            lambda: posterior.prox_sample(z, 1.0, generator),
            {"A": 1, **through},
            (1, 1),
        ),
        "pseudo_inverse": (posterior.pseudo_inverse, {"A": 1, **through}, (1, 1)),
        "A_dagger": (lambda: posterior.A_dagger(posterior.y), through, (0, 1)),
        "filter": (
            lambda: posterior.filter(z, f, (z, f), (z, f)),
            {"V_adjoint": 3, "V": 1},
            (0, 0),
        ),
        "solve_normal": (
            lambda: posterior.solve_normal(posterior.y, 2.0),
            {"U_adjoint": 1, "U": 2 if name == "circular" else 1},
            (0, 0),
        ),
    }
    rows = count_rows(posterior)
    for what, (call, maps, (A, A_adjoint)) in expected.items():
        rows.clear()
        before = counted(posterior)
        call()
        assert rows == {way: n * ROWS for way, n in maps.items()}, what
        assert counted(posterior) == {
            "A": before["A"] + A * ROWS,
            "A_adjoint": before["A_adjoint"] + A_adjoint * ROWS,
        }, what


# --- what solves are used for -----------------------------------------------------------------


@every_operator
def test_the_pseudo_inverse_equals_that_of_the_dense_matrix(name):
    """Least squares of minimum norm.

    The circular spectrum of the disk has float32 precision and comes close to zero, hence the
    larger tolerance.
    """
    posterior = posterior_of(name)
    A = posterior.prior.scale * dense(posterior.operator, SHAPE)
    result = posterior.A_dagger(posterior.y).flatten(1)
    torch.testing.assert_close(
        A.T @ A @ result.T, A.T @ posterior.y.flatten(1).T, rtol=0, atol=1e-6
    )
    assert_rows_close(result, result @ torch.linalg.pinv(A) @ A, 1e-4)


@every_closed
def test_a_filter_of_three_terms_equals_dense_functions(name):
    """Three functions, one of them not 0 on the null space of A."""
    posterior, x = posterior_of(name), [normal(ROWS, *SHAPE, seed=seed) for seed in range(3)]
    functions = [lambda lam: 1 / (0.3 + lam), lambda lam: lam, lambda lam: (-lam).exp() - 2]
    A = posterior.prior.scale * dense(posterior.operator, SHAPE)
    eigenvalues, basis = torch.linalg.eigh(A.T @ A)
    expected = sum(
        one.flatten(1) @ (basis * f(eigenvalues)) @ basis.T
        for one, f in zip(x, functions, strict=True)
    )
    result = posterior.filter(x[0], functions[0], *zip(x[1:], functions[1:], strict=True))
    torch.testing.assert_close(result.flatten(1), expected, rtol=0, atol=1e-6)
