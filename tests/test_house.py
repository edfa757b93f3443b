"""The order of the house: imports point down, flax in models, no jax in workers."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "adn_jax"
ORDER = (
    *(
        "cli",
        "comparison",
        "planning",
        "benchmarks",
        "evaluation",
        "inference",
        "training",
    ),
    *("prepare", "losses", "pipeline", "datasets", "models", "data"),
    *("distributed", "synthesis", "phantom", "scans", "runtime"),
    *("report", "metrics", "geometry", "config", "io"),
)
"""Top first: a folder may import from those behind it only."""

FOUNDATION = {"types", "errors"}
NUMPY_ONLY = (
    *("prepare", "datasets", "scans", "phantom", "metrics", "io", "report"),
    *("runtime/jobs.py", "data/cases.py", "data/manifest.py"),
)
"""What worker processes import: starting jax there costs seconds and memory."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Every module named in an import anywhere in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def folder(module: str) -> str:
    """`geometry` of `adn_jax.geometry.rigid`."""
    return module.split(".")[1] if "." in module else ""


def test_all_modules_are_seen():
    assert len(MODULES) > 40
    parts = [path.relative_to(PACKAGE).parts for path in MODULES]
    assert {names[0] for names in parts if len(names) > 1} == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = path.relative_to(PACKAGE).parts[0]
    inside = {folder(m) for m in imported_modules(path) if m.startswith("adn_jax.")}
    if own in ORDER:
        allowed = {*ORDER[ORDER.index(own) :], *FOUNDATION}
    elif own == "__main__.py":
        allowed = {"cli"}
    else:
        allowed = FOUNDATION
    assert inside <= allowed, f"{own} imports {inside - allowed}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_flax_stays_in_models(path):
    uses_flax = any(m.split(".")[0] == "flax" for m in imported_modules(path))
    assert not uses_flax or path.parent.name == "models"


def closure(path: Path) -> set[str]:
    """Modules that importing the file brings in, over the project's own files."""
    seen, waiting = set(), [path]
    while waiting:
        for module in imported_modules(waiting.pop()):
            own = PACKAGE.parent / (module.replace(".", "/") + ".py")
            if module not in seen and own.is_file():
                waiting.append(own)
            seen.add(module)
    return {module.split(".")[0] for module in seen}


@pytest.mark.parametrize("place", NUMPY_ONLY)
def test_workers_never_import_jax(place):
    root = PACKAGE / place
    for path in [root] if root.is_file() else root.rglob("*.py"):
        assert not closure(path) & {"jax", "flax", "optax", "orbax"}, path


def defined_names(path: Path) -> set[str]:
    """Functions, classes, constants and type aliases of a module."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            inside = [part for target in targets for part in ast.walk(target)]
            names |= {
                part.id
                for part in inside
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            }
    return names


def test_a_name_has_one_home():
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        for name in defined_names(path) - {"__all__", "main"}:
            homes.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    assert len(homes) > 2000
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}
