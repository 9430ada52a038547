r"""Compare priors on 20 of the 181 views of the tooth (bench/ct.py), where no prior of CT ships.

    python bench/phantoms.py --count 2500 --seed 0 --out out/phantoms/train.npz
    python bench/phantoms.py --count 100 --seed 1 --out out/phantoms/held-out.npz
    inverse train --images out/phantoms/train.npz --validation out/phantoms/held-out.npz --size 96 \
        --channels 1 --mirror --steps 0 --out out/phantoms/ct-field.safetensors
    python bench/ct_priors.py --tooth "$INVERSE_DATA/instruments/ct/tooth.h5" \
        --prior out/phantoms/ct-field.safetensors --prior mri-96 --out results/tables/ct-priors

Priors from files are named by their stem. The rows without a prior are those of bench/ct.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from ct import chi_square
from images import psnr
from options import add_out, new_parser
from output import command_line, markdown_table, write_table

import inverse

BIN, VIEWS = 2, 20


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--tooth", type=Path, required=True, help="HDF5 Data Exchange file")
    parser.add_argument("--prior", action="append", required=True, help="name or file")
    add_out(parser, required=True)
    arguments = parser.parse_args()

    problem = inverse.get_problem("ct", bin=BIN)
    rows, records = [], {}
    for name in arguments.prior:
        prior = problem.resolve_prior(name)
        whole, y, _ = problem.open(arguments.tooth, prior, True)
        full = whole.posterior(y=y, prior=prior)
        reference = inverse.solve(full, inverse.get_method("fbp", window="hann")).mean[0]
        few, y_few, _ = replace(problem, views=VIEWS, mu=whole.mu).open(
            arguments.tooth, prior, True
        )
        posterior = few.posterior(y=y_few, prior=prior)
        views = y.shape[1]
        unseen = torch.ones(views, dtype=torch.bool)
        unseen[torch.arange(VIEWS) * views // VIEWS] = False
        result = inverse.solve(posterior, inverse.get_method("dpir"))
        record = {
            "psnr": float(psnr(result.mean[0], reference)),
            "misfit": float(result.misfit.mean()),
            "unseen": chi_square(full, result.mean[0], unseen),
            "nfe": result.cost.nfe,
        }
        label = Path(name).stem
        records[label] = record
        texts = [f"{record[key]:.2f}" for key in ("psnr", "misfit", "unseen")]
        rows.append([label, *texts, f"{record['nfe']:.0f}"])
        print(rows[-1], flush=True)
    heads = ["prior of dpir", "PSNR to all views (dB)", "residual chi2", "chi2 of unseen views"]
    table = markdown_table([*heads, "prior evaluations"], rows)
    about = {"command": command_line(), "torch": torch.__version__}
    write_table(arguments.out, table, {"about": about, "records": records})


if __name__ == "__main__":
    main()
