"""Folders of images: batches, unusable inputs, failing devices and disks, resuming."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_fixtures import pixels, write_picture

import inverse
from inverse.command.background import write_behind
from inverse.command.inputs import Input, batch_key, batches
from inverse.errors import InputError
from inverse.registry import discovery as plugins
from inverse.result import Result

pytest_plugins = "cli_fixtures"


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six pictures: five of 12 x 14 pixels, and c.png of 9 x 11."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate("abcdef"):
        write_picture(
            folder / f"{name}.png", pixels(*((9, 11) if name == "c" else (12, 14)), seed=i)
        )
    return folder


@pytest.fixture
def own(tmp_path):
    """Write a plug-in with the method `own`, whose `run` has this body; return its arguments."""

    def make(body: str) -> tuple:
        lines = "\n".join(f"        {line}" for line in body.splitlines())
        (tmp_path / "own.py").write_text(f"""
import torch
from dataclasses import dataclass
from pathlib import Path
import inverse

@dataclass(frozen=True)
class Own(inverse.Method):
    name = "own"
    reference = "nobody, never"
    steps: int = 3

    def run(self, posterior, samples, generator):
{lines}

@inverse.hookimpl
def inverse_methods():
    return [Own]
""")
        return "--plugin", tmp_path / "own.py", "--method", "own"

    return make


@pytest.fixture
def anew(solve):
    """Run `solve` as a new process would: the plug-in is loaded again."""

    def run(*arguments):
        plugins.registry.cache_clear()
        return solve(*arguments)

    return run


def load(folder) -> Result:
    return Result.load(Path(folder) / "result.h5")


def rows(outcome) -> list[dict]:
    return [json.loads(line) for line in outcome.out.splitlines()]


# --- batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("red-diff", ("steps=4",)),
        ("diffpir", ("steps=4",)),
        ("dps", ("steps=4",)),
        ("pigdm", ("steps=4", "sampler=ddim:eta=0.5")),
        ("afdps", ("steps=4", "particles=4")),
        ("fps-smc", ("steps=3", "particles=4")),
        ("structure-prior", ("steps=2",)),
    ],
)
def test_images_of_a_batch_are_solved_as_each_alone(solve, photos, method, options):
    """Measurements agree bit for bit; samples agree to rounding of batched convolutions."""
    settings = (
        "--problem",
        "deblur",
        "--problem-option",
        "width=0.6",
        "--method",
        method,
        "--set",
        *options,
        "--dtype",
        "float64",
        "--samples",
        2,
    )
    together = solve(*settings, "--input", photos, "--out", "together", "--batch", 4, "--json")
    alone = solve(*settings, "--input", photos, "--out", "alone", "--batch", 1, "--json")
    assert (together.code, together.err) == (0, ""), together.err
    for name, one, other in zip("abcdef", rows(together), rows(alone), strict=True):
        assert Path(one["input"]).name == f"{name}.png"
        a, b = load(f"together/{name}"), load(f"alone/{name}")
        assert torch.equal(a.y, b.y)
        torch.testing.assert_close(a.samples, b.samples, rtol=0, atol=1e-9)
        torch.testing.assert_close(a.misfit, b.misfit, rtol=1e-6, atol=1e-9)
        if a.log_weights is not None:
            torch.testing.assert_close(a.log_weights, b.log_weights, rtol=0, atol=1e-6)
            assert len(a.provenance["trace"][0]["ess"]) == 1
        for key in ("measurement_sha256", "input", "problem", "prior", "seed", "notes"):
            assert a.provenance[key] == b.provenance[key]
        assert a.provenance["method"]["options"] == b.provenance["method"]["options"]
        assert (one["nfe"], one["vjp"], one["notes"]) == (
            other["nfe"],
            other["vjp"],
            other["notes"],
        )
        assert sorted(p.name for p in Path("together", name).iterdir()) == [
            "panel.png",
            "reconstruction.png",
            "result.h5",
        ]
    sizes = [
        load(f"together/{name}").provenance.get("batch", {}).get("images", 1) for name in "abcdef"
    ]
    assert sizes == [4, 4, 1, 4, 4, 1]
    assert not any("batch" in load(f"alone/{name}").provenance for name in "abcdef")


def test_measurements_are_solved_in_batches(solve, photos):
    for out, batch in (("together", 8), ("alone", 1)):
        assert (
            solve(
                "--measurement",
                photos,
                "--dtype",
                "float64",
                "--method",
                "diffpir",
                "--steps",
                3,
                "--out",
                out,
                "--batch",
                batch,
            ).code
            == 0
        )
    for name in "abcdef":
        a, b = load(f"together/{name}"), load(f"alone/{name}")
        assert a.truth is None
        assert torch.equal(a.y, b.y)
        torch.testing.assert_close(a.samples, b.samples, rtol=0, atol=1e-9)


def test_seconds_of_an_image_are_its_share_of_the_batch(solve, photos):
    solve("--input", photos, "--method", "red-diff", "--steps", 2, "--batch", 5)
    result = load("out/a")
    assert result.provenance["batch"]["images"] == 5
    assert result.seconds == pytest.approx(result.provenance["batch"]["seconds"] / 5)
    assert result.cost.rows == 5


def test_batch_size_follows_speed_and_memory(solve, photos):
    """Small images form one batch; many samples or little memory allow one at a time."""
    solve("--input", photos, "--method", "red-diff", "--steps", 1)
    assert load("out/a").provenance["batch"]["images"] == 5
    for i in range(3):
        write_picture(photos / f"large{i}.png", pixels(64, 64, seed=i))
    solve(
        "--input",
        *(photos / f"large{i}.png" for i in range(3)),
        "--method",
        "red-diff",
        "--steps",
        1,
        "--samples",
        16,
        "--out",
        "samples",
    )
    solve(
        "--input",
        *(photos / f"large{i}.png" for i in range(3)),
        "--method",
        "red-diff",
        "--steps",
        1,
        "--memory",
        0.001,
        "--out",
        "memory",
    )
    assert "batch" not in load("samples/large0").provenance
    assert "batch" not in load("memory/large0").provenance


def test_an_input_with_its_own_problem_has_no_batch_key():
    problem = inverse.get_problem("denoise")
    prior = inverse.FlatPrior((3, None, None))
    values = torch.zeros(3, 8, 9)
    item = Input(0, Path("a.png"), Path("out"), problem, values)
    assert batch_key(item, problem, prior) == ((3, 8, 9), problem.sigma_y)
    assert batch_key(replace(item, problem=inverse.get_problem("denoise")), problem, prior) is None
    assert batch_key(replace(item, values=values[None]), problem, prior) is None
    assert batch_key(replace(item, values=None), problem, prior) is None
    weather = inverse.get_problem("atmosphere")
    assert batch_key(replace(item, problem=weather), weather, prior) is None


def test_inputs_with_one_key_form_batches_and_none_waits_too_long():
    keys = "aabab" + "".join(chr(200 + i) for i in range(80))
    inputs = [Input(i, Path(key), Path(), None) for i, key in enumerate(keys)]
    formed = list(batches(inputs, lambda item: item.file.name, lambda _: 3))
    assert [[item.index for item in batch] for batch in formed][:2] == [[0, 1, 3], [2, 4]]
    assert sorted(item.index for batch in formed for item in batch) == list(range(len(keys)))


def test_a_batch_below_one_is_refused(solve, photos):
    solve("--input", photos, "--batch", 0).refused("batch must be at least 1, got 0")


# --- inputs that fail -------------------------------------------------------------------------


def test_a_bad_file_is_reported_and_skipped(solve, photos):
    (photos / "b.png").write_text("hello")
    outcome = solve("--input", photos)
    assert outcome.code == 2
    first, last = outcome.err.splitlines()
    assert first.startswith(f"inverse: {photos / 'b.png'}: not a readable image")
    assert first.endswith("; skipped")
    assert last == "inverse: 1 of 6 inputs skipped; the results of the others are in out"
    assert sorted(path.name for path in Path("out").iterdir()) == list("acdef")


def test_a_reason_that_applies_to_all_inputs_is_printed_once(solve, photos):
    outcome = solve("--input", photos, "--problem", "deblur", "--problem-option", "width=5")
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 3  # one for each size, and the count
    assert outcome.err.endswith("inverse: 6 of 6 inputs skipped\n")
    assert not Path("out").exists()


def test_an_image_that_diverges_does_not_affect_its_batch(solve, photos, own):
    write_picture(photos / "d.png", np.full((12, 14, 3), 255, np.uint8))
    method = own(
        "x = posterior.A_adjoint(posterior.y)\n"
        "x[posterior.y.flatten(1).mean(1) > 0.9] = float('nan')\n"
        "yield x"
    )
    outcome = solve(*method, "--input", photos)
    assert outcome.code == 2
    assert outcome.err.splitlines()[0].startswith(f"inverse: {photos / 'd.png'}: own diverged")
    assert sorted(path.name for path in Path("out").iterdir()) == list("abcef")


TOO_MUCH = "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 1 TiB.')"


def test_a_batch_that_exceeds_the_memory_is_halved(solve, photos, own):
    """The method runs out of memory outside the prior, where memory use is not predicted."""
    method = own(f"if len(posterior) > 2:\n    {TOO_MUCH}\nyield posterior.A_adjoint(posterior.y)")
    outcome = solve(*method, "--input", photos)
    assert (outcome.code, outcome.err) == (0, "")
    assert [
        load(f"out/{name}").provenance.get("batch", {}).get("images", 1) for name in "abcdef"
    ] == [2, 2, 1, 1, 2, 2]


def test_one_image_that_exceeds_the_memory_is_refused_in_one_line(solve, photos, own):
    method = own(f"{TOO_MUCH}\nyield")
    solve(*method, "--input", photos / "a.png").refused(
        "cpu ran out of memory in step 1 of own (CUDA out of memory. Tried to allocate 1 TiB.)",
        "would fit",
    )


# --- devices, disks and interruptions ---------------------------------------------------------


def test_a_device_failure_keeps_earlier_batches(solve, photos, own):
    method = own(
        "yield posterior.A_adjoint(posterior.y)\n"
        "if posterior.shape[-1] == 11:\n"
        "    raise RuntimeError('CUDA error: device lost\\nCompile with ...')"
    )
    outcome = solve(*method, "--input", photos, "--batch", 2)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "inverse: cpu failed in step 2 of own (CUDA error: device lost); "
        "files saved earlier are unchanged; try --device cpu\n"
    )
    assert sorted(path.name for path in Path("out").iterdir()) == list("abde")


def test_a_full_disk_is_reported_in_one_line_and_leaves_no_partial_file(solve, photos, monkeypatch):
    whole = Path.write_bytes

    def crowded(self, data):
        if "/d/" in str(self):
            whole(self, bytes(data)[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(self, data)

    monkeypatch.setattr(Path, "write_bytes", crowded)
    solve("--input", photos, "--batch", 1).refused("output folder out/d: No space left on device")
    assert [path for path in Path("out").rglob("*") if "d" in path.parts and path.is_file()] == []
    assert load("out/a").truth is not None


INTERRUPTED = """for i in range(self.steps):
    if i == 2 and Path('stop').exists():
        raise KeyboardInterrupt
    with Path('solved').open('a') as file:
        file.write(f'{len(posterior)} ')
    yield posterior.A_adjoint(posterior.y)"""


def test_an_interrupted_folder_is_resumed(anew, photos, own):
    """After Ctrl-C in the second batch, --resume solves only the unfinished images."""
    method = own(INTERRUPTED)
    arguments = (*method, "--input", photos, "--batch", 2, "--json")
    anew(*arguments, "--out", "whole")
    anew(*method, "--input", photos / "a.png", photos / "b.png", "--batch", 2)
    Path("stop").touch()
    stopped = anew(*arguments, "--resume")
    assert stopped.code == 130
    assert stopped.err == "inverse: interrupted; the last iterates of 2 images are saved in out\n"
    assert [(Path(row["input"]).name, row["interrupted"]) for row in rows(stopped)] == [
        ("a.png", False),
        ("b.png", False),
        ("d.png", True),
        ("e.png", True),
    ]
    Path("stop").unlink()
    Path("solved").unlink()
    again = anew(*arguments, "--resume")
    assert (again.code, again.err) == (0, "")
    assert [Path(row["input"]).name for row in rows(again)] == [f"{name}.png" for name in "abcdef"]
    assert Path("solved").read_text().split() == ["2"] * 3 + ["1"] * 6
    for name in "abcdef":
        assert torch.equal(load(f"out/{name}").samples, load(f"whole/{name}").samples)


@pytest.mark.parametrize(
    "changed",
    [
        ("--seed", 1),
        ("--set", "steps=4"),
        ("--samples", 2),
        ("--dtype", "float64"),
        ("--problem-option", "sigma_y=0.2"),
    ],
)
def test_only_results_of_the_same_request_are_kept(anew, photos, own, changed):
    arguments = (*own(INTERRUPTED), "--input", photos / "a.png", photos / "b.png")
    anew(*arguments)
    Path("solved").unlink()
    anew(*arguments, "--resume")
    assert not Path("solved").exists()
    anew(*arguments, "--resume", *changed)
    assert Path("solved").exists()


def test_results_of_other_weights_of_the_same_name_are_solved_again(anew, photos, own, monkeypatch):
    arguments = (*own(INTERRUPTED), "--input", photos / "a.png", photos / "b.png")
    anew(*arguments)
    Path("solved").unlink()
    monkeypatch.setattr("inverse.command.batch_solver.prior_hash", lambda prior: "0" * 64)
    anew(*arguments, "--resume")
    assert Path("solved").exists()


def test_a_file_that_changed_is_solved_again(anew, photos, own):
    arguments = (*own(INTERRUPTED), "--input", photos / "a.png", photos / "b.png", "--resume")
    anew(*arguments)
    Path("solved").unlink()
    write_picture(photos / "b.png", pixels(12, 14, seed=77))
    (Path("out/a") / "result.h5").write_bytes(b"damaged")
    anew(*arguments, "--batch", 1)
    assert Path("solved").read_text().split() == ["1"] * 6


def test_write_behind_keeps_the_order_and_raises_an_error_in_the_next_put():
    done = []

    def write(number):
        if number == 2:
            raise InputError("full")
        done.append(number)

    def put_all(*numbers):
        with write_behind(write) as put:
            for number in numbers:
                put(number)

    with pytest.raises(InputError, match="full"):
        put_all(0, 1, 2, 3, 4)
    assert done == [0, 1]
    put_all(7)
    assert done == [0, 1, 7]
    with pytest.raises(InputError, match="full"):
        put_all(2)


def test_the_streams_of_an_image_follow_from_its_index():
    like = torch.zeros(2, 4)
    whole = inverse.Generators.for_samples(5, 4, 1).randn_like(torch.zeros(4, 4))
    assert torch.equal(
        inverse.Generators.for_samples(5, 2, 1, first_image=[3, 1]).randn_like(like), whole[[3, 1]]
    )
    problem, prior = inverse.get_problem("denoise"), inverse.FlatPrior((3, None, None))
    x = torch.full((4, 3, 8, 8), 0.5)
    assert torch.equal(
        problem.posterior(x[:2], prior=prior, first_image=[3, 1]).y,
        problem.posterior(x, prior=prior).y[[3, 1]],
    )
