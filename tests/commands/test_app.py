"""The command line as a contract: exit codes, one-line errors, clean stdout."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from fit3d_cli import app
from fit3d_cli.errors import CaptureError, DeviceError

VERBS = [verb.__name__ for verb in app.VERBS]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[BaseException], int]:
    """Run ``fit3d lift`` with a stage that raises."""

    def run(error: BaseException, *options: str) -> int:
        def lift_captures(*args: object, **options: object) -> list[object]:
            raise error

        stage = types.ModuleType("fit3d_cli.lifting.lift")
        stage.lift_captures = lift_captures  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fit3d_cli.lifting.lift", stage)
        return app.run(["lift", str(tmp_path), *options])

    return run


def python(*arguments: str, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=60, cwd=Path(app.__file__).parent.parent,
    )  # fmt: skip


@pytest.mark.parametrize(
    "argv", [["--help"], ["lift", "--help"], ["viz", ".", "--dry-run", "--set", "viz.clusters=3"]]
)
def test_no_torch_for_help_and_dry_run(argv: list[str]) -> None:
    code = (
        "import sys\nfrom fit3d_cli.app import run\ncode = run(sys.argv[1:])\n"
        "heavy = {'torch', 'timm', 'gsplat', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = python(*argv, code=code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "lift" in done.stdout or "viz.clusters" in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_the_common_options(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("--workspace", "--profile", "--set", "--device", "--seed", "--json",
                   "--dry-run", "--quiet", "--verbose", "--debug"):  # fmt: skip
        assert option in shown


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([]) == 0
    assert "doctor" in capsys.readouterr().out
    assert app.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fit3d ")


@pytest.mark.parametrize(
    ("argv", "where", "says"),
    [
        (["lft"], "fit3d", "did you mean 'lift'?"),
        (["lift"], "SCANS", "missing"),
        (["lift", "."], "--dim", "requires an argument"),
        (["lift", ".", "--dim", "x"], "--dim", "integer"),
        (["lift", ".", "--dim", "0"], "--dim", "a whole number > 0"),
        (["lift", ".", "--dimm", "3"], "--dimm", "did you mean --dim?"),
        (["lift", ".", "--device", "tpu"], "--device", "cuda"),
        (["lift", ".", "--seed", "-1"], "--seed", "0"),
        (["lift", ".", "--set", "lift.dimm=1"], "--set lift.dimm", "lift.features.dim"),
        (["lift", ".", "--profile", "quik"], "--profile quik", "did you mean quick"),
        (["lift", "no-such-folder"], "no-such-folder", "no such file or directory"),
        (["render", "no.f3d"], "no.f3d", "no such file or directory"),
        (["render", __file__, "--what", "rbg"], "--what", "a list of rgb"),
        (["finetune", "no.f3d"], "no.f3d", "no such file or directory"),
        (["finetune", "--workspace", "gone"], "gone/scenes", "run fit3d lift first"),
        (["finetune", __file__, "--lr", "-1"], "--lr", "a number > 0"),
        (["probe", "seg"], "DATASET", "missing"),
        (["probe", "seg", "camvid", "--data", "gone"], "gone", "no such file or directory"),
        (["probe", "seg", "camvid", "--models", "best"], "--models", "a list of base"),
        (["info"], "FILE", "missing"),
        (["info", "no.f3d"], "no.f3d", "no such file or directory"),
        (["info", __file__, "--set", "lift.dim=3"], "--set lift.features.dim", "not used"),
        (["export", "no.f3d"], "no.f3d", "no such file or directory"),
        (["export", __file__, "--to", "exe"], "--to", "ply"),
        (["export", __file__], Path(__file__).name, "name a .f3d archive"),
    ],
)
def test_bad_input_is_exit_2_and_one_line(
    argv: list[str],
    where: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "/" not in where:
        monkeypatch.chdir(Path(__file__).parent)  # paths are shown as seen from here
    if argv == ["lift", "."]:
        argv = [*argv, "--dim"]
    assert app.run(argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"fit3d: error: {where}: ")
    assert says in shown.err
    assert " - " in shown.err
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (CaptureError("empty", where="x", hint="add photos"), 2, "x: empty - add photos"),
        (DeviceError("no GPU", where="--device", hint="use cpu"), 3, "--device: no GPU - use cpu"),
        (MemoryError(), 3, "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), 3, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/d/a.f3d"), 3, "/d/a.f3d: no space"),
        (OSError(errno.EROFS, "Read-only file system", "/d"), 3, "writable file system"),
        (PermissionError(errno.EACCES, "Permission denied", "/d"), 3, "change the permissions"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/d/a"), 2, "/d/a: no such file"),
        (ValueError("two\nlines"), 4, "run again with --debug"),
        (KeyboardInterrupt(), 130, "are kept; to go on: fit3d lift /"),
        (app.Terminated(), 143, "are kept; to go on: fit3d lift /"),
    ],
)
def test_exit_codes(
    failing: Callable[..., int],
    error: BaseException,
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert failing(error) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("fit3d: ")
    assert says in shown.err
    assert shown.err.count("\n") == 1


def test_torch_out_of_memory_is_environment(
    failing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    assert failing(torch.OutOfMemoryError("CUDA out of memory")) == 3
    assert "out of memory" in capsys.readouterr().err


def test_closed_pipe_is_silent(
    failing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(BrokenPipeError()) == app.EXIT_PIPE
    assert capsys.readouterr() == ("", "")


def test_debug_adds_the_traceback(
    failing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(CaptureError("empty", where="x", hint="y"), "--debug") == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("fit3d: error: x: empty - y\n")


def test_json_error_is_one_object_and_the_line(
    failing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(CaptureError("empty", where="x", hint="y"), "--json") == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "error": {"where": "x", "what": "empty", "hint": "y", "exit_code": 2}
    }
    assert shown.err == "fit3d: error: x: empty - y\n"


@pytest.mark.parametrize("before", [True, False])
def test_common_options_before_or_after_the_verb(
    before: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--json", "--dry-run", "--seed", "7", "--workspace", "w", "--set", "probe.steps=5"]
    verb = ["probe", "seg", "camvid"]
    assert app.run([*common, *verb] if before else [*verb, *common]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["common"]["seed"] == 7
    assert shown["common"]["workspace"] == "w"
    assert shown["settings"]["probe.steps"] == {"value": 5, "from": "--set"}
    assert shown["inputs"] == {"task": "seg", "dataset": "camvid"}


def test_options_after_the_verb_win_and_sets_add_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--seed", "1", "--set", "viz.clusters=5", "viz", str(tmp_path), "--seed", "2"]
    assert app.run([*argv, "--set", "viz.tiles=0", "--json", "--dry-run"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["common"]["seed"] == 2
    assert shown["settings"]["viz.clusters"]["value"] == 5
    assert shown["settings"]["viz.tiles"]["value"] == 0


def test_dry_run_table_names_every_source_and_writes_nothing(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["viz", str(tmp_path), "--workspace", str(workspace), "--dry-run"]
    assert app.run([*argv, "--profile", "quick", "--set", "viz.tiles=0", "--clusters", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    source = {line.split()[0]: line for line in lines if line.startswith("viz.")}
    assert "profile quick" in source["viz.backbone.width"]
    assert "--set" in source["viz.tiles"]
    assert "--clusters" in source["viz.clusters"]
    assert "default" in source["viz.fps"]
    assert not workspace.exists()


def test_sigterm_becomes_143() -> None:
    code = (
        "import os, signal, sys, time, types\n"
        "def lift_captures(*a, **k): os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)\n"
        "stage = types.ModuleType('fit3d_cli.lifting.lift'); stage.lift_captures = lift_captures\n"
        "sys.modules['fit3d_cli.lifting.lift'] = stage\n"
        "from fit3d_cli.app import main\nmain()"
    )  # fmt: skip
    done = python("lift", ".", "--dim", "8", code=code)
    assert done.returncode == 128 + signal.SIGTERM
    last = done.stderr.splitlines()[-1]
    assert last.startswith("fit3d: interrupted - finished scenes") and "checkpoint" in last
    assert last.endswith("; to go on: fit3d lift . --dim 8")


def test_reader_that_goes_away_is_silent() -> None:
    code = "import sys\nfrom fit3d_cli.app import main\nmain()"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, "viz", ".", "--dry-run"],
            stdout=writer, stderr=subprocess.PIPE, timeout=60,
            cwd=Path(app.__file__).parent.parent,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (app.EXIT_PIPE, b"")


def test_a_stop_that_a_finaliser_swallowed_is_asked_for_again() -> None:
    program = (
        "import os, signal, sys, time, types\n"
        "from fit3d_cli import app\n"
        "app._ASK_AGAIN = 0.2\n"
        "class Deaf:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(0.05)\n"
        "def build(*_):\n"
        "    Deaf()\n"
        "    time.sleep(20)\n"
        "stage = types.SimpleNamespace(make_context=build)\n"
        "app.typer.main.get_command = lambda _: stage\n"
        "app.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=15, check=False
    )
    assert done.returncode == 143
    assert "fit3d: interrupted - nothing half-written is left" in done.stderr


def test_how_to_resume_quotes_and_knows_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    told = app.how_to_resume(["--seed", "3", "finetune", "my rooms/a.f3d"])
    assert told == (
        "targets and the last checkpoint are kept; to go on: fit3d --seed 3 finetune "
        "'my rooms/a.f3d'"
    )
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert app.how_to_resume(["finetune"]).endswith("run the same torchrun command again to go on")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_and_answers_come_without_torch(shell: str) -> None:
    code = (
        "import sys\nfrom fit3d_cli.app import main\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'timm', 'gsplat', 'numpy'} & set(sys.modules)\n"
        "    print(heavy, file=sys.stderr)"
    )
    script = python("--show-completion", shell, code=code)
    assert script.returncode == 0 and "_FIT3D_COMPLETE=" in script.stdout
    environment = {**os.environ, "_FIT3D_COMPLETE": f"complete_{shell}",
                   "COMP_WORDS": "fit3d fine", "COMP_CWORD": "1",
                   "_TYPER_COMPLETE_ARGS": "fit3d fine",
                   "_TYPER_COMPLETE_FISH_ACTION": "get-args"}  # fmt: skip
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
        env=environment, cwd=Path(app.__file__).parent.parent,
    )  # fmt: skip
    assert "finetune" in answer.stdout
    for done in (script, answer):
        assert done.stderr.splitlines()[-1] == "set()"
