"""Simulated records that look like those of a real run, and small real ones."""

from __future__ import annotations

import hashlib
import itertools
import random
from pathlib import Path
from typing import Any

from inverse.arena.record import RECORDS, Record

METHODS = {  # PSNR above the base of the problem, seconds and VJPs per evaluation, MiB
    "pseudo-inverse": (-6.0, 0.0, 0, 40),
    "tikhonov": (-1.6, 0.0, 0, 44),
    "tv": (-0.4, 0.0, 0, 60),
    "ddrm": (0.1, 0.011, 0, 190),
    "ddnm-plus": (0.4, 0.011, 0, 190),
    "diffpir": (0.9, 0.012, 0, 200),
    "red-diff": (0.3, 0.011, 0, 195),
    "dps": (-0.9, 0.034, 1, 610),
    "pigdm": (0.6, 0.035, 1, 640),
    "mmps": (1.1, 0.060, 3, 700),
    "daps": (1.2, 0.013, 0, 210),
}
PROBLEMS = {
    "deblur": 25.0,
    "super-resolution": 23.0,
    "inpainting": 29.0,
    "denoise": 28.0,
    "motion": 26.0,
}


def record(
    method: str = "dps",
    problem: str = "deblur",
    truth: int = 0,
    seed: int = 0,
    psnr: float | None = 25.0,
    **changes: Any,
) -> Record:
    """A record with default fields; `psnr` is its only metric if `metrics` is not given."""
    options = changes.pop("options", {})
    fields: dict[str, Any] = {
        "problem": {"name": problem, "options": changes.pop("problem_options", {}), "version": "1"},
        "method": {"name": method, "options": options, "version": "1", "given": []},
        "prior": {"name": "photo-64", "sha256": "ab" * 32},
        "samples": 1,
        "observation": hashlib.sha256(f"{problem}{truth}{seed}".encode()).hexdigest(),
        "metrics": {"psnr": psnr},
        "cost": {"nfe": 100.0, "vjp": 0.0, "A": 10.0, "A_adjoint": 10.0},
        "seconds": 2.0,
        "floor_seconds": 1.0,
        "peak_memory": 2**20,
        "versions": {"python": "3.11.7", "torch": "2.9.0"},
        "started": "2026-01-05T10:00:00+00:00",
        **changes,
    }
    cell = hashlib.sha256(
        repr((problem, method, sorted(options.items()), truth, seed, fields)).encode()
    ).hexdigest()[:32]
    return Record(
        cell=cell,
        truth=truth,
        seed=seed,
        **{
            **fields,
            "command": fields.get(
                "command", f"inverse bench reproduce {cell} --records results/records"
            ),
        },
    )


def table(
    truths: int = 8,
    seeds: int = 1,
    budgets: tuple[int, ...] = (100,),
    methods: int = 11,
    problems: int = 5,
    steps: tuple[int, ...] = (),
) -> list[Record]:
    """methods x problems x truths x seeds x budgets (or steps) cells; one in 97 did not finish."""
    draw, rows = random.Random(0), []
    names = [
        (name if i < len(METHODS) else f"{name}-{i // len(METHODS) + 1}", name)
        for i, name in enumerate(list(METHODS) * (1 + methods // len(METHODS)))
    ]
    for problem, base in list(PROBLEMS.items())[:problems]:
        hardness = [draw.gauss(0, 1.5) for _ in range(truths)]
        for label, name in names[:methods]:
            taste = draw.gauss(0, 0.25)
            for limit, truth, seed in itertools.product(
                steps or budgets, range(truths), range(seeds)
            ):
                about = {
                    "budget": None if steps else {"nfe": limit},
                    "problem_options": {"sigma_y": 0.05},
                    "samples": 1,
                }
                count = limit // (1 + METHODS[name][2]) if METHODS[name][1] else 0
                about["options"] = {"steps": count, "zeta": 0.5} if count else {"strength": 0.1}
                measured = _measured(draw, name, count, base + hardness[truth] + taste)
                if len(rows) % 97 == 0:
                    status, reason = (
                        ("failed", "diverged: the answer holds NaN or infinity")
                        if len(rows) % 2
                        else ("skipped", "needs a linear operator")
                    )
                    nothing = {
                        "metrics": {},
                        "cost": {},
                        "seconds": None,
                        "floor_seconds": None,
                        "peak_memory": None,
                    }
                    measured = {"status": status, "reason": reason, **nothing}
                rows.append(record(label, problem, truth, seed, **about, **measured))
    return rows


def _measured(draw: random.Random, name: str, count: int, base: float) -> dict[str, Any]:
    quality, per, vjps, memory = METHODS[name]
    psnr = base + quality - (12 / max(count, 4) if count else 0) + draw.gauss(0, 0.15)
    seconds, error = 0.02 + per * count * (1 + 0.05 * draw.random()), 10 ** (-psnr / 20)
    metrics = {
        "psnr": psnr,
        "ssim": 1 - 2 * error,
        "rmse": error,
        "misfit": abs(draw.gauss(1, 0.1)),
        "crps": 0.6 * error,
    }
    return {
        "metrics": {**metrics, "coverage": min(1.0, draw.gauss(0.7, 0.08))},
        "cost": {
            "nfe": float(count),
            "vjp": float(count * vjps),
            "A": 2.0 * count + 1,
            "A_adjoint": 1.0 * count + 1,
        },
        "seconds": seconds,
        "floor_seconds": seconds * draw.uniform(0.4, 0.9),
        "peak_memory": memory * 2**20,
    }


def solved(
    folder: Path,
    methods: tuple[str, ...] = ("pseudo-inverse", "mmps"),
    truths: int = 2,
    samples: int = 4,
) -> list[Record]:
    """Solve cells of the `gaussian` problem; write their records and artifacts to `folder`."""
    import inverse
    from inverse.metrics.shipped import METRICS

    (folder / "artifacts").mkdir(parents=True)
    rows = []
    for name, truth in itertools.product(methods, range(truths)):
        problem = inverse.get_problem("gaussian")
        posterior = problem.posterior(seed=truth)
        method = inverse.get_method(name, **({"steps": 8} if name == "mmps" else {}))
        result = inverse.solve(posterior, method, samples=samples, seed=truth)
        path = folder / "artifacts" / f"{name}-{truth}.h5"
        result.save(path)
        about = {
            "artifact": f"artifacts/{path.name}",
            "artifact_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "samples": samples,
        }
        cost = {key: getattr(result.cost, key) for key in ("nfe", "vjp", "A", "A_adjoint")}
        scores = {key: METRICS[key](result) for key in ("rmse", "misfit", "crps")}
        rows.append(
            record(
                name,
                "gaussian",
                truth,
                options={},
                metrics=scores,
                cost=cost,
                seconds=result.seconds,
                **about,
            )
        )
    return write(folder, rows)


def write(folder: Path, rows: list[Record]) -> list[Record]:
    """Write records to a folder that `read_records` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORDS).write_text("".join(row.to_json() + "\n" for row in rows))
    return rows
