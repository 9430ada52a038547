"""A refactoring changes no number: ninety small runs are bit-identical to what is remembered of this machine."""

import json

import fingerprint
import pytest


@pytest.mark.slow
def test_every_small_run_is_bit_identical():
    remembered = json.loads(fingerprint.FILE.read_text())
    if remembered["machine"] != fingerprint.machine():
        pytest.skip(
            f"hashes were written on {remembered['machine']}; `python tests/fingerprint.py --write` remembers those of this machine"
        )
    assert fingerprint.differences(fingerprint.fingerprints(), remembered["cells"]) == []
