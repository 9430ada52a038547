"""Inputs drawn at random at every door: an answer, or one line. Slow; bounded in time.

Command lines, cards, files (pictures, arrays, archives, HDF5, NetCDF, tables) and Python calls. An
example that runs longer than its bound is left: it was accepted.
"""
# ruff: noqa: RUF005

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from cli_fixtures import pixels, tiny_network
from PIL import Image

import inverse
from inverse.command import app
from inverse.errors import InverseError
from inverse.io.image_sets import load_images
from inverse.priors.loading import PriorCard, cards, load_prior, save_prior
from inverse.registry.discovery import registry

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

pytestmark = pytest.mark.slow


def bounded(examples: int):
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


class TooLong(BaseException):
    """The bound of one example."""


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Leave the block after a time; ignore warnings, which are no errors."""

    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again, should a callback swallow the first
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except TooLong:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def heard(call, seconds: int = 10) -> None:
    """Run a call; only an InverseError of one line may leave it."""
    message = ""
    with within(seconds):
        try:
            call()
        except InverseError as error:
            message = str(error)
    assert "\n" not in message.strip(), message


# --- command lines ------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["", "0", "-1", "1", "2", "1e400", "nan", "inf", "99999999999999999999", "1e-300", "auto"]
    + ["none", "true", "a=b", "=", "x" * 300, "../..", "/", "/dev/null", "picture.png", "\x00", "é"]
    + ["mask.png", "steps=1", "sigma_y=0", "kernel=picture.png", "mask=mask.png", "--", "-", "{}"]
)
OPTIONS = st.sampled_from(
    ["--problem", "--method", "--set", "--problem-option", "--samples", "--seed", "--steps"]
    + ["--dtype", "--device", "--memory", "--batch", "--out", "--prior", "--restore", "--input"]
    + ["--json", "--yes", "--resume", "--parallel", "--plugin", "--size", "--images", "--help"]
)
NAMES = st.sampled_from(
    ["denoise", "deblur", "inpainting", "super-resolution", "tv", "tikhonov", "dps", "red-diff"]
)
COMMANDS = st.sampled_from(
    [
        ["solve"],
        ["diagnose"],
        ["methods"],
        ["problems"],
        ["priors"],
        ["verify"],
        ["train"],
        ["tune"],
    ]
    + [["bench", "run"], ["bench", "report"], ["bench", "ls"], ["bench", "compare"], ["samplers"]]
    + [["prior", "info"], ["prior", "verify"], ["prior", "convert"], ["fit-bc"], ["train-circuit"]]
)


@bounded(250)
@hypothesis.given(
    COMMANDS,
    st.lists(st.tuples(OPTIONS, st.one_of(WORDS, NAMES)), max_size=4),
    st.lists(WORDS, max_size=2),
)
def test_command_lines(commands, options, words):
    arguments = [*commands, *(part for pair in options for part in pair), *words]
    if commands == ["solve"]:
        arguments += ["--prior", "tiny.safetensors", "--problem-option", "sigma_y=0.1"]
    said, code = io.StringIO(), None
    with (
        contextlib.chdir(FOLDER.path),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(said),
        within(10),
    ):
        sys_argv, sys.argv = sys.argv, ["inverse", *arguments]
        showwarning = warnings.showwarning
        try:
            app.main()
        except SystemExit as stop:
            code = stop.code
        finally:
            sys.argv, warnings.showwarning = sys_argv, showwarning
    assert code in (None, 0, 1, 2, 3, 130)
    assert "Traceback" not in said.getvalue()


class FOLDER:
    path = Path()


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory):
    """Valid files of every kind, and the folder in which commands run."""
    FOLDER.path = tmp_path_factory.mktemp("fuzz")
    save_prior(tiny_network(), FOLDER.path / "tiny.safetensors", training={"data": "none"})
    rgb, grey = pixels(16, 18), pixels(16, 18, 1)[..., 0]
    Image.fromarray(rgb).save(FOLDER.path / "picture.png")
    Image.fromarray((grey > 100).astype(np.uint8) * 255).save(FOLDER.path / "mask.png")
    for suffix in ("jpg", "tif", "webp", "bmp"):
        Image.fromarray(rgb).save(FOLDER.path / f"picture.{suffix}")
    Image.fromarray(rgb).save(FOLDER.path / "lzw.tif", compression="tiff_lzw")
    Image.fromarray(rgb).convert("P").save(FOLDER.path / "palette.png")
    values = rgb.transpose(2, 0, 1) / 255.0
    np.save(FOLDER.path / "array.npy", values)
    np.savez(FOLDER.path / "arrays.npz", y=values)
    np.savez(FOLDER.path / "images.npz", images=np.stack([rgb, rgb]))
    with h5py.File(FOLDER.path / "array.h5", "w") as file:
        file.create_dataset("y", data=values, chunks=True, compression="gzip")
    xarray = pytest.importorskip("xarray")
    field = xarray.DataArray(
        280 + np.random.default_rng(0).standard_normal((2, 33, 49)),
        dims=("time", "latitude", "longitude"),
        coords={
            "time": np.array(["2020-01-01T00", "2020-01-01T06"], "datetime64[ns]"),
            "latitude": np.linspace(58, 50, 33),
            "longitude": np.linspace(-8, 4, 49),
        },
        attrs={"units": "K"},
    )
    field.to_dataset(name="t2m").to_netcdf(FOLDER.path / "field.nc", engine="h5netcdf")
    (FOLDER.path / "stations.csv").write_text(
        "station,latitude,longitude,time,t2m\nA,51.5,0.1,2020-01-01T00:00,281.2\n"
        "B,53.1,-2.3,2020-01-01T00:00,279.8\n"
    )
    return FOLDER.path


# --- files --------------------------------------------------------------------------------------


@st.composite
def damage(draw):
    """A function that flips, cuts, doubles or overwrites bytes of a file."""
    kind = draw(st.sampled_from(["flip", "cut", "splice", "zero", "header", "repeat"]))
    where, size = draw(st.floats(0, 1)), draw(st.integers(1, 64))
    junk = draw(st.binary(min_size=1, max_size=64))

    def apply(data: bytes) -> bytes:
        at = int(where * max(0, len(data) - 1))
        changed = {
            "flip": data[:at] + bytes(b ^ 0xFF for b in data[at : at + size]) + data[at + size :],
            "cut": data[:at],
            "splice": data[:at] + junk + data[at:],
            "zero": data[:at] + bytes(size) + data[at + size :],
            "header": junk + data[len(junk) :],
            "repeat": data[:at] + data[at : at + size] * 50 + data[at:],
        }
        return changed[kind]

    return apply


PICTURES = ["picture.png", "picture.jpg", "picture.tif", "lzw.tif", "picture.webp", "palette.png"]
ARRAYS = ["array.npy", "arrays.npz", "array.h5", "picture.bmp"]


@pytest.mark.parametrize("name", PICTURES + ARRAYS)
def test_damaged_pictures_and_arrays(folder, name):
    data = (folder / name).read_bytes()

    @bounded(120)
    @hypothesis.given(damage(), st.sampled_from(["picture", "mask", "kernel", "numbers"]))
    def check(change, role):
        file = folder / f"damaged{Path(name).suffix}"
        file.write_bytes(change(data))
        heard(lambda: inverse.read_image(file, channels=3 if role == "picture" else 1, role=role))
        heard(lambda: inverse.read_mask(file))

    check()


@pytest.mark.parametrize("name", ["images.npz", "array.h5", "arrays.npz"])
def test_damaged_training_images(folder, name):
    data = (folder / name).read_bytes()

    @bounded(80)
    @hypothesis.given(damage())
    def check(change):
        file = folder / f"damaged{Path(name).suffix}"
        file.write_bytes(change(data))
        heard(lambda: load_images(file, 8, 3))

    check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["field.nc", "stations.csv"])
def test_damaged_weather_files(folder, name):
    data = (folder / name).read_bytes()
    prior = load_prior("era5-uk-t2m-gaussian")

    @bounded(100)
    @hypothesis.given(damage())
    def check(change):
        file = folder / f"damaged{Path(name).suffix}"
        file.write_bytes(change(data))
        fields = folder / "field.nc" if name == "stations.csv" else file
        stations = file if name == "stations.csv" else None
        problem = inverse.get_problem("atmosphere", stations=stations, time="2020-01-01T00")
        heard(lambda: problem.open(fields, prior, True))
        heard(lambda: problem.open(fields, prior, False))

    check()


CELLS = st.one_of(
    st.sampled_from(["", "nan", "-999", "1e400", "51,5", "0x10", "=1+1", "2020-13-45", '"', "é"]),
    st.text(max_size=6),
    st.floats().map(str),
)


@bounded(200)
@hypothesis.given(
    st.lists(st.lists(CELLS, min_size=1, max_size=6), min_size=1, max_size=6),
    st.sampled_from([",", ";", "\t", "|", " "]),
    st.booleans(),
)
def test_tables_of_stations(rows, delimiter, headed):
    head = ["station", "latitude", "longitude", "time", "t2m"]
    lines = [delimiter.join(row) for row in ([head] if headed else []) + rows]
    file = FOLDER.path / "table.csv"
    file.write_text("\n".join(lines), errors="replace")
    problem = inverse.get_problem("atmosphere", stations=file, time="2020-01-01T00")
    heard(lambda: problem.open(FOLDER.path / "field.nc", PRIOR(), True))


def PRIOR():
    if not hasattr(PRIOR, "loaded"):
        PRIOR.loaded = load_prior("era5-uk-t2m-gaussian")
    return PRIOR.loaded


# --- cards --------------------------------------------------------------------------------------

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from([0, -1, 1e308, 10**9, 10**30, "", [], {}]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def paths(value, at=()):
    """Every path in nested objects and lists."""
    found = [at] if at else []
    items = dict(enumerate(value)) if isinstance(value, list) else value
    for key, item in items.items() if isinstance(items, dict) else ():
        found += paths(item, (*at, key))
    return found[:400]


@pytest.mark.parametrize(
    "name", ["photo-64", "era5-uk-t2m", "era5-zt-gaussian", "era5-uk-t2m-hours"]
)
def test_cards(folder, name):
    original = json.loads(cards()[name].read_text())
    places = paths(original)
    target = folder / original["file"]
    if not target.exists():
        target.symlink_to(cards()[name].with_suffix(".safetensors"))

    @bounded(80)
    @hypothesis.given(st.lists(st.tuples(st.sampled_from(places), JSON), min_size=1, max_size=2))
    def check(changes):
        card = json.loads(json.dumps(original))
        for path, value in changes:
            holder = card
            with contextlib.suppress(KeyError, IndexError, TypeError):
                for key in path[:-1]:
                    holder = holder[key]
                holder[path[-1]] = value
        file = folder / "card.json"
        file.write_text(json.dumps(card))
        heard(lambda: PriorCard.read(file))
        heard(lambda: load_prior(file))

    check()


# --- Python -------------------------------------------------------------------------------------

THINGS = st.sampled_from(
    [None, True, 0, -1, 1.5, float("nan"), "", "tv", b"", [], [1], (), {}, object(), int, 10**30]
    + [torch.zeros(0), torch.zeros(1, 3, 8, 8), torch.full((3, 8, 8), torch.nan), np.zeros((8, 8))]
    + [torch.zeros(2, 3, 8, 8, dtype=torch.complex64), np.array(["a"]), Path("nowhere"), 1j]
)


@bounded(400)
@hypothesis.given(st.integers(0, 11), st.lists(THINGS, min_size=3, max_size=3))
def test_python_calls(which, things):
    a, b, c = things
    denoise = inverse.get_problem("denoise")
    prior = inverse.GaussianPrior(torch.zeros(3, 8, 8), torch.eye(192))
    posterior = denoise.posterior(y=torch.zeros(1, 3, 8, 8), prior=prior)
    calls = [
        lambda: denoise.posterior(y=a, prior=prior, seed=b),
        lambda: denoise.posterior(a, prior=prior, device=b),
        lambda: denoise.posterior(y=torch.zeros(1, 3, 8, 8), prior=a, dtype=b),
        lambda: inverse.solve(posterior, a, b, c),
        lambda: inverse.solve(posterior, "tikhonov", a, b),
        lambda: inverse.solve(a, "tikhonov"),
        lambda: inverse.Posterior(prior, a, b, c),
        lambda: inverse.GaussianNoise(a),
        lambda: inverse.get_method(a, steps=b),
        lambda: inverse.get_problem(a, sigma_y=b),
        lambda: inverse.read_image(a, b),
        lambda: inverse.load_prior(a, b),
    ]
    heard(calls[which])


# --- options that are accepted ------------------------------------------------------------------

EXTREMES = ("0", "1", "2", "-1", "1e-9", "1e9", "1e-30", "10000000", "0.999999", "nan")


@pytest.mark.parametrize("name", sorted(registry().table("inverse_methods")))
def test_methods_run_with_every_extreme_that_they_accept(name):
    """Steps stop after two iterates; an answer that is not finite is an error of one line."""
    from inverse.registry.options import options

    prior = inverse.GaussianPrior(torch.zeros(1, 8, 8), torch.eye(64))
    problem = inverse.get_problem("denoise", sigma_y=0.1)
    posterior = problem.posterior(y=torch.rand(1, 1, 8, 8), prior=prior)

    def observe(index, total, x, misfit, nfe):
        if index == 2:
            raise KeyboardInterrupt

    def run(option, value):
        method = inverse.get_method(name, **{option: value})
        if not method.unsupported(posterior):
            with contextlib.suppress(inverse.Interrupted):
                inverse.solve(posterior, method, 2, observers=[observe])

    for option in options(type(inverse.get_method(name))):
        for value in EXTREMES:
            heard(lambda option=option.name, value=value: run(option, value), seconds=2)
