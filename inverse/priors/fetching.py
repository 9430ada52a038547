"""The download of a public checkpoint: continued when it breaks, pinned by its hash, converted.

    fetch(find("drunet"), fetched_folder())    # writes drunet.safetensors and its card drunet.json

The first fetch records the hash of the file in `HASHES`; another hash is refused later. A
fetched prior is registered by its name and needs no network.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inverse.errors import InverseError, PriorError
from inverse.io.files import atomic_write, check_writable
from inverse.priors.cards import sha256
from inverse.priors.catalogue import Checkpoint
from inverse.priors.networks.convert import ForeignWeights, convert

HASHES = "hashes.txt"
"""Pinned hashes of downloads, in the folder of fetched priors: "sha256  name" on each line."""
TRIES = 4
"""Connections to open for a file before a fetch gives up; each continues the one before."""
CHUNK = 1 << 20


def fetch(
    checkpoint: Checkpoint, folder: Path, report: Callable[[int, int | None], None] | None = None
) -> Path:
    """Download a checkpoint unless it is there, convert it, and write its card.

    Args:
        folder: see `fetched_folder`.
        report: called with the bytes on disk and the size of the file, if known.

    Returns: the path of the prior's .safetensors file.
    Raises: PriorError if the address cannot be reached, the connection breaks, the hash is not the
        pinned one, or the file is not of the stated architecture.
    """
    out = folder / f"{checkpoint.name}.safetensors"
    if out.is_file() and out.with_suffix(".json").is_file():
        return out
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    suffix = "".join(Path(checkpoint.address.partition("?")[0]).suffixes[-1:]) or ".pt"
    path = folder / f".{checkpoint.name}.download{suffix}"
    download(checkpoint.address, path, checkpoint.name, report)
    digest = _pinned(checkpoint, path, folder)
    try:
        _convert(checkpoint, path, out, digest)
    finally:
        path.unlink()
    _pin(checkpoint.name, digest, folder)
    return out


def download(
    address: str,
    path: Path,
    name: str,
    report: Callable[[int, int | None], None] | None = None,
) -> None:
    """Download a file to `path`; a part of it that is there is continued.

    Raises: PriorError if the address cannot be reached or the connection breaks `TRIES` times.
    """
    if not address.startswith(("https://", "http://")):
        raise PriorError(f"fetch {name}: an address begins with https:// or http://, got {address}")
    reason: object = ""
    for _ in range(TRIES):
        try:
            if _continue(address, path, report):
                return
            reason = "the connection was closed early"
        except urllib.error.HTTPError as error:
            raise PriorError(
                f"fetch {name}: {address} answers {error.code} ({error.reason})"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
    have = path.stat().st_size if path.is_file() else 0
    if not have:
        raise PriorError(
            f"fetch {name}: {address} cannot be reached ({reason}); a fetched prior works without "
            "network, fetching does not"
        )
    raise PriorError(
        f"fetch {name}: the connection broke after {have} bytes ({reason}); run the same command "
        "again to continue"
    )


def _continue(address: str, path: Path, report: Callable[[int, int | None], None] | None) -> bool:
    """Download what is missing; whether the file is then complete, as far as the server tells."""
    have = path.stat().st_size if path.is_file() else 0
    request = urllib.request.Request(address, headers={"User-Agent": "inverse"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left of it, or it became shorter: its hash decides
            return True
        raise
    with answer:
        length = answer.headers.get("Content-Length")
        have = have if answer.status == 206 else 0
        total = have + int(length) if length is not None else None
        with path.open("ab" if have else "wb") as file:
            while block := answer.read(CHUNK):
                file.write(block)
                have += len(block)
                if report:
                    report(have, total)
    return total is None or have >= total


def pinned_hashes(folder: Path) -> dict[str, str]:
    """The pinned hashes of a folder by name."""
    path = folder / HASHES
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _pinned(checkpoint: Checkpoint, path: Path, folder: Path) -> str:
    """The hash of a download, checked against the pinned one.

    Raises: PriorError if they differ; the download is then removed.
    """
    digest, pins = sha256(path), pinned_hashes(folder)
    pinned = checkpoint.sha256 or pins.get(checkpoint.name)
    if pinned in (None, digest):
        return digest
    path.unlink()
    where = "the catalogue says" if checkpoint.sha256 else f"{folder / HASHES} has"
    raise PriorError(
        f"fetch {checkpoint.name}: the file at {checkpoint.address} changed: its sha256 is "
        f"{digest[:12]}..., {where} {pinned[:12] if pinned else ''}...; nothing was installed"
    )


def _pin(name: str, digest: str, folder: Path) -> None:
    pins = pinned_hashes(folder) | {name: digest}
    with atomic_write(folder / HASHES) as temporary:
        temporary.write_text("".join(f"{pins[name]}  {name}\n" for name in sorted(pins)))


def _convert(checkpoint: Checkpoint, path: Path, out: Path, digest: str) -> None:
    """Write the prior and its card from a download.

    Raises: PriorError if the file is not of the architecture that the catalogue states.
    """
    described: dict[str, Any] = {"network": None, "scheduler": None}
    parts: list[Path] = []
    if checkpoint.network:
        for part in described:
            parts.append(out.with_name(f".{checkpoint.name}.{part}.json"))
            download(getattr(checkpoint, part), parts[-1], checkpoint.name)
            described[part] = parts[-1]
    else:
        options = {"architecture": checkpoint.architecture, **(checkpoint.options or {})}
        described["network"] = json.dumps(options)
    source = {"address": checkpoint.address, "sha256": digest, "data": checkpoint.contents}
    description = {"training": source, "licence": checkpoint.licence, "limits": ""}
    try:
        convert(ForeignWeights(path, **described), out, description)
    except InverseError as error:
        raise PriorError(f"fetch {checkpoint.name}: {error}") from error
    finally:
        for part_path in parts:
            part_path.unlink(missing_ok=True)
