"""The work of `inverse fit-bc`: reference images in, a table with their best start out."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from inverse.errors import OptionError
from inverse.io.devices import DTYPES, check_device
from inverse.io.files import check_writable
from inverse.method import Method
from inverse.priors.loading import default_side
from inverse.problem import Problem
from inverse.training.progress import stops_at_signals
from inverse_plugins.optimal_bc.references import references
from inverse_plugins.optimal_bc.search import FitConfig, Search
from inverse_plugins.optimal_bc.table import Table


def fit_boundary(
    problem: Problem,
    method: Method,
    config: FitConfig,
    images: list[Path],
    prior_name: str | None,
    device: str,
    out: Path,
) -> Table | None:
    """Search, or resume a search, and write the table; None after an interruption by the user.

    Args:
        problem: problem to fit for.
        method: solver that is deterministic given its start.
        config: settings of the search.
        images: folders or files of photographs; without any, the truths of the problem are used.
        prior_name: name or file of the prior; by default the problem's.
        device: cpu, cuda, ...
        out: the table, .safetensors; the checkpoint lies beside it.

    Raises: OptionError for another suffix or a device that does not exist; InputError for too few
        references or a checkpoint with other settings; UnsupportedError for an unsuitable method.
    """
    if out.suffix != ".safetensors":
        raise OptionError(f"fit-bc: --out must end in .safetensors, got '{out.name}'")
    check_writable(out.parent)
    prior = problem.resolve_prior(prior_name, check_device(device), DTYPES[config.dtype][0])
    size = config.size or default_side(prior)
    truths = references(problem, images, config.references, size, prior)
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    search = Search(problem, method, replace(config, size=size), truths, prior, checkpoint)
    try:
        with stops_at_signals(search):
            table = search.run()
    except KeyboardInterrupt:
        search.save()
        print(
            f"inverse: interrupted after {search.state.solves} solves; "
            "run the same command to resume",
            file=sys.stderr,
        )
        return None
    table.save(out)
    checkpoint.unlink(missing_ok=True)
    return table
