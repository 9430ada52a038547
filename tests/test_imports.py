"""Who may import whom, read from the source; and what the command must not wait for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import (
    ROOT,
    floors,
    imported_names,
    module_graph,
    module_name,
    room_of,
    rooms,
    sources,
    with_picture,
)

from inverse.registry.discovery import registry

CORE, METHODS, PROBLEMS = (
    sorted((ROOT / folder).rglob("*.py")) for folder in ("inverse", "plugins", "problems")
)
HEAVY = {"deepinv", "kornia", "kornia_rs", "torchvision"}
HIGHEST_FLOOR = 13


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of its code."""
    return imported_names(ast.parse(path.read_text()), sources())


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
            waiting += [
                child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)
            ]
    return found


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=module_name)


@each(CORE)
def test_the_core_knows_no_method_and_no_problem(path):
    assert not roots(path) & {"inverse_plugins", "inverse_problems", "plugins", "problems"}


def alone(path: Path) -> bool:
    """Whether a plug-in is one file, not a package."""
    return len(path.relative_to(ROOT).parts) == 2


@each([path for path in METHODS if alone(path)])
def test_a_method_imports_inverse_torch_and_the_standard_library_only(path):
    assert roots(path) - sys.stdlib_module_names <= {"inverse", "inverse_plugins", "torch"}


@each(METHODS + PROBLEMS)
def test_a_plug_in_imports_no_private_module_of_the_core(path):
    private = ("inverse._", "deepinv._", "torch._")
    assert [
        name for name in imports(path) - {"inverse.__version__"} if name.startswith(private)
    ] == []


@each(METHODS + PROBLEMS)
def test_a_plug_in_imports_no_other_plug_in(path):
    """But for a module of its folder that registers nothing: its name starts with an underscore."""
    name = module_name(path)
    others = {
        room_of(other) for other in module_graph()[name] if not other.startswith("inverse.")
    } - {room_of(name)}
    assert [other for other in others if not other.partition(".")[2].startswith("_")] == []


@each(CORE + METHODS + PROBLEMS)
def test_deepinv_enters_through_one_door(path):
    assert "deepinv" not in roots(path)


@each(CORE + METHODS)
def test_heavy_packages_are_imported_where_they_are_used(path):
    assert not {name.split(".")[0] for name in eager(path)} & HEAVY


ABOVE_SOLVES = ("inverse.training", "inverse.checks", "inverse.arena", "inverse.command")


def test_a_solve_needs_no_training_no_check_and_no_benchmark():
    """The engine, methods and problems reach none of these; commands of plug-ins do."""
    graph = module_graph()
    reached = set()
    waiting = [
        "inverse.engine",
        *(
            module_name(path)
            for path in METHODS + PROBLEMS
            if alone(path) or path.stem == "__init__"
        ),
    ]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting += graph[name] - reached
    assert [name for name in sorted(reached) if name.startswith(ABOVE_SOLVES)] == []


def test_modules_import_in_no_circle():
    """Lazy imports, imports for type checkers and imports by string counted."""
    graph = module_graph()
    assert sorted(graph.keys() - floors(graph).keys()) == []


def test_rooms_import_in_no_circle_and_on_few_floors():
    """A room is a folder, or a module that lies in none."""
    graph = rooms(module_graph())
    assert sorted(graph.keys() - floors(graph).keys()) == []
    assert max(floors(graph).values()) <= HIGHEST_FLOOR


WORDS = {"gaussian", "auto"}
"""Names that are also words: a method may need Gaussian noise, an option may be automatic."""


def strings(path: Path) -> set[str]:
    """Texts of a file's code, without its docstrings."""
    tree = ast.parse(path.read_text())
    documented = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    skipped = {id(node.value) for node in documented}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in skipped
    }


def test_the_core_names_no_registered_method_problem_or_prior():
    kinds = ("inverse_methods", "inverse_problems", "inverse_priors")
    names = {name for kind in kinds for name in registry().table(kind)} - WORDS
    found = {module_name(path): sorted(strings(path) & names) for path in CORE}
    assert {module: named for module, named in found.items() if named} == {}


def test_the_design_page_shows_todays_rooms():
    """`python tests/import_graph.py --write` redraws them; a new plug-in does not change them."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert with_picture(page) == page


# --- what is loaded ---------------------------------------------------------------------------


def loaded_by(code: str) -> set[str]:
    """Top-level packages in memory after this code ran in a fresh interpreter."""
    shown = (
        f"{code}\nimport sys; print('\\n'.join(sorted(name.split('.')[0] for name in sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", shown], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def test_importing_inverse_loads_no_torch():
    assert "torch" not in loaded_by("import inverse")


def test_the_command_line_loads_no_torch():
    assert not loaded_by("import inverse.command.app") & {"torch", "numpy", *HEAVY}


def test_help_loads_no_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "inverse", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "inverse solve" in done.stdout
    assert not {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()} & {
        "torch",
        *HEAVY,
    }


def test_the_registry_loads_no_heavy_package():
    tables = [
        f"assert registry().table('inverse_{kind}')" for kind in ("methods", "problems", "samplers")
    ]
    assert (
        not loaded_by("\n".join(["from inverse.registry.discovery import registry", *tables]))
        & HEAVY
    )


def test_every_public_name_can_be_imported():
    import inverse

    assert [name for name in inverse.__all__ if not hasattr(inverse, name)] == []


def test_public_names_are_declared_for_type_checkers_too():
    """The TYPE_CHECKING block of the package names exactly what is served on first use."""
    import inverse

    tree = ast.parse((ROOT / "inverse" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == {name: f"inverse.{home}" for name, home in inverse.MODULES.items()}


@each(CORE + METHODS + PROBLEMS)
def test_printed_json_is_strict(path):
    """json.dumps writes NaN, which is no JSON; `inverse.io.files.strict_json` writes null."""
    assert "print(json.dumps(" not in path.read_text()
