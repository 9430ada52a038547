"""Hashes of what some ninety small runs compute: methods, problems, a suite, trainings.

    python tests/fingerprint.py --write     # remember what this checkout computes on this machine
    python -m pytest -m slow tests/test_fingerprint.py

A refactoring must not change a hash. Hashes depend on the processor and on torch, so that they are
compared only on the machine that wrote them; the file of hashes names that machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import draws, image_prior, problems
from PIL import Image

import inverse
from inverse.registry.discovery import registry
from inverse.registry.options import options
from inverse_problems.atmosphere.domain import domain_of

FILE = Path(__file__).with_name("fingerprints.json")
CANDIDATES = ("blur", "blur-circular", "inpainting")
SMALL: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "bimodal": {},
    "mixture": {},
    "levy": {"increments": "laplace"},
    "field": {"size": 16},
    "mri": {},
    "atmosphere": {},
    "deblur": {},
    "denoise": {},
    "inpainting": {},
    "super-resolution": {},
}
"""Every problem with the options that keep it small."""

OWN = {
    "tractable-steering": (
        "inpainting",
        {"mask": "random"},
        {"circuit": "circuit-digits"},
        "digits-28",
    ),
    "tractable-smc": ("inpainting", {"mask": "box"}, {}, "photo-64"),
    "structure-icdpm": ("deblur", {}, {"steps": 2}, None),
    "structure-prior": ("deblur", {}, {}, None),
    "multimodal": ("atmosphere", {}, {}, None),
    "optimal-bc": ("super-resolution", {"factor": 4}, {}, None),
}
"""Methods that need a problem, options or a prior of their own."""

SUITE = """
title = "fingerprint"
truths = [0, 1]
seeds = [0]
samples = 2
metrics = ["psnr", "ssim", "rmse", "misfit", "crps"]
[[problems]]
name = "gaussian"
[[problems]]
name = "denoise"
crop = 32
[[methods]]
name = "tikhonov"
[[methods]]
name = "dps"
[[methods]]
name = "ddrm"
[[budgets]]
nfe = 6
"""
VOLATILE = (
    "input",
    "out",
    "seconds",
    "floor_seconds",
    "peak_memory",
    "started",
    "versions",
    "command",
    "cell",
    "artifact",
    "artifact_sha256",
    "version",
    "executor",
)
"""Fields of a record that a run does not decide, or that hash source code."""


def machine() -> dict[str, str]:
    """What the hashes depend on besides the code."""
    processor = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    flags = next(
        (
            line
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("flags")
        ),
        "",
    )
    return {
        "processor": f"{processor} {hashlib.sha256(flags.encode()).hexdigest()[:8]}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def digest(value: Any) -> str:
    """Of tensors by their bytes, of everything else by its JSON."""
    hashed = hashlib.sha256()
    if torch.is_tensor(value):
        hashed.update(f"{value.dtype} {tuple(value.shape)}".encode())
        hashed.update(value.detach().cpu().contiguous().numpy().tobytes())
    else:
        hashed.update(json.dumps(value, sort_keys=True, default=str).encode())
    return hashed.hexdigest()[:16]


def of_result(result: inverse.Result) -> dict[str, str]:
    about = {k: v for k, v in result.provenance.items() if k not in ("versions", "notes")}
    kept = {
        "samples": digest(result.samples),
        "y": digest(result.y),
        "misfit": digest(result.misfit),
        "cost": digest(vars(result.cost)),
    }
    kept |= {"provenance": digest(about), "notes": str(len(result.provenance.get("notes", [])))}
    if result.log_weights is not None:
        kept["log_weights"] = digest(result.log_weights)
    if result.log_evidence is not None:
        kept["log_evidence"] = digest(result.log_evidence)
    return kept


def quick(name: str, **more: Any) -> inverse.Method:
    """The method with few steps of each kind."""
    cls = registry().find("inverse_methods", name)
    limits = {
        o.name: 6 if o.name == "steps" else 3
        for o in options(cls)
        if "steps" in o.name and isinstance(o.default, int)
    }
    limits |= {o.name: 2 for o in options(cls) if o.name in ("repeats", "draws")}
    limits |= {o.name: 8 for o in options(cls) if o.name == "particles"}
    return inverse.get_method(
        name, **{key: min(limit, getattr(cls, key)) for key, limit in limits.items()} | more
    )


def method_cells() -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
    """Every method: in float64 on a Gaussian image, and those of `OWN` on their own problems."""
    prior = image_prior()
    for name in registry().table("inverse_methods"):

        def run(name: str = name) -> dict[str, str]:
            method = quick(name)
            for candidate in CANDIDATES:
                posterior = problems()[candidate].posterior(
                    draws(prior, 2), prior=prior, dtype=torch.float64
                )
                if method.unsupported(posterior) is None:
                    return of_result(inverse.solve(posterior, method, samples=2, seed=3))
            return {"unsupported": "everywhere"}

        yield f"method {name}", run
    for name, (problem, problem_options, method_options, own) in OWN.items():

        def run_own(
            args: Any = (name, problem, problem_options, method_options, own),
        ) -> dict[str, str]:
            name, problem, problem_options, method_options, own = args
            posed = inverse.get_problem(problem, **problem_options)
            truth = (
                0
                if problem == "atmosphere" or own == "digits-28"
                else posed.truths()[0][:, 64:128, 64:128]
            )
            posterior = posed.posterior(truth, prior=own)
            method = (
                quick(name, **method_options) if name != "optimal-bc" else inverse.get_method(name)
            )
            if reason := method.unsupported(posterior):
                return {"unsupported": reason.split(";")[0]}
            return of_result(inverse.solve(posterior, method, samples=2, seed=1))

        yield f"own {name}", run_own


def problem_cells() -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
    """Every problem with its own prior, and two options of the engine."""
    for name, given in SMALL.items():

        def run(name: str = name, given: dict[str, Any] = given) -> dict[str, str]:
            problem = inverse.get_problem(name, **given)
            truth: Any = problem.truths()[0]
            truth = (
                truth[:, :64, :64]
                if name in ("deblur", "denoise", "inpainting", "super-resolution")
                else 0
            )
            return of_result(
                inverse.solve(
                    problem.posterior(truth), inverse.get_method("mmps", steps=4), samples=2, seed=5
                )
            )

        yield f"problem {name}", run
    for sampler in registry().table("inverse_samplers"):

        def sampled(sampler: str = sampler) -> dict[str, str]:
            posterior = inverse.get_problem("gaussian").posterior(0)
            return of_result(
                inverse.solve(
                    posterior,
                    inverse.get_method("pigdm", steps=6, sampler=sampler),
                    samples=2,
                    seed=7,
                )
            )

        yield f"sampler {sampler}", sampled
    options_of_priors: dict[str, dict[str, Any]] = {
        "era5-zt": {},
        "era5-zt-gaussian": {},
        "era5-uk-t2m-gaussian": {},
        "era5-uk-t2m-hours": {"window": 6},
    }
    for prior, given in options_of_priors.items():

        def weather(prior: str = prior, given: dict[str, Any] = given) -> dict[str, str]:
            problem, law = inverse.get_problem("atmosphere", **given), inverse.load_prior(prior)
            if prior.startswith("era5-zt"):
                problem = problem.on(domain_of(law))
            truth: Any = (
                0
                if law.shape[1:] == (33, 49)
                else law.decode(0.3 * torch.randn(1, *law.shape, generator=inverse.seeded("zt")))
            )
            posterior = problem.posterior(truth, prior=law)
            return of_result(
                inverse.solve(
                    posterior, inverse.get_method("multimodal", steps=3), samples=2, seed=5
                )
            )

        yield f"prior {prior}", weather

    def fitted_amplitude() -> dict[str, str]:
        posterior = inverse.get_problem("atmosphere").posterior(0)
        method = inverse.get_method("multimodal", steps=3, amplitude="evidence")
        return of_result(inverse.solve(posterior, method, samples=2, seed=5))

    yield "option amplitude", fitted_amplitude

    def bf16() -> dict[str, str]:
        truth = inverse.get_problem("deblur").truths()[0][:, :64, :64]
        posterior = inverse.get_problem("deblur").posterior(
            truth, execution=inverse.Execution(autocast="bf16")
        )
        return of_result(
            inverse.solve(posterior, inverse.get_method("diffpir", steps=4), samples=2)
        )

    yield "execution bf16", bf16


def command(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "inverse", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{arguments}: {done.stderr}")
    return done.stdout


def stripped(value: Any) -> Any:
    """JSON without what varies from run to run."""
    if isinstance(value, dict):
        return {k: stripped(v) for k, v in value.items() if k not in VOLATILE}
    return [stripped(v) for v in value] if isinstance(value, list) else value


def weights(path: Path) -> dict[str, str]:
    """The tensors of a safetensors file."""
    from safetensors.torch import load_file

    return {"weights": digest({k: digest(v) for k, v in load_file(path).items()})}


def pictures(folder: Path) -> Path:
    """Twelve smooth colour images, 56 x 60."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index, coarse in enumerate(rng.integers(0, 256, (12, 14, 15, 3), dtype=np.uint8)):
        Image.fromarray(coarse).resize((60, 56), Image.Resampling.BICUBIC).save(
            folder / f"{index:02}.png"
        )
    return folder


