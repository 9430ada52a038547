"""Running suites: fair plans, records that survive any interruption, budgets, reproduction."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_fixtures import method_source, process
from import_graph import module_graph

import inverse
from inverse.arena import source
from inverse.arena.bank import Bank, digest, tiles_of
from inverse.arena.budget import fit, spend
from inverse.arena.cell import Cell, describe
from inverse.arena.compare import compare_records
from inverse.arena.floor import Floor, measure_floor
from inverse.arena.plan import stored_fits
from inverse.arena.record import Record, append, read_records, repair
from inverse.arena.reproduce import reproduce
from inverse.arena.run import Request, run_suite
from inverse.arena.suite import load_suite, shipped
from inverse.arena.worker import Worker
from inverse.errors import InputError
from inverse.registry import discovery as plugins
from inverse.registry import source as versions
from inverse.registry.source import version_of

pytest_plugins = "cli_fixtures"

ROOT = Path(__file__).parents[2]
SUITE = """
title = "Tiny"
truths = [0, 1]
samples = 4
metrics = ["rmse", "misfit", "crps"]

[[problems]]
name = "bimodal"

[[methods]]
name = "pseudo-inverse"

[[methods]]
name = "dps"

[[methods]]
name = "tikhonov"

[[budgets]]
nfe = 10
"""
TIMES = ("seconds", "floor_seconds", "peak_memory", "started")
"""Fields that may differ between two runs of a cell."""


def write_suite(folder: Path, text: str = SUITE, name: str = "tiny.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def table(folder: Path) -> str:
    """The records without their times, as text."""
    return "\n".join(
        replace(record, **dict.fromkeys(TIMES)).to_json()
        for record in read_records(folder, report=lambda _: None)
    )


def run(folder: Path, text: str = SUITE, **request):
    return run_suite(load_suite(write_suite(folder, text)), Request(folder / "records", **request))


def lines(folder: Path) -> list[dict]:
    return [
        json.loads(line) for line in (folder / "records" / "records.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which the tiny suite ran; tests do not change it."""
    folder = tmp_path_factory.mktemp("finished")
    run(folder)
    return folder / "records"


# --- fairness ---------------------------------------------------------------------------------


def test_every_method_meets_the_same_measurement(finished):
    records = read_records(finished)
    for truth in (0, 1):
        assert len({record.observation for record in records if record.truth == truth}) == 1
    assert len({record.observation for record in records}) == 2


def test_an_observation_is_drawn_by_the_problem():
    problem = inverse.get_problem("bimodal")
    observation = Bank(None).get(problem, describe(problem, "", None), 1, 7)
    expected = problem.measure(problem.truths()[1][None], inverse.seeded(7, "measurement", 1))
    assert torch.equal(observation.y, expected)
    assert observation.sha256 == digest(expected)


@pytest.mark.parametrize("part", ["y", "truth"])
def test_a_stored_observation_that_was_changed_is_refused(part, tmp_path):
    problem = inverse.get_problem("bimodal")
    bank, about = Bank(tmp_path), describe(problem, "", None)
    kept = bank.get(problem, about, 0, 0)
    assert torch.equal(bank.get(problem, about, 0, 0).y, kept.y)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    offset = content.find(getattr(kept, part).numpy().tobytes())
    content[offset + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"sha256 of {part} is .* was changed"):
        bank.get(problem, about, 0, 0)


def test_squares_go_outwards_and_do_not_overlap():
    corners = tiles_of(torch.zeros(3, 100, 140), 40)
    assert sorted(corners) == [(10, 10), (10, 50), (10, 90), (50, 10), (50, 50), (50, 90)]
    assert corners[0] == (10, 50)


SPY = '''
import inverse
from dataclasses import dataclass

@dataclass(frozen=True)
class Spy(inverse.Method):
    """Fails if it can see the truth."""
    name = "spy"

    def run(self, posterior, samples, generator):
        if posterior.truth is not None:
            raise RuntimeError("the truth is visible")
        held = [value for value in vars(posterior).values() if isinstance(value, type(posterior.y))]
        others = [value for value in held if value is not posterior.y and value.ndim == 2]
        if any(value.shape[1:] == posterior.shape for value in others):
            raise RuntimeError("a tensor like the truth is visible")
        yield inverse.standard_normal(posterior, generator)

@inverse.hookimpl
def inverse_methods():
    return [Spy]
'''


def test_a_method_never_receives_the_truth(tmp_path, fresh_registry):
    plugin = tmp_path / "spy.py"
    plugin.write_text(SPY)
    plugins.registry().load_file(plugin)
    run(tmp_path, SUITE.split("[[methods]]")[0] + '[[methods]]\nname = "spy"\n')
    assert [record.status for record in read_records(tmp_path / "records")] == ["ok", "ok"]


