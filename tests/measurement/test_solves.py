"""The posterior's linear solves: dense algebra in float64, every product with A counted as it was made, rows that never hear of each other."""

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
    noise, prior = (
        inverse.GaussianNoise(sigma),
        inverse.FlatPrior((2, None, None), shift=0.5, scale=0.5),
    )
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
    """A diagonal signal over five decades, around another mean in each row."""
    return (
        torch.tensor([1.0, 0.03, 20.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
        * (2 * normal(ROWS, *SHAPE, seed=5)).exp()
    )


def right_hand_side(posterior):
    """Rows of unlike size and content, which do not converge together."""
    return normal(*posterior.y.shape, seed=4) * torch.tensor(
        [1e-3, 1.0, 1e3], dtype=torch.float64
    ).reshape(-1, *[1] * (posterior.y.ndim - 1))


def dense_solution(posterior, v, signal, variance):
    """(A diag(signal) A^T + R)^-1 v, one row at a time; least norm where that is singular."""
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


def assert_rows_close(found, expected, relative):
    """Each row by its own size."""
    miss, size = (found - expected).flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1)
    assert (miss <= relative * size).all(), (miss / size).tolist()


def spied(posterior):
    """Rows that went through each map of the operator; what a map calls of the others is its own."""
    rows, inside = {}, []

    def watch(name, call):
        def watched(v, *args, **kwargs):
            if not inside:
                rows[name] = rows.get(name, 0) + len(v)
            inside.append(name)
            try:
                return call(v, *args, **kwargs)
            finally:
                inside.pop()

        return watched

    for name in ("A", "A_adjoint", "U", "U_adjoint", "V", "V_adjoint"):
        if hasattr(posterior.operator, name):
            setattr(posterior.operator, name, watch(name, getattr(posterior.operator, name)))
    return rows


def counted(posterior):
    return {"A": posterior.cost.A_rows, "A_adjoint": posterior.cost.A_adjoint_rows}


# --- a diagonal signal -------------------------------------------------------------------------------------------------


@every_operator
@pytest.mark.parametrize("how", ["preconditioned", "plain"])
def test_a_signal_over_five_decades_equals_a_dense_solve(name, how):
    """Condition numbers to 1e5, where a residual of 1e-12 leaves 1e-7; the mean preconditions, and must not be what is solved."""
    posterior, d = posterior_of(name), varied()
    v = right_hand_side(posterior)
    found = posterior.solve_normal(v, d if how == "preconditioned" else lambda x: d * x)
    assert_rows_close(found, dense_solution(posterior, v, d, SIGMA_Y**2), 1e-7)


@pytest.mark.parametrize("name", ["separable", "circular", "fewer", "inpainting"])
def test_a_diagonal_that_is_constant_in_each_row_takes_one_iteration(name):
    """Its mean is then all of it, and the preconditioner the inverse, whatever the other rows have."""
    posterior = posterior_of(name, inverse.Execution(solver=CG(1e-8, 100)))
    levels, v = torch.tensor([1e-3, 1.0, 50.0], dtype=torch.float64), right_hand_side(posterior)
    found = posterior.solve_normal(v, levels.reshape(-1, 1, 1, 1).expand(ROWS, *SHAPE))
    assert (posterior.cost.A, posterior.cost.A_adjoint) == (1, 1)
    assert_rows_close(found, posterior.solve_normal(v, levels), 1e-8)


@pytest.mark.parametrize("name", ["separable", "circular", "cosine", "fourier", "matrix"])
def test_the_preconditioner_is_of_this_basis(name):
    """Where a basis is known and the signal varies little, preconditioning takes fewer iterations than none; where none is, as many."""
    preconditioned, plain = posterior_of(name), posterior_of(name)
    d, v = (
        1 + 0.1 * torch.rand(ROWS, *SHAPE, generator=inverse.seeded(0), dtype=torch.float64),
        right_hand_side(plain),
    )
    preconditioned.solve_normal(v, d)
    plain.solve_normal(v, lambda x: d * x)
    if name in PLAIN:
        assert preconditioned.cost.A == plain.cost.A
    else:
        assert preconditioned.cost.A < 0.8 * plain.cost.A


@pytest.mark.parametrize("name", ["fewer", "inpainting", "matrix"])
def test_a_diagonal_signal_without_noise_is_solved_in_least_norm(name):
    posterior = posterior_of(name, sigma=0.0)
    d = (normal(ROWS, *SHAPE, seed=5) / 2).exp()
    v = posterior.A(d) - posterior.A(torch.zeros_like(d))  # in the range of A
    assert_rows_close(posterior.solve_normal(v, d), dense_solution(posterior, v, d, 0.0), 1e-9)


@pytest.mark.parametrize("name", ["separable", "fewer", "cosine", "fourier"])
def test_a_diagonal_signal_under_unequal_noise_equals_a_dense_solve(name):
    """Condition numbers to 1e7."""
    columns = posterior_of(name).y.shape[-1]
    sigma = torch.logspace(-2, 0, columns, dtype=torch.float64)
    posterior, d = posterior_of(name, sigma=sigma), varied()
    v = right_hand_side(posterior)
    assert_rows_close(
        posterior.solve_normal(v, d), dense_solution(posterior, v, d, sigma.square()), 1e-5
    )


# --- rows --------------------------------------------------------------------------------------------------------------


@every_operator
def test_a_row_is_solved_as_it_is_alone(name):
    """At a tolerance that shows which iteration a row ended in; products of a batch round otherwise than those of a row."""
    posterior, d = posterior_of(name, LOOSE), varied()
    v = right_hand_side(posterior)
    together = posterior.solve_normal(v, d)
    alone = torch.cat(
        [row(posterior, i).solve_normal(v[i : i + 1], d[i : i + 1]) for i in range(ROWS)]
    )
    assert_rows_close(together, alone, 1e-6)


@every_operator
@pytest.mark.parametrize("call", ["prox", "A_dagger"])
def test_a_row_of_what_is_built_on_solves_is_as_it_is_alone(name, call):
    posterior, z, levels = (
        posterior_of(name, LOOSE),
        normal(ROWS, *SHAPE, seed=2),
        torch.tensor([1e-3, 1.0, 50.0], dtype=torch.float64),
    )
    calls = {"prox": lambda p, i: p.prox(z[i], levels[i]), "A_dagger": lambda p, i: p.A_dagger(p.y)}
    together = calls[call](posterior, slice(None))
    alone = torch.cat([calls[call](row(posterior, i), slice(i, i + 1)) for i in range(ROWS)])
    assert_rows_close(together, alone, 1e-6)


@every_operator
def test_a_batch_is_counted_until_its_last_row_is_done(name):
    """A row that has converged goes through A with the others."""
    posterior, d = posterior_of(name, LOOSE), varied()
    v, alone = right_hand_side(posterior), []
    posterior.solve_normal(v, d)
    for i in range(ROWS):
        single = row(posterior, i)
        single.solve_normal(v[i : i + 1], d[i : i + 1])
        alone.append(single.cost.A)
    assert len(set(alone)) > 1
    assert max(alone) == posterior.cost.A


# --- the account -------------------------------------------------------------------------------------------------------


@every_operator
@pytest.mark.parametrize("call", ["solve", "gmres", "map", "residual"])
def test_an_iterative_solve_is_counted_as_it_was_made(name, call):
    """Every row of A and of A^T that the operator saw, but for the two products that find a basis, made once and of one row."""
    posterior, d = posterior_of(name, LOOSE), varied()
    v = right_hand_side(posterior)
    calls = {
        "solve": lambda: posterior.solve_normal(v, d),
        "gmres": lambda: posterior.solve_normal(v, d, solve=gmres),
        "map": lambda: posterior.solve_normal(v, lambda x: d * x),
        "residual": lambda: posterior.residual(posterior.A_adjoint(posterior.solve_normal(v, d))),
    }
    rows = spied(posterior)
    for first in (True, False):
        before, seen = counted(posterior), dict(rows)
        calls[call]()
        spectrum = 2 if first and name in NEAR and call in ("solve", "residual") else 0
        for way in ("A", "A_adjoint"):
            assert rows[way] - seen.get(way, 0) == counted(posterior)[way] - before[way] + spectrum


@every_iterative
def test_what_is_built_on_an_iterative_solve_is_counted_as_it_was_made(name):
    posterior, z, generator = (
        posterior_of(name, LOOSE),
        normal(ROWS, *SHAPE, seed=2),
        inverse.Generators.for_samples(0, ROWS, 1),
    )
    posterior.solve_normal(posterior.y)  # finds a basis
    rows = spied(posterior)
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
def test_closed_forms_are_counted_as_they_were_made(name):
    """U^T and V together are the price of A^T; filters and solves with a number as signal make no product, but changes of basis."""
    posterior, z, generator = (
        posterior_of(name),
        normal(ROWS, *SHAPE, seed=2),
        inverse.Generators.for_samples(0, ROWS, 1),
    )
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
    rows = spied(posterior)
    for what, (call, maps, (A, A_adjoint)) in expected.items():
        rows.clear()
        before = counted(posterior)
        call()
        assert rows == {way: n * ROWS for way, n in maps.items()}, what
        assert counted(posterior) == {
            "A": before["A"] + A * ROWS,
            "A_adjoint": before["A_adjoint"] + A_adjoint * ROWS,
        }, what


# --- what solves are used for -------------------------------------------------------------------------------------------


@every_operator
def test_the_pseudo_inverse_is_that_of_the_matrix(name):
    """Least squares, of least norm; the disk's circular spectrum is kept in float32 and comes near zero, which bounds the second."""
    posterior = posterior_of(name)
    A = posterior.prior.scale * dense(posterior.operator, SHAPE)
    found = posterior.A_dagger(posterior.y).flatten(1)
    torch.testing.assert_close(A.T @ A @ found.T, A.T @ posterior.y.flatten(1).T, rtol=0, atol=1e-6)
    assert_rows_close(found, found @ torch.linalg.pinv(A) @ A, 1e-4)


@every_closed
def test_a_filter_of_three_terms_equals_dense_functions(name):
    """A different f of each, one of which is not 0 where A is."""
    posterior, x = posterior_of(name), [normal(ROWS, *SHAPE, seed=seed) for seed in range(3)]
    functions = [lambda lam: 1 / (0.3 + lam), lambda lam: lam, lambda lam: (-lam).exp() - 2]
    A = posterior.prior.scale * dense(posterior.operator, SHAPE)
    eigenvalues, basis = torch.linalg.eigh(A.T @ A)
    expected = sum(
        one.flatten(1) @ (basis * f(eigenvalues)) @ basis.T
        for one, f in zip(x, functions, strict=True)
    )
    found = posterior.filter(x[0], functions[0], *zip(x[1:], functions[1:], strict=True))
    torch.testing.assert_close(found.flatten(1), expected, rtol=0, atol=1e-6)
