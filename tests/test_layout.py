"""The layout is the architecture: imports run down the floors of this house, never up and never in a circle.

Names of tests are short too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dynamics", "planners", "worldmodels")

FLOORS = (
    "worldmodels.errors",
    "worldmodels.common",
    "worldmodels.nets",
    "worldmodels.envs",
    "dynamics",
    "worldmodels.testing",
    "worldmodels.heads",
    "worldmodels.objectives",
    "worldmodels.model",
    "planners.streams",
    "planners.base",
    "planners.learning",
    "planners.search",
    "planners",
    "planners.diffusion",
    "worldmodels.agent",
    "worldmodels.data",
    "worldmodels.config",
    "worldmodels.factory",
    "worldmodels.runs",
    "worldmodels",
    "worldmodels.visualization",
    "worldmodels.evaluation",
    "worldmodels.training",
    "worldmodels.recall",
    "worldmodels.benchmarks",
    "worldmodels.commands",
    "scripts",
)
"""Rooms from the ground up: a file belongs to the longest of these names that its own begins with."""


def room_of(module: str) -> str:
    """The room that a module lives in."""
    parents = [".".join(module.split(".")[:n]) for n in range(len(module.split(".")), 0, -1)]
    return next(name for name in parents if name in FLOORS)


def imports_of(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports anywhere, for types too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def climbs(root: Path) -> list[str]:
    """Imports that lead up, each as a sentence that names both files."""
    files = [path for package in (*PACKAGES, "scripts") for path in sorted((root / package).rglob("*.py"))]
    found = []
    for path in files:
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        here = FLOORS.index(room_of(module))
        for name in imports_of(path):
            target = name if (root / Path(*name.split("."))).with_suffix(".py").exists() else name.rpartition(".")[0]
            if (root / Path(*name.split("."))).is_dir():
                target = name
            if FLOORS.index(room_of(target)) > here:
                found.append(f"{path.relative_to(root)} imports {target}, which is {room_of(target)}'s, a floor above")
    return found


def test_no_import_climbs():
    assert climbs(ROOT) == []


def imported(root: Path) -> dict[str, set[str]]:
    """The modules of ours that each module imports; of packages, what stands in their ``__init__``."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    modules = {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    return {
        module: {name if name in modules else name.rpartition(".")[0] for name in imports_of(path)} & modules.keys()
        for module, path in modules.items()
    }


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one again at the end; an empty list where none do."""
    done: set[str] = set()

    def follow(path: list[str]) -> list[str]:
        for name in sorted(graph[path[-1]] - done):
            if name in path:
                return [*path[path.index(name) :], name]
            if found := follow([*path, name]):
                return found
        done.add(path[-1])
        return []

    return next(filter(None, (follow([module]) for module in sorted(graph))), [])


def test_no_files_import_each_other_in_a_circle():
    """Within a room too, where no floor keeps them apart."""
    graph = imported(ROOT)
    assert "worldmodels.config.nodes" in graph["worldmodels.config.compose"]
    assert circle(graph) == []


def test_a_circle_is_found_and_named(tmp_path):
    files = {"a": "from dynamics.b import B", "b": "from dynamics import c", "c": "import dynamics.a", "d": "import os"}
    (tmp_path / "dynamics").mkdir()
    for name, text in files.items():
        (tmp_path / "dynamics" / f"{name}.py").write_text(f"def later():\n    {text}\n")
    assert circle(imported(tmp_path)) == ["dynamics.a", "dynamics.b", "dynamics.c", "dynamics.a"]
    (tmp_path / "dynamics" / "c.py").write_text("import dynamics.d")
    assert circle(imported(tmp_path)) == []


LONGEST_NAME = 60
"""Letters in the name of a test; what is left to say stands in its docstring."""


def test_names_of_tests_are_short():
    folders = (ROOT / "tests", ROOT / "worldmodels" / "testing")
    trees = {path: ast.parse(path.read_text()) for folder in folders for path in folder.rglob("*.py")}
    functions = [(path, node) for path, tree in trees.items() for node in ast.walk(tree)]
    names = {(path.name, node.name) for path, node in functions if isinstance(node, ast.FunctionDef)}
    tests = [(file, name) for file, name in names if name.startswith("test_")]
    assert len(tests) > 500
    assert [test for test in tests if len(test[1]) > LONGEST_NAME] == []


def test_files_of_tests_have_names_of_their_own():
    """pytest imports them by name alone: of two that share one, the second is an error and its tests do not run."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) > 100
    assert sorted({name for name in names if names.count(name) > 1}) == []
