"""A note in the metadata of a PNG file, e.g. that its content is synthetic."""

from __future__ import annotations

from pathlib import Path

from inverse.io.files import atomic_write

KEY = "Comment"
SYNTHETIC = "synthetic: "
"""What a note begins with if the picture, or what a mask hides, was never measured."""


def write_note(path: Path, note: str) -> None:
    """Put a note into the metadata of a PNG file; its pixels do not change."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text(KEY, note)
    with Image.open(path) as image:
        image.load()
        with atomic_write(path) as temporary:
            image.save(temporary, format="PNG", pnginfo=text)


def read_note(path: Path) -> str:
    """The note of a picture; empty without one, or for another file."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return str(image.info.get(KEY, ""))
    except (OSError, ValueError, SyntaxError):
        return ""
