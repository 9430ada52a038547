"""Ninety small runs give the hashes that were stored on this machine."""

import json

import fingerprint
import pytest


@pytest.mark.slow
def test_every_small_run_is_bit_identical():
    remembered = json.loads(fingerprint.FILE.read_text())
    if remembered["machine"] != fingerprint.machine():
        pytest.skip(
            f"the hashes were stored on {remembered['machine']}; "
            "`python tests/fingerprint.py --write` stores those of this machine"
        )
    assert fingerprint.differences(fingerprint.fingerprints(), remembered["cells"]) == []
