"""A torchvision of another build than torch can be imported once inverse is."""

import subprocess
import sys
import textwrap

import pytest

UNFIT = """
import torch
torch.library.register_fake("torchvision::nms")(lambda boxes, scores, threshold: boxes)
value = 1
"""


def run(code: str, folder) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )


@pytest.fixture
def folder(tmp_path):
    """A folder from which `import torchvision` finds a package that fails beside this torch."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(UNFIT)
    return tmp_path


def test_alone_it_fails(folder):
    assert "torchvision::nms does not exist" in run("import torchvision", folder).stderr


def test_after_inverse_it_works(folder):
    done = run("import inverse, torchvision; print(torchvision.value)", folder)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_its_other_errors_are_its_own(folder):
    (folder / "torchvision" / "__init__.py").write_text("raise RuntimeError('of another kind')")
    done = run("import inverse, torchvision", folder)
    assert "RuntimeError: of another kind" in done.stderr


def test_deepinv_is_imported_after_inverse_in_one_process(tmp_path):
    done = run("import inverse, deepinv; print(deepinv.physics is inverse.physics)", tmp_path)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
