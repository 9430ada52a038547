"""Every example of docs/extending.md: the file is written, and the commands below it run."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import randomise

import inverse
from inverse.priors.loading import save_prior
from inverse.priors.networks.unet import UNetConfig

pytest_plugins = "cli_fixtures"

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
SECTIONS = dict(
    re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
)
NAMES = re.compile(r"\b(plug-in-score|colourise|worst-pixel|damped-euler)\b")
"""What the examples register; tests add a suffix, since somebody may have copied an example."""
WITH_A_FILE = [title for title, text in SECTIONS.items() if "# file: " in text]


def renamed(text):
    return NAMES.sub(r"\1-tested", text)


@pytest.fixture
def small_prior(tmp_path):
    """A tiny network with random weights beside the plug-in files, as `small`."""
    config = UNetConfig(channels=3, widths=(8, 16), blocks=(1, 1), embedding=16)
    prior = randomise(inverse.NetworkPrior.unet(config, shift=0.5, scale=0.5))
    save_prior(prior, tmp_path / "small.safetensors", training={"data": "none"})


@pytest.mark.parametrize("title", WITH_A_FILE)
@pytest.mark.usefixtures("small_prior")
def test_the_example_is_the_only_file_that_is_needed(title, command, tmp_path):
    (file,) = re.findall(r"```(?:python|toml)\n# file: (\S+)\n(.*?)```", SECTIONS[title], re.DOTALL)
    (tmp_path / file[0]).write_text(renamed(file[1]))
    for block in re.findall(r"```\n(inverse .*?)```", SECTIONS[title], re.DOTALL):
        for line in block.strip().splitlines():
            outcome = command(*shlex.split(renamed(line))[1:])
            assert outcome.code == 0, outcome


def test_all_six_kinds_have_an_example():
    assert len(WITH_A_FILE) == 6


def test_a_metric_of_a_plug_in_file_has_a_column(command, tmp_path):
    (text,) = re.findall(r"# file: my_metric.py\n(.*?)```", SECTIONS["A metric"], re.DOTALL)
    (tmp_path / "my_metric.py").write_text(renamed(text))
    outcome = command(
        "solve", "--problem", "gaussian", "--method", "tikhonov", "--plugin", "my_metric.py"
    )
    assert "worst pixel" in outcome.out
