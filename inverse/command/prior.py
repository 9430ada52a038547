"""`inverse prior`: show, verify, convert, quantize and fetch a prior.

Importing this module does not import torch.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from inverse.command.catalogue import catalogue, fetch
from inverse.command.distance import distance
from inverse.errors import OptionError, PriorError
from inverse.io.command_line import Licence, Limits, Weights, columns, show
from inverse.io.files import strict_json

app = typer.Typer(
    no_args_is_help=True, help="Show, verify, convert, quantize, compare or fetch a prior."
)
app.command()(catalogue)
app.command()(fetch)
app.command()(distance)

Name = Annotated[
    str,
    typer.Argument(
        help="Name of a prior, its .safetensors file or card, a folder saved by diffusers, or "
        "weights of a known network of another project."
    ),
]
Side = Annotated[
    int | None,
    typer.Option(
        min=8,
        help="Side of the draws or crops (pixels), for a prior of any size.",
        show_default="side of its training crops",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def info(name: Name, json_: Json = False) -> None:
    """Show a prior's card: shape, units, hash, training, licence and limits."""
    from inverse.priors.loading import PriorCard, find_card, load_prior

    path = find_card(name)
    if path is None:
        loaded = load_prior(name)
        rows: dict[str, Any] = {
            "folder" if Path(name).is_dir() else "file": name,
            "shape": ["any" if side is None else side for side in loaded.shape],
            "card": _no_card(name),
        }
        rows |= {
            "sigma": f"{loaded.sigma_min:g} to {loaded.sigma_max:g}",
            "parameters": sum(p.numel() for p in loaded.parameters()),
        }
    else:
        card = PriorCard.read(path)
        weights = card.weights(name, path)
        rows = {
            "name": card.name,
            "file": str(weights),
            "bytes": weights.stat().st_size if weights.is_file() else "missing",
            "sha256": card.sha256,
        }
        rows |= {
            "shape": card.shape,
            "units": card.units,
            "model units": f"physical = {card.scale:g} * model + {card.shift:g}",
        }
        rows |= (
            {"sigma": f"{card.sigma_min:g} to {card.sigma_max:g} (model units)"}
            | _tables(card)
            | {"licence": card.licence, "limits": card.limits}
        )
    _show(rows, json_)


