"""Evaluations of a prior: memory, half precision, compilation, gradients, and reads by the host."""

import copy
import warnings

import pytest
import torch
from conftest import host_reads, normal, problems
from torch.utils._python_dispatch import TorchDispatchMode

import inverse
from inverse.errors import ExecutionWarning, MemoryLimitError, OptionError, is_out_of_memory
from inverse.execution import Execution, check_precision
from inverse.memory import free_memory
from inverse.priors.evaluation.evaluator import evaluator
from inverse.priors.evaluation.memory import bytes_needed, peak_bytes
from inverse.rows import like

CPU = torch.device("cpu")
CLOSE = {"rtol": 0, "atol": 2e-6}
"""The order of float32 sums depends on the batch and the tile."""


class Crowded(inverse.Prior):
    """Halves its input, and runs out of memory above `limit` pixels in a call.

    A square in the formula makes the VJP need a graph.
    """

    def __init__(self, limit, halo=None, shape=(3, None, None)):
        super().__init__(shape)
        self.limit, self.halo, self.calls = limit, halo, []

    def forward(self, x, sigma):
        self.calls.append(x.shape[0] * x.shape[-2] * x.shape[-1])
        if self.calls[-1] > self.limit:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {self.calls[-1]} things."
            )
        return x / 2 + 0 * x.square() * like(sigma, x)


# --- memory that runs out ---


@pytest.mark.parametrize("gradient", [False, True])
def test_out_of_memory_halves_the_batch_with_one_warning(gradient):
    prior, x = Crowded(3 * 64), normal(8, 3, 8, 8)

    def call():
        run = evaluator(prior, Execution())
        return run.tweedie(x, 0.5)[1](x) if gradient else run.denoise(x, 0.5)

    message = "out of memory on cpu with 512 pixels in one call of the prior: continuing with 256"
    with pytest.warns(ExecutionWarning, match=message) as caught:
        assert torch.equal(call(), x / 2)
    assert len(caught) == 1
    prior.calls.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call()  # the prior remembers the limit for the next image
    assert max(prior.calls) <= 3 * 64


def test_out_of_memory_in_the_backward_pass_halves_the_batch():
    """The forward fits into memory and the VJP does not."""

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x / 2

        @staticmethod
        def backward(ctx, v):
            if len(v) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return v / 2

    class Steep(inverse.Prior):
        def forward(self, x, sigma):
            return Backward.apply(x)

    x, v = normal(5, 3, 8, 8), normal(5, 3, 8, 8, seed=1)
    x0_hat, vjp = evaluator(Steep((3, None, None)), Execution()).tweedie(x, 0.5)
    assert torch.equal(x0_hat, x / 2)
    with pytest.warns(ExecutionWarning, match="out of memory"):
        assert torch.equal(vjp(v), v / 2)
    assert torch.equal(vjp(v), v / 2)


def test_a_local_prior_is_tiled_when_one_row_does_not_fit():
    prior, x = Crowded(40 * 40, halo=4), normal(1, 3, 64, 64)
    with pytest.warns(ExecutionWarning, match="out of memory"):
        assert torch.equal(evaluator(prior, Execution()).denoise(x, 0.5), x / 2)


def test_the_error_names_a_size_that_fits_when_one_row_does_not():
    with (
        pytest.warns(ExecutionWarning),
        pytest.raises(MemoryLimitError, match=r"one row of 3x64x96 .*; 16x24 pixels would fit"),
    ):
        evaluator(Crowded(400), Execution()).denoise(normal(2, 3, 64, 96), 0.5)


def test_a_prior_of_a_fixed_size_that_does_not_fit_is_an_error():
    with pytest.raises(MemoryLimitError, match="this prior has no smaller size that fits"):
        evaluator(Crowded(8, shape=(3, 8, 8)), Execution()).denoise(normal(1, 3, 8, 8), 0.5)


