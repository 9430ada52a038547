"""The mistakes of a plug-in's author are one line with the plug-in's name and file."""

import functools

import pytest
import torch

import inverse
from inverse.errors import InverseError
from inverse.registry import discovery

HEAD = """
from dataclasses import dataclass
import inverse
@dataclass(frozen=True)
class Odd(inverse.Method):
    name = "odd"
    claim = "none"
    {fields}
    def run(self, posterior, samples, generator):
        z = inverse.standard_normal(posterior, generator)
        {body}
@inverse.hookimpl
def inverse_methods():
    return [Odd]
"""


@pytest.mark.parametrize(
    ("fields", "body", "words"),
    [
        ("", "return z", "must yield its iterates, it returned Tensor"),
        ("", "return None", "must yield its iterates, it returned NoneType"),
        ("", "yield z[..., :1]", "it yielded (1, 2, 1) of float32"),
        ("", "yield z[0]", "must yield real tensors"),
        ("", "yield z.numpy()", "it yielded ndarray"),
        ("", "yield None", "it yielded NoneType"),
        ("", "yield z + 0j", "of complex64"),
        ("", "yield z.int()", "of int32"),
        ("", "yield inverse.Weighted(z[0], None)", "must yield real tensors"),
        ("a: int", "yield z", "option a has no default"),
        ("a: bytes = b''", "yield z", "option a has the type bytes"),
        ("def __post_init__(self): raise ValueError('a > 0')", "yield z", "a > 0"),
        ("def __post_init__(self): self.b = 3", "yield z", "cannot assign to field 'b'"),
        ("def unfinished(self)", "yield z", "SyntaxError"),
        ("import no_such_module", "yield z", "No module named 'no_such_module'"),
    ],
)
def test_each_mistake_is_one_line(fields, body, words, tmp_path, monkeypatch):
    monkeypatch.setattr(discovery, "registry", fresh := functools.cache(load))
    file = tmp_path / "odd_plugin.py"
    file.write_text(HEAD.format(fields=fields, body=body))
    posterior = inverse.Posterior(
        inverse.GaussianPrior(torch.zeros(2, 2), torch.eye(4)),
        inverse.operator(lambda x: x, shape=(2, 2)),
        torch.zeros(1, 2, 2),
        inverse.GaussianNoise(0.1),
    )

    def solve():
        fresh().load_file(file)
        inverse.solve(posterior, "odd")

    with pytest.raises(InverseError) as caught:
        solve()
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert "odd" in message
    assert "odd_plugin.py" in message


def load():
    registry = discovery.Registry()
    registry.load_entry_points()
    return registry
