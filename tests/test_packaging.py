"""Packaging: the contents of wheel and sdist, and a third-party distribution with a method."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from cli_fixtures import process, write_picture

import inverse

pytest_plugins = "cli_fixtures"

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "examples" / "inverse-langevin-demo"
IMPORTED_AS = {
    "inverse": "inverse",
    "plugins": "inverse_plugins",
    "problems": "inverse_problems",
    "data": "inverse_data",
}
BUILD = (
    "import sys, setuptools.build_meta as backend; "
    "print(getattr(backend, 'build_' + sys.argv[1])(sys.argv[2]))"
)

needs_git = pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None,
    reason="asks git which files are part of the project",
)
needs_demo = pytest.mark.skipif(not DEMO.is_dir(), reason="the examples are not in an sdist")


def committed() -> list[str]:
    """Paths of the files that git tracks and that exist."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [path for path in listed if (ROOT / path).is_file()]


def build(kind: str, source: Path, into: Path) -> Path:
    """Build a wheel or an sdist from a folder, as `python -m build --no-isolation` does."""
    into.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD, kind, str(into)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Names in the sdist of the committed files, and in the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("build")
    for path in committed():
        (folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / "source" / path)
    sdist = build("sdist", folder / "source", folder / "dist")
    with tarfile.open(sdist) as archive:
        inside = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
        archive.extractall(folder / "unpacked", filter="data")
    wheel = build("wheel", next((folder / "unpacked").iterdir()), folder / "dist")
    return {"sdist": inside, "wheel": zipfile.ZipFile(wheel).namelist()}


def wanted() -> list[str]:
    """Committed files that must be installed: code, types marker, cards, weights and images."""
    suffixes = {".py", ".json", ".safetensors", ".png", ".md", ".typed"}
    return [
        path
        for path in committed()
        if path.split("/")[0] in IMPORTED_AS
        and Path(path).suffix in suffixes | {""}
        and ".checkpoint" not in path
    ]


@needs_git
def test_sdist_carries_everything(distributions):
    assert [
        path
        for path in [*wanted(), "LICENSE", "README.md", "pyproject.toml"]
        if path not in distributions["sdist"]
    ] == []


@needs_git
def test_wheel_built_from_the_sdist_carries_everything(distributions):
    installed = [
        f"{IMPORTED_AS[path.split('/', 1)[0]]}/{path.split('/', 1)[1]}" for path in wanted()
    ]
    assert [path for path in installed if path not in distributions["wheel"]] == []
    assert {
        "inverse/py.typed",
        "inverse_plugins/red_diff.py",
        "inverse_problems/deblur/problem.py",
        "inverse_data/images/cat.png",
    } <= set(distributions["wheel"])
    assert any(path.endswith(".dist-info/entry_points.txt") for path in distributions["wheel"])
    assert any(path.endswith("LICENSE") for path in distributions["wheel"])


@needs_git
def test_wheel_installs_nothing_else(distributions):
    tops = {path.split("/")[0] for path in distributions["wheel"]}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(IMPORTED_AS.values())


def test_this_installation_registers_the_first_party():
    values = {
        entry.value
        for entry in entry_points(group="inverse")
        if entry.dist.name == "inverse-posterior"
    }
    assert values == {"inverse.builtin", "inverse_plugins", "inverse_problems"}


# --- the third-party distribution -------------------------------------------------------------


@needs_demo
def test_demo_is_a_complete_distribution_under_sixty_lines():
    files = [path for path in DEMO.iterdir() if path.is_file()]
    assert sorted(path.name for path in files) == ["inverse_langevin_demo.py", "pyproject.toml"]
    assert sum(len(path.read_text().splitlines()) for path in files) < 60


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the demo."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(DEMO, folder / "source")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run(
        [*pip, "--target", folder / "site", folder / "source"],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


@needs_demo
def test_installed_demo_is_listed_and_runs(site, tmp_path, tiny_prior):
    listing = process("methods", PYTHONPATH=str(site))
    assert listing.code == 0, listing.err
    assert "langevin-demo" in listing.out
    picture, options = write_picture(tmp_path / "photo.png"), ("--set", "steps=3", "inner=2")
    outcome = process(
        "solve",
        "--prior",
        tiny_prior,
        "--problem",
        "denoise",
        "--method",
        "langevin-demo",
        *options,
        "--input",
        picture,
        "--out",
        tmp_path / "out",
        "--json",
        PYTHONPATH=str(site),
    )
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)
    assert (record["method"], record["nfe"], record["A"], record["A_adjoint"]) == (
        "langevin-demo",
        6,
        6,
        6,
    )


class PixelwiseGaussian(inverse.Prior):
    """Two channels; each pixel is independent with law N(mean, covariance)."""

    mean = torch.tensor([0.3, -0.2], dtype=torch.float64)[:, None]
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        noisy = self.covariance + sigma.reshape(-1)[0] ** 2 * torch.eye(2, dtype=torch.float64)
        return self.mean + self.covariance @ torch.linalg.solve(noisy, x - self.mean)


@needs_demo
def test_demo_draws_from_the_exact_posterior(monkeypatch):
    """A variance of 5 000 pixels has 2 % Monte Carlo error; the finite steps add 3 %."""
    monkeypatch.syspath_prepend(str(DEMO))
    from inverse_langevin_demo import LangevinDemo

    n, sigma_y, H = 5_000, 0.3, torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    prior = PixelwiseGaussian((2, n), sigma_min=0.02, sigma_max=10.0)
    operator = inverse.operator(lambda x: H @ x, shape=(2, n))
    posterior = inverse.Posterior(
        prior,
        operator,
        torch.ones(1, 1, n, dtype=torch.float64),
        inverse.GaussianNoise(sigma_y),
        dtype=torch.float64,
    )
    samples = inverse.solve(posterior, LangevinDemo(steps=50, inner=40)).samples[0, 0]

    C, S = prior.covariance, H @ prior.covariance @ H.T + sigma_y**2
    gain = C @ H.T / S
    mean, covariance = prior.mean + gain * (1 - H @ prior.mean), C - gain @ H @ C
    assert torch.cov(samples).sub(covariance).norm() < 0.1 * covariance.norm()
    assert (
        samples.mean(1, keepdim=True).sub(mean).abs().max()
        < 4 * (covariance.diagonal().max() / n) ** 0.5 + 0.02
    )


def test_every_package_of_the_source_is_installed():
    """A clone runs without a package that pyproject.toml forgets; an installation does not."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    places = settings["package-dir"]
    found = {
        ".".join([name, *path.parent.relative_to(ROOT / place).parts])
        for name, place in places.items()
        for path in (ROOT / place).rglob("__init__.py")
    }
    assert found == set(settings["packages"])
