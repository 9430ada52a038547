"""A thorough verification says how long it takes, and resumes after an interruption."""

from dataclasses import dataclass

import pytest

import inverse
from inverse.checks import claims, exact_cases, thorough, trials
from inverse.command.verify import run
from inverse.errors import UnsupportedError

CASES = (
    exact_cases.Case("random", "gaussian", {"side": 4, "view": "random"}),
    exact_cases.Case("tiny", "photo-torus", {"side": 8, "view": "blur"}, True, True, True),
    exact_cases.Case("small", "photo-torus", {"side": 8}, True, True, True),
)


@dataclass(frozen=True)
class Patient(inverse.Method):
    """Draws that ignore y, until it is interrupted."""

    name = "patient"
    claim = "none"
    limit = {}
    runs = []
    interrupted_at = None

    def run(self, posterior, samples, generator):
        self.runs.append((posterior.y.shape[1:], samples))
        if posterior.y.shape[1:] == self.interrupted_at and samples > 2:
            raise KeyboardInterrupt
        yield inverse.standard_normal(posterior, generator)


@pytest.fixture
def small_cases(monkeypatch):
    for module in (claims, exact_cases, thorough):
        monkeypatch.setattr(module, "all_cases", lambda: CASES)
    exact_cases.reference.cache_clear()
    monkeypatch.setattr(Patient, "runs", [])
    yield
    exact_cases.reference.cache_clear()


def verify_patient(out):
    return run([Patient()], 100, 0, None, out, as_json=True, thorough=True)


def test_an_interrupted_verification_resumes_with_the_case_it_stopped_at(
    small_cases, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(Patient, "interrupted_at", (1, 2, 2))
    with pytest.raises(KeyboardInterrupt):
        verify_patient(tmp_path)
    told = capsys.readouterr().err
    assert told.startswith("inverse: the thorough cases take at most about 0 seconds more")
    assert (tmp_path / "thorough.jsonl").exists()
    monkeypatch.setattr(Patient, "interrupted_at", None)
    monkeypatch.setattr(Patient, "runs", [])
    assert verify_patient(tmp_path) == 0
    assert capsys.readouterr().err.startswith("inverse: resuming: 2 cases are done")
    shapes = [shape for shape, samples in Patient.runs if samples == 40]
    assert shapes == [(1, 2, 2)]  # neither the blur nor the probe again
    assert not (tmp_path / "thorough.jsonl").exists()


def test_stored_cases_of_another_request_are_dropped(small_cases, tmp_path):
    path, method = tmp_path / "thorough.jsonl", Patient()
    made = exact_cases.reference("tiny", 100)
    measured = trials.measure(method, made)
    thorough.Progress(path, [method], 100, 0).add(method, measured)
    again = thorough.Progress(path, [method], 100, 0).known(method)
    assert again == {"tiny": measured}
    assert thorough.Progress(path, [method], 100, 1).known(method) == {}
    path.write_bytes(b"\xff broken")
    assert thorough.Progress(path, [method], 100, 0).known(method) == {}


def test_a_method_that_cannot_run_takes_no_time(small_cases, monkeypatch):
    def refuse(self, posterior, samples, generator):
        raise UnsupportedError("no")

    monkeypatch.setattr(Patient, "run", refuse)
    assert thorough.estimated_seconds(Patient(), 100) == 0.0


def test_default_cases_leave_the_thorough_ones_out(small_cases):
    assert [m.case for m in inverse.verify(Patient(), samples=100).cases] == ["random"]
