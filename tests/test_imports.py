"""Who may import whom, read from the source; and what the command must not wait for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE, METHODS, PROBLEMS = (sorted((ROOT / folder).rglob("*.py")) for folder in ("inverse", "plugins", "problems"))
HEAVY = {"deepinv", "kornia", "kornia_rs", "torchvision"}
LAYERS = ("errors", "seeding", "prior", "posterior", "method", "engine", "cli")
"""Each may import those before it, never those after; modules between them are not listed."""


def imports(path: Path) -> set[str]:
    """Every module a file imports, at any depth of its code: "inverse.linalg" for `from inverse.linalg import CG`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module(path: Path) -> str:
    """The name that a file of the core is imported by."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def eager(path: Path) -> set[str]:
    """Modules imported when the file is: outside of functions and of `if TYPE_CHECKING`."""
    found, waiting = set(), list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: module(path).partition(".")[2])


@each(CORE)
def test_the_core_knows_no_method_and_no_problem(path):
    assert not roots(path) & {"inverse_plugins", "inverse_problems", "plugins", "problems"}


@each(METHODS)
def test_a_method_imports_inverse_torch_and_the_standard_library_only(path):
    assert roots(path) - sys.stdlib_module_names <= {"inverse", "torch"}


@each(METHODS + PROBLEMS)
def test_a_plug_in_imports_no_private_module_of_the_core(path):
    assert [name for name in imports(path) if name.startswith(("inverse._", "deepinv._", "torch._"))] == []


@each(PROBLEMS)
def test_a_problem_imports_no_method_and_no_other_problem(path):
    """Problems may share a module of their package that is none of them: its name starts with an underscore."""
    others = {name for name in imports(path) if name.startswith("inverse_problems") and not name.startswith("inverse_problems._")}
    assert not others
    assert not roots(path) & {"inverse_plugins", "plugins", "problems"}


@each(CORE + METHODS + PROBLEMS)
def test_deepinv_enters_through_one_door(path):
    assert "deepinv" not in roots(path)


@each(CORE + METHODS)
def test_heavy_packages_are_imported_where_they_are_used(path):
    assert not {name.split(".")[0] for name in eager(path)} & HEAVY


ABOVE_SOLVES = ("inverse.training", "inverse.checks", "inverse.arena")
COMMANDS = {"inverse", "inverse.cli", "inverse.command.prior"}


@each([path for path in CORE if module(path) not in COMMANDS and not module(path).startswith(ABOVE_SOLVES)] + METHODS + PROBLEMS)
def test_a_solve_needs_no_training_no_check_and_no_benchmark(path):
    assert [name for name in imports(path) if name.startswith(ABOVE_SOLVES)] == []


def test_layers_import_downwards_only():
    files = {layer: ROOT / "inverse" / f"{layer}.py" for layer in LAYERS}
    upwards = [(layer, above) for i, layer in enumerate(LAYERS) for above in LAYERS[i + 1 :] if f"inverse.{above}" in eager(files[layer])]
    assert upwards == []


def test_the_core_imports_in_no_circle():
    """Eager imports among the core's modules have an order."""
    needs = {module(path): eager(path) for path in CORE if module(path) != "inverse"}
    placed = set()
    while ready := {name for name, needed in needs.items() if name not in placed and needed & needs.keys() <= placed}:
        placed |= ready
    assert needs.keys() - placed == set()


# --- what is loaded ---------------------------------------------------------------------------------------------------


def loaded_by(code: str) -> set[str]:
    """Top-level packages in memory after this code ran in a fresh interpreter."""
    shown = f"{code}\nimport sys; print('\\n'.join(sorted(name.split('.')[0] for name in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


def test_importing_inverse_loads_no_torch():
    assert "torch" not in loaded_by("import inverse")


def test_the_command_line_loads_no_torch():
    assert not loaded_by("import inverse.cli") & {"torch", "numpy", *HEAVY}


def test_help_loads_no_torch():
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "inverse", "--help"], capture_output=True, text=True, check=True, timeout=120)
    assert "inverse solve" in done.stdout
    assert not {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()} & {"torch", *HEAVY}


def test_the_registry_loads_no_heavy_package():
    tables = [f"assert registry().table('inverse_{kind}')" for kind in ("methods", "problems", "samplers")]
    assert not loaded_by("\n".join(["from inverse.plugins import registry", *tables])) & HEAVY


def test_every_public_name_can_be_imported():
    import inverse

    assert [name for name in inverse.__all__ if not hasattr(inverse, name)] == []


def test_public_names_are_declared_for_type_checkers_too():
    """The TYPE_CHECKING block of the package names exactly what is served on first use."""
    import inverse

    tree = ast.parse((ROOT / "inverse" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert declared == {name: f"inverse.{home}" for name, home in inverse._HOME.items()}
