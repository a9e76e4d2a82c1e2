"""What the package may not even contain, proved on the syntax trees.

``tests/reliability/sealed.py`` proves the same on what happens when files are read.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_layout import FILES, PACKAGE, imports, name, own_parts, tree

UNPICKLER = "handoff/unpickle.py"
# Modules that run what is in a file, or unpack whole folders.
NOBODY = {"pickle", "_pickle", "shelve", "marshal", "dill", "joblib", "cloudpickle", "yaml", "xml",
          "code", "runpy", "imp", "tarfile", "pty", "ftplib", "smtplib", "telnetlib",
          "requests", "httpx", "aiohttp"}  # fmt: skip
# Modules that reach out of the process, and the files that may use them. What each does there:
HOMES = {
    # ffmpeg, pycolmap, the converter, the driver's version, a scene's own process: all by lists
    "subprocess": ("video.py", "capture/sources/sfm.py", UNPICKLER.replace("unpickle", "foreign"),
                   "commands/doctor.py", "lifting/process.py"),
    # is the hub there; the viewer's port; this machine's name in a temporary file's name;
    # is the first process of a training there
    "socket": ("backbones/hub.py", "viewer/guard.py", "storage/faults.py",
               "finetuning/joining.py"),
    # weights that a command needs; the quoting of a database's path
    "urllib": ("backbones/fetching.py", "backbones/hub.py", "capture/sources/sfm.py"),
    "http": ("backbones/fetching.py", "viewer/guard.py"),
    # downloads; and whether a file is in its cache
    "huggingface_hub": ("backbones/hub.py", "backbones/facts.py"),
    # renameat2; the death signal of a worker; freed memory; leaving the network
    "ctypes": ("storage/folders.py", "lifting/worker.py", "allocator.py", UNPICKLER),
    # pictures for a training of ours: what passes the pipes is ours
    "multiprocessing": ("rooms/samples.py",),
    # COLMAP's own database, to count its rows
    "sqlite3": ("capture/sources/sfm.py",),
    "webbrowser": ("viewer/serve.py",),
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__", "input", "breakpoint", "os.system", "os.popen",
         "os.startfile", "tempfile.mktemp", "os.tempnam", "torch.save", "torch.jit.load",
         "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.package.PackageImporter",
         "torch.ops.load_library", "torch.classes.load_library", "yaml.load", "np.fromregex",
         "shutil.unpack_archive", "urllib.request.urlopen", "urlopen",
         "urllib.request.urlretrieve"}  # fmt: skip
STARTS = ("os.exec", "os.spawn", "os.posix_spawn", "torch.utils.cpp_extension.")
ENDS = (".extractall", ".extract", "_object_list", ".all_gather_object", ".gather_object")
# Names of modules that are made at run time: found on disk in this package, or in a closed table.
IMPORTERS = ("registry.py", "__init__.py", "handoff/onnx.py")


def faults(path: str, module: ast.Module) -> Iterator[str]:
    """What a file may not do."""
    used = {item.split(".")[0] for item in imports(module)}
    yield from (f"imports {item}" for item in used & NOBODY)
    yield from (f"imports {item}" for item in used & HOMES.keys() if path not in HOMES[item])
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {what}" for what in _call(path, node))
        elif isinstance(node, ast.Assert) and not _narrows(node.test):
            yield f"line {node.lineno}: an assert that python -O removes is no check"


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` of a chain of names; what is no chain keeps its end."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _call(path: str, node: ast.Call) -> Iterator[str]:
    called = _dotted(node.func)
    words = {word.arg: word.value for word in node.keywords}
    if called in CALLS or called.startswith(STARTS) or called.endswith(ENDS):
        yield called
    if called in ("torch.load", "np.load", "numpy.load"):
        flag, safe = ("weights_only", True) if called == "torch.load" else ("allow_pickle", False)
        at_home = path == UNPICKLER if called == "torch.load" else True
        if not at_home or not _is(words.get(flag), safe):
            yield f"{called} that may unpickle"
    if called.endswith("import_module") and path not in IMPORTERS:
        given = node.args[0]
        if not (isinstance(given, ast.Constant) and isinstance(given.value, str)):
            yield "imports by a name that is made at run time"
    if words.keys() & {"shell", "trust_remote_code", "preexec_fn"} or (
        _is(words.get("allow_pickle"), True) or _is(words.get("weights_only"), False)
    ):
        yield f"{called}: {', '.join(map(str, words))}"
    first = node.args[0] if node.args else None
    if called.startswith("subprocess.") and isinstance(
        first, (ast.Constant, ast.JoinedStr, ast.BinOp)
    ):
        yield "a command line as one text"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _narrows(test: ast.expr) -> bool:
    """Whether an assert only tells the type checker what holds anyway."""
    if isinstance(test, ast.BoolOp):
        return all(map(_narrows, test.values))
    if isinstance(test, ast.Call):
        return ast.unparse(test.func) == "isinstance"
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_way_to_run_or_reach_anything(path: Path) -> None:
    assert list(faults(name(path), tree(path))) == []


def test_the_homes_are_lived_in() -> None:
    for module, homes in HOMES.items():
        for home in homes:
            used = {item.split(".")[0] for item in imports(tree(PACKAGE / home))}
            assert module in used, f"{home} no longer uses {module}: take it off the list"


def test_the_unpickler_is_a_script_on_its_own() -> None:
    # Foreign checkpoints are opened in a process that knows nothing of ours; nobody imports it.
    assert not own_parts(tree(PACKAGE / UNPICKLER))
    module = "fit3d_cli." + UNPICKLER.removesuffix(".py").replace("/", ".")
    assert not [path for path in FILES if module in set(imports(tree(path)))]


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from pickle import loads", "import yaml", "import tarfile",
        "import subprocess", "import urllib.request", "from socket import socket",
        "eval(x)", "exec(x)", "compile(x, '', 'exec')", "__import__(x)", "os.system(x)",
        "os.popen(x)", "os.execvp(x, y)", "tempfile.mktemp()", "torch.load(x)",
        "torch.load(x, weights_only=True)", "np.load(x)", "np.load(x, allow_pickle=True)",
        "archive.extractall(x)", "importlib.import_module(x)", "f(shell=True)",
        "f(trust_remote_code=True)", "torch.distributed.broadcast_object_list(x)",
        "subprocess.run('a b')", "subprocess.run(f'a {b}')", "assert x > 0", "assert x",
    ],
)  # fmt: skip
def test_the_rules_can_fail(text: str) -> None:
    assert list(faults("archive/reading.py", ast.parse(text)))
    assert not list(faults("archive/reading.py", ast.parse("assert x is not None\nnp.pad(x)")))
