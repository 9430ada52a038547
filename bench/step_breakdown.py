"""Measure what a step costs beside evaluations of the prior, and what fusion could save.

    python bench/step_breakdown.py --out results/tables/arithmetic

The problem is `deblur` with `photo-64`; times are processor times of one thread. The script times
every evaluation of the prior (forward and VJP), every map of the operator (A, A^T, changes of
basis) and every random draw. The rest of a step is arithmetic: elementwise operations and the
Python code that calls them. The operations counted are those that the dispatcher sees outside
evaluations and maps. The first step is excluded, because it builds what later steps reuse. A second
table compares two update formulas as implemented, fused by hand, and compiled.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from options import add_out, new_parser
from output import markdown_table, write_table
from timing import least_seconds
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import inverse
from inverse.priors.evaluation.evaluator import Evaluator
from inverse.seeding import Generators

METHODS = ["ddrm", "ddnm", "ddnm-plus", "diffpir", "red-diff", "daps", "pnp-dm", "dps"]
SAMPLERS = ["ancestral", "heun", "dpmpp-2m", "ddim"]
MAPS = ["A", "A_adjoint", "U", "U_adjoint", "V", "V_adjoint"]


class CallTimer:
    """Seconds and number of calls by category (prior, operator, draws), of outermost calls only."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.active: str | None = None

    def __call__(self, category: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed_call(*args: Any, **kwargs: Any) -> Any:
            if self.active:
                return call(*args, **kwargs)
            self.active, start = category, time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[category] += time.process_time() - start
                self.calls[category] += 1
                self.active = None

        return timed_call


class ElementwiseCounter(TorchDispatchMode):
    """Count elementwise operations outside the calls that a timer times."""

    def __init__(self, timer: CallTimer):
        super().__init__()
        self.timer, self.count = timer, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += self.timer.active is None and torch.Tag.pointwise in func.tags
        return func(*args, **(kwargs or {}))


@contextmanager
def timed_calls(operator: Any) -> Iterator[CallTimer]:
    """Time all evaluations of priors, maps of this operator and random draws."""
    timer = CallTimer()
    denoise = timer("prior", Evaluator.denoise)
    tweedie = timer("prior", Evaluator.tweedie)
    randn_like = timer("draws", Generators.randn_like)

    def tweedie_with_timed_vjp(self: Evaluator, x: Tensor, sigma: Any) -> Any:
        x0_hat, vjp = tweedie(self, x, sigma)
        return x0_hat, timer("prior", vjp)

    with ExitStack() as stack:
        enter = stack.enter_context
        enter(patch.object(Evaluator, "denoise", lambda *args: denoise(*args)))
        enter(patch.object(Evaluator, "tweedie", tweedie_with_timed_vjp))
        enter(patch.object(Generators, "randn_like", lambda *args: randn_like(*args)))
        for name in MAPS:
            enter(patch.object(operator, name, timer("operator", getattr(operator, name))))
        yield timer


def seconds_and_counts(
    method: inverse.Method, posterior: inverse.Posterior, timer: CallTimer, count: bool
) -> tuple[float, int]:
    """Seconds and, with `count`, elementwise operations of all steps but the first.

    The timer is reset after the first step.
    """
    rows, counter = posterior.rows(1), ElementwiseCounter(timer)
    iterates = iter(method.run(rows, 1, Generators.for_samples(0, len(rows), 1)))
    with torch.no_grad():
        next(iterates)
        timer.seconds.clear()
        timer.calls.clear()
        start = time.process_time()
        with counter if count else nullcontext():
            for _ in iterates:
                pass
        return time.process_time() - start, counter.count


def methods_by_label(steps: int) -> dict[str, inverse.Method]:
    plain = {name: inverse.get_method(name, steps=steps) for name in METHODS}
    return plain | {
        f"pigdm, {sampler}": inverse.get_method("pigdm", steps=steps, sampler=sampler)
        for sampler in SAMPLERS
    }


def posterior_of(side: int, batch: int, prior: inverse.Prior) -> inverse.Posterior:
    truths = torch.rand(batch, 3, side, side, generator=inverse.seeded("arithmetic"))
    return inverse.get_problem("deblur").posterior(truths, prior=prior)


def measure_methods(
    side: int, batch: int, prior: inverse.Prior, steps: int, repeats: int
) -> list[dict[str, Any]]:
    """Calls and seconds per step of each method, by category; seconds are means over repeats."""
    posterior, rows = posterior_of(side, batch, prior), []
    measured_steps = steps - 1
    with timed_calls(posterior.operator) as timer:
        for name, method in methods_by_label(steps).items():
            _, elementwise = seconds_and_counts(method, posterior, timer, True)
            calls = {part: n / measured_steps for part, n in sorted(timer.calls.items())}
            calls["elementwise"] = elementwise / measured_steps
            total, spent = 0.0, Counter[str]()
            for _ in range(repeats):
                total += seconds_and_counts(method, posterior, timer, False)[0]
                spent.update(timer.seconds)
            parts = ("prior", "operator", "draws")
            seconds = {part: spent[part] / measured_steps / repeats for part in parts}
            seconds["arithmetic"] = total / measured_steps / repeats - sum(seconds.values())
            row = {"side": side, "batch": batch, "method": name, "calls": calls}
            rows.append({**row, "seconds": seconds})
            print(rows[-1], flush=True)
    return rows


# --- two update formulas: as implemented, by hand, compiled -------------------------------------

S, T = 1.0, 0.8
C, KEEP = T * (1 - (T / S) ** 2) ** 0.5, (T / S) ** 2


def ancestral(x: Tensor, x0_hat: Tensor, z: Tensor) -> Tensor:
    """The update of `inverse.sampling.samplers.ddim` with eta = 1."""
    x = x0_hat + KEEP * (x - x0_hat)
    return x + C * z


def ancestral_by_hand(x: Tensor, x0_hat: Tensor, z: Tensor) -> Tensor:
    return torch.lerp(x0_hat, x, KEEP).add_(z, alpha=C)


def diffpir(x: Tensor, x0: Tensor, z: Tensor, zeta: float = 1.0) -> Tensor:
    """The update of `plugins/diffpir.py` after the proximal point."""
    eps_hat = (x - x0) / S
    x = x0 + T * (1 - zeta) ** 0.5 * eps_hat
    return x + T * zeta**0.5 * z


def diffpir_by_hand(x: Tensor, x0: Tensor, z: Tensor, zeta: float = 1.0) -> Tensor:
    return torch.add(x0, z, alpha=T)


def seconds_of(call: Callable[[], Any], least: float = 0.2) -> float:
    """Seconds of one call: the least of the means of five bursts of about `least` / 10 seconds."""
    call()
    start, calls = time.process_time(), 0
    while time.process_time() - start < least / 10:
        call()
        calls += 1

    def burst() -> None:
        for _ in range(calls):
            call()

    return least_seconds(burst, 5) / calls


def measure_updates(side: int, batch: int, prior: inverse.Prior) -> list[dict[str, Any]]:
    """Seconds of each update formula, of a forward pass and of a draw."""
    x, x0, z = (
        torch.randn(batch, 3, side, side, generator=inverse.seeded("arithmetic", i))
        for i in range(3)
    )
    generators = Generators.for_samples(0, batch, 1)
    posterior, rows = posterior_of(side, batch, prior), []
    common = {
        "forward": seconds_of(lambda: posterior.denoise(x, 0.5)),
        "draw": seconds_of(lambda: generators.randn_like(x)),
    }
    for name, plain, by_hand in (
        ("ancestral", ancestral, ancestral_by_hand),
        ("diffpir", diffpir, diffpir_by_hand),
    ):
        fused = torch.compile(plain, dynamic=False)
        for other in (by_hand, fused):
            torch.testing.assert_close(other(x, x0, z), plain(x, x0, z))
        seconds = {
            "as it is": seconds_of(lambda f=plain: f(x, x0, z)),
            "by hand": seconds_of(lambda f=by_hand: f(x, x0, z)),
        }
        seconds |= {"compiled": seconds_of(lambda f=fused: f(x, x0, z)), **common}
        rows.append({"side": side, "batch": batch, "step": name, "seconds": seconds})
        print(rows[-1], flush=True)
    return rows


def method_table(rows: list[dict[str, Any]]) -> str:
    heads = ["side", "batch", "method", "operations", "draws", "ms a step"]
    heads += ["prior", "operator", "drawing", "arithmetic", "drawing (%)", "arithmetic (%)"]
    table = []
    for row in rows:
        seconds, total = row["seconds"], sum(row["seconds"].values())
        parts = ("prior", "operator", "draws", "arithmetic")
        table.append(
            [
                str(row["side"]),
                str(row["batch"]),
                row["method"],
                f"{row['calls']['elementwise']:.0f}",
                f"{row['calls'].get('draws', 0):.0f}",
                f"{1e3 * total:.1f}",
                *(f"{1e3 * seconds[part]:.3g}" for part in parts),
                *(f"{100 * seconds[part] / total:.2f}" for part in ("draws", "arithmetic")),
            ]
        )
    return markdown_table(heads, table)


def update_table(rows: list[dict[str, Any]]) -> str:
    names = ("as it is", "by hand", "compiled", "draw")
    heads = ["side", "batch", "update", *(f"us, {name}" for name in names)]
    heads += ["ms of a forward", "saved by hand (% of it)", "compiled (%)"]
    table = []
    for row in rows:
        seconds = row["seconds"]
        saved = [seconds["as it is"] - seconds[way] for way in ("by hand", "compiled")]
        table.append(
            [
                str(row["side"]),
                str(row["batch"]),
                row["step"],
                *(f"{1e6 * seconds[name]:.0f}" for name in names),
                f"{1e3 * seconds['forward']:.1f}",
                *(f"{100 * difference / seconds['forward']:.2f}" for difference in saved),
            ]
        )
    return markdown_table(heads, table)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--sides", type=int, nargs="*", default=[64, 256])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4])
    parser.add_argument(
        "--steps", type=int, default=6, help="steps of each method; the first is not measured"
    )
    parser.add_argument("--repeats", type=int, default=2)
    add_out(parser)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    prior = inverse.load_prior("photo-64")
    settings = [(side, batch) for side in arguments.sides for batch in arguments.batches]
    updates = [row for setting in settings for row in measure_updates(*setting, prior)]
    methods = [
        row
        for setting in settings
        for row in measure_methods(*setting, prior, arguments.steps, arguments.repeats)
    ]
    tables = f"{method_table(methods)}\n\n{update_table(updates)}"
    print(tables)
    if arguments.out:
        about = {
            "torch": torch.__version__,
            "threads": 1,
            "clock": "cpu",
            "steps": arguments.steps,
            "repeats": arguments.repeats,
        }
        record = {"about": about, "methods": methods, "updates": updates}
        write_table(arguments.out, tables, record)


if __name__ == "__main__":
    main()
