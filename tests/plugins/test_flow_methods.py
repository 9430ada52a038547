"""Flow-native methods on Gaussian priors, where each result is Gaussian and its law is known.

The law is computed without sampling: a method that is affine in its random numbers is run once for
each of them, with that number 1 and the others 0.
"""

import pytest
import torch
from conftest import matrix_operator, normal

import inverse
from inverse_plugins._flow import destination, destination_with_vjp

F64 = torch.float64
SIGMA_Y = 0.3


class Impulses(inverse.Generators):
    """Random numbers that are 0 in row 0, and 1 in a place of its own in every other row."""

    def __init__(self, rows):
        super().__init__([inverse.seeded("rows")] * rows)
        self.used = 1

    def randn_like(self, x):
        draw = torch.zeros_like(x).flatten(1)
        size = draw.shape[1]
        draw[self.used : self.used + size] = torch.eye(size, dtype=x.dtype)
        self.used += size
        return draw.reshape(x.shape)


def law(p, rows, name, **options):
    """Mean and covariance of the result of a method that is affine in at most rows - 1 numbers."""
    generator = Impulses(rows)
    with torch.no_grad():
        *_, x = inverse.get_method(name, **options).run(p.rows(rows), rows, generator)
    assert generator.used <= rows
    B = (x[1:] - x[0]).flatten(1)
    return x[0].flatten(), B.T @ B


def gaussian(C, m, sigma_y=SIGMA_Y, scale=1.0):
    """Four unknowns, two measurements."""
    A = normal(2, 4, seed=2, dtype=F64)
    y = A @ normal(4, seed=3, dtype=F64)
    prior = inverse.GaussianPrior(m, C, scale=scale, sigma_min=1e-6, sigma_max=1e6)
    return (
        inverse.Posterior(
            prior, matrix_operator(A, (4,)), y[None], inverse.GaussianNoise(sigma_y), dtype=F64
        ),
        A,
        y,
    )


def exact(C, m, A, y, sigma_y=SIGMA_Y):
    """Mean and covariance of the posterior."""
    covariance = torch.linalg.inv(torch.linalg.inv(C) + A.T @ A / sigma_y**2)
    return m + covariance @ A.T @ (y - A @ m) / sigma_y**2, covariance


@pytest.fixture(scope="module")
def coloured():
    root = normal(4, 4, dtype=F64)
    return root @ root.T / 4 + 0.1 * torch.eye(4, dtype=F64), normal(4, seed=1, dtype=F64)


@pytest.fixture(scope="module")
def white():
    return torch.eye(4, dtype=F64), normal(4, seed=1, dtype=F64)


# --- the path ---------------------------------------------------------------------------------


def test_the_destination_is_the_mean_of_x1_given_x_t(coloured):
    """x_t = t x1 + (1 - t) x0 with x0 ~ N(0, I)."""
    C, m = coloured
    p, *_ = gaussian(C, m)
    x, eye = normal(1, 4, seed=5, dtype=F64), torch.eye(4, dtype=F64)
    for t in (0.2, 0.9):
        gain = t * C @ torch.linalg.inv(t**2 * C + (1 - t) ** 2 * eye)
        expected = m + (x - t * m) @ gain.T
        torch.testing.assert_close(destination(p, x, t), expected, rtol=0, atol=1e-12)
        found, vjp = destination_with_vjp(p, x, t)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(vjp(x), x @ gain, rtol=0, atol=1e-12)
    torch.testing.assert_close(destination(p, x, 0.0), m[None], rtol=0, atol=1e-5)


# --- PnP-Flow -----------------------------------------------------------------------------------


def test_pnp_flow_is_its_recursion(coloured):
    """Algorithm 3 in means and covariances; A is not a contraction, its norm divides the step."""
    C, m = coloured
    p, A, y = gaussian(C, m, scale=0.5)
    A, N, draws, alpha = A / 2, 8, 3, 0.5
    eye = torch.eye(4, dtype=F64)
    norm = torch.linalg.matrix_norm(A, 2) ** 2
    x, S = torch.zeros(4, dtype=F64), torch.zeros(4, 4, dtype=F64)
    for n in range(N):
        t = max(n / N, 1e-6)
        M = eye - (1 - n / N) ** alpha / norm * A.T @ A
        gain = C @ torch.linalg.inv(t * C + (1 - t) ** 2 / t * eye)
        z = M @ x + (1 - n / N) ** alpha / norm * A.T @ y
        x = m + gain @ (t * z - t * m)
        S = gain @ (t**2 * M @ S @ M.T + (1 - t) ** 2 / draws * eye) @ gain.T
    mean, covariance = law(p, 1 + 4 * N * draws, "pnp-flow", steps=N, draws=draws, alpha=alpha)
    torch.testing.assert_close(mean, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(covariance, S, rtol=0, atol=1e-5)


@pytest.mark.parametrize("draws", [1, 2])
def test_pnp_flow_tends_to_the_posterior_without_noise_with_a_part_of_its_covariance(
    coloured, draws
):
    """Half the covariance, divided by draws; the error falls as steps^(-2/3)."""
    C, m = coloured
    p, A, y = gaussian(C, m)
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T)
    mode, spread = m + gain @ (y - A @ m), (C - gain @ A @ C) / (2 * draws)
    errors = []
    for steps in (60, 480):
        mean, covariance = law(p, 1 + 4 * steps * draws, "pnp-flow", steps=steps, draws=draws)
        errors.append(((mean - mode).norm(), (covariance - spread).norm()))
    assert errors[1][0] < errors[0][0] / 3 < 0.05
    assert errors[1][1] < errors[0][1] / 3 < 0.02
    assert spread.norm() > 0.2