# --- budgets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "budget", "steps"),
    [
        ("dps", {"nfe": 30}, 15),
        ("red-diff", {"nfe": 30}, 30),
        ("mmps", {"vjp": 60}, None),
        ("daps", {"nfe": 44}, 8),
        ("dps", {"nfe": 99, "vjp": 7}, 7),
    ],
)
def test_a_method_gets_the_most_steps_within_the_budget(name, budget, steps):
    """A step takes an evaluation and a VJP of DPS, one evaluation of RED-diff, five of DAPS."""
    posterior, method = inverse.get_problem("bimodal").posterior(0), inverse.get_method(name)
    found = fit(posterior, method, budget, 1, pinned=False)
    assert found.skip is None
    assert steps in (None, found.steps)
    at, above = (
        spend(posterior, inverse.get_method(name, steps=n), budget, 1)[0]
        for n in (found.steps, found.steps + 1)
    )
    assert at <= 1 < above


def test_a_method_over_the_budget_is_skipped_with_its_cost():
    posterior = inverse.get_problem("bimodal").posterior(0)
    assert (
        "times the budget"
        in fit(posterior, inverse.get_method("daps"), {"nfe": 3}, 1, pinned=False).skip
    )
    assert (
        "200 of 50 prior evaluations and VJPs"
        in fit(posterior, inverse.get_method("dps", steps=100), {"nfe": 50}, 1, pinned=True).skip
    )
    assert (
        "100 of 0 VJPs"
        in fit(posterior, inverse.get_method("dps"), {"vjp": 0}, 1, pinned=True).skip
    )


def test_a_method_without_evaluations_keeps_its_options():
    posterior = inverse.get_problem("gaussian").posterior(0)
    assert fit(posterior, inverse.get_method("tv"), {"nfe": 1}, 1, pinned=False).steps is None
    assert (
        fit(posterior, inverse.get_method("pseudo-inverse"), {"nfe": 1}, 1, pinned=False).skip
        is None
    )


def test_costs_of_the_records_stay_within_the_budget(finished):
    spent = {
        record.method["name"]: record.cost["nfe"] + record.cost["vjp"]
        for record in read_records(finished)
        if record.status == "ok"
    }
    assert spent == {"pseudo-inverse": 0, "dps": 10}


def test_seconds_are_a_budget(tmp_path):
    text = SUITE.replace("nfe = 10", "seconds = 0.2").replace(
        '[[methods]]\nname = "tikhonov"\n', ""
    )
    run(tmp_path, text)
    records = read_records(tmp_path / "records")
    steps = {
        record.method["options"]["steps"] for record in records if record.method["name"] == "dps"
    }
    assert len(steps) == 1
    assert steps.pop() > 10
    again = table(tmp_path / "records")
    run(tmp_path, text)
    assert (
        table(tmp_path / "records") == again
    )  # the steps are those that the folder keeps, however fast the machine is today


# --- records ----------------------------------------------------------------------------------


def test_a_record_comes_back_from_its_line(finished):
    for record in read_records(finished):
        assert Record.from_json(record.to_json()) == record


def test_skips_are_records_with_reasons(finished):
    skipped = [record for record in read_records(finished) if record.method["name"] == "tikhonov"]
    assert [record.status for record in skipped] == ["skipped", "skipped"]
    assert all("tikhonov needs an image" in record.reason for record in skipped)


def test_failures_are_records_with_reasons_and_stop_no_other_cell(tmp_path, fresh_registry):
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        method_source("broken").replace(
            "for _ in range(self.steps):\n            yield",
            "raise ZeroDivisionError('oh')\n        yield",
        )
    )
    plugins.registry().load_file(plugin)
    done = run(
        tmp_path, SUITE.replace('"tikhonov"', '"broken"').replace("[[budgets]]\nnfe = 10\n", "")
    )
    assert (done.total, done.failed) == (6, 2)
    (reason,) = {
        record.reason for record in read_records(tmp_path / "records") if record.status == "failed"
    }
    assert "(ZeroDivisionError: oh; broken.py, line " in reason
    assert run(tmp_path, (tmp_path / "tiny.toml").read_text()).computed == 0
    assert run(tmp_path, (tmp_path / "tiny.toml").read_text(), retry=True).computed == 2


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{", "[]", "3", "\0", '{"a": 1}', "[" * 100_000),
        *(f'{{"a": {{"steps": {n}, "skip": null}}}}' for n in ("-4", "1e9", "NaN", "[]")),
    ],
)
def test_damaged_budgets_are_refused(tmp_path, damage):
    (tmp_path / "budgets.json").write_text(damage)
    with pytest.raises(InputError, match=r"budgets\.json: not the steps that a run fitted"):
        stored_fits(tmp_path / "budgets.json")


