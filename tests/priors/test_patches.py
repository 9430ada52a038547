"""Patch parallelism on two processes, compared with a single process.

Fresh halos give the same result. The error of stale halos falls with the step size.
"""

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
"""The rows are no multiple of the stride, so that bands are unequal and the last band is padded."""


def network() -> inverse.NetworkPrior:
    return tiny_network().double().requires_grad_(False)


def on_two_processes(work: Callable[[int], None], folder: Path) -> None:
    """Run work(rank) in a folder on two processes, with the environment of torchrun.

    The test fails after five minutes.
    """
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
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    torch.set_num_threads(1)
    os.chdir(folder)
    work(number)


def evaluate(number: int) -> None:
    """Evaluate priors on this process and write the results to a file."""
    from inverse.priors.evaluation.patches import divide_among_ranks, memory_per_rank, process_group

    results: dict[str, object] = {}
    with process_group("cpu") as (_, writes):
        results |= {"writes": writes, "memory": memory_per_rank(torch.device("cpu"))}
        prior, x, v = divide_among_ranks(network()), normal(*SHAPE), normal(*SHAPE, seed=1)
        sigma = torch.tensor(0.7).double()
        results["fresh"] = prior(x, sigma)
        leaf = x.clone().requires_grad_()
        out = prior(leaf, sigma)
        vjps = [torch.autograd.grad(out, leaf, v, retain_graph=True)[0] for _ in range(2)]
        results["vjps"] = vjps
        results["bf16"] = _bf16(divide_among_ranks(network().float()), x.float(), sigma.float())
        results["stale"] = {
            steps: _walk(divide_among_ranks(network(), "stale"), steps) for steps in (8, 32)
        }
        try:
            prior(normal(1, 3, 4, 8), sigma)
        except OptionError as error:
            results["error"] = str(error)
    torch.save(results, f"rank-{number}.pt")


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
    """x0_hat at the end of a sequence of calls, with x following sigma from 3.2 down to 0.1."""
    clean, noise = normal(*SHAPE, seed=2), normal(*SHAPE, seed=3)
    for sigma in torch.logspace(0.5, -1, steps).double():
        out = prior(clean + sigma * noise, sigma)
    return out


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The results of two processes, and their working folder."""
    folder = tmp_path_factory.mktemp("ranks")
    save_prior(tiny_network(), folder / "tiny.safetensors")
    write_picture(folder / "photo.png", pixels(24, 20))
    for work in (evaluate, solve_fresh, solve_stale):
        on_two_processes(work, folder)
    return [torch.load(folder / f"rank-{r}.pt", weights_only=True) for r in range(2)], folder


def test_fresh_halos_equal_a_single_process(ranks):
    expected = network()(normal(*SHAPE), torch.tensor(0.7).double())
    for results in ranks[0]:  # float64 rounding
        torch.testing.assert_close(results["fresh"], expected, rtol=0, atol=1e-12)


def test_gradients_cross_the_border_of_bands(ranks):
    x = normal(*SHAPE).requires_grad_()
    (expected,) = torch.autograd.grad(
        network()(x, torch.tensor(0.7).double()), x, normal(*SHAPE, seed=1)
    )
    for results in ranks[0]:
        for vjp in results["vjps"]:
            torch.testing.assert_close(vjp, expected, rtol=0, atol=1e-12)


def test_halos_are_exchanged_in_half_precision(ranks):
    """bf16 has a relative error of 2^-8, for values up to 3."""
    expected = network()(normal(*SHAPE), torch.tensor(0.7).double()).float()
    torch.testing.assert_close(ranks[0][0]["bf16"].float(), expected, rtol=0, atol=0.02)


def test_the_error_of_stale_halos_falls_with_the_step(ranks):
    """First order: four times the steps give a quarter of the error, within a factor of two.

    The error is not zero, so that halos were stale.
    """
    x = normal(*SHAPE, seed=2) + 0.1 * normal(*SHAPE, seed=3)
    expected = network()(x, torch.tensor(0.1).double())
    few, many = (
        float((ranks[0][0]["stale"][steps] - expected).norm() / expected.norm())
        for steps in (8, 32)
    )
    assert 1e-6 < many < few < 0.1
    assert 2 < few / many < 8


def test_ranks_agree_and_one_rank_writes(ranks):
    (first, second), folder = ranks
    assert torch.equal(first["fresh"], second["fresh"])
    assert (first["writes"], second["writes"]) == (True, False)
    assert 0 < first["memory"] == second["memory"]
    assert "diffpir" in (folder / "patches-0.txt").read_text()
    assert (folder / "patches-1.txt").read_text() == ""


def test_a_solve_on_two_processes_equals_that_on_one(ranks, command, monkeypatch):
    folder = ranks[1]
    monkeypatch.chdir(folder)
    options = "--problem denoise --method diffpir --steps 6 --samples 2 --prior tiny.safetensors"
    assert command("solve", *options.split(), "--input", "photo.png", "--out", "alone").code == 0
    alone, patches, stale = (
        inverse.Result.load(folder / name / "result.h5").samples
        for name in ("alone", "patches", "patches:stale")
    )
    torch.testing.assert_close(patches, alone, rtol=0, atol=1e-5)  # float32
    assert 1e-6 < float((stale - alone).abs().max()) < 0.1


def test_more_processes_than_bands_are_refused(ranks):
    assert "4 rows make 1 bands of 4, for 2 processes" in ranks[0][0]["error"]


def test_parallel_options_that_cannot_run_are_refused(solve, tmp_path):
    write_picture(tmp_path / "photo.png")
    solve("--input", "photo.png", "--parallel", "patches").refused("start it with torchrun")
    solve("--input", "photo.png", "--parallel", "tiles").refused(
        "parallel must be one of patches, patches:stale, got 'tiles'"
    )


def test_a_prior_that_is_not_a_unet_is_refused():
    from inverse.priors.evaluation.patches import divide_among_ranks

    with pytest.raises(
        OptionError,
        match="needs a float network of `inverse train` for flat images as prior, got FlatPrior",
    ):
        divide_among_ranks(inverse.FlatPrior((3, None, None)))
