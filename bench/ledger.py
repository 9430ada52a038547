"""Results of finished runs, kept in a file so that an interrupted benchmark continues."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


class Ledger:
    """Results by key. Each is appended to the file as soon as it is known.

    Args:
        path: file of JSON lines, compressed if it ends in .gz; None keeps the results in memory.
    """

    def __init__(self, path: str | None):
        self.path, self.known = path, {}
        if path and Path(path).exists():
            with _open(path, "rt") as file:
                self.known = {line["key"]: line["value"] for line in map(json.loads, file)}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The result of a key, computed if the ledger does not have it."""
        if key not in self.known:
            self.known[key] = compute()
            if self.path:
                with _open(self.path, "at") as file:
                    file.write(json.dumps({"key": key, "value": self.known[key]}) + "\n")
        return self.known[key]


def _open(path: str, mode: str) -> IO[str]:
    return gzip.open(path, mode) if path.endswith(".gz") else open(path, mode)
