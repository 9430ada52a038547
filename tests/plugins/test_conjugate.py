"""Methods against the conjugate problem: a Gaussian prior, a linear operator, Gaussian noise.

Every linear method's iterate is then Gaussian. Its law is propagated here with dense matrices,
apart from the plug-ins, and compared with samples; where a method claims the posterior, that law
must approach the exact one.

    D(x, s) = m + J (x - m),  J = C (C + s^2 I)^-1,    b - A x = y - H decode(x),    R = sigma_y^2 I
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import inverse

SIGMA_Y, SCALE, SHIFT = 0.05, 0.5, 0.4
SAMPLES = 4000
OPERATORS = ("inpainting", "blur", "dense")
DECOMPOSABLE = ("inpainting", "blur")


class Stream:
    """The interface of Generators over one stream, which makes thousands of rows cheap.

    Other tests cover batch invariance.
    """

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def randn_like(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


@dataclass(frozen=True)
class Conjugate:
    """The problem as an `inverse.Posterior` and as matrices in model units."""

    posterior: inverse.Posterior
    m: Tensor
    C: Tensor
    A: Tensor
    b: Tensor
    mean: Tensor
    covariance: Tensor

    @property
    def I(self) -> Tensor:  # noqa: E743
        return torch.eye(len(self.m), dtype=torch.float64)

    @property
    def R(self) -> Tensor:
        return SIGMA_Y**2 * torch.eye(len(self.A), dtype=torch.float64)

    def J(self, s: float) -> Tensor:
        return self.C @ torch.linalg.inv(self.C + s**2 * self.I)

    def gain(self, V: Tensor) -> Tensor:
        """V A^T (A V A^T + R)^-1."""
        return V @ self.A.T @ torch.linalg.inv(self.A @ V @ self.A.T + self.R)


@functools.cache
def conjugate(name: str, side: int = 4) -> Conjugate:
    """A squared-exponential field of length 2 pixels, mean 0.5, standard deviation 0.12."""
    shape, n = (1, side, side), side * side
    generator = torch.Generator().manual_seed(7)
    grid = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
    covariance = (0.12 / SCALE) ** 2 * torch.exp(-0.5 * (torch.cdist(grid, grid) / 2) ** 2)
    prior = inverse.GaussianPrior(
        torch.full(shape, (0.5 - SHIFT) / SCALE, dtype=torch.float64),
        covariance,
        shift=SHIFT,
        scale=SCALE,
    )
    noise, physics = inverse.GaussianNoise(SIGMA_Y), None
    if name == "inpainting":
        mask = (torch.randperm(n, generator=generator) < n // 2).reshape(shape)
        noise = inverse.GaussianNoise(SIGMA_Y, observed=mask)
        physics = inverse.physics.Inpainting(img_size=shape, mask=mask.double())
    elif name == "blur":
        physics = inverse.physics.BlurFFT(img_size=shape, filter=torch.ones(1, 1, 3, 3) / 9)
    else:
        matrix = torch.randn(n // 2, n, generator=generator, dtype=torch.float64) / n**0.5
        physics = inverse.operator(lambda x: x.flatten(1) @ matrix.T, shape=shape)
    out_shape = (n // 2,) if name == "dense" else shape
    probe = inverse.Posterior(
        prior, physics, torch.zeros(1, *out_shape), noise, dtype=torch.float64
    )
    H = probe.operator.A(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).flatten(1).T
    truth = prior.decode(
        prior.mean
        + (_root(covariance) @ torch.randn(n, generator=generator, dtype=torch.float64)).reshape(
            shape
        )
    )
    y = noise.sample(probe.operator.A(truth[None]), generator)
    settings = inverse.Execution(solver=inverse.CG(1e-12, 200))
    posterior = inverse.Posterior(prior, physics, y, noise, dtype=torch.float64, execution=settings)
    mean, cov = prior.posterior(H, SIGMA_Y, y.flatten())
    b = y.flatten() - H @ torch.full((n,), SHIFT, dtype=torch.float64)
    return Conjugate(posterior, prior.mean.flatten(), covariance, SCALE * H, b, mean, cov)


@dataclass(frozen=True)
class Law:
    """N(mean, covariance)."""

    mean: Tensor
    covariance: Tensor

    def then(self, F: Tensor, g: Tensor | float = 0.0, Q: Tensor | float = 0.0) -> Law:
        """The law of F x + g + N(0, Q)."""
        return Law(F @ self.mean + g, F @ self.covariance @ F.T + Q)

    def w2(self, other: Law) -> float:
        """Wasserstein-2 distance of two Gaussians."""
        root = _root(self.covariance)
        cross = _root(root @ other.covariance @ root)
        return float(
            (
                (self.mean - other.mean).square().sum()
                + (self.covariance + other.covariance - 2 * cross).trace().clamp_min(0)
            ).sqrt()
        )


def _root(M: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh((M + M.T) / 2)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def start(p: Conjugate, s: float) -> Law:
    return Law(torch.zeros_like(p.m), s**2 * p.I)


def exact(p: Conjugate) -> Law:
    return Law(p.mean, p.covariance)


def distance(p: Conjugate, law: Law) -> float:
    """W2 to the posterior in units of the root of its total variance."""
    return law.w2(exact(p)) / float(p.covariance.trace().sqrt())


def levels_of(p: Conjugate, *arguments: object) -> list[float]:
    return inverse.noise_levels(p.posterior, *arguments).tolist()


def draw(p: Conjugate, method: inverse.Method, samples: int, seed: int = 0) -> Tensor:
    """Final iterates (samples, n), model units."""
    rows = p.posterior.rows(samples)
    assert method.unsupported(rows) is None
    with torch.no_grad():
        *_, x = method.run(rows, samples, Stream(seed))
    return x.flatten(1)


def assert_law(x: Tensor, law: Law) -> None:
    """Mean and every covariance entry within 4 standard errors.

    1e-6 covers the linear solves in directions without spread.
    """
    n, variances = len(x), law.covariance.diagonal()
    mean_error = (x.mean(0) - law.mean).abs() / ((variances / n).sqrt() + 1e-6)
    error = (variances[:, None] * variances + law.covariance**2).div(n).sqrt()
    covariance_error = (x.T.cov() - law.covariance).abs() / (error + 1e-6)
    assert float(mean_error.max()) < 4, f"mean off by {float(mean_error.max()):.1f} standard errors"
    assert float(covariance_error.max()) < 4.5, (
        f"covariance off by {float(covariance_error.max()):.1f} standard errors"
    )


# --- the closed forms -------------------------------------------------------------------------


def guided(p: Conjugate, K: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """x -> D + K (b - A D) as a matrix and an offset."""
    J, rest = p.J(s), p.m - p.J(s) @ p.m
    return J - K @ p.A @ J, rest + K @ (p.b - p.A @ rest)


def ancestral_step(
    law: Law, G: Tensor, h: Tensor, s: float, t: float, noise: Tensor | float = 0.0
) -> Law:
    """x' = a (G x + h + noise) + (1 - a) x + ancestral noise, with a = 1 - (t / s)^2."""
    a = 1 - (t / s) ** 2
    I = torch.eye(len(h), dtype=h.dtype)  # noqa: E741
    return law.then(a * G + (1 - a) * I, a * h, a * t**2 * I + a**2 * noise)


