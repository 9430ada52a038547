"""Text tables as spreadsheets and archives write them: encoding, separator and decimal sign."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inverse.errors import InputError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
EMPTY = ("", "nan", "na", "n/a", "null", "none", "-", "--", "m", "missing")
EUROPEAN = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(.*)")
OFFSET = re.compile(r"(.*\d{2}:?\d{2}(?::\d{2}(?:\.\d+)?)?)\s*([+-])(\d{2}):?(\d{2})")


@dataclass(frozen=True)
class Table:
    """The cells of a table.

    Args:
        names: headings, stripped.
        rows: heading -> cell of each line; a cell that a line lacks is empty.
        separator: of the cells.
        decimal_comma: whether numbers have a decimal comma.
    """

    names: list[str]
    rows: list[dict[str, str]]
    separator: str
    decimal_comma: bool

    @property
    def separator_name(self) -> str:
        """The separator in words."""
        return SEPARATORS[self.separator]

    def column(self, names: tuple[str, ...]) -> str | None:
        """The heading that is one of these names in any case, the earliest name first; or None."""
        lower = {name.lower().replace(" ", "_"): name for name in self.names}
        return next((lower[name] for name in names if name in lower), None)

    def number(self, text: str, where: str) -> float:
        """The number of a cell, NaN if it is empty. Raises: InputError if it is not a number."""
        return number_of(text.replace(",", ".") if self.decimal_comma else text, where)


def read_table(path: Path) -> Table:
    """A table with a line of headings.

    Its encoding is UTF-8, or UTF-16 with a byte order mark, or else Windows-1252; its separator is
    the comma, semicolon, tab or bar that the headings hold most; numbers have a decimal comma if
    the separator is another one and a cell looks like that. A gzip file is decompressed.

    Raises: InputError if the file is missing, no text, or has no headings.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a readable table ({error})") from error
    text = _decoded(data)
    if "\0" in text:
        raise InputError(
            f"{path}: expected stations as a table, points as NetCDF, or soundings in IGRA format "
            "or as a table; found binary data"
        )
    heading = text.lstrip().split("\n", 1)[0]
    separator = max(SEPARATORS, key=heading.count)
    try:
        cells = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(row)]
    except csv.Error as error:
        raise InputError(f"{path}: not a readable table ({error})") from error
    names = [name.strip() for name in cells[0]] if cells else []
    lines = [row + [""] * (len(names) - len(row)) for row in cells[1:]]
    comma = separator != "," and any(DECIMAL_COMMA.fullmatch(c) for row in lines for c in row)
    rows = [dict(zip(names, row, strict=False)) for row in lines]
    return Table(names, rows, separator, comma)


def number_of(text: str | None, where: str) -> float:
    """The number of a cell, NaN if it is empty. Raises: InputError if it is not a number."""
    if text is None or text.strip().lower() in EMPTY:
        return float("nan")
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{where}: expected a number, found '{text}'") from error


def time_of(text: str | None, where: str) -> np.datetime64:
    """A time, UTC unless it states an offset; not-a-time for an empty cell.

    ISO 8601 with "T" or a space, with hyphens or slashes, and day.month.year are understood.

    Raises: InputError for any other text.
    """
    stated = (text or "").strip()
    plain = re.sub(r"\s*(Z|UTC|GMT)$", "", stated, flags=re.IGNORECASE)
    if plain.lower() in EMPTY:
        return np.datetime64("NaT", "m")
    shift = np.timedelta64(0, "m")
    if match := OFFSET.fullmatch(plain):
        plain, sign, hours, minutes = match.groups()
        shift = np.timedelta64((-1 if sign == "-" else 1) * (60 * int(hours) + int(minutes)), "m")
    if match := EUROPEAN.fullmatch(plain):
        day, month, year, rest = match.groups()
        plain = f"{year}-{int(month):02d}-{int(day):02d}{rest}"
    plain = re.sub(r"^(\d{4})/(\d{2})/(\d{2})", r"\1-\2-\3", plain)
    try:
        return np.datetime64(plain, "m") - shift
    except ValueError as error:
        raise InputError(
            f"{where}: expected a time such as 2019-03-25T12:00, found '{stated}'"
        ) from error


def _decoded(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")
