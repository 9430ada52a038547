"""How often the check of a kernel speaks: for right kernels (false alarms) and wrong ones (power).

    python bench/kernel_check.py $INVERSE_DATA/bsds500/test --out results/kernel-check.json

Photographs are blurred, cropped to 192 pixels and given noise. The rates are shares of photographs
whose gain exceeds the threshold of `deblur`.
"""

import argparse
import json
from pathlib import Path

import torch

import inverse
from inverse.measurement.kernel_check import kernel_mismatch
from inverse_problems.deblur.problem import SURE

KERNELS = {
    "gaussian 1.2": {"width": 1.2},
    "gaussian 2": {"width": 2.0},
    "gaussian 3": {"width": 3.0},
    "motion": {"kernel": "motion"},
    "defocus 3": {"kernel": "defocus", "width": 3.0},
}
WRONG = {
    "gaussian 2 as 1.2": ("gaussian 2", "gaussian 1.2"),
    "gaussian 3 as 2": ("gaussian 3", "gaussian 2"),
    "gaussian 2 as 3": ("gaussian 2", "gaussian 3"),
    "gaussian 1.2 as 2": ("gaussian 1.2", "gaussian 2"),
    "motion as gaussian 2": ("motion", "gaussian 2"),
}
SIGMAS = (0.01, 0.03)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    files = sorted(arguments.photographs.glob("*.jpg"))
    files = files[:: max(1, len(files) // arguments.count)][: arguments.count]
    problems = {name: inverse.get_problem("deblur", **k) for name, k in KERNELS.items()}
    kernels = {name: problem.filter()[0, 0] for name, problem in problems.items()}
    cases = {f"{name}": (name, name) for name in KERNELS} | WRONG
    found: dict[str, list] = {f"{case} sigma {s}": [] for case in cases for s in SIGMAS}
    torch.set_num_threads(1)
    for i, file in enumerate(files):
        x = inverse.read_image(file).pixels.double()
        x = x[:, :192, :192]
        blurred = {n: p.operator(tuple(x.shape)).A(x[None])[0] for n, p in problems.items()}
        print(f"{i + 1} of {len(files)}", flush=True)
        for case, (true, assumed) in cases.items():
            for s in SIGMAS:
                noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(i)).double()
                mismatch = kernel_mismatch(blurred[true] + s * noise, kernels[assumed], s)
                found[f"{case} sigma {s}"].append(list(mismatch))
    right = [f"{name} sigma {s}" for name in KERNELS for s in SIGMAS]
    rates = {
        name: sum(gain > SURE for _, gain in values) / len(values) for name, values in found.items()
    }
    record = {
        "photographs": len(files),
        "threshold": SURE,
        "false alarms": sum(rates[name] for name in right) / len(right),
        "rates": rates,
        "found": found,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({k: v for k, v in record.items() if k != "found"}, indent=1))


if __name__ == "__main__":
    main()
