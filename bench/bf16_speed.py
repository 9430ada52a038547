r"""Time the prior in bf16 against float32 on this processor, one thread, alternating.

OMP_NUM_THREADS=1 python bench/bf16_speed.py --out results/tables/bf16-speed
"""

from __future__ import annotations

import platform

import torch
from options import add_out, new_parser
from output import command_line, markdown_table, write_table
from timing import least_seconds

import inverse
from inverse.io.devices import gains_from_bf16

SIZES = (64, 128)


def seconds(prior: inverse.Prior, x: torch.Tensor, gradient: bool, half: bool) -> float:
    """Processor seconds of an evaluation, with its VJP if `gradient`."""
    x = x.clone().requires_grad_(gradient)

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half), torch.set_grad_enabled(gradient):
            estimate = prior(x, torch.full((len(x),), 0.5))
        if gradient:
            estimate.sum().backward()

    return least_seconds(call, 5)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--prior", default="photo-64")
    add_out(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prior = inverse.load_prior(arguments.prior)
    about = getattr(torch.cpu, "get_capabilities", dict)()
    flags = {k: about.get(k) for k in ("cpu_name", "avx512_bf16", "amx_bf16")}
    flags |= {"machine": platform.machine(), "auto": gains_from_bf16(torch.device("cpu"))}
    rows, record = [], []
    for size in SIZES:
        for gradient in (False, True):
            x = torch.randn(4, *prior.shape[:1], size, size)
            full, half = (seconds(prior, x, gradient, half) for half in (False, True))
            record.append({"size": size, "gradient": gradient, "float32": full, "bf16": half})
            work = "evaluation and VJP" if gradient else "evaluation"
            rows.append([str(size), work, f"{full:.3f} s", f"{half / full:.2f}"])
    table = markdown_table(["side", "4 images", "float32", "bf16 / float32"], rows)
    print(flags, table, sep="\n")
    if arguments.out:
        write_table(
            arguments.out,
            f"`{command_line()}`\n\n{table}",
            {"command": command_line(), "processor": flags, "rows": record},
        )


if __name__ == "__main__":
    main()
