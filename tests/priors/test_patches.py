"""One image on two processes: what each computes is what one alone would, with fresh halos; with stale ones it comes near as steps get small."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from cli_fixtures import pixels, tiny_network, write_picture
from conftest import normal

import inverse
from inverse.errors import OptionError
from inverse.priors.loading import save_prior

pytest_plugins = "cli_fixtures"
pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed")

SHAPE = (2, 3, 22, 17)
"""Rows that are no multiple of the stride, so that bands are unequal and the last one is padded."""


def network() -> inverse.NetworkPrior:
    return tiny_network().double().requires_grad_(False)


def on_two_processes(work: Callable[[int], None], folder: Path) -> None:
    """work(rank) in the folder on two processes that find each other as those of a torchrun do, within five minutes."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = torch.multiprocessing.spawn(
        _rank, args=(work, store.port, str(folder)), nprocs=2, join=False
    )
    end = time.monotonic() + 300
    while not processes.join(timeout=1):
        if time.monotonic() > end:
            for process in processes.processes:
                process.kill()
            pytest.fail(f"{work.__name__} still ran on two processes after five minutes")


def _rank(number: int, work: Callable[[int], None], port: int, folder: str) -> None:
    where = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    os.environ |= where | {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    torch.set_num_threads(1)
    os.chdir(folder)
    work(number)


def evaluate(number: int) -> None:
    """What one process finds of evaluations; it goes to a file."""
    from inverse.priors.evaluation.patches import divide_among_ranks, memory_per_rank, process_group

    found: dict[str, object] = {}
    with process_group("cpu") as (place, first):
        found |= {"place": place, "first": first, "memory": memory_per_rank(torch.device("cpu"))}
        prior, x, v, sigma = (
            divide_among_ranks(network()),
            normal(*SHAPE),
            normal(*SHAPE, seed=1),
            torch.tensor(0.7).double(),
        )
        found["fresh"] = prior(x, sigma)
        leaf = x.clone().requires_grad_()
        out = prior(leaf, sigma)
        found["vjps"] = [torch.autograd.grad(out, leaf, v, retain_graph=True)[0] for _ in range(2)]
        found["bf16"] = _bf16(divide_among_ranks(network().float()), x.float(), sigma.float())
        found["stale"] = {
            steps: _walk(divide_among_ranks(network(), "stale"), steps) for steps in (8, 32)
        }
        try:
            prior(normal(1, 3, 4, 8), sigma)
        except OptionError as error:
            found["small"] = str(error)
    torch.save(found, f"rank-{number}.pt")


def solve_fresh(number: int) -> None:
    _solve("patches", number)


def solve_stale(number: int) -> None:
    _solve("patches:stale", number)


def _solve(mode: str, number: int) -> None:
    from inverse.command.request import Request
    from inverse.command.solve import run

    request = {
        "problem": "denoise",
        "method": "diffpir",
        "steps": 6,
        "input": [Path("photo.png")],
        "prior": "tiny.safetensors",
    }
    with Path(f"{mode}-{number}.txt").open("w") as printed, redirect_stdout(printed):
        run(Request(**request, parallel=mode, out=Path(mode), samples=2))


def _bf16(prior, x, sigma):
    with torch.autocast("cpu", torch.bfloat16):
        return prior(x, sigma)


def _walk(prior, steps):
    """x0_hat after a walk from noise to a tenth of it, x moving with sigma."""
    clean, noise = normal(*SHAPE, seed=2), normal(*SHAPE, seed=3)
    for sigma in torch.logspace(0.5, -1, steps).double():
        out = prior(clean + sigma * noise, sigma)
    return out


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The findings of two processes, and the folder that they worked in."""
    folder = tmp_path_factory.mktemp("ranks")
    save_prior(tiny_network(), folder / "tiny.safetensors")
    write_picture(folder / "photo.png", pixels(24, 20))
    for work in (evaluate, solve_fresh, solve_stale):
        on_two_processes(work, folder)
    return [torch.load(folder / f"rank-{r}.pt", weights_only=True) for r in range(2)], folder


def test_fresh_halos_give_what_one_process_gives(ranks):
    expected = network()(normal(*SHAPE), torch.tensor(0.7).double())
    for found in ranks[0]:
        torch.testing.assert_close(found["fresh"], expected, rtol=0, atol=1e-12)  # float64 rounding


def test_gradients_cross_the_border_of_bands(ranks):
    x = normal(*SHAPE).requires_grad_()
    (expected,) = torch.autograd.grad(
        network()(x, torch.tensor(0.7).double()), x, normal(*SHAPE, seed=1)
    )
    for found in ranks[0]:
        for vjp in found["vjps"]:
            torch.testing.assert_close(vjp, expected, rtol=0, atol=1e-12)


def test_halos_travel_in_half_precision(ranks):
    expected = network()(normal(*SHAPE), torch.tensor(0.7).double()).float()
    torch.testing.assert_close(
        ranks[0][0]["bf16"].float(), expected, rtol=0, atol=0.02
    )  # 2^-8 of values up to 3


def test_the_error_of_stale_halos_falls_with_the_step(ranks):
    """First order: with four times the steps, a quarter of the error, up to a factor of two; and it is not zero, or nothing was stale."""
    expected = network()(
        normal(*SHAPE, seed=2) + 0.1 * normal(*SHAPE, seed=3), torch.tensor(0.1).double()
    )
    few, many = (
        float((ranks[0][0]["stale"][steps] - expected).norm() / expected.norm())
        for steps in (8, 32)
    )
    assert 1e-6 < many < few < 0.1
    assert 2 < few / many < 8


def test_all_ranks_agree_and_one_of_them_writes(ranks):
    (first, second), folder = ranks
    assert torch.equal(first["fresh"], second["fresh"])
    assert (first["first"], second["first"]) == (True, False)
    assert 0 < first["memory"] == second["memory"]
    assert "diffpir" in (folder / "patches-0.txt").read_text()
    assert (folder / "patches-1.txt").read_text() == ""


def test_a_solve_on_two_processes_is_that_on_one(ranks, command, monkeypatch):
    folder = ranks[1]
    monkeypatch.chdir(folder)
    arguments = (
        "--problem",
        "denoise",
        "--method",
        "diffpir",
        "--steps",
        6,
        "--input",
        "photo.png",
        "--prior",
        "tiny.safetensors",
        "--samples",
        2,
    )
    assert command("solve", *arguments, "--out", "alone").code == 0
    alone, patches, stale = (
        inverse.Result.load(folder / name / "result.h5").samples
        for name in ("alone", "patches", "patches:stale")
    )
    torch.testing.assert_close(patches, alone, rtol=0, atol=1e-5)  # float32
    assert 1e-6 < float((stale - alone).abs().max()) < 0.1


def test_more_processes_than_bands_are_refused(ranks):
    assert "4 rows make 1 bands of 4, for 2 processes" in ranks[0][0]["small"]


def test_what_cannot_be_divided_is_refused_in_a_line(solve, tmp_path):
    write_picture(tmp_path / "photo.png")
    solve("--input", "photo.png", "--parallel", "patches").refused("start it with torchrun")
    solve("--input", "photo.png", "--parallel", "tiles").refused(
        "parallel must be one of patches, patches:stale, got 'tiles'"
    )


def test_a_prior_that_is_no_network_of_ours_is_refused():
    from inverse.priors.evaluation.patches import divide_among_ranks

    with pytest.raises(
        OptionError,
        match=r"needs a prior that is a float network of `inverse train` on the plane; FlatPrior is none",
    ):
        divide_among_ranks(inverse.FlatPrior((3, None, None)))
