"""Install the package with the lowest versions that pyproject.toml admits, and run it.

    python bench/lowest_versions.py --python python3.11 python3.12 python3.13

For each interpreter: a new virtual environment in which every dependency has the lowest release of
its range, or the lowest that the index has a wheel of for this interpreter; then `inverse --help`,
`inverse solve --help` and one solve. The record names what was installed. It takes minutes and
some gigabytes for each interpreter.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = (
    ["--help"],
    ["solve", "--help"],
    ["methods"],
    ["solve", "--problem", "denoise", "--method", "tv", "--steps", "20", "--out", "out"],
    ["solve", "--problem", "deblur", "--method", "red-diff", "--steps", "2", "--out", "out2"],
)


def lowest(requirement: str) -> str:
    """`torch>=2.4` -> `torch==2.4.*`, the range in which the lowest release lies."""
    name, version = re.match(r"([\w.-]+)>=([\d.]+)", requirement).groups()
    return f"{name}=={version}.*" if version.count(".") < 2 else f"{name}=={version}"


def run(*command: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )


def installed(python: Path, requirement: str, index: list[str]) -> str:
    """Install the lowest release of a requirement that has a wheel; returns what was installed."""
    for wanted in (lowest(requirement), requirement):
        done = run(python, "-m", "pip", "install", "-q", "--only-binary=:all:", *index, wanted)
        if done.returncode == 0:
            return wanted
    raise SystemExit(f"{requirement}: {done.stderr.strip().splitlines()[-1]}")


def check(interpreter: str, index: list[str]) -> dict[str, object]:
    """What was installed for an interpreter, and what each command did."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        if (made := run(interpreter, "-m", "venv", folder)).returncode:
            raise SystemExit(f"{interpreter}: {made.stderr.strip()}")
        python = Path(folder) / "bin" / "python"
        asked = [installed(python, requirement, index) for requirement in needed]
        done = run(python, "-m", "pip", "install", "-q", "--no-deps", ROOT)
        if done.returncode:
            raise SystemExit(done.stderr)
        outcomes = {}
        for command in COMMANDS:
            done = run(python, "-m", "inverse", *command, cwd=folder)
            outcomes[" ".join(command)] = done.returncode
            if done.returncode:
                print(done.stderr.strip()[-2000:], file=sys.stderr)
        freeze = run(python, "-m", "pip", "freeze").stdout.split()
        version = run(python, "--version").stdout.strip()
    return {"python": version, "asked": asked, "commands": outcomes, "installed": freeze}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters")
    parser.add_argument("--index", nargs="*", default=[], help="further options of pip install")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    records = [check(python, arguments.index) for python in arguments.python]
    print(json.dumps(records, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(records, indent=1) + "\n")
    sys.exit(any(code for record in records for code in record["commands"].values()))


if __name__ == "__main__":
    main()
