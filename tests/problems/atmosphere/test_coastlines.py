"""Coastlines on maps, and the valid time in their titles."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import inverse
from inverse_problems.atmosphere.analysis_map import _time_label
from inverse_problems.atmosphere.coastlines import coastlines


def distance(line, longitude, latitude):
    """Degrees from a place to the nearest point of a line."""
    return np.nanmin(np.hypot(line[:, 0] - longitude, line[:, 1] - latitude))


@pytest.mark.parametrize("turn", [0, 360])
def test_coasts_lie_where_they_are(turn):
    """Land's End and Dover are at the sea; Birmingham is 100 km inland."""
    line = coastlines(-8 + turn, 4 + turn, 49, 59)
    assert distance(line, -5.71 + turn, 50.07) < 0.1
    assert distance(line, 1.35 + turn, 51.13) < 0.1
    assert distance(line, -1.9 + turn, 52.48) > 0.9


def test_the_line_has_no_jumps():
    """Parts are broken by NaN; none crosses the map."""
    line = coastlines(0, 357, -90, 90)
    steps = np.abs(np.diff(line[:, 0]))
    assert np.nanmax(steps) < 20
    assert np.isfinite(line).any()


def test_the_pacific_has_coasts_on_both_sides_of_the_date_line():
    line = coastlines(150, 200, -50, -30)
    assert distance(line, 174.8, -41.3) < 0.2  # Wellington
    assert not np.isfinite(coastlines(-150, -140, 25, 50)).any()


def test_a_map_has_coasts_and_its_valid_time(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    titles, lines = [], []
    set_title, plot = Axes.set_title, Axes.plot
    monkeypatch.setattr(
        Axes, "set_title", lambda a, t, *k, **w: (titles.append(t), set_title(a, t, *k, **w))[1]
    )
    monkeypatch.setattr(Axes, "plot", lambda a, *k, **w: (lines.append(w), plot(a, *k, **w))[1])
    problem = inverse.get_problem("atmosphere", count=5, factor=8)
    posterior = problem.posterior(0)
    result = inverse.solve(posterior, "tikhonov")
    problem.export(result, tmp_path)
    assert len([w for w in lines if w.get("label") == "_coast"]) == 4
    assert titles[0] == "observed"


@pytest.mark.parametrize(
    ("start", "hours", "label"),
    [
        (None, 1, ""),
        (None, 3, ", hour 2"),
        ("2019-03-28T22", 1, ", valid 2019-03-29T00:00"),
        ("2019-03-28T22", 3, ", valid 2019-03-29T00:00"),
    ],
)
def test_the_title_has_the_valid_time(start, hours, label):
    time = None if start is None else np.datetime64(start, "ns")
    scene = SimpleNamespace(start=time, domain=SimpleNamespace(hours=hours))
    assert _time_label(scene, 2 if hours > 1 or start else 0).startswith(label)
