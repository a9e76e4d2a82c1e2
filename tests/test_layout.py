"""The house rules, proved on the syntax trees."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "fit3d_cli"

# From the bottom up; a part imports from lower layers and from itself.
LAYERS: tuple[set[str], ...] = (
    {"allocator", "errors", "shapes", "progress"},
    {"registry", "device", "explain", "pictures", "storage", "_kernels", "_cuda"},
    {
        "backoff",
        "geometry",
        "images",
        "preflight",
        "report",
        "settings",
        "tensorfile",
        "video",
        "workspace",
    },
    {"statistics"},
    {
        "capture",
        "splat",
        "backbones",
        "datasets",
        "rooms",
        "decoders",
        "viz",
        "export",
        "formats",
        "pages",
    },
    {"scene"},
    {"archive", "rendering", "handoff"},
    {"lifting", "finetuning", "probing", "comparing", "showing", "viewer", "api", "config"},
    {"commands"},
    {"app"},
    {"__main__"},
)
LAYER_OF = {part: layer for layer, parts in enumerate(LAYERS) for part in parts}
STAGES = LAYER_OF["lifting"]
# Third-party packages that may be imported below these paths only.
HOMES = {
    "typer": ("app.py", "commands/"),
    "rich": ("app.py", "commands/"),
    "timm": ("backbones/", "rooms/pretrain.py"),
    "gsplat": ("splat/",),
    "pydantic": ("settings/", "config.py"),
}
TORCH_FREE = ("app.py", "__init__.py", "__main__.py", "errors.py", "explain.py", "registry.py",
              "settings/", "config.py", "progress.py", "shapes.py", "report.py",
              "commands/")  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(root: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported below ``root``."""
    for node in ast.walk(root):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def runs_at_import(module: ast.Module) -> Iterator[ast.stmt]:
    """Statements outside functions and ``if TYPE_CHECKING``."""
    pending: list[ast.stmt] = list(module.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            pending.extend(getattr(node, field, []))


def own_parts(root: ast.AST) -> set[str]:
    """Parts of this package that are imported below ``root``."""
    dotted = (item.split(".") for item in imports(root))
    return {bits[1] for bits in dotted if bits[0] == "fit3d_cli" and len(bits) > 1}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_point_downward(path: Path) -> None:
    if path.name == "__init__.py" and path.parent == PACKAGE:
        assert not own_parts(tree(path)), "importing the package must import nothing else"
        return
    here = part(path)
    assert here in LAYER_OF, f"{here} has no layer: give it one in LAYERS"
    for other in own_parts(tree(path)) - {here, "__version__"}:
        assert LAYER_OF[other] < LAYER_OF[here], f"{name(path)} must not import {other}"
        if other == "settings":
            assert LAYER_OF[here] >= STAGES, f"{name(path)}: settings stop at the stages"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_third_parties_stay_home(path: Path) -> None:
    used = {item.split(".")[0] for item in imports(tree(path))}
    for package, homes in HOMES.items():
        if package in used:
            assert name(path).startswith(homes), f"{name(path)} must not import {package}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_command_line_is_torch_free_at_import(path: Path) -> None:
    if not name(path).startswith(TORCH_FREE):
        return
    for node in runs_at_import(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            roots = {item.split(".")[0] for item in imports(node)}
            assert not roots & {"torch", "timm", "gsplat", "numpy"}, f"{name(path)}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_stay_readable(path: Path) -> None:
    # 300 lines is the aim; the ceiling leaves room for the docstrings of one more function.
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_dumping_ground(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in FILES}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_rules_can_fail() -> None:
    bad = ast.parse("from fit3d_cli.app import main\nimport fit3d_cli.scene")
    assert own_parts(bad) >= {"app", "scene"}
    lazy = ast.parse("def f():\n    import torch\nif True:\n    import numpy")
    eager = [n for n in runs_at_import(lazy) if isinstance(n, ast.Import)]
    assert [item for n in eager for item in imports(n)] == ["numpy"]
