"""What a step does between evaluations, its elementwise operations and random draws, and how much of a solve fusing them could save.

    python bench/arithmetic.py --out docs/tables/arithmetic

On `deblur` with `photo-64`, in the processor's time of one thread. The clock is read around every evaluation of the prior (forward and VJP),
every map of the operator (A, A^T, changes of basis) and every draw; what is left of the steps after the first is arithmetic: elementwise operations,
and the Python that calls them. Counts are of what the dispatcher sees outside of evaluations and maps. Below, two steps as they are, by hand and compiled.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import inverse
from inverse.io.files import write_text
from inverse.priors.evaluation.evaluator import Evaluator
from inverse.seeding import Generators

METHODS = ["ddrm", "ddnm", "ddnm-plus", "diffpir", "red-diff", "daps", "pnp-dm", "dps"]
SAMPLERS = ["ancestral", "heun", "dpmpp-2m", "ddim"]
MAPS = ["A", "A_adjoint", "U", "U_adjoint", "V", "V_adjoint"]


class Watch:
    """Seconds inside evaluations, maps and draws, of the outermost call alone; and which is open."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.open: str | None = None

    def __call__(self, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self.open:
                return call(*args, **kwargs)
            self.open, start = kind, time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[kind] += time.process_time() - start
                self.calls[kind] += 1
                self.open = None

        return watched


class Operations(TorchDispatchMode):
    """Elementwise operations outside of what the watch has open."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch, self.count = watch, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += self.watch.open is None and torch.Tag.pointwise in func.tags
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(operator: Any) -> Iterator[Watch]:
    """All evaluations, maps of this operator and draws."""
    watch, tweedie = Watch(), Evaluator.tweedie

    def pulled(self: Evaluator, x: Tensor, sigma: Any) -> Any:
        x0_hat, pull = watch("prior", tweedie)(self, x, sigma)
        return x0_hat, watch("prior", pull)

    with ExitStack() as stack:
        denoise, randn_like = (
            watch("prior", Evaluator.denoise),
            watch("draws", Generators.randn_like),
        )
        stack.enter_context(patch.object(Evaluator, "denoise", lambda *args: denoise(*args)))
        stack.enter_context(patch.object(Evaluator, "tweedie", pulled))
        stack.enter_context(patch.object(Generators, "randn_like", lambda *args: randn_like(*args)))
        for name in MAPS:
            stack.enter_context(
                patch.object(operator, name, watch("operator", getattr(operator, name)))
            )
        yield watch


def seconds_and_counts(
    method: inverse.Method, posterior: inverse.Posterior, watch: Watch, count: bool
) -> tuple[float, int]:
    """Seconds of all steps but the first, in which things are made once, and if asked their elementwise operations; the watch starts with them."""
    rows, operations = posterior.rows(1), Operations(watch)
    iterates = iter(method.run(rows, 1, Generators.for_samples(0, len(rows), 1)))
    with torch.no_grad():
        next(iterates)
        watch.seconds.clear()
        watch.calls.clear()
        start = time.process_time()
        with operations if count else nullcontext():
            for _ in iterates:
                pass
        return time.process_time() - start, operations.count


def contenders(steps: int) -> dict[str, inverse.Method]:
    plain = {name: inverse.get_method(name, steps=steps) for name in METHODS}
    return plain | {
        f"pigdm, {sampler}": inverse.get_method("pigdm", steps=steps, sampler=sampler)
        for sampler in SAMPLERS
    }


def posterior_of(side: int, batch: int, prior: inverse.Prior) -> inverse.Posterior:
    problem = inverse.get_problem("deblur")
    return problem.posterior(
        torch.rand(batch, 3, side, side, generator=inverse.seeded("arithmetic")), prior=prior
    )


def of_methods(
    side: int, batch: int, prior: inverse.Prior, steps: int, repeats: int
) -> list[dict[str, Any]]:
    """Of each method, a step: counts, and seconds by what they went into (sums over repeats)."""
    posterior, rows = posterior_of(side, batch, prior), []
    with watched(posterior.operator) as watch:
        for name, method in contenders(steps).items():
            taken, elementwise = steps - 1, seconds_and_counts(method, posterior, watch, True)[1]
            calls = {kind: n / taken for kind, n in sorted(watch.calls.items())} | {
                "elementwise": elementwise / taken
            }
            total, spent = 0.0, Counter[str]()
            for _ in range(repeats):
                total += seconds_and_counts(method, posterior, watch, False)[0]
                spent.update(watch.seconds)
            seconds = {
                kind: spent[kind] / taken / repeats for kind in ("prior", "operator", "draws")
            }
            seconds["arithmetic"] = total / taken / repeats - sum(seconds.values())
            rows.append(
                {"side": side, "batch": batch, "method": name, "calls": calls, "seconds": seconds}
            )
            print(rows[-1], flush=True)
    return rows


# --- two steps, as they are and as they could be -----------------------------------------------------------------------

S, T = 1.0, 0.8
C, KEEP = T * (1 - (T / S) ** 2) ** 0.5, (T / S) ** 2


def ancestral(x: Tensor, x0_hat: Tensor, z: Tensor) -> Tensor:
    """As in `sampler.ddim` with eta = 1."""
    x = x0_hat + KEEP * (x - x0_hat)
    return x + C * z


def ancestral_by_hand(x: Tensor, x0_hat: Tensor, z: Tensor) -> Tensor:
    return torch.lerp(x0_hat, x, KEEP).add_(z, alpha=C)


def diffpir(x: Tensor, x0: Tensor, z: Tensor, zeta: float = 1.0) -> Tensor:
    """As in `plugins/diffpir.py`, after the proximal point."""
    eps_hat = (x - x0) / S
    x = x0 + T * (1 - zeta) ** 0.5 * eps_hat
    return x + T * zeta**0.5 * z


def diffpir_by_hand(x: Tensor, x0: Tensor, z: Tensor, zeta: float = 1.0) -> Tensor:
    return torch.add(x0, z, alpha=T)


def seconds_of(call: Callable[[], Any], least: float = 0.2) -> float:
    """Of one call, the least mean of five bursts."""
    call()
    start, times = time.process_time(), 0
    while time.process_time() - start < least / 10:
        call()
        times += 1
    bursts = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(times):
            call()
        bursts.append((time.process_time() - start) / times)
    return min(bursts)


def of_updates(side: int, batch: int, prior: inverse.Prior) -> list[dict[str, Any]]:
    x, x0, z = (
        torch.randn(batch, 3, side, side, generator=inverse.seeded("arithmetic", i))
        for i in range(3)
    )
    generators, posterior, rows = (
        Generators.for_samples(0, batch, 1),
        posterior_of(side, batch, prior),
        [],
    )
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


def tables(methods: list[dict[str, Any]], updates: list[dict[str, Any]]) -> str:
    head = [
        "side",
        "batch",
        "method",
        "operations",
        "draws",
        "ms a step",
        "prior",
        "operator",
        "drawing",
        "arithmetic",
        "drawing (%)",
        "arithmetic (%)",
    ]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in methods:
        seconds, total = row["seconds"], sum(row["seconds"].values())
        kinds = " | ".join(
            f"{1e3 * seconds[kind]:.3g}" for kind in ("prior", "operator", "draws", "arithmetic")
        )
        shares = " | ".join(
            f"{100 * seconds[kind] / total:.2f}" for kind in ("draws", "arithmetic")
        )
        calls = f"{row['calls']['elementwise']:.0f} | {row['calls'].get('draws', 0):.0f}"
        lines.append(
            f"| {row['side']} | {row['batch']} | {row['method']} | {calls} | {1e3 * total:.1f} | {kinds} | {shares} |"
        )
    names = ("as it is", "by hand", "compiled", "draw")
    head = [
        "side",
        "batch",
        "update",
        *(f"us, {name}" for name in names),
        "ms of a forward",
        "saved by hand (% of it)",
        "compiled (%)",
    ]
    lines += ["", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in updates:
        seconds = row["seconds"]
        saved = " | ".join(
            f"{100 * (seconds['as it is'] - seconds[how]) / seconds['forward']:.2f}"
            for how in ("by hand", "compiled")
        )
        micro = " | ".join(f"{1e6 * seconds[name]:.0f}" for name in names)
        lines.append(
            f"| {row['side']} | {row['batch']} | {row['step']} | {micro} | {1e3 * seconds['forward']:.1f} | {saved} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="*", default=[64, 256])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4])
    parser.add_argument(
        "--steps", type=int, default=6, help="of each method; all but the first are measured"
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    prior = inverse.load_prior("photo-64")
    settings = [(side, batch) for side in arguments.sides for batch in arguments.batches]
    updates = [row for setting in settings for row in of_updates(*setting, prior)]
    methods = [
        row
        for setting in settings
        for row in of_methods(*setting, prior, arguments.steps, arguments.repeats)
    ]
    print(tables(methods, updates))
    if arguments.out:
        about = {
            "torch": torch.__version__,
            "threads": 1,
            "clock": "cpu",
            "steps": arguments.steps,
            "repeats": arguments.repeats,
        }
        write_text(
            arguments.out.with_suffix(".json"),
            json.dumps({"about": about, "methods": methods, "updates": updates}, indent=1) + "\n",
        )
        write_text(arguments.out.with_suffix(".md"), tables(methods, updates))


if __name__ == "__main__":
    main()
