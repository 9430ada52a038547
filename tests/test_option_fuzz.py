"""Options drawn at random build a plug-in or are refused with an InverseError: nothing else."""

from __future__ import annotations

import dataclasses
import types
import typing

import pytest

import inverse
from inverse.errors import InverseError
from inverse.registry.discovery import registry
from inverse.registry.options import options
from inverse.registry.types import check_ranges

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

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


PLUGINS = [
    (get, name)
    for get, hook in (
        (inverse.get_method, "inverse_methods"),
        (inverse.get_problem, "inverse_problems"),
    )
    for name in sorted(registry().table(hook))
]


def numeric(hint) -> bool:
    """Whether an annotation admits a bare number."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return numeric(args[0])
    if origin in (types.UnionType, typing.Union):
        return any(map(numeric, args))
    return hint in (int, float)


@pytest.mark.parametrize(("get", "name"), PLUGINS)
def test_every_number_has_a_declared_range(get, name):
    """1e29 and -1e29 are in no range: a field without bounds would take one of them."""
    cls = type(get(name))
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if field.init and numeric(hints[field.name]):
            for value in (1e29, -1e29, float("nan"), float("inf")):
                with pytest.raises(InverseError):
                    check_ranges(value, hints[field.name], field.name)
                with pytest.raises(InverseError):
                    cls(**{field.name: value})


@pytest.mark.slow
@pytest.mark.parametrize(("get", "name"), PLUGINS)
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