def ddim_step(law: Law, G: Tensor, h: Tensor, s: float, t: float) -> Law:
    w = 1 - t / s
    I = torch.eye(len(h), dtype=h.dtype)  # noqa: E741
    return law.then(w * G + (1 - w) * I, w * h)


def heun_step(
    law: Law, ahead: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor] | None, s: float, t: float
) -> Law:
    (G, h), d = ahead, t - s
    I = torch.eye(len(h), dtype=h.dtype)  # noqa: E741
    F1, g1 = (I - G) / s, -h / s
    if after is None:
        return law.then(I + d * F1, d * g1)
    E, e = I + d * F1, d * g1
    F2, g2 = (I - after[0]) @ E / t, ((I - after[0]) @ e - after[1]) / t
    return law.then(I + d / 2 * (F1 + F2), d / 2 * (g1 + g2))


def law_of_pigdm(p: Conjugate, steps: int, step: str = "released") -> Law:
    """The released rule adds K (y - A x0_hat) = G x + h - x0_hat, with weight r^2, to the step."""
    levels = levels_of(p, "vp", steps)
    law = start(p, levels[0])
    for s, t in pairwise(levels):
        r2, J = s**2 / (1 + s**2), p.J(s)
        K = J @ p.A.T @ torch.linalg.inv(r2 * p.A @ p.A.T + p.R)
        if step == "score":
            law = ancestral_step(law, *guided(p, s**2 * K, s), s, t)
            continue
        G, h = guided(p, r2 * K, s)
        ratio, m = (t / s) ** 2, p.m - J @ p.m
        F = (1 - ratio) * J + ratio * p.I + G - J
        law = law.then(F, (1 - ratio) * m + h - m, t**2 * (1 - ratio) * p.I)
    return law


