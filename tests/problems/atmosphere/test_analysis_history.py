"""The history of an analysis is the command that wrote it."""

import sys

from inverse_problems.atmosphere.analysis_file import _command


def test_history_is_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/bin/inverse", "solve", "--out", "a b"])
    assert _command() == "inverse solve --out 'a b'"
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert _command() == ""
