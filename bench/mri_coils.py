r"""Compare methods on measured k-space of several coils, by frequencies that they do not see.

    python bench/mri_coils.py --kspace "$INVERSE_DATA/instruments/mri/cartesian_ksp.npy" \
        --page docs/mri.md

A tenth of the sampled frequencies outside of the centre is withheld. Half of them chooses the
weights of total variation and of the wavelets; the residual chi-square of the other half is the
score. The noise level is estimated, and signal at the highest frequencies counts as noise.
"""

from __future__ import annotations

import dataclasses
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from options import new_parser
from output import command_line, in_results, insert_tables, markdown_table, write_json
from timing import timed

import inverse
from inverse.io.images import write_png
from inverse_problems.mri.operators import as_parts
from inverse_problems.mri.problem import MRI, MeasuredMRI

METHODS: dict[str, dict[str, Any]] = {
    "zero-filled": {},
    "sense": {},
    "l1-wavelet": {"steps": 60},
    "tv": {"steps": 60},
    "dpir": {"steps": 8},
}
WEIGHTED = {"l1-wavelet", "tv"}
WEIGHTS = (0.1, 0.3, 1.0, 3.0)
"""Values of lambda in units of sigma_y."""
CENTRE = 16
"""Half the side of the centre that is never withheld (frequencies)."""


def withheld(sampled: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of sampled frequencies outside the centre, boolean (H, W), a twentieth each."""
    height, width = sampled.shape
    outside = sampled.copy()
    outside[
        height // 2 - CENTRE : height // 2 + CENTRE, width // 2 - CENTRE : width // 2 + CENTRE
    ] = False
    draw = np.random.default_rng(seed).random(sampled.shape)
    return outside & (draw < 0.05), outside & (draw >= 0.05) & (draw < 0.1)


def chi_square(
    problem: MeasuredMRI, data: np.ndarray, places: np.ndarray, x: torch.Tensor
) -> float:
    """Residual chi-square of the withheld frequencies; x (1, H, W), intensities."""
    unseen = dataclasses.replace(problem.kspace, sampled=places)
    whole = dataclasses.replace(problem, kspace_=unseen)
    expected = whole.operator(tuple(x.shape)).A(x[None])[0].double()
    y = as_parts(torch.from_numpy(np.where(places, data, 0)))
    z = (y - expected)[:, torch.from_numpy(places)] / problem.sigma_y
    return float(z.square().mean())


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--kspace", type=Path, required=True, help="complex (coils, H, W)")
    parser.add_argument("--page", type=Path, required=True, help="page that receives the table")
    arguments = parser.parse_args()

    prior = inverse.load_prior("mri-96")
    raw = np.load(arguments.kspace, allow_pickle=False)
    sampled = raw.any(0)
    tuning, scoring = withheld(sampled, 0)
    kept = sampled & ~tuning & ~scoring
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kept.npy"
        np.save(file, np.where(kept, raw, 0))
        opened, y, notes = MRI().open(file, prior, True)
    assert isinstance(opened, MeasuredMRI)
    data = raw / opened.scale
    sigma_y = float(f"{opened.estimated_sigma_y(y):.3g}")
    problem = dataclasses.replace(opened, sigma_y=sigma_y)
    posterior = problem.posterior(y=y, prior=prior)

    rows, records, pictures = [], {}, []
    for name, options in METHODS.items():
        trials = {}
        for weight in WEIGHTS if name in WEIGHTED else (0.0,):
            stated = options | ({"lambda": weight * sigma_y} if name in WEIGHTED else {})
            method = inverse.get_method(name, **stated)
            trials[weight] = timed(partial(inverse.solve, posterior, method))
        score = {
            w: chi_square(problem, data, tuning, answer.mean[0])
            for w, (answer, _) in trials.items()
        }
        weight = min(score, key=score.__getitem__)
        answer, seconds = trials[weight]
        record = {
            "weight": weight,
            "chi2": float(answer.misfit.mean()),
            "unseen": chi_square(problem, data, scoring, answer.mean[0]),
            "nfe": answer.cost.nfe,
            "seconds": seconds,
        }
        records[name] = record | {"tuning": score}
        label = f"{name}, {weight:g} sigma_y" if name in WEIGHTED else name
        numbers = [f"{record['chi2']:.2f}", f"{record['unseen']:.2f}"]
        rows.append([label, *numbers, f"{record['nfe']:.0f}", f"{seconds:.0f}"])
        pictures.append(answer.mean[0])
        print(rows[-1], flush=True)
    write_png(arguments.page.parent / "images" / "mri-head.png", torch.cat(pictures, 2))
    heads = ["method", "residual chi2", "chi2 of withheld frequencies", "prior evaluations"]
    about = {
        "command": command_line(),
        "notes": notes,
        "sigma_y": sigma_y,
        "kept": int(kept.sum()),
        "withheld": [int(tuning.sum()), int(scoring.sum())],
        "torch": torch.__version__,
    }
    write_json(in_results(arguments.page).with_suffix(".json"), {"about": about, "head": records})
    insert_tables(arguments.page, markdown_table([*heads, "seconds"], rows))


if __name__ == "__main__":
    main()