def law_of_tmpd(p: Conjugate, steps: int) -> Law:
    levels = levels_of(p, "vp", steps)
    law = start(p, levels[0])
    for s, t in pairwise(levels):
        V = s**2 * p.J(s)
        K = V @ p.A.T @ torch.linalg.inv(p.A @ V.sum(1).clamp_min(0).diag() @ p.A.T + p.R)
        law = ancestral_step(law, *guided(p, K, s), s, t)
    return law


def law_of_lgd(p: Conjugate, steps: int, temper: float = 1.0) -> Law:
    """With one draw the weight is 1 and the guidance by the likelihood is affine with noise."""
    levels, norm = levels_of(p, "vp", steps), float(torch.linalg.matrix_norm(p.A, 2)) ** 2
    law = start(p, levels[0])
    for s, t in pairwise(levels):
        r2 = s**2 / (1 + s**2)
        K = s**2 * p.J(s) @ p.A.T / (SIGMA_Y**2 + temper * r2 * norm)
        law = ancestral_step(law, *guided(p, K, s), s, t, (K @ p.A) @ (K @ p.A).T * r2)
    return law


def law_of_mmps(p: Conjugate, steps: int, exact_start: bool = False) -> Law:
    levels = levels_of(p, "karras", steps)
    law = exact(p).then(p.I, 0.0, levels[0] ** 2 * p.I) if exact_start else start(p, levels[0])

    def at(s):
        return guided(p, p.gain(s**2 * p.J(s)), s)

    for s, t in pairwise(levels):
        law = heun_step(law, at(s), at(t) if t > 0 else None, s, t)
    return law


def law_of_ddrm(p: Conjugate, steps: int, eta: float = 0.85, eta_b: float = 1.0) -> Law:
    levels = levels_of(p, "vp", steps)
    _, singular, V = torch.linalg.svd(p.A)
    singular = torch.cat([singular, torch.zeros(len(V) - len(singular), dtype=singular.dtype)])
    V, seen = V.T, torch.linalg.pinv(p.A, rtol=1e-5) @ p.b
    tau = [SIGMA_Y / float(s) if s > 1e-5 * singular[0] else float("inf") for s in singular]

    def diagonal(values):
        return (V * torch.tensor(values, dtype=torch.float64)) @ V.T

    s = levels[0]
    law = Law(
        diagonal([float(u <= s) for u in tau]) @ seen,
        diagonal([s**2 - u**2 if u <= s else s**2 for u in tau]),
    )
    for s, t in pairwise(levels):
        keep = t * (1 - eta**2) ** 0.5
        stay = diagonal([keep / s if u == float("inf") else 0.0 for u in tau])
        pull = diagonal([0.0 if u == float("inf") else eta_b if t >= u else keep / u for u in tau])
        fresh = diagonal([t**2 - (eta_b * u) ** 2 if t >= u else (eta * t) ** 2 for u in tau])
        J = p.J(s)
        rest = p.m - J @ p.m
        law = law.then(
            J + stay @ (p.I - J) - pull @ J, rest - stay @ rest + pull @ (seen - rest), fresh
        )
    return law


