"""Who imports whom, read from the sources; lazy imports, imports by string: every import counts.

    python tests/import_graph.py            # rooms of the core by floor, and what each imports
    python tests/import_graph.py --plug-ins # with those of plugins/ and problems/
    python tests/import_graph.py --modules  # modules in place of rooms
    python tests/import_graph.py --write    # put the rooms of the core into docs/design.md

A *room* is a folder, a module of `inverse/`, or a plug-in. The *floor* of a room is one above the
highest room that it imports.
"""

from __future__ import annotations

import argparse
import ast
import functools
import sys
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"inverse": "inverse", "plugins": "inverse_plugins", "problems": "inverse_problems"}
Graph = dict[str, set[str]]


def module_name(path: Path) -> str:
    """The dotted name that a file of the project is imported by."""
    folder, *inner = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGES[folder], *inner]).removesuffix(".__init__")


@functools.cache
def sources() -> dict[str, Path]:
    """Every module of the project, by name."""
    return {
        module_name(path): path
        for folder in PACKAGES
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def imported_names(tree: ast.AST, modules: Collection[str] = ()) -> set[str]:
    """Names that code imports: eagerly, lazily, for type checkers, or as a string.

    `from package import module` imports the module, not what the package itself defines.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if names <= set(modules) else names | {str(node.module)}
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith(tuple(f"{p}." for p in PACKAGES.values()))
        ):
            found.add(node.value)
    return found


@functools.cache
def module_graph() -> Graph:
    """Module -> modules of the project that it imports.

    The package `inverse` serves its public names lazily: a module that uses one of them depends on
    the module that defines it. The registry knows `builtin` through an entry point, like a plug-in.
    """
    files = sources()
    public = {name: f"inverse.{home}" for name, home in _public_homes(files["inverse"]).items()}
    graph: Graph = {}
    for name, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = imported_names(tree, files)
        found |= (
            {public[n] for n in _attributes_of_inverse(tree) & public.keys()}
            if "inverse" in found
            else set()
        )
        found |= {
            public[i.removeprefix("inverse.")]
            for i in found
            if i.startswith("inverse.") and i.removeprefix("inverse.") in public and i not in files
        }
        graph[name] = (found & files.keys()) - {name, "inverse"}
    graph["inverse"] = set()
    return graph


def _public_homes(path: Path) -> dict[str, str]:
    """`inverse.MODULES`, read from the source."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "MODULES":
            return ast.literal_eval(node.value)
    raise AssertionError("inverse/__init__.py has no table MODULES")


def _attributes_of_inverse(tree: ast.AST) -> set[str]:
    return {
        n.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute)
        and isinstance(n.value, ast.Name)
        and n.value.id == "inverse"
    }


def room_of(module: str) -> str:
    """`inverse.priors.networks.unet` lies in the room `inverse.priors`."""
    package, _, rest = module.partition(".")
    return f"{package}.{rest.split('.')[0]}" if rest else package


def rooms(graph: Graph) -> Graph:
    """The graph of rooms behind a graph of modules."""
    result: Graph = {}
    for module, needed in graph.items():
        result.setdefault(room_of(module), set()).update(room_of(n) for n in needed)
    return {room: needed - {room} for room, needed in result.items()}


def floors(graph: Graph) -> dict[str, int]:
    """Floor of each node, from 1; nodes on or above a cycle have none and are missing."""
    placed: dict[str, int] = {}
    while ready := [
        n for n, needed in graph.items() if n not in placed and needed <= placed.keys()
    ]:
        placed |= {n: 1 + max((placed[m] for m in graph[n]), default=0) for n in ready}
    return placed


def picture(graph: Graph, prefix: str = "inverse.") -> str:
    """A line for each node whose name starts with `prefix`: floor, name, what it imports."""
    floor = floors(graph)
    nodes = sorted((n for n in graph if n.startswith(prefix)), key=lambda n: (-floor.get(n, 99), n))
    lines = []
    for node in nodes:
        needed = ", ".join(sorted(m.removeprefix("inverse.") for m in graph[node]))
        lines.append(f"{floor.get(node, 'cycle'):>5}  {node.removeprefix('inverse.')}: {needed}")
    return "\n".join(line.rstrip(" :") for line in lines) + "\n"


def with_picture(page: str) -> str:
    """The design page with today's picture between its markers."""
    before, _, rest = page.partition("<!-- rooms -->\n")
    _, end, after = rest.partition("<!-- end -->")
    return f"{before}<!-- rooms -->\n```\n{picture(rooms(module_graph()))}```\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modules", action="store_true", help="modules in place of rooms")
    parser.add_argument("--plug-ins", action="store_true", help="with plugins/ and problems/")
    parser.add_argument("--write", action="store_true", help="write into docs/design.md")
    given = parser.parse_args()
    graph = module_graph() if given.modules else rooms(module_graph())
    sys.stdout.write(picture(graph, "inverse" if given.plug_ins else "inverse."))
    if given.write:
        page = ROOT / "docs" / "design.md"
        page.write_text(with_picture(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
