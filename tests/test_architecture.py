"""The shape of the house: which file may import which, what lies where, and how long a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("actors", "pipelines", "launch")
LONGEST = 320
"""Lines of a file outside tests."""


def name_of(file: Path) -> str:
    """A file's module name; a package's is its folder's."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for top in TOPS for file in sorted((ROOT / top).rglob("*.py"))}
COMMANDS = {name for name, file in MODULES.items() if file.parent == ROOT / "pipelines" and name != "pipelines"}


def imported(tree: ast.AST, module: str, modules: set[str]) -> Iterator[str]:
    """Modules among ``modules`` that a module imports, also inside functions; not those that are only for types."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test).endswith("TYPE_CHECKING"):
        return
    names: list[str] = []
    if isinstance(tree, ast.Import):
        names = [alias.name for alias in tree.names]
    elif isinstance(tree, ast.ImportFrom) and tree.module:
        inner = [f"{tree.module}.{alias.name}" for alias in tree.names]
        names = [name if name in modules else tree.module for name in inner]
    yield from (name for name in names if name in modules and name != module)
    for child in ast.iter_child_nodes(tree):
        yield from imported(child, module, modules)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Paths that lead from a module back to itself, one for each that is found first."""
    found: list[list[str]] = []
    done: set[str] = set()

    def follow(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for other in sorted(imports[module]):
                follow(other, [*path, module])
            done.add(module)

    for module in sorted(imports):
        follow(module, [])
    return found


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    return {
        name: set(imported(ast.parse(file.read_text(encoding="utf-8")), name, set(MODULES)))
        for name, file in MODULES.items()
    }


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c", "b"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_inside_functions_count_and_those_for_types_do_not() -> None:
    code = "import a\nif TYPE_CHECKING:\n    import b\ndef f():\n    from c import d, e\n"
    assert list(imported(ast.parse(code), "x", {"a", "b", "c", "c.d"})) == ["a", "c.d", "c"]


@pytest.mark.slow
def test_no_modules_import_each_other(imports: dict[str, set[str]]) -> None:
    assert circles(imports) == []


def test_arrows_point_down(imports: dict[str, set[str]]) -> None:
    """``launch -> pipelines -> actors``."""
    below = {"launch": TOPS, "pipelines": ("actors", "pipelines"), "actors": ("actors",)}
    upwards = {
        (name, other)
        for name, others in imports.items()
        for other in others
        if other.split(".")[0] not in below[name.split(".")[0]]
    }
    assert upwards == set()


def test_machinery_imports_no_command(imports: dict[str, set[str]]) -> None:
    """``pipelines/speed/`` is a command itself (`make bench`): it times the RL loop, and nobody imports it."""
    bench = {name for name in MODULES if name.split(".")[:2] == ["pipelines", "speed"]}
    machinery = {name for name in MODULES if name.startswith("pipelines.")} - COMMANDS - bench
    assert {(name, other) for name in machinery for other in imports[name] & COMMANDS} == set()
    assert {(name, other) for name in set(MODULES) - bench for other in imports[name] & bench} == set()


def test_a_file_at_the_top_of_pipelines_is_a_command() -> None:
    for name in COMMANDS:
        assert 'if __name__ == "__main__":' in MODULES[name].read_text(encoding="utf-8"), name
    folders = {entry.name for entry in (ROOT / "pipelines").iterdir() if entry.is_dir()}
    assert folders & {name.split(".")[1] for name in COMMANDS} == set()


def test_no_file_is_long() -> None:
    lines = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}
