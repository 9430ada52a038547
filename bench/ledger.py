"""Results of finished runs, kept in a file so that an interrupted benchmark continues."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Ledger:
    """Results by key. Each is appended to the file as soon as it is known.

    Args:
        path: file of JSON lines; None keeps the results in memory.
    """

    def __init__(self, path: str | None):
        self.path, self.known = path, {}
        if path and Path(path).exists():
            lines = map(json.loads, Path(path).read_text().splitlines())
            self.known = {line["key"]: line["value"] for line in lines}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The result of a key, computed if the ledger does not have it."""
        if key not in self.known:
            self.known[key] = compute()
            if self.path:
                with open(self.path, "a") as file:
                    file.write(json.dumps({"key": key, "value": self.known[key]}) + "\n")
        return self.known[key]