def law_of_ddnm(p: Conjugate, steps: int, plus: bool = False, rule: str = "released") -> Law:
    levels = levels_of(p, "vp", steps)
    _, singular, V = torch.linalg.svd(p.A)
    singular = torch.cat([singular, torch.zeros(len(V) - len(singular), dtype=singular.dtype)])
    V, inverse_ = V.T, torch.linalg.pinv(p.A, rtol=1e-5)
    seen = singular > 1e-5 * singular[0]
    u = torch.where(seen, SIGMA_Y / singular, torch.inf)
    law = start(p, levels[0])
    for s, t in pairwise(levels):
        c = 0.85 * t if rule == "released" else t * (1 - (t / s) ** 2) ** 0.5
        d = (t**2 - c**2) ** 0.5
        a = 1.0 if rule == "released" else 1 - d / s
        weight = torch.full_like(u, a)
        variance, old = torch.full_like(u, c**2), torch.full_like(u, d)
        if plus and rule == "released":
            weight = torch.where(u > t, d / u, 1.0)
            variance = torch.where(u > t, c**2, t**2 - u**2)
            old = torch.where(seen, 0.0, d)
        elif plus:
            weight = torch.minimum(weight, torch.where(seen, c / u, a))
            variance = c**2 - torch.where(seen, weight * u, 0.0) ** 2
        G, h = guided(p, (V * weight) @ V.T @ inverse_, s)
        J, rest = p.J(s), p.m - p.J(s) @ p.m
        O = (V * (old / s)) @ V.T  # noqa: E741
        law = law.then(G + O @ (p.I - J), h - O @ rest, (V * variance.clamp_min(0)) @ V.T)
    return law


def law_of_diffpir(p: Conjugate, steps: int, lambda_: float = 1.0, zeta: float = 1.0) -> Law:
    levels = levels_of(p, "vp", steps)
    law = start(p, levels[0])
    for s, t in pairwise(levels):
        G, h = guided(p, p.gain(s**2 / lambda_ * p.I), s)
        w = t / s * (1 - zeta) ** 0.5
        law = law.then((1 - w) * G + w * p.I, (1 - w) * h, t**2 * zeta * p.I)
    return law


def law_of_daps(p: Conjugate, steps: int, inner: str, ode_steps: int = 5) -> Law:
    levels = levels_of(p, "karras", steps, 0.1, 80.0)
    norm = float(torch.linalg.matrix_norm(p.A / SCALE, 2)) ** 2
    law = start(p, levels[0])
    for i, (s, t) in enumerate(pairwise(levels)):
        for u, v in pairwise(levels_of(p, "karras", ode_steps + 1, 0.01, s)[:-1]):
            J = p.J(u)
            law = ddim_step(law, J, p.m - J @ p.m, u, v)
        if inner == "exact":
            K = p.gain(s**2 * p.I)
            law = law.then(p.I - K @ p.A, K @ p.b, s**2 * (p.I - K @ p.A) + t**2 * p.I)
            continue
        lr, variance = 1e-4 * (1 - 0.99 * i / steps) / max(1, norm), (0.01 * SCALE) ** 2 / 2
        step = p.I - lr * (p.I / s**2 + p.A.T @ p.A / variance)
        F, g, Q = p.I, 0 * p.m, 0 * p.I  # x0_hat -> F x0_hat + g + N(0, Q)
        for _ in range(100):
            F = step @ F + lr / s**2 * p.I
            g = step @ g + lr * p.A.T @ p.b / variance
            Q = step @ Q @ step + 2 * lr * p.I
        law = law.then(F, g, Q + t**2 * p.I)
    return law