def test_other_errors_are_not_taken_for_out_of_memory():
    class Broken(inverse.Prior):
        def forward(self, x, sigma):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        evaluator(Broken((3, None, None)), Execution()).denoise(normal(1, 3, 8, 8), 0.5)


def test_an_allocation_failure_on_the_cpu_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


# --- memory that is measured ---


def test_peak_memory_counts_the_tensors_alive_at_the_same_time():
    """Four rows of a thousand doubles: first sum and product, then the sum alone."""
    x = torch.zeros(4, 1000, dtype=torch.float64)
    assert peak_bytes(lambda: (x + 1) * 2) == 2 * 32000
    assert peak_bytes(lambda: (x + 1).mul_(2).view(-1)) == 32000


def test_bytes_needed_grow_with_the_pixels_and_with_a_graph(network_prior):
    """The measured line through 64 and 128 columns holds at 192 by 128."""
    x, level = torch.zeros(1, 3, 192, 128), torch.ones(1)
    with torch.no_grad():
        fixed, per_pixel = bytes_needed(network_prior, x, level, False)
        expected = fixed + per_pixel * 192 * 128
        assert peak_bytes(lambda: network_prior(x, level)) == pytest.approx(expected, rel=0.02)
        assert bytes_needed(network_prior, x, level, True)[1] > 2 * per_pixel


def test_the_memory_limit_is_respected(network_prior):
    """A quarter of the batch's memory, without and with a graph, plus inputs and outputs."""
    x = torch.zeros(8, 3, 64, 64)
    whole = peak_bytes(lambda: evaluator(network_prior, Execution()).denoise(x, 0.5))
    limited = evaluator(network_prior, Execution(memory=whole / 4 / 2**30))
    assert peak_bytes(lambda: limited.denoise(x, 0.5)) < whole / 4 + 3 * x.nbytes
    graph = peak_bytes(lambda: evaluator(network_prior, Execution()).tweedie(x, 0.5)[1](x))
    small = evaluator(network_prior, Execution(memory=graph / 4 / 2**30))
    assert peak_bytes(lambda: small.tweedie(x, 0.5)[1](x)) < graph / 4 + 6 * x.nbytes


def test_the_memory_limit_does_not_change_the_answer(network_prior):
    x, v = normal(5, 3, 64, 64).float(), normal(5, 3, 64, 64, seed=1).float()
    free = evaluator(network_prior, Execution())
    limited = evaluator(network_prior, Execution(memory=0.003))
    torch.testing.assert_close(limited.denoise(x, 0.5), free.denoise(x, 0.5), **CLOSE)
    torch.testing.assert_close(limited.tweedie(x, 0.5)[1](v), free.tweedie(x, 0.5)[1](v), **CLOSE)


def test_a_memory_limit_below_the_smallest_call_is_refused(network_prior):
    message = (
        r"memory: 1e-05 GiB are too little for this prior, "
        r"whose smallest call takes .* GiB; allow"
    )
    with pytest.raises(MemoryLimitError, match=message):
        evaluator(network_prior, Execution(memory=1e-5)).denoise(torch.zeros(1, 3, 64, 64), 0.5)


def test_free_memory_of_the_host_is_known_on_linux():
    free = free_memory(CPU)
    assert free is None or 0 < free < 2**50


# --- gradients ---


@pytest.mark.parametrize("trainable", [False, True])
def test_no_gradient_of_a_weight_is_computed(network_prior, trainable):
    """Also for a network with trainable weights."""
    prior, masks = copy.deepcopy(network_prior).requires_grad_(trainable), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution_backward.default:
                masks.append(args[-1])
            return func(*args, **(kwargs or {}))

    x = torch.zeros(1, 3, 16, 16)
    with Watch():
        evaluator(prior, Execution()).tweedie(x, 0.5)[1](x)
    assert masks
    assert all(mask == [True, False, False] for mask in masks)
    assert all(weight.grad is None for weight in prior.parameters())


