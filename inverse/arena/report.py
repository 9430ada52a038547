"""The report: one self-contained HTML page, a function of the records alone.

The page holds plotly.js compressed and unpacks it when the first plot comes into view: the page has
1.9 MB instead of 4.8 MB, and a reader of the table does not wait. The content security policy names
the scripts by hash and allows no connection, so that no text of a record can run or be sent.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.resources
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from inverse.arena.payload import payload, scenes
from inverse.arena.record import Record, read_records
from inverse.errors import InputError
from inverse.io.files import write_text

TEMPLATES = importlib.resources.files("inverse.arena") / "templates"


def write(records_dir: Path, out: Path) -> Path:
    """Write the page of the records of a folder; returns its path.

    Args:
        records_dir: folder of records, or a records.jsonl.
        out: an .html file, or a folder for report.html.

    Raises: InputError if there are no records, or `out` cannot be written.
    """
    from inverse.arena.gallery import gallery

    folder, out = Path(records_dir), Path(out)
    records = read_records(folder)
    folder = folder if folder.is_dir() else folder.parent
    if out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        out = out / "report.html"
    text = page(records, gallery(folder, records), os.path.relpath(folder, out.parent))
    write_text(out, text)
    return out


def page(records: Sequence[Record], pictures: Any = None, artifacts: str = ".") -> str:
    """The page as text.

    Args:
        records: at least one record.
        pictures: a `gallery.Gallery`, or None for no pictures.
        artifacts: path from the page to the folder of the records.

    Raises: InputError without records.
    """
    import jinja2

    if not records:
        raise InputError("report: no records to report on")
    script, style = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.js", "report.css")
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    template = environment.from_string((TEMPLATES / "report.html.j2").read_text(encoding="utf-8"))
    data = payload(records, artifacts)
    return template.render(
        data=data,
        pictures=scenes(pictures, [cell["cell"] for cell in data["cells"]]),
        plotly=_plotly()[0],
        script=script,
        style=style,
        hashes=[_digest(script), _plotly()[1]],
    )


@lru_cache(maxsize=1)
def _plotly() -> tuple[str, str]:
    """plotly.js compressed in base64, and the hash of the script."""
    file = importlib.resources.files("plotly") / "package_data" / "plotly.min.js"
    text = file.read_text(encoding="utf-8")
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode(), _digest(text)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