def weather_fields(folder: Path) -> Path:
    """Six days of three small fields each."""
    import xarray

    rng = np.random.default_rng(1)
    values = (
        280 + rng.normal(size=(18, 1, 1)) + 0.3 * rng.normal(size=(18, 8, 8)).cumsum(1).cumsum(2)
    )
    times = np.datetime64("2019-03-01T00", "ns") + np.arange(18) * np.timedelta64(8, "h")
    axes = {"time": times, "latitude": np.linspace(58, 54.5, 8), "longitude": np.linspace(-4, 0, 8)}
    data = {"t2m": (("time", "latitude", "longitude"), values.astype(np.float32), {"units": "K"})}
    xarray.Dataset(data, axes, {"source": "made up"}).to_netcdf(
        folder / "fields.nc", engine="h5netcdf"
    )
    return folder / "fields.nc"


def command_cells(folder: Path) -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
    """A solve, a suite and the trainings, as the command does them."""
    images = str(pictures(folder / "images"))

    def solved() -> dict[str, str]:
        text = command(
            "solve",
            "--problem",
            "deblur",
            "--method",
            "red-diff",
            "--steps",
            "4",
            "--input",
            images,
            "--json",
            "--out",
            "solved",
            folder=folder,
        )
        return {
            "records": digest(
                [stripped(json.loads(line)) for line in text.splitlines() if line.startswith("{")]
            )
        }

    def suite() -> dict[str, str]:
        (folder / "suite.toml").write_text(SUITE)
        command("bench", "run", "suite.toml", "--out", "arena", folder=folder)
        rows = [
            stripped(json.loads(line))
            for line in (folder / "arena" / "records.jsonl").read_text().splitlines()
        ]
        return {
            "records": digest(sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))),
            "count": str(len(rows)),
        }

    def trained(name: str, *arguments: str) -> Callable[[], dict[str, str]]:
        def run() -> dict[str, str]:
            command(*arguments, "--out", f"{name}.safetensors", folder=folder)
            return weights(folder / f"{name}.safetensors")

        return run

    small = ("--size", "16", "--steps", "20", "--batch", "2", "--widths", "8,16", "--blocks", "1,1")
    yield "command solve", solved
    yield "command bench", suite
    yield "command train", trained("trained", "train", "--images", images, *small)
    fields = (
        "--variable",
        "t2m",
        "--period",
        "2019-03-01/2019-03-03",
        "--validation-period",
        "2019-03-04/2019-03-04",
        "--test-period",
    )
    fields = (*fields, "2019-03-06/2019-03-06")
    yield (
        "command train fields",
        trained(
            "fields",
            "train",
            "--images",
            str(weather_fields(folder)),
            *fields,
            "--rank",
            "6",
            "--steps",
            "0",
        ),
    )
    yield "command train-codec", trained("codec", "train-codec", "--images", images, *small)
    circuit = ("--size", "6", "--states", "4", "--levels", "4", "--epochs", "2", "--crops", "200")
    yield "command train-circuit", trained("circuit", "train-circuit", "--images", images, *circuit)
    structure = ("--validation", images, "--size", "16", "--steps", "5", "--batch", "2")
    yield (
        "command train-structure",
        trained("structure", "train-structure", "--images", images, *structure),
    )
    boundary = (
        "--images",
        images,
        "--size",
        "32",
        "--candidates",
        "4",
        "--references",
        "2",
        "--steps",
        "2",
        "--problem-option",
        "factor=2",
    )
    yield "command fit-bc", trained("boundary", "fit-bc", *boundary)

    def verified() -> dict[str, str]:
        text = command("verify", "ddrm", "--samples", "100", "--json", folder=folder)
        return {
            "records": digest(stripped(json.loads(text)))
            if text.startswith(("{", "["))
            else digest(text)
        }

    yield "command verify", verified