def law_of_pnp_dm(p: Conjugate, steps: int, prior_steps: int, rho_min: float) -> Law:
    @functools.cache
    def reverse(rho: float) -> tuple[Tensor, Tensor, Tensor]:
        """The reverse diffusion from rho as a matrix, an offset and the covariance of its noise."""
        F, law = p.I, Law(0 * p.m, 0 * p.I)
        for s, t in pairwise(levels_of(p, "karras", prior_steps, None, rho)):
            J, a = p.J(s), 1 - (t / s) ** 2
            F = (a * J + (1 - a) * p.I) @ F
            law = ancestral_step(law, J, p.m - J @ p.m, s, t)
        return F, law.mean, law.covariance

    law, rho = start(p, 1.0), 10.0
    for _ in range(steps):
        K = p.gain(rho**2 * p.I)
        law = law.then(p.I - K @ p.A, K @ p.b, rho**2 * (p.I - K @ p.A)).then(*reverse(rho))
        rho = max(0.9 * rho, rho_min)
    return law


def law_of_sitcom(p: Conjugate, steps: int, lambda_: float) -> Law:
    """The fixed point of Adam."""
    levels = levels_of(p, "vp", steps)
    law = start(p, levels[0])
    for s, t in pairwise(levels):
        J, w = p.J(s), lambda_ * SCALE**2 / (1 + s**2)
        rest = p.m - J @ p.m
        inverse_ = torch.linalg.inv(J.T @ p.A.T @ p.A @ J + w * p.I)
        law = law.then(
            w * J @ inverse_, rest + J @ inverse_ @ J.T @ p.A.T @ (p.b - p.A @ rest), t**2 * p.I
        )
    return law


def law_of_langevin(p: Conjugate, steps: int, inner_steps: int, epsilon: float = 0.2) -> Law:
    levels = levels_of(p, "log-uniform", steps)[:-1]
    law = start(p, levels[0])
    norm = float(torch.linalg.matrix_norm(p.A, 2)) ** 2
    for s in levels:
        eta, J, variance = epsilon * s**2, p.J(s), SIGMA_Y**2 + norm * s**2
        F = p.I + eta * ((J - p.I) / s**2 - p.A.T @ p.A / variance)
        for _ in range(inner_steps):
            law = law.then(
                F, eta * ((p.m - J @ p.m) / s**2 + p.A.T @ p.b / variance), 2 * eta * p.I
            )
    return law


def law_of_repaint(p: Conjugate, method: inverse.Method) -> Law:
    levels = levels_of(p, "vp", method.steps)[::-1]
    M = p.A / SCALE
    law = start(p, levels[-1])
    for i, j in pairwise(method.walk()):
        s, t = levels[i], levels[j]
        if t > s:
            law = law.then(p.I, 0.0, (t**2 - s**2) * p.I)
        else:
            J = p.J(s)
            law = ancestral_step(law, J, p.m - J @ p.m, s, t)
            law = law.then(p.I - M, M @ p.b / SCALE, t**2 * M)
    return law


# --- each method samples its closed form ------------------------------------------------------

