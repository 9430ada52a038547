"""Fixtures and helpers for tests of the command: runs, a tiny prior, pictures, distributions.

A test module gets the fixtures by `pytest_plugins = "cli_fixtures"`. It also imports the helpers,
hence PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inverse.command import app as cli
from inverse.priors.loading import save_prior
from inverse.priors.networks.unet import UNetConfig
from inverse.priors.prior import NetworkPrior
from inverse.registry import discovery as plugins

CONFIG = UNetConfig(channels=3, widths=(8, 16), blocks=(1, 1), embedding=16)


@dataclass(frozen=True)
class Outcome:
    """The result of a command: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def path(self) -> Path:
        """The last line of standard output."""
        return Path(self.out.splitlines()[-1])

    def refused(self, *words: str) -> str:
        """Check that the command failed with code 2 and one line with these words."""
        assert self.code == 2, self
        assert self.out == "", self.out
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("inverse: "), self.err
        missing = [word for word in words if word not in lines[0]]
        assert not missing, f"{missing} not in: {lines[0]}"
        return lines[0]


def tiny_network(config: UNetConfig = CONFIG) -> NetworkPrior:
    """An untrained prior whose output layers are not zero, so that every weight matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = NetworkPrior.unet(config, sigma_data=0.5, shift=0.5, scale=0.5)
        for parameter in prior.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return prior.eval()


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior on disk for colour images of any size."""
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_prior(tiny_network(), path, training={"data": "none"}, licence="none", limits="untrained")
    return path


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """A new registry of plug-ins before and after the test."""
    plugins.registry.cache_clear()
    yield
    plugins.registry.cache_clear()


@pytest.fixture
def command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fresh_registry: None,
) -> Callable[..., Outcome]:
    """Run `inverse ARGUMENTS` in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["inverse", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def mri(command: Callable[..., Outcome], tmp_path: Path) -> Callable[..., Outcome]:
    """Run `inverse solve --problem mri --restore FILE` with an untrained prior."""
    prior = NetworkPrior.unet(UNetConfig(1, (8, 16), (1, 1), 16), shift=0.5, scale=0.5)
    save_prior(prior, tmp_path / "grey.safetensors")

    def run(file: Path, method: str = "sense", **options: object) -> Outcome:
        stated = [part for n, v in options.items() for part in ("--problem-option", f"{n}={v}")]
        given = ("solve", "--problem", "mri", "--method", method, "--prior", "grey.safetensors")
        return command(*given, "--restore", file, *stated)

    return run


@pytest.fixture
def solve(command: Callable[..., Outcome], tiny_prior: Path) -> Callable[..., Outcome]:
    """Run `inverse solve`, by default with the tiny prior, denoise and pseudo-inverse."""

    def run(*arguments: object) -> Outcome:
        defaults = {"--prior": tiny_prior, "--problem": "denoise", "--method": "pseudo-inverse"}
        given = [
            part
            for option, value in defaults.items()
            if option not in arguments
            for part in (option, value)
        ]
        return command("solve", *given, *arguments)

    return run


def process(
    *arguments: object, interrupt_when: Callable[[], bool] | None = None, **environment: str
) -> Outcome:
    """Run `inverse ARGUMENTS` as a process; send SIGINT once `interrupt_when()` is true."""
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "inverse"),
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        # a suite that runs in the background would inherit an ignored SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while interrupt_when is not None and child.poll() is None:
        if interrupt_when():
            child.send_signal(signal.SIGINT)
            break
    out, err = child.communicate(timeout=120)
    return Outcome(child.returncode, out, err)


def pixels(
    height: int = 20, width: int = 26, channels: int = 3, dtype: type = np.uint8, seed: int = 0
) -> np.ndarray:
    """A random picture (height, width, channels) over the whole range of an integer type."""
    return np.random.default_rng(seed).integers(
        0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype, endpoint=True
    )


def write_picture(path: Path, array: np.ndarray | None = None, **settings: object) -> Path:
    """Save 8-bit pixels through Pillow, in the format of the suffix."""
    array = pixels() if array is None else array
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(path, **settings)
    return path


def write_png16(path: Path, array: np.ndarray) -> Path:
    """Save 16-bit pixels (H, W, 1 to 4) as PNG; Pillow cannot save them in colour."""
    height, width, channels = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def write_distribution(
    folder: Path,
    name: str,
    files: dict[str, str],
    entry_points: dict[str, str],
    version: str = "1.0",
) -> Path:
    """Write a distribution to `folder`: its modules and the metadata with its entry points."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(
        "[inverse]\n" + "".join(f"{key} = {value}\n" for key, value in entry_points.items())
    )
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    return folder


METHOD = '''
from dataclasses import dataclass
import inverse

@dataclass(frozen=True)
class {cls}(inverse.Method):
    """Answer mid-grey.

    Args:
        steps: iterates.
    """
    name = "{name}"
    reference = "nobody, never"
    needs = {needs}
    steps: int = 3

    def run(self, posterior, samples, generator):
        for _ in range(self.steps):
            yield 0 * inverse.standard_normal(posterior, generator)

@inverse.hookimpl
def inverse_methods():
    return [{cls}]
'''


def method_source(name: str, needs: tuple[str, ...] = ()) -> str:
    """Source of a plug-in with one method, which returns zero in model units."""
    return METHOD.format(cls=name.title().replace("-", ""), name=name, needs=needs)
