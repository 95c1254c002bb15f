"""The house: no circle of imports and no arrow upwards, read from the source of every module.

Every import counts: within functions, under ``if TYPE_CHECKING``, and those of faces, whose modules are
named in texts and loaded when they are used. Loading a module also runs the packages around it; that
alone is no import here.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

import rankbygene

SOURCE = Path(rankbygene.__file__).parent

# From the ground up. A room may use the floors below its own and itself, not its neighbours. The name of
# a package stands for all that is in it but what has a floor of its own.
FLOORS = [
    ["errors", "_docstrings", "_keys", "_parent", "_version"],
    ["_checks", "_names", "_reading"],
    ["_renamed"],
    ["_arguments", "_lazy"],
    ["_atomic"],
    ["nn", "metrics"],
    ["data"],
    ["train"],
    ["io", "pp"],
    ["datasets"],
    ["base"],
    ["methods"],
    ["model", "module", "train.__init__"],
    ["tl", "pl"],
    ["testing"],
    ["__init__"],
    ["cli"],
    ["__main__"],
]

# The same within packages that have rooms.
ROOMS = {
    "data": [
        ["counts"],
        ["slides"],
        ["expression"],
        ["_fingerprint"],
        ["_identity", "splits", "tiles"],
        ["batches"],
        ["bags"],
        ["_bag_identity"],
        ["__init__"],
    ],
    "base": [["_*"], ["spots", "slides"], ["__init__"]],
    "tl": [["cross_validation", "slides"], ["_evaluate"], ["hest"], ["__init__"]],
}

Imports = Mapping[str, Mapping[str, int]]


def read_imports(root: Path) -> dict[str, dict[str, int]]:
    """For every module of a package the modules of it that it imports, each with a line.

    Packages are called by their ``__init__``.
    """
    paths = {_name(path, root): path for path in root.rglob("*.py")}
    return {name: dict(_imported(path, name, paths)) for name, path in sorted(paths.items())}


def _name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root.parent).with_suffix("").parts)


def _imported(path: Path, name: str, known: Collection[str]) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        for ways in _targets(node, name):
            found = next((way for way in ways if way in known), None)
            if found is not None:
                yield found, node.lineno


def _targets(node: ast.AST, importer: str) -> Iterator[tuple[str, ...]]:
    """Give for everything that is imported, or named by a text, the modules that it may be."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, f"{alias.name}.__init__"
    elif isinstance(node, ast.ImportFrom):
        around = importer.split(".")[: -node.level] if node.level else []
        owner = ".".join([*around, *([node.module] if node.module else [])])
        for alias in node.names:
            name = f"{owner}.{alias.name}"
            yield name, f"{name}.__init__", owner, f"{owner}.__init__"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
        yield node.value, f"{node.value}.__init__"


def find_circle(imports: Imports) -> list[str]:
    """Give the modules along a circle, the first of them again at the end; nothing if there is none."""
    done: set[str] = set()
    for start in imports:
        way: list[str] = []
        branches = [iter([start])]
        while branches:
            for module in branches[-1]:
                if module in way:
                    return [*way[way.index(module) :], module]
                if module not in done:
                    way.append(module)
                    branches.append(iter(imports.get(module, ())))
                    break
            else:
                branches.pop()
                if way:
                    done.add(way.pop())
    return []


def collapse(imports: Imports, depth: int) -> dict[str, dict[str, int]]:
    """Give what rooms import from each other, by the first ``depth`` parts of their names."""

    def room(module: str) -> str:
        return ".".join(module.split(".")[:depth])

    rooms: dict[str, dict[str, int]] = {}
    for module, targets in imports.items():
        own = rooms.setdefault(room(module), {})
        own.update({room(t): line for t, line in targets.items() if room(t) != room(module)})
    return rooms


def arrows_upwards(imports: Imports, package: str, floors: list[list[str]]) -> list[str]:
    """Name the imports that do not lead to a lower floor or within a room, and rooms without a floor."""
    place = {room: floor for floor, rooms in enumerate(floors) for room in rooms}

    def room_of(module: str) -> str:
        inside = module.removeprefix(f"{package}.")
        first = inside.partition(".")[0]
        if inside in place or first in place:
            return inside if inside in place else first
        return "_*" if first.startswith("_") and "_*" in place else first

    wrong = []
    for module, targets in imports.items():
        if not module.startswith(f"{package}."):
            continue
        room = room_of(module)
        if room not in place:
            wrong.append(f"{module} has no floor")
            continue
        for target, line in targets.items():
            if not target.startswith(f"{package}."):
                continue
            other = room_of(target)
            if other != room and place.get(other, len(floors)) >= place[room]:
                wrong.append(f"{module}:{line} imports {target}")
    return wrong


@pytest.fixture(scope="module")
def imports() -> dict[str, dict[str, int]]:
    return read_imports(SOURCE)


def test_every_import_is_seen(tmp_path: Path) -> None:
    house = tmp_path / "house"
    sources = {
        "__init__": "from house._ground import version",
        "_ground": "version = 1",
        "attic/__init__": "WHERE = {'low': 'house.cellar._low'}",
        "attic/_box": "def f():\n    from ..cellar import _low\n    import house.attic",
        "cellar/__init__": "from house import _ground",
        "cellar/_low": "if TYPE_CHECKING:\n    from house.attic._box import f\nlog = 'house', 'a house.'",
    }
    for name, source in sources.items():
        path = house / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    found = read_imports(house)
    assert {name: set(targets) for name, targets in found.items()} == {
        "house.__init__": {"house._ground"},
        "house._ground": set(),
        "house.attic.__init__": {"house.cellar._low"},
        "house.attic._box": {"house.cellar._low", "house.attic.__init__"},
        "house.cellar.__init__": {"house._ground"},
        "house.cellar._low": {"house.attic._box"},
    }
    circle = find_circle(found)
    assert circle[0] == circle[-1]
    assert set(circle) <= {"house.attic._box", "house.attic.__init__", "house.cellar._low"}
    floors = [["_ground"], ["cellar"], ["attic"], ["__init__"]]
    assert arrows_upwards(found, "house", floors) == [
        "house.cellar._low:2 imports house.attic._box"
    ]
    assert "house._ground has no floor" in arrows_upwards(found, "house", floors[1:])


def test_no_circle_of_modules(imports: Imports) -> None:
    circle = find_circle(imports)
    where = [f"{a}:{imports[a][b]} imports {b}" for a, b in pairwise(circle)]
    assert not circle, "a circle of imports:\n" + "\n".join(where)


def test_no_circle_of_rooms(imports: Imports) -> None:
    """Rooms within packages follow one another too, also where no order is written down."""
    circle = find_circle(collapse(imports, 3))
    assert not circle, f"a circle of rooms: {' -> '.join(circle)}"


def test_packages_stand_on_those_below(imports: Imports) -> None:
    wrong = arrows_upwards(imports, "rankbygene", FLOORS)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_stand_on_those_below(imports: Imports, package: str) -> None:
    wrong = arrows_upwards(imports, f"rankbygene.{package}", ROOMS[package])
    assert not wrong, "\n".join(wrong)