@app.command()
def verify(
    name: Name,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder, .npz or .h5 file of clean images to check on.",
            show_default="draws from the prior",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=2, help="Number of images or draws.")] = 8,
    side: Side = None,
    denoising: Annotated[
        bool,
        typer.Option(
            "--denoising", help="PSNR on --images at 15, 25, 50 of 255, beside published denoisers."
        ),
    ] = False,
    training: Annotated[
        list[Path],
        typer.Option(
            help="Training images, to find those of --images among them; may be repeated.",
            show_default="the fingerprints beside the weights",
        ),
    ] = [],
    seed: Annotated[int, typer.Option(help="Random seed for the draws and the noise.")] = 0,
    json_: Json = False,
) -> None:
    """Check a prior's hash and the identities of denoisers; exit with code 1 if one fails.

    With --images, it also checks that none of them was trained on.
    """
    from inverse.checks.denoiser_identities import check, clean_images, own_draws
    from inverse.priors.loading import default_side, find_card, load_prior

    loaded = load_prior(name)
    if images is None and (denoising or training):
        raise OptionError("prior verify: --denoising and --training need --images")
    side = side or default_side(loaded)
    x0 = (
        own_draws(loaded, count, side, seed=seed)
        if images is None
        else clean_images(loaded, images, count, side)
    )
    result = check(loaded, x0, seed=seed)
    known = _known_images(loaded, name, images, training) if images else []
    result = replace(result, failures=result.failures + known)
    scores = _denoising(loaded, images, count, seed) if images and denoising else {}
    if json_:
        print(strict_json(result.to_dict() | ({"denoising": scores} if scores else {})))
    else:
        table = columns("sigma", "error", "sigma sqrt(divergence)", "std of D(x)", "std of x0")
        for level in result.levels:
            values = (level.sigma, level.error, level.tweedie, level.output, level.clean)
            table.add_row(*[f"{value:.4g}" for value in values])
        show(table)
        if scores:
            _show_denoising(name, scores)
        no_card = find_card(name) is None
        hash_line = (
            f"no card, no hash to check: {_no_card(name)}"
            if no_card
            else "the hash matches the card"
        )
        print("\n".join([*result.failures, hash_line]))
    if result.failures:
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="Weights (.safetensors, .pt, .pth, .ckpt, .bin, .tar, .pkl) or a folder saved by "
            "diffusers."
        ),
    ],
    out: Weights,
    network: Annotated[
        str | None,
        typer.Option(
            help="JSON of the network, a file or text: fields of UNetConfig, a card, a config of "
            'diffusers, or {"architecture": "guided-diffusion", ...} with options that the weights '
            "do not tell.",
            show_default="told by the weights",
        ),
    ] = None,
    scheduler: Annotated[
        Path | None,
        typer.Option(help="JSON of the network's diffusers scheduler.", show_default="EDM"),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Entry of the checkpoint that holds the weights.",
            show_default="the only entry",
        ),
    ] = None,
    sigma_data: Annotated[
        float,
        typer.Option(help="Standard deviation of an EDM network's training data (model units)."),
    ] = 0.5,
    licence: Licence = "",
    limits: Limits = "",
) -> None:
    """Convert weights from elsewhere to safetensors with a card; no code in a pickle is run."""
    from inverse.io.files import check_writable
    from inverse.priors.networks.convert import ForeignWeights
    from inverse.priors.networks.convert import convert as convert_weights

    _check_apart(source, out)
    check_writable(out.parent)
    training = {"data": f"see {source.name}", "command": " ".join(["inverse", *sys.argv[1:]])}
    card = convert_weights(
        ForeignWeights(source, network, scheduler, key, sigma_data),
        out,
        {"licence": licence, "limits": limits, "training": training},
    )
    print(f"sha256 {card.sha256}")
    print(out)


@app.command()
def quantize(
    name: Name,
    out: Weights,
    inputs: Annotated[
        bool,
        typer.Option(
            help="Round the inputs of convolutions too; faster on CPUs with integer instructions."
        ),
    ] = True,
    samples: Annotated[
        int, typer.Option(min=1, help="Number of draws from the prior for the calibration.")
    ] = 32,
    side: Side = None,
    guided: Annotated[
        str | None,
        typer.Option(
            metavar="PROBLEM:METHOD",
            help="Calibrate on the inputs of a method that solves a problem's shipped images.",
            show_default="draws from the prior",
        ),
    ] = None,
    iterations: Annotated[
        int,
        typer.Option(min=0, help="Steps of the reconstruction of each block; 0 leaves it out."),
    ] = 100,
    seed: Annotated[int, typer.Option(help="Random seed for the draws.")] = 0,
) -> None:
    """Quantize a prior to eight bits, half the size of half precision; the card notes how."""
    import copy

    from inverse.io.files import check_writable
    from inverse.priors.cards import check_suffix
    from inverse.priors.loading import PriorCard, default_side, find_card, load_prior, save_prior
    from inverse.priors.networks.quantize import calibration_pairs, check_quantizable
    from inverse.priors.networks.quantize import quantize as round_to_int8

    check_suffix("prior", out)
    check_writable(out.parent)
    prior: Any = load_prior(name)
    check_quantizable(prior)
    path = find_card(name)
    assert path is not None  # a folder of diffusers is not quantizable
    card = PriorCard.read(path)
    _check_apart(card.weights(name, path), out)
    side = side or default_side(prior)
    if guided and not inputs:
        raise OptionError("quantize: --guided calibrates the inputs; omit --no-inputs")
    pairs = None
    if guided:
        pairs = _guided_pairs(prior, guided, samples, side, seed)
    elif inputs:
        pairs = calibration_pairs(prior, samples, side, seed=seed)
    original = copy.deepcopy(prior)
    round_to_int8(prior, pairs)
    if pairs is not None and iterations:
        from inverse.priors.networks.reconstruction import reconstruct

        reconstruct(prior, original, pairs, iterations)
    quantization = {
        "bits": 8,
        "of": card.name,
        "sha256": card.sha256,
        "inputs": {
            "samples": samples,
            "side": side,
            "seed": seed,
            "guided": guided or "",
            "iterations": iterations,
        }
        if inputs
        else {},
    }
    card_fields = {
        "units": card.units,
        "training": card.training,
        "licence": card.licence,
        "limits": card.limits,
        "power_law": card.power_law,
    }
    saved = save_prior(prior, out, quantization=quantization, **card_fields)
    print(f"sha256 {saved.sha256}")
    print(out)