LINEAR = [
    ("pigdm", {"steps": 50}, lambda p: law_of_pigdm(p, 50)),
    ("pigdm", {"steps": 50, "step": "score"}, lambda p: law_of_pigdm(p, 50, "score")),
    ("tmpd", {"steps": 50}, lambda p: law_of_tmpd(p, 50)),
    ("mmps", {"steps": 25, "tolerance": 1e-9}, lambda p: law_of_mmps(p, 25)),
    ("mmps", {"steps": 25, "tolerance": 1e-9, "solver": "cg"}, lambda p: law_of_mmps(p, 25)),
    ("lgd", {"steps": 100, "draws": 1, "loss": "likelihood"}, lambda p: law_of_lgd(p, 100)),
    (
        "lgd",
        {"steps": 100, "draws": 1, "loss": "likelihood", "temper": 0.0},
        lambda p: law_of_lgd(p, 100, temper=0.0),
    ),
    ("ddnm", {"steps": 50}, lambda p: law_of_ddnm(p, 50)),
    ("ddnm", {"steps": 50, "rule": "paper"}, lambda p: law_of_ddnm(p, 50, rule="paper")),
    ("diffpir", {"steps": 50}, lambda p: law_of_diffpir(p, 50)),
    (
        "diffpir",
        {"steps": 50, "lambda": 7.0, "zeta": 0.3},
        lambda p: law_of_diffpir(p, 50, 7.0, 0.3),
    ),
    ("daps", {"steps": 20}, lambda p: law_of_daps(p, 20, "langevin")),
    ("daps", {"steps": 20, "inner": "exact"}, lambda p: law_of_daps(p, 20, "exact")),
    ("pnp-dm", {"steps": 50, "prior_steps": 5}, lambda p: law_of_pnp_dm(p, 50, 5, 0.03)),
    ("langevin", {"steps": 30, "inner_steps": 3}, lambda p: law_of_langevin(p, 30, 3)),
]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("name", "options", "law"), LINEAR, ids=lambda v: v if isinstance(v, str) else ""
)
def test_samples_follow_the_closed_form(name, options, law, operator):
    p = conjugate(operator)
    assert_law(draw(p, inverse.get_method(name, **options), SAMPLES), law(p))


@pytest.mark.parametrize("operator", DECOMPOSABLE)
@pytest.mark.parametrize("side", [4, 8])
@pytest.mark.parametrize("options", [{}, {"steps": 50, "eta": 0.5, "eta_b": 0.8}], ids=str)
def test_ddrm_follows_its_closed_form(operator, side, options):
    p = conjugate(operator, side)
    law = law_of_ddrm(p, **{"steps": 20, **options})
    x = draw(p, inverse.get_method("ddrm", **options), SAMPLES)
    assert_law(x, law)
    spread = x.var(0).sqrt() / law.covariance.diagonal().sqrt()
    assert (
        float((spread - 1).abs().max()) < 0.05
    )  # real noise in every coordinate: not short by two, not doubled


@pytest.mark.parametrize("rule", ["released", "paper"])
@pytest.mark.parametrize("operator", DECOMPOSABLE)
def test_ddnm_plus_follows_its_closed_form(operator, rule):
    p = conjugate(operator)
    method = inverse.get_method("ddnm-plus", steps=50, rule=rule)
    assert_law(draw(p, method, SAMPLES), law_of_ddnm(p, 50, plus=True, rule=rule))


def test_repaint_follows_its_closed_form():
    p = conjugate("inpainting")
    method = inverse.get_method("repaint", steps=20, jump_length=5, repeats=3)
    assert_law(draw(p, method, SAMPLES), law_of_repaint(p, method))


@pytest.mark.parametrize("operator", OPERATORS)
def test_sitcom_follows_its_closed_form_where_adam_converges(operator):
    p = conjugate(operator)
    x = draw(
        p, inverse.get_method("sitcom", steps=3, inner_steps=600, **{"lambda": 0.05}, stop=0.0), 500
    )
    assert_law(x, law_of_sitcom(p, 3, 0.05))


