"""The rules of the source tree that no linter knows: which module may import which, and file names."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import wsbridge

PACKAGE = Path(wsbridge.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

NO_NAMES = {"util", "utils", "helper", "helpers", "common", "manager", "misc"}
NOT_IN_PROTOCOL = {
    "asyncio",
    "datetime",
    "io",
    "logging",
    "pathlib",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "structlog",
    "subprocess",
    "threading",
    "time",
    "trio",
}


def shown(path: Path) -> str:
    """Name a file in messages."""
    return str(path.relative_to(PACKAGE.parent))


@functools.cache
def tree(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse(path.read_text())


def layers() -> dict[str, int]:
    """Read the table of layers out of the package's docstring: names, each with the number of its line."""
    assert wsbridge.__doc__ is not None
    table = re.findall(r"^    (`.*)$", wsbridge.__doc__, re.MULTILINE)
    assert len(table) >= 8, "the docstring of the package has lost its table of layers"
    return {name: at for at, line in enumerate(table) for name in re.findall(r"`(\w+)`", line)}


def part(module: str) -> str:
    """Give the part of the package that a module belongs to: `wsbridge.net.transport` to `net`."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """Give all modules that a file imports, those for types alone among them."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{shown(path)}: a relative import"
            assert node.module is not None
            if node.module == "wsbridge":
                found |= {f"wsbridge.{alias.name}" for alias in node.names if not alias.name.startswith("__")}
            else:
                found.add(node.module)
    return found


def part_of(path: Path) -> str:
    """Give the part of the package that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def test_the_table_of_layers_is_whole():
    """The table of the docstring has every part of the package, and nothing else."""
    parts = {part_of(path) for path in SOURCES} - {"__init__", "__main__"}
    assert set(layers()) == parts


def test_the_order_of_reading_names_files():
    """Each name in the docstring's list is a file or a directory of the package; a bare one may be inside the first."""
    steps = re.findall(r"^\d\. (.*)$", wsbridge.__doc__ or "", re.MULTILINE)
    assert len(steps) >= 7
    for step in steps:
        names = re.findall(r"`([\w.]+)`", step)
        within = [PACKAGE, PACKAGE / names[0]]
        paths = {name: [folder / name.replace(".", "/") for folder in within] for name in names}
        assert not [
            n for n, found in paths.items() if not any(p.is_dir() or p.with_suffix(".py").exists() for p in found)
        ]


def test_imports_go_one_way():
    """A file imports only from its own line of the table or from lines above it, for types as well."""
    table = layers()
    wrong = [
        f"{shown(path)} imports {module}"
        for path in SOURCES
        if part_of(path) not in ("__init__", "__main__")
        for module in sorted(imports(path))
        if module.startswith("wsbridge.") and table[part(module)] > table[part_of(path)]
    ]
    assert not wrong


def test_the_protocol_does_no_io():
    """Nothing in `protocol` knows of sockets, tasks, clocks, files or the log."""
    wrong = [
        f"{shown(path)} imports {module}"
        for path in sorted((PACKAGE / "protocol").glob("*.py"))
        for module in imports(path)
        if module.split(".")[0] in NOT_IN_PROTOCOL or part(module) in ("log", "net", "config")
    ]
    assert not wrong


def test_nothing_on_the_serving_path_wants_asyncio():
    """The one event loop is trio's."""
    assert not [shown(path) for path in SOURCES if "asyncio" in {name.split(".")[0] for name in imports(path)}]


def test_names_say_what_is_inside():
    """No file or directory has a name that could hold anything."""
    wrong = [shown(path) for path in SOURCES if NO_NAMES & set(re.split(r"[_/.]", shown(path)))]
    assert not wrong


SAME_BY_CONTRACT: dict[str, str] = {}
"""Public names that several modules define, each with the reason why it is the same thing there."""


def public_names(path: Path) -> set[str]:
    """Give the public functions, classes, constants and types that a file defines at its top level."""
    names = set()
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def test_no_public_name_is_defined_twice():
    """A name means one thing in the whole package."""
    places: dict[str, list[str]] = {}
    for path in SOURCES:
        for name in public_names(path):
            places.setdefault(name, []).append(shown(path))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not {name: found for name, found in twice.items() if name not in SAME_BY_CONTRACT}
    assert twice.keys() >= SAME_BY_CONTRACT.keys(), "listed, but defined only once"


def modules() -> dict[str, Path]:
    """Give the files of the package by the names of their modules."""
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCES
    }


def file_imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Give the modules of the package that a file imports, also inside functions and for types alone."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            found |= inner or {node.module}
    return found & known.keys()


def test_no_file_imports_itself_in_a_circle():
    """From no file do its imports, followed on, lead back to it; those for types count."""
    known = modules()
    left = {name: file_imports(path, known) - {name} for name, path in known.items()}
    while free := [name for name, wanted in left.items() if not wanted & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"in circles, or above one: {sorted(left)}"


def test_threads_are_had_in_one_way():
    """Nothing but `worker_thread` calls trio's, whose error where there is none could be any RuntimeError."""
    wrong = [
        f"{shown(path)}: line {node.lineno}"
        for path in SOURCES
        if part_of(path) != "worker_thread"
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Attribute) and ast.unparse(node).endswith("to_thread.run_sync"))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module in ("trio", "trio.to_thread")
            and "thread" in ast.unparse(node)
        )
    ]
    assert not wrong