def test_a_truncated_last_line_is_repaired_and_reported(tmp_path, capsys):
    run(tmp_path)
    path, whole = tmp_path / "records" / "records.jsonl", table(tmp_path / "records")
    path.write_bytes(path.read_bytes()[:-40])
    assert len(read_records(tmp_path / "records")) == 5
    assert "the last line was cut off" in capsys.readouterr().err
    assert run(tmp_path).computed == 1
    assert "was removed; its cell runs again" in capsys.readouterr().err
    assert table(tmp_path / "records") == whole
    assert repair(tmp_path / "records") == 0


def test_records_of_another_version_and_damaged_lines_are_named(tmp_path, finished):
    path = tmp_path / "records.jsonl"
    first, second = (finished / "records.jsonl").read_text().splitlines()[:2]
    path.write_text(first + "\n" + second.replace("inverse-record 1", "inverse-record 9") + "\n")
    with pytest.raises(
        InputError,
        match=r"records.jsonl, line 2: a record of another version: .*found 'inverse-record 9'",
    ):
        read_records(tmp_path)
    path.write_text(first + "\n{]\n" + second + "\n")
    with pytest.raises(InputError, match=r"line 2: not a record"):
        read_records(tmp_path)
    path.write_text(first.replace('"truth"', '"truht"') + "\n")
    with pytest.raises(InputError, match=r"truht, truth are unknown or missing"):
        read_records(tmp_path)


def test_a_row_with_a_changed_digit_is_refused(tmp_path, finished):
    path = tmp_path / "records.jsonl"
    first, second = (finished / "records.jsonl").read_text().splitlines()[:2]
    row = json.loads(second)
    path.write_text(first + "\n" + json.dumps(row | {"samples": row["samples"] + 1}) + "\n")
    with pytest.raises(InputError, match=r"line 2: the row was changed after it was written"):
        read_records(tmp_path)
    row.pop("checksum")
    path.write_text(first + "\n" + json.dumps(row) + "\n")
    notes = []
    assert len(read_records(tmp_path, notes.append)) == 2
    assert "1 of 2 rows were written without a checksum" in notes[0]
    path.write_text(json.dumps(row | {"seconds": float("nan")}) + "\n")
    with pytest.raises(InputError, match=r"line 1: not a record \(NaN is not JSON"):
        read_records(tmp_path)