def _guided_pairs(prior: Any, guided: str, samples: int, side: int, seed: int) -> Any:
    from inverse.command.guided_pairs import guided_pairs
    from inverse.registry.discovery import get_method, get_problem

    problem, colon, method = guided.partition(":")
    if not (problem and colon and method):
        raise OptionError(f"quantize: --guided takes PROBLEM:METHOD, got '{guided}'")
    return guided_pairs(prior, get_problem(problem), get_method(method), samples, side, seed)


def _known_images(prior: Any, name: str, images: Path, training: list[Path]) -> list[str]:
    """A line if images were trained on, by fingerprints of the training images; else none."""
    import numpy as np

    from inverse.io.fingerprints import fingerprints, matches, read_fingerprints
    from inverse.io.image_sets import load_images
    from inverse.priors.loading import PriorCard, find_card

    channels = prior.shape[0] or 3
    known = [fingerprints(load_images(path, 1, channels)) for path in training]
    card = find_card(name)
    beside = read_fingerprints(PriorCard.read(card).weights(name, card)) if card else None
    known += [] if beside is None else [beside]
    if not known:
        return []
    tested = fingerprints(load_images(images, 1, channels))
    found = matches(tested, np.concatenate(known))
    if not found:
        return []
    listed = ", ".join(str(i + 1) for i in list(found)[:8]) + ", ..." * (len(found) > 8)
    return [f"{len(found)} of {len(tested)} images are in the training data: number {listed}"]


def _denoising(prior: Any, images: Path, count: int, seed: int) -> dict[int, list[float]]:
    from inverse.checks.denoising_table import denoising_psnr
    from inverse.io.image_sets import load_images, spread

    least = max(8, *(side or 0 for side in prior.shape[1:]))
    chosen = spread(load_images(images, least, prior.shape[0] or 3), count)
    return denoising_psnr(prior, chosen, seed)


def _show_denoising(name: str, scores: dict[int, list[float]]) -> None:
    from inverse.checks.denoising_table import LEVELS, rows

    table = columns("PSNR (dB)", *(f"noise {level}" for level in LEVELS))
    for row in rows(name, scores):
        table.add_row(*row)
    show(table)


def _no_card(name: str) -> str:
    """Why a prior has no card."""
    folder = Path(name).is_dir()
    return "a folder saved by diffusers" if folder else "weights of another project"


def _check_apart(source: Path, out: Path) -> None:
    """Raise a PriorError if the output would overwrite the source."""
    if source.resolve() == out.resolve():
        raise PriorError(f"--out {out} is the source itself; choose another file")


def _tables(card: Any) -> dict[str, Any]:
    """The entries of a card that are tables, one for each line."""
    network = (
        card.network
        or {key: card.pipeline[key].get("_class_name") for key in card.pipeline}
        or {key: value for key, value in card.foreign.items() if value is not None}
        or card.law
    )
    training = {key: value for key, value in card.training.items() if key != "command"}
    return {
        "network": network,
        "training": training,
        "command": card.training.get("command", ""),
        "quantization": card.quantization,
        "denoising (of 255: dB)": card.denoising.get("psnr", ""),
    }


def _show(rows: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(strict_json(rows))
        return
    table = columns("", "")
    table.show_header = False
    for label, value in rows.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {entry}" for key, entry in value.items())
        if value not in ("", None):
            table.add_row(label, str(value))
    show(table)
