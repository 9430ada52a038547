"""The catalogue of public checkpoints, and fetching from a server of this machine."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import normal

from inverse.priors.cards import sha256
from inverse.priors.catalogue import read_catalogue
from inverse.priors.fetching import HASHES
from inverse.priors.foreign.denoisers import DRUNet
from inverse.priors.foreign.recognition import architectures
from inverse.priors.loading import PriorCard, cards, load_prior

pytest_plugins = "cli_fixtures"


class Server:
    """Files over HTTP with ranges; `cut` ends each answer after so many bytes."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                server.ranges.append(asked)
                data = server.files.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                first = int(re.findall(r"\d+", asked)[0]) if asked else 0
                if first >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(len(data) - first))
                self.end_headers()
                last = None if server.cut is None else first + server.cut
                self.wfile.write(data[first:last])

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    folder = tmp_path / "shelf"
    monkeypatch.setenv("INVERSE_PRIORS", str(folder))
    return folder


@pytest.fixture
def offered(server, tmp_path) -> Path:
    """A catalogue with one small DRUNet on the server."""
    torch.manual_seed(0)
    torch.save(DRUNet(3, (8, 8, 8, 8), 1).network().state_dict(), tmp_path / "weights.pth")
    server.files["/weights.pth"] = (tmp_path / "weights.pth").read_bytes()
    return entry(tmp_path, server.address + "/weights.pth")


def entry(folder: Path, address: str, **more: str) -> Path:
    fields = {
        "address": address,
        "architecture": "drunet",
        "contents": "nothing",
        "licence": "CC0",
        **more,
    }
    path = folder / "catalogue.toml"
    path.write_text("[small]\n" + "".join(f'{k} = "{v}"\n' for k, v in fields.items()))
    return path


def test_the_shipped_catalogue_names_known_architectures_and_new_priors():
    entries = read_catalogue()
    assert {e.architecture for e in entries.values()} <= {*architectures(), "diffusers"}
    assert not set(entries) & set(cards())
    for checkpoint in entries.values():
        assert checkpoint.address.startswith("https://")
        assert checkpoint.licence
        assert bool(checkpoint.network) == (checkpoint.architecture == "diffusers")


def test_the_catalogue_is_printed_without_network(command, shelf):
    out = command("prior", "catalogue").out
    assert "ffhq-256" in out
    assert "guided-diffusion" in out
    listed = json.loads(command("prior", "catalogue", "--json").out)
    assert {"name", "address", "architecture", "licence", "megabytes", "fetched"} <= set(listed[0])


def test_a_fetched_prior_has_a_card_and_works_offline(command, server, shelf, offered, tmp_path):
    outcome = command("prior", "fetch", "small", "--catalogue", offered)
    assert outcome.code == 0, outcome.err
    assert "licence: CC0" in outcome.err
    card = PriorCard.read(shelf / "small.json")
    digest = sha256(tmp_path / "weights.pth")
    assert (card.licence, card.training["sha256"]) == ("CC0", digest)
    assert (shelf / HASHES).read_text() == f"{digest}  small\n"
    assert sorted(p.name for p in shelf.iterdir()) == [HASHES, "small.json", "small.safetensors"]
    server.close()
    x, sigma = normal(1, 3, 32, 32).float(), torch.tensor(0.2)
    torch.testing.assert_close(
        load_prior("small")(x, sigma), load_prior(tmp_path / "weights.pth")(x, sigma)
    )
    assert command("prior", "fetch", "small", "--catalogue", offered).code == 0


def test_a_broken_download_is_continued(command, server, shelf, offered):
    server.cut = len(server.files["/weights.pth"]) // 6 + 1
    command("prior", "fetch", "small", "--catalogue", offered)
    part = shelf / ".small.download.pth"
    assert part.stat().st_size == 4 * server.cut  # four connections
    broken = command("prior", "fetch", "small", "--catalogue", offered)
    assert broken.code == 0, broken.err
    assert server.ranges[0] is None
    assert server.ranges[-1] == f"bytes={5 * server.cut}-"
    assert not part.exists()


def test_a_download_that_breaks_says_how_to_continue(command, server, shelf, offered):
    server.cut = 10
    outcome = command("prior", "fetch", "small", "--catalogue", offered)
    assert outcome.code == 2
    assert "broke after 40 bytes" in outcome.err.splitlines()[-1]
    assert "again to continue" in outcome.err.splitlines()[-1]


def test_no_network_is_one_line(command, server, shelf, offered):
    server.close()
    outcome = command("prior", "fetch", "small", "--catalogue", offered)
    assert outcome.code == 2
    assert "cannot be reached" in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err


def test_a_hash_that_changed_is_one_line(command, server, shelf, offered, tmp_path):
    assert command("prior", "fetch", "small", "--catalogue", offered).code == 0
    (shelf / "small.safetensors").unlink()
    pinned = (shelf / HASHES).read_text()
    server.files["/weights.pth"] += b"more"
    outcome = command("prior", "fetch", "small", "--catalogue", offered)
    assert outcome.code == 2
    line = outcome.err.splitlines()[-1]
    assert "changed" in line
    assert pinned[:12] in line
    assert not (shelf / "small.safetensors").exists()
    stated = entry(tmp_path, server.address + "/weights.pth", sha256="ab" * 32)
    (shelf / HASHES).unlink()
    outcome = command("prior", "fetch", "small", "--catalogue", stated)
    assert "the catalogue says abababababab" in outcome.err.splitlines()[-1]


def test_a_file_of_another_architecture_is_one_line(command, server, shelf, tmp_path, offered):
    other = entry(tmp_path, server.address + "/weights.pth", architecture="scunet")
    outcome = command("prior", "fetch", "small", "--catalogue", other)
    assert outcome.code == 2
    assert "fetch small: " in outcome.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smal", "did you mean 'small'?"),
        ("small", "answers 404"),
    ],
)
def test_unknown_names_and_missing_files(command, server, shelf, offered, name, words):
    server.files.clear()
    outcome = command("prior", "fetch", name, "--catalogue", offered)
    assert outcome.code == 2
    assert words in outcome.err.splitlines()[-1]


def test_a_catalogue_name_is_not_downloaded_by_a_solve(solve, shelf):
    solve("--prior", "ffhq-256").refused("374 MB", "`inverse prior fetch ffhq-256` downloads it")


@pytest.mark.parametrize(
    "text", ["[small]\naddress = 3", "small", '[small]\naddress = "a"\nfoo = 1']
)
def test_a_bad_catalogue_is_one_line(command, shelf, tmp_path, text):
    (tmp_path / "c.toml").write_text(text)
    command("prior", "catalogue", "--catalogue", "c.toml").refused("catalogue c.toml: not readable")