def cells(folder: Path) -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
    yield from method_cells()
    yield from problem_cells()
    yield from command_cells(folder)


def fingerprints(only: str = "") -> dict[str, dict[str, str]]:
    """Name of a cell -> its hashes, or the error that it ends in."""
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, run in cells(Path(folder)):
            if only in name:
                try:
                    found[name] = run()
                except Exception as error:
                    found[name] = {
                        "error": f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"
                    }
    return found


def differences(found: dict[str, dict[str, str]], known: dict[str, dict[str, str]]) -> list[str]:
    """Every cell and hash that changed."""
    return [
        f"{name}: {key} was {known.get(name, {}).get(key)}, is {value.get(key)}"
        for name, value in found.items()
        for key in sorted(value.keys() | known.get(name, {}).keys())
        if known.get(name, {}).get(key) != value.get(key)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="remember what is found")
    parser.add_argument("--only", default="", help="cells whose name holds this")
    arguments = parser.parse_args()
    kept = json.loads(FILE.read_text()) if arguments.only else {"machine": machine(), "cells": {}}
    if arguments.write and kept["machine"] != machine():
        parser.error("the hashes are those of another machine; write all of them, without --only")
    found = fingerprints(arguments.only)
    if arguments.write:
        cells = {**kept["cells"], **found}
        FILE.write_text(json.dumps({"machine": machine(), "cells": cells}, indent=1) + "\n")
    changed = differences(found, json.loads(FILE.read_text())["cells"])
    sys.stdout.write(
        "\n".join([*changed, f"{len(found)} cells, {len(changed)} differences"]) + "\n"
    )
    sys.exit(bool(changed))


if __name__ == "__main__":
    main()