def test_a_full_disk_leaves_whole_lines(tmp_path, finished, monkeypatch):
    record = read_records(finished)[0]
    append(tmp_path, record)
    write = os.write
    monkeypatch.setattr(
        os, "write", lambda descriptor, data: write(descriptor, data[: len(data) // 2])
    )
    with pytest.raises(InputError, match="disk is full"):
        append(tmp_path, replace(record, truth=5))
    monkeypatch.undo()
    assert (tmp_path / "records.jsonl").read_text() == record.to_json() + "\n"


def test_the_rows_of_a_cell_that_ran_again_are_replaced(tmp_path, finished):
    record = read_records(finished)[0]
    append(tmp_path, record)
    append(tmp_path, replace(record, cell="0" * 32, method={**record.method, "version": "new"}))
    (left,) = read_records(tmp_path)
    assert left.method["version"] == "new"


# --- continuing -------------------------------------------------------------------------------


def test_peak_memory_is_that_of_arrays(finished):
    """A solve holds at least the answer; growth of the process would often be zero."""
    records = [r for r in read_records(finished) if r.status == "ok"]
    assert records
    assert all(r.peak_memory >= 4 * 64 for r in records)


def test_a_finished_suite_computes_nothing(tmp_path):
    assert run(tmp_path).computed == 6
    before = (tmp_path / "records" / "records.jsonl").read_bytes()
    assert run(tmp_path).computed == 0
    assert (tmp_path / "records" / "records.jsonl").read_bytes() == before


def test_a_larger_suite_computes_what_is_new(tmp_path):
    run(tmp_path)
    done = run(tmp_path, SUITE.replace("[0, 1]", "[0, 1, 2]"))
    assert (done.total, done.computed) == (9, 3)


def test_a_new_metric_is_computed_from_the_artifacts(tmp_path):
    run(tmp_path)
    done = run(tmp_path, SUITE.replace('"crps"]', '"crps", "energy-score"]'))
    assert done.computed == 0
    scored = [record for record in read_records(tmp_path / "records") if record.status == "ok"]
    assert all(record.metrics["energy-score"] > 0 for record in scored)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    run(fresh, SUITE.replace('"crps"]', '"crps", "energy-score"]'))
    assert [record.metrics for record in scored] == [
        record.metrics for record in read_records(fresh / "records") if record.status == "ok"
    ]


def test_an_artifact_that_was_changed_is_refused(tmp_path):
    run(tmp_path)
    artifact = next((tmp_path / "records" / "artifacts").iterdir())
    artifact.write_bytes(artifact.read_bytes() + b" ")
    with pytest.raises(InputError, match=r"artifact .*: sha256 is .* not what was computed"):
        run(tmp_path, SUITE.replace('"crps"]', '"crps", "energy-score"]'))


METHODS_AB = [method_source(name).replace("yield 0 *", "yield 0.5 *") for name in ("mine", "other")]


def test_only_a_changed_method_runs_again(tmp_path, fresh_registry):
    """Comments and docstrings do not count as changes."""
    files = [tmp_path / "mine.py", tmp_path / "other.py"]
    for path, code in zip(files, METHODS_AB, strict=True):
        path.write_text(code)
    text = (
        SUITE.split("[[methods]]")[0]
        + '[[methods]]\nname = "mine"\n\n[[methods]]\nname = "other"\n'
    )

    def computed() -> int:
        plugins.registry.cache_clear()
        versions.version_of_modules.cache_clear()
        for path in files:
            plugins.registry().load_file(path)
        return run(tmp_path, text).computed

    assert computed() == 4
    files[0].write_text(
        METHODS_AB[0].replace("Answer mid-grey", "Answer nothing in particular") + "\n# the same\n"
    )
    assert computed() == 0
    files[0].write_text(METHODS_AB[0].replace("0.5", "0.25"))
    assert computed() == 2
    assert sorted(row["method"]["name"] for row in lines(tmp_path)) == ["mine"] * 4 + ["other"] * 2
    assert len(read_records(tmp_path / "records")) == 4


def test_versions_depend_on_the_code_alone():
    assert version_of(type(inverse.get_method("dps"))) != version_of(
        type(inverse.get_method("daps"))
    )
    assert version_of(type(inverse.get_method("dps"))) == version_of(
        type(inverse.get_method("dps", steps=7))
    )


def test_what_methods_run_on_is_the_core():
    """Plug-ins run on modules that the core version counts, or that decide no sample."""
    graph = module_graph()
    roots = [m for m in graph if m.count(".") == 1 and not m.startswith("inverse.")]
    reached, waiting = set(), roots
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting = [*waiting, *(n for n in graph[name] - reached if not n.startswith("inverse."))]
    used = {n.split(".")[1] for name in reached for n in graph[name] if n.startswith("inverse.")}
    files = (path.relative_to(ROOT / "inverse") for path in source.core_modules())
    counted = {file.parts[0].removesuffix(".py") for file in files}
    assert used - counted <= {"errors", "io", "metrics", "panel", "registry", "result"}
    assert {"posterior", "sampling", "engine"} <= counted


# --- interruption -----------------------------------------------------------------------------


ZYGOTE = """
import os, sys, torch
torch.set_num_threads(1)
import inverse.arena.run, inverse.command.app
from inverse.registry.discovery import get_problem
get_problem("bimodal").posterior(0)
for folder in sys.stdin:
    pid = os.fork()
    if not pid:
        os.chdir(folder.strip())
        sys.argv = ["inverse", "bench", "run", "tiny.toml", "--out", "records"]
        sys.stdout = open("log", "a")
        inverse.command.app.main()
        sys.stdout.flush()
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""
"""Forks a process for each run, so that twenty runs import torch once."""


@pytest.fixture
def start_run():
    """Start `inverse bench run` in a folder: its process id, and a function that waits for it."""
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as parent:

        def start(folder: Path):
            parent.stdin.write(f"{folder}\n")
            parent.stdin.flush()
            pid = int(parent.stdout.readline())
            return pid, lambda: int(parent.stdout.readline())

        yield start
        parent.stdin.close()


def rows(folder: Path) -> int:
    path = folder / "records" / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_and_continue(start_run, tmp_path: Path, kills: int, text: str, seed: int) -> None:
    """SIGKILL a run `kills` times and compare the records with those of an undisturbed run.

    Each kill comes a random time after the run wrote another record.
    """
    undisturbed, killed, draw = tmp_path / "undisturbed", tmp_path / "killed", random.Random(seed)
    for folder in (undisturbed, killed):
        folder.mkdir()
        write_suite(folder, text)
    _, ended = start_run(undisturbed)
    assert ended() == 0
    for _ in range(kills):
        before = rows(killed)
        pid, ended = start_run(killed)
        deadline = time.monotonic() + 120
        while rows(killed) == before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(ended()) == signal.SIGKILL, "the run was over before the last kill"
        assert rows(killed) > before
    _, ended = start_run(killed)
    assert ended() == 0
    assert table(killed / "records") == table(undisturbed / "records")
    assert rows(killed) == rows(undisturbed)
    names = {record.artifact for record in read_records(undisturbed / "records") if record.artifact}
    assert {
        f"artifacts/{path.name}" for path in (killed / "records" / "artifacts").glob("*.h5")
    } == names


def many(truths: int) -> str:
    return (
        SUITE.replace("[0, 1]", str(list(range(truths))))
        .replace('[[methods]]\nname = "tikhonov"\n', "")
        .replace("nfe = 10", "nfe = 30")
    )


def test_three_kills_leave_the_table_of_an_undisturbed_run(start_run, tmp_path):
    kill_and_continue(
        start_run,
        tmp_path,
        3,
        many(8).replace('"bimodal"', '"bimodal"\n\n[[problems]]\nname = "mixture"'),
        seed=0,
    )


@pytest.mark.slow
def test_twenty_kills_leave_the_table_of_an_undisturbed_run(start_run, tmp_path):
    text = (
        many(8)
        .replace('"bimodal"', '"bimodal"\n\n[[problems]]\nname = "mixture"')
        .replace("samples = 4", "samples = 4\nseeds = [0, 1, 2, 3, 4, 5, 6]")
    )
    kill_and_continue(start_run, tmp_path, 20, text, seed=1)


def test_two_runs_in_one_folder_are_refused(tmp_path, command):
    from inverse.arena.run import locked

    with locked(tmp_path / "records"):
        outcome = command("bench", "run", write_suite(tmp_path), "--out", tmp_path / "records")
    outcome.refused("another run uses this folder", str(os.getpid()))


def test_an_interrupted_run_says_how_to_continue(tmp_path):
    outcome = process(
        "bench",
        "run",
        write_suite(tmp_path, many(8)),
        "--out",
        tmp_path / "records",
        interrupt_when=lambda: rows(tmp_path) > 2,
    )
    assert outcome.code == 130, outcome
    assert "run the same command again to continue" in outcome.err
    kept = rows(tmp_path)
    assert 2 < kept < 16
    assert run(tmp_path, many(8)).computed == 16 - kept


# --- doing it again ---------------------------------------------------------------------------


def test_any_cell_is_the_same_bit_for_bit(finished):
    for record in read_records(finished)[::2]:
        found = reproduce(finished, record.cell[:16])
        assert found.equal, found.differences
        assert found.outcome.record.metrics == record.metrics


def test_the_recorded_command_runs(finished, command):
    record = read_records(finished)[0]
    words = record.command.split()
    assert words[0] == "inverse"
    outcome = command(*words[1:])
    assert outcome.code == 0, outcome
    assert outcome.out.splitlines()[-1] == "the same, bit for bit"


def test_a_different_answer_is_reported(tmp_path, finished, command):
    record = next(record for record in read_records(finished) if record.method["name"] == "dps")
    append(tmp_path, replace(record, metrics={**record.metrics, "rmse": 1.0}))
    outcome = command("bench", "reproduce", record.cell[:8], "--records", tmp_path)
    assert outcome.code == 1
    assert "metrics is" in outcome.out
    command("bench", "reproduce", "ffff", "--records", tmp_path).refused(
        "cell 'ffff': no records", "bench ls"
    )


# --- the floor --------------------------------------------------------------------------------


def test_the_floor_sums_the_counted_evaluations():
    floor = Floor(forward=1.0, vjp=10.0, A=100.0, A_adjoint=1000.0)
    assert floor.seconds({"nfe": 2, "vjp": 3, "A": 4, "A_adjoint": 5}) == 2 + 30 + 400 + 5000


def test_the_floor_measures_the_prior():
    class Slow(inverse.FlatPrior):
        def forward(self, x, sigma):
            time.sleep(0.01)
            return x

    problem = inverse.get_problem("denoise")
    posterior = problem.posterior(torch.full((3, 8, 8), 0.5), prior=Slow((3, None, None)))
    found = measure_floor(posterior.rows(2))
    assert 0.01 <= found.forward < 0.03
    assert found.A < 0.005


def test_the_warm_up_is_not_counted(finished):
    """The first cell of a method has the same cost as the others."""
    costs = {
        json.dumps(record.cost)
        for record in read_records(finished)
        if record.method["name"] == "dps"
    }
    assert len(costs) == 1


# --- comparing --------------------------------------------------------------------------------


def rows_of(scores: dict[str, list[float]], metric: str = "psnr", **also) -> list[Record]:
    shared = {
        "problem": {"name": "deblur", "options": {}},
        "prior": {"name": "p", "sha256": ""},
        "seed": 0,
        "samples": 1,
        "cost": {"nfe": 10, "vjp": 0},
        **also,
    }
    return [
        Record(
            cell=f"{name}{truth}",
            method={"name": name, "options": {}, "given": {}},
            truth=truth,
            metrics={metric: score},
            **shared,
        )
        for name, found in scores.items()
        for truth, score in enumerate(found)
    ]


def test_compare_finds_the_regression_and_nothing_else():
    before = rows_of({"a": [30.0, 31.0, 29.0, 30.5, 30.0], "b": [25.0, 26.0, 24.0, 25.0, 25.0]})
    after = rows_of({"a": [28.0, 29.1, 27.0, 28.4, 28.0], "b": [25.0, 26.2, 23.9, 25.1, 24.9]})
    found = compare_records(before, after)
    assert [(change.method, change.metric) for change in found.changes if change.worse] == [
        ("a", "psnr")
    ]
    (worse,) = (change for change in found.changes if change.worse)
    assert worse.change.mean == pytest.approx(-2.0)
    assert worse.change.low < -2.0 < worse.change.high < 0
    assert not compare_records(before, after, threshold=0.1).regressed
    assert not compare_records(after, before).regressed


def test_compare_takes_the_distance_to_an_ideal_value():
    before = rows_of({"a": [1.5, 1.6, 1.4]}, "misfit")
    after = rows_of({"a": [1.0, 1.1, 0.9]}, "misfit")
    assert not compare_records(before, after).regressed
    assert compare_records(after, before).regressed


def test_compare_counts_a_cell_that_no_longer_finishes_as_broken():
    before = rows_of({"a": [30.0, 31.0]})
    after = [before[0], replace(before[1], status="failed", reason="diverged", metrics={})]
    found = compare_records(before, after)
    assert found.regressed
    assert found.broken == ["deblur, a, truth 1, seed 0: failed (diverged)"]


def test_compare_refuses_sets_without_common_cells():
    with pytest.raises(InputError, match="sets of 1 and 1 cells have none in common"):
        compare_records(rows_of({"a": [1.0]}), rows_of({"b": [1.0]}))


def test_compare_exits_with_one_on_a_regression(tmp_path, command):
    for folder, shift in (("a", 0.0), ("b", -2.0)):
        (tmp_path / folder).mkdir()
        for record in rows_of({"x": [30.0 + shift, 31.0 + 1.1 * shift, 29.0 + shift]}):
            append(tmp_path / folder, record)
    assert command("bench", "compare", "a", "b").code == 1
    assert command("bench", "compare", "a", "a").code == 0
    assert command("bench", "compare", "b", "a").code == 0
    command("bench", "compare", "a", "b", "--metric", "nonsense").refused(
        "no cell of both sets has the metric 'nonsense'"
    )


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ('"bimodal"', '"bimodel"'),
            ("line 8, problems.1.name", "problem 'bimodel' is not known; did you mean 'bimodal'?"),
        ),
        (
            ('name = "dps"', 'name = "red-dif"'),
            ("line 14, methods.2.name", "did you mean 'red-diff'?"),
        ),
        (('"crps"]', '"crsp"]'), ("line 5, metrics.3", "did you mean 'crps'?")),
        (
            ('name = "dps"', 'name = "dps"\ngrid = { zeta = [1, -1], steps = [0] }'),
            ("line 15, methods.2.grid", "steps must be at least 1", "zeta"),
        ),
        (
            ('name = "dps"', 'name = "dps"\ngrid = { zeta = [] }'),
            ("line 15, methods.2.grid", "at least 1 item"),
        ),
        (
            ('name = "dps"', 'name = "dps"\ngrid = { zeta = [1, 1] }'),
            ("line 13, methods.2", "appears twice"),
        ),
        (
            ('name = "dps"', 'name = "dps"\noptions = { zeta = 1 }\ngrid = { zeta = [2] }'),
            ("methods.2", "both in options and in the grid"),
        ),
        (
            ('name = "dps"', 'name = "dps"\noptions = { zeat = 1 }'),
            ("line 14, methods.2.name", "dps has no option 'zeat'; did you mean 'zeta'?"),
        ),
        (("nfe = 10", "nef = 10"), ("line 20, budgets.1.nef", "did you mean 'nfe'?")),
        (("nfe = 10", ""), ("line 19, budgets.1", "a budget needs nfe, vjp or seconds")),
        (("nfe = 10", "nfe = 0"), ("line 20, budgets.1.nfe", "greater than or equal to 1, got 0")),
        (("samples = 4", 'samples = "four"'), ("line 4, samples", "got 'four'")),
        (("truths = [0, 1]", "truths = [0, -1]"), ("line 3, truths.2", "got -1")),
        (
            ("samples = 4", "samples = 4\nsample = 4"),
            ("line 5, sample", "no such key; did you mean 'samples'?"),
        ),
        (("samples = 4", "samples = "), ("not TOML", "line 4")),
        (
            ('name = "bimodal"', 'name = "bimodal"\ncrop = 32'),
            ("line 9, problems.1.crop", "needs a problem of photographs"),
        ),
        (
            ('name = "dps"', 'name = "dps"\nproblems = ["deblur"]'),
            ("line 15, methods.2.problems", "no problem 'deblur' in this suite"),
        ),
        (
            (
                'name = "dps"',
                'name = "dps"\n'
                'tuned = { problem = "bimodal", truths = [1, 2], metric = "rmse", trials = 3 }',
            ),
            ("line 15, methods.2.tuned", "dps was tuned on truths [1] of bimodal"),
        ),
        (
            ("truths = [0, 1]", "truths = [0, 99]"),
            ("bimodal: truth 99 does not exist; there are 8",),
        ),
    ],
)
def test_an_invalid_suite_is_refused_with_line_and_key(tmp_path, command, change, words):
    assert change[0] in SUITE
    command(
        "bench", "run", write_suite(tmp_path, SUITE.replace(*change)), "--out", "records"
    ).refused(*words)
    assert not (tmp_path / "records" / "records.jsonl").exists()


def test_unknown_names_and_places_are_refused(tmp_path, command):
    command("bench", "run", "smoek").refused(
        "neither a .toml file nor a shipped suite", "did you mean 'smoke'?"
    )
    command("bench", "run", tmp_path / "no.toml").refused("cannot be read")
    command("bench", "ls", tmp_path).refused("no records.jsonl found")
    command(
        "bench",
        "run",
        write_suite(tmp_path, SUITE.replace("samples = 4", 'device = "cuda:7"')),
        "--out",
        "r",
    ).refused("device 'cuda:7' is not available")
    command("bench", "run", write_suite(tmp_path), "--executor", "slurm", "--out", "r").refused(
        "executor must be local or ray, got 'slurm'"
    )
    command("bench", "run", write_suite(tmp_path), "--address", "a:1", "--out", "r").refused(
        "--address needs --executor ray"
    )


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, command):
    (tmp_path / "file").write_text("")
    command("bench", "run", write_suite(tmp_path), "--out", tmp_path / "file").refused(
        "cannot be written", "--out"
    )


def test_a_metric_that_does_not_apply_is_null(tmp_path):
    run(tmp_path, SUITE.replace('"crps"]', '"crps", "psnr", "coverage"]'))
    for record in read_records(tmp_path / "records"):
        if record.status == "ok":
            assert record.metrics["psnr"] is None  # no image
            assert record.metrics["coverage"] is None  # four samples are too few
            assert record.metrics["rmse"] > 0


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_suite_is_valid(name):
    assert load_suite(name).title


# --- tuning -----------------------------------------------------------------------------------


def test_tune_refuses_truths_that_the_suite_tests_on(tmp_path, command):
    suite = write_suite(tmp_path)
    base = ("tune", "dps", "bimodal", "--metric", "rmse", "--suite", suite, "--range")
    command(*base, "zeta=0.1:10:log", "--truths", "1,2").refused(
        "the suite tests on truths [1] of bimodal"
    )
    command(*base, "zeta=10:0.1", "--truths", "2").refused("name=low:high")
    command(*base, "zeta=0:1:log", "--truths", "2").refused("low above 0")
    command(*base, "zeta=0.1:1", "--truths", "two").refused("whole numbers")


def test_tune_improves_on_the_defaults_and_writes_an_entry_for_a_suite(tmp_path, command):
    pytest.importorskip("optuna")
    outcome = command(
        "tune",
        "dps",
        "bimodal",
        "--metric",
        "rmse",
        "--truths",
        "4,5,6,7",
        "--range",
        "zeta=0.01:100:log",
        "--trials",
        12,
        "--set",
        "steps=10",
        "--samples",
        4,
        "--out",
        tmp_path / "tuned.toml",
    )
    assert outcome.code == 0, outcome.err
    best, default = (
        float(word.rstrip(","))
        for word in outcome.out.splitlines()[0].replace(",", " ").split()
        if word.replace(".", "").isdigit()
    )
    assert best < default
    head = SUITE.split("[[methods]]")[0].replace("[0, 1]", "[0]")
    run(tmp_path, head + (tmp_path / "tuned.toml").read_text())
    (record,) = read_records(tmp_path / "records")
    assert record.tuned == "tuned on bimodal, truths 4,5,6,7, seeds 0: rmse, 12 trials"
    with pytest.raises(InputError, match=r"tuned on truths \[4\]"):
        run(tmp_path, head.replace("[0]", "[0, 4]") + (tmp_path / "tuned.toml").read_text())


# --- Ray --------------------------------------------------------------------------------------


def test_missing_or_unreachable_ray_is_reported(tmp_path, command):
    words = (
        ("nothing answers at '127.0.0.1:9'",)
        if _has_ray()
        else ("the package ray is not installed",)
    )
    command(
        "bench",
        "run",
        write_suite(tmp_path),
        "--executor",
        "ray",
        "--address",
        "127.0.0.1:9",
        "--out",
        "r",
    ).refused(*words)


def _has_ray() -> bool:
    import importlib.util

    return importlib.util.find_spec("ray") is not None


MORTAL = '''
import os, pathlib
from dataclasses import dataclass
import inverse

@dataclass(frozen=True)
class Mortal(inverse.Method):
    """Kills its process the first time that it runs beyond the warm-up."""
    name = "mortal"
    steps: int = 3

    def run(self, posterior, samples, generator):
        mark = pathlib.Path(os.environ["MORTAL"])
        if self.steps == 3 and not mark.exists():
            mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), 9)
        yield inverse.standard_normal(posterior, generator)

@inverse.hookimpl
def inverse_methods():
    return [Mortal]
'''


@pytest.mark.slow
def test_ray_gives_the_records_of_a_local_run_although_a_worker_is_killed(
    tmp_path, monkeypatch, fresh_registry
):
    """Two workers on this machine; a method kills the first worker that runs it."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("MORTAL", str(tmp_path / "killed"))
    monkeypatch.chdir(tmp_path)
    plugin = tmp_path / "mortal.py"
    plugin.write_text(MORTAL)
    plugins.registry().load_file(plugin)
    suite = load_suite(
        write_suite(tmp_path, SUITE.split("[[budgets]]")[0].replace('"tikhonov"', '"mortal"'))
    )
    done = run_suite(
        suite, Request(Path("records"), executor="ray", workers=2, plugins=(str(plugin),))
    )
    assert (tmp_path / "killed").exists()
    assert (done.total, done.computed, done.failed) == (6, 6, 0)
    cluster = table(tmp_path / "records").replace('"executor": "ray"', '"executor": "local"')
    (tmp_path / "records").rename(tmp_path / "cluster")
    run_suite(suite, Request(Path("records"), plugins=(str(plugin),)))
    assert cluster == table(tmp_path / "records")


# --- what a cell is ---------------------------------------------------------------------------


def test_the_hash_of_a_cell_changes_with_everything_that_determines_its_numbers(finished):
    cell = Cell.of(read_records(finished)[0])
    changes = {
        "problem": {**cell.problem, "options": {"sigma_y": 9}},
        "method": {**cell.method, "version": "other"},
        "prior": {**cell.prior, "sha256": "other"},
        "truth": 7,
        "seed": 7,
        "samples": 7,
        "budget": {"nfe": 7},
        "observation": "other",
        "dtype": "float64",
        "device": "cuda",
        "packages": {"torch": "0"},
    }
    names = {replace(cell, **{name: value}).digest for name, value in changes.items()}
    assert len(names | {cell.digest}) == len(changes) + 1
    assert replace(cell, metrics=("psnr",), device="cpu:0").digest == cell.digest


def test_scoring_is_not_timed(monkeypatch):
    """A slow metric does not change the seconds of a record."""
    from inverse.metrics.shipped import METRICS

    problem = inverse.get_problem("bimodal")
    about = describe(problem, "", None)
    observation = Bank(None).get(problem, about, 0, 0)
    method = {"name": "pseudo-inverse", "options": {}, "version": "", "given": {}}
    monkeypatch.setitem(METRICS, "slow", lambda result: time.sleep(0.2) or 1.0)
    prior = {"name": "p", "sha256": "", "source": None}
    cell = Cell(
        problem=about, method=method, prior=prior, truth=0, seed=0, samples=1, metrics=("slow",)
    )
    record = Worker().compute(cell, observation).record
    assert record.metrics == {"slow": 1.0}
    assert record.seconds < 0.1
