"""Memory, precision, devices, noise levels and reading ahead in the command."""

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


def test_negative_memory_is_refused(solve, tmp_path):
    refused(
        solve, tmp_path, "--memory", "-1", says=("memory must be a positive number of GiB, got -1",)
    )


def test_little_memory_gives_the_same_samples(solve, tmp_path):
    """Three samples fit only one by one; batched convolutions round differently in float64."""
    picture = write_picture(tmp_path / "a.png")
    request = ("--input", picture, "--method", "dps", "--steps", 2, "--samples", 3)
    samples = []
    for out, memory in (("little", ("--memory", "0.001")), ("free", ())):
        outcome = solve(*request, "--dtype", "float64", "--out", out, *memory)
        assert (outcome.code, outcome.err) == (0, "")
        samples.append(inverse.Result.load(f"{out}/result.h5").samples)
    torch.testing.assert_close(*samples, rtol=0, atol=1e-9)


def test_bf16_rounds_the_prior_alone(solve, tmp_path):
    """bf16 has 8 bits, so that samples move by less than a few percent but not by nothing."""
    request = ("--input", write_picture(tmp_path / "a.png"), "--method", "dps", "--steps", 2)
    assert solve(*request, "--out", "full").code == 0
    assert solve(*request, "--dtype", "bf16", "--out", "half").code == 0
    full, half = (inverse.Result.load(f"{out}/result.h5") for out in ("full", "half"))
    assert half.provenance["autocast"] == "bf16"
    assert torch.equal(full.y, half.y)
    assert 0 < (full.samples - half.samples).norm() < 0.05 * full.samples.norm()


def test_one_row_that_does_not_fit(solve, tmp_path, monkeypatch):
    """The refusal names a size that would fit; a tile cannot be smaller than its halo."""

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
def test_noise_levels_beyond_the_range_of_the_prior_are_refused(solve, tmp_path, option, range_):
    refused(
        solve,
        tmp_path,
        "--method",
        "mmps",
        "--set",
        option,
        says=(f"{range_} leave the range of the prior, 0.002 to 80", "stay within it"),
    )


def test_an_exact_prior_has_no_limit_on_noise_levels(gaussian_posterior):
    assert inverse.noise_levels(gaussian_posterior(), "karras", 5, sigma_max=1e4)[
        0
    ] == pytest.approx(1e4)


def test_a_note_reports_noise_levels_beyond_the_range_of_the_prior(solve, tmp_path):
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
def test_a_device_failure_names_the_step(flat_prior):
    """The prior raises the error of torch for a lost GPU."""

    class Lost(inverse.FlatPrior):
        def forward(self, x, sigma):
            if sigma.max() < 10:
                raise torch.AcceleratorError(
                    "CUDA error: unspecified launch failure\n"
                    "CUDA kernel errors might be asynchronously reported"
                )
            return x

    posterior = inverse.get_problem("denoise").posterior(
        torch.full((3, 8, 8), 0.5), prior=Lost((3, None, None))
    )
    with pytest.raises(
        DeviceError,
        match=r"cpu failed in step \d+ of diffpir "
        r"\(CUDA error: unspecified launch failure\); files saved",
    ):
        inverse.solve(posterior, inverse.get_method("diffpir", steps=10))


def test_a_prior_with_other_channels_than_the_image_is_refused():
    grey = inverse.FlatPrior((1, None, None))
    with pytest.raises(
        inverse.InverseError,
        match=r"the prior denoises 1 x any x any, the unknown has shape 3 x 8 x 8",
    ):
        inverse.get_problem("denoise").posterior(torch.full((3, 8, 8), 0.5), prior=grey)


# --- reading ahead ----------------------------------------------------------------------------


def test_the_next_file_is_read_while_the_caller_uses_the_current_file():
    second_started = threading.Event()

    def read(name):
        if name == "second":
            second_started.set()
        return name.upper()

    files = read_ahead(read, ["first", "second"])
    assert next(files) == "FIRST"
    assert second_started.wait(10)
    assert list(files) == ["SECOND"]


def test_an_unreadable_file_raises_when_the_caller_reaches_it():
    def read(name):
        if name == "bad":
            raise OptionError("cannot be read")
        time.sleep(0.01)
        return name

    files = read_ahead(read, ["good", "bad", "never"])
    assert next(files) == "good"
    with pytest.raises(OptionError, match="cannot be read"):
        next(files)


# --- the limit --------------------------------------------------------------------------------


def test_bench_limit_prints_efficiencies_and_why_not(command):
    small = ("--problem", "denoise", "--size", 16, "--steps", 2, "--batch", "1,2", "--repeats", 1)
    outcome = command("bench", "limit", *small, "--methods", "red-diff,repaint,tv")
    assert outcome.code == 0
    assert "red-diff" in outcome.out
    assert "repaint needs an inpainting operator" in outcome.out
    assert "does not evaluate the prior" in outcome.out


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
    """A prior that sleeps takes nearly all of the time; a free prior takes nearly none."""
    from inverse.arena.limit import Bench, Setting

    class Slow(inverse.FlatPrior):
        def forward(self, x, sigma):
            time.sleep(0.02)
            return x

    class Free(inverse.FlatPrior):
        def forward(self, x, sigma):
            return x

    efficiencies = []
    # sleep counts on the wall clock alone; a busy machine does not count on the processor's
    for prior_class, clock in ((Slow, "wall"), (Free, "cpu")):
        bench = Bench(
            inverse.get_problem("denoise"),
            prior=prior_class((3, None, None)),
            size=16,
            repeats=5,
            clock=clock,
        )
        (row,) = bench.efficiencies(
            [inverse.get_method("red-diff", steps=8)], Setting(1, "float32")
        )
        efficiencies.append(row.efficiency)
    assert efficiencies[0] > 0.7 > efficiencies[1]
