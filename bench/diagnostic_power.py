"""Measure the power of each diagnostic against planted defects, and its size on exact samplers.

    python bench/diagnostic_power.py --write docs/diagnostics

Prints the table. With --write, the script inserts it into docs/diagnostics.md and writes
results/diagnostics.json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from options import new_parser
from output import command_line, in_results, insert_tables, markdown_table, write_json
from torch import Tensor

import inverse
from inverse.checks.diagnostics import Report, Simulations, report

IMAGES, SAMPLES, LEVEL = 200, 19, 0.05


@dataclass(frozen=True)
class Conjugate:
    """A linear problem with a Gaussian mixture prior, in physical units.

    Args:
        weights: (K,), of the prior's components.
        means: (K, n).
        covariances: (K, n, n).
        A: (d_y, n), the operator.
        sigma: standard deviation of the noise.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    A: Tensor
    sigma: float

    @classmethod
    def of(cls, problem: inverse.Problem) -> Conjugate:
        """The conjugate problem of a registered problem."""
        law = problem.make_prior()
        covariances = law.scale**2 * law.covariances
        return cls(
            law.weights,
            law.decode(law.means).flatten(1),
            covariances.expand(len(law.weights), -1, -1),
            problem.matrix(),
            problem.sigma_y,
        )

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw truths (count, n) from the prior."""
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + (_root(self.covariances)[k] @ z[..., None])[..., 0]


@dataclass(frozen=True)
class Noise:
    """The randomness of a sampler, which is then a deterministic function.

    Args:
        z: (images, m, n), normal, for the samples.
        u: (images, m), uniform, for their components.
    """

    z: Tensor
    u: Tensor

    def __getitem__(self, rows: slice) -> Noise:
        return Noise(self.z[rows], self.u[rows])


Sampler = Callable[[Conjugate, Tensor, Noise], Tensor]


def exact(
    p: Conjugate, y: Tensor, noise: Noise, sigma: float | None = None, adjoint: Tensor | None = None
) -> Tensor:
    """Exact posterior samples (images, m, n) of measurements y (images, d_y).

    With S = A C A^T + sigma^2 I and G = C A^T S^-1, component k has mean m_k + G (y - A m_k),
    covariance C - G A C and weight w_k N(y; A m_k, S).

    Args:
        sigma: noise level that the sampler assumes (default: the true one).
        adjoint: (n, d_y), used in place of A^T.
    """
    sigma, back = sigma or p.sigma, p.A.T if adjoint is None else adjoint
    identity = torch.eye(len(p.A), dtype=torch.float64)
    S = p.A @ p.covariances @ p.A.T + sigma**2 * identity
    residual = y[:, None] - p.means @ p.A.T
    log_weight = p.weights.log() + torch.distributions.MultivariateNormal(
        torch.zeros(len(p.A), dtype=torch.float64), S
    ).log_prob(residual)
    k = (
        (noise.u[..., None] > log_weight.softmax(1).cumsum(1)[:, None])
        .sum(2)
        .clamp_max(len(p.weights) - 1)
    )
    gain = p.covariances @ back @ torch.linalg.inv(p.A @ p.covariances @ back + sigma**2 * identity)
    complement = torch.eye(p.A.shape[1], dtype=torch.float64) - gain @ p.A
    root = _root(complement @ p.covariances @ complement.mT + sigma**2 * gain @ gain.mT)
    mean = p.means + (gain @ residual[..., None])[..., 0]
    chosen_mean = mean.gather(1, k[..., None].expand(*k.shape, mean.shape[2]))
    return chosen_mean + torch.einsum("imab,imb->ima", root[k], noise.z)


def sigma_doubled(p: Conjugate, y: Tensor, noise: Noise) -> Tensor:
    return exact(p, y, noise, sigma=2 * p.sigma)


def variance_halved(p: Conjugate, y: Tensor, noise: Noise) -> Tensor:
    return exact(p, y, Noise(noise.z * 0.5**0.5, noise.u))


def mode_missing(p: Conjugate, y: Tensor, noise: Noise) -> Tensor:
    return exact(p, y, Noise(noise.z, torch.zeros_like(noise.u)))


def wrong_adjoint(p: Conjugate, y: Tensor, noise: Noise) -> Tensor:
    side = round(p.A.shape[1] ** 0.5)
    return exact(p, y, noise, adjoint=p.A.T.unflatten(0, (side, side)).roll(1, 1).flatten(0, 1))


def over_projection(p: Conjugate, y: Tensor, noise: Noise) -> Tensor:
    x = exact(p, y, noise)
    return x + (y[:, None] - x @ p.A.T) @ torch.linalg.pinv(p.A).T


def batch_norm_of_residual(p: Conjugate, y: Tensor, noise: Noise) -> Tensor:
    """A step towards y that is normalised over the batch instead of per row.

    The step is scaled by |r_i| / (root mean square of |r| over the batch), r the residual.
    """
    r = (y - p.means[0] @ p.A.T).norm(dim=1)
    prior = exact(p, p.means[:1] @ p.A.T + 0 * y, noise)
    return prior + (exact(p, y, noise) - prior) * (r / r.square().mean().sqrt())[:, None, None]


def batch_standardised_noise(p: Conjugate, y: Tensor, noise: Noise) -> Tensor:
    """Noise centred and scaled over the whole batch; the law of each image is nearly exact."""
    z = noise.z - noise.z.mean((0, 1))
    return exact(p, y, Noise(z / z.square().mean((0, 1)).sqrt(), noise.u))


def prior_only(p: Conjugate, y: Tensor, noise: Noise) -> Tensor:
    return p.means[0] + noise.z @ _root(p.covariances)[0].T


BLUR = ("gaussian", {"view": "blur", "side": 6})
HALF = ("gaussian", {"view": "inpainting", "side": 6})
MODES = ("bimodal", {})
CASES: dict[str, tuple[str, dict, Sampler]] = {
    "none (inpainting)": (*HALF, exact),
    "none (bimodal)": (*MODES, exact),
    "sigma doubled": (*HALF, sigma_doubled),
    "variance halved": (*HALF, variance_halved),
    "missing mode": (*MODES, mode_missing),
    "wrong adjoint": (*BLUR, wrong_adjoint),
    "over-projection": (*HALF, over_projection),
    "batch norm of the residual": (*HALF, batch_norm_of_residual),
    "batch-standardised noise": (*HALF, batch_standardised_noise),
    "y ignored": (*HALF, prior_only),
}


def diagnose(
    p: Conjugate, sampler: Sampler, repeat: int, images: int = IMAGES, level: float = LEVEL
) -> Report:
    """The report on one simulated set of truths, measurements and samples."""
    g = inverse.seeded("power", repeat)
    n = p.means.shape[1]
    x, other = p.draw(images, g), p.draw(images, g)
    y = x @ p.A.T + p.sigma * torch.randn(images, len(p.A), generator=g, dtype=torch.float64)
    u = torch.rand(images, SAMPLES, generator=g, dtype=torch.float64)
    noise = Noise(torch.randn(images, SAMPLES, n, generator=g, dtype=torch.float64), u)
    samples = sampler(p, y, noise)
    alone = sampler(p, y[:1], noise[:1])[0]
    change = (alone - samples[0]).square().mean().sqrt() / (
        samples[0] - x[0]
    ).square().mean().sqrt()
    members = torch.cat([x[:, None], samples], 1)
    chi_square = ((y[:, None] - members @ p.A.T) / p.sigma).square().sum(2)
    damped = p.A.T @ torch.linalg.inv(
        p.A @ p.A.T + p.sigma**2 * torch.eye(len(p.A), dtype=torch.float64)
    )
    references = {"another truth": other, "A^+ y": y @ damped.T}
    simulations = Simulations(
        samples, x, chi_square[:, 1:], len(p.A), -chi_square / 2, references, float(change)
    )
    return report(simulations, level, g)


def _root(covariances: Tensor) -> Tensor:
    """Square roots R with R R^T = C: (K, n, n) -> (K, n, n)."""
    values, vectors = torch.linalg.eigh(covariances)
    return vectors * values.clamp_min(0).sqrt()[:, None]


def study(case: str, repeats: int, images: int = IMAGES, level: float = LEVEL) -> dict[str, float]:
    """Rates of rejection over the repeats: by each check (p < level) and by the verdict.

    The verdict applies Holm's correction.
    """
    problem, options, sampler = CASES[case]
    p = Conjugate.of(inverse.get_problem(problem, **options))
    hits: dict[str, int] = {"verdict": 0}
    for repeat in range(repeats):
        result = diagnose(p, sampler, repeat, images, level)
        hits["verdict"] += not result.calibrated
        for check in result.checks:
            if check.p_value is not None:
                hits[check.name] = hits.get(check.name, 0) + (check.p_value < level)
    return {name: count / repeats for name, count in hits.items()}


def table(rates: dict[str, dict[str, float]]) -> str:
    names = list(next(iter(rates.values())))
    rows = []
    for case, row in rates.items():
        rows.append([case, *(f"{row[name]:.3f}".rstrip("0").rstrip(".") for name in names)])
    return markdown_table(["defect", *names], rows)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=100, help="repeats of each defect")
    parser.add_argument(
        "--exact-repeats", type=int, default=300, help="repeats of each exact sampler"
    )
    parser.add_argument("--images", type=int, default=IMAGES, help="images per repeat")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument(
        "--write",
        help="page (without .md) into which to insert the table; writes its record",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rates, started_at = {}, time.perf_counter()
    for case in arguments.cases:
        repeats = arguments.exact_repeats if case.startswith("none") else arguments.repeats
        rates[case] = study(case, repeats, arguments.images)
        seconds, verdict = time.perf_counter() - started_at, rates[case]["verdict"]
        print(f"{seconds:6.0f} s  {case}: verdict {verdict:.3f}", file=sys.stderr, flush=True)
    print(table(rates))
    if arguments.write:
        insert_tables(Path(arguments.write + ".md"), table(rates))
        settings = {
            "images": arguments.images,
            "samples": SAMPLES,
            "level": LEVEL,
            "repeats": arguments.repeats,
            "exact_repeats": arguments.exact_repeats,
        }
        record = {"command": command_line(), **settings, "rates": rates}
        write_json(in_results(Path(f"{arguments.write}.json")), record)


if __name__ == "__main__":
    main()