def test_a_step_of_pnp_flow_that_decays_too_fast_forgets_the_data(coloured):
    """At alpha = 3 > 2 the result returns to the mean of the prior."""
    C, m = coloured
    p, *_ = gaussian(C, m)
    near, far = (
        (law(p, 1 + 4 * 120, "pnp-flow", steps=120, draws=1, alpha=alpha)[0] - m).norm()
        for alpha in (3.0, 0.5)
    )
    assert near < 0.4 < 2 < far


# --- Flower -------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 7])
@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_flower_with_gamma_1_draws_from_the_posterior_of_a_white_prior(white, steps, sigma_data):
    """At any number of steps: x1 is a draw given x_t and y, and x_t' a draw given x1."""
    C, m = white
    p, A, y = gaussian(sigma_data**2 * C, m)
    mean, covariance = law(
        p, 1 + 10 * steps + 4, "flower", steps=steps, gamma=1, sigma_data=sigma_data
    )
    expected = exact(sigma_data**2 * C, m, A, y)
    torch.testing.assert_close(mean, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(covariance, expected[1], rtol=0, atol=1e-5)


def test_flower_with_gamma_0_has_the_right_mean_and_too_small_a_covariance(white):
    """The refinement drops the spread of x1 given x_t and y."""
    C, m = white
    p, A, y = gaussian(C, m)
    mean, covariance = law(p, 1 + 4 * 11, "flower", steps=10)
    expected = exact(C, m, A, y)
    torch.testing.assert_close(mean, expected[0], rtol=0, atol=1e-5)
    assert torch.linalg.eigvalsh(expected[1] - covariance).min() > 0.01


def test_flower_is_biased_for_a_coloured_prior(coloured):
    C, m = coloured
    p, A, y = gaussian(C, m)
    mean, _ = law(p, 1 + 10 * 20 + 4, "flower", steps=20, gamma=1)
    assert (mean - exact(C, m, A, y)[0]).norm() > 0.02


# --- OT-ODE -------------------------------------------------------------------------------------


def test_ot_ode_tends_to_the_posterior_of_a_white_prior(white):
    """From t = 0 with constant gamma; the error of Euler's method halves with the step."""
    C, m = white
    p, A, y = gaussian(C, m)
    mean, covariance = exact(C, m, A, y)
    errors = []
    for steps in (200, 400):
        found = law(p, 5, "ot-ode", steps=steps, start_time=0.0)
        errors.append(((found[0] - mean).norm(), (found[1] - covariance).norm()))
    (_, coarse), (fine_mean, fine) = errors
    assert fine_mean < 0.02
    assert fine < 0.02
    assert 1.7 < coarse / fine < 2.3


def test_ot_ode_starts_between_the_pseudo_inverse_and_noise(coloured):
    """One Euler step from t = 1/2 of two."""
    C, m = coloured
    p, A, y = gaussian(C, m)
    eye, t = torch.eye(4, dtype=F64), 0.5
    x = t * p.pseudo_inverse()[0]
    J = t * C @ torch.linalg.inv(t**2 * C + (1 - t) ** 2 * eye)
    x1_hat = m + J @ (x - t * m)
    r2 = 0.5
    g = (
        J.T
        @ A.T
        @ torch.linalg.solve(r2 * A @ A.T + SIGMA_Y**2 * torch.eye(2, dtype=F64), y - A @ x1_hat)
    )
    for gamma, weight in (("constant", 1.0), ("adaptive", 1.0)):
        found, _ = law(p, 5, "ot-ode", steps=2, start_time=0.5, gamma=gamma)
        expected = x + 0.5 * ((x1_hat - x) / (1 - t) + weight * g)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


# --- D-Flow -------------------------------------------------------------------------------------


def source_map(C, steps):
    """M and N of T(x0) = M x0 + N m, the midpoint rule with dense matrices."""
    eye, delta = torch.eye(4, dtype=F64), 1 / steps

    def slope(t):
        """v = (P - 1) / (1 - t) x + (1 - t P) / (1 - t) m, with P the gain of the destination."""
        t = min(max(t, 1 / (1 + 1e6)), 1 / (1 + 1e-6))
        P = t * C @ torch.linalg.inv(t**2 * C + (1 - t) ** 2 * eye)
        return (P - eye) / (1 - t), (eye - t * P) / (1 - t)

    M, N = eye, torch.zeros_like(eye)
    for i in range(steps):
        (early, early_m), (half, half_m) = slope(i * delta), slope((i + 0.5) * delta)
        middle_M = M + delta / 2 * early @ M
        middle_N = N + delta / 2 * (early @ N + early_m)
        M, N = M + delta * half @ middle_M, N + delta * (half @ middle_N + half_m)
    return M, N


def d_flow(p, **options):
    return inverse.solve(p, inverse.get_method("d-flow", **options)).samples[0, 0]


def test_d_flow_ends_at_the_mode_of_its_source(coloured):
    """|x0|^2 / 2 with lambda = 2 sigma_y^2: Bayes' rule for x0 under the discrete flow."""
    C, m = coloured
    p, A, y = gaussian(C, m)
    M, N = source_map(C, 5)
    expected, _ = exact(M @ M.T, N @ m, A, y)
    found = d_flow(p, steps=5, regulariser="gaussian", lambda_=2 * SIGMA_Y**2, lbfgs_steps=30)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_d_flow_tends_to_the_mean_of_the_posterior(coloured):
    """The error of the midpoint rule falls at least as the square of the step."""
    C, m = coloured
    p, A, y = gaussian(C, m)
    errors = [
        (
            d_flow(p, steps=n, regulariser="gaussian", lambda_=2 * SIGMA_Y**2, lbfgs_steps=30)
            - exact(C, m, A, y)[0]
        ).norm()
        for n in (4, 8)
    ]
    assert errors[1] < 0.01
    assert errors[0] / errors[1] > 3


@pytest.mark.parametrize("lambda_", [0.05, 0.5])
def test_d_flow_with_the_papers_regulariser_is_stationary(coloured, lambda_):
    """-2 M^T A^T (y - A x) + lambda (x0 - 3 x0 / |x0|^2) = 0 with n = 4."""
    C, m = coloured
    p, A, y = gaussian(C, m, scale=0.5)
    M, N = source_map(C, 5)
    x = (d_flow(p, steps=5, lambda_=lambda_, lbfgs_steps=100)) / 0.5
    x0 = torch.linalg.solve(M, x - N @ m)
    misfit = -2 * M.T @ A.T @ (y / 0.5 - A @ x)
    prior = lambda_ * x0 * (1 - 3 / x0.square().sum())
    torch.testing.assert_close(misfit, -prior, rtol=0, atol=1e-5)


def test_the_memory_of_d_flow_does_not_grow_with_its_steps(network_prior):
    """One evaluation of the network at a time has a graph, however many steps there are."""
    alive, most = 0, []

    class Counted(inverse.Posterior):
        def tweedie(self, x, sigma):
            nonlocal alive
            x0_hat, vjp = super().tweedie(x, sigma)
            alive += 1
            most.append(alive)

            def once(v):
                nonlocal alive
                alive -= 1
                return vjp(v)

            return x0_hat, once

    problem = inverse.get_problem("denoise")
    truth = torch.rand(3, 8, 8, generator=inverse.seeded(0))
    whole = problem.posterior(truth, prior=network_prior)
    p = Counted(network_prior, whole.operator, whole.y, whole.noise, shape=(3, 8, 8))
    inverse.solve(p, inverse.get_method("d-flow", steps=9, lbfgs_steps=1))
    assert max(most) == 1 < 18 <= len(most)


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pnp-flow", {"draws": 0}, "draws must be at least 1"),
        ("pnp-flow", {"alpha": -1.0}, "alpha must be at least 0 and at most 1000"),
        ("flower", {"gamma": 2}, "gamma must be at least 0 and at most 1, got 2"),
        ("ot-ode", {"start_time": 1.0}, "start_time must be at least 0 and below 1, got 1"),
        ("d-flow", {"start_time": 1.0}, "start_time must be at least 0 and below 1"),
        ("d-flow", {"alpha": 1.5}, "alpha must be at least 0 and below 1, got 1.5"),
        ("d-flow", {"lbfgs_steps": 0}, "lbfgs_steps must be at least 1"),
        ("ot-ode", {"start_time": -0.1}, "start_time must be at least 0 and below 1"),
    ],
)
def test_impossible_settings_are_refused(name, options, words):
    with pytest.raises(inverse.InverseError, match=words):
        inverse.get_method(name, **options)
