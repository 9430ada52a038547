"""Recorded forwards and gradients, with a recorder that repeats the work, and on a GPU with graphs.

Tests of device transfers are at the end.
"""

import copy
import warnings

import pytest
import torch
from conftest import normal

import inverse
from inverse.errors import ExecutionWarning
from inverse.execution import Execution
from inverse.priors.evaluation.evaluator import evaluator
from inverse.priors.evaluation.graphs import MAX_RECORDINGS, Recording, with_recordings
from inverse.priors.evaluation.transfer import to_device, to_host

HALF = torch.tensor([0.5], dtype=torch.float64)


class Tape:
    """A recorder that repeats the work at every replay, after three runs of warm-up."""

    def __init__(self, fails=None):
        self.recorded, self.replays, self.fails = 0, 0, fails

    def __call__(self, x):
        def record(work):
            if self.fails:
                raise self.fails
            self.recorded += 1
            for _ in range(3):
                work()

            def replay():
                self.replays += 1
                return work()

            return replay

        return record


def call(x, sigma):
    return (x / sigma[:, None]).sin() * x


def pair(run, x, sigma=HALF):
    """x0_hat and its VJP, as the evaluator computes them."""
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        out = run(leaf, sigma.expand(len(x)))
    return out.detach(), lambda v: torch.autograd.grad(out, leaf, v, retain_graph=True)[0]


def recorded(tape=None, warnings=None, is_call_error=lambda error: False):
    warn = ([] if warnings is None else warnings).append
    return with_recordings(call, warn, tape or Tape(), is_call_error)


def test_a_recording_gives_the_forward_and_the_gradient():
    x, v = normal(3, 5), normal(3, 5, seed=1)
    out, vjp = pair(recorded(), x)
    expected, pull = pair(call, x)
    assert torch.equal(out, expected)
    assert torch.equal(vjp(v), pull(v))
    assert torch.equal(vjp(2 * v), pull(2 * v))


def test_a_gradient_of_an_earlier_forward_replays_that_forward_first():
    """Gradients are evaluated in any order, and more than once."""
    tape = Tape()
    run = recorded(tape)
    xs, v = [normal(3, 5, seed=i) for i in range(3)], normal(3, 5, seed=9)
    replayed, expected = [pair(run, x) for x in xs], [pair(call, x) for x in xs]
    for i in (2, 0, 0, 1, 2):
        assert torch.equal(replayed[i][1](v), expected[i][1](v))
        assert torch.equal(replayed[i][0], expected[i][0])
    assert tape.recorded == 2  # a forward and a gradient, for a single shape
    # the recording, three forwards, three forwards again, five gradients
    assert tape.replays == 1 + 3 + 3 + 5


def test_later_replays_do_not_overwrite_outputs():
    run = recorded()
    first, vjp = pair(run, normal(2, 4))
    gradient = vjp(normal(2, 4, seed=3))
    copies = first.clone(), gradient.clone()
    second, second_vjp = pair(run, normal(2, 4, seed=5))
    second_vjp(normal(2, 4, seed=6))
    assert torch.equal(first, copies[0])
    assert torch.equal(gradient, copies[1])
    assert not torch.equal(second, first)


def test_each_shape_and_precision_is_recorded_and_only_the_latest_are_kept():
    tape = Tape()
    run = recorded(tape)
    for rows in (1, 2, 1, 2):
        pair(run, normal(rows, 4))
    assert tape.recorded == 4
    pair(run, normal(1, 4).float(), HALF.float())
    assert tape.recorded == 6
    for rows in range(3, 3 + MAX_RECORDINGS):
        pair(run, normal(rows, 4))
    pair(run, normal(1, 4))
    assert tape.recorded == 6 + 2 * MAX_RECORDINGS + 2


def test_a_failed_recording_gives_one_warning_and_the_call_runs():
    reason = "operation not permitted when stream is capturing"
    messages = []
    run = recorded(Tape(RuntimeError(f"{reason}\nCUDA kernel errors ...")), messages)
    x, v = normal(3, 5), normal(3, 5, seed=1)
    for _ in range(2):
        out, vjp = pair(run, x)
        assert torch.equal(vjp(v), pair(call, x)[1](v))
    assert messages == [f"passes with a gradient run without CUDA graphs: RuntimeError: {reason}"]
    assert torch.equal(out, call(x, HALF.expand(3)))


def test_out_of_memory_and_errors_of_the_call_are_raised():
    with pytest.raises(torch.OutOfMemoryError):
        pair(recorded(Tape(torch.OutOfMemoryError("CUDA out of memory"))), normal(1, 4))
    tape = Tape(RuntimeError("no compiler"))
    run = recorded(tape, is_call_error=lambda error: "compiler" in str(error))
    with pytest.raises(RuntimeError, match="no compiler"):
        pair(run, normal(1, 4))


