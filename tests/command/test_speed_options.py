"""What goes wrong with memory, precision, devices and noise levels, as the user of the command meets it; and folders that are read ahead."""

import threading
import time

import pytest
import torch
from cli_fixtures import METHOD, write_picture

import inverse
from inverse.command.background import read_ahead
from inverse.errors import DeviceError, OptionError
from inverse.execution import check_precision

pytest_plugins = "cli_fixtures"


def refused(solve, tmp_path, *arguments, says):
    solve(*arguments).refused(*says)
    assert not (tmp_path / "out").exists()


def test_a_precision_that_the_device_lacks(solve, tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("conv2d not implemented for 'Half'")

    check_precision.cache_clear()
    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    refused(
        solve, tmp_path, "--dtype", "fp16", says=("fp16 is not supported on cpu", "use float32")
    )


def test_memory_that_is_none(solve, tmp_path):
    refused(
        solve, tmp_path, "--memory", "-1", says=("memory must be a positive number of GiB, got -1",)
    )


def test_little_memory_says_nothing_and_solves(solve, tmp_path):
    outcome = solve(
        "--input",
        write_picture(tmp_path / "a.png"),
        "--method",
        "red-diff",
        "--steps",
        2,
        "--memory",
        "0.001",
    )
    assert (outcome.code, outcome.err) == (0, "")


def test_one_row_that_does_not_fit(solve, tmp_path, monkeypatch):
    """Said once, then refused with a size that would fit: tiles of this prior cannot be smaller than their margin."""

    def crowded(self, x, sigma):
        if x.shape[-1] * x.shape[-2] > 400:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB.")
        return x

    monkeypatch.setattr(inverse.NetworkPrior, "forward", crowded)
    picture = write_picture(tmp_path / "a.png")
    refused(
        solve,
        tmp_path,
        "--input",
        picture,
        "--method",
        "red-diff",
        "--steps",
        2,
        says=("out of memory on cpu", "10x13 pixels would fit"),
    )


@pytest.mark.parametrize(
    ("option", "range_"),
    [("sigma_max=1000", "0.002 to 1000"), ("sigma_min=0.0001", "0.0001 to 80")],
)
def test_noise_levels_beyond_those_of_the_prior(solve, tmp_path, option, range_):
    refused(
        solve,
        tmp_path,
        "--method",
        "mmps",
        "--set",
        option,
        says=(f"{range_} leave the range of the prior, 0.002 to 80", "stay within it"),
    )


def test_noise_levels_that_an_exact_prior_need_not_fear(gaussian_posterior):
    assert inverse.noise_levels(gaussian_posterior(), "karras", 5, sigma_max=1e4)[
        0
    ] == pytest.approx(1e4)


def test_a_method_that_strays_from_the_noise_levels_of_the_prior_is_noted(solve, tmp_path):
    asks = "yield posterior.denoise(inverse.standard_normal(posterior, generator), 200.0) + 0 *"
    (tmp_path / "stray.py").write_text(
        METHOD.format(cls="Stray", name="stray", needs="()").replace("yield 0 *", asks)
    )
    outcome = solve(
        "--plugin",
        tmp_path / "stray.py",
        "--method",
        "stray",
        "--input",
        write_picture(tmp_path / "a.png"),
    )
    assert outcome.code == 0
    assert (
        "stray asked the prior for noise levels from 200 to 200; "
        "the prior is made for 0.002 to 80 and guesses beyond" in outcome.out
    )


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="this torch has no class for it")
def test_a_device_that_disappears(flat_prior):
    """What torch raises after a GPU has fallen off the bus, in the second step."""

    class Lost(inverse.FlatPrior):
        def forward(self, x, sigma):
            if sigma.max() < 10:
                raise torch.AcceleratorError(
                    "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"
                )
            return x

    posterior = inverse.get_problem("denoise").posterior(
        torch.full((3, 8, 8), 0.5), prior=Lost((3, None, None))
    )
    with pytest.raises(
        DeviceError,
        match=r"cpu failed in step \d+ of diffpir \(CUDA error: unspecified launch failure\); files saved",
    ):
        inverse.solve(posterior, inverse.get_method("diffpir", steps=10))


def test_a_prior_of_other_channels_than_the_image():
    grey = inverse.FlatPrior((1, None, None))
    with pytest.raises(
        inverse.InverseError,
        match=r"the prior denoises 1 x any x any, the unknown has shape 3 x 8 x 8",
    ):
        inverse.get_problem("denoise").posterior(torch.full((3, 8, 8), 0.5), prior=grey)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_the_next_file_is_read_while_this_one_is_used():
    begun = threading.Event()

    def read(name):
        if name == "second":
            begun.set()
        return name.upper()

    files = read_ahead(read, ["first", "second"])
    assert next(files) == "FIRST"
    assert begun.wait(10)
    assert list(files) == ["SECOND"]


def test_a_file_that_cannot_be_read_stops_at_its_turn():
    def read(name):
        if name == "bad":
            raise OptionError("cannot be read")
        time.sleep(0.01)
        return name

    files = read_ahead(read, ["good", "bad", "never"])
    assert next(files) == "good"
    with pytest.raises(OptionError, match="cannot be read"):
        next(files)


# --- the limit --------------------------------------------------------------------------------------------------------


def test_bench_limit_prints_efficiencies_and_why_not(command):
    small = ("--problem", "denoise", "--size", 16, "--steps", 2, "--batch", "1,2", "--repeats", 1)
    outcome = command("bench", "limit", *small, "--methods", "red-diff,repaint,tv")
    assert outcome.code == 0
    assert "red-diff" in outcome.out
    assert "repaint needs an inpainting operator" in outcome.out
    assert "asks nothing of the prior" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--clock", "sun"), "--clock must be one of wall, cpu, got 'sun'"),
        (("--batch", "0"), "--batch takes numbers of at least 1"),
        (("--batch", "few"), "--batch takes whole numbers separated by commas, got 'few'"),
        (("--dtype", "int8"), "dtype must be one of float32"),
        (("--methods", "red-dif"), "did you mean 'red-diff'?"),
        (("--size", "1000"), "a square of 1000 pixels does not fit"),
    ],
)
def test_bench_limit_refuses(command, arguments, says):
    command("bench", "limit", *arguments).refused(says)


def test_an_efficiency_is_the_floor_over_the_time():
    """A prior that sleeps is nearly all of the time, and one that costs nothing nearly none."""
    from inverse.arena.limit import Bench, Setting

    class Slow(inverse.FlatPrior):
        def forward(self, x, sigma):
            time.sleep(0.02)
            return x

    class Free(inverse.FlatPrior):
        def forward(self, x, sigma):
            return x

    found = []
    for kind, clock in (
        (Slow, "wall"),
        (Free, "cpu"),
    ):  # sleep shows on the wall alone, and a busy machine does not show on the processor
        bench = Bench(
            inverse.get_problem("denoise"),
            prior=kind((3, None, None)),
            size=16,
            repeats=5,
            clock=clock,
        )
        (row,) = bench.efficiencies(
            [inverse.get_method("red-diff", steps=8)], Setting(1, "float32")
        )
        found.append(row.efficiency)
    assert found[0] > 0.7 > found[1]