@pytest.mark.parametrize("operator", OPERATORS)
def test_sitcom_stops_each_row_at_the_noise(operator):
    p = conjugate(operator)
    x = draw(p, inverse.get_method("sitcom", inner_steps=200), 50)
    noise, A = p.posterior.noise, p.posterior.operator.A
    chi = noise.chi_square(
        p.posterior.y.expand(50, *p.posterior.y.shape[1:]),
        A(p.posterior.prior.decode(x.reshape(50, *p.posterior.shape))),
    )
    assert float(chi.max()) <= 1.0


# --- claims -----------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0, 40.0])
def test_mmps_denoises_to_the_exact_conditional_mean(operator, sigma):
    p = conjugate(operator)
    x = (
        p.m
        + sigma
        * torch.randn(3, len(p.m), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ).reshape(3, *p.posterior.shape)
    precision = torch.linalg.inv(p.C + 1e-13 * p.I) + p.I / sigma**2 + p.A.T @ p.A / SIGMA_Y**2
    prior_term = torch.linalg.solve(p.C + 1e-13 * p.I, p.m)
    expected = torch.linalg.solve(
        precision, (x.flatten(1) / sigma**2 + prior_term + p.A.T @ p.b / SIGMA_Y**2).T
    ).T
    found = inverse.get_method("mmps", tolerance=1e-12).denoise(
        p.posterior.rows(3), x, torch.tensor(sigma, dtype=torch.float64)
    )
    assert float((found.flatten(1) - expected).abs().max()) < 1e-7


@pytest.mark.parametrize("operator", OPERATORS)
def test_mmps_converges_to_the_posterior_at_second_order(operator):
    p = conjugate(operator)
    errors = [
        distance(p, law_of_mmps(p, steps, exact_start=True)) for steps in (25, 50, 100)
    ]  # beyond, sigma_min = 0.002 shows
    assert errors[0] < 0.05
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3
    assert (
        distance(p, law_of_mmps(p, 200)) < 0.02
    )  # starting from N(0, sigma_max^2 I) forgets the mean: |m| / sigma_max = 0.01


@pytest.mark.parametrize("name", ["pigdm", "tmpd"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_white_priors_make_pigdm_and_tmpd_exact(name, operator):
    p = conjugate(operator)
    variance, shape = 0.09, p.posterior.shape
    prior = inverse.GaussianPrior(
        torch.full(shape, 0.2, dtype=torch.float64), variance * p.I, shift=SHIFT, scale=SCALE
    )
    posterior = inverse.Posterior(
        prior,
        p.posterior.operator,
        p.posterior.y,
        p.posterior.noise,
        dtype=torch.float64,
        execution=p.posterior.execution,
    )
    white = replace(p, C=variance * p.I)
    sigma = torch.tensor(0.4, dtype=torch.float64)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    G, h = guided(white, white.gain(sigma**2 * white.J(0.4)), 0.4)
    method = (
        inverse.get_method(name, sigma_data=variance**0.5)
        if name == "pigdm"
        else inverse.get_method(name)
    )
    assert (
        float(
            (method.denoise(posterior.rows(2), x, sigma).flatten(1) - (x.flatten(1) @ G.T + h))
            .abs()
            .max()
        )
        < 1e-8
    )


@pytest.mark.parametrize("operator", OPERATORS)
def test_pnp_dm_converges_to_the_posterior_as_rho_falls(operator):
    p = conjugate(operator)
    errors = [
        distance(p, law_of_pnp_dm(p, steps, prior_steps, rho))
        for steps, prior_steps, rho in [(100, 10, 0.1), (200, 40, 0.05), (400, 80, 0.025)]
    ]
    assert errors[1] < errors[0] / 1.5
    assert errors[2] < errors[1] / 1.5
    assert errors[2] < 0.1


@pytest.mark.parametrize("operator", OPERATORS)
def test_langevin_converges_to_the_posterior_with_its_steps(operator):
    p = conjugate(operator)
    errors = [distance(p, law_of_langevin(p, 100, inner, 0.2)) for inner in (5, 20, 80)]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.1


def test_lgd_with_many_draws_is_pigdm():
    p = conjugate("inpainting")
    rows = p.posterior.rows(1000)
    x = p.mean.reshape(p.posterior.shape).expand(1000, *p.posterior.shape)
    sigma = torch.tensor(0.05, dtype=torch.float64)
    expected = (inverse.get_method("pigdm").denoise(rows, x, sigma) - rows.denoise(x, sigma))[0]
    lgd = inverse.get_method("lgd", draws=200, loss="likelihood", temper=0.0)
    found = sigma**2 * lgd.ascent(rows, x, sigma, Stream(0))[1].mean(0)
    assert (
        float((found - expected).norm() / expected.norm()) < 0.02
    )  # bias of 200 self-normalised weights, error of 1000 rows: measured 0.005


def test_lgd_without_a_spread_takes_the_step_of_dps():
    p = conjugate("dense")
    x = p.mean.reshape(1, *p.posterior.shape) + 0.1
    tiny = torch.tensor(1e-9, dtype=torch.float64)
    _, ascent = inverse.get_method("lgd", draws=3).ascent(p.posterior, x, tiny, Stream(0))
    e = (p.posterior.residual(x)).flatten()
    norm = e.norm() * p.posterior.prior.scale
    torch.testing.assert_close(ascent, p.posterior.A_vjp(x, p.posterior.residual(x)) / norm)


def test_the_exact_proximal_draw_has_the_law_of_its_conditional():
    p = conjugate("dense")
    z = torch.full((20000, *p.posterior.shape), 0.1, dtype=torch.float64)
    x = p.posterior.rows(20000).prox_sample(z, 0.04, Stream(3)).flatten(1)
    K = p.gain(0.04 * p.I)
    assert_law(x, Law(z[0].flatten() + K @ (p.b - p.A @ z[0].flatten()), 0.04 * (p.I - K @ p.A)))


def test_the_langevin_proximal_draw_has_the_law_of_its_recursion():
    p = conjugate("dense")
    z = torch.full((20000, *p.posterior.shape), 0.1, dtype=torch.float64)
    steps = 20
    rate = 0.3
    variance = 0.04
    x = p.posterior.rows(20000).prox_langevin(z, variance, Stream(3), steps, rate).flatten(1)
    step = rate / (1 / variance + (SCALE / SIGMA_Y) ** 2)
    law = Law(z[0].flatten(), 0 * p.I)
    for _ in range(steps):
        law = law.then(
            p.I - step * (p.I / variance + p.A.T @ p.A / SIGMA_Y**2),
            step * (z[0].flatten() / variance + p.A.T @ p.b / SIGMA_Y**2),
            2 * step * p.I,
        )
    assert_law(x, law)


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_pseudo_inverse_is_that_of_the_matrix(operator):
    p = conjugate(operator)
    v = torch.randn(
        2, *p.posterior.y.shape[1:], generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )
    expected = v.flatten(1) @ torch.linalg.pinv(p.A, rtol=1e-5).T
    assert (
        float((p.posterior.rows(2).A_dagger(v).flatten(1) - expected).abs().max()) < 1e-5
    )  # the filter's FFT is single precision


def test_gmres_solves_a_system_that_is_not_symmetric_row_by_row():
    generator = torch.Generator().manual_seed(5)
    M = torch.eye(12, dtype=torch.float64) + 0.3 * torch.randn(
        12, 12, generator=generator, dtype=torch.float64
    )
    b = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    b[1] = 0
    from inverse.execution import CG
    from inverse.measurement.linalg import gmres

    x = gmres(lambda v: v @ M.T, b, CG(1e-12, 50))
    assert float((x @ M.T - b).abs().max()) < 1e-10
    alone = gmres(lambda v: v @ M.T, b[2:], CG(1e-3, 50))
    assert float((gmres(lambda v: v @ M.T, b, CG(1e-3, 50))[2:] - alone).abs().max()) < 1e-12
