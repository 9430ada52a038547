"""The README and the pages agree with the code, the examples and the results."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = [
    block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "hookimpl" not in block
]


@pytest.mark.parametrize("block", PYTHON, ids=["image", "operator"])
def test_readme_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_readme_shows_the_example_distribution_as_it_is():
    example = (ROOT / "examples" / "inverse-langevin-demo" / "inverse_langevin_demo.py").read_text()
    assert f"```python\n{example}```" in README
    assert len(example.splitlines()) < 60


def test_the_page_of_photographs_is_what_the_bench_wrote():
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        from photo_restoration import page
    finally:
        sys.path.pop(0)
    record = json.loads((ROOT / "results" / "photo.json").read_text())
    assert (ROOT / "docs" / "photo.md").read_text() == page(record["about"], record["records"])


def test_the_gallery_repeats_what_the_classes_say(monkeypatch):
    """An entry that the page lacks does not fail: a new file in plugins/ needs no other change."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from gallery import SECTIONS, entries

    page = (ROOT / "docs" / "gallery.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    for section in SECTIONS:
        registered = entries(section)
        listed = re.findall(r"^(?:### |- )`(.+?)`", sections[section], re.M)
        assert len(listed) > 5
        for name in listed:
            assert registered[name] in page, f"{name}: run python bench/gallery.py"


def test_links_of_the_docs_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), (
                f"{page.name}: {target}"
            )


def test_every_page_is_in_the_guide():
    guide = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in guide, page.name


def test_leaderboard_and_readme_are_what_the_records_say():
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        from front_page import table
        from leaderboard import tables
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs" / "leaderboard.md").read_text().endswith(f"{tables().rstrip()}\n")
    assert f"<!-- tables -->\n{table()}\n<!-- end -->\n" in README