# --- precision ---


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_half_precision_keeps_the_state_in_float32(network_prior, half):
    """With 8 bits (bf16) or 11 (fp16), the network's term has an error of a few parts in 1000."""
    x = normal(2, 3, 16, 16).float()
    x0_hat, vjp = evaluator(network_prior, Execution(autocast=half)).tweedie(x, 0.5)
    full, full_vjp = evaluator(network_prior, Execution()).tweedie(x, 0.5)
    for half_precision, expected in ((x0_hat, full), (vjp(x), full_vjp(x))):
        assert half_precision.dtype == torch.float32
        assert 0 < (half_precision - expected).norm() < 0.02 * expected.norm()


def under_autocast(prior, x):
    with torch.autocast("cpu", torch.bfloat16):
        return prior(x, torch.full((len(x),), 0.5))


def test_weights_cast_once_give_the_bits_of_autocast(network_prior):
    prior, x = network_prior.requires_grad_(False), normal(2, 3, 16, 16).float()
    assert torch.equal(
        evaluator(prior, Execution(autocast="bf16")).denoise(x, 0.5), under_autocast(prior, x)
    )
    assert all(weight.dtype == torch.float32 for weight in prior.parameters())


def test_layers_kept_in_float32_halve_the_error(monkeypatch):
    """Head, tail and modulation of photo-64; the error is that of a denoised image."""
    prior, x = inverse.load_prior("photo-64"), 0.5 * normal(2, 3, 32, 32).float()
    full = evaluator(prior, Execution()).denoise(x, 0.5)
    kept = (evaluator(prior, Execution(autocast="bf16")).denoise(x, 0.5) - full).std()
    monkeypatch.setattr("inverse.priors.networks.unet.in_full_precision", lambda layer, x: layer(x))
    cast = (under_autocast(prior, x) - full).std()
    assert kept < 0.5 * cast


def test_sums_of_blocks_stay_in_float32(network_prior):
    seen = []
    for level in network_prior.network.down:
        level[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    evaluator(network_prior, Execution(autocast="bf16")).denoise(normal(2, 3, 16, 16).float(), 0.5)
    assert len(seen) > 1
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("levels", [6.0, torch.tensor(6.0), torch.tensor([0.5, 6.0])])
def test_gradients_at_high_noise_keep_the_priors_precision(network_prior, levels):
    x = normal(2, 3, 16, 16).float()
    x0_hat, vjp = evaluator(network_prior, Execution(autocast="bf16")).tweedie(x, levels)
    full, full_vjp = evaluator(network_prior, Execution()).tweedie(x, levels)
    assert torch.equal(x0_hat, full)
    assert torch.equal(vjp(x), full_vjp(x))


def test_weights_that_change_are_cast_again(network_prior):
    prior, x = network_prior.requires_grad_(False), normal(2, 3, 16, 16).float()
    run = Execution(autocast="bf16")
    before = evaluator(prior, run).denoise(x, 0.5)
    prior.network.head.weight.mul_(2)
    after = evaluator(prior, run).denoise(x, 0.5)
    assert not torch.equal(after, before)
    assert torch.equal(after, under_autocast(prior, x))


def test_trainable_weights_are_not_copied(network_prior, monkeypatch):
    """They change at every step, and a copy would waste memory."""
    monkeypatch.setattr(
        "inverse.priors.evaluation.evaluator.half_precision_copy", lambda *_: pytest.fail("copied")
    )
    prior, x = network_prior.requires_grad_(), normal(2, 3, 16, 16).float()
    x0_hat = evaluator(prior, Execution(autocast="bf16")).denoise(x, 0.5)
    with torch.no_grad():
        assert torch.equal(x0_hat, under_autocast(prior, x))


def test_an_unsupported_precision_is_refused(monkeypatch):
    def refuse(*_):
        raise RuntimeError("\"slow_conv2d\" not implemented for 'Half'")

    check_precision.cache_clear()
    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    with pytest.raises(
        OptionError, match=r"fp16 is not supported on cpu .*not implemented.*; use float32"
    ):
        check_precision(CPU, "fp16")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"autocast": "int8"}, "autocast must be one of bf16, fp16, got 'int8'"),
        ({"compile": "fast"}, "compile must be one of auto, default"),
        ({"memory": -1.0}, "memory must be a positive number of GiB, got -1"),
    ],
)
def test_an_impossible_execution_is_refused(wrong, says):
    with pytest.raises(OptionError, match=says):
        Execution(**wrong)


