"""What the machine refuses (memory, files) and Ctrl-C at any time: one line, no traceback."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from cli_fixtures import write_picture

import inverse
from inverse.command import app
from inverse.engine import device_errors
from inverse.errors import MemoryLimitError, is_out_of_memory
from inverse.memory import what_fits

FAILURES = [
    MemoryError(),
    MemoryError("Unable to allocate 14.9 GiB for an array with shape (20000, 100000)"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a primitive"),
    RuntimeError("could not create a primitive descriptor for a convolution"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 16000000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 512 bytes."),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", FAILURES, ids=str)
def test_an_allocation_failure_is_one_line_with_what_would_fit(error, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(app, "app", fail)
    monkeypatch.setattr(sys, "argv", ["inverse", "solve"])
    with pytest.raises(SystemExit) as stop:
        app.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1
    assert "not enough memory" in said
    assert "sides" in said


@pytest.mark.parametrize("error", [e for e in FAILURES if not isinstance(e, OSError)], ids=str)
def test_a_solve_that_runs_out_of_memory_is_an_error_of_one_image(error):
    with (
        pytest.raises(MemoryLimitError, match=r"ran out of memory in step 3.* sides"),
        device_errors(torch.device("cpu"), lambda: "in step 3"),
    ):
        raise error


def test_other_errors_are_not_taken_for_memory():
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("not enough memory"))


def test_what_would_fit_follows_from_the_bytes_that_were_asked_for(monkeypatch):
    """A quarter of twice the bytes are free: half of the sides."""
    monkeypatch.setattr("inverse.memory.free_memory", lambda device: 2**30)
    assert "image of 35% of its sides" in what_fits(RuntimeError("tried to allocate 4 GiB"))
    assert "half its sides" in what_fits(MemoryError())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EFBIG, "File too large", "out/result.h5"), "cannot write to out/result.h5"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write (No space left"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 9), "xxxxxxxxx: File name too"),
        (PermissionError(errno.EACCES, "Permission denied", "a.png"), "a.png: Permission denied"),
    ],
)
def test_a_file_that_the_system_refuses_is_one_line(error, words, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(app, "app", fail)
    monkeypatch.setattr(sys, "argv", ["inverse", "solve"])
    with pytest.raises(SystemExit) as stop:
        app.main()
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert words in said


@pytest.mark.parametrize("method", ["tv", "pnp-flow"])
def test_a_picture_beyond_the_memory_of_the_process_is_one_line(tmp_path, method):
    """The address space is limited to what the imports take and 300 MB more."""
    picture = write_picture(tmp_path / "large.png", np.zeros((3000, 3000, 3), np.uint8))
    given = ["solve", "--problem", "denoise", "--method", method, "--restore", str(picture)]
    given += ["--out", str(tmp_path / "out"), "--problem-option", "sigma_y=0.1"]
    script = (
        "import re, resource, sys, torch, inverse, inverse.command.solve; inverse.physics\n"
        "status = open('/proc/self/status').read()\n"
        "limit = int(re.search(r'VmSize:\\s+(\\d+)', status)[1]) * 1024 + 300_000_000\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        f"sys.argv = ['inverse', *{given!r}]\n"
        "from inverse.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "memory" in done.stderr or "GiB" in done.stderr


def test_a_file_size_limit_is_one_line(tmp_path):
    """EFBIG: the results exceed what the process may write."""
    picture = write_picture(tmp_path / "a.png")
    given = ["solve", "--problem", "denoise", "--method", "tv", "--restore", str(picture)]
    done = subprocess.run(
        [sys.executable, "-m", "inverse", *given, "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        ),
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    "command",
    [
        ["solve", "--problem", "deblur", "--method", "dps"],
        ["methods"],
        ["bench", "--help"],
    ],
)
def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path, command):
    """From the first import after the handler is installed to the end of the process."""
    script = (
        "import sys; from inverse.__main__ import main\n"
        "class Ready:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'inverse.command.app': print('ready', flush=True)\n"
        f"sys.meta_path.insert(0, Ready()); sys.argv = ['inverse', *{command!r}]; main()"
    )
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8):
        child = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(delay)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=100)
        assert "Traceback" not in said, (delay, said)
        if child.returncode == 0:
            break  # it was done before
        assert (child.returncode, "interrupted" in said) == (130, True), (delay, said)


def test_an_ignored_interrupt_stays_ignored(tmp_path):
    """`nohup inverse ... &` in a script starts with SIGINT ignored."""
    child = subprocess.Popen(
        [sys.executable, "-m", "inverse", "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    child.send_signal(signal.SIGINT)
    out, said = child.communicate(timeout=60)
    assert (child.returncode, out, said) == (0, f"inverse {inverse.__version__}\n", "")