def test_recordings_of_other_shapes_are_discarded_when_memory_runs_out():
    tape = Tape()
    run = recorded(tape)
    pair(run, normal(1, 4))
    record = Recording.__init__
    calls = []

    def fail_once(self, *arguments):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        record(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recording, "__init__", fail_once)
        pair(run, normal(2, 4))
        assert len(calls) == 2
        pair(run, normal(1, 4))
    assert len(calls) == 3  # the recording of the first shape was discarded


def replace_compilation(monkeypatch, recorder, warn=None):
    """Record the prior where the evaluator would compile it."""

    def compiled(prior, mode, gradient, evaluator_warn):
        return with_recordings(prior, warn or evaluator_warn, recorder, lambda _: False)

    monkeypatch.setattr("inverse.priors.evaluation.evaluator.compiled", compiled)


def test_an_evaluator_takes_gradients_through_recordings(network_prior, monkeypatch):
    """Two gradients of a forward after a later forward, also in parts and in tiles."""
    replace_compilation(monkeypatch, Tape())
    v = normal(2, 3, 32, 32, seed=4).float()
    for settings in ({}, {"max_pixels": 32 * 32}, {"tile": 16, "tile_above": 20 * 20}):
        prior = copy.deepcopy(network_prior)
        if "tile" in settings:
            prior.halo = 32
        plain = evaluator(prior, Execution(**settings))
        run = evaluator(prior, Execution(compile="auto", **settings))
        xs = [normal(2, 3, 32, 32, seed=i).float() for i in range(2)]
        vjps = [run.tweedie(x, 0.5)[1] for x in xs]
        for x, vjp in zip(xs, vjps, strict=True):
            torch.testing.assert_close(vjp(v), plain.tweedie(x, 0.5)[1](v), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(vjp(v), plain.tweedie(x, 0.5)[1](v), rtol=1e-5, atol=1e-5)


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


@gpu
@pytest.mark.parametrize("half", [None, "bf16"])
def test_cuda_graphs_give_the_gradients_of_the_prior(network_prior, half, monkeypatch):
    """Captured without torch.compile; gradients of an earlier forward, and twice."""
    from inverse.priors.evaluation.graphs import cuda_graphs

    replace_compilation(monkeypatch, cuda_graphs, pytest.fail)
    prior = network_prior.cuda()
    plain = evaluator(prior, Execution(autocast=half))
    run = evaluator(prior, Execution(autocast=half, compile="auto"))
    xs = [normal(2, 3, 32, 32, seed=i).float().cuda() for i in range(3)]
    v = normal(2, 3, 32, 32, seed=9).float().cuda()
    vjps = [run.tweedie(x, 0.5)[1] for x in xs]
    for i in (2, 0, 0, 1):
        torch.testing.assert_close(
            vjps[i](v), plain.tweedie(xs[i], 0.5)[1](v), rtol=1e-2, atol=1e-2 if half else 1e-4
        )


@gpu
def test_a_compiled_prior_captures_its_gradients(network_prior):
    prior = network_prior.cuda()
    plain, run = evaluator(prior, Execution()), evaluator(prior, Execution(compile="auto"))
    x, v = normal(2, 3, 32, 32).float().cuda(), normal(2, 3, 32, 32, seed=1).float().cuda()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExecutionWarning)
        vjp = run.tweedie(x, 0.5)[1]
        for _ in range(2):
            torch.testing.assert_close(vjp(v), plain.tweedie(x, 0.5)[1](v), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(run.denoise(x, 0.5), plain.denoise(x, 0.5), rtol=1e-3, atol=1e-4)


@gpu
def test_a_method_with_gradients_gives_the_same_through_graphs(network_prior):
    prior, truths = network_prior.cuda(), torch.rand(2, 3, 32, 32, generator=inverse.seeded(0))
    samples = []
    for execution in (Execution(), Execution(compile="auto")):
        posterior = inverse.get_problem("denoise").posterior(
            truths, prior=prior, device="cuda", execution=execution
        )
        samples.append(inverse.solve(posterior, inverse.get_method("dps", steps=4)).samples)
    torch.testing.assert_close(*samples, rtol=1e-3, atol=1e-3)


# --- device transfers -------------------------------------------------------------------------


def test_to_device_copies():
    x = normal(2, 3)
    sent = to_device(x, torch.device("cpu"), torch.float64)
    sent.zero_()
    assert x.any()
    assert to_host({"x": x, "none": None}) == {"x": x, "none": None}


@gpu
def test_tensors_survive_the_transfer_to_a_gpu_and_back():
    x = normal(512, 512)
    sent = to_device(x, torch.device("cuda"), torch.float32)
    back = to_host({"x": 2 * sent})["x"]
    assert torch.equal(back, 2 * x.float())
    assert back.is_pinned()