# --- compilation ---


def test_failed_compilation_gives_one_warning_and_the_prior_runs(network_prior, monkeypatch):
    """Without a compiler, torch fails at its first use, forward and backward."""
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "fx_graph_cache", False)
    x = normal(1, 3, 16, 16).float()
    plain = evaluator(network_prior, Execution())
    run = evaluator(network_prior, Execution(compile="auto"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ExecutionWarning)
        assert torch.equal(run.denoise(x, 0.5), plain.denoise(x, 0.5))
        assert torch.equal(run.tweedie(x, 0.5)[1](x), plain.tweedie(x, 0.5)[1](x))
    assert [str(w.message).split(": ")[0] for w in caught] == ["the prior runs without compilation"]
    assert "no-such-compiler" in str(caught[0].message)
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_compiled_prior_gives_the_same(network_prior):
    """Compilation takes minutes; forward, VJP, and the VJP again from the same graph."""
    x, v = normal(1, 3, 16, 16).float(), normal(1, 3, 16, 16, seed=1).float()
    plain = evaluator(network_prior, Execution())
    run = evaluator(network_prior, Execution(compile="auto"))
    torch.testing.assert_close(run.denoise(x, 0.5), plain.denoise(x, 0.5), **CLOSE)
    vjp, expected = run.tweedie(x, 0.5)[1], plain.tweedie(x, 0.5)[1](v)
    torch.testing.assert_close(vjp(v), expected, **CLOSE)
    torch.testing.assert_close(vjp(v), expected, **CLOSE)


def test_a_copy_of_a_prior_has_evaluators_of_its_own(network_prior):
    evaluator(network_prior, Execution())
    duplicate = copy.deepcopy(network_prior)
    assert evaluator(duplicate, Execution()).prior is duplicate


# --- the host ---

ASYNCHRONOUS = (
    "daps",
    "ddnm",
    "ddnm-plus",
    "ddrm",
    "diffpir",
    "dps",
    "langevin",
    "lgd",
    "pigdm",
    "pnp-dm",
    "red-diff",
)
"""Methods whose loop needs no number on the host.

Particle methods resample on the host, and iterative solves check their convergence there.
"""


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_the_host_reads_nothing_in_the_loop(name, network_prior):
    """The number of reads is the same for four and for eight steps."""
    truths = torch.rand(2, 3, 16, 16, generator=inverse.seeded(0))
    counts = []
    for steps in (4, 8):
        posterior = problems()["blur-circular"].posterior(truths, prior=network_prior)
        with host_reads() as reads:
            inverse.solve(posterior, inverse.get_method(name, steps=steps), samples=2)
        counts.append(len(reads))
    assert counts[0] == counts[1]


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch's synchronisation check needs a GPU"
)
@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_the_host_waits_for_nothing_in_the_loop(name, network_prior):
    prior = network_prior.to("cuda")
    truths = torch.rand(2, 3, 16, 16, generator=inverse.seeded(0))
    posterior = problems()["blur-circular"].posterior(truths, prior=prior, device="cuda")
    iterates = iter(
        inverse.get_method(name, steps=8).run(
            posterior.rows(1), 1, inverse.Generators.for_samples(0, 2, 1, device="cuda")
        )
    )
    with torch.no_grad():
        next(iterates), next(iterates)  # the set-up may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in iterates:
                pass
        finally:
            torch.cuda.set_sync_debug_mode("default")
