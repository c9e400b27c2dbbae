"""The structure of the package: rooms import downwards only, nothing runs in a circle, names are not overloaded."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

import pytest

import spikedistill

PACKAGE = Path(spikedistill.__file__).parent
ROOMS = (
    "errors",
    "machine",
    "core",
    "tasks",
    "models",
    "objectives",
    "data",
    "measure",
    "report",
    "training",
    "comparison",
    "export",
    "bench",
    "cli",
)
"""From the ground up: a room imports from itself and from those before it."""


def modules() -> dict[str, Path]:
    """Every module by its dotted name below the package."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def imports_of(source: str, known: set[str], at_import_time: bool = False) -> set[str]:
    """The modules of the package that a source imports; `if TYPE_CHECKING` counts as an import of a name only."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
        if at_import_time and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("spikedistill"):
            home = node.module.removeprefix("spikedistill").lstrip(".")
            for alias in node.names:
                inner = f"{home}.{alias.name}" if home else alias.name
                found.add(inner if inner in known else home)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("spikedistill.") for alias in node.names if "spikedistill." in alias.name}
    return {name for name in found if name}


def room(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in ROOMS])
def test_rooms_import_downwards_only(name):
    above = ROOMS[ROOMS.index(room(name)) + 1 :]
    wrong = [other for other in imports_of(MODULES[name].read_text(), set(MODULES)) if room(other) in above]
    assert not wrong


def test_every_module_stands_in_a_room():
    assert {room(name) for name in MODULES} - {"", "__main__"} == set(ROOMS)
    assert len(MODULES) > 60


def test_nothing_imports_in_a_circle():
    graph = {name: imports_of(path.read_text(), set(MODULES)) - {name} for name, path in MODULES.items()}
    # a package names its own modules for those who import it; inside, modules import each other by their own names
    graph = {name: {other for other in found if other in MODULES} for name, found in graph.items() if name}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_the_check_of_imports_sees_what_it_should():
    source = "from spikedistill.core import neuron\ndef f():\n    from spikedistill.cli import main\n"
    assert imports_of(source, {"core.neuron", "cli"}) == {"core.neuron", "cli"}
    assert imports_of(source, {"core.neuron"}, at_import_time=True) == {"core.neuron"}
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def test_only_commands_read_recipes_by_name():
    users = {name for name, path in MODULES.items() if "load_recipe(" in path.read_text()}
    assert {room(name) for name in users} <= {"training", "cli"}
    assert sorted(name for name in users if room(name) == "training") == ["training.recipe_files", "training.run"]


FORBIDDEN = (r"^\s*global \w", r"import \*", r"\beval\(", r"\bexec\(", r"\bhasattr\(", "TODO", "FIXME")


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_what_the_house_does_without(pattern):
    # an old torch does not say what the processor can do
    allowed = {"machine.device": r"\bhasattr\("}
    found = {name for name, path in MODULES.items() if uses(pattern, path.read_text())}
    assert {name for name in found if allowed.get(name) != pattern} == set()


def uses(pattern: str, source: str) -> bool:
    return any(re.search(pattern, line.replace(".eval(", "")) for line in source.splitlines())


def test_the_search_for_words_can_fail():
    assert uses(FORBIDDEN[0], "    global x")
    assert not uses(FORBIDDEN[0], "no global state")
    assert uses(FORBIDDEN[2], "eval('1')")
    assert not uses(FORBIDDEN[2], "model.eval()")


def test_files_are_short():
    long = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in long.items() if lines > 350} == {}
    assert long["core.dual"] <= 265  # the core idea is read in one sitting
