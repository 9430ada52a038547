"""Options drawn at random build a plug-in or are refused with an InverseError: nothing else."""

from __future__ import annotations

import pytest

import inverse
from inverse.errors import InverseError
from inverse.registry.discovery import registry
from inverse.registry.options import options

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

pytestmark = pytest.mark.slow

NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2, 0.5, 1e-300, 1e300, float("inf"), float("nan"), 10**20, 10**7]),
    st.integers(),
    st.floats(),
)
TEXTS = st.one_of(
    st.sampled_from(["", "auto", "none", "true", "1,2", "a:1,b:2", "1e999", "ddim:eta=2", ":"]),
    st.text(max_size=12),
)
VALUES = st.one_of(NUMBERS, TEXTS, st.none(), st.booleans(), st.lists(NUMBERS, max_size=3))
BOUNDED = hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


def drawn(data, cls):
    """Up to three options of a class by name, with values of any kind."""
    names = [option.name for option in options(cls)] or ["nothing"]
    return data.draw(st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=3))


@pytest.mark.parametrize(
    ("get", "name"),
    [
        (get, name)
        for get, hook in (
            (inverse.get_method, "inverse_methods"),
            (inverse.get_problem, "inverse_problems"),
        )
        for name in sorted(registry().table(hook))
    ],
)
def test_options_are_heard_or_refused_in_one_line(get, name):
    cls = type(get(name))

    @BOUNDED
    @hypothesis.given(st.data())
    def check(data):
        message = ""
        try:
            get(name, **drawn(data, cls))
        except InverseError as error:
            message = str(error)
        assert "\n" not in message

    check()
