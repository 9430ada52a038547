"""`inverse train`, `train-codec`, `train-circuit`, `train-structure`, `fit-bc`: they make what solves start from. Nothing imports torch before it must."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from inverse.command.terminal import Device, Licence, Limits, PluginFiles, PriorName, ProblemName, ProblemOptions, Weights, assignments, registry
from inverse.errors import OptionError

app = typer.Typer()

Images = Annotated[list[Path], typer.Option(help="Folders, .npz or .h5 of images, drawn equally often.")]
Size = Annotated[int, typer.Option(help="Side of the training crops (pixels).")]
Steps = Annotated[int, typer.Option(help="Optimiser steps.")]
Batch = Annotated[int, typer.Option(help="Crops a step.")]
LearningRate = Annotated[float, typer.Option(help="Peak of AdamW.")]
Cooldown = Annotated[float, typer.Option(help="Last fraction of the steps over which the rate falls to zero.")]
Channels = Annotated[int, typer.Option(help="1 (grey) or 3 (colour).")]
Blocks = Annotated[str, typer.Option(help="Residual blocks of each level.")]
Mirror = Annotated[bool | None, typer.Option(help="Flip half of the images left to right.", show_default="in colour only")]
Precision = Annotated[str, typer.Option(help="float32 or bf16 (autocast).")]
Seed = Annotated[int, typer.Option(help="Of all that is random.")]
Validation = Annotated[Path | None, typer.Option(help="Images for the card's figures.", show_default="the first source")]


@app.command()
def train(
    images: Annotated[list[Path], typer.Option(help="Folders, .npz or .h5 of images, drawn equally often; or one NetCDF file of fields (.nc, .zarr).")],
    out: Weights,
    size: Size = 64,
    steps: Steps = 100_000,
    batch: Batch = 16,
    learning_rate: LearningRate = 1e-3,
    channels: Channels = 3,
    widths: Annotated[str, typer.Option(help="Feature channels of each level, finest first.")] = "64,128,256",
    blocks: Blocks = "2,3,4",
    mirror: Mirror = None,
    start: Annotated[str | None, typer.Option(help="A trained prior, name or file, to go on with; its network is kept.", show_default=False)] = None,
    wide: Annotated[float, typer.Option(help="Share of the noise levels that is log-uniform over all; the rest is log-normal about 0.3.")] = 0.0,
    precision: Precision = "float32",
    cooldown: Cooldown = 0.3,
    seed: Seed = 0,
    validation: Validation = None,
    device: Device = "cpu",
    licence: Licence = "",
    limits: Limits = "",
    variable: Annotated[list[str], typer.Option(help="Of fields: a variable; may be repeated.", show_default=False)] = [],  # noqa: B006
    period: Annotated[str, typer.Option(help="Of fields: FIRST/LAST time to train on, both included, e.g. 2019-03-01/2019-03-21.")] = "",
    validation_period: Annotated[str, typer.Option(help="Of fields: times by which the Gaussian is chosen.")] = "",
    test_period: Annotated[str, typer.Option(help="Of fields: times for the card's denoising table.")] = "",
    mix: Annotated[float, typer.Option(help="Of fields: share of the batches that is blended from two.")] = 0.5,
    hours: Annotated[int, typer.Option(help="Of fields: hours that follow one another in one sample.")] = 1,
    rank: Annotated[int, typer.Option(help="Of fields: rank of the Gaussian that the network corrects; --steps 0 keeps it alone.")] = 400,
) -> None:
    """Train an unconditional diffusion prior from images or fields; run again to resume after an interruption."""
    from inverse.networks.unet import UNetConfig
    from inverse.training.fields import train_field_prior
    from inverse.training.loop import TrainConfig
    from inverse.training.prior import begun, train_prior

    if any(path.suffix in (".nc", ".zarr") for path in images):
        if start:
            raise OptionError(f"train: --start is for images, got it with fields, {images[0]}; leave it out")
        if len(images) > 1 or not variable or not (period and validation_period and test_period):
            raise OptionError("train: fields need one file, and --variable, --period, --validation-period and --test-period")
        network = UNetConfig(1, _integers(widths, "--widths"), _integers(blocks, "--blocks"))
        settings = TrainConfig(64, max(steps, 1), batch, learning_rate, cooldown=cooldown, wide=wide, precision=precision, seed=seed, network=network, mix=mix)
        periods = (period, validation_period, test_period)
        about = {"licence": licence, "limits": limits}
        if not train_field_prior(images[0], variable, periods, out, rank, settings if steps else None, device, about, hours):
            raise typer.Exit(130)
        return
    if variable or period or validation_period or test_period:
        given = ", ".join(map(str, images))
        raise OptionError(f"train: --variable and the periods are for fields, got images from {given}; fields are one .nc or .zarr file")
    if channels not in (1, 3):
        raise OptionError(f"train: --channels must be 1 or 3, got {channels}")
    began, digest = begun(start) if start else (None, "")
    asked = UNetConfig(channels=channels, widths=_integers(widths, "--widths"), blocks=_integers(blocks, "--blocks"))
    network = cast(UNetConfig, began.network.config) if began else asked
    mirror = network.channels == 3 if mirror is None else mirror
    config = TrainConfig(
        size, steps, batch, learning_rate, cooldown=cooldown, wide=wide, start=digest, precision=precision, seed=seed, network=network, mirror=mirror
    )
    if not train_prior(images, out, network, config, device, {"licence": licence, "limits": limits}, validation, began):
        raise typer.Exit(130)


@app.command(name="train-codec")
def train_codec(
    images: Images,
    out: Weights,
    size: Size = 64,
    steps: Steps = 10_000,
    batch: Batch = 16,
    learning_rate: LearningRate = 1e-3,
    channels: Channels = 3,
    widths: Annotated[str, typer.Option(help="Feature channels of each level, finest first; a code stands for 2 to the number of levels pixels.")] = "32,64",
    blocks: Blocks = "1,2",
    codes: Annotated[int, typer.Option(help="In the book.")] = 256,
    mirror: Mirror = None,
    precision: Precision = "float32",
    seed: Seed = 0,
    validation: Validation = None,
    device: Device = "cpu",
    licence: Licence = "",
    limits: Limits = "",
) -> None:
    """Train a vector-quantised autoencoder, over whose codes `train-circuit --codec` trains; run again to resume after an interruption."""
    from inverse.circuits.codec import CodecConfig
    from inverse.training import codec
    from inverse.training.loop import TrainConfig

    network = CodecConfig(channels, _integers(widths, "--widths"), _integers(blocks, "--blocks"), codes)
    mirror = channels == 3 if mirror is None else mirror
    config = TrainConfig(size, steps, batch, learning_rate, precision=precision, seed=seed, network=network, mirror=mirror)
    if not codec.train_codec(images, out, config, device, {"licence": licence, "limits": limits}, validation):
        raise typer.Exit(130)


@app.command(name="fit-bc")
def fit_bc(
    out: Annotated[Path, typer.Option(help="Where the table goes (.safetensors).")],
    problem: ProblemName = "super-resolution",
    problem_option: ProblemOptions = [],  # noqa: B006
    prior: PriorName = None,
    base: Annotated[str, typer.Option(help="The deterministic solver, settings after a colon: diffpir, ddnm, mmps:sampler=heun.")] = "diffpir",
    steps: Annotated[int, typer.Option(help="Of the solver.")] = 10,
    candidates: Annotated[int, typer.Option(help="Starts that are drawn.")] = 256,
    references: Annotated[int, typer.Option(help="Photographs that the last of them are compared on.")] = 32,
    images: Annotated[list[Path], typer.Option(help="Folders, .npz or .h5 of photographs.", show_default="the problem's truths")] = [],  # noqa: B006
    size: Annotated[int | None, typer.Option(help="Side of their central crops (pixels).", show_default="of the prior's training crops")] = None,
    distance: Annotated[str, typer.Option(help="A metric: haarpsi, ms-ssim (above 160 pixels), ssim, psnr, rmse; lpips, dists with your weights.")] = "haarpsi",
    tail: Annotated[float, typer.Option(help="Choose by the mean over this fraction of the references, the worst (CVaR).")] = 1.0,
    refine: Annotated[int, typer.Option(help="Moves of one block to try on the start chosen.")] = 0,
    block: Annotated[int, typer.Option(help="Side of a block (pixels).")] = 16,
    seed: Annotated[int, typer.Option(help="Of the candidates, the measurement noise and the moves.")] = 0,
    device: Device = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64 or bf16 (prior in bf16, state in float32).")] = "float32",
    plugin: PluginFiles = [],  # noqa: B006
) -> None:
    """Choose the start of a deterministic solver on reference photographs, for `optimal-bc`; run again to resume after an interruption."""
    from inverse.boundary import deterministic
    from inverse.plugins import get_problem
    from inverse.training.boundary import Fit, fit_boundary

    registry(plugin)
    chosen = get_problem(problem, **assignments(problem_option, "--problem-option")), deterministic(base, steps)
    fit = Fit(candidates, references, size, distance, tail, refine, block, seed, dtype)
    table = fit_boundary(*chosen, fit, images, prior, device, out)
    if table is None:
        raise typer.Exit(130)
    found = table.about
    print(f"candidate {found['candidate']} of {candidates}: loss {found['loss']:.4f}, that of candidate 0 {found['loss_of_candidate_0']:.4f}")
    print(out)


@app.command(name="train-circuit")
def train_circuit(
    images: Annotated[list[Path], typer.Option(help="Folders, .npz or .h5 of training images; colour becomes grey.")],
    out: Weights,
    size: Annotated[int, typer.Option(help="Side of the circuit (pixels, or codes); larger images are cut into random crops.")] = 14,
    codec: Annotated[str, typer.Option(help="A codec's name or file: the circuit is then over its codes.", show_default="over pixels")] = "",
    tie: Annotated[int, typer.Option(help="Side of the squares of variables that share one table (quad).")] = 1,
    shrink: Annotated[int, typer.Option(help="Average squares of this many pixels a side first.")] = 1,
    levels: Annotated[int, typer.Option(help="Intensity levels.")] = 16,
    states: Annotated[int, typer.Option(help="Latent states.")] = 32,
    structure: Annotated[str, typer.Option(help="hclt (hidden Chow-Liu tree) or quad (rectangles, halved).")] = "hclt",
    leaves: Annotated[str, typer.Option(help="categorical or gaussian.")] = "categorical",
    spread: Annotated[bool, typer.Option(help="Values lie between the levels: take each as Gaussian around its level.")] = False,
    crops: Annotated[int, typer.Option(help="Crops of larger images.")] = 50_000,
    epochs: Annotated[int, typer.Option(help="Sweeps of expectation maximisation.")] = 10,
    batch: Annotated[int, typer.Option(help="Images of an M-step; 0 for all.")] = 1000,
    pseudocount: Annotated[float, typer.Option(help="Observations spread evenly over each distribution.")] = 0.1,
    seed: Seed = 0,
    validation: Annotated[Path | None, typer.Option(help="Images for the card's held-out bits.", show_default="every tenth of the training images")] = None,
    licence: Licence = "",
    limits: Limits = "",
) -> None:
    """Train a probabilistic circuit over pixels, or over the codes of a codec, for `tractable-steering` and `tractable-smc`."""
    from inverse.options import build
    from inverse.training.circuit import CircuitConfig, train_circuit

    chosen = {"size": size, "shrink": shrink, "categories": levels, "states": states, "structure": structure, "leaves": leaves, "spread": spread}
    chosen |= {"codec": codec, "tie": tie, "crops": crops, "epochs": epochs, "batch": batch, "pseudocount": pseudocount, "seed": seed}
    if not train_circuit(images, out, build(CircuitConfig, chosen), {"licence": licence, "limits": limits}, validation):
        raise typer.Exit(130)


@app.command(name="train-structure")
def train_structure(
    images: Images,
    validation: Annotated[Path, typer.Option(help="Photographs that are not among them, for the card and the fit of beta.")],
    out: Weights,
    size: Annotated[int, typer.Option(help="Side of the training crops (pixels); photographs must be 30 larger.")] = 96,
    steps: Steps = 20_000,
    batch: Batch = 16,
    learning_rate: LearningRate = 2e-3,
    cooldown: Cooldown = 0.4,
    scales: Annotated[str, typer.Option(help="Pixels of a side that are averaged to one.")] = "2,4,8",
    families: Annotated[str, typer.Option(help="Of blurs: motion, defocus, gaussian, frames.")] = "motion,defocus,gaussian,frames",
    noise: Annotated[float, typer.Option(help="Largest standard deviation of the noise, intensities.")] = 0.05,
    diffusion: Annotated[bool, typer.Option(help="Train an image-conditioned diffusion network with them, for structure-icdpm.")] = False,
    widths: Annotated[str, typer.Option(help="Of the diffusion network: feature channels of each level, finest first.")] = "32,64,96",
    blocks: Annotated[str, typer.Option(help="Of the diffusion network: residual blocks of each level.")] = "1,2,2",
    prior: Annotated[str, typer.Option(help="A prior of photographs, by whose mean and covariance beta is fitted.")] = "photo-64",
    dropout: Annotated[float, typer.Option(help="Share of the crops on which structure does not guide the diffusion network.")] = 0.2,
    precision: Precision = "float32",
    seed: Seed = 0,
    device: Device = "cpu",
    licence: Licence = "",
    limits: Limits = "",
) -> None:
    """Train networks that predict coarse sharp greys from a blurry picture, for `structure-prior`; run again to resume after an interruption."""
    from inverse.networks.unet import UNetConfig
    from inverse.structure.conditional import ConditionalConfig
    from inverse.structure.network import StructureConfig
    from inverse.training.blurs import BlurCorpus
    from inverse.training.structure import StructureTrainConfig
    from inverse.training.structure import train_structure as train

    structure, unet = StructureConfig(_integers(scales, "--scales")), UNetConfig(3, _integers(widths, "--widths"), _integers(blocks, "--blocks"), 128)
    network = ConditionalConfig(structure, unet) if diffusion else structure
    config = StructureTrainConfig(
        size, steps, batch, learning_rate, cooldown=cooldown, precision=precision, seed=seed, network=network,
        corpus=BlurCorpus(tuple(families.split(",")), noise), dropout=dropout,
    )  # fmt: skip
    if not train(images, out, config, device, {"licence": licence, "limits": limits}, validation, prior):
        raise typer.Exit(130)


def _integers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(f"train: {option} takes whole numbers separated by commas, got '{text}'") from error
