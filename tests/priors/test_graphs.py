"""Recorded forwards and gradients: everything but the capture, with a recording that repeats the work; and the capture, where there is a GPU."""

import copy
import warnings

import pytest
import torch
from conftest import normal

import inverse
from inverse.errors import ExecutionWarning
from inverse.execution import Execution
from inverse.priors.evaluation.evaluator import evaluator
from inverse.priors.evaluation.graphs import KEPT, Recording, graphed
from inverse.priors.evaluation.transfer import to_device, to_host

HALF = torch.tensor([0.5], dtype=torch.float64)


class Tape:
    """A recorder that repeats the work, as a graph does with its memory: the same output tensor at every replay, warmed up before it is kept."""

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
    """x0_hat and its VJP, as the evaluator takes them."""
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        out = run(leaf, sigma.expand(len(x)))
    return out.detach(), lambda v: torch.autograd.grad(out, leaf, v, retain_graph=True)[0]


def recorded(tape=None, said=None, of_call=lambda error: False):
    return graphed(call, (said if said is not None else []).append, tape or Tape(), of_call)


def test_a_recording_gives_the_forward_and_the_gradient():
    x, v = normal(3, 5), normal(3, 5, seed=1)
    out, vjp = pair(recorded(), x)
    expected, pull = pair(call, x)
    assert torch.equal(out, expected)
    assert torch.equal(vjp(v), pull(v))
    assert torch.equal(vjp(2 * v), pull(2 * v))


def test_a_gradient_of_an_earlier_forward_replays_that_forward_first():
    """In whatever order gradients are asked for, and as often."""
    tape = Tape()
    run = recorded(tape)
    xs, v = [normal(3, 5, seed=i) for i in range(3)], normal(3, 5, seed=9)
    found, expected = [pair(run, x) for x in xs], [pair(call, x) for x in xs]
    for i in (2, 0, 0, 1, 2):
        assert torch.equal(found[i][1](v), expected[i][1](v))
        assert torch.equal(found[i][0], expected[i][0])
    assert tape.recorded == 2  # one forward and one gradient for the one shape
    assert (
        tape.replays == 1 + 3 + 3 + 5
    )  # when it was recorded, three forwards, three of them again, five gradients


def test_outputs_are_not_written_into_later():
    run = recorded()
    first, vjp = pair(run, normal(2, 4))
    gradient = vjp(normal(2, 4, seed=3))
    kept = first.clone(), gradient.clone()
    again, other = pair(run, normal(2, 4, seed=5))
    other(normal(2, 4, seed=6))
    assert torch.equal(first, kept[0])
    assert torch.equal(gradient, kept[1])
    assert not torch.equal(again, first)


def test_one_recording_for_each_shape_and_precision_and_only_the_last_few_are_kept():
    tape = Tape()
    run = recorded(tape)
    for rows in (1, 2, 1, 2):
        pair(run, normal(rows, 4))
    assert tape.recorded == 4
    pair(run, normal(1, 4).float(), HALF.float())
    assert tape.recorded == 6
    for rows in range(3, 3 + KEPT):
        pair(run, normal(rows, 4))
    pair(run, normal(1, 4))
    assert tape.recorded == 6 + 2 * KEPT + 2


def test_where_recording_fails_the_call_runs_and_that_is_said_once():
    said = []
    run = recorded(
        Tape(
            RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors ...")
        ),
        said,
    )
    x, v = normal(3, 5), normal(3, 5, seed=1)
    for _ in range(2):
        out, vjp = pair(run, x)
        assert torch.equal(vjp(v), pair(call, x)[1](v))
    assert said == [
        "passes with a gradient run without CUDA graphs: RuntimeError: operation not permitted when stream is capturing"
    ]
    assert torch.equal(out, call(x, HALF.expand(3)))


def test_memory_that_runs_out_and_errors_of_the_call_go_to_the_caller():
    with pytest.raises(torch.OutOfMemoryError):
        pair(recorded(Tape(torch.OutOfMemoryError("CUDA out of memory"))), normal(1, 4))
    with pytest.raises(RuntimeError, match="no compiler"):
        pair(
            recorded(
                Tape(RuntimeError("no compiler")), of_call=lambda error: "compiler" in str(error)
            ),
            normal(1, 4),
        )


def test_other_shapes_give_way_when_the_memory_runs_out():
    tape = Tape()
    run = recorded(tape)
    pair(run, normal(1, 4))
    whole = Recording.__init__
    seen = []

    def crowded(self, *arguments):
        seen.append(1)
        if len(seen) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        whole(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recording, "__init__", crowded)
        pair(run, normal(2, 4))
        assert len(seen) == 2
        pair(run, normal(1, 4))
    assert len(seen) == 3  # the first shape had gone


def test_an_evaluator_takes_gradients_through_recordings(network_prior):
    """Two gradients of one forward after another one, in parts and in tiles too, against the prior as it is."""
    v = normal(2, 3, 32, 32, seed=4).float()
    for settings in ({}, {"max_pixels": 32 * 32}, {"tile": 16, "tile_above": 20 * 20}):
        prior = copy.deepcopy(network_prior)
        if "tile" in settings:
            prior.halo = 32
        plain, run = (
            evaluator(prior, Execution(**settings)),
            evaluator(prior, Execution(compile="auto", **settings)),
        )
        run._compiled[True] = graphed(prior, run._say, Tape(), lambda _: False)
        xs = [normal(2, 3, 32, 32, seed=i).float() for i in range(2)]
        vjps = [run.tweedie(x, 0.5)[1] for x in xs]
        for x, vjp in zip(xs, vjps, strict=True):
            torch.testing.assert_close(vjp(v), plain.tweedie(x, 0.5)[1](v), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(vjp(v), plain.tweedie(x, 0.5)[1](v), rtol=1e-5, atol=1e-5)


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


@gpu
@pytest.mark.parametrize("half", [None, "bf16"])
def test_cuda_graphs_give_what_the_prior_gives(network_prior, half):
    """Captured without torch.compile; gradients of an earlier forward, and twice."""
    from inverse.priors.evaluation.graphs import cuda_graphs

    prior = network_prior.cuda()
    plain, run = (
        evaluator(prior, Execution(autocast=half)),
        evaluator(prior, Execution(autocast=half, compile="auto")),
    )
    run._run(True)  # what it does before it compiles
    run._compiled[True] = graphed(prior, pytest.fail, cuda_graphs, lambda _: False)
    xs, v = (
        [normal(2, 3, 32, 32, seed=i).float().cuda() for i in range(3)],
        normal(2, 3, 32, 32, seed=9).float().cuda(),
    )
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
    found = []
    for execution in (Execution(), Execution(compile="auto")):
        posterior = inverse.get_problem("denoise").posterior(
            truths, prior=prior, device="cuda", execution=execution
        )
        found.append(inverse.solve(posterior, inverse.get_method("dps", steps=4)).samples)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


# --- to the device and back ---------------------------------------------------------------------------------------------


def test_what_is_sent_to_a_device_is_a_copy():
    x = normal(2, 3)
    sent = to_device(x, torch.device("cpu"), torch.float64)
    sent.zero_()
    assert x.any()
    assert to_host({"x": x, "none": None}) == {"x": x, "none": None}


@gpu
def test_tensors_come_back_from_a_gpu_as_they_went():
    x = normal(512, 512)
    sent = to_device(x, torch.device("cuda"), torch.float32)
    back = to_host({"x": 2 * sent})["x"]
    assert torch.equal(back, 2 * x.float())
    assert back.is_pinned()
